"""aiokafka's producer as far as the engine's `TransactionalProducer` uses it, over the simulated brokers.

The engine's own class runs on top, with its taint rule and its checks. As in aiokafka, every request goes through
`client.send`, which that class watches, and a failed one is repeated silently and without end.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from aiokafka.errors import IllegalOperation, InvalidProducerEpoch, KafkaConnectionError, KafkaError, ProducerFenced

from tests.simulation.log import Place, Sent

if TYPE_CHECKING:
    from tests.simulation.cluster import Process
    from tests.simulation.network import Network

T = TypeVar("T")
RETRY_S = 0.1
CONCURRENT_S = 0.002


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


class Client:
    """The connections."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network, self._process = network, process

    async def send(self, what: str, act: Callable[[], Any], **how: Any) -> Any:
        """One request."""
        return await self._network.request(self._process, what, act, **how)

    async def close(self) -> None:
        """Closes them."""


class SimulatedProducer:
    """Stands for `aiokafka.AIOKafkaProducer`."""

    def __init__(self, network: Network, process: Process, transactional_id: str) -> None:
        self.network, self.process, self.name = network, process, transactional_id
        self.broker = network.broker
        self.client = Client(network, process)
        self.epoch = -1
        # What `abandon` reaches for.
        self._closed = False
        self._sender = SimpleNamespace(sender_task=None)
        self._message_accumulator = SimpleNamespace(_batches={}, _pending_batches=[])
        self._txn_manager = SimpleNamespace(_transaction_waiter=None)
        self._sequence = itertools.count()
        self._waiting: dict[Place, list[tuple[int, Builder, asyncio.Future[Any]]]] = {}
        self._wake = asyncio.Event()
        self._in_transaction = False
        self._ending = False

    async def start(self) -> None:
        """Connects, and takes the transactional id."""
        await self.process.step("connect")
        if not self.network.reachable(self.process):
            raise KafkaConnectionError("no broker answers")
        while True:
            epoch = await self._send("init", lambda: self.broker.init(self.name))
            if epoch is not None:
                break
            await asyncio.sleep(CONCURRENT_S)
        self.epoch = epoch
        self.process.trace(f"{self.name} epoch {epoch}")
        self._sender.sender_task = asyncio.create_task(self._run())

    async def partitions_for(self, topic: str) -> None:
        """Metadata; it is known."""

    def create_batch(self) -> Builder:
        """An empty batch."""
        return Builder()

    async def begin_transaction(self) -> None:
        """Marks the beginning; no request is sent for it."""
        if self._in_transaction:
            raise IllegalOperation("another transaction is in progress")
        self._in_transaction = True
        self._txn_manager._transaction_waiter = asyncio.get_running_loop().create_future()

    async def send_batch(self, batch: Builder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Queues a batch for the sender."""
        if not self._in_transaction:
            raise IllegalOperation("not in a transaction")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((topic, partition), []).append((next(self._sequence), batch, future))
        self._wake.set()
        return future

    async def commit_transaction(self) -> None:
        """Waits until the transaction has ended."""
        self._ending = True
        self._wake.set()
        await asyncio.shield(self._txn_manager._transaction_waiter)

    async def stop(self) -> None:
        """Ends the sender; only after all that waits is sent, however long that takes."""
        while self._waiting:  # noqa: ASYNC110 - the sender's turn
            await asyncio.sleep(RETRY_S)
        self._closed = True
        task = self._sender.sender_task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.client.close()

    # --- the sender ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                places = list(waiting.items())
                self.process.faults.random.shuffle(places)  # brokers answer in any order
                await asyncio.gather(*(self._produce(place, batches) for place, batches in places))
            if self._ending:
                await self._end()

    async def _produce(self, place: Place, batches: list[tuple[int, Builder, asyncio.Future[Any]]]) -> None:
        for sequence, batch, future in batches:
            try:
                offset = None
                while offset is None:
                    offset = await self._send(
                        f"produce {place[0]}-{place[1]}",
                        lambda s=sequence, b=batch: self.broker.produce(self.name, self.epoch, s, place, b.messages),  # type: ignore[misc]
                        writes=True,
                    )
                    if offset is None:
                        await asyncio.sleep(CONCURRENT_S)
            except KafkaError as error:
                if not future.done():
                    future.set_exception(ProducerFenced() if isinstance(error, InvalidProducerEpoch) else error)
            else:
                if not future.done():
                    future.set_result(SimpleNamespace(offset=offset))

    async def _end(self) -> None:
        begun = self.broker.transactions[self.name].begun
        waiter = self._txn_manager._transaction_waiter
        try:
            while await self._send("end", lambda: self._end_at_broker(begun), ends=self.name) is None:  # noqa: ASYNC110
                await asyncio.sleep(CONCURRENT_S)
        except KafkaError as error:
            if not waiter.done():
                waiter.set_exception(ProducerFenced() if isinstance(error, InvalidProducerEpoch) else error)
        else:
            self._in_transaction = self._ending = False
            if not waiter.done():
                waiter.set_result(None)

    def _end_at_broker(self, begun: int) -> bool | None:
        now = self.broker.transactions[self.name]
        if now.begun != begun and now.state == "ongoing" and now.epoch == self.epoch:
            self.broker.late_ends += 1
            self.process.trace(f"{self.name}: an EndTxn of transaction {begun} ends transaction {now.begun}")
        return self.broker.end(self.name, self.epoch)

    async def _send(self, what: str, act: Callable[[], T], **how: Any) -> T:
        """A request, repeated silently until it is answered."""
        while True:
            try:
                answer: T = await self.client.send(what, act, **how)
            except KafkaError as error:
                if not error.retriable or isinstance(error, InvalidProducerEpoch):
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return answer
