"""From the records of the topics to the one form in which everybody gets an event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from aura_stream.domain.events import DECODE, Event

_DECODE_EVENT: Final = msgspec.json.Decoder(Event).decode
_ENCODE: Final = msgspec.json.Encoder().encode
_AGGREGATES: Final = ("endpoint_id", "key_id", "user_id", "account_id", "break_id")


class Entry(NamedTuple):
    """One event on its way into the log."""

    id: str
    tenant: str
    customer: str
    type: str
    aggregate: str
    """What `seq` counts the events of; events of one aggregate are in the order of `seq`."""
    seq: int
    transaction_id: str
    at: datetime
    body: str
    """The event as everybody gets it."""
    journal_seq: int
    """The record of the journal that holds it; 0: none does."""


class _Public(msgspec.Struct, frozen=True):
    id: str
    type: str
    version: int
    tenant_id: str
    customer_id: str
    seq: int
    occurred_at: str
    data: Mapping[str, Any]
    request_id: str
    causation_id: str


def of_transaction(value: bytes) -> Entry:
    """A record of `aura.transaction-events.v1`. Raises msgspec.DecodeError, ValueError."""
    event = DECODE(value)
    about: dict[str, Any] = msgspec.to_builtins(event.data)
    said = {
        "transaction_id": event.transaction_id,
        "status": event.status,
        "state": event.state,
        "reason": event.reason,
    }
    public = _Public(
        event.id,
        event.type,
        event.version,
        event.tenant,
        event.customer,
        event.seq,
        event.occurred_at,
        {name: text for name, text in said.items() if text} | about,
        "",
        event.command_id,
    )
    aggregate = f"transaction:{event.transaction_id}:{event.customer}" if event.seq else f"event:{event.id}"
    return _entry(public, aggregate, event.transaction_id, event.journal_seq)


def of_event(value: bytes) -> Entry:
    """A record of `aura.account-events.v1` or `aura.auth-events.v1`. Raises msgspec.DecodeError, ValueError."""
    event = _DECODE_EVENT(value)
    public = _Public(
        event.id,
        event.type,
        event.version,
        event.tenant_id,
        event.customer_id,
        event.seq,
        event.occurred_at,
        event.data,
        event.request_id,
        event.causation_id,
    )
    aggregate = next((f"{name}:{event.data[name]}" for name in _AGGREGATES if name in event.data), "tenant")
    return _entry(public, aggregate if event.seq else f"event:{event.id}", "", event.journal_seq)


def _entry(public: _Public, aggregate: str, transaction_id: str, journal_seq: int) -> Entry:
    # Postgres cannot hold a NUL; JSON writes it as an escape, but nobody needs it.
    body = _ENCODE(public).decode().replace("\\u0000", "\ufffd")
    return Entry(
        public.id,
        public.tenant_id,
        public.customer_id,
        public.type,
        aggregate,
        public.seq,
        transaction_id,
        datetime.fromisoformat(public.occurred_at),
        body,
        journal_seq,
    )
