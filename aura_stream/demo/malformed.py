"""What senders get wrong, and the reason with which each is put aside. All else about these messages is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from aura_stream.demo.steps import RawRecord, RawRequest, Step, envelope

_ISSUED = datetime(2026, 11, 20, 10, tzinfo=UTC)


def _key(step: Step) -> bytes:
    return f"{step.tenant}/{step.customer}".encode()


def _value(step: Step, **changes: Any) -> bytes:
    return envelope(step, step.data, _ISSUED, **changes)


def _with(**changes: Any) -> Callable[[Step], RawRecord]:
    return lambda step: RawRecord(_key(step), _value(step, **changes))


def _data(**changes: Any) -> Callable[[Step], RawRecord]:
    return lambda step: RawRecord(_key(step), envelope(step, step.data | changes, _ISSUED))


def _without(field: str) -> Callable[[Step], RawRecord]:
    def spoil(step: Step) -> RawRecord:
        message = json.loads(_value(step))
        del message[field]
        return RawRecord(_key(step), json.dumps(message).encode())

    return spoil


def _unknown_tenant(step: Step) -> RawRecord:
    return RawRecord(f"nowhere/{step.customer}".encode(), _value(step, tenant="nowhere"))


RECORDS: Final[list[tuple[str, Callable[[Step], RawRecord]]]] = [
    ("invalid_json", lambda step: RawRecord(_key(step), _value(step)[:-30])),
    ("invalid_json", lambda step: RawRecord(_key(step), b"transfer 10 EUR to bob, please")),
    ("invalid_json", lambda step: RawRecord(_key(step), b"\x00\x01\x02\x00")),
    ("invalid_json", lambda step: RawRecord(_key(step), None)),
    ("invalid_json", lambda step: RawRecord(_key(step), _value(step).replace(b"10.00", b"10.\x0000"))),
    ("idempotency_key_invalid", _with(idempotency_key="a\x00b")),
    ("wrong_key", lambda step: RawRecord(b"someone-else", _value(step))),
    ("wrong_key", lambda step: RawRecord(None, _value(step))),
    ("wrong_partition", lambda step: RawRecord(_key(step), _value(step), partition_shift=1)),
    ("invalid_amount_format", _data(amount=12.5)),
    ("invalid_amount_format", _data(amount="12.505")),
    ("invalid_amount_format", _data(amount="1,000.00")),
    ("invalid_amount_format", _data(amount="NaN")),
    ("invalid_type", _with(type="transfer.please")),
    ("unknown_field", _with(priority="high")),
    ("missing_fields", _without("idempotency_key")),
    ("missing_fields", _without("type")),
    ("invalid_uuid_format", _with(id="42")),
    ("invalid_datetime_format", _with(issued_at="yesterday")),
    ("effective_at_in_future", _data(effective_at="2999-01-01T00:00:00Z")),
    ("unsupported_asset", _data(to_account_id="bob:DOGE")),
    ("invalid_account_id", _data(to_account_id="bob's account")),
    ("tenant_not_found", _unknown_tenant),
]
"""Reason -> the record, made from a step whose command would be right."""


def _request(**changes: Any) -> Callable[[Step], RawRequest]:
    return lambda step: RawRequest("/v1/transfers", json.dumps(step.data | changes).encode(), step.key)


REQUESTS: Final[list[tuple[str, Callable[[Step], RawRequest]]]] = [
    ("invalid_json", lambda step: RawRequest("/v1/transfers", b'{"from_account_id": ', step.key)),
    ("idempotency_key_missing", lambda step: RawRequest("/v1/transfers", json.dumps(step.data).encode(), None)),
    ("idempotency_key_invalid", lambda step: RawRequest("/v1/transfers", json.dumps(step.data).encode(), "no-uuid")),
    ("invalid_amount_format", _request(amount=12.5)),
    ("invalid_amount_format", _request(amount="12.505")),
    ("unknown_field", _request(priority="high")),
    ("invalid_account_id", _request(to_account_id="bob's account")),
    ("effective_at_in_future", _request(effective_at="2999-01-01T00:00:00Z")),
]
"""Reason -> the request, likewise."""
