"""The book and the whole: balances are sums of entries, and a restart loses nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from aura_stream.domain.ledger import Broken, book, needed, with_open_items
from aura_stream.domain.state import AVAILABLE, HELD, Account, Posting
from aura_stream.journal import ChangeLine, ReceivedLine, TransactionLine
from tests.domain.test_schemas import a_scenario


def test_book_moves_money_between_layers_and_counts_entries() -> None:
    postings = (Posting("a:EUR", AVAILABLE, 30), Posting("a:EUR", HELD, -30))

    after = book(postings, {"a:EUR": Account("open", 100)})

    assert after["a:EUR"] == Account("open", available=70, held=30, entries=2)


@pytest.mark.parametrize(
    "postings",
    [
        (Posting("a:EUR", AVAILABLE, 30), Posting("@clearing:EUR", AVAILABLE, -29)),
        (Posting("a:EUR", AVAILABLE, 101), Posting("@clearing:EUR", AVAILABLE, -101)),
        (Posting("a:EUR", HELD, 1), Posting("a:EUR", AVAILABLE, -1)),
    ],
)
def test_book_takes_no_journal_that_breaks_it(postings: tuple[Posting, ...]) -> None:
    with pytest.raises(Broken):
        book(postings, {"a:EUR": Account("open", 100)})


def test_open_items_never_fall_below_none() -> None:
    with pytest.raises(Broken):
        with_open_items(Account("open"), -1)


@pytest.mark.parametrize("account", [None, Account("closed")])
def test_account_of_an_open_transaction_cannot_be_gone(account: Account | None) -> None:
    with pytest.raises(Broken):
        needed(account, "a:EUR")


def test_a10_a_balance_is_the_sum_of_entries() -> None:
    world = a_scenario()
    sums: Counter[str] = Counter()
    for _, line in world.lines():
        if isinstance(line, TransactionLine | ChangeLine | ReceivedLine):
            for journal in line.journals:
                for entry in journal.entries:
                    sums[f"{entry.account_id} {entry.layer}"] -= int(entry.amount)

    for name in ("alice:EUR", "alice:EUR:save", "eve:EUR", "bob:EUR"):
        account = world.find(name)
        assert account is not None
        assert (account.available, account.held) == (sums[f"{name} available"], sums[f"{name} held"])


def test_a11_a21_each_transition_is_in_the_journal_and_the_last_is_the_transactions_state() -> None:
    world = a_scenario()
    last: dict[str, tuple[str, str, str]] = {}
    for _, line in world.lines():
        if isinstance(line, TransactionLine | ChangeLine):
            last[line.id] = (line.status, line.state, line.reason)

    assert len(last) >= 12
    for transaction_id, state in last.items():
        transaction = world.transaction(transaction_id)
        assert (transaction.status, transaction.state, transaction.reason) == state


def test_s20_a_restart_loses_nothing_and_a_rebuild_gives_the_same() -> None:
    world = a_scenario()
    before = world.money()

    for partition in range(world.partitions):
        world.driver.reopen(partition)
    world.driver.run()

    assert world.money() == before
    world.check()
    world.check_rebuild()
