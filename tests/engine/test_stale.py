"""A shard whose memory is older than the log: it must look again, not give up."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import msgspec
from aiokafka import TopicPartition

from aura_stream.engine.driver import LogRecord
from aura_stream.engine.errors import EngineError, Fenced
from aura_stream.engine.partition import Fetch, Partition
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.shard import Setup, Shard
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.table import Table
from aura_stream.engine.unit import Names, Record, Unit
from tests.engine.check import fetched

NAMES = Names(commands="c", signals="s", journal="j", dead_letters="d", changelog="l")
SENT = Table("sent", int, prefix=b"\xe0")


class Ping(msgspec.Struct, frozen=True):
    """A signal, and its line in the journal."""

    echo: str


class Echo:
    """A command sends a signal to its own partition; the signal is known only to who has handled the command."""

    signal_type = Ping

    def command(self, unit: Unit, record: Record) -> None:
        SENT.set(record.value or b"", 1)
        unit.signal(b"k", Ping((record.value or b"").decode()))

    def signal(self, unit: Unit, signal: Ping) -> None:
        if SENT.get(signal.echo.encode()) is None:
            raise LookupError(f"nobody sent {signal.echo}")
        unit.line(signal)

    def refuse(self, unit: Unit, signal: Ping, reason: str, detail: str) -> None:
        raise TypeError(detail)

    def dead_letter(self, unit: Unit, record: Record, reason: str, detail: str) -> None:
        raise AssertionError(detail)

    def deadline(self, unit: Unit, key: bytes) -> None:
        raise AssertionError


class Log:
    """Kafka, as far as a shard asks: one partition of each topic, and the fence."""

    def __init__(self) -> None:
        self.topics: dict[str, list[LogRecord]] = defaultdict(list)
        self.epoch = 0

    def append(self, topic: str, key: bytes | None, value: bytes | None) -> LogRecord:
        record = LogRecord(topic, 0, len(self.topics[topic]), 1_000, key, value)
        self.topics[topic].append(record)
        return record

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def producer(self, transactional_id: str) -> Any:
        return LogProducer(self)

    async def starts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: len(self.topics[tp.topic]) for tp in partitions}

    committed_ends = ends

    async def read(self, partition: TopicPartition, start: int, end: int) -> AsyncGenerator[list[Record], None]:
        yield list(self.topics[partition.topic][start:end])


class LogProducer:
    tainted = False

    def __init__(self, log: Log) -> None:
        self.log = log

    async def start(self, topics: Iterable[str]) -> None:
        self.log.epoch += 1
        self.epoch = self.log.epoch

    def build(self, messages: Iterable[Any]) -> Any:
        return list(messages)

    async def commit(self, batches: Any) -> dict[tuple[str, int], int]:
        if self.epoch != self.log.epoch:
            raise Fenced("an older epoch")
        for topic, _, key, value, _ in batches:
            self.log.append(topic, key, value)
        return {(topic, 0): len(self.log.topics[topic]) for topic, *_ in batches}

    async def stop(self) -> None: ...

    async def abandon(self) -> None: ...


class Stores:
    """A store of its own for every shard object, as every worker has."""

    def open(self, name: str) -> MemoryStore:
        return MemoryStore()

    def remove(self, name: str) -> None: ...


class Owner:
    """One worker's shard of the partition."""

    def __init__(self, log: Log) -> None:
        self.failures: list[BaseException] = []
        self.owned = True
        self.started = asyncio.Event()
        setup = Setup(
            app_id="echo",
            kafka=log,
            names=NAMES,
            outputs=(),
            actor=Echo(),
            rules=b"{}",
            rules_hash="0",
            stores=Stores(),
            partitioner=Partitioner(1),
        )
        fetch = Fetch(self._start, lambda _: None, lambda _: None, self._no, self._owns, self.failures.append)
        self.shard = Shard(0, setup, fetch, 1)

    async def _start(self, _: Partition) -> None:
        self.started.set()

    async def _no(self, _: int) -> bool:
        return False

    async def _owns(self, _: int) -> bool:
        return self.owned

    async def handle(self, *records: LogRecord) -> None:
        """Hands it what was fetched, and waits until that is handled or cannot be."""
        await self.started.wait()
        self.shard.put(fetched(list(records)), 1)
        async with asyncio.timeout(5):
            while self.shard.state == "working" and (self.shard.waiting or not self.shard._idle.is_set()):  # noqa: ASYNC110
                await asyncio.sleep(0)  # the shard's turn


async def taken_over(log: Log) -> Owner:
    """An owner that was frozen while another decided a command and sent what follows from it."""
    frozen, other = Owner(log), None
    await frozen.started.wait()
    other = Owner(log)
    await other.handle(log.append("c", b"k", b"one"))
    assert len(log.topics["s"]) == 1 and not other.failures
    await other.shard.close()
    return frozen


async def test_n04_who_wakes_up_and_reads_what_others_decisions_led_to_leaves_quietly() -> None:
    log = Log()
    frozen = await taken_over(log)
    frozen.owned = False
    await frozen.handle(log.topics["s"][0])
    assert (frozen.shard.state, frozen.failures) == ("closed", [])


async def test_n04_who_gets_the_partition_back_looks_at_the_log_again() -> None:
    log = Log()
    frozen = await taken_over(log)
    # The consumer begins at what this shard has applied; of two topics the signals may come first.
    await frozen.handle(log.topics["s"][0])
    await frozen.handle(log.topics["c"][0])
    assert (frozen.shard.state, frozen.failures) == ("working", [])
    assert [b'"echo":"one"' in (record.value or b"") for record in log.topics["j"]] == [False, True]
    assert frozen.shard.applied("s") == frozen.shard.applied("c") == 0
    await frozen.shard.close()


async def test_what_cannot_be_handled_with_the_newest_state_stops_the_engine() -> None:
    log = Log()
    owner = Owner(log)
    value = b'{"source":0,"seq":1,"at":1000,"signals":[{"echo":"never sent"}],"v":1}'
    await owner.handle(log.append("s", b"0", value))
    assert [type(failure) for failure in owner.failures] == [EngineError]
