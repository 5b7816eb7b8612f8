"""Runs against a real mock bank and the real ledger: faults of statements become breaks, and nothing else does."""

from __future__ import annotations

from datetime import date
from typing import Any

import asyncpg
import pytest

from aura_stream.reconcile.run import Outcome
from tests.reconcile.conftest import Desk

TRUST = "@bank:bank-a:trust:EUR"


def account_of(outcome: Outcome, name: str = TRUST) -> dict[str, Any]:
    (found,) = [one for one in outcome.report["accounts"] if one["account"] == name]
    return dict(found)


async def two_sides(desk: Desk) -> None:
    """Three deposits and a payout of two tenants, the same in both books, on the first day."""
    for number, tenant in ((1, "default"), (2, "demo"), (3, "default")):
        await desk.books.moved(f"d{number}", number * 1000, tenant=tenant)
        await desk.bank.fund(f"{number * 10}.00", reference=desk.books.reference(f"d{number}", tenant))
    await desk.books.moved("p1", -550, kind="withdrawal.completed")
    paid = await desk.bank.sepa(desk.books.reference("p1", step="payout"), "5.50", instant=True)
    assert paid.status in (200, 201), paid.body


async def test_a13_two_books_that_agree_have_no_breaks_and_a_report_says_so(desk: Desk) -> None:
    await two_sides(desk)
    await desk.bank.pass_time(days=3)

    outcome = await desk.run()

    assert (outcome.problems, outcome.opened, outcome.matched) == ([], [], 4)
    shown = account_of(outcome)
    assert (shown["closing_balance"], shown["ledger_balance"]) == ("54.50", "54.50")
    assert shown["unexplained"] == "0.00" and shown["day"] == "2026-11-22"
    currency = next(one for one in outcome.report["currencies"] if one["currency"] == "EUR")
    assert (currency["trust"], currency["customers"], currency["is_backed"]) == ("54.50", "54.50", True)
    again = await desk.run()
    assert (again.matched, again.opened, again.imported) == (0, [], 0)
    assert account_of(again) == shown


@pytest.mark.parametrize(
    ("fault", "kind", "amount", "lines"),
    [
        ("line_lost", "missing_at_bank", -1000, 0),
        ("line_twice", "duplicate_line", 1000, 2),
        ("line_off", "amount_differs", 1, 1),
    ],
)
async def test_l49_l51_a_line_that_the_banks_statement_has_wrong_is_the_right_break(
    desk: Desk, fault: str, kind: str, amount: int, lines: int
) -> None:
    transaction = await desk.books.moved("d1", 1000)
    await desk.bank.fund("10.00", reference=desk.books.reference("d1"))
    await desk.bank.operator("PUT", "/profile", {"rates": {fault: 10_000}})
    await desk.bank.pass_time(days=3)

    outcome = await desk.run()

    # The statement's sum is as wrong as its line, and the next day's opens with what is in the bank's own books.
    assert await desk.kinds() == [kind, "statement_gap"] or await desk.kinds() == ["statement_gap", kind]
    found = {one["kind"]: one for one in await desk.breaks()}
    assert found[kind]["amount"] == amount
    assert found["statement_gap"]["amount"] == -amount
    about_us = kind != "duplicate_line"
    assert (str(found[kind]["transaction_id"]), found[kind]["tenant_id"]) == (
        (transaction, "default") if about_us else ("None", None)
    )
    assert account_of(outcome)["unexplained"] == "0.00"
    assert account_of(outcome)["difference"] == "0.00"
    assert outcome.matched == (0 if fault == "line_lost" else 1)

    again = await desk.run()
    assert (again.opened, again.gone, len(await desk.breaks())) == ([], 0, 2)


async def test_l49_l51_a_statement_that_is_cut_is_a_break_until_it_comes_whole(desk: Desk) -> None:
    await two_sides(desk)
    await desk.bank.operator("PUT", "/profile", {"rates": {"cut_file": 10_000}})
    await desk.bank.pass_time(days=3)

    cut = await desk.run()
    # Nothing was booked in USD; its statements are asked for all the same.
    assert await desk.kinds() == ["statement_unreadable"] * 2 and cut.imported == 0
    assert "2026-11-20" in cut.opened[0][1].detail and "no whole XML" in cut.opened[0][1].detail
    assert (await desk.run()).opened == []
    # A run without the bank has not seen it get better.
    assert (await desk.run(logins=[])).gone == 0

    await desk.bank.operator("PUT", "/profile", {"rates": {}})
    whole = await desk.run()
    assert (whole.imported, whole.gone, await desk.kinds()) == (6, 2, [])
    for ended in await desk.breaks("resolved"):
        assert (ended["resolution"], ended["resolved_by"]) == ("gone", "reconciliation")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("html", "a document type declaration"),
        ("wrong_types", "has the amount 'twelve'"),
        ("negative_amount", "has the amount '-"),
    ],
)
async def test_sec34_a_statement_that_no_bank_writes_is_a_break_and_nothing_of_it_is_imported(
    desk: Desk, kind: str, why: str
) -> None:
    await two_sides(desk)
    await desk.bank.operator("PUT", "/profile", {"rates": {f"file_{kind}": 10_000}})
    await desk.bank.pass_time(days=3)

    outcome = await desk.run()

    assert await desk.kinds() == ["statement_unreadable"] * 2 and outcome.imported == outcome.matched == 0
    assert all(why in finding.detail for _, finding in outcome.opened)
    await desk.bank.operator("PUT", "/profile", {"rates": {}})
    assert ((await desk.run()).gone, await desk.kinds()) == (2, [])


