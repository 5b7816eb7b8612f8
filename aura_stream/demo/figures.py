"""Latencies and rates: all of a run in a fixed space, and those of the last seconds for the view."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

_GROWTH: Final = math.log(1.02)
_LEAST_S: Final = 1e-4
_BUCKETS: Final = 800
RECENT_S: Final = 10.0
PERCENTILES: Final = (50.0, 95.0, 99.0)


class Latencies:
    """Latencies in seconds: percentiles of the whole run to 2 %, exact ones of the last ten seconds."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._recent: deque[tuple[float, float]] = deque()
        self.count = 0
        self.longest_s = 0.0

    def add(self, latency_s: float) -> None:
        """One measured latency."""
        place = int(math.log(max(latency_s, _LEAST_S) / _LEAST_S) / _GROWTH)
        self._counts[min(place, _BUCKETS - 1)] += 1
        self.count += 1
        self.longest_s = max(self.longest_s, latency_s)
        self._recent.append((time.monotonic(), latency_s))

    def percentiles(self, wanted: Sequence[float] = PERCENTILES) -> list[float]:
        """Percentiles of all, in seconds; zeros without any."""
        found, seen, place = [], 0, -1
        for percent in wanted:
            rank = max(1, math.ceil(self.count * percent / 100))
            while seen < rank and place < _BUCKETS - 1:
                place += 1
                seen += self._counts[place]
            found.append(min(_LEAST_S * math.exp((place + 0.5) * _GROWTH), self.longest_s) if self.count else 0.0)
        return found

    def recent(self, wanted: Sequence[float] = PERCENTILES) -> list[float]:
        """Percentiles of the last ten seconds; zeros without any."""
        after = time.monotonic() - RECENT_S
        while self._recent and self._recent[0][0] < after:
            self._recent.popleft()
        ordered = sorted(latency for _, latency in self._recent)
        if not ordered:
            return [0.0 for _ in wanted]
        return [ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1] for percent in wanted]


class Rate:
    """How fast a total grows, over the last seconds."""

    def __init__(self, over_s: float = 5.0) -> None:
        self._over_s = over_s
        self._points: deque[tuple[float, float]] = deque()

    def __call__(self, total: float) -> float:
        """Tells the present total; gives its growth per second."""
        now = time.monotonic()
        self._points.append((now, total))
        while len(self._points) > 2 and self._points[0][0] < now - self._over_s:
            self._points.popleft()
        began, first = self._points[0]
        return (total - first) / (now - began) if now - began > 0.1 else 0.0
