"""From what the ledger decided to the HTTP answer. Pure: lines and views in, status and body out.

The answer to a command is the first event at which its wait ends, counted from the event that the command made. So a
repeat, which meets the transaction as it is now, gets the answer that the first request got.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aura_stream.domain.assets import format_amount, parse_amount
from aura_stream.domain.ids import parse_account_id
from aura_stream.domain.reasons import REASONS
from aura_stream.domain.state import FAILED
from aura_stream.journal import AccountLine, AnswerLine, ChangeLine, TransactionLine
from web.commands import SUBMITS, Prepared
from web.pause_views import PauseView
from web.problems import Problem, put_off
from web.recent import Outcome
from web.views import Json, TransactionView, account_of_id, account_of_line, is_settled

REPLAYED = {"Idempotent-Replayed": "true"}
_ACCOUNT_STATUS = {
    "account.open": "open",
    "account.freeze": "frozen",
    "account.unfreeze": "open",
    "account.close": "closed",
}
_WAITS_IN = {"deposit.submit": "awaiting_funds", "hold.place": "held"}
"""The state in which a submit without a bank is answered unless it was refused at once."""
_ENDS_IT = frozenset({"deposit.reject", "transaction.reject", "transaction.resolve"})
"""Actions after which `failed` is what was asked for."""


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer before its headers: 200, 201, or 202 with the state so far."""

    status: int
    body: Json
    is_replayed: bool = False


class Step(msgspec.Struct, frozen=True):
    """One event of a transaction as an answer needs it; `seq` 0 when it is not known."""

    seq: int
    status: str
    state: str
    reason: str

    @property
    def is_settled(self) -> bool:
        """Whether a wait ends with it."""
        return is_settled(self.status, self.state)


def is_replayed(outcome: Outcome) -> bool:
    """Whether this is the first outcome again."""
    return isinstance(outcome, AnswerLine) and outcome.kind == "repeat"


def refusal(prepared: Prepared, outcome: Outcome) -> Problem | None:
    """The problem of a command that was refused without a transaction to show for it, or of its repeat."""
    if not isinstance(outcome, AnswerLine):
        return None
    if outcome.kind == "repeat":
        if not outcome.reason or outcome.status:
            return None
        return problem_of(outcome.reason, outcome.detail, prepared.members, headers=REPLAYED)
    members = dict(prepared.members)
    if outcome.reason == "idempotency_key_reused":
        # The key belongs to something else; what, the caller looks up.
        members = {}
    elif outcome.transaction_id:
        members["transaction_id"] = outcome.transaction_id
    return problem_of(outcome.reason, outcome.detail, members)


def made_by(prepared: Prepared, outcome: Outcome, view: TransactionView | None) -> Step:
    """The event that the command made, as far as it is known."""
    if isinstance(outcome, TransactionLine):
        return Step(1, outcome.status, outcome.state, outcome.reason)
    if isinstance(outcome, ChangeLine):
        return Step(outcome.seq, outcome.status, outcome.state, outcome.reason)
    assert isinstance(outcome, AnswerLine)
    events = view.events if view is not None else []
    if prepared.is_submit:
        if events:
            return _step(events[0])
        is_by_bank = getattr(prepared.command.data, "rail", None) not in (None, "manual")
        if outcome.state != "refused" and prepared.command.type in _WAITS_IN and not is_by_bank:
            return Step(1, "processing", _WAITS_IN[prepared.command.type], "")
        return Step(0, outcome.status, outcome.state, outcome.reason)
    mine = [event for event in events if event["seq"] == outcome.seq or event["state"] == outcome.state]
    mine.sort(key=lambda event: event["seq"] != outcome.seq)
    return _step(mine[0]) if mine else Step(0, outcome.status, outcome.state, outcome.reason)


def end_of(step: Step, view: TransactionView | None) -> Step:
    """The first event at which the wait ends, from `step` on; the last known one when there is none yet."""
    if step.is_settled or view is None:
        return step
    last = step
    for event in view.events:
        if event["seq"] > last.seq:
            last = _step(event)
            if last.is_settled:
                break
    return last


