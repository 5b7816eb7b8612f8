"""How many units of a process are under way at once: few, so that each is quick and the next ones grow meanwhile.

A unit costs every process on its way about as much with one command as with twenty. When all shards commit as fast as
they can, that fixed cost takes all of a small machine, and each commit waits for the processor behind all others: 8
shards at 500 commands/s make 240 units/s of 32 ms each. Two at a time take 10 ms each, and what waits for its turn
grows larger in the inbox instead of in the run queue ([decision 26](docs/adr/0026-what-a-unit-costs.md)).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

UNITS_AT_ONCE = 2  # one computes while Kafka works for the other: more only makes each of them slower
TURN_S = 0.25
"""A unit that takes longer waits for something else than the processor (a leader, a coordinator, a reopened shard):
it goes on, but the next one begins. So no shard waits long for another one's broker, nor a rebalance for a queue."""


class Turns:
    """Given in the order in which they are asked for, at once when one is free."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(UNITS_AT_ONCE)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn and has it, for :data:`TURN_S` at most."""
        await self._free.acquire()
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self._free.release()

        timer = asyncio.get_running_loop().call_later(TURN_S, end)
        try:
            yield
        finally:
            timer.cancel()
            end()
