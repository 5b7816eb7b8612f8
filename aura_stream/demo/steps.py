"""One step of the demo: a command, the door it takes, and what must become of it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from aura_stream.domain.ids import NAMESPACE
from aura_stream.domain.reasons import REASONS

Door = Literal["kafka", "http"]
Outcome = Literal["done", "refused", "returned", "repeat", "reused", "dead_letter", "bad_request"]
Move = tuple[str, int]

MAKES: Final = {
    "deposit.submit": "deposit",
    "transfer.submit": "transfer",
    "hold.place": "hold",
    "withdrawal.submit": "withdrawal",
}
"""Commands that make a transaction, and its type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What must become of a command.

    `events` is what the series of its transaction gains, or the event of an account command; `received` the event in
    the series of `receiver`; `moves` what accounts gain and lose in the end (minor units). `late` holds instead if the
    command was decided at or after the deadline of its hold: no sender can promise to be in time. `settles`: banks and
    the chain have a part in it, so that the book of settlements says what becomes of the transaction.
    """

    outcome: Outcome
    reason: str = ""
    events: tuple[str, ...] = ()
    receiver: str = ""
    received: str = ""
    moves: tuple[Move, ...] = ()
    late: Expect | None = None
    settles: bool = False


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record that is no command: its key and value as bytes, and how far from the right partition it goes."""

    key: bytes | None
    value: bytes | None
    partition_shift: int = 0


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request that breaks the contract."""

    path: str
    body: bytes
    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the plan. `at` is in seconds from the start of the load.

    `after` is the number of a step that must have been accepted before this one is sent (-1: none).
    """

    number: int
    at: float
    door: Door
    tenant: str
    customer: str
    key: str
    type: str
    data: dict[str, Any]
    expect: Expect
    command_id: str
    after: int = -1
    transaction: str = ""
    expires_in_s: float = 0.0
    wait_s: int = -1
    names_owner: bool = True
    raw: RawRecord | RawRequest | None = field(default=None)

    @property
    def ref(self) -> str:
        """What an idempotency key is unique in."""
        return f"{self.tenant}/{self.customer}/{self.key}"

    def rendered(self, now: datetime) -> dict[str, Any]:
        """The data with its deadline, which counts from the moment of sending."""
        if not self.expires_in_s:
            return self.data
        at = datetime.fromtimestamp(now.timestamp() + self.expires_in_s, UTC)
        return self.data | {"expires_at": at.isoformat(timespec="milliseconds")}

    def record(self, now: datetime) -> tuple[bytes | None, bytes | None]:
        """Key and value of the Kafka record."""
        if isinstance(self.raw, RawRecord):
            return self.raw.key, self.raw.value
        return f"{self.tenant}/{self.customer}".encode(), envelope(self, self.rendered(now), now)

    def request(self, now: datetime) -> tuple[str, dict[str, Any]]:
        """Path and body of the HTTP request."""
        data = self.rendered(now)
        if self.type == "account.open":
            return "/v1/accounts", {"customer": self.customer, **data}
        if self.type.startswith("account."):
            return f"/v1/accounts/{data['account_id']}/{self.type.partition('.')[2]}", {}
        if self.type in MAKES:
            return f"/v1/{MAKES[self.type]}s", data
        what, action = self.type.split(".")
        body = {name: value for name, value in data.items() if name != "transaction_id"}
        if self.names_owner:
            body["customer"] = self.customer
        return f"/v1/{what}s/{data['transaction_id']}/{action}", body


def envelope(step: Step, data: dict[str, Any], now: datetime, **changes: Any) -> bytes:
    """A command as any Kafka client would write it."""
    message = {
        "id": step.command_id,
        "type": step.type,
        "tenant": step.tenant,
        "customer": step.customer,
        "idempotency_key": step.key,
        "issued_at": now.isoformat(timespec="milliseconds"),
        "data": data,
    }
    return json.dumps(message | changes).encode()


def transaction_id(tenant: str, customer: str, key: str) -> str:
    """The id that a submit's transaction will have: the published rule, computed by the sender."""
    return str(uuid.uuid5(NAMESPACE, f"{tenant}/{customer}/{key}"))


def http_status(step: Step) -> int:
    """The status of the answer when the outcome is known in time."""
    expect = step.expect
    if expect.reason:
        return REASONS[expect.reason].status
    return 201 if step.type in MAKES or step.type == "account.open" else 200
