"""The engine without Kafka: all partitions of a cluster in one object, for tests and for trying a machine out.

It runs the very code of a worker (`unit.py`) over lists instead of topics: send commands, run until nothing moves, look
at what came out. Units can be made to fail and to run again, as a worker does after a bad commit.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.unit import Actor, Memory, Names, Output, Record


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record of an in-memory topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Driver:
    """A cluster of `partitions` shards that run `actor`. `topics[name][partition]` is all that was ever written."""

    actor: Actor
    names: Names
    partitions: int = 4
    rules: bytes = b"{}"
    topics: dict[str, dict[int, list[LogRecord]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def __post_init__(self) -> None:
        self.partitioner = Partitioner(self.partitions)
        self.stores = [MemoryStore() for _ in range(self.partitions)]
        self.shards = [self._open(partition) for partition in range(self.partitions)]

    def _open(self, partition: int) -> Memory:
        return Memory(
            partition,
            actor=self.actor,
            names=self.names,
            store=self.stores[partition],
            partitioner=self.partitioner,
            rules=self.rules,
            rules_hash=hashlib.sha256(self.rules).hexdigest()[:16],
        )

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, at: int) -> LogRecord:
        """Writes a record to a topic."""
        log = self.topics[topic][partition]
        record = LogRecord(topic, partition, len(log), at, key, value)
        log.append(record)
        return record

    def send(self, key: bytes, value: bytes, at: int) -> LogRecord:
        """Writes a command at the time `at` (ms)."""
        return self.append(self.names.commands, self.partitioner(key), key, value, at)

    def reopen(self, partition: int) -> None:
        """Forgets what is in memory, as after a crash or a failed commit."""
        self.shards[partition] = self._open(partition)

    def step(self, partition: int, *, limit: int = 1000, clock: int = 0, commit: bool = True) -> bool:
        """Runs one unit of a partition; False when there was nothing to do. Without `commit` it comes to nothing."""
        shard = self.shards[partition]
        waiting: Sequence[Record] = [
            record
            for topic, source in ((self.names.commands, "commands"), (self.names.signals, "signals"))
            for record in self.topics[topic][partition][shard.state.applied.get(source, -1) + 1 :]
        ][:limit]
        unit, _ = shard.run(waiting, clock=0 if waiting else clock)
        if not unit.inputs:
            return False
        finished = unit.finish()
        if not commit:
            self.reopen(partition)
            return True
        for output in finished.outputs:
            self._write(output, finished.state.at)
        shard.adopt(finished)
        return True

    def _write(self, output: Output, at: int) -> None:
        log = self.topics[output.topic][output.partition]
        headers = tuple(output.headers)
        log.append(LogRecord(output.topic, output.partition, len(log), at, output.key, output.value, headers))

    def run(self, *, clock: int = 0) -> None:
        """Runs all partitions until nothing moves; `clock` (ms) lets the time pass where no command does."""
        moved = True
        while moved:
            moved = False
            for partition in range(self.partitions):
                moved = self.step(partition, clock=clock) or moved

    def values(self, topic: str) -> list[bytes]:
        """All values of a topic, partition by partition."""
        return [r.value for p in range(self.partitions) for r in self.topics[topic][p] if r.value is not None]
