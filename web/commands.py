"""From a checked request to a command: the same envelope, read by the same decoder, as at the Kafka door."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from aura_stream.domain.assets import parse_amount
from aura_stream.domain.commands import Command, parse_command, parse_time
from aura_stream.domain.ids import derived_id, id_bytes, id_text, parse_account_id
from aura_stream.domain.reasons import Invalid, Refused
from web.problems import from_domain
from web.views import instant

SUBMITS = {"deposit.submit": "deposit", "transfer.submit": "transfer", "hold.place": "hold"}
"""Commands that make a transaction, and its type."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A command ready to be produced: parsed, and as the bytes that go to Kafka."""

    command: Command
    value: bytes

    @property
    def subject(self) -> str:
        """The id of the transaction it makes or acts on, or of the account."""
        return subject_of(self.command)


def subject_of(command: Command) -> str:
    """The id of the transaction a command makes or acts on, or of the account."""
    data: Any = command.data
    if command.type in SUBMITS:
        return id_text(derived_id(command.tenant, command.customer, command.idempotency_key))
    if command.type == "account.open":
        return f"{command.customer}:{data.asset}" + (f":{data.name}" if data.name else "")
    if command.type.startswith("account."):
        return str(data.account_id)
    return str(data.transaction_id).lower()


def prepare(type_: str, *, tenant: str, customer: str, idempotency_key: str, data: dict[str, Any]) -> Prepared:
    """The command of a request, with a fresh id. Raises :class:`Problem` when no door would take it."""
    envelope = {
        "id": str(uuid.uuid4()),
        "type": type_,
        "tenant": tenant,
        "customer": customer,
        "idempotency_key": idempotency_key,
        "issued_at": instant(datetime.now(UTC)),
        "data": data,
    }
    value = orjson.dumps(envelope)
    try:
        command = parse_command(value)
        check(command, time.time_ns() // 1_000_000)
    except (Invalid, Refused) as error:
        raise from_domain(_in_body(error)) from None
    return Prepared(command, value)


def customer_of(account_id: str, pointer: str) -> str:
    """The customer that owns an account. Raises :class:`Problem` as the ledger would."""
    try:
        return parse_account_id(account_id).customer
    except Invalid as error:
        raise from_domain(Invalid(error.reason, error.detail, pointer)) from None
    except Refused as error:
        raise from_domain(error) from None


def check(command: Command, now_ms: int) -> None:
    """Raises :class:`Invalid` for what the ledger would put among the dead letters although its form is right.

    Refusals by business are left to the ledger: they are outcomes, with a transaction to show for them.
    """
    data: Any = command.data
    asset = ""
    for field in ("account_id", "from_account_id", "to_account_id"):
        text = getattr(data, field, None)
        if text is not None:
            try:
                parsed = parse_account_id(text)
            except Invalid as error:
                raise Invalid(error.reason, error.detail, f"/data/{field}") from None
            except Refused:
                continue
            asset = asset or parsed.asset
    amount = getattr(data, "amount", None)
    if amount is not None and asset:
        _located(parse_amount, amount, asset, pointer="/data/amount")
    if command.type == "account.open":
        _located(parse_account_id, subject_of(command), pointer="/data/asset")
    if getattr(data, "transaction_id", None) is not None:
        _located(id_bytes, data.transaction_id, pointer="/data/transaction_id")
    _located(parse_time, command.issued_at, pointer="/issued_at")
    if getattr(data, "expires_at", None) is not None:
        _located(parse_time, data.expires_at, pointer="/data/expires_at")
    effective_at = getattr(data, "effective_at", None)
    if effective_at is not None and _located(parse_time, effective_at, pointer="/data/effective_at") > now_ms:
        raise Invalid("effective_at_in_future", f"{effective_at} has not come yet", "/data/effective_at")


def _located(parse: Any, *arguments: Any, pointer: str) -> Any:
    try:
        return parse(*arguments)
    except Invalid as error:
        raise Invalid(error.reason, error.detail, pointer) from None


def _in_body(error: Invalid | Refused) -> Invalid | Refused:
    """The pointer as the sender of a body sees it: he sent the data, we the envelope around it."""
    if isinstance(error, Invalid) and error.pointer.startswith("/data/"):
        return Invalid(error.reason, error.detail, error.pointer.removeprefix("/data"))
    return error


def problem_of_subject(prepared: Prepared) -> dict[str, str]:
    """The member that names what a problem is about."""
    name = "account_id" if prepared.command.type.startswith("account.") else "transaction_id"
    return {name: prepared.subject}
