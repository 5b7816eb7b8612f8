"""Prometheus metrics of one API process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from aura_stream.identity.identity import Identity
from web.cached import Answers
from web.command_log import CommandLog
from web.events_parts import EventParts
from web.tail import Tail

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """A registry of its own, so that several apps can live in one process (tests)."""

    def __init__(
        self, tail: Tail, commands: CommandLog, identity: Identity, events: EventParts, answers: Answers
    ) -> None:
        self._registry = CollectorRegistry()
        labels = ("operation", "method", "status")
        self.requests = Counter("aura_http_requests", "Answered requests.", labels, registry=self._registry)
        self.seconds = Histogram(
            "aura_http_request_seconds",
            "Time to answer, waits included.",
            ("operation",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.accepted = Counter(
            "aura_http_commands_accepted", "Commands acknowledged by Kafka.", ("type",), registry=self._registry
        )
        self.outcomes = Counter(
            "aura_http_outcomes", "Answers to commands.", ("type", "outcome"), registry=self._registry
        )
        self.limited = Counter("aura_http_limited", "Requests above a limit.", ("kind",), registry=self._registry)
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

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
