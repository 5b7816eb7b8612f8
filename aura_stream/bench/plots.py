"""The pictures of a run, from its figures: name → title and SVG. What was not measured has no picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aura_stream.bench import svg

Json = Mapping[str, Any]
_ROLES = ("ledger", "sink", "kafka", "postgres")
_LOADS = ("one-hop", "between", "hot")


def plots(results: Json) -> dict[str, tuple[str, str]]:
    """All pictures that the figures give, in the order of the page."""
    found: dict[str, tuple[str, str]] = {}
    if summary := results.get("summary"):
        found["throughput"] = _throughput(summary)
        found["cpu"] = _cpu(summary)
    if results.get("open_loop"):
        found["latency"] = _latency(results)
    if results.get("scaling"):
        found["scaling"] = _scaling(results)
    if results.get("entries"):
        found["balance"] = _balance(results)
    if results.get("entries") or results.get("open"):
        found["growth"] = _growth(results)
    return found


def _throughput(summary: Json) -> tuple[str, str]:
    title = "Transfers per second, from Kafka to committed rows"
    groups = {}
    for load, row in summary.items():
        ours, theirs, ratio = (row[name] and row[name]["median"] for name in ("ours", "baseline", "ratio"))
        groups[load] = [(ours, f"{ours:,.0f}" + (f"  ({ratio:.1f} times)" if ratio else ""))]
        if theirs:
            groups[load].append((theirs, f"{theirs:,.0f}"))
    return title, svg.bars(
        title,
        "A backlog is drained; the SQL ledger is one function call per transfer on the same Postgres server",
        groups,
        ["Aura Stream", "SQL ledger"],
    )


def _cpu(summary: Json) -> tuple[str, str]:
    title = "CPU per transfer by process, microseconds"
    groups = {load: [row["cpu_s_per_1000"][role]["median"] * 1000 for role in _ROLES] for load, row in summary.items()}
    return title, svg.stacked(title, "User and system time while draining; Kafka and Postgres included", groups, _ROLES)


def _latency(results: Json) -> tuple[str, str]:
    title = "Latency at a fixed rate, ms"
    rows = {}
    for run in results["open_loop"]:
        row = run["final_row"]
        values = [row[name] for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
        rows[f"{run['load']}, {run['rate']:,.0f}/s"] = (values, _LOADS.index(run["load"]))
    return title, svg.ranges(
        title,
        "From the time a command was due until its final status was seen committed in Postgres",
        rows,
        ("p50", "p90", "p99", "max"),
        unit=" ms",
    )


def _scaling(results: Json) -> tuple[str, str]:
    title = "Transfers per second by partitions and ledger processes"
    series = defaultdict(list)
    for run in results["scaling"]:
        series[f"{run['load']}, {run['ledgers']} ledger"].append((run["partitions"], run["per_second"]))
    return title, svg.lines(
        title, "A backlog is drained, all on one machine", series, x_name="partitions", x_ticks=True
    )


def _balance(results: Json) -> tuple[str, str]:
    title = "Time of balance_as_of as the ledger grows, ms"
    names = {"now": "now", "effective": "as of the past", "known": "as known in the past"}
    series = {
        label: [(run["entries"], run["balance_ms"][name]["p50"]) for run in results["entries"]]
        for name, label in names.items()
    }
    return title, svg.lines(
        title, "The median of 50 accounts; the past is when half of the entries were there", series, x_name="entries"
    )


def _growth(results: Json) -> tuple[str, str]:
    title = "One-hop transfers per second as the ledger grows"
    series = {}
    if results.get("entries"):
        series["by entries in Postgres"] = [(run["entries"], run["per_second"]) for run in results["entries"]]
    if results.get("open"):
        series["by open holds with deadlines"] = [(run["open"], run["per_second"]) for run in results["open"]]
    return title, svg.lines(title, "A backlog is drained at each size", series, x_name="entries, or open holds")
