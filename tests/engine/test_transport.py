"""Where the engine meets Faust: what the consumer does when the group knows less than the owners of its partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import NoOffsetForPartitionError
from faust.types import TP

from aura_stream.engine.topics import Topic, apply_topics
from aura_stream.engine.transport import Consumer


class Asked:
    """A consumer whose fetcher has asked the group too early, once."""

    def __init__(self, error: Exception, *, ready: bool) -> None:
        self._error: Exception | None = error
        self.sought: list[tuple[TP, int]] = []
        owner = SimpleNamespace(ready=ready, applied=lambda _: 41)
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


class Drained:
    """A consumer that has fetched these lists: generation and last offset."""

    def __init__(self, *fetched: tuple[int, int], read_offset: int | None) -> None:
        self._fetched = fetched
        self._read_offset: dict[TP, int | None] = {TP("t", 0): read_offset}
        self._stopped = asyncio.Event()
        self.flow_active = True
        self.app = SimpleNamespace(consumer_generation_id=3, should_stop=False)
        self.handed_on: list[int] = []
        self.consumer_stopped_errors = (ConnectionError,)

    async def getmany(self, _: float) -> AsyncIterator[tuple[TP, Any]]:
        self._stopped.set()  # the last look
        for generation, offset in self._fetched:
            yield TP("t", 0), SimpleNamespace(offset=offset, generation_id=generation)

    async def callback(self, message: Any) -> None:
        self.handed_on.append(message.offset)

    async def drain(self) -> list[int]:
        this: Any = self
        await Consumer._drain_messages(this, SimpleNamespace(_stopped=asyncio.Event()))
        return self.handed_on


async def test_what_was_fetched_before_a_seek_is_not_handed_on() -> None:
    drained = Drained((3, 9), (3, 12), read_offset=10)
    assert await drained.drain() == [12]
    assert drained._read_offset[TP("t", 0)] == 12


async def test_a_list_of_another_generation_does_not_say_where_this_one_reads() -> None:
    """It is dropped by its partition; if it moved the reading on, what is fetched again would be dropped too."""
    drained = Drained((2, 99), (3, 12), read_offset=10)
    assert await drained.drain() == [99, 12]
    assert drained._read_offset[TP("t", 0)] == 12


async def test_nothing_is_handed_on_during_a_rebalance() -> None:
    drained = Drained((3, 12), read_offset=None)
    drained.flow_active = False
    assert await drained.drain() == []
