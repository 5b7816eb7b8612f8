"""Computing a partition anew: the recorded inputs of its units, read again in their order, must lead to the same bytes.

Two topics interleave by chance; the journal says how they did. So a replay needs no luck and no clock: it starts with
nothing, takes each unit's inputs from commands and signals, and compares what it would write with what was written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.restore import FETCH_BYTES, Offsets
from aura_stream.engine.store import MemoryStore, Store
from aura_stream.engine.unit import Actor, Memory, Names, Record

FIRST_RULES = ""


class Recorded(msgspec.Struct, frozen=True):
    """What a replay needs of a journal record; its lines are compared as bytes."""

    seq: int
    inputs: list[list[str | int]] = []
    rules: str = ""
    last: bool = True


class ReplayDiffers(Exception):
    """The same inputs led to another result. The message names partition, seq and the first difference."""


@dataclass
class Replay:
    """One partition's second life. `make_actor` gives the actor for recorded rules (their JSON)."""

    partition: int
    bootstrap: str
    names: Names
    partitions: int
    make_actor: Callable[[str], Actor]
    store: Store = field(default_factory=MemoryStore)
    units: int = 0
    records: int = 0
    signals: int = 0

    async def run(self, offsets: Offsets) -> AsyncIterator[tuple[int, bytes]]:
        """Yields offset and value of each journal record as computed anew, up to the journal's end at the start.

        Raises :class:`ReplayDiffers` where they are not, byte for byte, what the topic holds, or where the signals that
        would be sent are not those that were.
        """
        names, number = self.names, self.partition
        journal = _Reader(self.bootstrap, TopicPartition(names.journal, number))
        sources = {
            "commands": _Reader(self.bootstrap, TopicPartition(names.commands, number)),
            "signals": _Reader(self.bootstrap, TopicPartition(names.signals, number)),
        }
        end = await offsets.settled_end(journal.tp)
        memory: Memory | None = None
        parts: list[Any] = []
        try:
            for reader in (journal, *sources.values()):
                await reader.start()
            async for record in journal.up_to(end - 1):
                parts.append(record)
                unit = _recorded(record.value)
                if not unit.last:
                    continue
                memory = self._with_rules(memory, unit)
                batch: list[Record] = []
                for kind, *where in unit.inputs:
                    if kind in sources:
                        batch.extend(
                            [r async for r in sources[str(kind)].up_to(int(where[-1])) if r.offset >= int(where[0])]
                        )
                for offset, value in self._again(memory, batch, unit, parts):
                    yield offset, value
                parts = []
        finally:
            for reader in (journal, *sources.values()):
                await reader.stop()

    def _with_rules(self, memory: Memory | None, unit: Recorded) -> Memory:
        if not unit.rules:
            if memory is None:
                raise ReplayDiffers(f"partition {self.partition}: the first unit (seq {unit.seq}) names no rules")
            return memory
        rules_hash = str(next(where[0] for kind, *where in unit.inputs if kind == "rules"))
        if memory is None:
            return Memory(
                self.partition,
                actor=self.make_actor(unit.rules),
                names=self.names,
                store=self.store,
                partitioner=Partitioner(self.partitions),
                rules=unit.rules.encode(),
                rules_hash=rules_hash,
            )
        memory.actor, memory.rules, memory.rules_hash = self.make_actor(unit.rules), unit.rules.encode(), rules_hash
        return memory

    def _again(self, memory: Memory, batch: list[Record], unit: Recorded, parts: list[Any]) -> list[tuple[int, bytes]]:
        computed, taken = memory.run(batch, recorded=unit.inputs)
        if taken != len(batch):
            raise ReplayDiffers(
                f"partition {self.partition}, seq {unit.seq}: {len(batch) - taken} inputs were not used"
            )
        finished = computed.finish()
        values = [o.value or b"" for o in finished.outputs if o.topic == self.names.journal]
        if len(values) != len(parts):
            raise ReplayDiffers(f"partition {self.partition}, seq {unit.seq}: {len(values)} records, not {len(parts)}")
        for value, part in zip(values, parts, strict=True):
            if value != part.value:
                raise ReplayDiffers(
                    f"partition {self.partition}, seq {unit.seq}: {_first_difference(part.value, value)}"
                )
        memory.adopt(finished)
        self.units += 1
        self.records += len(batch)
        self.signals += sum(o.topic == self.names.signals for o in finished.outputs)
        return [(part.offset, value) for part, value in zip(parts, values, strict=True)]


_recorded = msgspec.json.Decoder(Recorded).decode


def _first_difference(was: bytes, now: bytes) -> str:
    at = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    begin = max(0, at - 60)
    return f"at byte {at} it was ...{was[begin : at + 60]!r}... and is ...{now[begin : at + 60]!r}..."


class _Reader:
    """Reads one partition in order, as far as it is told."""

    def __init__(self, bootstrap: str, tp: TopicPartition) -> None:
        self.tp = tp
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=FETCH_BYTES,
            max_poll_records=5_000,
            fetch_max_wait_ms=100,
        )
        self._ahead: list[Any] = []
        self._at = 0

    async def start(self) -> None:
        await self._consumer.start()
        self._consumer.assign([self.tp])
        self._consumer.seek(self.tp, 0)

    async def stop(self) -> None:
        await self._consumer.stop()

    async def up_to(self, offset: int) -> AsyncIterator[Any]:
        """The records that were not read yet, up to and with `offset`."""
        while True:
            while self._at < len(self._ahead):
                record = self._ahead[self._at]
                if record.offset > offset:
                    return
                self._at += 1
                yield record
            if await self._consumer.position(self.tp) > offset:
                return
            fetched = await self._consumer.getmany(timeout_ms=200)
            self._ahead, self._at = [r for records in fetched.values() for r in records], 0
