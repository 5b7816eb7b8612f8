"""The demo's book against the real machines in memory: it agrees with a right ledger, and notices a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aura_stream.demo.book import Book
from aura_stream.demo.verdict import judge
from aura_stream.ledger.verify import Check
from tests.demo.play import Play, played
from tests.rows import row

GOOD = Check("sums_zero", "All entries sum to zero.", 100, "entries", None)
BAD = Check("sums_zero", "All entries sum to zero.", 100, "entries", {"tenant_id": "demo", "asset": "EUR", "total": 1})


@row("A08", "S03", "S04", "S05", "S06")
@pytest.mark.parametrize(("seed", "commands_last"), [(1, False), (2, True), (3, False)])
def test_the_book_agrees_with_the_ledger(seed: int, commands_last: bool) -> None:
    play = played(seed, 4000, commands_last=commands_last)
    assert play.book.settle() == 0
    assert play.book.final_differences() == []
    verdict = judge(play.book, play.stored(), [GOOD], 5)
    assert [finding for finding in verdict.findings if not finding.good] == []
    assert verdict.good
    assert verdict.sentence.endswith("sum 0 in every asset: not a cent lost")


def test_an_empty_load_is_right_too() -> None:
    play = played(1, 0)
    assert play.book.settle() == 0
    assert judge(play.book, play.stored(), [GOOD]).good


@pytest.fixture
def play() -> Play:
    """A small demo, right in all."""
    return played(7, 300)


def line_of(book: Book, kind: str) -> dict[str, Any]:
    """A line that answers a command that was answered before."""
    asked = next(asked for asked in book.asked.values() if asked.type == kind and asked.outcome == "done")
    command = next(id_ for id_, ref in book._by_command.items() if ref == asked.ref)
    return {"line": "transaction", "id": asked.transaction, "command_id": command, "event": "deposit.submitted"} | {
        "status": "processing",
        "at": 1,
    }


def lost(book: Book) -> None:
    asked = next(asked for asked in book.asked.values() if asked.type == "transfer.submit")
    asked.outcomes = 0


def twice(book: Book) -> None:
    book.line(0, line_of(book, "deposit.submit"))


def credited_again(book: Book) -> None:
    transaction = next(t for t in book.transactions.values() if t.events[-1:] == ["deposit.credited"])
    transaction.events.append("deposit.credited")


def repeat_with_effect(book: Book) -> None:
    next(asked for asked in book.asked.values() if asked.repeats and not asked.is_http).repeats += 1


def lost_letter(book: Book) -> None:
    number, (reason, _, _) = next(iter(book._dead_sent.items()))
    book._dead_at[0, 10**6] = number
    book._dead_open += 1
    assert reason


def strange_letter(book: Book) -> None:
    line = {"line": "answer", "kind": "dead_letter", "reason": "invalid_json", "offset": 10**6}
    book.line(0, line)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lost, "decided"),
        (twice, "decided"),
        (credited_again, "decided"),
        (repeat_with_effect, "repeats"),
        (lost_letter, "dead letters"),
        (strange_letter, "dead letters"),
    ],
)
def test_whatever_is_wrong_is_named(play: Play, plant: Callable[[Book], None], kind: str) -> None:
    assert play.book.settle() == 0
    plant(play.book)
    verdict = judge(play.book, play.stored(), [GOOD])
    assert not verdict.good
    assert [finding.name for finding in verdict.findings if not finding.good] == [kind]
    assert verdict.sentence.split(": ")[1] == kind


@row("A10")
def test_a_balance_that_is_a_cent_off_is_named(play: Play) -> None:
    play.book.settle()
    stored = play.stored()
    available, posted, pending = stored.balances["default", "alice:EUR"]
    stored.balances["default", "alice:EUR"] = (available - 1, posted - 1, pending)
    verdict = judge(play.book, stored, [GOOD])
    (finding,) = [finding for finding in verdict.findings if not finding.good]
    assert finding.name == "balances"
    assert finding.differences[0].startswith("default/alice:EUR: ")


@row("A11")
def test_a_row_with_another_status_a_missing_and_a_strange_one_are_named(play: Play) -> None:
    play.book.settle()
    stored = play.stored()
    first, second, *_ = stored.transactions
    stored.transactions[first] = ("requires_attention", "sent", "")
    del stored.transactions[second]
    stored.transactions["6f0f7f6e-0000-0000-0000-000000000000"] = ("completed", "completed", "")
    (finding,) = [finding for finding in judge(play.book, stored, [GOOD]).findings if not finding.good]
    assert finding.name == "transactions"
    texts = " ".join(finding.differences)
    assert "requires_attention/sent" in texts and "no row" in texts and "nobody asked" in texts


@row("A09")
def test_a_failing_check_of_the_ledger_decides_the_verdict(play: Play) -> None:
    play.book.settle()
    verdict = judge(play.book, play.stored(), [GOOD, BAD])
    assert not verdict.good
    assert "sums_zero: first row: tenant_id=demo, asset=EUR, total=1" in verdict.sentence


def test_money_left_under_way_and_a_process_that_ended_decide_it_too(play: Play) -> None:
    play.book.settle()
    stored = replace(play.stored(), clearing={"EUR": 1250})
    verdict = judge(play.book, stored, [GOOD], 5, ["ledger-0 ended with code 70"])
    bad = {finding.name: finding.differences[0] for finding in verdict.findings if not finding.good}
    assert bad == {"sums": "12.50 EUR are still under way", "processes": "ledger-0 ended with code 70"}


def test_a_wrong_http_answer_is_named(play: Play) -> None:
    step = next(sent.step for sent in play.sent if sent.step.door == "http" and sent.step.expect.outcome == "done")
    play.book.answered(step, 202, "", False, 1)
    play.book.answered(step, 201 if step.type in ("transfer.submit", "deposit.submit") else 200, "", False, 2)
    play.book.answered(step, 422, "insufficient_funds", False, 1)
    kinds = [difference for difference in play.book.final_differences() if difference.kind == "http"]
    assert "answered 422 insufficient_funds, expected" in kinds[-1].text
