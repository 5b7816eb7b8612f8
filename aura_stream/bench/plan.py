"""What a rate takes, computed from what was measured: the tables of docs/scale.md. No number in them is typed.

The arithmetic is proportional on purpose: CPU per transfer, times the rate, over how busy a core may be. What does not
follow from CPU (one customer's limit, waiting for commits, replication) is said on the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

Json = Mapping[str, Any]
Section = tuple[str, list[str], list[list[str]]]

BUSY: Final = 0.6
"""How busy a core may be on average: the rest is for peaks, restarts, and the work of one that has died."""
REPLICAS: Final = 3
PARTITIONS_PER_LEDGER: Final = 4
"""So that processes can be doubled twice without a new partition count."""
SERVER_CORES: Final = 32
"""Of one Postgres server."""
RATES: Final = (1_000, 10_000, 100_000, 1_000_000)
DAY_S: Final = 86_400
_ROLES: Final = ("ledger", "sink", "kafka", "postgres")


def cpu_us(results: Json, load: str) -> dict[str, float]:
    """Microseconds of CPU per transfer, by role."""
    row = results["summary"][load]["cpu_s_per_1000"]
    return {role: row[role]["median"] * 1000 for role in _ROLES}


def bytes_per_transfer(results: Json) -> float | None:
    """What a one-hop transfer takes in Postgres, indexes included: from the growth of the database."""
    points = results.get("entries") or []
    if len(points) < 2:
        return None
    first, last = points[0], points[-1]
    return float((last["database_mb"] - first["database_mb"]) * 1e6 / ((last["entries"] - first["entries"]) / 2))


def plan(results: Json) -> list[Section]:
    """The measured inputs, and what follows for some rates."""
    loads = [load for load in ("one-hop", "between") if load in results["summary"]]
    size = bytes_per_transfer(results)
    memory, restore = results.get("memory"), results.get("restore")
    inputs = [
        *(
            [f"CPU of {role}, us per transfer", *(f"{cpu_us(results, load)[role]:.0f}" for load in loads)]
            for role in _ROLES
        ),
        ["all together", *(f"{sum(cpu_us(results, load).values()):.0f}" for load in loads)],
        ["one machine, transfers/s", *(f"{results['summary'][load]['ours']['median']:,.0f}" for load in loads)],
        [
            "the most of one shard (one core of a ledger), transfers/s",
            *(f"{1e6 / cpu_us(results, load)['ledger']:,.0f}" for load in loads),
        ],
        ["bytes in Postgres per transfer", *(_bytes(size, load) for load in loads)],
        ["restore, changelog records/s of one process", *([_or_dash(restore, "per_second")] * len(loads))],
        [
            "restoring a day of 1,000 transfers/s from nothing, at least",
            *([f"{1_000 * DAY_S / restore['per_second'] / 60:,.1f} min" if restore else "-"] * len(loads)),
        ],
        ["PSS of the ledgers per million accounts, MB", *([_per_million(memory)] * len(loads))],
    ]
    rows = []
    for load in loads:
        cpu = cpu_us(results, load)
        for rate in RATES:
            cores = {role: rate * cpu[role] / 1e6 / BUSY for role in _ROLES}
            ledgers, sinks = math.ceil(cores["ledger"]), math.ceil(cores["sink"])
            postgres = math.ceil(cores["postgres"])
            rows.append(
                [
                    load,
                    f"{rate:,}",
                    f"{ledgers:,}",
                    f"{sinks:,}",
                    f"{_power_of_two(max(8, PARTITIONS_PER_LEDGER * ledgers)):,}",
                    f"{math.ceil(cores['kafka'] * REPLICAS):,}",
                    f"{postgres:,}",
                    f"{math.ceil(postgres / SERVER_CORES):,}",
                    f"{rate * DAY_S * size * (1 if load == 'one-hop' else 2) / 1e9:,.0f}" if size else "-",
                ]
            )
    return [
        (f"### Measured\n\nThe run of {results['at']} in [the benchmarks](benchmarks.md).", ["what", *loads], inputs),
        (
            (
                f"### What follows\n\nCores {BUSY * 100:.0f} % busy; {PARTITIONS_PER_LEDGER} partitions per ledger, "
                f"rounded up to a power of two; Kafka with {REPLICAS} replicas; Postgres servers with {SERVER_CORES}."
            ),
            [
                *("load", "transfers/s", "ledgers", "sinks", "partitions", "Kafka's cores", "Postgres' cores"),
                *("Postgres servers", "Postgres GB a day"),
            ],
            rows,
        ),
    ]


def _bytes(size: float | None, load: str) -> str:
    """Between customers there are two journals and four entries: counted as twice."""
    return "-" if size is None else f"{size * (1 if load == 'one-hop' else 2):,.0f}"


def _or_dash(found: Json | None, name: str) -> str:
    return f"{found[name]:,.0f}" if found else "-"


def _per_million(memory: Json | None) -> str:
    if not memory:
        return "-"
    grown = sum(
        found["pss_mb"] - memory["before"][name]["pss_mb"]
        for name, found in memory["after"].items()
        if name.startswith("ledger")
    )
    return f"{grown / memory['accounts'] * 1e6:,.0f}"


def _power_of_two(value: float) -> int:
    return 1 << math.ceil(math.log2(value))
