"""The engine's Kafka port over the simulated brokers, one object per process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from aura_stream.engine.kafka import Producer
from aura_stream.engine.producer import TransactionalProducer
from aura_stream.engine.unit import Record

if TYPE_CHECKING:
    from tests.simulation.cluster import Process
    from tests.simulation.network import Network


class SimulatedKafka:
    """The log, as a process reaches it."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network, self._broker, self._process = network, network.broker, process

    async def start(self) -> None:
        """Connects."""
        await self._network.request(self._process, "kafka start", lambda: None)

    async def stop(self) -> None:
        """Disconnects."""

    def producer(self, transactional_id: str) -> Producer:
        """The engine's own producer; the client under it is simulated."""
        return TransactionalProducer("simulation", transactional_id)

    async def starts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Nothing is ever deleted."""
        return await self._network.request(self._process, "starts", lambda: dict.fromkeys(partitions, 0))

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last record."""
        return await self._network.request(
            self._process,
            "ends",
            lambda: {tp: len(self._broker.at((tp.topic, tp.partition)).records) for tp in partitions},
        )

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The last stable offsets."""
        return await self._network.request(
            self._process,
            "stable ends",
            lambda: {tp: self._broker.at((tp.topic, tp.partition)).stable for tp in partitions},
        )

    async def read(self, partition: TopicPartition, start: int, end: int) -> AsyncGenerator[list[Record], None]:
        """The committed records, list by list; waits while no broker answers, as a consumer does."""
        await self._network.request(self._process, "read", lambda: None)
        log = self._broker.at((partition.topic, partition.partition))
        at = start
        while at < end:
            await self._process.step(f"read {partition.topic}")
            await self._process.until_reachable()
            upto = min(log.stable, at + self._process.faults.random.randint(1, 200))
            records: list[Record] = list(log.committed(at, min(upto, end)))
            at = upto
            yield records
