"""The journal's tail as bookkeeping: hand-made records in, outcomes and kept lines out."""

from __future__ import annotations

import asyncio
from typing import Any

from aura_stream.journal import (
    AnswerLine,
    ChangeLine,
    Entry,
    Journal,
    Line,
    ReceivedLine,
    TransactionLine,
    UnitRecord,
    journal_id,
)
from web.recent import Recent
from web.views import newest, recent_entries

ID = "4bd1f4c2-64f4-5b0a-8f7b-0c7e2f6d5b11"


def a_unit(seq: int, *lines: Line, commands: tuple[int, int] | None = None, partition: int = 0) -> UnitRecord:
    inputs: list[list[str | int]] = [["commands", *commands]] if commands else []
    return UnitRecord(partition=partition, seq=seq, at=1000, lines=list(lines), inputs=inputs)


def a_journal(number: int, *entries: tuple[str, str]) -> Journal:
    legs = [Entry(account, "available", amount) for account, amount in entries]
    return Journal(number, ID, "transfer.sent", "default", "EUR", 1000, 1000, legs)


def a_transfer(**changed: Any) -> TransactionLine:
    fields: dict[str, Any] = {
        "id": ID,
        "command_id": "c1",
        "tenant": "default",
        "customer": "alice",
        "type": "transfer",
        "event": "transfer.sent",
        "status": "processing",
        "state": "sent",
        "asset": "EUR",
        "amount": "1250",
        "idempotency_key": "k1",
        "at": 1000,
        "from_account_id": "alice:EUR",
        "to_account_id": "bob:EUR",
        "journals": [a_journal(1, ("alice:EUR", "1250"), ("@clearing:EUR", "-1250"))],
    }
    return TransactionLine(**fields | changed)


def a_change(seq: int, status: str, state: str, **more: Any) -> ChangeLine:
    return ChangeLine(ID, "default", "alice", "transfer", seq, f"transfer.{state}", status, state, 2000, **more)


async def test_outcome_reaches_the_waiter_of_its_command_only() -> None:
    recent = Recent(1)
    with recent.waiter("c1") as mine, recent.waiter("c2") as other:
        recent.apply(0, 10, a_unit(1, a_transfer(), commands=(5, 5)))

        assert (await mine) == a_transfer()
        assert not other.done()
    assert recent.waiting == 0


async def test_further_changes_reach_the_watchers_of_the_transaction() -> None:
    recent = Recent(1)
    with recent.watcher(ID) as first, recent.watcher(ID) as second:
        recent.apply(0, 10, a_unit(1, a_change(2, "completed", "completed")))

        assert first.get_nowait().seq == second.get_nowait().seq == 2
    assert recent.waiting == 0


def test_status_never_goes_back_when_lines_come_before_their_row() -> None:
    recent = Recent(2)
    recent.apply(0, 10, a_unit(1, a_transfer()))
    recent.apply(1, 7, a_unit(1, a_received(), partition=1))
    recent.apply(0, 12, a_unit(2, a_change(2, "completed", "completed", also_journal=journal_id(1, 1))))

    view = newest(None, recent.transaction(ID))

    assert view is not None
    assert (view.resource["status"], view.resource["seq"], view.resource["amount"]) == ("completed", 2, "12.50")
    assert view.journal_ids == [journal_id(0, 1), journal_id(1, 1)]
    entries = recent_entries(recent.transaction(ID))
    assert [entry["amount"] for one in view.journal_ids for entry in entries[one]] == ["12.50", "-12.50"] * 2


def a_received() -> ReceivedLine:
    half = a_journal(1, ("@clearing:EUR", "1250"), ("bob:EUR", "-1250"))
    return ReceivedLine(
        ID, "default", "bob", "bob:EUR", "EUR", "1250", "transfer.received", 1500, "", "alice:EUR", [half]
    )


def test_lines_are_dropped_once_postgres_has_them_and_not_before() -> None:
    recent = Recent(1)
    recent.apply(0, 10, a_unit(1, a_transfer()))
    recent.apply(0, 12, a_unit(2, a_change(2, "completed", "completed")))

    recent.forget(0, 10)
    assert len(recent) == 2
    recent.forget(0, 12)
    kept = recent.transaction(ID)
    assert kept is not None
    assert (kept.first, [line.seq for line in kept.changes]) == (None, [2])
    assert recent.partitions[0].complete_from == 12
    recent.forget(0, 13)
    assert (recent.transaction(ID), len(recent)) == (None, 0)


def test_lines_of_two_transactions_that_alternate_in_one_record_are_dropped_together() -> None:
    """A hold that is placed and captured in one unit, with something else between: batches grow behind an outage."""
    recent = Recent(1)
    recent.apply(0, 5, a_unit(1, a_transfer(), a_transfer(id="other"), a_change(2, "completed", "completed")))
    recent.apply(0, 7, a_unit(2, a_transfer(id="later")))

    recent.forget(0, 6)
    assert (recent.transaction(ID), recent.transaction("other"), len(recent)) == (None, None, 1)
    assert recent.partitions[0].complete_from == 6
    recent.forget(0, 8)
    assert len(recent) == 0


def test_memory_is_bounded_and_says_from_where_it_is_complete() -> None:
    recent = Recent(1, lines_max=3)
    for number in range(1, 6):
        recent.apply(0, number, a_unit(number, a_transfer(id=f"t{number}"), a_change(2, "completed", "completed")))

    assert len(recent) <= 3
    assert recent.transaction("t5") is not None
    assert recent.partitions[0].complete_from == 5


def test_hole_in_the_journal_is_not_taken_for_complete() -> None:
    recent = Recent(1)
    recent.apply(0, 10, a_unit(1, a_transfer()))

    recent.apply(0, 20, a_unit(5, a_change(3, "completed", "completed")))

    assert recent.partitions[0].complete_from == 20
    kept = recent.transaction(ID)
    assert kept is not None
    assert kept.first is None


def test_decided_commands_are_counted_with_the_last_part_of_a_unit() -> None:
    recent = Recent(1)
    recent.apply(0, 1, UnitRecord(0, 1, 1000, [a_transfer()], last=False))
    assert recent.partitions[0].commands_next == 0

    recent.apply(0, 2, a_unit(2, AnswerLine("dead_letter", 1000, offset=8), commands=(3, 8)))

    assert recent.partitions[0].commands_next == 9


async def test_progress_wakes_all_who_wait() -> None:
    recent = Recent(1)
    waiting = [asyncio.create_task(recent.progressed(10)) for _ in range(3)]
    await asyncio.wait(waiting, timeout=0.01)

    recent.notify()

    async with asyncio.timeout(9):  # they would wait for 10
        await asyncio.gather(*waiting)
