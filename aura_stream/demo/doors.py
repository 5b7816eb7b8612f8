"""The two ways into the product, as anyone would use them: a plain Kafka producer and an HTTP client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from aura_stream.demo.book import Book
from aura_stream.demo.figures import Latencies
from aura_stream.demo.steps import RawRecord, RawRequest, Step

COMMANDS: Final = "aura.commands.v1"
STEP_HEADER: Final = "demo-step"
TRIES_MAX: Final = 20
_UNDER_WAY_MAX: Final = 200

Sending = Callable[[Step, float], None]
"""Called with the step and the time when a record is handed to the producer."""
Accepted = Callable[[int, int, float], None]
"""Called with partition, offset and the time of sending when Kafka has a record."""


class KafkaDoor:
    """An idempotent producer with the default partitioner."""

    def __init__(self, bootstrap: str, partitions: int, book: Book, sending: Sending, accepted: Accepted) -> None:
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=0)
        self._partitions = partitions
        self._book = book
        self._sending = sending
        self._accepted = accepted

    async def start(self) -> None:
        """Connects."""
        await self._producer.start()

    async def stop(self) -> None:
        """Sends what is left and disconnects."""
        await self._producer.stop()

    async def send(self, step: Step, done: asyncio.Future[None]) -> None:
        """Hands the record to the producer, in order; `done` is set when Kafka has it."""
        now, sent_at = datetime.now(UTC), time.monotonic()
        key, value = step.record(now)
        partition = None
        if isinstance(step.raw, RawRecord) and step.raw.partition_shift:
            right = (murmur2(key) & 0x7FFFFFFF) % self._partitions
            partition = (right + step.raw.partition_shift) % self._partitions
        self._book.sent(step, now)
        self._sending(step, sent_at)
        headers = [(STEP_HEADER, str(step.number).encode())]
        try:
            future = await self._producer.send(COMMANDS, value, key, partition=partition, headers=headers)
        except KafkaError as error:
            self._book.differ("decided", f"{step.type} {step.ref}: not accepted: {error!r}")
            done.set_result(None)
            return

        def arrived(future: asyncio.Future[object]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                self._book.differ("decided", f"{step.type} {step.ref}: not accepted: {error!r}")
            elif not future.cancelled():
                record: Any = future.result()
                self._accepted(record.partition, record.offset, sent_at)
            if not done.done():
                done.set_result(None)

        future.add_done_callback(arrived)


class HttpDoor:
    """A client that does what the contract asks of clients: repeats with the same key after a 503 or no answer."""

    def __init__(self, url: str, api_key: str, book: Book, latencies: Latencies) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._book = book
        self._latencies = latencies
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_UNDER_WAY_MAX)

    async def start(self) -> None:
        """Opens the session."""
        timeout = aiohttp.ClientTimeout(total=40)
        connector = aiohttp.TCPConnector(limit=_UNDER_WAY_MAX)
        self._session = aiohttp.ClientSession(self._url, headers=self._headers, timeout=timeout, connector=connector)

    async def stop(self) -> None:
        """Closes it."""
        if self._session is not None:
            await self._session.close()

    async def send(self, step: Step, done: asyncio.Future[None]) -> None:
        """Asks and, where it must, asks again until there is an answer; `done` is set then."""
        self._book.unanswered += 1
        try:
            async with self._slots:
                await self._ask(step)
        finally:
            self._book.unanswered -= 1
            if not done.done():
                done.set_result(None)

    async def _ask(self, step: Step) -> None:
        assert self._session is not None
        now = datetime.now(UTC)
        if isinstance(step.raw, RawRequest):
            path, body, key = step.raw.path, step.raw.body, step.raw.key
        else:
            path, data = step.request(now)
            body, key = orjson.dumps(data), step.key
        headers = {"Content-Type": "application/json", "Aura-Tenant": step.tenant}
        if key is not None:
            headers["Idempotency-Key"] = key
        if step.wait_s >= 0:
            headers["Prefer"] = f"wait={step.wait_s}" if step.wait_s else "respond-async"
        self._book.sent(step, now)
        why = ""
        for attempt in range(1, TRIES_MAX + 1):
            began = time.monotonic()
            try:
                async with self._session.post(path, data=body, headers=headers) as response:
                    answer = orjson.loads(await response.read())
                    status = response.status
                    replayed = response.headers.get("Idempotent-Replayed") == "true"
                    pause = float(response.headers.get("Retry-After", "1"))
            except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
                why = repr(error)
                await asyncio.sleep(0.5)
                continue
            code = str(answer.get("code", "")) if isinstance(answer, dict) else ""
            if status == 503 or code == "idempotency_in_progress":
                why = f"{status} {code}"
                self._book.figures.answers[str(status)] += 1
                await asyncio.sleep(min(pause, 2))
                continue
            self._latencies.add(time.monotonic() - began)
            self._book.answered(step, status, code, replayed, attempt)
            return
        self._book.gave_up(step, why)
