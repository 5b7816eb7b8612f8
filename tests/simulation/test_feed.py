"""What a rebalance does between two questions of the feed; too rare for seeds to be sure of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aiokafka.errors import IllegalStateError
from faust.types import TP

from aura_stream.engine.feed import Feed


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
