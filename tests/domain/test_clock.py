"""The clock of the sandbox: moved by a command it takes deadlines along, forward only, and computes again."""

from __future__ import annotations

import pytest

from aura_stream.domain.clock import FURTHEST_MS
from aura_stream.domain.commands import format_time
from aura_stream.domain.lane_requests import SetClock
from aura_stream.domain.state import SettlementRules
from aura_stream.journal import AnswerLine, ClockLine
from tests.domain.settlement_world import SettlementWorld
from tests.domain.world import DAY, HOUR, START, World

WEEK_S = 7 * 86_400


def advance(world: World, advance_s: int, customer: str = "clock") -> ClockLine:
    """Moves the clock and lets all that is due happen; the machines' time stands still."""
    line = world.do("clock.advance", customer, operator="olga", advance_s=advance_s)
    assert isinstance(line, ClockLine)
    world.settle()
    return line


def moved(world: World) -> list[int]:
    return [shard.moved_ms for shard in world.driver.shards]


def test_a04_a_deposit_that_waits_for_funds_expires_by_the_clock_and_by_nothing_else() -> None:
    world = World()
    for customer in ("alice", "bob", "carl", "dora", "eve", "fay"):  # on all partitions
        world.open(f"{customer}:EUR")
    waiting = [
        world.do("deposit.submit", customer, account_id=f"{customer}:EUR", amount="7")
        for customer in ("alice", "bob", "carl", "dora", "eve", "fay")
    ]
    line = advance(world, WEEK_S - 1)
    assert (line.event, line.status, line.moved_ms, line.by) == ("clock.advanced", "moving", 7 * DAY - 1000, "olga")
    assert {world.transaction(one.id).state for one in waiting} == {"awaiting_funds"}
    advance(world, 1)
    assert {world.transaction(one.id).state for one in waiting} == {"expired"}
    assert [e.occurred_at for e in world.events() if e.type == "deposit.expired"] == [format_time(START + 7 * DAY)] * 6
    world.check()
    world.check_rebuild()


def test_l49_a_hold_expires_and_what_follows_has_the_new_time() -> None:
    world = World()
    world.open("alice:EUR", "100")
    until = {"account_id": "alice:EUR", "to_account_id": "alice:EUR:save", "amount": "40"}
    world.open("alice:EUR:save")
    hold = world.do("hold.place", "alice", **until, expires_at=format_time(START + HOUR))
    assert world.account("alice:EUR").held == 4000
    advance(world, 3600)
    assert (world.transaction(hold.id).state, world.account("alice:EUR").held) == ("expired", 0)
    data = {"from_account_id": "alice:EUR", "to_account_id": "alice:EUR:save", "amount": "1"}
    for effective_at, outcome in ((START + HOUR, "transaction"), (START + HOUR + 1, "effective_at_in_future")):
        line = world.do("transfer.submit", "alice", **data, effective_at=format_time(effective_at))
        assert (line.reason if isinstance(line, AnswerLine) else "transaction") == outcome
    late = world.do("hold.place", "alice", **until, expires_at=format_time(START + HOUR))
    assert (late.state, late.reason) == ("refused", "expires_at_in_past")
    world.check()


def test_a04_the_days_in_which_a_debit_may_come_back_pass_before_the_mint() -> None:
    world = SettlementWorld(settlement=SettlementRules(mint_hold_days={"default": 2}))
    world.open("alice:AUSD")
    data = {"account_id": "alice:USD", "amount": "10", "rail": "ach", "mint_to": "alice:AUSD"}
    world.open("alice:USD")
    party = {"name": "Alice Example", "account": "021000021/123456789"}
    deposit = world.do("deposit.submit", "alice", **data, payer=party)
    for kind in ("started", "accepted", "settled"):
        world.bank(deposit.id, kind)
    assert world.transaction(deposit.id).state == "funds_settled"
    advance(world, 86_400)
    assert world.transaction(deposit.id).state == "funds_settled"
    advance(world, 4 * 86_400)  # over any weekend
    assert world.transaction(deposit.id).state == "mint_queued"
    world.check()


