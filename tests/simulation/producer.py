"""The engine's `TransactionClient` over the simulated brokers: the requests of a transaction, each sent once.

The engine's own `TransactionalProducer` runs on top, with its taint rule and its repetitions.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka.errors import ConcurrentTransactions, KafkaConnectionError, KafkaError, RequestTimedOutError

from tests.simulation.log import Place, Sent

if TYPE_CHECKING:
    from tests.simulation.cluster import Process
    from tests.simulation.network import Network

T = TypeVar("T")
RETRY_S = 0.1
CONCURRENT_S = 0.002
Sealed = tuple[int, list[Sent]]


class Builder:
    """A batch that is being built; its records' times are the brokers' business."""

    def __init__(self) -> None:
        self.messages: list[Sent] = []
        # What `build` reaches for: the builder within, and how many records it has.
        self._builder = self
        self._relative_offset = 0

    def append(
        self, offset: int, timestamp: int, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]
    ) -> object:
        """Adds a message; there is always room."""
        self.messages.append((key, value, tuple(headers)))
        return True

    def close(self) -> None:
        """Nothing to do."""


class SimulatedClient:
    """Stands for `TransactionClient`."""

    def __init__(self, network: Network, process: Process, transactional_id: str) -> None:
        self.network, self.process, self.name = network, process, transactional_id
        self.broker = network.broker
        self.failed = False
        self.second = network.broker.second
        self.epoch = -1
        self._sequence = itertools.count()

    async def start(self, topics: Iterable[str]) -> None:
        """Connects, and takes the transactional id; metadata are known."""
        await self.process.step("connect")
        if not self.network.reachable(self.process):
            raise KafkaConnectionError("no broker answers")
        while True:
            try:
                self.epoch = await self._send("init", lambda: self.broker.init(self.name))
                break
            except ConcurrentTransactions:
                await asyncio.sleep(CONCURRENT_S)
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(RETRY_S)
        self.process.trace(f"{self.name} epoch {self.epoch}")

    def batch(self) -> Builder:
        """An empty batch."""
        return Builder()

    def sealed(self, place: Place, batch: Builder, count: int) -> Sealed:
        """What is sent of a batch, with a number of its own."""
        return next(self._sequence), batch.messages

    async def add(self, places: Iterable[Place]) -> None:
        """Names the partitions, of which only the first write is a beginning here."""
        epoch = self.epoch
        await self._send("add", lambda: self.broker.add(self.name, epoch))

    async def produce(self, sealed: Mapping[Place, Sealed]) -> dict[Place, int | KafkaError]:
        """Writes at most one batch per place."""
        places = list(sealed.items())
        self.process.faults.random.shuffle(places)  # brokers answer in any order
        answers = await asyncio.gather(*(self._produce(place, *one) for place, one in places))
        return {place: answer for (place, _), answer in zip(places, answers, strict=True)}

    async def _produce(self, place: Place, sequence: int, messages: list[Sent]) -> int | KafkaError:
        epoch = self.epoch  # now: what arrives late still says so
        try:
            return await self._send(
                f"produce {place[0]}-{place[1]}",
                lambda: self.broker.produce(self.name, epoch, sequence, place, messages),
                writes=True,
            )
        except KafkaError as error:
            return error

    async def end(self) -> None:
        """Commits."""
        begun = self.broker.transactions[self.name].begun
        epoch = self.epoch
        self.epoch = await self._send("end", lambda: self._end_at_broker(begun, epoch), ends=self.name)

    def _end_at_broker(self, begun: int, epoch: int) -> int | None:
        now = self.broker.transactions[self.name]
        if now.begun != begun and now.state == "ongoing" and now.epoch == epoch:
            self.broker.late_ends += 1
            self.process.trace(f"{self.name}: an EndTxn of transaction {begun} ends transaction {now.begun}")
        return self.broker.end(self.name, epoch)

    def refresh(self) -> None:
        """Leaders do not move."""

    async def stop(self) -> None:
        """Nothing is under way."""

    async def abandon(self) -> None:
        """Nobody is told."""

    async def _send(self, what: str, act: Callable[[], T | None], **how: Any) -> T:
        try:
            answer = await self.network.request(self.process, what, act, **how)
        except (KafkaConnectionError, RequestTimedOutError, asyncio.CancelledError):
            self.failed = True
            raise
        if answer is None:
            raise ConcurrentTransactions
        return answer
