"""The figures on a terminal, refreshed in place; a plain line every few seconds where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from aura_stream.demo import panel
from aura_stream.demo.cast import SPEND
from aura_stream.demo.drawing import BAD, DIM, TITLE, counts, line, mark, section
from aura_stream.demo.figures import Latencies, Rate
from aura_stream.demo.runner import Runner
from aura_stream.demo.verdict import SHOWN_MAX, Verdict
from aura_stream.domain.assets import format_amount

WIDTH_MAX = 120
_HEAD_ROWS = 2
WIDTH_OF_THREE_MAX = 190
_TWO_COLUMNS = 78
_THREE_COLUMNS = 160


class View:
    """Draws a runner."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._kafka, self._http, self._decided, self._entries = Rate(), Rate(), Rate(), Rate()

    @property
    def phase(self) -> str:
        """What the runner is at."""
        return self._runner.phase

    def line(self) -> str:
        """All that matters in one line."""
        runner, figures, rows = self._runner, self._runner.book.figures, self._runner.database.rows
        p50, _, p99 = milliseconds(runner.committed.recent())
        state = "good" if self._is_good else "NOT GOOD"
        sent = sum(figures.sent.values())
        return (
            f"{clock(runner.elapsed_s)} {runner.phase}: {sent:,} sent, {figures.decided:,} decided, "
            f"{sum(figures.reasons.values()):,} refused, {sum(figures.dead_letters.values()):,} dead letters, "
            f"{rows.entries:,} entries, {self._settlements()}"
            f"lag {runner.topics.ledger_lag}/{runner.database.sink_lag}, "
            f"to row p50 {p50} p99 {p99} ms, invariants {state}"
        )

    def _settlements(self) -> str:
        runner = self._runner
        if runner.settling is None:
            return ""
        return f"{runner.settling.open:,} of {len(runner.book.settled.goals):,} settlements under way, "

    @property
    def _is_good(self) -> bool:
        rows = self._runner.database.rows
        return rows.is_balanced and rows.clears and not self._runner.book.differences and not self._runner.problems

    def frame(self, width: int, height: int) -> RenderableType:
        """The whole picture for a terminal of this size: what there is no room for is left out."""
        if self._runner.outside is not None and width >= _THREE_COLUMNS:
            return self._three_columns(min(width, WIDTH_OF_THREE_MAX), height)
        width = min(width, WIDTH_MAX)
        invariants = self._invariants()
        settlement = self._settlement(width, height)
        top = height - _HEAD_ROWS - 1 - invariants.row_count - (self._settlement_rows(height) if settlement else 0)
        body = Table.grid(padding=(0, 3), expand=True)
        body.width = width
        body.add_column(ratio=11)
        body.add_column(ratio=9)
        left, right = self._left(top), self._right(top)
        if width >= _TWO_COLUMNS:
            body.add_row(Group(*left), Group(*right))
        else:
            body.add_row(Group(*left, *right))
        return Group(self._head(width), body, Rule(style=DIM), *settlement, invariants)

    def _three_columns(self, width: int, height: int) -> RenderableType:
        assert self._runner.outside is not None
        settled, seen = self._runner.book.settled, self._runner.outside.seen
        invariants = self._invariants()
        top = height - _HEAD_ROWS - 1 - invariants.row_count
        # The middle column beside its states: lanes, the chain and the reserves.
        states = max(3, top - 13)
        middle: list[RenderableType] = [panel.under_way(settled, states), "", panel.lanes(seen)]
        middle += [panel.chain(settled, seen), "", panel.reserves(seen)]
        body = Table.grid(padding=(0, 4), expand=True)
        body.width = width
        for ratio in (8, 12, 8):
            body.add_column(ratio=ratio)
        body.add_row(Group(*self._left(top)), Group(*middle), Group(*self._right(top)))
        return Group(self._head(width), body, Rule(style=DIM), invariants)

    def _left(self, rows: int) -> list[RenderableType]:
        tables: list[RenderableType] = [self._throughput()]
        if rows >= 9:
            tables += [*([""] if rows >= 10 else []), self._latencies()]
        return [*tables, "", self._postgres()] if rows >= 16 else tables

    def _right(self, rows: int) -> list[RenderableType]:
        figures = self._runner.book.figures
        statuses = self._statuses()
        room = rows - statuses.row_count - 1 - 2  # the heads of both tables, a line between them
        if room < 3:
            return [statuses]
        if room < 8:
            return [statuses, *([""] if room > 3 else []), counts("Refused", figures.reasons, room)]
        dead = max(2, (room - 2) // 3)
        lists = (
            counts("Refused", figures.reasons, room - 2 - dead),
            "",
            counts("Dead letters", figures.dead_letters, dead),
        )
        return [statuses, "", *lists]

    def _settlement(self, width: int, height: int) -> list[RenderableType]:
        """Banks and chain, below what else there is."""
        if self._runner.outside is None:
            return []
        settled, seen = self._runner.book.settled, self._runner.outside.seen
        grid = Table.grid(padding=(0, 3), expand=True)
        grid.width = width
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        states, lanes = panel.under_way(settled, self._states(height)), panel.lanes(seen)
        if width >= _TWO_COLUMNS:
            grid.add_row(states, lanes)
        else:
            grid.add_row(Group(states, lanes))
        reserves = panel.reserves(seen)
        reserves.width = width
        return [grid, panel.chain(settled, seen), reserves, Rule(style=DIM)]

    def _states(self, height: int) -> int:
        return 4 if height < 32 else 8

    def _settlement_rows(self, height: int) -> int:
        return self._states(height) + 1 + 1 + 3 + 1

    def _head(self, width: int) -> RenderableType:
        runner = self._runner
        head = Table.grid(expand=True)
        head.width = width
        head.add_column()
        head.add_column(justify="right")
        title = Text.assemble(("Aura Stream", TITLE), "  ", (runner.phase, "cyan"))
        seconds = runner.options.seconds
        if runner.phase == "playing":
            hint = "Ctrl-C ends the load" if not seconds else f"{clock(max(0.0, seconds - runner.elapsed_s))} left"
        elif runner.phase == "coming to rest":
            settling = f"{runner.settling.open:,} settlements, " if runner.settling is not None else ""
            hint = f"{settling}{runner.open:,} commands open"
        else:
            hint = ""
        head.add_row(title, Text.assemble(f"{clock(runner.elapsed_s)}  ", (hint, DIM)))
        return Group(head, Rule(style=DIM))

    def _throughput(self) -> RenderableType:
        figures, rows = self._runner.book.figures, self._runner.database.rows
        table = section("Throughput", "now/s", "total")
        for name, rate, total in (
            ("commands, Kafka", self._kafka, figures.sent["kafka"]),
            ("commands, HTTP", self._http, figures.sent["http"]),
            ("decided", self._decided, figures.decided),
            ("entries booked", self._entries, rows.entries),
        ):
            table.add_row(name, f"{rate(total):,.0f}", f"{total:,}")
        return table

    def _latencies(self) -> RenderableType:
        runner = self._runner
        table = section("Latency, ms, of 10 s", "p50", "p95", "p99")
        for name, latencies in (
            ("produce to decided", runner.decided),
            ("produce to row", runner.committed),
            ("HTTP answer", runner.answered),
        ):
            table.add_row(name, *milliseconds(latencies.recent()))
        return table

    def _postgres(self) -> RenderableType:
        runner = self._runner
        rows = runner.database.rows
        table = section("Rows and lag", "now")
        table.add_row("transactions", f"{rows.transactions:,}")
        table.add_row("journals", f"{rows.journals:,}")
        table.add_row("ledger is behind by", f"{runner.topics.ledger_lag:,}")
        table.add_row("sink is behind by", f"{runner.database.sink_lag:,}")
        return table

    def _statuses(self) -> Table:
        statuses = self._runner.book.figures.statuses
        table = section("Transactions", "now")
        for status in ("processing", "completed", "canceled", "failed"):
            table.add_row(status, f"{statuses[status]:,}")
        if statuses["returned"]:
            table.add_row("returned", f"{statuses['returned']:,}")
        if waiting := statuses["requires_attention"] + statuses["requires_approval"]:
            table.add_row(Text("waiting for a person", BAD), f"{waiting:,}")
        return table

    def _invariants(self) -> Table:
        runner = self._runner
        rows = runner.database.rows
        flight = "  ".join(f"{asset} {format_amount(rows.clearing[asset], asset)}" for asset in SPEND)
        differences = len(runner.book.differences)
        table = Table.grid(padding=(0, 2))
        table.add_row("under way", line(Text(flight)))
        table.add_row(
            "invariants",
            Text("  ").join(
                (
                    mark(rows.is_balanced, "sum 0 in every asset"),
                    mark(rows.clears, "clearing = under way"),
                    mark(not differences, "own book agrees" if not differences else f"{differences:,} differences"),
                )
            ),
        )
        trouble = runner.problems[-1:] or ([f"Postgres: {runner.database.problem}"] if runner.database.problem else [])
        if runner.outside is not None and runner.outside.seen.problem:
            trouble = trouble or [f"banks and chain: {runner.outside.seen.problem}"]
        if trouble:
            table.add_row(Text("trouble", BAD), Text(trouble[0], BAD, overflow="ellipsis", no_wrap=True))
        return table


def summary(runner: Runner, verdict: Verdict) -> RenderableType:
    """The tables at the end."""
    figures = runner.book.figures
    commands = section("Commands", "count")
    for name, count in (
        ("over Kafka", figures.sent["kafka"]),
        ("over HTTP", figures.sent["http"]),
        ("decided", figures.decided),
        ("repeats recognised", figures.repeats),
        ("dead letters", sum(figures.dead_letters.values())),
        ("bad requests (HTTP 400)", sum(figures.bad_requests.values())),
    ):
        commands.add_row(name, f"{count:,}")
    statuses = section("Transactions", "count")
    for status, count in sorted(figures.statuses.items()):
        if count:
            statuses.add_row(status, f"{count:,}")
    latency = section("Latency, ms", "p50", "p95", "p99", "max")
    for name, latencies in (
        ("produce to decided", runner.decided),
        ("produce to row", runner.committed),
        ("HTTP answer", runner.answered),
    ):
        latency.add_row(name, *milliseconds([*latencies.percentiles(), latencies.longest_s]))
    reasons = counts("Refused", figures.reasons, 100)
    dead = counts("Dead letters", figures.dead_letters, 100)
    top = Table.grid(padding=(0, 3), expand=True)
    top.add_column(ratio=11)
    top.add_column(ratio=9)
    answers = counts("HTTP answers", figures.answers, 100)
    ended: list[RenderableType] = []
    reserves: list[RenderableType] = []
    if runner.evidence is not None:
        ended = ["", panel.ended(runner.book.settled)]
        reserves = ["", panel.final_reserves(runner.evidence.report)]
    top.add_row(Group(commands, "", statuses, "", latency, "", answers), Group(reasons, "", dead, *ended))
    return Group("", top, *reserves, "", _findings(verdict))


def _findings(verdict: Verdict) -> RenderableType:
    """The demo's own findings in sentences, the ledger's own checks by name; differences in full."""
    table = Table.grid(padding=(0, 2))
    for finding in verdict.findings:
        if not finding.of_ledger or not finding.good:
            table.add_row(mark(finding.good, finding.holds), Text(f"{finding.checked:,} {finding.things}", DIM))
    checks = Table.grid(padding=(0, 3))
    cells = [mark(finding.good, finding.name.replace("_", " ")) for finding in verdict.findings if finding.of_ledger]
    for place in range(0, len(cells), 2):
        checks.add_row(*cells[place : place + 2])
    lines = [
        Text(f"  {finding.name}: {text}", BAD)
        for finding in verdict.findings
        for text in (*finding.differences[:SHOWN_MAX], *_more(len(finding.differences)))
    ]
    return Group(
        Text("Demo's own book against the system", TITLE), table, *_titled("Ledger, by itself", checks), *lines
    )


def _more(count: int) -> tuple[str, ...]:
    return (f"and {count - SHOWN_MAX:,} more",) if count > SHOWN_MAX else ()


def _titled(title: str, table: Table) -> tuple[RenderableType, ...]:
    return Text(f"\n{title}", TITLE), table


def milliseconds(seconds: Iterable[float]) -> list[str]:
    """Seconds as milliseconds, short; a dash where nothing was measured."""
    return [f"{value * 1000:,.0f}" if value >= 0.01 else f"{value * 1000:.1f}" if value else "-" for value in seconds]


def clock(seconds: float) -> str:
    """1:05, or 1:00:05."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def as_json(runner: Runner, verdict: Verdict) -> dict[str, object]:
    """The summary as data; latencies in milliseconds."""
    figures, rows = runner.book.figures, runner.database.rows

    def three(latencies: Latencies) -> dict[str, float]:
        p50, p95, p99 = (round(value * 1000, 1) for value in latencies.percentiles())
        return {
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "max": round(latencies.longest_s * 1000, 1),
            "count": latencies.count,
        }

    return {
        "good": verdict.good,
        "verdict": verdict.sentence,
        "seed": runner.options.seed,
        "seconds": round(runner.load_s, 1),
        "commands": verdict.commands,
        "sent": dict(figures.sent),
        "statuses": {status: count for status, count in figures.statuses.items() if count},
        "refused": dict(figures.reasons),
        "dead_letters": dict(figures.dead_letters),
        "bad_requests": dict(figures.bad_requests),
        "http": dict(figures.answers),
        "repeats": figures.repeats,
        "entries": verdict.entries,
        "settlement": settlement_json(runner),
        "journals": rows.journals,
        "transactions": rows.transactions,
        "latency_ms": {
            "decided": three(runner.decided),
            "committed": three(runner.committed),
            "http": three(runner.answered),
        },
        "findings": [
            {
                "name": finding.name,
                "good": finding.good,
                "holds": finding.holds,
                "checked": finding.checked,
                "things": finding.things,
                "differences": list(finding.differences[:20]),
            }
            for finding in verdict.findings
        ],
    }


def settlement_json(runner: Runner) -> dict[str, object] | None:
    """What was settled; None without banks and chain."""
    if runner.evidence is None or runner.outside is None or runner.settling is None:
        return None
    settled, evidence = runner.book.settled, runner.evidence
    return {
        "settlements": len(settled.goals),
        "ended": dict(settled.ended),
        "stories": runner.settling.told,
        "bank_days": runner.settling.nights,
        "mints": sum(map(len, evidence.minted.values())),
        "burns": sum(map(len, evidence.burned.values())),
        "calls": {one.name: {"calls": one.calls, "failed": one.failed} for one in runner.outside.seen.lanes},
        "reserves": evidence.report,
    }


class Screen:
    """Where the view goes while the demo plays: a live picture on a terminal, else a line every few seconds."""

    LINE_EVERY_S = 5.0

    def __init__(self, console: Console, view: View) -> None:
        from rich.live import Live

        self._console = console
        self._view = view
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._line_at = 0.0
        self._phase = ""

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        """Draws the present state."""
        if self._live is not None:
            width, height = self._console.size
            self._live.update(self._view.frame(width, height), refresh=True)
        elif self._view.phase != self._phase or time.monotonic() - self._line_at >= self.LINE_EVERY_S:
            self._phase, self._line_at = self._view.phase, time.monotonic()
            print(self._view.line(), file=self._console.file, flush=True)