async def test_sec34_ten_megabytes_too_much_in_a_statement_change_nothing_of_it(desk: Desk) -> None:
    await two_sides(desk)
    await desk.bank.operator("PUT", "/profile", {"rates": {"file_huge": 10_000}})
    await desk.bank.pass_time(days=3)

    outcome = await desk.run()

    assert (outcome.imported, outcome.opened, await desk.kinds()) == (6, [], [])


async def test_a13_a_bank_that_settles_one_cent_less_than_was_told_is_a_break(desk: Desk) -> None:
    await desk.books.moved("d1", 10_012, currency="USD")
    asked = await desk.bank.ach("ABC-1", "100.12", direction="debit")
    assert asked.status == 201
    await desk.books.moved("d2", 20_012, currency="USD", bank_reference_=asked.body["id"])
    await desk.bank.pass_time(days=9)

    outcome = await desk.run()

    found = {one["kind"]: one for one in await desk.breaks()}
    assert set(found) == {"amount_differs", "missing_at_bank"}
    assert (found["missing_at_bank"]["amount"], found["amount_differs"]["amount"]) == (-10_012, 10_011 - 20_012)
    assert account_of(outcome, "@bank:bank-a:trust:USD")["unexplained"] == "0.00"


async def test_a13_money_that_nobody_has_booked_is_a_break_until_it_is_booked(desk: Desk) -> None:
    await two_sides(desk)
    await desk.bank.fund("7.77", reference=desk.books.reference("late"))
    await desk.bank.pass_time(days=2)
    outcome = await desk.run()
    (found,) = await desk.breaks()
    assert (found["kind"], found["amount"], found["account"]) == ("missing_in_ledger", 777, TRUST)
    assert account_of(outcome)["explained"] == {
        "not_on_a_statement_yet": "0.00",
        "missing_at_bank": "0.00",
        "missing_in_ledger": "7.77",
        "amount_differs": "0.00",
        "statements": "0.00",
    }

    await desk.books.moved("late", 777, kind="deposit.unmatched", against="@suspense:unmatched:EUR")
    outcome = await desk.run()
    # In suspense it is explained to the bank, and to nobody else.
    (found,) = await desk.breaks()
    assert (outcome.matched, outcome.gone, found["kind"], found["amount"]) == (1, 1, "in_suspense", 777)
    currency = next(one for one in outcome.report["currencies"] if one["currency"] == "EUR")
    assert (currency["suspense"], currency["surplus"]) == ("7.77", "0.00")


async def test_a13_money_of_nobody_is_found_by_the_banks_own_id_on_whatever_day_it_was_heard_of(desk: Desk) -> None:
    pushed = await desk.bank.fund("7.77", reference="nobody-knows")
    late = f"{pushed['id']}:settled"  # as a bank's lane tells of it
    await desk.books.moved(late, 777, kind="suspense.unmatched", against="@suspense:unmatched:EUR", day=9)
    await desk.bank.pass_time(days=14)
    outcome = await desk.run(first_day=date(2026, 11, 20))
    assert (outcome.matched, await desk.kinds()) == (1, ["in_suspense"])


async def test_a13_what_was_told_twice_and_came_once_is_missing_at_the_bank(desk: Desk) -> None:
    await desk.books.moved("d1", 1000)
    await desk.books.moved("d1-again", 1000, against="@suspense:unmatched:EUR")
    await desk.bank.fund("10.00", reference=desk.books.reference("d1"))
    await desk.bank.pass_time(days=1)
    outcome = await desk.run()
    # The day after is not closed: it may still come. Nobody knows what it is for.
    assert await desk.kinds() == ["in_suspense"]
    assert account_of(outcome)["explained"]["not_on_a_statement_yet"] == "-10.00"

    await desk.bank.pass_time(days=1)
    await desk.run()
    _, found = await desk.breaks()
    assert (found["kind"], found["amount"], found["tenant_id"]) == ("missing_at_bank", -1000, "default")


