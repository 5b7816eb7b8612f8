"""What is said about a run: a table for people, JSON for machines, tables for the documentation. No number is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.table import Table

from aura_stream import SetupError
from aura_stream.bench.baseline import CONNECTIONS
from aura_stream.bench.figures import Spread, ratio, spread
from aura_stream.bench.loads import MEANING
from aura_stream.bench.open_loop import STAGES
from aura_stream.bench.plan import plan
from aura_stream.bench.plots import plots

AIMS: Final = {"one-hop": 10.0, "between": 6.0, "hot": 16.0}
"""How many times the baseline we want to be."""
HTTP_AIM: Final = 0.4
AUTH_AIM: Final = 0.7
BATCH_AIM: Final = 20_000
ISOLATION_AIM: Final = 1.2
FULL: Final = 0.85
"""A process that uses so much of one core is as good as full: it waits for a reply now and then."""

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
PLAN_BEGIN, PLAN_END = "<!-- plan: begin -->", "<!-- plan: end -->"
ROLES = ("ledger", "sink", "kafka", "postgres")

Json = Mapping[str, Any]

_TOGETHER: Final = (
    ("drains", "baseline"),
    *((name,) for name in ("warm_up", "sink_alone", "open_loop", "http", "auth", "restore", "memory")),
    *((name,) for name in ("scaling", "entries", "open", "isolation", "settlements", "profiles")),
)
"""What of one run replaces what of an earlier one: ratios are only of neighbours in time."""


def combined(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs as one: of each section the last measurement, and what was run."""
    found = dict(runs[-1])
    for names in _TOGETHER:
        of = next((run for run in reversed(runs) if any(run.get(name) for name in names)), runs[-1])
        found |= {name: of.get(name) for name in names}
    heads = ("at", "command", "options", "machine")
    found["runs"] = [head for run in runs for head in run.get("runs") or [{name: run[name] for name in heads}]]
    found["checks"] = list(dict.fromkeys(check for run in runs for check in run["checks"]))
    found["summary"] = summary(found)
    return found


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
    return [
        *_against_the_baseline(results, found),
        *_at_a_rate(results),
        *_http(results),
        *_auth(results),
        *_scaling(results),
        *_growth(results),
        ("Restore", ["what", "measured", "aim"], _restore(results)),
        *_memory(results),
        *_isolation(results),
        *_settlements(results),
    ]


Section = tuple[str, list[str], list[list[str]]]


