"""Transfers: each edge of the diagram in `aura_stream/domain/transfers.py`, and what it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aura_stream.domain.signals import Answer
from aura_stream.engine.errors import EngineError
from aura_stream.journal import AnswerLine, ReceivedLine, journal_id
from tests.domain.world import HOUR, NAMES, Sent, World

# Partitions of these customers differ: what one does can wait for the other.
ALICE, EVE = b"default/alice", b"default/eve"


def with_money() -> World:
    world = World()
    world.open("alice:EUR", "100")
    return world


def a_transfer(world: World, to: str = "eve:EUR", amount: str = "30") -> Sent:
    return world.send("transfer.submit", "alice", from_account_id="alice:EUR", to_account_id=to, amount=amount)


def received(world: World, transaction_id: str) -> ReceivedLine:
    (line,) = (line for _, line in world.lines() if isinstance(line, ReceivedLine) and line.id == transaction_id)
    return line


def sent_and_not_yet_received(world: World) -> Sent:
    assert world.driver.partitioner(ALICE) != world.driver.partitioner(EVE)
    sent = a_transfer(world)
    world.driver.step(world.driver.partitioner(ALICE))
    assert world.transaction(sent.transaction_id).state == "sent"
    return sent


def test_x22_transfer_inside_a_customer_is_one_journal_and_one_event() -> None:
    world = with_money()
    world.open("alice:EUR:save")

    line = world.do(
        "transfer.submit", "alice", from_account_id="alice:EUR", to_account_id="alice:EUR:save", amount="30.5"
    )

    assert (line.event, line.status, line.state) == ("transfer.completed", "completed", "completed")
    entries = [(e.account_id, e.layer, e.amount) for e in line.journals[0].entries]
    assert entries == [("alice:EUR", "available", "3050"), ("alice:EUR:save", "available", "-3050")]
    assert world.types(line.id) == ["transfer.completed"]
    assert (world.account("alice:EUR").available, world.account("alice:EUR:save").available) == (6950, 3050)
    world.check()


def test_a08_transfer_to_another_customer_goes_through_clearing_and_completes() -> None:
    world = with_money()
    world.open("eve:EUR")

    sent = sent_and_not_yet_received(world)
    world.check()
    assert (world.account("alice:EUR").available, world.account("alice:EUR").open_items) == (7000, 1)
    world.driver.run()

    transaction = world.transaction(sent.transaction_id)
    assert (transaction.status, transaction.state, transaction.deadline) == ("completed", "completed", 0)
    assert world.account("eve:EUR").available == 3000
    half = received(world, sent.transaction_id)
    assert (half.event, half.customer, half.from_account_id) == ("transfer.received", "eve", "alice:EUR")
    (done,) = (line for _, line in world.lines() if getattr(line, "also_journal", 0))
    assert done.also_journal == journal_id(world.driver.partitioner(EVE), half.journals[0].number)  # type: ignore[union-attr]  # a change
    assert world.types(sent.transaction_id, "alice") == ["transfer.sent", "transfer.completed"]
    assert world.types(sent.transaction_id, "eve") == ["transfer.received"]
    world.check()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [((), "account_not_found"), (("freeze",), "account_frozen"), (("close",), "account_inactive")],
)
def test_transfer_that_the_receiver_refuses_comes_back(prepare: tuple[str, ...], reason: str) -> None:
    world = with_money()
    for step in prepare:
        world.open("eve:EUR")
        world.do(f"account.{step}", "eve", account_id="eve:EUR")

    sent = a_transfer(world)
    world.driver.run()

    transaction = world.transaction(sent.transaction_id)
    assert (transaction.status, transaction.state, transaction.reason) == ("failed", "returned", reason)
    assert world.account("alice:EUR").available == 10_000
    assert received(world, sent.transaction_id).event == "transfer.refused"
    assert world.types(sent.transaction_id, "alice") == ["transfer.sent", "transfer.returned"]
    assert world.types(sent.transaction_id, "eve") == ["transfer.refused"]
    world.check()


def test_returned_money_lands_on_an_account_that_was_frozen_meanwhile() -> None:
    world = with_money()
    sent = sent_and_not_yet_received(world)

    world.do("account.freeze", "alice", account_id="alice:EUR")

    assert world.transaction(sent.transaction_id).state == "returned"
    assert world.account("alice:EUR").available == 10_000
    world.check()


@pytest.mark.parametrize("receiver_exists", [True, False])
def test_late_answer_calls_a_person_and_still_ends_the_transfer(receiver_exists: bool) -> None:
    world = with_money()
    if receiver_exists:
        world.open("eve:EUR")
    sent = sent_and_not_yet_received(world)

    world.at += HOUR
    alice = world.driver.partitioner(ALICE)
    world.driver.step(alice, clock=world.at)

    late = world.transaction(sent.transaction_id)
    assert (late.status, late.state) == ("requires_attention", "sent")
    world.check()
    world.driver.run()
    ended = world.transaction(sent.transaction_id)
    assert (ended.status, ended.state) == (("completed", "completed") if receiver_exists else ("failed", "returned"))
    assert world.types(sent.transaction_id, "alice")[:2] == ["transfer.sent", "transfer.requires_attention"]
    world.check()
    world.check_rebuild()


@pytest.mark.parametrize("to", ["eve:EUR", "alice:EUR:save"])
def test_transfer_cannot_be_canceled(to: str) -> None:
    world = with_money()
    world.open("alice:EUR:save")
    sent = a_transfer(world, to)
    cancel = world.send("transaction.cancel", "alice", transaction_id=sent.transaction_id)
    world.driver.run()

    line: Any = world.answer(cancel)
    assert line.reason == "invalid_state_transition"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"amount": "0"}, "negative_amount"),
        ({"amount": "-1.00"}, "negative_amount"),
        ({"amount": "100.01"}, "insufficient_funds"),
        ({"to_account_id": "alice:EUR"}, "self_transfer"),
        ({"to_account_id": "eve:USD"}, "currency_mismatch"),
        ({"to_account_id": "demo/eve:EUR"}, "cross_tenant"),
        ({"from_account_id": "default/alice:EUR"}, "cross_tenant"),
        ({"to_account_id": "@clearing:EUR"}, "account_not_found"),
        ({"from_account_id": "@bank:EUR"}, "account_not_found"),
        ({"from_account_id": "eve:EUR"}, "account_not_found"),
        ({"from_account_id": "alice:EUR:none"}, "account_not_found"),
        ({"to_account_id": "alice:EUR:none"}, "account_not_found"),
        ({"from_account_id": "alice:EUR:frozen"}, "account_frozen"),
        ({"to_account_id": "alice:EUR:frozen"}, "account_frozen"),
        ({"from_account_id": "alice:EUR:closed"}, "account_inactive"),
        ({"to_account_id": "alice:EUR:closed"}, "account_inactive"),
    ],
)
def test_refused_transfer_is_a_failed_transaction_that_moves_nothing(data: dict[str, str], reason: str) -> None:
    world = with_money()
    world.open("eve:EUR", "1")
    for name, step in (("frozen", "freeze"), ("closed", "close")):
        world.open(f"alice:EUR:{name}")
        world.do(f"account.{step}", "alice", account_id=f"alice:EUR:{name}")
    before = world.money()
    asked = {"from_account_id": "alice:EUR", "to_account_id": "eve:EUR", "amount": "1"} | data

    line = world.do("transfer.submit", "alice", **asked)

    assert (line.event, line.status, line.state, line.reason) == ("transfer.failed", "failed", "refused", reason)
    assert line.journals == []
    assert world.types(line.id) == ["transfer.failed"]
    after = world.money()
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 1
    world.check()


def test_x24_a_hundred_transfers_from_one_account_leave_the_exact_balance() -> None:
    world = with_money()
    world.open("eve:EUR")

    for _ in range(100):
        a_transfer(world, amount="1.01")
    world.driver.run()

    assert (world.account("alice:EUR").available, world.account("eve:EUR").available) == (10_000 - 99 * 101, 99 * 101)
    failed = [line for _, line in world.lines() if getattr(line, "event", "") == "transfer.failed"]
    assert len(failed) == 1
    world.check()


def test_largest_amount_is_exact() -> None:
    world = World()
    most = "99999999999999999999.999999999999999999"
    world.open("alice:ETH", most)
    world.open("eve:ETH", most)

    world.do("transfer.submit", "alice", from_account_id="alice:ETH", to_account_id="eve:ETH", amount=most)

    assert world.account("eve:ETH").available == 2 * (10**38 - 1)
    world.driver.reopen(world.driver.partitioner(EVE))
    world.check()
    world.check_rebuild()


def test_credit_that_cannot_be_handled_goes_back_and_leaves_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_money()
    world.open("eve:EUR")

    def broken(*_: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("agents.ledger.transfers.receive", broken)
    sent = a_transfer(world)
    world.driver.run()

    assert world.transaction(sent.transaction_id).state == "returned"
    assert world.transaction(sent.transaction_id).reason == "internal_error"
    assert len(world.driver.values("aura.dead-letters.v1")) == 1
    world.check()


def test_second_answer_to_a_transfer_stops_the_partition() -> None:
    world = with_money()
    sent = a_transfer(world)
    world.driver.run()
    alice = world.driver.partitioner(ALICE)
    answer = msgspec.json.encode(Answer(sent.transaction_id, "default", True))
    forged = b'{"source":9,"seq":1,"at":%d,"signals":[%b]}' % (world.at, answer)
    world.driver.append(NAMES.signals, alice, b"9", forged, world.at)

    with pytest.raises(EngineError, match="neither handled nor refused"):
        world.driver.step(alice)


def test_effective_time_of_a_transfer_counts_on_both_sides() -> None:
    world = with_money()
    world.open("eve:EUR")
    line = world.do(
        "transfer.submit",
        "alice",
        from_account_id="alice:EUR",
        to_account_id="eve:EUR",
        amount="1",
        effective_at="2026-01-01T00:00:00Z",
    )

    assert line.journals[0].effective_at == received(world, line.id).journals[0].effective_at == 1_767_225_600_000
    assert not isinstance(line, AnswerLine)
