"""Warming the broker up, and knowing when it is warm.

A JVM that has just started interprets: a small transaction costs the broker 5 to 15 ms of CPU, and after some ten
thousand of them 1.5 ms. A latency measured meanwhile is the compiler's. So small transactions of always the same shape
run until they cost no less than before, and every figure at a fixed rate says what a unit of work cost the broker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from aura_stream.engine.producer import TransactionalProducer

TOPIC = "aura-bench-warm-up"
PRODUCERS = 8
TOUCHED = 4  # partitions per transaction, about what a unit of work writes to
PIECE_S = 5.0
SAME = 0.9
"""A piece that costs at least this share of the piece before it: the cost has stopped falling."""


def still_falls(costs: Sequence[float]) -> bool:
    """Whether the last of these costs is clearly below the one before it. One alone says nothing, so it may."""
    return len(costs) < 2 or costs[-1] < SAME * costs[-2]


def kafka_ms(paced: Mapping[str, Any]) -> float:
    """CPU milliseconds of the broker per unit of work, in a run at a fixed rate."""
    return float(paced["cpu"]["kafka"] / paced["units"] * 1000)


async def warm_broker(
    bootstrap: str, broker_cpu_s: Callable[[], float], seconds: float, say: Callable[[str], None]
) -> list[float]:
    """Runs small transactions until they stop getting cheaper, or for `seconds`.

    Returns the broker's CPU milliseconds per transaction, piece by piece of five seconds.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, PRODUCERS * TOUCHED, 1)])
    finally:
        await admin.close()
    producers = [TransactionalProducer(bootstrap, f"{TOPIC}-{number}") for number in range(PRODUCERS)]
    costs: list[float] = []
    try:
        await asyncio.gather(*(producer.start([TOPIC]) for producer in producers))
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up and (len(costs) < 3 or still_falls(costs)):
            before = broker_cpu_s()
            until = min(give_up, time.monotonic() + PIECE_S)
            counts = await asyncio.gather(*(_commit(producer, n, until) for n, producer in enumerate(producers)))
            costs.append((broker_cpu_s() - before) / sum(counts) * 1000)
            say(f"warming up: {sum(counts):,} small transactions, {costs[-1]:.2f} ms of the broker's CPU each")
    finally:
        await asyncio.gather(*(producer.stop() for producer in producers))
    return costs


async def _commit(producer: TransactionalProducer, number: int, until: float) -> int:
    """Transactions one after the other, at least one; how many."""
    count = 0
    while count == 0 or time.monotonic() < until:
        messages = [(TOPIC, number * TOUCHED + each, None, b"x" * 500, list[Any]()) for each in range(TOUCHED)]
        await producer.commit(producer.build(messages))
        count += 1
    return count
