"""What may happen between two questions to Kafka; too rare for a bounded number of seeds to be sure of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError
from faust.types import TP

from aura_stream.engine.errors import DataLost
from aura_stream.engine.feed import Feed
from aura_stream.engine.restore import HANGING_S, settled_end
from tests.simulation.loop import Loop


class Consumer:
    """Has lost its partition when it is asked for the position."""

    async def highwaters(self, tp: TP) -> dict[TP, int]:
        return {tp: 7}

    async def position(self, tp: TP) -> int:
        raise IllegalStateError(f"Partition {tp} is not assigned")


async def test_sim_a_partition_that_is_taken_away_meanwhile_is_not_caught_up_and_stops_nobody() -> None:
    feed: Any = Feed.__new__(Feed)
    feed.sources, feed.app = ("commands",), SimpleNamespace(consumer=Consumer())
    assert await feed._caught_up(3) is False


class Busy:
    """A partition that another owner writes to; whoever asks is frozen after the first question."""

    def __init__(self, *, moves: bool) -> None:
        self.asked, self.moves = 0, moves

    async def committed_ends(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked += 1
        return {tps[0]: 38 + 5 * (self.asked if self.moves else 0)}

    async def ends(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        if self.asked == 1:
            await asyncio.sleep(HANGING_S + 5)
        return {tps[0]: 38 + 5 * self.asked + (5 if self.asked < 4 else 0)}


@pytest.mark.parametrize("moves", [True, False])
def test_sim_n04_who_was_frozen_between_two_questions_does_not_take_a_busy_partition_for_a_hanging_one(
    moves: bool,
) -> None:
    loop, kafka, changelog = Loop(), Busy(moves=moves), TopicPartition("changelog", 0)
    looking: Any = settled_end(kafka, changelog)  # type: ignore[arg-type]
    if moves:
        assert loop.run_until_complete(looking) == 58
    else:
        with pytest.raises(DataLost, match="open at offset 38"):
            loop.run_until_complete(looking)
        assert loop.now > 2 * HANGING_S
    loop.close()
