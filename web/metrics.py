"""Prometheus metrics of one API process."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.identity import Identity
from aura_stream.ledger.reads import LedgerReads
from aura_stream.reconcile.metrics import ReconcileMetrics
from web.cached import Answers
from web.command_log import CommandLog
from web.erasures import Erasures
from web.events_parts import EventParts
from web.tail import Tail

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ASK_S = 2.0
_LE = [*map(floatToGoString, _SECONDS), "+Inf"]


class Count(Collector):
    """A counter by labels. Several count per request, so it is plain numbers: one thread counts and is asked."""

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...], registry: CollectorRegistry) -> None:
        self._name, self._help, self._labels = name, help_text, labels
        self._values: defaultdict[tuple[str, ...], int] = defaultdict(int)
        registry.register(self)

    def add(self, *labels: str, count: int = 1) -> None:
        """Counts; the labels' values in their order."""
        self._values[labels] += count

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class Seconds(Collector):
    """A histogram of times by operation, as plain as :class:`Count`."""

    def __init__(self, name: str, help_text: str, registry: CollectorRegistry) -> None:
        self._name, self._help = name, help_text
        self._counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * len(_LE))
        self._sums: defaultdict[str, float] = defaultdict(float)
        registry.register(self)

    def add(self, operation: str, seconds: float) -> None:
        """Counts one request."""
        self._counts[operation][bisect_left(_SECONDS, seconds)] += 1
        self._sums[operation] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._help, labels=("operation",))
        for operation, counts in self._counts.items():
            buckets = list(zip(_LE, map(float, accumulate(counts)), strict=True))
            family.add_metric((operation,), buckets, self._sums[operation])
        yield family


class Metrics:
    """A registry of its own, so that several apps can live in one process (tests)."""

    def __init__(
        self,
        tail: Tail,
        commands: CommandLog,
        identity: Identity,
        events: EventParts,
        answers: Answers,
        reads: LedgerReads,
        erasures: Erasures,
    ) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Count("aura_http_requests", "Answered requests.", ("operation", "method", "status"), registry)
        self.seconds = Seconds("aura_http_request_seconds", "Time to answer, waits included.", registry)
        self.accepted = Count("aura_http_commands_accepted", "Commands acknowledged by Kafka.", ("type",), registry)
        self.outcomes = Count("aura_http_outcomes", "Answers to commands.", ("type", "outcome"), registry)
        self.limited = Count("aura_http_limited", "Requests above a limit.", ("kind",), registry)
        self.errors = Count("aura_http_errors", "Problems answered.", ("category", "reason"), registry)
        queries = Histogram(
            "aura_http_query_seconds", "Time of one query of Postgres.", ("pool",), buckets=_SECONDS, registry=registry
        )
        jobs = Histogram(
            "aura_http_job_seconds",
            "Time of one run of a job in the background.",
            ("job",),
            buckets=_SECONDS,
            registry=registry,
        )
        identity.database.observe = queries.labels("identity").observe
        events.database.observe = queries.labels("events").observe
        reads.observe = queries.labels("ledger").observe
        identity.cleanup.observe = jobs.labels("cleanup").observe
        identity.mails.observe = jobs.labels("mails").observe
        erasures.observe = jobs.labels("erasures").observe
        gauges = {
            "aura_http_tail_kept_lines": ("Journal lines kept until Postgres has them.", lambda: len(tail.recent)),
            "aura_http_tail_units_read": ("Journal records read since the start.", lambda: tail.recent.units),
            "aura_http_tail_reading": ("1 while the journal is read.", lambda: int(tail.is_reading)),
            "aura_http_waiting_requests": ("Commands and transactions waited for.", lambda: tail.recent.waiting),
            "aura_http_remembered_logins": (
                "Verified tokens and keys remembered.",
                lambda: identity.authentication.remembered,
            ),
            "aura_http_audit_lost": ("Refusals that the audit log had no room for.", lambda: identity.audit.lost),
            "aura_http_event_streams": ("Event streams that are open.", lambda: len(events.tail)),
            "aura_http_read_cache_hits": ("Reads answered from memory.", lambda: answers.used["hit"]),
            "aura_http_read_cache_misses": ("Reads that had to be made.", lambda: answers.used["miss"]),
            "aura_http_cleaned_rows": (
                "Rows removed because they have served their time.",
                lambda: sum(identity.cleanup.removed.values()),
            ),
            "aura_http_kafka_writable": ("1 while commands would be taken.", lambda: int(commands.is_up)),
        }
        for name, (help_text, read) in gauges.items():
            Gauge(name, help_text, registry=self._registry).set_function(read)
        self._reconciled = ReconcileMetrics(self._registry)
        self._database = identity.database

    async def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        try:
            # At that moment, so that every node shows the same; whoever asks must be answered without Postgres too.
            async with asyncio.timeout(_ASK_S), self._database.platform() as connection:
                await self._reconciled.refresh(connection)
        except (IdentityUnavailable, TimeoutError):
            self._reconciled.away()
        return generate_latest(self._registry)
