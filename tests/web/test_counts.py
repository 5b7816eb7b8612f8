"""Counters and times of requests are plain numbers, and are shown as Prometheus' own client shows them."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from web.metrics import _SECONDS, Count, Seconds


def _shown(registry: CollectorRegistry) -> list[str]:
    """Without the times at which Prometheus' client began to count."""
    return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)


def test_counts_and_times_read_as_those_of_the_client_library() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    count = Count("answers", "Answers.", ("operation", "status"), ours)
    seconds = Seconds("answer_seconds", "Times.", ours)
    counter = Counter("answers", "Answers.", ("operation", "status"), registry=theirs)
    histogram = Histogram("answer_seconds", "Times.", ("operation",), buckets=_SECONDS, registry=theirs)
    pick = random.Random(7)
    for _ in range(500):
        operation, status, took = pick.choice("ab"), pick.choice(["200", "503"]), pick.choice([*_SECONDS, 0.0, 31.0])
        count.add(operation, status)
        counter.labels(operation, status).inc()
        seconds.add(operation, took)
        histogram.labels(operation).observe(took)
    count.add("batch", "200", count=1000)
    counter.labels("batch", "200").inc(1000)

    assert _shown(ours) == _shown(theirs)