async def test_a13_a_return_is_its_own_line_with_its_code_and_is_gone_once_it_is_booked(desk: Desk) -> None:
    sent = await desk.bank.ach("DEPOSIT-1", "10.22", direction="debit")
    await desk.books.moved("d1", 1022, currency="USD", bank_reference_=sent.body["id"], day=3)
    await desk.bank.pass_time(days=12)
    await desk.run()
    (found,) = await desk.breaks()
    # The ledger has not learnt of it: the statement tells, and its code's meaning with it.
    assert (found["kind"], found["amount"]) == ("missing_in_ledger", -1022)
    assert "a return R01 (Insufficient funds)" in found["detail"]

    against = "@receivable:returns:USD"
    returned = {"bank_reference_": sent.body["id"], "kind": "deposit.returned", "against": against, "day": 4}
    await desk.books.moved("d1-back", -1022, currency="USD", **returned)
    outcome = await desk.run()
    assert (outcome.matched, outcome.gone, await desk.breaks()) == (1, 1, [])
    usd = next(one for one in outcome.report["currencies"] if one["currency"] == "USD")
    assert (usd["open_returns"], usd["trust"], usd["is_backed"]) == ("10.22", "0.00", True)
    assert usd["oldest_open_return_at"] is not None


@pytest.mark.row("A13", "L51")
async def test_a13_l51_statements_that_stop_while_money_moves_are_a_break_until_they_come(desk: Desk) -> None:
    await two_sides(desk)
    await desk.bank.pass_time(days=1)
    await desk.run()
    for number, day in ((4, 3), (5, 5)):  # five days without a banking day: Easter
        await desk.books.moved(f"d{number}", 100, day=day)
    assert (await desk.run(logins=[])).opened == []
    await desk.books.moved("d6", 100, day=6)

    outcome = await desk.run(logins=[])
    ((_, late),) = outcome.opened
    assert (late.kind, late.amount) == ("statement_missing", 0)
    assert f"{TRUST} is of 2026-11-20" in late.detail and "2026-11-26" in late.detail
    assert account_of(outcome)["explained"]["not_on_a_statement_yet"] == "-3.00"
    assert account_of(outcome)["unexplained"] == "0.00"
    assert (await desk.run(logins=[])).opened == []

    for number in (4, 5, 6):
        await desk.bank.fund("1.00", reference=desk.books.reference(f"d{number}"))
    await desk.bank.pass_time(days=6)
    came = await desk.run()
    assert (came.gone, came.matched, await desk.kinds()) == (1, 3, [])


async def test_a_bank_that_is_away_is_a_problem_and_no_break(desk: Desk) -> None:
    await two_sides(desk)
    await desk.bank.operator("PUT", "/profile", {"name": "down"})

    outcome = await desk.run()

    assert outcome.opened == [] and len(outcome.problems) == 2
    assert [one["problem"] is not None for one in outcome.report["sources"]] == [True, True]


async def test_a05_the_role_of_reconciliation_can_do_no_more_than_its_part(
    desk: Desk, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    await two_sides(desk)
    await desk.bank.fund("7.77")
    await desk.bank.pass_time(days=2)
    await desk.run()
    (found,) = await desk.breaks()

    # Whoever it is: nothing that was imported, matched or found is ever changed.
    for table in ("statements", "lines", "matches", "breaks", "break_events", "reports"):
        for statement in (f"DELETE FROM reconciliation.{table}", f"TRUNCATE reconciliation.{table} CASCADE"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await owner.execute(statement)
    with pytest.raises(asyncpg.RestrictViolationError):
        await owner.execute("UPDATE reconciliation.breaks SET amount = 0")
    for number, action in ((1, "assigned"), (3, "assigned"), (2, "opened")):
        with pytest.raises(asyncpg.RestrictViolationError):
            await owner.execute(
                "INSERT INTO reconciliation.break_events (break_id, number, action, actor) VALUES ($1, $2, $3, 'x')",
                *(found["break_id"], number, action),
            )
    await owner.execute("SET ROLE aura_reconciler")
    for statement in (
        "UPDATE ledger.transactions SET status = 'completed'",
        "INSERT INTO ledger.assets VALUES ('XXX', 2)",
        "DELETE FROM ledger.entries",
        "SELECT * FROM identity.users",
        "DELETE FROM reconciliation.breaks",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(statement)
    await owner.execute("SET ROLE aura_tenant")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute("SELECT * FROM reconciliation.breaks")


async def test_x25_sec16_every_table_of_reconciliation_is_behind_the_wall(
    desk: Desk, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    rows = await owner.fetch(
        """SELECT relname, relrowsecurity AND relforcerowsecurity AS is_forced FROM pg_class
        WHERE relnamespace = 'reconciliation'::regnamespace AND relkind = 'r'"""
    )
    assert len(rows) >= 8 and all(row["is_forced"] for row in rows)
