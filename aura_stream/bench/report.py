"""What is said about a run: a table for people, JSON for machines, tables for the documentation. No number is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from aura_stream import SetupError
from aura_stream.bench.baseline import CONNECTIONS
from aura_stream.bench.figures import Spread, ratio, spread
from aura_stream.bench.loads import MEANING
from aura_stream.bench.open_loop import STAGES

AIMS: Final = {"one-hop": 6.0, "between": 3.0, "hot": 8.0}
"""How many times the baseline we want to be."""

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
ROLES = ("ledger", "sink", "kafka", "postgres")

Json = Mapping[str, Any]


def summary(results: Json) -> dict[str, Any]:
    """Medians, spreads and ratios per load, computed from the single measurements."""
    found: dict[str, Any] = {}
    for load in dict.fromkeys(drain["load"] for drain in results["drains"]):
        drains = [drain for drain in results["drains"] if drain["load"] == load]
        ours = [drain["per_second"] for drain in drains]
        theirs = best_of(results["baseline"], load)
        found[load] = {
            "ours": _plain(spread(ours)),
            "baseline": _plain(spread(theirs)),
            "ratio": _plain(ratio(ours, theirs)),
            "aim": AIMS.get(load),
            "commands_per_unit": _plain(spread(drain["commands_per_unit"] for drain in drains)),
            "units_per_commit": _plain(spread(drain["units_per_commit"] for drain in drains)),
            "cpu_s_per_1000": {
                role: _plain(spread(drain["cpu"][role] / drain["transfers"] * 1000 for drain in drains))
                for role in ROLES
            },
            "others_percent": _plain(spread(drain["cpu"]["others_percent"] for drain in drains)),
        }
    return found


def best_of(runs: Sequence[Json], load: str) -> list[float]:
    """The baseline of each round: the better of its connection counts."""
    rounds: dict[int, float] = {}
    for run in runs:
        if run["load"] == load:
            rounds[run["round"]] = max(rounds.get(run["round"], 0.0), run["per_second"])
    return [rounds[number] for number in sorted(rounds)]


def tables(results: Json) -> list[Table]:
    """For the terminal."""
    return [_rich(title, head, rows) for title, head, rows in sections(results) if rows]


def sections(results: Json) -> list[tuple[str, list[str], list[list[str]]]]:
    """Every table as title, head and rows of text: the terminal and the documentation show the same."""
    found = results.get("summary") or summary(results)
    options = results["options"]
    counts = " and ".join(str(count) for count in CONNECTIONS)
    return [
        (
            (
                f"Transfers per second: a backlog of {options['commands']:,} commands, until the last final status is "
                f"committed in Postgres (median of {options['rounds']}, lowest to highest)"
            ),
            ["load", "Aura Stream", f"SQL ledger (better of {counts} connections)", "ratio", "aim", "others' CPU"],
            [
                [
                    f"{load}: {MEANING[load]}",
                    _number(row["ours"]),
                    _number(row["baseline"]),
                    _number(row["ratio"], ".1f"),
                    f"{row['aim']:g}",
                    _number(row["others_percent"], ".0f", " %"),
                ]
                for load, row in found.items()
            ],
        ),
        (
            "CPU seconds per 1,000 transfers while draining, and batch sizes",
            ["load", *ROLES, "commands per unit of work", "units per Postgres commit"],
            [
                [
                    load,
                    *(_number(row["cpu_s_per_1000"][role], ".3f", low_to_high=False) for role in ROLES),
                    _number(row["commands_per_unit"], ".0f", low_to_high=False),
                    _number(row["units_per_commit"], ".1f", low_to_high=False),
                ]
                for load, row in found.items()
            ],
        ),
        (
            "Each half alone, transfers per second: the ledger without a sink, then the sink with the journal in Kafka",
            ["load", "ledger alone", "sink alone", "both together, of the sink's"],
            [
                [
                    run["load"],
                    f"{run['ledger_per_second']:,.0f}",
                    f"{run['sink_per_second']:,.0f}" if run["sink_per_second"] else "-",
                    _share(found, run),
                ]
                for run in results["sink_alone"]
            ],
        ),
        (
            (
                f"Latency in ms at a fixed rate for {options['seconds']:g} s, from the time a command was due to the "
                "time its row was seen committed"
            ),
            ["load", "rate", "row", "p50", "p90", "p99", "max", "commands per unit", "generator late, max"],
            [
                [
                    run["load"],
                    f"{run['rate']:,.0f}/s",
                    name,
                    *(f"{run[row][field]:.1f}" for field in ("p50_ms", "p90_ms", "p99_ms", "max_ms")),
                    f"{run['commands_per_unit']:.1f}",
                    f"{run['generator_late_ms_max']:.1f}",
                ]
                for run in results["open_loop"]
                for row, name in (("first_row", "first"), ("final_row", "final status"))
                if run["load"] != "one-hop" or row == "final_row"
            ],
        ),
        (
            "Where the latency of the first row is spent, ms (p50 / p99): due, in Kafka, decided, at the sink, seen",
            ["load", "rate", *STAGES],
            [
                [
                    run["load"],
                    f"{run['rate']:,.0f}/s",
                    *(f"{run['stages'][name]['p50_ms']:.1f} / {run['stages'][name]['p99_ms']:.1f}" for name in STAGES),
                ]
                for run in results["open_loop"]
            ],
        ),
        ("Restore and memory", ["what", "measured", "aim"], _single(results)),
    ]


def markdown(results: Json) -> str:
    """For the documentation."""
    machine, options = results["machine"], results["options"]
    parts = [
        (
            f"Measured {results['at']} with `{results['command']}`: {machine['cores']} cores ({machine['processor']}), "
            f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, {machine['file_system']}, "
            f"{machine['fsync_ms']} ms per fsync. {options['ledgers']} ledger and {options['sinks']} sink "
            f"process(es), {options['partitions']} partitions; everything, the load generator and Kafka included, on "
            "this one machine."
        ),
    ]
    for title, head, rows in sections(results):
        if rows:
            lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
            parts.append(f"### {title}\n\n" + "\n".join(lines))
    for profile in results["profiles"]:
        rows = [
            [
                f"`{cost['function']}`",
                f"{cost['own'] * 100:.1f} %",
                f"{cost['own'] * profile['cpu_us_per_transfer']:.1f}",
            ]
            for cost in profile["top"]
        ]
        head = ["function", "own time", "microseconds per transfer"]
        lines = [_row(head), _row(["---"] * 3), *(_row(row) for row in rows)]
        title = f"Where the {profile['role']}'s time goes, {profile['what']}: {profile['cpu_us_per_transfer']:.0f} us"
        parts.append(f"### {title} of CPU per transfer\n\n" + "\n".join(lines))
    parts.append("Checked: " + "; ".join(results["checks"]) + ".")
    return "\n\n".join(parts)


def write_docs(path: Path, results: Json) -> None:
    """Replaces what stands between the two marks. Raises :class:`SetupError` when they are not there."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SetupError(
            "The figures have no place in this file.",
            where=str(path),
            why=f"it lacks the lines {BEGIN} and {END}",
            fix="add both lines where the figures belong",
        )
    path.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n\n{END}{after}", encoding="utf-8")


def _single(results: Json) -> list[list[str]]:
    rows = []
    if restored := results["restore"]:
        what = f"restore of {restored['records']:,} changelog records"
        rows.append([what, f"{restored['per_second']:,.0f} records/s", "200,000 records/s"])
    if memory := results["memory"]:
        what = f"memory of each ledger process after {memory['accounts']:,} more accounts"
        rows.append([what, ", ".join(f"{now:.0f} MB" for now in memory["ledger_mb"]), "300 MB for a million"])
    return rows


def _share(found: Mapping[str, Any], run: Json) -> str:
    ours = found.get(run["load"], {}).get("ours")
    return f"{100 * ours['median'] / run['sink_per_second']:.0f} %" if ours and run["sink_per_second"] else "-"


def _plain(value: Spread | None) -> dict[str, Any] | None:
    return asdict(value) if value is not None else None


def _number(value: Json | None, form: str = ",.0f", unit: str = "", *, low_to_high: bool = True) -> str:
    """`median (low to high)`, or a dash."""
    if value is None:
        return "-"
    text = f"{value['median']:{form}}{unit}"
    if low_to_high and value["count"] > 1:
        text += f" ({value['low']:{form}} to {value['high']:{form}})"
    return text


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _rich(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table
