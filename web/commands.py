"""From a checked request to a command: the same envelope, read by the same decoder, as at the Kafka door."""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec
import orjson

from aura_stream.domain.commands import Command, format_time, parse_command
from aura_stream.domain.ids import derived_id, id_text, parse_account_id
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.domain.requests import (
    MAKES,
    AccountCommand,
    ActionCommand,
    ChildCommand,
    SubmitCommand,
    read_account,
    read_action,
    read_child,
    read_submission,
)
from aura_stream.domain.state import Rules
from web.call import Call, new_id
from web.problems import Problem, from_domain

SUBMITS = MAKES
"""Commands that make a transaction, and its type."""

# Reading an action asks for the rules only to refuse by business, which is not done here.
_SANDBOX = Rules((), "sandbox")


class Prepared(msgspec.Struct, frozen=True):
    """A command ready to be produced: parsed, and as the bytes that go to Kafka."""

    command: Command
    value: bytes
    subject: str
    """The id of the transaction it makes or acts on, of the account, or of the pause; of the clock its name."""

    @property
    def is_about_account(self) -> bool:
        """Whether the subject is an account."""
        return self.command.type.startswith("account.")

    @property
    def is_about_pause(self) -> bool:
        """Whether the subject is a pause."""
        return self.command.type.startswith("pause.")

    @property
    def is_about_clock(self) -> bool:
        """Whether the subject is the clock."""
        return self.command.type == "clock.advance"

    @property
    def is_submit(self) -> bool:
        """Whether it makes a transaction."""
        return self.command.type in SUBMITS

    @property
    def members(self) -> dict[str, str]:
        """The member that names the subject in a problem or an answer."""
        if self.is_about_pause:
            return {"pause_id": self.subject}
        if self.is_about_clock:
            return {}
        return {"account_id" if self.is_about_account else "transaction_id": self.subject}


def subject_of(command: Command) -> str:
    """The id of the transaction a command makes or acts on, of the account, or of the pause; of the clock its name."""
    data: Any = command.data
    if command.type in SUBMITS or command.type == "pause.set":
        return id_text(derived_id(command.tenant, command.customer, command.idempotency_key))
    if command.type == "account.open":
        return f"{command.customer}:{data.asset}" + (f":{data.name}" if data.name else "")
    if command.type.startswith("account."):
        return str(data.account_id)
    if command.type == "pause.lift":
        return str(uuid.UUID(data.pause_id))
    if command.type == "clock.advance":
        return "clock"
    return str(uuid.UUID(data.transaction_id))


def prepare(
    type_: str, *, tenant: str, customer: str, idempotency_key: str, data: dict[str, Any], moved_ms: int = 0
) -> Prepared:
    """The command of a request, with a fresh id. Raises :class:`Problem` when no door would take it.

    `moved_ms`: how far the ledger's time is ahead of ours.
    """
    now_ms = time.time_ns() // 1_000_000
    envelope = {
        "id": new_id(),
        "type": type_,
        "tenant": tenant,
        "customer": customer,
        "idempotency_key": idempotency_key,
        "issued_at": format_time(now_ms),
        "data": data,
    }
    value = orjson.dumps(envelope)
    try:
        command = parse_command(value)
        check(command, now_ms + moved_ms)
    except (Invalid, Refused) as error:
        raise from_domain(_in_body(error)) from None
    return Prepared(command, value, subject_of(command))


def customer_of(account_id: str, pointer: str) -> str:
    """The customer that owns an account. Raises :class:`Problem` as the ledger would."""
    try:
        return parse_account_id(account_id).customer
    except Invalid as error:
        raise from_domain(Invalid(error.reason, error.detail, pointer)) from None
    except Refused as error:
        raise from_domain(error) from None


def owner_of(call: Call, account_id: str, pointer: str) -> str:
    """The customer that owns an account that the call may use. Raises :class:`Problem`.

    Somebody else's account is answered like one that is not there, whether or not it is.
    """
    customer = customer_of(account_id, pointer)
    if not call.may_touch(customer):
        raise no_account(account_id)
    return customer


def no_account(account_id: str) -> Problem:
    """The 404 of an account."""
    return Problem("account_not_found", f"There is no account {account_id}.", members={"account_id": account_id})


def check(command: Command, now_ms: int) -> None:
    """Raises :class:`Invalid` for what the ledger would put among the dead letters although its form is right.

    It reads the command as the ledger does. Refusals by business are left to the ledger: they are outcomes.
    """
    if isinstance(command, SubmitCommand):
        read_submission(command, "", "", now_ms)
    elif isinstance(command, ActionCommand):
        read_action(command, now_ms, _SANDBOX)
    elif isinstance(command, ChildCommand):
        read_child(command)
    elif isinstance(command, AccountCommand):
        read_account(command)


def _in_body(error: Invalid | Refused) -> Invalid | Refused:
    """The pointer as the sender of a body sees it: he sent the data, we the envelope around it."""
    if isinstance(error, Invalid) and error.pointer.startswith("/data/"):
        return Invalid(error.reason, error.detail, error.pointer.removeprefix("/data"))
    return error
