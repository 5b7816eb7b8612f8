"""Latency at a fixed rate: starts the generator, and puts together when each command was due, decided and committed.

The journal says which unit of work began and which ended each command. So the way of a command can be cut into stages,
by clocks that are all this machine's:

    due ──▶ in Kafka (LogAppendTime) ──▶ decided (time of the journal record) ──▶ taken by the sink (the unit's
    committed_at, set when its database transaction begins) ──▶ seen committed by a reader
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from aura_stream import SetupError
from aura_stream.bench.figures import latency
from aura_stream.bench.generator import Done, Plan, due_ns
from aura_stream.bench.kafka import Journal
from aura_stream.bench.loads import ONE_HOP, index_of
from aura_stream.bench.observer import Sightings
from aura_stream.journal import DECODE, ChangeLine, TransactionLine

LEAD_NS = 200_000_000  # so that generator and observer are both ready when the first command is due

STAGES = ("to Kafka", "to the decision", "to the sink", "to the reader")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the journal has a line: its unit, and the stages up to it (ms since 1970)."""

    partition: int
    seq: int
    appended_ms: int
    decided_ms: int


class Generator:
    """The generator's process."""

    def __init__(self, plan: Plan, process: asyncio.subprocess.Process) -> None:
        self.plan = plan
        self._process = process

    @classmethod
    async def launch(cls, plan: Plan) -> Self:
        """Starts it and waits until it has encoded everything. Raises :class:`SetupError`."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aura_stream.bench.generator"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        generator = cls(plan, process)
        await generator._tell(msgspec.json.encode(plan))
        if await generator._hear() != b"ready":
            await generator.kill()
            raise SetupError(
                "The load generator did not start.",
                where="python -m aura_stream.bench.generator",
                why="see its message above",
                fix="mend the cause, run the same command again",
            )
        return generator

    async def start(self) -> int:
        """Lets it begin shortly; returns when (ns of the monotonic clock)."""
        start_ns = time.monotonic_ns() + LEAD_NS
        await self._tell(b"%d" % start_ns)
        return start_ns

    async def end(self) -> Done:
        """Waits until everything was acknowledged; what it says of itself."""
        done = msgspec.json.decode(await self._hear(), type=Done)
        await self._process.wait()
        return done

    async def kill(self) -> None:
        """Ends it, whatever it does."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        await self._process.stdin.drain()

    async def _hear(self) -> bytes:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).strip()


async def places(journal: Journal, plan: Plan) -> tuple[dict[int, Place], dict[int, Place]]:
    """Where each command began and where it ended, by its index: read from the journal, up to the last one."""
    first: dict[int, Place] = {}
    final: dict[int, Place] = {}
    index_by_id: dict[str, int] = {}
    while len(first) < plan.count or len(final) < plan.count:
        for value, timestamp in await journal.records():
            unit = DECODE(value)
            for line in unit.lines:
                if isinstance(line, TransactionLine):
                    index = index_of(plan.section, line.command_id)
                    if index is not None:
                        index_by_id[line.id] = index
                        first[index] = Place(unit.partition, unit.seq, line.at, timestamp)
                        if plan.load == ONE_HOP:
                            final[index] = first[index]
                elif isinstance(line, ChangeLine) and line.id in index_by_id:
                    final[index_by_id[line.id]] = Place(unit.partition, unit.seq, line.at, timestamp)
    return first, final


def since_due(plan: Plan, start_ns: int, found: Mapping[int, Place], sightings: Sightings) -> Iterator[float]:
    """Microseconds from the time each command was due to the time its unit was seen committed."""
    for index, place in found.items():
        seen_ns = sightings.seen_at(place.partition, place.seq)
        assert seen_ns is not None  # the observer waited for the last one
        yield (seen_ns - due_ns(start_ns, plan.rate, index)) / 1000


def stages(
    plan: Plan,
    start_ns: int,
    first: Mapping[int, Place],
    sightings: Sightings,
    taken_ms: Mapping[tuple[int, int], float],
) -> dict[str, dict[str, Any]]:
    """Percentiles of each stage up to the first committed row. Kafka's times are whole milliseconds."""
    to_monotonic_ns = time.monotonic_ns() - time.time_ns()
    parts: dict[str, list[float]] = {name: [] for name in STAGES}
    for index, place in first.items():
        seen_ns = sightings.seen_at(place.partition, place.seq)
        assert seen_ns is not None
        points = [
            (due_ns(start_ns, plan.rate, index) - to_monotonic_ns) / 1e6,
            float(place.appended_ms),
            float(place.decided_ms),
            taken_ms[place.partition, place.seq],
            (seen_ns - to_monotonic_ns) / 1e6,
        ]
        for name, begin, end in zip(STAGES, points, points[1:], strict=False):
            parts[name].append((end - begin) * 1000)
    found = {}
    for name, values in parts.items():
        measured = latency(values)
        assert measured is not None
        found[name] = {"p50_ms": measured.p50_ms, "p99_ms": measured.p99_ms}
    return found
