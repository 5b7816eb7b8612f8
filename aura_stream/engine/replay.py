"""Computing a partition anew: the recorded inputs of its units, read again in their order, must lead to the same bytes.

Two topics interleave by chance; the journal says how they did. So a replay needs no luck and no clock: it starts with
nothing, takes each unit's inputs from commands and signals, and compares what it would write with what was written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from aiokafka import TopicPartition

from aura_stream.engine.kafka import Kafka
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.restore import settled_end
from aura_stream.engine.store import MemoryStore, Store
from aura_stream.engine.unit import Actor, Memory, Names, Record


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
    """One partition's second life. `make_actor` gives the actor for recorded rules (their JSON).

    A shard with an inbox reads it in place of signals. `asks` are topics to whose records others' inputs are compared.
    """

    partition: int
    kafka: Kafka
    names: Names
    partitions: int
    make_actor: Callable[[str], Actor]
    inbox: str = ""
    first_source: int = 0
    asks: Collection[str] = ()
    store: Store = field(default_factory=MemoryStore)
    end: int = 0  # of the journal, where the replay ended
    units: int = 0
    records: int = 0
    sent: dict[tuple[int, int, int], bytes] = field(default_factory=dict)  # (source, target, seq) -> hash of the value
    got: dict[tuple[int, int, int], bytes] = field(default_factory=dict)
    asked: Counter[Asked] = field(default_factory=Counter)  # what it has sent to the topics of `asks`
    took: Counter[Asked] = field(default_factory=Counter)  # the commands that it has read

    @property
    def source(self) -> int:
        """By which number others know what it signals."""
        return self.first_source + self.partition

    async def run(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yields offset and value of each journal record as computed anew, up to the journal's end at the start.

        Raises :class:`ReplayDiffers` where they are not, byte for byte, what the topic holds. What would be sent to
        other partitions is kept in `sent`, what came from them in `got`; :func:`compare_signals` holds them together.
        """
        names, number = self.names, self.partition
        journal = TopicPartition(names.journal, number)
        self.end = end = await settled_end(self.kafka, journal)
        also = ("inbox", self.inbox) if self.inbox else ("signals", names.signals)
        async with AsyncExitStack() as reads:
            # The journal ends before its sources do: what reads them is not read to its end.
            sources = {}
            for kind, topic in (("commands", names.commands), also):
                source = TopicPartition(topic, number)
                source_end = (await self.kafka.committed_ends([source]))[source]
                read = self.kafka.read(source, 0, source_end)
                sources[kind] = _Inputs(source, await reads.enter_async_context(aclosing(read)))
            memory: Memory | None = None
            parts: list[Record] = []
            async for records in await reads.enter_async_context(aclosing(self.kafka.read(journal, 0, end))):
                for record in records:
                    parts.append(record)
                    unit = _recorded(record.value or b"")
                    if not unit.last:
                        continue
                    memory = self._with_rules(memory, unit)
                    batch = await _inputs_of(unit, sources)
                    for offset, value in self._again(memory, batch, unit, parts):
                        yield offset, value
                    parts = []

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
                inbox=self.inbox,
                first_source=self.first_source,
            )
        memory.actor, memory.rules, memory.rules_hash = self.make_actor(unit.rules), unit.rules.encode(), rules_hash
        return memory

    def _again(
        self, memory: Memory, batch: list[Record], unit: Recorded, parts: list[Record]
    ) -> list[tuple[int, bytes]]:
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
                    f"partition {self.partition}, seq {unit.seq}: {_first_difference(part.value or b'', value)}"
                )
        memory.adopt(finished)
        self.units += 1
        self.records += len(batch)
        for output in finished.outputs:
            if output.topic == self.names.signals:
                self._note(self.sent, output.partition, output.value)
            elif output.topic in self.asks:
                self.asked[Asked(output.topic, output.partition, output.key or b"", output.value or b"")] += 1
        for record in batch:
            if record.topic == self.names.signals:
                self._note(self.got, self.partition, record.value)
            elif self.inbox and record.topic == self.names.commands:
                self.took[Asked(record.topic, record.partition, record.key or b"", record.value or b"")] += 1
        return [(part.offset, value) for part, value in zip(parts, values, strict=True)]

    def _note(self, book: dict[tuple[int, int, int], bytes], target: int, value: bytes | None) -> None:
        packed = _numbered(value or b"")
        book[packed.source, target, packed.seq] = blake2b(value or b"", digest_size=8).digest()