def test_a_repeat_moves_nothing_even_after_the_days_for_which_other_keys_are_kept() -> None:
    world = World()
    sent = world.send("clock.advance", "clock", operator="olga", advance_s=3 * 86_400)
    world.settle()
    world.wait(2 * DAY)
    for _ in range(2):
        again = world.again(sent)
        assert (again.kind, again.status, again.reason) == ("repeat", "moving", "")
    other = world.again(sent, advance_s=1)
    assert (other.kind, other.reason) == ("refused", "idempotency_key_reused")
    assert moved(world) == [3 * DAY] * 4
    world.check()


def test_the_largest_sum_holds_and_time_only_goes_forward_in_whatever_order_it_is_told() -> None:
    world = World()
    names = {world.driver.partitioner(f"default/c{n}".encode()): f"c{n}" for n in range(40)}
    assert len(names) == 4
    for number, customer in enumerate(names.values(), 1):  # each partition moves it, before it has heard of the others
        world.send("clock.advance", customer, operator="olga", advance_s=number * 3600)
    first, *rest = reversed(range(4))
    for partition in (first, *rest, *range(4)):
        world.driver.step(partition)
    world.driver.run()
    assert moved(world) == [4 * HOUR] * 4
    for customer in names.values():
        world.do("account.open", customer, asset="EUR")
    for partition in range(4):
        times = [unit.at for unit in world.units(partition)]
        assert times == sorted(times) and times[-1] == START + 4 * HOUR
    world.check()
    world.check_rebuild()


def test_several_moves_add_up_where_they_are_decided() -> None:
    world = World()
    for _ in range(3):
        world.send("clock.advance", "clock", operator="olga", advance_s=60)  # all in one unit
    world.settle()
    assert moved(world) == [180_000] * 4
    assert advance(world, 60).moved_ms == 240_000


def test_a_reopened_shard_has_the_time_that_it_had() -> None:
    world = World()
    world.open("alice:EUR")
    advance(world, WEEK_S)
    for partition in range(4):
        world.driver.reopen(partition)
    assert moved(world) == [7 * DAY] * 4
    world.do("account.open", "bob", asset="EUR")
    assert max(unit.at for n in range(4) for unit in world.units(n)) == START + 7 * DAY
    world.check_rebuild()


def test_a_move_that_comes_to_nothing_leaves_the_time_as_it_is() -> None:
    world = World()
    sent = world.send("clock.advance", "clock", operator="olga", advance_s=60)
    world.driver.step(sent.record.partition, commit=False)
    assert moved(world) == [0] * 4
    world.settle()
    assert moved(world) == [60_000] * 4


def test_a13_the_lanes_are_told_and_it_is_moved_once_all_have_answered() -> None:
    world = SettlementWorld()
    advance(world, 60)
    advance(world, 60)
    asked = [one.moved_ms for one in world.requests() if isinstance(one, SetClock)]
    assert sorted(asked) == [60_000] * 4 + [120_000] * 4, "two banks, two tokens"
    assert [e.type for e in world.events() if e.type.startswith("clock")] == ["clock.advanced"] * 2
    world.answer_pauses()
    told = [e for e in world.events() if e.type == "clock.moved"]
    assert [one.data.clock.moved_ms for one in told if one.data.clock] == [120_000], "the first was overtaken"
    world.check()


def test_in_live_mode_the_ledger_itself_refuses() -> None:
    world = World(mode="live")
    line = world.do("clock.advance", "clock", operator="olga", advance_s=60)
    assert (line.kind, line.reason) == ("refused", "sandbox_only")
    assert moved(world) == [0] * 4
    assert not [one for one in world.lines() if isinstance(one[1], ClockLine)]
    world.check()


@pytest.mark.parametrize("by", [0, -1, 366 * 86_400 + 1, 1.5, "60", True, None])
def test_what_is_no_number_of_seconds_forward_is_a_dead_letter(by: object) -> None:
    world = World()
    line = world.do("clock.advance", "clock", operator="olga", advance_s=by)
    assert (line.kind, line.reason) == ("dead_letter", "invalid_field")
    assert moved(world) == [0] * 4


def test_the_clock_ends_where_times_could_not_be_written_down_any_more() -> None:
    world = World()
    year = 366 * 86_400
    for _ in range(FURTHEST_MS // (year * 1000)):
        advance(world, year)
    line = world.do("clock.advance", "clock", operator="olga", advance_s=1)
    assert (line.kind, line.reason) == ("refused", "clock_too_far")
    world.do("account.open", "alice", asset="EUR")
    world.check()
