"""Prometheus metrics of a connector: each lane as its last unit has left it, and the attempts that have ended.

What is a state is read from the shards when it is asked for, by whichever process has the lane. Attempts are counted by
the process that writes the lanes' journal to Postgres, each once, from its start on: sum over the connectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from aura_stream.domain.lanes.lines import AttemptLine, NoteLine
from aura_stream.engine.feed import Feed
from aura_stream.engine.shard import Shard
from aura_stream.engine.table import Table
from tables.bank_lanes import BANK_DUE, BANK_EARLY, BANK_LANES, due_prefix
from tables.chain_lanes import CHAIN_LANES, CHAIN_WAITING, waiting_prefix
from tables.pauses import ALL, PAUSES

BREAKER: Final = {"closed": 0, "half_open": 1, "open": 2}

GAUGES: Final = {
    "aura_lane_breaker": "0 closed, 1 half-open (one call is let through), 2 open.",
    "aura_lane_failures": "Calls (of a chain: looks) in a row that failed.",
    "aura_lane_stopped": "1 while the lane signs nothing until a person releases it.",
    "aura_lane_waiting": "Jobs of the lane that wait for their call, or for a nonce.",
    "aura_lane_under_way": "Calls under way; of a chain: transactions that are signed and not final.",
    "aura_lane_early": "Payments with a reference as ours are, before the ledger has spoken of it.",
    "aura_lane_mintable_units": "Fiat that has settled and is meant for tokens that nobody has signed, in minor units.",
    "aura_lane_minting_units": "Mints that are signed and not final, in minor units of the token.",
    "aura_lane_open_returns_units": "Burns for returns that are not final, in minor units of the token.",
    "aura_lane_statement_timestamp_seconds": "When the bank's books were last read to their end.",
    "aura_lane_pauses": "Pauses in force that the lane's partition knows.",
    "aura_lane_failed_polls": "Requests for a bank's events in a row that brought no list of them.",
    "aura_lane_dead_letters": "Records of the lane's partition that nobody could read, since its process has it.",
}


class LaneMetrics:
    """Of one process. A registry of its own: the library's default one belongs to Faust."""

    def __init__(self, feed: Feed) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Lanes(feed))
        labels = ("lane", "kind", "answer")
        self._attempts = Counter(
            "aura_lane_attempts", "Attempts outside that have ended.", labels, registry=self._registry
        )
        noted = "What was said outside and led to nothing: unreadable, or about a reference that nobody knows."
        self._notes = Counter("aura_lane_notes", noted, ("lane", "what"), registry=self._registry)

    def ended(self, line: AttemptLine) -> None:
        """Counts an attempt."""
        self._attempts.labels(line.lane, line.kind, line.answer).inc()

    def noted(self, line: NoteLine) -> None:
        """Counts what led to nothing."""
        self._notes.labels(line.lane, line.what).inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Lanes(Collector):
    """Asked at every scrape, in the worker's own loop: no unit is in the middle of anything then."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing, so that registering asks for nothing."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All gauges, with a value per lane."""
        families = {name: GaugeMetricFamily(name, text, labels=("lane",)) for name, text in GAUGES.items()}
        for shard in self._feed.partitions.values():
            if isinstance(shard, Shard):
                for lane, figures in (*_banks(shard), *_minters(shard)):
                    for name, value in figures.items():
                        families[f"aura_lane_{name}"].add_metric((lane,), value)
        yield from families.values()


def _banks(shard: Shard) -> Iterator[tuple[str, dict[str, float]]]:
    for key, row in shard.rows(BANK_LANES):
        bank, lane = key.decode(), row.lane
        yield (
            f"bank:{bank}",
            {
                "breaker": BREAKER[lane.breaker],
                "failures": lane.failures,
                "stopped": 0,
                "waiting": sum(_count(shard, BANK_DUE, due_prefix(bank, kind)) for kind in "wp"),
                "under_way": lane.calls,
                "early": sum(not early.is_unmatched for _, early in shard.rows(BANK_EARLY, f"{bank}/".encode())),
                "pauses": _pauses(shard),
                "failed_polls": row.failed_polls,
                "dead_letters": shard.counters.dead_letters,
            },
        )


def _minters(shard: Shard) -> Iterator[tuple[str, dict[str, float]]]:
    for key, row in shard.rows(CHAIN_LANES):
        name, minter = key.decode(), row.minter
        yield (
            f"chain:{name}",
            {
                "breaker": BREAKER[row.breaker],
                "failures": row.failures,
                "stopped": bool(minter.stopped),
                "waiting": sum(_count(shard, CHAIN_WAITING, waiting_prefix(name, kind)) for kind in "mq"),
                "under_way": _count(shard, CHAIN_WAITING, waiting_prefix(name, "s")),
                "mintable_units": minter.mintable,
                "minting_units": minter.in_flight,
                "open_returns_units": minter.open_returns,
                "statement_timestamp_seconds": minter.statement_at / 1000,
                "pauses": _pauses(shard),
                "dead_letters": shard.counters.dead_letters,
            },
        )


def _count(shard: Shard, table: Table[Any], prefix: bytes) -> int:
    return sum(1 for _ in shard.rows(table, prefix))


def _pauses(shard: Shard) -> int:
    return sum(not pause.lifted_at for _, row in shard.rows(PAUSES, ALL) for pause in row.pauses)
