"""Prometheus metrics of one API process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from aura_stream.identity.identity import Identity
from aura_stream.ledger.reads import LedgerReads
from web.cached import Answers
from web.command_log import CommandLog
from web.erasures import Erasures
from web.events_parts import EventParts
from web.reconciled import Reconciled
from web.tail import Tail

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


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
        labels = ("operation", "method", "status")
        requests = Counter("aura_http_requests", "Answered requests.", labels, registry=self._registry)
        seconds = Histogram(
            "aura_http_request_seconds",
            "Time to answer, waits included.",
            ("operation",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        accepted = Counter(
            "aura_http_commands_accepted", "Commands acknowledged by Kafka.", ("type",), registry=self._registry
        )
        outcomes = Counter("aura_http_outcomes", "Answers to commands.", ("type", "outcome"), registry=self._registry)
        errors = Counter("aura_http_errors", "Problems answered.", ("category", "reason"), registry=self._registry)
        queries = Histogram(
            "aura_http_query_seconds",
            "Time of one query of Postgres.",
            ("pool",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        jobs = Histogram(
            "aura_http_job_seconds",
            "Time of one run of a job in the background.",
            ("job",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        limited = Counter("aura_http_limited", "Requests above a limit.", ("kind",), registry=self._registry)
        # Of labels to the one that counts: several are counted per request, and finding one costs more than counting.
        identity.database.observe = queries.labels("identity").observe
        events.database.observe = queries.labels("events").observe
        reads.observe = queries.labels("ledger").observe
        identity.cleanup.observe = jobs.labels("cleanup").observe
        identity.mails.observe = jobs.labels("mails").observe
        erasures.observe = jobs.labels("erasures").observe
        self.errors: Callable[..., Counter] = cache(errors.labels)
        self.requests: Callable[..., Counter] = cache(requests.labels)
        self.seconds: Callable[..., Histogram] = cache(seconds.labels)
        self.accepted: Callable[..., Counter] = cache(accepted.labels)
        self.outcomes: Callable[..., Counter] = cache(outcomes.labels)
        self.limited: Callable[..., Counter] = cache(limited.labels)
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
        self._reconciled = Reconciled(self._registry)
        self._database = identity.database

    async def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        await self._reconciled.refresh(self._database)
        return generate_latest(self._registry)
