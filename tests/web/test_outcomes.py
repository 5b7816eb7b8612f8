"""What the ledger decided, as an HTTP answer."""

from __future__ import annotations

import uuid

import pytest

from aura_stream.journal import AnswerLine
from tests.web.test_recent import a_change, a_transfer
from web.commands import Prepared, prepare
from web.outcomes import Step, answer_transaction, end_of, made_by, refusal
from web.problems import Problem
from web.views import newest, transaction_of_line


def a_command(type_: str, **data: str) -> Prepared:
    key = str(uuid.uuid4())
    return prepare(type_, tenant="default", customer="alice", idempotency_key=key, data=dict(data))


def the_transfer() -> Prepared:
    return a_command("transfer.submit", from_account_id="alice:EUR", to_account_id="bob:EUR", amount="12.50")


def test_a03_transfer_under_way_is_202_and_its_completion_201() -> None:
    command, line = the_transfer(), a_transfer()
    view = transaction_of_line(line, 0)
    sent = made_by(command, line, view)
    assert answer_transaction(command, end_of(sent, view), view, replayed=False).status == 202

    view.apply(a_change(2, "completed", "completed"), 0)
    answer = answer_transaction(command, end_of(sent, view), view, replayed=False)

    assert (answer.status, answer.body["status"]) == (201, "completed")


def test_s11_transfer_that_comes_back_is_refused_with_the_receivers_reason() -> None:
    command, line = the_transfer(), a_transfer()
    view = transaction_of_line(line, 0)
    view.apply(a_change(2, "failed", "returned", reason="account_frozen"), 0)

    with pytest.raises(Problem) as raised:
        answer_transaction(command, end_of(made_by(command, line, view), view), view, replayed=False)

    assert (raised.value.status, raised.value.code) == (422, "account_frozen")
    assert raised.value.members["transaction_state"] == "returned"


def test_a02_repeat_of_a_confirmed_deposit_is_answered_as_awaiting_funds() -> None:
    command = a_command("deposit.submit", account_id="alice:EUR", amount="10.00")
    repeat = AnswerLine("repeat", 3000, status="failed", state="rejected", reason="rejected", seq=2)

    step = end_of(made_by(command, repeat, None), None)

    assert step == Step(1, "processing", "awaiting_funds", "")
    assert refusal(command, repeat) is None


def test_a02_repeat_of_a_refused_action_is_refused_again() -> None:
    command = a_command("transaction.cancel", transaction_id=str(uuid.uuid4()))
    repeat = AnswerLine("repeat", 3000, reason="invalid_state_transition")

    problem = refusal(command, repeat)

    assert problem is not None
    assert (problem.status, problem.headers["Idempotent-Replayed"]) == (409, "true")


def test_dead_letter_answer_is_its_400() -> None:
    problem = refusal(the_transfer(), AnswerLine("dead_letter", 1, reason="effective_at_in_future", detail="later"))

    assert problem is not None
    assert (problem.status, problem.code) == (400, "effective_at_in_future")


def test_reason_of_a_newer_ledger_is_still_a_refusal() -> None:
    problem = refusal(the_transfer(), AnswerLine("refused", 1, reason="moon_phase"))

    assert problem is not None
    assert (problem.status, problem.detail) == (422, "moon_phase")


def test_nothing_is_known_without_the_beginning() -> None:
    assert newest(None, None) is None
