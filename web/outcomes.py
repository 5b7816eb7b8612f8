"""From the ledger's answer to the HTTP answer. Pure: lines in, status and body out."""

from __future__ import annotations

from dataclasses import dataclass

from aura_stream.domain.reasons import REASONS
from aura_stream.domain.state import COMPLETED, FAILED
from aura_stream.journal import AccountLine, AnswerLine, ChangeLine, TransactionLine
from web.commands import SUBMITS, Prepared, problem_of_subject
from web.problems import Problem
from web.recent import Outcome
from web.views import Json, TransactionView, account_of_id, account_of_line, is_settled

REPLAYED = {"Idempotent-Replayed": "true"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer before its headers: 200, 201, or 202 with the state so far."""

    status: int
    body: Json
    is_replayed: bool = False


def is_replayed(outcome: Outcome) -> bool:
    """Whether this is the first outcome again."""
    return isinstance(outcome, AnswerLine) and outcome.kind == "repeat"


def may_move_on(outcome: Outcome) -> bool:
    """Whether the transaction is on its way, so that waiting longer may bring its end."""
    if isinstance(outcome, AccountLine) or (isinstance(outcome, AnswerLine) and outcome.kind != "repeat"):
        return False
    return bool(outcome.status) and not outcome.reason and not is_settled(outcome.status, outcome.state)


def refusal(prepared: Prepared, outcome: Outcome, later: ChangeLine | None = None) -> Problem | None:
    """The problem that answers a command, None when it was done."""
    members = problem_of_subject(prepared)
    replayed = REPLAYED if is_replayed(outcome) else {}
    if isinstance(outcome, AnswerLine) and outcome.kind != "repeat":
        members |= {"transaction_id": outcome.transaction_id} if outcome.transaction_id else {}
        return _problem(outcome.reason, outcome.detail, members, {})
    is_submit = prepared.command.type in SUBMITS
    if is_submit and later is not None:
        if later.status == FAILED:
            return _problem(later.reason, "", members | _state(later.status, later.state), replayed)
        return None
    if isinstance(outcome, AnswerLine):
        # A repeat of an action that was done has its state and no reason; a rejected deposit was rejected as asked.
        if outcome.reason and not (prepared.command.type == "deposit.reject" and outcome.reason == "rejected"):
            return _problem(outcome.reason, outcome.detail, members | _state(outcome.status, outcome.state), replayed)
        return None
    if is_submit and isinstance(outcome, TransactionLine) and outcome.status == FAILED:
        return _problem(outcome.reason, "", members | _state(outcome.status, outcome.state), {})
    return None


def answer_account(prepared: Prepared, outcome: Outcome) -> Answer:
    """The answer to a command about an account that was done."""
    is_open = prepared.command.type == "account.open"
    if isinstance(outcome, AccountLine):
        return Answer(201 if is_open else 200, account_of_line(outcome))
    status = (outcome.status if isinstance(outcome, AnswerLine) else "") or _STATUS_AFTER[prepared.command.type]
    return Answer(
        201 if is_open else 200, account_of_id(prepared.command.tenant, prepared.subject, status), is_replayed(outcome)
    )


def answer_transaction(
    prepared: Prepared, outcome: Outcome, later: ChangeLine | None, view: TransactionView | None
) -> Answer:
    """The answer to a command about a transaction that was done: the transaction, settled or (202) on its way."""
    command = prepared.command
    status, state, seq, reason = _present(outcome, later)
    if view is not None:
        view.rewind(seq, status, state, reason)
        body = view.resource | {"command_id": command.id}
        status, state = body["status"], body["state"]
    else:
        body = {
            "id": prepared.subject,
            "tenant": command.tenant,
            "customer": command.customer,
            "type": SUBMITS.get(command.type) or _TYPE_OF_ACTION.get(command.type, "deposit"),
            "status": status or COMPLETED,
            "state": state or "",
            "command_id": command.id,
        }
    if not is_settled(status, state):
        return accepted(prepared, status, state, is_replayed(outcome))
    return Answer(201 if command.type in SUBMITS else 200, body, is_replayed(outcome))


def accepted(prepared: Prepared, status: str = "created", state: str = "accepted", replayed: bool = False) -> Answer:
    """202: the command is durable, its outcome is not known yet."""
    body: Json = {"id": prepared.subject, "command_id": prepared.command.id, "status": status, "state": state}
    return Answer(202, body | problem_of_subject(prepared), replayed)


def location(prepared: Prepared) -> str:
    """Where the subject of a command can be read."""
    kind = "accounts" if prepared.command.type.startswith("account.") else "transactions"
    return f"/v1/{kind}/{prepared.subject}"


_STATUS_AFTER = {
    "account.open": "open",
    "account.freeze": "frozen",
    "account.unfreeze": "open",
    "account.close": "closed",
}
_TYPE_OF_ACTION = {"hold.capture": "hold", "hold.release": "hold"}


def _present(outcome: Outcome, later: ChangeLine | None) -> tuple[str, str, int, str]:
    if later is not None:
        return later.status, later.state, later.seq, later.reason
    if isinstance(outcome, TransactionLine):
        return outcome.status, outcome.state, 1, outcome.reason
    if isinstance(outcome, AccountLine):
        return outcome.status, "", 0, ""
    return outcome.status, outcome.state, outcome.seq, outcome.reason


def _state(status: str, state: str) -> dict[str, str]:
    return {"transaction_status": status, "transaction_state": state}


def _problem(reason: str, detail: str, members: dict[str, str], headers: dict[str, str]) -> Problem:
    # A reason of a newer ledger than this API is still a refusal.
    code = reason if reason in REASONS else "rejected"
    return Problem(code, detail or (reason if code != reason else ""), headers=headers, members=members)
