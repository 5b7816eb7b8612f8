"""Writes what was heard outside into the inbox of a kind of lanes. What cannot be written is not known: it is asked
for again, since every wish has a deadline of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from aura_stream.brokers import Brokers, client_options
from aura_stream.engine.partitioner import Partitioner

log = logging.getLogger(__name__)

_AGAIN_S: Final = 2.0


class Inbox:
    """One producer per process."""

    def __init__(self, bootstrap: Brokers | str, topic: str, partitions: int) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self.partition_of = Partitioner(partitions)
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def write(self, key: bytes, value: bytes) -> bool:
        """Writes one piece of news; whether Kafka has acknowledged it."""
        try:
            producer = await self._started()
            await producer.send_and_wait(self._topic, value, key, self.partition_of(key))
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("news for %s could not be written: %r", key.decode(), error)
            return False
        return True

    async def write_surely(self, key: bytes, value: bytes) -> None:
        """Writes one piece of news, however long Kafka is away."""
        while True:
            if await self.write(key, value):
                return
            await asyncio.sleep(_AGAIN_S)

    async def close(self) -> None:
        """Ends the producer."""
        if self._producer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._producer.stop()

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(**client_options(self._bootstrap), acks="all", enable_idempotence=True)
                await producer.start()
                self._producer = producer
            return self._producer