def _against_the_baseline(results: Json, found: Mapping[str, Any]) -> list[Section]:
    counts = " and ".join(str(count) for count in CONNECTIONS)
    commands = max((drain["transfers"] for drain in results["drains"]), default=0)
    rounds = max((drain["round"] + 1 for drain in results["drains"]), default=0)
    return [
        (
            (
                f"Transfers per second: a backlog of {commands:,} commands, until the last final status is "
                f"committed in Postgres (median of {rounds}, lowest to highest)"
            ),
            ["load", "Aura Stream", f"SQL ledger (better of {counts} connections)", "ratio", "aim", "others' CPU"],
            [
                [
                    f"{load}: {MEANING[load]}",
                    _number(row["ours"]),
                    _number(row["baseline"]),
                    _number(row["ratio"], ".1f"),
                    f"{AIMS[load]:g}",
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
    ]


def _at_a_rate(results: Json) -> list[Section]:
    seconds = max((run["sent"] / run["rate"] for run in results["open_loop"]), default=0.0)
    return [
        (
            (
                f"Latency in ms at a fixed rate for {seconds:.0f} s, from the time a command was due to the "
                "time its row was seen committed"
            ),
            ["load", "rate", "row", "p50", "p90", "p99", "max", "generator late, max", "others' CPU"],
            [
                [
                    run["load"],
                    f"{run['rate']:,.0f}/s",
                    name,
                    *(f"{run[row][field]:.1f}" for field in ("p50_ms", "p90_ms", "p99_ms", "max_ms")),
                    f"{run['generator_late_ms_max']:.1f}",
                    f"{run['cpu']['others_percent']:.0f} %" if "cpu" in run else "-",
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
        (
            "Why it takes that long: the units of work at a fixed rate, all partitions together",
            [
                *("load", "rate", "units/s", "commands per unit", "records per unit", "compute ms", "commit ms p50"),
                *("commit ms, mean", "broker's CPU ms per unit", "broker"),
            ],
            [
                [
                    run["load"],
                    f"{run['rate']:,.0f}/s",
                    f"{run['units_per_second']:,.0f}",
                    f"{run['commands_per_unit']:.1f}",
                    f"{run['shards']['records_per_unit']:.1f}",
                    f"{run['shards']['compute_ms']:.1f}",
                    f"{run['shards']['commit_ms_p50']:.1f}",
                    f"{run['shards']['commit_ms']:.1f}",
                    " → ".join(f"{cost:.1f}" for cost in run["kafka_ms_per_unit"]),
                    "warm" if run["broker_is_warm"] else "NOT warm",
                ]
                for run in results["open_loop"]
                if "shards" in run
            ],
        ),
    ]


def _http(results: Json) -> list[Section]:
    found = results.get("http")
    if not found:
        return []
    rounds = len(found["runs"]["api"])
    rows = []
    for kind, what, aim in (
        ("bare", "a bare aiohttp handler: the same bytes, parsed, 202", "-"),
        ("api", "one API process, one command per request", f"{HTTP_AIM:g} of the bare one"),
        ("batch", f"one API process, {found['batch_lines']:,} commands per request", f"{BATCH_AIM:,}/s"),
    ):
        run = found[kind]
        reached = f"{run['per_second']:,.0f}"
        if kind == "api":
            reached += f" ({found['ratio']:.2f}; by CPU {found['cpu_ratio']:.2f})"
        rows.append(
            [
                what,
                reached,
                aim,
                f"{run['p50_ms']:.1f} / {run['p99_ms']:.1f}",
                f"{run['server_cpu_us']:.0f}",
                f"{run['server_cores']:.2f}",
            ]
        )
    return [
        (
            (
                f"HTTP: commands accepted per second by one process over {found['connections']} connections "
                f"(median of {rounds}); ledger and sink stopped"
            ),
            ["what", "commands/s", "aim", "ms per request, p50 / p99", "server's CPU us per command", "server's cores"],
            rows,
        )
    ]


def _auth(results: Json) -> list[Section]:
    found = results.get("auth")
    if not found:
        return []
    rows = []
    for kind, what in (
        ("fixed", "the same application with a fixed principal"),
        ("logged_in", f"the API, {found['logins']} access tokens"),
    ):
        run = found[kind]
        is_ours = kind == "logged_in"
        rows.append(
            [
                what,
                f"{run['per_second']:,.0f}"
                + (f" ({found['ratio']:.2f}; by CPU {found['cpu_ratio']:.2f})" if is_ours else ""),
                f"{AUTH_AIM:g} of the other" if is_ours else "-",
                f"{run['p50_ms']:.1f} / {run['p99_ms']:.1f}",
                f"{run['server_cpu_us']:.0f}",
            ]
        )
    return [
        (
            (
                f"Logins: commands accepted per second by one process over {found['connections']} connections "
                f"(median of {len(found['runs']['fixed'])}); limits raised in both, ledger and sink stopped"
            ),
            ["what", "commands/s", "aim", "ms per request, p50 / p99", "server's CPU us per command"],
            rows,
        )
    ]


def limit_of(run: Json) -> str:
    """What a drain waited for: the process whose core is full, all cores, or nothing that computes."""
    cores = run["cores"]
    workers = {name: used for name, used in cores.items() if name.startswith(("ledger", "sink"))}
    busiest = max(workers, key=lambda name: workers[name])
    parts = []
    if workers[busiest] >= FULL:
        parts.append(f"the core of {busiest}")
    if run["cpu"]["machine_percent"] >= 100 * FULL:
        parts.append("all cores")
    return " and ".join(parts) or f"waiting for commits ({busiest}: {workers[busiest]:.2f} of a core)"


def _scaling(results: Json) -> list[Section]:
    return [
        (
            "Scaling: draining with ledger processes and partitions, CPU seconds per 1,000 transfers, what limits it",
            [
                "load",
                "partitions",
                "ledgers",
                "transfers/s",
                *ROLES,
                "commands per unit of work",
                "limit",
                "others' CPU",
            ],
            [
                [
                    run["load"],
                    str(run["partitions"]),
                    str(run["ledgers"]),
                    f"{run['per_second']:,.0f}",
                    *(f"{run['cpu'][role] / run['transfers'] * 1000:.3f}" for role in ROLES),
                    f"{run['commands_per_unit']:.0f}",
                    limit_of(run),
                    f"{run['cpu']['others_percent']:.0f} %",
                ]
                for run in sorted(
                    results.get("scaling") or [], key=lambda one: (one["load"], one["partitions"], one["ledgers"])
                )
            ],
        )
    ]


def _growth(results: Json) -> list[Section]:
    return [
        (
            "As the ledger grows: one-hop, balance_as_of in ms (p50 / max of 50 accounts), and restore",
            [
                *("entries", "one-hop/s", "balance now", "as of the past", "as known in the past", "database"),
                *("changelog records", "restore", "records/s"),
            ],
            [
                [
                    f"{run['entries']:,}",
                    f"{run['per_second']:,.0f}",
                    *(
                        f"{run['balance_ms'][name]['p50']:.2f} / {run['balance_ms'][name]['max']:.2f}"
                        for name in ("now", "effective", "known")
                    ),
                    f"{run['database_mb']:,.0f} MB",
                    f"{run['restore']['records']:,}",
                    f"{run['restore']['seconds']:.1f} s",
                    f"{run['restore']['per_second']:,.0f}",
                ]
                for run in results.get("entries") or []
            ],
        ),
        (
            "As open transactions grow: holds that wait, each with a deadline",
            ["open holds", "one-hop/s", "ledger's CPU s per 1,000", "ledger's memory", "of it RocksDB"],
            [
                [
                    f"{run['open']:,}",
                    f"{run['per_second']:,.0f}",
                    f"{run['cpu']['ledger'] / run['transfers'] * 1000:.3f}",
                    ", ".join(f"{one['pss_mb']:.0f} MB" for one in _ledgers(run["memory"])),
                    ", ".join(f"{one['rocksdb_mb']:.0f} MB" for one in _ledgers(run["memory"])),
                ]
                for run in results.get("open") or []
            ],
        ),
    ]


def _isolation(results: Json) -> list[Section]:
    found = results.get("isolation")
    if not found:
        return []
    names = {"alone": "nothing is asked of A", "quiet": "A answers", "hanging": "A hangs"}
    names = {name: text for name, text in names.items() if name in found}  # runs from before have no `alone`
    rows = [
        [
            str(number + 1),
            *(f"{found[name][number]['p50_ms']:.1f} / {found[name][number]['p99_ms']:.1f}" for name in names),
            *(f"{found['hanging'][number]['p50_ms'] / found[name][number]['p50_ms']:.2f}" for name in [*names][:-1]),
        ]
        for number in range(len(found["hanging"]))
    ]
    middle = [
        f"{median(one['p50_ms'] for one in found[name]):.1f} / {median(one['p99_ms'] for one in found[name]):.1f}"
        for name in names
    ]
    ratios = [f"{found[key]:.2f}" for key in ("ratio_alone", "ratio") if key in found]
    return [
        (
            (
                f"Bank A hangs, bank B goes on: ms from a payout's command to bank B's word (p50 / p99), in turns of "
                f"{found['count']} payouts at {found['rate']:.0f}/s; {found['without_answer']:,} calls to A were never "
                "answered"
            ),
            [
                "round",
                *names.values(),
                *(f"ratio to p50 while {names[name]} (aim: at most {ISOLATION_AIM:g})" for name in [*names][:-1]),
            ],
            [*rows, ["median", *middle, *ratios]],
        )
    ]


def _settlements(results: Json) -> list[Section]:
    found = results.get("settlements")
    if not found:
        return []
    names = list(dict.fromkeys(name for run in found["runs"] for name in run["cores"] if name != "bench"))
    return [
        (
            (
                f"Settlements per second through the mock bank and the local chain (a block a second), a backlog of "
                f"{found['count']:,} each way until the last is completed; cores that each process used"
            ),
            ["what", "settlements/s", *names, "limit", "others' CPU"],
            [
                [
                    run["what"],
                    f"{run['per_second']:.1f}",
                    *(f"{run['cores'].get(name, 0.0):.2f}" for name in names),
                    settling_limit(run),
                    f"{run['cpu']['others_percent']:.0f} %",
                ]
                for run in found["runs"]
            ],
        ),
        (
            "Where a settlement waits, median seconds in each state",
            ["what", "state", "s"],
            [
                [run["what"], state, f"{ms / 1000:.2f}"]
                for run in found["runs"]
                for state, ms in run["waits_ms"].items()
            ],
        ),
    ]


def settling_limit(run: Json) -> str:
    """What settlements waited for: a process whose core is full, all cores, or the state in which they stay longest."""
    busiest = max(
        (name for name in run["cores"] if name not in ("bench", "postgres")), key=lambda name: run["cores"][name]
    )
    parts = []
    if run["cores"][busiest] >= FULL:
        parts.append(f"the core of {busiest}")
    if run["cpu"]["machine_percent"] >= 100 * FULL:
        parts.append("all cores")
    longest = max(run["waits_ms"], key=lambda state: run["waits_ms"][state])
    return " and ".join(parts) or f"waiting in {longest} (busiest: {busiest}, {run['cores'][busiest]:.2f} of a core)"


def _ledgers(memory: Mapping[str, Json]) -> list[Json]:
    return [found for name, found in memory.items() if name.startswith("ledger")]


def _restore(results: Json) -> list[list[str]]:
    restored = results.get("restore")
    if not restored:
        return []
    what = f"restore of {restored['records']:,} changelog records in {restored['seconds']:.1f} s"
    return [[what, f"{restored['per_second']:,.0f} records/s", "200,000 records/s"]]


def _memory(results: Json) -> list[Section]:
    memory = results.get("memory")
    if not memory:
        return []
    before, after, count = memory["before"], memory["after"], memory["accounts"]
    return [
        (
            (
                f"Memory in MB after {count:,} more accounts (aim: 300 MB per ledger for a million); proportional "
                "(PSS) counts shared pages in parts"
            ),
            [
                "process",
                "resident before",
                "resident",
                "most",
                "PSS",
                "PSS more per million accounts",
                "RocksDB's part",
            ],
            [
                [
                    name,
                    f"{before[name]['rss_mb']:,.0f}",
                    f"{found['rss_mb']:,.0f}",
                    f"{found['most_mb']:,.0f}" if "most_mb" in found else "-",
                    f"{found['pss_mb']:,.0f}",
                    f"{(found['pss_mb'] - before[name]['pss_mb']) / count * 1e6:,.0f}",
                    f"{found['rocksdb_mb']:,.0f}" if found.get("rocksdb_mb") else "-",
                ]
                for name, found in after.items()
            ],
        )
    ]


def markdown(results: Json, images: Mapping[str, str] = {}) -> str:
    """For the documentation; `images` are the plots' paths by title, as the page sees them."""
    parts = [_ran(run) for run in results.get("runs") or [results]]
    parts += [f"![{title}]({path})" for title, path in images.items()]
    for title, head, rows in sections(results):
        if rows:
            parts.append(f"### {title}\n\n" + _table(head, rows))
    for profile in results["profiles"]:
        rows = [
            [
                f"`{cost['function']}`",
                f"{cost['own'] * 100:.1f} %",
                f"{cost['own'] * profile['cpu_us_per_transfer']:.1f}",
            ]
            for cost in profile["top"]
        ]
        title = f"Where the {profile['role']}'s time goes, {profile['what']}: {profile['cpu_us_per_transfer']:.0f} us"
        head = ["function", "own time", "microseconds per transfer"]
        parts.append(f"### {title} of CPU per transfer\n\n" + _table(head, rows))
    if warmth := _warmth(results.get("warm_up") or {}):
        parts.append(warmth)
    parts.append("Checked: " + "; ".join(results["checks"]) + ".")
    return "\n\n".join(parts)


def _ran(run: Json) -> str:
    machine, options = run["machine"], run["options"]
    return (
        f"Measured {run['at']} with `{run['command']}`: {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}, {machine['file_system']}, "
        f"{machine['fsync_ms']} ms per fsync. {options['ledgers']} ledger and {options['sinks']} sink "
        f"process(es), {options['partitions']} partitions where nothing else is said; everything, the load generator "
        "and Kafka included, on this one machine."
    )


def _warmth(warm_up: Json) -> str:
    raw, units = warm_up.get("raw_ms") or [], warm_up.get("units_ms") or []
    if not raw and not units:
        return ""
    return (
        "The broker while it warmed up, CPU ms: "
        + " → ".join(f"{cost:.2f}" for cost in raw)
        + " per small transaction; "
        + " → ".join(f"{cost:.1f}" for cost in units)
        + " per unit of work at 500 commands/s."
    )


def write_docs(path: Path, results: Json) -> None:
    """Replaces what stands between a page's marks: figures and plots, or the plan, or both.

    Plots are written into `images/` beside the page. Raises :class:`SetupError` when there are no marks.
    """
    results = {"summary": summary(results), **results}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    has_figures = BEGIN in text and END in text
    has_plan = PLAN_BEGIN in text and PLAN_END in text
    if not (has_figures or has_plan):
        raise SetupError(
            "The figures have no place in this file.",
            where=str(path),
            why=f"it lacks the lines {BEGIN} and {END} (or {PLAN_BEGIN} and {PLAN_END})",
            fix="add both lines where the figures belong",
        )
    if has_figures:
        images = {}
        for name, (title, svg) in plots(results).items():
            image = path.parent / "images" / f"bench-{name}.svg"
            image.parent.mkdir(exist_ok=True)
            image.write_text(svg, encoding="utf-8")
            images[title] = f"images/{image.name}"
        text = _replaced(text, BEGIN, END, markdown(results, images))
    if has_plan:
        tables_of_plan = [f"{title}\n\n{_table(head, rows)}" for title, head, rows in plan(results)]
        text = _replaced(text, PLAN_BEGIN, PLAN_END, "\n\n".join(tables_of_plan))
    path.write_text(text, encoding="utf-8")


def _replaced(text: str, begin: str, end: str, inside: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{inside}\n\n{end}{after}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)])


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
