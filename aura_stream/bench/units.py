"""What a unit of work takes, told by the ledger's own status pages while commands come at a fixed rate.

A command waits until the unit before it is committed, so the time of a commit decides the latency, and the size of a
unit follows from both. The pages have sums per partition; asked twice a second, their differences give a distribution.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one partition did between two looks."""

    units: int
    records: int
    compute_s: float
    commit_s: float


class UnitsProbe:
    """Looks at the status pages for as long as its context lasts."""

    def __init__(self, pages: Sequence[str]) -> None:
        self._pages = pages
        self._last: dict[int, Stretch] = {}
        self._stretches: list[Stretch] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        await self._look()
        self._task = asyncio.create_task(self._go_on_looking())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._look()
        await self._session.close()

    def figures(self) -> dict[str, Any]:
        """Totals, means per unit, and the median commit: over half seconds, weighted by their units."""
        return figures(self._stretches)

    async def _go_on_looking(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._look()

    async def _look(self) -> None:
        for page in self._pages:
            async with self._session.get(page) as response:
                found = await response.json(content_type=None)
            for row in found["partitions"]:
                now = Stretch(row["units"], row["records"], row["compute_s"], row["commit_s"])
                before = self._last.get(row["partition"])
                self._last[row["partition"]] = now
                if before is not None and now.units > before.units:
                    self._stretches.append(
                        Stretch(
                            now.units - before.units,
                            now.records - before.records,
                            now.compute_s - before.compute_s,
                            now.commit_s - before.commit_s,
                        )
                    )


def figures(stretches: Sequence[Stretch]) -> dict[str, Any]:
    """Sums and means over stretches; all zero when there are none."""
    units = sum(stretch.units for stretch in stretches)
    if not units:
        return {"units": 0, "records_per_unit": 0.0, "compute_ms": 0.0, "commit_ms": 0.0, "commit_ms_p50": 0.0}
    passed, half, median_ms = 0, units / 2, 0.0
    for stretch in sorted(stretches, key=lambda one: one.commit_s / one.units):
        passed += stretch.units
        median_ms = stretch.commit_s / stretch.units * 1000
        if passed >= half:
            break
    return {
        "units": units,
        "records_per_unit": sum(stretch.records for stretch in stretches) / units,
        "compute_ms": sum(stretch.compute_s for stretch in stretches) / units * 1000,
        "commit_ms": sum(stretch.commit_s for stretch in stretches) / units * 1000,
        "commit_ms_p50": median_ms,
    }
