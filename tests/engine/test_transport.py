"""Where the engine meets Faust: what the consumer does when the group knows less than the owners of its partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import NoOffsetForPartitionError
from faust.transport.consumer import Fetcher
from faust.types import TP

from aura_stream.embedded.processes import free_port
from aura_stream.engine.driver import LogRecord
from aura_stream.engine.feed import Feed
from aura_stream.engine.partition import Fetch, Fetched, Partition
from aura_stream.engine.topics import Topic, apply_topics
from aura_stream.engine.transport import FETCH_WAIT_MS, IDLE_FETCH_WAIT_MS, Consumer, make_app, wait_as_fits
from aura_stream.engine.unit import Record


class Asked:
    """A consumer whose fetcher has asked the group too early, once."""

    def __init__(self, error: Exception, *, ready: bool) -> None:
        self._error: Exception | None = error
        self.sought: list[tuple[TP, int]] = []
        owner = SimpleNamespace(ready=ready, begin=lambda _: 42)
        self.app = SimpleNamespace(owner_of=lambda _: owner, consumer_generation_id=3)
        self.should_stop, self.flow_active = False, True

    async def _wait_next_records(self, _: float) -> Any:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return {}, None

    async def seek(self, tp: TP, offset: int) -> None:
        self.sought.append((tp, offset))

    _begin_where_owners_say = Consumer._begin_where_owners_say
    _lists = Consumer._lists


@pytest.mark.parametrize("ready", [True, False])
async def test_a_group_without_offsets_is_no_reason_to_stop_while_owners_know_where_to_begin(
    kafka: Any, unique: str, ready: bool
) -> None:
    """Two workers that start side by side on a new cluster: the rebalance is quicker than the seek after it."""
    await apply_topics(kafka.bootstrap, [Topic(unique, "", "")], partitions=1, replication=1)
    plain = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=unique, auto_offset_reset="none")
    await plain.start()
    plain.assign([TopicPartition(unique, 0)])
    with pytest.raises(NoOffsetForPartitionError) as told:  # the real one, as aiokafka raises it
        await plain.getmany(timeout_ms=5_000)
    await plain.stop()

    asked: Any = Asked(told.value, ready=ready)
    assert [found async for found in Consumer.getmany(asked, 1.0)] == []
    assert asked.sought == ([(TP(unique, 0), 42)] if ready else [])
    assert [found async for found in Consumer.getmany(asked, 1.0)] == []


async def test_a_fetch_waits_long_unless_it_leaves_out_a_partition(kafka: Any, unique: str) -> None:
    await apply_topics(kafka.bootstrap, [Topic(unique, "", "")], partitions=2, replication=1)
    places = [TopicPartition(unique, 0), TopicPartition(unique, 1)]
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await consumer.start()
    await producer.start()
    asked: list[tuple[int, int]] = []  # of how many partitions, and for how long it waits
    more = asyncio.Event()
    fetch = consumer._fetcher._proc_fetch_request

    async def fetching(assignment: Any, node: int, request: Any) -> Any:
        asked.append((len(request.topics[0][1]), request._max_wait_ms))
        more.set()
        return await fetch(assignment, node, request)

    consumer._fetcher._proc_fetch_request = fetching
    wait_as_fits(consumer._fetcher)

    async def until(wanted: tuple[int, int]) -> None:
        seen = len(asked)
        async with asyncio.timeout(20):
            while wanted not in asked[seen:]:
                more.clear()
                await more.wait()

    try:
        consumer.assign(places)
        await until((2, IDLE_FETCH_WAIT_MS))  # nothing is there
        for _ in range(2):
            await producer.send_and_wait(unique, b"kept waiting", partition=0)
            await until((1, FETCH_WAIT_MS))  # its record is not taken yet
            assert len((await consumer.getmany(places[0], timeout_ms=5_000))[places[0]]) == 1
            await until((2, IDLE_FETCH_WAIT_MS))
        consumer.pause(places[0])
        await until((1, FETCH_WAIT_MS))
        consumer.resume(places[0])
        await until((2, IDLE_FETCH_WAIT_MS))
    finally:
        await producer.stop()
        await consumer.stop()
    assert {wait for count, wait in asked if count < len(places)} == {FETCH_WAIT_MS}


class Drained:
    """A consumer that has fetched these lists: their last offsets."""

    def __init__(self, *fetched: int) -> None:
        self._fetched = fetched
        self._stopped = asyncio.Event()
        self.flow_active = True
        self.app = SimpleNamespace(should_stop=False)
        self.handed_on: list[int] = []
        self.consumer_stopped_errors = (ConnectionError,)

    async def getmany(self, _: float) -> AsyncIterator[tuple[TP, Any]]:
        self._stopped.set()  # the last look
        for offset in self._fetched:
            yield TP("t", 0), SimpleNamespace(offset=offset)

    async def callback(self, message: Any) -> None:
        self.handed_on.append(message.offset)

    async def drain(self) -> list[int]:
        this: Any = self
        await Consumer._drain_messages(this, SimpleNamespace(_stopped=asyncio.Event()))
        return self.handed_on


async def test_nothing_is_handed_on_during_a_rebalance() -> None:
    assert await Drained(9, 12).drain() == [9, 12]
    drained = Drained(12)
    drained.flow_active = False
    assert await drained.drain() == []


@pytest.mark.row("N03")
@pytest.mark.parametrize("stopping", [True, False])
async def test_n03_a_worker_that_stops_while_a_rebalance_is_on_has_not_crashed(stopping: bool) -> None:
    class Waiting(Drained):
        async def getmany(self, _: float) -> AsyncIterator[tuple[TP, Any]]:
            drained.set()
            await asyncio.Event().wait()
            yield TP("t", 0), None

        _drain_messages = Consumer._drain_messages

    drained = asyncio.Event()
    consumer = Waiting()
    consumer.app.should_stop = stopping
    app: Any = SimpleNamespace(consumer=consumer, rebalancing=True)
    fetcher = Fetcher(app)
    await fetcher.start()
    await asyncio.wait_for(drained.wait(), 5)
    await fetcher.stop()
    assert fetcher.crashed is not stopping


# --- nothing is missing between two lists ---------------------------------------------------------------------------


class Inbox(Partition):
    """A partition that works on nothing: what it would handle stays in its inbox."""

    async def open(self) -> None:
        """Nothing to do."""

    async def work(self) -> None:
        """Handles nothing."""

    async def wait_for_work(self) -> None:
        await asyncio.Event().wait()

    async def release(self, *, gently: bool) -> None:
        """Nothing to give back."""

    def applied(self, topic: str) -> int:
        return 9

    def status(self) -> dict[str, Any]:
        return {}


def lists(*offsets: range) -> list[Fetched]:
    records: list[list[Record]] = [[LogRecord("t", 0, offset, 0, b"key", b"value") for offset in of] for of in offsets]
    return [Fetched(found, of.start) for found, of in zip(records, offsets, strict=True)]


async def inbox() -> Inbox:
    started = asyncio.Event()

    async def start(owner: Partition) -> None:
        owner.begin("t")
        started.set()

    async def no(_: int) -> bool:
        return False

    found = Inbox(0, Fetch(start, lambda _: None, lambda _: None, no, no, lambda error: pytest.fail(repr(error))), 3)
    await asyncio.wait_for(started.wait(), 5)
    return found


async def test_a_list_that_does_not_follow_is_asked_for_again_and_one_that_repeats_is_harmless() -> None:
    owner = await inbox()
    first, repeated, known, far, follows = lists(
        range(10, 14), range(12, 16), range(11, 15), range(20, 22), range(16, 20)
    )
    assert owner.put(first, 3) is owner.put(repeated, 3) is owner.put(known, 3) is None
    assert owner.put(far, 3) == 16, "16 to 19 were lost on their way"
    assert owner.put(follows, 3) is owner.put(far, 3) is None
    assert [record.offset for record in owner.take()] == [10, 11, 12, 13, 12, 13, 14, 15, *range(16, 22)]
    await owner.close()


async def test_after_a_rebalance_the_first_list_must_follow_what_is_applied_not_what_had_arrived() -> None:
    owner = await inbox()
    first, follows, again = lists(range(10, 14), range(14, 20), range(10, 20))
    assert owner.put(first, 3) is None
    await owner.suspend()
    owner.resume(4)
    assert owner.put(follows, 4) == 10, "what had arrived is gone with the rebalance"
    assert owner.put(again, 4) is None
    assert owner.waiting == 10
    await owner.close()


class Slow(Inbox):
    """Opens when it is let."""

    let: asyncio.Event

    async def open(self) -> None:
        await self.let.wait()


async def test_a_worker_is_ready_although_the_partition_that_it_waited_for_has_gone_to_another(
    tmp_path: Path, unique: str
) -> None:
    """Partition 0 is open, 1 is being opened when a rebalance comes, and opens during it; only 0 comes back."""
    ready: list[str] = []
    opening = {0: asyncio.Event(), 1: asyncio.Event()}

    async def start(_: Partition) -> None:
        """It does not come to this: 0 is told by the one that was there already, 1 was opened too late."""

    async def no(_: int) -> bool:
        return False

    def make(number: int, _: Fetch, generation: int) -> Partition:
        fetch = Fetch(start, lambda _: None, lambda _: None, no, no, lambda error: pytest.fail(repr(error)))
        found = Slow(number, fetch, generation)
        found.let = opening[number]
        return found

    app: Any = make_app(
        unique, bootstrap="127.0.0.1:1", datadir=str(tmp_path), web_port=free_port(), session_timeout_s=10.0
    )
    app.consumer_generation_id = 1
    feed = Feed(app, ("t",), make, on_ready=lambda: ready.append("ready"))
    both, one = {TP("t", 0), TP("t", 1)}, {TP("t", 0)}
    await feed._on_assigned(app, both)
    opening[0].set()
    async with asyncio.timeout(10):
        while not feed.partitions[0].ready:  # noqa: ASYNC110 - a state without an event
            await asyncio.sleep(0.01)
        assert not ready, "1 is still being opened"
        await feed._on_revoked(app, both)
        lost = feed.partitions[1]
        opening[1].set()
        while lost.state != "suspended":  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    app.consumer_generation_id = 2
    await feed._on_assigned(app, one)
    assert ready == ["ready"]
    await asyncio.gather(*feed._closing, *(owner.close() for owner in feed.partitions.values()))


class Counting(Inbox):
    """Takes everything that comes and counts each record once, slowly, with hardly any room."""

    def __init__(self, *arguments: Any) -> None:
        self.counted: list[int] = []
        self.pauses = 0
        super().__init__(*arguments)

    async def wait_for_work(self) -> None:
        await Partition.wait_for_work(self)

    async def work(self) -> None:
        await asyncio.sleep(0)  # so that lists arrive while it works
        self.counted.extend(record.offset for record in self.take())

    def applied(self, topic: str) -> int:
        return self.counted[-1] if self.counted else -1


async def test_a_backlog_that_fills_every_inbox_loses_nothing(
    kafka: Any, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All partitions are paused while a fetch is under way: what it brings must be handed on all the same."""
    monkeypatch.setattr("aura_stream.engine.partition.WAITING_MAX", 100)
    monkeypatch.setattr("aura_stream.engine.partition.BATCH_RECORDS_MAX", 60)
    many = 6_000
    await apply_topics(kafka.bootstrap, [Topic(unique, "", "")], partitions=2, replication=1)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    for number in range(many):
        await producer.send(unique, b"%d" % number, partition=number % 2)
    await producer.stop()
    app = make_app(
        unique, bootstrap=kafka.bootstrap, datadir=str(tmp_path), web_port=free_port(), session_timeout_s=10.0,
        fetch_records_max=150,
    )  # fmt: skip
    failed: list[BaseException] = []
    feed = Feed(app, (unique,), Counting, on_failure=failed.append)
    worker = asyncio.create_task(app.start())

    def counted() -> dict[int, list[int]]:
        return {number: owner.counted for number, owner in feed.partitions.items() if isinstance(owner, Counting)}

    async with asyncio.timeout(60):
        while sum(map(len, counted().values())) < many and not failed:  # noqa: ASYNC110 - it counts without an event
            await asyncio.sleep(0.05)
    await app.stop()
    await worker
    assert not failed
    assert "read again" not in caplog.text
    assert counted() == {0: list(range(many // 2)), 1: list(range(many // 2))}
