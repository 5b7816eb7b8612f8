"""Tenants that come while the ledger runs: no partition is surprised by one that is open."""

from __future__ import annotations

from typing import cast

import pytest

from aura_stream.journal import AnswerLine
from tests.domain.world import World


def _open(world: World, tenant: str, customer: str = "ops") -> AnswerLine:
    answer = world.do("tenant.open", customer, operator="olga", tenant_id=tenant)
    assert isinstance(answer, AnswerLine)
    return answer


def test_a_new_tenant_has_accounts_and_money_as_soon_as_it_is_open() -> None:
    world = World()
    refused = world.do("account.open", "ada", tenant="new", asset="EUR")
    assert (refused.kind, refused.reason) == ("dead_letter", "tenant_not_found")
    assert (_open(world, "new").kind, _open(world, "new").status) == ("done", "open")
    for customer in ("ada", "bob", "cleo", "dan", "eve", "fay"):  # on all partitions
        assert world.do("account.open", customer, tenant="new", asset="EUR").status == "open"
    assert world.do("deposit.submit", "ada", tenant="new", account_id="ada:EUR", amount="10").status == "processing"
    world.check()


def test_a_tenant_is_opening_until_every_partition_knows_it() -> None:
    world = World()
    sent = world.send("tenant.open", "ops", operator="olga", tenant_id="new")
    asked = [world.send("tenant.open", f"ops{n}", operator="olga", tenant_id="new") for n in range(6)]
    world.driver.run()
    assert cast("AnswerLine", world.answer(sent)).status == "opening"
    assert {cast("AnswerLine", world.answer(one)).status for one in asked} <= {"opening", "open"}
    for n in range(6):
        assert _open(world, "new", f"ops{n}").status == "open"


def test_whoever_asks_from_another_partition_waits_for_all_partitions_too() -> None:
    world = World()
    first = {world.send("tenant.open", f"ops{n}", operator="olga", tenant_id="new").record.partition for n in range(1)}
    world.driver.run()
    other = next(f"o{n}" for n in range(50) if world.driver.partitioner(f"default/o{n}".encode()) not in first)
    assert _open(world, "new", other).status == "opening"
    assert _open(world, "new", other).status == "open"


def test_a_tenant_of_the_settings_is_open_and_nobody_is_told() -> None:
    world = World()
    before = len(list(world.lines()))
    assert _open(world, "demo").status == "open"
    assert len(list(world.lines())) == before + 1


def test_the_same_command_twice_tells_once() -> None:
    world = World()
    sent = world.send("tenant.open", "ops", operator="olga", tenant_id="new")
    world.driver.run()
    again = world.again(sent)
    assert (again.kind, again.status) == ("repeat", "opening")
    assert _open(world, "new").status == "open"


@pytest.mark.parametrize("tenant", ["", "New", "a b", "a/b", "x" * 65])
def test_a_name_that_is_none_is_a_dead_letter(tenant: str) -> None:
    assert _open(World(), tenant).kind == "dead_letter"


def test_a_command_of_the_new_tenant_itself_does_not_open_it() -> None:
    world = World()
    answer = world.do("tenant.open", "ops", tenant="new", operator="olga", tenant_id="new")
    assert (answer.kind, answer.reason) == ("dead_letter", "tenant_not_found")
