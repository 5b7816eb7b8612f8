"""What every row of the matrix has in common: load before, during and after; progress when it is over; exact books."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.invariants.coherent import assert_coherent
from tests.torture.faults import Torture

PROGRESS_S = 60.0
"""A bound, not an expectation; the supervisor holds runs to HEALED_S."""


@asynccontextmanager
async def ordeal(torture: Torture, *, loaded: int = 25) -> AsyncIterator[None]:
    """Load around the block; after it everything is healed, moves on in time, and every invariant holds."""
    stack, client = torture.stack, torture.client
    async with client.loading():
        await client.reached(loaded, stack.logs)
        yield
        starting = await stack.heal()
        await stack.progress(client, PROGRESS_S)
        await stack.ready(starting)
        await client.reached(loaded, stack.logs)
    await assert_coherent(stack, client, replay=2)
