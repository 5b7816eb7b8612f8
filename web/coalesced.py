"""One question for many who ask: answers that are asked for at the same time are fetched once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Coalesced(Generic[T]):
    """Shares one fetch among those who ask before it begins; who comes later gets the next one.

    So the answer is never older than the question, and at most one fetch runs and one waits.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]]) -> None:
        self._fetch = fetch
        self._running = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The answer of a fetch that begins now or later. Raises what the fetch raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._round())
            # Everyone who asked may have gone; then nobody retrieves a failure.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._next)

    async def _round(self) -> T:
        async with self._running:
            self._next = None
            return await self._fetch()
