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

from aiokafka import AIOKafkaProducer

from aura_stream.engine.topics import Topic, apply_topics

TOPIC = "aura-bench-warm-up"
PRODUCERS = 16
TOUCHED = 3  # partitions per transaction, about what a unit of work writes to
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
    """Runs small transactions until two pieces in a row are no cheaper, or for `seconds`.

    Returns the broker's CPU milliseconds per transaction, piece by piece of five seconds.
    """
    topic = Topic(TOPIC, key="none", value="none", config={"retention.bytes": str(1 << 20)})
    await apply_topics(bootstrap, [topic], partitions=PRODUCERS * TOUCHED, replication=1)
    producers = [
        AIOKafkaProducer(
            bootstrap_servers=bootstrap, transactional_id=f"{TOPIC}-{number}", request_timeout_ms=60_000, linger_ms=0
        )
        for number in range(PRODUCERS)
    ]
    costs: list[float] = []
    try:
        await asyncio.gather(*(producer.start() for producer in producers))
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up and (still_falls(costs) or still_falls(costs[:-1])):
            before = broker_cpu_s()
            until = min(give_up, time.monotonic() + PIECE_S)
            counts = await asyncio.gather(*(_commit(producer, n, until) for n, producer in enumerate(producers)))
            costs.append((broker_cpu_s() - before) / sum(counts) * 1000)
            say(f"warming up: {sum(counts):,} small transactions, {costs[-1]:.2f} ms of the broker's CPU each")
    finally:
        await asyncio.gather(*(producer.stop() for producer in producers))
    return costs


async def _commit(producer: AIOKafkaProducer, number: int, until: float) -> int:
    """Transactions one after the other, at least one; how many."""
    count = 0
    while count == 0 or time.monotonic() < until:
        async with producer.transaction():
            for partition in range(number * TOUCHED, (number + 1) * TOUCHED):
                await producer.send(TOPIC, b"x" * 500, partition=partition)
        count += 1
    return count
