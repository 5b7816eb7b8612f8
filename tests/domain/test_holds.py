"""Holds: each edge of the diagram in `aura_stream/domain/holds.py`, and what it refuses."""

from __future__ import annotations

import pytest

from aura_stream.domain.commands import format_time
from aura_stream.journal import TransactionLine
from tests.domain.world import DAY, HOUR, World


def with_money() -> World:
    world = World()
    world.open("alice:EUR", "100")
    world.open("alice:EUR:shop")
    world.open("eve:EUR")
    return world


def a_hold(world: World, to: str = "alice:EUR:shop", amount: str = "30", until: int = DAY) -> TransactionLine:
    expires_at = format_time(world.at + until)
    line = world.do(
        "hold.place", "alice", account_id="alice:EUR", to_account_id=to, amount=amount, expires_at=expires_at
    )
    assert isinstance(line, TransactionLine)
    return line


def entries(line: TransactionLine) -> list[tuple[str, str, str]]:
    return [(e.account_id, e.layer, e.amount) for e in line.journals[0].entries]


def test_placed_hold_moves_money_from_available_to_held() -> None:
    world = with_money()

    hold = a_hold(world)

    assert (hold.event, hold.status, hold.state, hold.expires_at) == (
        "hold.placed",
        "processing",
        "held",
        world.at + DAY,
    )
    assert entries(hold) == [("alice:EUR", "available", "3000"), ("alice:EUR", "held", "-3000")]
    account = world.account("alice:EUR")
    assert (account.available, account.held, account.open_items) == (7000, 3000, 1)
    assert world.do("account.close", "alice", account_id="alice:EUR").reason == "account_in_use"
    world.check()


def test_whole_capture_goes_to_the_target() -> None:
    world = with_money()
    hold = a_hold(world)

    line = world.do("hold.capture", "alice", transaction_id=hold.id)

    assert (line.event, line.status, line.state, line.captured) == ("hold.captured", "completed", "captured", "3000")
    assert entries(line) == [("alice:EUR", "held", "3000"), ("alice:EUR:shop", "available", "-3000")]
    assert world.account("alice:EUR:shop").available == 3000
    world.check()


def test_part_is_captured_once_and_the_rest_is_released_in_the_same_journal() -> None:
    world = with_money()
    hold = a_hold(world)

    line = world.do("hold.capture", "alice", transaction_id=hold.id, amount="10.5")
    again = world.do("hold.capture", "alice", transaction_id=hold.id, amount="5")

    assert entries(line) == [
        ("alice:EUR", "held", "3000"),
        ("alice:EUR:shop", "available", "-1050"),
        ("alice:EUR", "available", "-1950"),
    ]
    assert again.reason == "already_processed"
    account = world.account("alice:EUR")
    assert (account.available, account.held, account.open_items) == (8950, 0, 0)
    world.check()


def test_capture_towards_another_customer_goes_through_clearing() -> None:
    world = with_money()
    hold = a_hold(world, to="eve:EUR")

    line = world.do("hold.capture", "alice", transaction_id=hold.id, amount="10")

    assert (line.event, line.status, line.state) == ("hold.capturing", "processing", "capturing")
    assert world.transaction(hold.id).state == "captured"
    assert world.account("eve:EUR").available == 1000
    assert world.account("alice:EUR").available == 9000
    assert world.types(hold.id, "alice") == ["hold.placed", "hold.capturing", "hold.captured"]
    assert world.types(hold.id, "eve") == ["transfer.received"]
    world.check()


def test_capture_that_the_receiver_refuses_comes_back() -> None:
    world = with_money()
    hold = a_hold(world, to="eve:EUR")
    world.do("account.freeze", "eve", account_id="eve:EUR")

    world.do("hold.capture", "alice", transaction_id=hold.id, amount="10")

    after = world.transaction(hold.id)
    assert (after.status, after.state, after.reason, after.captured) == ("failed", "returned", "account_frozen", 0)
    assert world.account("alice:EUR").available == 10_000
    world.check()


def test_late_answer_to_a_capture_calls_a_person_and_still_ends_it() -> None:
    world = with_money()
    hold = a_hold(world, to="eve:EUR")
    world.send("hold.capture", "alice", transaction_id=hold.id)
    alice = world.driver.partitioner(b"default/alice")
    world.driver.step(alice)

    world.at += HOUR
    world.driver.step(alice, clock=world.at)

    late = world.transaction(hold.id)
    assert (late.status, late.state, late.captured) == ("requires_attention", "capturing", 3000)
    assert world.transaction(hold.id).deadline == 0
    world.check()
    world.driver.run()
    assert world.transaction(hold.id).state == "captured"
    world.check()


