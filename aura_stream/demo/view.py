"""The figures on a terminal, refreshed in place; a plain line every few seconds where there is none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from aura_stream.demo.cast import SPEND
from aura_stream.demo.figures import Latencies, Rate
from aura_stream.demo.runner import Runner
from aura_stream.demo.verdict import SHOWN_MAX, Verdict
from aura_stream.domain.assets import format_amount

WIDTH_MAX = 120
_TWO_COLUMNS = 78
_GOOD, _BAD, _DIM, _TITLE = "green", "bold red", "bright_black", "bold"


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
            f"{rows.entries:,} entries, lag {runner.topics.ledger_lag}/{runner.database.sink_lag}, "
            f"to row p50 {p50} p99 {p99} ms, invariants {state}"
        )

    @property
    def _is_good(self) -> bool:
        rows = self._runner.database.rows
        return rows.is_balanced and rows.clears and not self._runner.book.differences and not self._runner.problems

    def frame(self, width: int, height: int) -> RenderableType:
        """The whole picture for a terminal of this size."""
        width = min(width, WIDTH_MAX)
        # What is left for the lists of reasons, so that the picture never grows out of the terminal.
        room = max(5, height - 17)
        left = [self._throughput(), "", self._latencies(), "", self._postgres()]
        right = [self._statuses(), "", *self._reasons(room)]
        body = Table.grid(padding=(0, 3), expand=True)
        body.width = width
        body.add_column(ratio=11)
        body.add_column(ratio=9)
        if width >= _TWO_COLUMNS:
            body.add_row(Group(*left), Group(*right))
        else:
            body.add_row(Group(*left, *right))
        return Group(self._head(width), body, Rule(style=_DIM), self._invariants())

    def _head(self, width: int) -> RenderableType:
        runner = self._runner
        head = Table.grid(expand=True)
        head.width = width
        head.add_column()
        head.add_column(justify="right")
        title = Text.assemble(("Aura Stream", _TITLE), "  ", (runner.phase, "cyan"))
        seconds = runner.options.seconds
        if runner.phase == "playing":
            hint = "Ctrl-C ends the load" if not seconds else f"{clock(max(0.0, seconds - runner.elapsed_s))} left"
        elif runner.phase == "coming to rest":
            hint = f"{runner.open:,} open"
        else:
            hint = ""
        head.add_row(title, Text.assemble(f"{clock(runner.elapsed_s)}  ", (hint, _DIM)))
        return Group(head, Rule(style=_DIM))

    def _throughput(self) -> RenderableType:
        figures, rows = self._runner.book.figures, self._runner.database.rows
        table = _section("Throughput", "now/s", "total")
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
        table = _section("Latency, ms, last 10 s", "p50", "p95", "p99")
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
        table = _section("Rows and lag", "now")
        table.add_row("transactions", f"{rows.transactions:,}")
        table.add_row("journals", f"{rows.journals:,}")
        table.add_row("ledger is behind by", f"{runner.topics.ledger_lag:,}")
        table.add_row("sink is behind by", f"{runner.database.sink_lag:,}")
        return table

    def _statuses(self) -> RenderableType:
        statuses = self._runner.book.figures.statuses
        table = _section("Transactions", "now")
        for status in ("processing", "completed", "canceled", "failed"):
            table.add_row(status, f"{statuses[status]:,}")
        if statuses["requires_attention"]:
            table.add_row(Text("requires_attention", _BAD), f"{statuses['requires_attention']:,}")
        return table

    def _reasons(self, room: int) -> tuple[RenderableType, ...]:
        figures = self._runner.book.figures
        dead = max(2, room // 3)
        return (
            _counts("Refused", figures.reasons, room - dead),
            "",
            _counts("Dead letters", figures.dead_letters, dead),
        )

    def _invariants(self) -> RenderableType:
        runner = self._runner
        rows = runner.database.rows
        assets = sorted(rows.sums) or list(SPEND)
        flight = "  ".join(f"{asset} {format_amount(rows.clearing[asset], asset)}" for asset in assets)
        differences = len(runner.book.differences)
        table = Table.grid(padding=(0, 2))
        table.add_row("under way", Text(flight))
        table.add_row(
            "invariants",
            Text("   ").join(
                (
                    _mark(rows.is_balanced, "sum 0 in every asset"),
                    _mark(rows.clears, "clearing = under way"),
                    _mark(not differences, "own book agrees" if not differences else f"{differences:,} differences"),
                )
            ),
        )
        trouble = runner.problems[-1:] or ([f"Postgres: {runner.database.problem}"] if runner.database.problem else [])
        if trouble:
            table.add_row(Text("trouble", _BAD), Text(trouble[0], _BAD, overflow="ellipsis", no_wrap=True))
        return table


def summary(runner: Runner, verdict: Verdict) -> RenderableType:
    """The tables at the end."""
    figures = runner.book.figures
    commands = _section("Commands", "count")
    for name, count in (
        ("over Kafka", figures.sent["kafka"]),
        ("over HTTP", figures.sent["http"]),
        ("decided", figures.decided),
        ("repeats recognised", figures.repeats),
        ("dead letters", sum(figures.dead_letters.values())),
        ("bad requests (HTTP 400)", sum(figures.bad_requests.values())),
    ):
        commands.add_row(name, f"{count:,}")
    statuses = _section("Transactions", "count")
    for status, count in sorted(figures.statuses.items()):
        if count:
            statuses.add_row(status, f"{count:,}")
    latency = _section("Latency, ms", "p50", "p95", "p99", "max")
    for name, latencies in (
        ("produce to decided", runner.decided),
        ("produce to row", runner.committed),
        ("HTTP answer", runner.answered),
    ):
        latency.add_row(name, *milliseconds([*latencies.percentiles(), latencies.longest_s]))
    reasons = _counts("Refused", figures.reasons, 100)
    dead = _counts("Dead letters", figures.dead_letters, 100)
    top = Table.grid(padding=(0, 3), expand=True)
    top.add_column(ratio=11)
    top.add_column(ratio=9)
    answers = _counts("HTTP answers", figures.answers, 100)
    top.add_row(Group(commands, "", statuses, "", latency, "", answers), Group(reasons, "", dead))
    return Group("", top, "", _findings(verdict))


def _findings(verdict: Verdict) -> RenderableType:
    """The demo's own findings in sentences, the ledger's own checks by name; differences in full."""
    table = Table.grid(padding=(0, 2))
    for finding in verdict.findings:
        if not finding.of_ledger or not finding.good:
            table.add_row(_mark(finding.good, finding.holds), Text(f"{finding.checked:,} {finding.things}", _DIM))
    checks = Table.grid(padding=(0, 3))
    cells = [_mark(finding.good, finding.name.replace("_", " ")) for finding in verdict.findings if finding.of_ledger]
    for place in range(0, len(cells), 2):
        checks.add_row(*cells[place : place + 2])
    lines = [
        Text(f"  {finding.name}: {text}", _BAD)
        for finding in verdict.findings
        for text in (*finding.differences[:SHOWN_MAX], *_more(len(finding.differences)))
    ]
    return Group(
        Text("Demo's own book against the system", _TITLE), table, *_titled("Ledger, by itself", checks), *lines
    )


def _more(count: int) -> tuple[str, ...]:
    return (f"and {count - SHOWN_MAX:,} more",) if count > SHOWN_MAX else ()


def _titled(title: str, table: Table) -> tuple[RenderableType, ...]:
    return Text(f"\n{title}", _TITLE), table


def _section(title: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, expand=True, header_style=_DIM)
    table.add_column(Text(title, _TITLE), ratio=1, no_wrap=True, overflow="ellipsis")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=6)
    return table


def _counts(title: str, counts: Counter[str], room: int) -> Table:
    """The most frequent; what has no room is one line."""
    total = sum(counts.values())
    table = _section(title, f"{total:,}")
    most = counts.most_common()
    shown = most if len(most) <= room else most[: max(0, room - 1)]
    for name, count in shown:
        table.add_row(name, f"{count:,}")
    if rest := most[len(shown) :]:
        table.add_row(Text(f"{len(rest)} more reasons", _DIM), f"{sum(count for _, count in rest):,}")
    return table


def _mark(good: bool, text: str) -> Text:
    return Text.assemble(("✓", _GOOD) if good else ("✗", _BAD), f" {text}" if text else "")


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
