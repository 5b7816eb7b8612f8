"""Looks at a tally run from outside: reads the topics as any consumer would and compares them with what was sent."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from aura_stream.engine.partition import Fetched


def fetched(records: list[Any], begin: int = 0) -> Fetched:
    """As the consumer hands them over that has read the topic from `begin` on."""
    return Fetched(records, begin)


async def read_topic(bootstrap: str, topic: str, *, isolation: str = "read_committed") -> dict[int, list[Any]]:
    """All records of a topic up to its present end, per partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level=isolation, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        numbers: set[int] = set()
        async with asyncio.timeout(30):
            while not numbers:
                await consumer._client._wait_on_metadata(topic)
                numbers = consumer.partitions_for_topic(topic) or set()
        tps = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found: dict[int, list[Any]] = {tp.partition: [] for tp in tps}
        async with asyncio.timeout(60):
            for tp in tps:
                while await consumer.position(tp) < ends[tp]:
                    for got, records in (await consumer.getmany(timeout_ms=200)).items():
                        found[got.partition].extend(r for r in records if r.offset < ends[got])
        return found
    finally:
        await consumer.stop()


def lines_of(journal: dict[int, list[Any]]) -> list[list[Any]]:
    """All journal lines; also checks that each partition's records are dense."""
    lines: list[list[Any]] = []
    for partition, records in journal.items():
        for expected, record in enumerate(records, 1):
            unit = orjson.loads(record.value)
            assert unit["seq"] == expected, f"partition {partition}: seq {unit['seq']}, expected {expected}"
            lines.extend(unit["lines"])
    return lines


def check_once(lines: list[list[Any]], sent: dict[str, tuple[str, str, int]]) -> None:
    """Every command had its effect once. `sent`: id -> (kind, key, n)."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    for what, id_, _, _, _ in lines:
        seen[what, id_] += 1
    for id_, (kind, _, _) in sent.items():
        assert seen[kind, id_] == 1, f"{kind} {id_} happened {seen[kind, id_]} times"
        if kind == "give":
            assert seen["got", id_] == 1, f"gift {id_} arrived {seen['got', id_]} times"
    assert not [key for key, count in seen.items() if key[0] in ("add", "give", "got") and count != 1]


def check_sums(lines: list[list[Any]]) -> dict[str, int]:
    """The running sum of each line follows from the one before; returns the last ones."""
    totals: dict[str, int] = defaultdict(int)
    for what, id_, key, n, total in lines:
        if what in ("add", "give", "got"):
            totals[key] += n
            assert totals[key] == total, f"{what} {id_}: {key} should be {totals[key]}, the state said {total}"
    return dict(totals)