class Asked(NamedTuple):
    """A record of a topic of requests."""

    topic: str
    partition: int
    key: bytes
    value: bytes


class Numbered(msgspec.Struct, frozen=True):
    """The head of a record of the signals topic."""

    source: int
    seq: int


def compare_signals(replays: Iterable[Replay], went_on: Collection[int] = ()) -> int:
    """How many signal records were sent in the replays of all partitions; those that arrived must be just these.

    Raises :class:`ReplayDiffers`. One that is still under way at the end of the log has been sent and has not arrived.
    Of sources that `went_on` behind the end of their replay, one that arrived may have been sent there. What comes from
    sources that are not among the replays is like commands: what was told.
    """
    replays = list(replays)
    computed = {replay.source for replay in replays}
    sent = {key: value for replay in replays for key, value in replay.sent.items()}
    last: dict[tuple[int, int], int] = {}
    for source, target, seq in sent:
        last[source, target] = max(seq, last.get((source, target), 0))
    for replay in replays:
        for key, value in replay.got.items():
            source, target, seq = key
            if source not in computed:
                continue
            if sent.get(key) != value and not (source in went_on and seq > last.get((source, target), 0)):
                raise ReplayDiffers(f"signal {seq} from partition {source} to {target} is not what {source} sends")
    return len(sent)


def compare_requests(replays: Iterable[Replay]) -> int:
    """How many requests were read in the replays of lanes; somebody of the replays must have asked for each of them.

    Raises :class:`ReplayDiffers`. What was asked and not read yet is under way. Nothing may have gone on meanwhile.
    """
    replays = list(replays)
    asked: Counter[Asked] = sum((replay.asked for replay in replays), Counter())
    took: Counter[Asked] = sum((replay.took for replay in replays), Counter())
    for one in took - asked:
        raise ReplayDiffers(f"{one.topic}[{one.partition}] holds a request that nobody has made: {one.value[:200]!r}")
    return took.total()


_numbered = msgspec.json.Decoder(Numbered).decode
_recorded = msgspec.json.Decoder(Recorded).decode


def _first_difference(was: bytes, now: bytes) -> str:
    at = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    begin = max(0, at - 60)
    return f"at byte {at} it was ...{was[begin : at + 60]!r}... and is ...{now[begin : at + 60]!r}..."


class _Inputs:
    """One source of a partition, read in order as far as it is asked for."""

    def __init__(self, partition: TopicPartition, lists: AsyncIterator[list[Record]]) -> None:
        self._partition, self._lists = partition, lists
        self._ahead: list[Record] = []
        self._at = 0

    async def between(self, first: int, last: int) -> list[Record]:
        """The records with first <= offset <= last.

        Raises :class:`ReplayDiffers` when the last is not there, or when one was passed over that no unit has read.
        """
        found: list[Record] = []
        where = f"{self._partition.topic}[{self._partition.partition}]"
        while not found or found[-1].offset < last:
            if self._at == len(self._ahead):
                self._ahead, self._at = await anext(self._lists, []), 0
                if not self._ahead:
                    raise ReplayDiffers(f"{where}: offset {last} is an input of the journal and is not there")
            record = self._ahead[self._at]
            self._at += 1
            if not first <= record.offset <= last:
                raise ReplayDiffers(f"{where}: no unit has read offset {record.offset}")
            found.append(record)
        return found


async def _inputs_of(unit: Recorded, sources: Mapping[str, _Inputs]) -> list[Record]:
    """The records that a unit has taken, in their order."""
    batch: list[Record] = []
    for kind, *where in unit.inputs:
        if (inputs := sources.get(str(kind))) is not None:
            batch.extend(await inputs.between(int(where[0]), int(where[1])))
    return batch
