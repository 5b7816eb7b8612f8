"""The picture on the terminal fits into it, at every usual size, with large numbers in it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from aura_stream.demo.book import Book
from aura_stream.demo.figures import Latencies
from aura_stream.demo.outside import Lane, Seen
from aura_stream.demo.settled import LABELS, Mint
from aura_stream.demo.view import View
from aura_stream.demo.watch import Rows


def seen() -> Seen:
    """Banks of which one is away, and a chain."""
    token = {"owed": "123456.780000", "supply": "123456.780000", "in_flight": 12}
    return Seen(
        [Lane("bank:bank-a", "open", "", 1234, 3, 321), Lane("chain:local:AEUR", "half_open", "", 33, 1, 0)],
        123_456,
        datetime(2026, 9, 21, 17, 5, tzinfo=UTC),
        {"bank-a": "down", "bank-b": "flaky"},
        {"tokens": [{"token": name, **token} for name in ("AEUR", "AUSD")], "open_breaks": 0},
        {("bank-a", "USD"): 12_345_678, ("bank-b", "EUR"): 123_456_789},
    )


def view(*, settles: bool) -> View:
    """The view of a demo that has played for a while."""
    book, latencies = Book(), Latencies()
    book.figures.sent.update(kafka=123_456, http=12_345)
    book.figures.statuses.update(processing=23, completed=52_341, canceled=312, failed=423, returned=7)
    book.figures.reasons.update({f"reason_{number}": number for number in range(1, 30)})
    book.figures.dead_letters.update({f"malformed_{number}": number for number in range(1, 20)})
    book.settled.under_way.update(dict.fromkeys(LABELS.values(), 3))
    book.settled.last_mint, book.settled.mints = Mint(841_250_000, "AEUR", "0x12abcd3456789"), 321
    latencies.add(1.234)
    runner: Any = SimpleNamespace(
        book=book,
        decided=latencies,
        committed=latencies,
        answered=latencies,
        problems=[],
        phase="coming to rest",
        elapsed_s=3700,
        open=12,
        options=SimpleNamespace(seconds=0),
        database=SimpleNamespace(rows=Rows(120_000, 50_000, 59_789), sink_lag=3, problem=""),
        topics=SimpleNamespace(ledger_lag=2),
        outside=SimpleNamespace(seen=seen()) if settles else None,
        settling=SimpleNamespace(open=33) if settles else None,
    )
    return View(runner)


@pytest.mark.parametrize("settles", [True, False])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 40), (120, 30), (120, 60), (200, 24), (200, 50)])
def test_the_picture_fits(width: int, height: int, settles: bool) -> None:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as captured:
        console.print(view(settles=settles).frame(width, height))
    lines = captured.get().rstrip("\n").split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    # A row that is broken in two would leave its first column empty, or its numbers on a line of their own.
    assert not [line for line in lines if line.strip().replace(",", "").isdigit()]
    for wanted in (
        "Throughput",
        "produce to row",
        "completed",
        "sum 0 in every asset",
        "33 settlements"[: 14 * settles],
    ):
        assert any(wanted in line for line in lines), wanted
    if settles:
        for wanted in (
            "Settlements under way",
            "bank-a, down",
            "half-open",
            "block 123,456",
            "Reserves, no open breaks",
        ):
            assert any(wanted in line for line in lines), wanted
        assert any("123,456.78 USD" in line for line in lines)
