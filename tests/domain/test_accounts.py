"""Accounts: each edge of the diagram in `aura_stream/domain/accounts.py`, and what it refuses."""

from __future__ import annotations

import pytest

from aura_stream.journal import AccountLine, AnswerLine
from tests.domain.world import DAY, World


def test_account_is_opened_once_and_names_separate_accounts() -> None:
    world = World()

    first = world.do("account.open", "alice", asset="EUR")
    named = world.do("account.open", "alice", asset="EUR", name="savings")
    again = world.do("account.open", "alice", asset="EUR")

    assert (first.account_id, first.event, first.status) == ("alice:EUR", "account.opened", "open")
    assert (named.account_id, named.name) == ("alice:EUR:savings", "savings")
    assert (again.kind, again.reason) == ("refused", "account_already_exists")
    world.check()


def test_customers_of_two_tenants_with_one_name_never_meet() -> None:
    world = World()
    world.open("alice:EUR", "10")
    world.open("alice:EUR", "20", tenant="demo")

    assert world.account("alice:EUR").available == 1000
    assert world.account("alice:EUR", tenant="demo").available == 2000
    world.check()


def test_account_is_frozen_and_unfrozen() -> None:
    world = World()
    world.open("alice:EUR")

    assert world.do("account.freeze", "alice", account_id="alice:EUR").event == "account.frozen"
    assert world.account("alice:EUR").status == "frozen"
    assert world.do("account.freeze", "alice", account_id="alice:EUR").reason == "already_processed"
    assert world.do("account.unfreeze", "alice", account_id="alice:EUR").event == "account.unfrozen"
    assert world.account("alice:EUR").status == "open"
    assert world.do("account.unfreeze", "alice", account_id="alice:EUR").reason == "already_processed"


@pytest.mark.parametrize("frozen", [False, True])
def test_empty_account_is_closed_for_good(frozen: bool) -> None:
    world = World()
    world.open("alice:EUR")
    if frozen:
        world.do("account.freeze", "alice", account_id="alice:EUR")

    closed = world.do("account.close", "alice", account_id="alice:EUR")

    assert (closed.event, closed.status) == ("account.closed", "closed")
    assert world.account("alice:EUR").closed_at == world.at
    assert world.do("account.close", "alice", account_id="alice:EUR").reason == "already_processed"
    assert world.do("account.freeze", "alice", account_id="alice:EUR").reason == "account_inactive"
    assert world.do("account.unfreeze", "alice", account_id="alice:EUR").reason == "account_inactive"
    assert world.do("account.open", "alice", asset="EUR").reason == "account_already_exists"
    world.check()


def test_account_with_money_is_not_closed() -> None:
    world = World()
    world.open("alice:EUR", "0.01")

    assert world.do("account.close", "alice", account_id="alice:EUR").reason == "account_in_use"
    assert world.account("alice:EUR").status == "open"


def test_account_that_awaits_a_deposit_is_not_closed() -> None:
    world = World()
    world.open("alice:EUR")
    world.do("deposit.submit", "alice", account_id="alice:EUR", amount="5")

    assert world.do("account.close", "alice", account_id="alice:EUR").reason == "account_in_use"


def test_account_with_money_under_way_is_not_closed_so_that_it_can_come_back() -> None:
    world = World()
    world.open("alice:EUR", "5")
    sent = world.send("transfer.submit", "alice", from_account_id="alice:EUR", to_account_id="eve:EUR", amount="5")
    close = world.send("account.close", "alice", account_id="alice:EUR")
    world.driver.step(world.driver.partitioner(b"default/alice"))

    (line,) = world.answers(close)
    assert isinstance(line, AnswerLine)
    assert line.reason == "account_in_use"
    world.driver.run()
    assert world.transaction(sent.transaction_id).state == "returned"
    assert world.account("alice:EUR").available == 500
    world.check()


@pytest.mark.parametrize("type_", ["account.freeze", "account.unfreeze", "account.close"])
@pytest.mark.parametrize("account", ["alice:EUR", "bob:EUR", "@clearing:EUR"])
def test_account_that_is_missing_or_not_the_customers_is_not_found(type_: str, account: str) -> None:
    world = World()
    world.open("bob:EUR")

    assert world.do(type_, "alice", account_id=account).reason == "account_not_found"
    assert world.account("bob:EUR").status == "open"


def test_account_of_another_tenant_is_refused() -> None:
    assert World().do("account.close", "alice", account_id="demo/alice:EUR").reason == "cross_tenant"


def test_a23_key_of_an_account_command_is_free_again_after_a_day() -> None:
    world = World()
    sent = world.send("account.open", "alice", key="k", asset="EUR")
    world.driver.run()

    assert world.again(sent).kind == "repeat"
    assert world.again(sent, asset="USD").reason == "idempotency_key_reused"
    world.wait(DAY)
    reopened = world.again(sent, asset="USD")
    assert isinstance(reopened, AccountLine)
    assert reopened.account_id == "alice:USD"
    world.check()
    world.check_rebuild()
