"""Deposits: each edge of the diagram in `aura_stream/domain/deposits.py`, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from aura_stream.journal import ChangeLine, TransactionLine
from tests.domain.world import DAY, World


def a_deposit(world: World, amount: str = "12.50") -> TransactionLine:
    line = world.do("deposit.submit", "alice", account_id="alice:EUR", amount=amount)
    assert isinstance(line, TransactionLine)
    return line


def with_account(mode: str = "sandbox") -> World:
    world = World(mode)
    world.open("alice:EUR")
    return world


def test_s03_nothing_is_available_before_confirmation() -> None:
    world = with_account()

    deposit = a_deposit(world)

    assert (deposit.status, deposit.state, deposit.journals) == ("processing", "awaiting_funds", [])
    assert deposit.expires_at == world.at + 7 * DAY
    account = world.account("alice:EUR")
    assert (account.available, account.held, account.pending_in, account.open_items) == (0, 0, 0, 1)
    world.check()


def test_confirmed_deposit_is_booked_from_the_banks_trust_account() -> None:
    world = with_account()
    deposit = a_deposit(world)

    line = world.do("deposit.confirm", "alice", transaction_id=deposit.id)

    assert (line.event, line.status, line.state, line.seq) == ("deposit.credited", "completed", "credited", 2)
    entries = [(e.account_id, e.layer, e.amount) for e in line.journals[0].entries]
    assert entries == [("@bank:sandbox:trust:EUR", "available", "1250"), ("alice:EUR", "available", "-1250")]
    assert world.account("alice:EUR").available == 1250
    assert world.types(deposit.id) == ["deposit.submitted", "deposit.credited"]
    world.check()


def test_s04_confirming_twice_credits_once() -> None:
    world = with_account()
    deposit = a_deposit(world)

    world.do("deposit.confirm", "alice", transaction_id=deposit.id)
    second = world.do("deposit.confirm", "alice", transaction_id=deposit.id)

    assert (second.kind, second.reason) == ("refused", "already_processed")
    assert world.account("alice:EUR").available == 1250
    world.check()


@pytest.mark.parametrize("other", ["", "bob"])
def test_s06_confirming_an_unknown_deposit_or_that_of_another_is_not_found(other: str) -> None:
    world = with_account()
    deposit = a_deposit(world)
    before = world.money()

    missing = deposit.id if other else "00000000-0000-5000-8000-000000000000"
    answer = world.do("deposit.confirm", other or "alice", transaction_id=missing)

    assert (answer.reason, answer.detail) == ("transaction_not_found", "")
    assert world.money() == before


def test_s06_a_deposit_of_the_same_customer_in_another_tenant_is_not_found() -> None:
    world = with_account()
    deposit = a_deposit(world)

    answer = world.do("deposit.confirm", "alice", tenant="demo", transaction_id=deposit.id)

    assert answer.reason == "transaction_not_found"


def test_rejected_deposit_fails_and_stays_so() -> None:
    world = with_account()
    deposit = a_deposit(world)

    line = world.do("deposit.reject", "alice", transaction_id=deposit.id)

    assert (line.event, line.status, line.state, line.reason) == ("deposit.rejected", "failed", "rejected", "rejected")
    assert world.do("deposit.reject", "alice", transaction_id=deposit.id).reason == "already_processed"
    assert world.do("deposit.confirm", "alice", transaction_id=deposit.id).reason == "invalid_state_transition"
    assert world.account("alice:EUR").open_items == 0
    world.check()


def test_canceled_deposit_cannot_be_confirmed() -> None:
    world = with_account()
    deposit = a_deposit(world)

    line = world.do("transaction.cancel", "alice", transaction_id=deposit.id)

    assert (line.event, line.status, line.state) == ("deposit.canceled", "canceled", "canceled")
    assert world.do("transaction.cancel", "alice", transaction_id=deposit.id).reason == "already_processed"
    assert world.do("deposit.confirm", "alice", transaction_id=deposit.id).reason == "invalid_state_transition"
    world.check()


def test_credited_deposit_can_be_neither_rejected_nor_canceled() -> None:
    world = with_account()
    deposit = a_deposit(world)
    world.do("deposit.confirm", "alice", transaction_id=deposit.id)

    assert world.do("deposit.reject", "alice", transaction_id=deposit.id).reason == "invalid_state_transition"
    assert world.do("transaction.cancel", "alice", transaction_id=deposit.id).reason == "invalid_state_transition"


def test_deposit_expires_after_seven_days_by_the_clock() -> None:
    world = with_account()
    deposit = a_deposit(world)

    world.wait(7 * DAY - 1)
    assert world.transaction(deposit.id).state == "awaiting_funds"
    world.wait(1)

    expired = world.transaction(deposit.id)
    assert (expired.status, expired.state, expired.reason) == ("canceled", "expired", "expired")
    assert world.types(deposit.id) == ["deposit.submitted", "deposit.expired"]
    world.check()
    world.check_rebuild()


def test_confirmation_that_comes_with_the_deadline_is_too_late() -> None:
    world = with_account()
    deposit = a_deposit(world)
    world.at += 7 * DAY

    answer = world.do("deposit.confirm", "alice", transaction_id=deposit.id)

    assert answer.reason == "invalid_state_transition"
    assert world.transaction(deposit.id).state == "expired"
    world.check_rebuild()


def test_confirmation_lands_on_an_account_that_was_frozen_meanwhile() -> None:
    world = with_account()
    deposit = a_deposit(world)
    world.do("account.freeze", "alice", account_id="alice:EUR")

    world.do("deposit.confirm", "alice", transaction_id=deposit.id)

    assert world.account("alice:EUR").available == 1250
    assert a_deposit(world).reason == "account_frozen"


def test_deposit_counts_from_when_the_confirmation_says_or_else_the_announcement() -> None:
    world = with_account()
    announced = world.do(
        "deposit.submit", "alice", account_id="alice:EUR", amount="1", effective_at="1970-01-01T00:00:00Z"
    )
    told = world.do("deposit.submit", "alice", account_id="alice:EUR", amount="1", effective_at="2026-11-20T10:00:00Z")

    first = world.do("deposit.confirm", "alice", transaction_id=announced.id)
    second = world.do("deposit.confirm", "alice", transaction_id=told.id, effective_at="2026-11-21T10:00:00+01:00")

    assert first.journals[0].effective_at == 0
    assert second.journals[0].effective_at == 1_795_251_600_000
    assert first.journals[0].posted_at == world.at


@pytest.mark.parametrize("type_", ["deposit.confirm", "deposit.reject"])
def test_customer_settles_no_deposit_in_live_mode(type_: str) -> None:
    world = with_account("live")
    data: dict[str, Any] = {"account_id": "alice:EUR", "amount": "10.00", "rail": "sepa"}
    deposit = world.do("deposit.submit", "alice", **data)

    assert world.do(type_, "alice", transaction_id=deposit.id).reason == "forbidden"
    assert world.transaction(deposit.id).state == "awaiting_funds"
    assert isinstance(world.do("transaction.cancel", "alice", transaction_id=deposit.id), ChangeLine)


@pytest.mark.parametrize("rail", [{}, {"rail": "manual"}])
def test_a04_in_live_mode_a_deposit_that_nobody_can_confirm_is_refused(rail: dict[str, str]) -> None:
    world = with_account("live")

    line = world.do("deposit.submit", "alice", account_id="alice:EUR", amount="10.00", **rail)

    assert (line.status, line.state, line.reason) == ("failed", "refused", "rail_required")
    assert world.do("account.close", "alice", account_id="alice:EUR").status == "closed"  # nothing is open on it
