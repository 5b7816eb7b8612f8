"""Limits per day: many payments below every other limit trip them, by whatever way they leave."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_stream.domain.commands import format_time
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Submission
from aura_stream.domain.state import DayLimit, SettlementRules
from aura_stream.domain.velocity import Sent, counted
from tests.domain.settlement_world import SettlementWorld
from tests.domain.world import DAY

BENEFICIARY = {"name": "Alice", "account": "DE89370400440532013000"}


def a_world(**limit: int) -> SettlementWorld:
    """Alice has 1,000.00 EUR at the beginning of a day; her tenant has a limit and an approval far above it."""
    rules = SettlementRules(
        approval_above={"default": {"EUR": 50_000}}, day_limits={"default": {"EUR": DayLimit(**limit)}}
    )
    world = SettlementWorld(settlement=rules)
    world.open("alice:EUR", "1000.00")
    world.open("alice:EUR:savings")
    world.open("bob:EUR")
    world.wait(DAY - world.at % DAY)
    return world


def transfer(world: SettlementWorld, amount: str, source: str = "alice:EUR", target: str = "bob:EUR") -> Any:
    return world.do("transfer.submit", "alice", from_account_id=source, to_account_id=target, amount=amount)


def test_sec27_many_small_transfers_under_the_threshold_trip_the_limit_of_the_day() -> None:
    world = a_world(amount=10_000)

    for _ in range(10):
        assert transfer(world, "9.99").status != "failed"
    trips = transfer(world, "9.99")

    assert (trips.status, trips.state, trips.reason) == ("failed", "refused", "daily_limit_exceeded")
    assert transfer(world, "0.10").status != "failed"  # exactly up to the limit
    assert transfer(world, "0.01").reason == "daily_limit_exceeded"
    world.wait(DAY)
    assert transfer(world, "9.99").status != "failed"
    world.check()
    world.check_rebuild()


def test_sec27_it_is_one_limit_for_every_way_out_and_every_account_of_a_customer() -> None:
    world = a_world(count=4)
    transfer(world, "100.00", target="alice:EUR:savings")  # to oneself: not counted

    assert transfer(world, "1.00").status != "failed"
    assert transfer(world, "1.00", source="alice:EUR:savings").status != "failed"
    hold = {"account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "1.00"}
    hold |= {"expires_at": format_time(world.at + DAY)}
    assert world.do("hold.place", "alice", **hold).status == "processing"
    payout = {"account_id": "alice:EUR", "amount": "1.00", "rail": "sepa", "beneficiary": BENEFICIARY}
    assert world.do("withdrawal.submit", "alice", **payout).status != "failed"

    assert transfer(world, "1.00", source="alice:EUR:savings").reason == "velocity_exceeded"
    assert world.do("hold.place", "alice", **hold).reason == "velocity_exceeded"
    assert world.do("withdrawal.submit", "alice", **payout).reason == "velocity_exceeded"
    world.check_rebuild()


def test_sec27_only_what_is_taken_counts_and_a_repeat_counts_once() -> None:
    world = a_world(count=2)

    assert transfer(world, "5000.00").reason == "insufficient_funds"
    data = {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "1.00"}
    for _ in range(5):
        world.do("transfer.submit", "alice", key="one", **data)
    assert transfer(world, "1.00").status != "failed"
    assert transfer(world, "1.00").reason == "velocity_exceeded"
    assert transfer(world, "5000.00").reason == "velocity_exceeded"


@pytest.mark.parametrize("tenant", ["default", "demo"])
def test_sec27_a_limit_is_its_tenants(tenant: str) -> None:
    limits = {tenant: {"EUR": DayLimit(count=1)}}
    world = SettlementWorld(settlement=SettlementRules(day_limits=limits))
    world.open("alice:EUR", "10.00")
    world.open("bob:EUR")

    transfer(world, "1.00")

    assert (transfer(world, "1.00").reason == "velocity_exceeded") == (tenant == "default")


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 3 * DAY)), max_size=60),
    st.integers(0, 5),
    st.integers(0, 999),
)
def test_sec27_no_day_goes_above_the_limit(asked: list[tuple[int, int]], count: int, amount: int) -> None:
    limit, before, at = DayLimit(count, amount), None, 0
    taken: dict[int, list[int]] = {}
    for cents, later in asked:
        at += later
        one = Submission("transfer", "", "t", "a", "a:EUR", "b:EUR", "b", "EUR", cents, "", None, 0, None)
        try:
            before = counted(limit, before, one, at)
        except Refused:
            day = taken.get(at // DAY, [])
            assert (count and len(day) == count) or (amount and sum(day) + cents > amount)
            continue
        taken.setdefault(at // DAY, []).append(cents)
        assert before == Sent(at // DAY, len(taken[at // DAY]), sum(taken[at // DAY]))
    for day in taken.values():
        assert not count or len(day) <= count
        assert not amount or sum(day) <= amount
