"""Where the engine meets Faust: what the consumer does when the group knows less than the owners of its partitions."""

from __future__ import annotations

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
