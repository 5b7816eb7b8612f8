"""The cache in memory: everything in it has an end, and there is never more than was allowed."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """Values by key, each until its time comes; when there is no room the oldest goes. Not for several threads.

    `room` is how much there may be of what `put` calls weight: entries, or bytes. `dropped` hears of every entry that
    goes, whatever the cause, but not of those that `clear` removes all at once. `now` tells seconds.
    """

    def __init__(
        self,
        room: int,
        *,
        dropped: Callable[[K, V], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._room = room
        self._dropped = dropped
        self._now = now
        self._entries: dict[K, tuple[V, float, int]] = {}
        self.weight = 0
        """How much of the room is taken."""

    def get(self, key: K) -> V | None:
        """The value, while it is good."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= self._now():
            self.drop(key)
            return None
        return entry[0]

    def put(self, key: K, value: V, ends_at: float, weight: int = 1) -> None:
        """Keeps a value until `ends_at` (what `now` will say then); not at all when it is larger than the room."""
        self.drop(key)
        if weight > self._room:
            return
        while self.weight + weight > self._room:
            self.drop(next(iter(self._entries)))
        self._entries[key] = (value, ends_at, weight)
        self.weight += weight

    def drop(self, key: K) -> None:
        """Forgets a key, if it is known."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.weight -= entry[2]
            if self._dropped is not None:
                self._dropped(key, entry[0])

    def clear(self) -> None:
        """Forgets all."""
        self._entries.clear()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._entries)