def answer_account(prepared: Prepared, outcome: Outcome) -> Answer:
    """The answer to a command about an account that was done."""
    command = prepared.command
    status = 201 if command.type == "account.open" else 200
    if isinstance(outcome, AccountLine):
        return Answer(status, account_of_line(outcome))
    resource = account_of_id(command.tenant, prepared.subject, _ACCOUNT_STATUS[command.type])
    return Answer(status, resource, is_replayed(outcome))


def answer_pause(prepared: Prepared, outcome: Outcome, view: PauseView | None) -> Answer:
    """The answer to a pause that was set or lifted: a receipt until everyone has it."""
    command, is_set = prepared.command, prepared.command.type == "pause.set"
    replayed = is_replayed(outcome)
    if view is not None and view.has_reached("applied" if is_set else "cleared"):
        return Answer(201 if is_set else 200, view.resource | {"command_id": command.id}, replayed)
    return accepted(prepared, "processing", "set" if is_set else "lifted", replayed)


def answer_transaction(prepared: Prepared, end: Step, view: TransactionView | None, *, replayed: bool) -> Answer:
    """The answer at the event where the wait ended. Raises :class:`Problem` when that is a failure."""
    command = prepared.command
    if end.status == FAILED and command.type not in _ENDS_IT:
        members = prepared.members | {"transaction_status": end.status, "transaction_state": end.state}
        problem = problem_of(end.reason, "", members, headers=REPLAYED if replayed else {})
        if end.reason == "insufficient_funds":
            first = view.events[0] if view is not None and view.events else {}
            problem.details = _asked_for(command.data, first.get("available"))
        raise problem
    if not end.is_settled:
        return accepted(prepared, end.status, end.state, replayed)
    if view is not None:
        view.rewind(end.seq, end.status, end.state, end.reason)
        body = view.resource | {"command_id": command.id}
    else:
        body = {
            "id": prepared.subject,
            "tenant": command.tenant,
            "customer": command.customer,
            "type": SUBMITS.get(command.type) or command.type.partition(".")[0].replace("transaction", "deposit"),
            "status": end.status,
            "state": end.state,
            "command_id": command.id,
        }
    return Answer(201 if prepared.is_submit else 200, body, replayed)


def accepted(prepared: Prepared, status: str = "created", state: str = "accepted", replayed: bool = False) -> Answer:
    """202: the command is durable, its outcome is not known yet."""
    body: Json = {"id": prepared.subject, "command_id": prepared.command.id, "status": status, "state": state}
    return Answer(202, body | prepared.members, replayed)


def location(prepared: Prepared) -> str:
    """Where the subject of a command can be read."""
    if prepared.is_about_pause:
        return f"/v1/pauses/{prepared.subject}"
    if prepared.is_about_clock:
        return "/v1/simulate/clock"
    return f"/v1/{'accounts' if prepared.is_about_account else 'transactions'}/{prepared.subject}"


def problem_of(reason: str, detail: str, members: dict[str, str], headers: dict[str, str] | None = None) -> Problem:
    """The problem of a reason that the ledger gave."""
    # A reason of a newer ledger than this API is still a refusal.
    code = reason if reason in REASONS else "rejected"
    if code == "paused":
        return put_off(detail, members)
    return Problem(code, detail or (reason if code != reason else ""), headers=headers, members=members)


def _asked_for(data: Any, available: str | None) -> dict[str, str]:
    """Which account was to pay how much, and what it had (L52): by the decision, so that a repeat is told the same."""
    account_id = data.from_account_id if hasattr(data, "from_account_id") else data.account_id
    asset = parse_account_id(account_id).asset
    found = {"account_id": account_id, "requested": format_amount(parse_amount(data.amount, asset), asset)}
    return found | ({"available": available} if available is not None else {})


def _step(event: Json) -> Step:
    return Step(event["seq"], event["status"], event["state"], event.get("reason", ""))