@pytest.mark.parametrize(("action", "state"), [("hold.release", "released"), ("transaction.cancel", "canceled")])
def test_hold_is_given_back_even_on_a_frozen_account(action: str, state: str) -> None:
    world = with_money()
    hold = a_hold(world)
    world.do("account.freeze", "alice", account_id="alice:EUR")

    line = world.do(action, "alice", transaction_id=hold.id)

    assert (line.event, line.status, line.state) == (f"hold.{state}", "canceled", state)
    assert world.account("alice:EUR").available == 10_000
    assert world.do(action, "alice", transaction_id=hold.id).reason == "already_processed"
    assert world.do("hold.capture", "alice", transaction_id=hold.id).reason == "invalid_state_transition"
    world.check()


def test_hold_expires_at_its_deadline_even_on_a_frozen_account() -> None:
    world = with_money()
    hold = a_hold(world)
    world.do("account.freeze", "alice", account_id="alice:EUR")

    world.wait(DAY - 1)
    assert world.transaction(hold.id).state == "held"
    world.wait(1)

    after = world.transaction(hold.id)
    assert (after.status, after.state, after.reason) == ("canceled", "expired", "expired")
    assert world.account("alice:EUR").available == 10_000
    assert world.types(hold.id) == ["hold.placed", "hold.expired"]
    world.check()
    world.check_rebuild()


def test_capture_that_comes_with_the_deadline_is_too_late() -> None:
    world = with_money()
    hold = a_hold(world)
    world.at += DAY

    assert world.do("hold.capture", "alice", transaction_id=hold.id).reason == "invalid_state_transition"
    assert world.account("alice:EUR").held == 0


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        ("30.01", "amount_exceeds_limit"),
        ("0", "negative_amount"),
        ("-1", "negative_amount"),
        ("1.555", "invalid_amount_format"),
    ],
)
def test_capture_of_a_wrong_amount_leaves_the_hold(amount: str, reason: str) -> None:
    world = with_money()
    hold = a_hold(world)
    before = world.money()

    assert world.do("hold.capture", "alice", transaction_id=hold.id, amount=amount).reason == reason
    assert world.money() == before


@pytest.mark.parametrize("account", ["alice:EUR", "alice:EUR:shop"])
def test_capture_from_or_to_a_frozen_account_leaves_the_hold(account: str) -> None:
    world = with_money()
    hold = a_hold(world)
    world.do("account.freeze", "alice", account_id=account)

    assert world.do("hold.capture", "alice", transaction_id=hold.id).reason == "account_frozen"
    world.do("account.unfreeze", "alice", account_id=account)
    assert world.do("hold.capture", "alice", transaction_id=hold.id).event == "hold.captured"
    world.check()


def test_hold_whose_target_was_closed_can_only_be_given_back() -> None:
    world = with_money()
    hold = a_hold(world)
    world.do("account.close", "alice", account_id="alice:EUR:shop")

    assert world.do("hold.capture", "alice", transaction_id=hold.id).reason == "account_inactive"
    assert world.do("hold.release", "alice", transaction_id=hold.id).event == "hold.released"
    world.check()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"amount": "0"}, "negative_amount"),
        ({"amount": "100.01"}, "insufficient_funds"),
        ({"to_account_id": "alice:EUR"}, "self_transfer"),
        ({"to_account_id": "eve:USD"}, "currency_mismatch"),
        ({"to_account_id": "demo/eve:EUR"}, "cross_tenant"),
        ({"to_account_id": "alice:EUR:none"}, "account_not_found"),
        ({"account_id": "eve:EUR"}, "account_not_found"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at_in_past"),
    ],
)
def test_refused_hold_is_a_failed_transaction_that_moves_nothing(data: dict[str, str], reason: str) -> None:
    world = with_money()
    before = world.money()
    asked = {"account_id": "alice:EUR", "to_account_id": "eve:EUR", "amount": "1", "expires_at": "2030-01-01T00:00:00Z"}

    line = world.do("hold.place", "alice", **(asked | data))

    assert (line.event, line.status, line.state, line.reason) == ("hold.failed", "failed", "refused", reason)
    after = world.money()
    assert {key: after[key] for key in before} == before
    world.check()


@pytest.mark.parametrize("action", ["deposit.confirm", "deposit.reject"])
def test_hold_is_no_deposit(action: str) -> None:
    world = with_money()
    hold = a_hold(world)

    assert world.do(action, "alice", transaction_id=hold.id).reason == "invalid_state_transition"
