"""What every row of the matrix has in common: load before, during and after; progress when it is over; exact books."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.invariants.coherent import assert_coherent
from tests.torture.faults import Torture

PROGRESS_S = 60.0
"""A bound, not an expectation; the supervisor holds runs to HEALED_S."""


@asynccontextmanager
async def ordeal(torture: Torture) -> AsyncIterator[None]:
    """Load around the block; after it everything is healed, moves on in time, and every invariant holds."""
    stack, client = torture.stack, torture.client
    # Gentle, because all rows share a log that every checker reads from its beginning.
    async with client.loading(per_second=12):
        await client.reached(10, stack.logs)
        yield
        starting = await stack.heal()
        await stack.progress(client, PROGRESS_S)
        await stack.ready(starting)
    await assert_coherent(stack, client, replay=2)
