"""Tells those who listen: one reader of the log per API process, and a bounded queue per subscriber.

A subscriber first reads from Postgres up to where the reader is, then joins it without a gap, since both count in
positions. Whoever does not keep up is dropped, with the id to resume from; nobody waits for anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

import asyncpg

from aura_stream.events.reads import EventReads, Filter, Stored
from aura_stream.ledger.connection import READER, connect

log = logging.getLogger(__name__)

QUEUE_MAX: Final = 1000
"""Events that wait for one subscriber; above, it is dropped."""
_READ_MAX: Final = 1000
_CATCH_UP: Final = 200
_LOOK_S: Final = 0.25
"""How often the log is looked at when nobody notifies; a standby of Postgres does not."""
_NEWS: Final = """
SELECT position, event_id, tenant_id, customer_id, type, body FROM events.log
WHERE position > $1 ORDER BY position LIMIT $2
"""


class Behind(Exception):
    """The subscriber did not keep up, and is dropped."""


class Closing(Exception):
    """The process stops."""


class Subscriber:
    """One stream. Only its own task reads it; the reader of the log puts in."""

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self._waiting: deque[Stored] = deque()
        self._wake = asyncio.Event()
        self._is_behind = self._is_closing = False

    def put(self, event: Stored) -> None:
        """One more event; too many, and the subscriber is dropped."""
        if len(self._waiting) >= QUEUE_MAX:
            self._is_behind = True
            self._waiting.clear()
        if not self._is_behind:
            self._waiting.append(event)
        self._wake.set()

    def close(self) -> None:
        """Ends the stream."""
        self._is_closing = True
        self._wake.set()

    async def take(self, timeout_s: float) -> list[Stored]:
        """What has come, nothing after `timeout_s`. Raises :class:`Behind`, :class:`Closing`."""
        if not self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
        self._wake.clear()
        if self._is_closing:
            raise Closing
        if self._is_behind:
            raise Behind
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


class EventTail:
    """The reader of the log of one process."""

    def __init__(self, dsn: str, reads: EventReads) -> None:
        self._dsn = dsn
        self._reads = reads
        self._subscribers: dict[str, set[Subscriber]] = {}
        self._all: set[Subscriber] = set()
        self._position = -1
        self._known = asyncio.Event()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begins to read."""
        self._task = asyncio.create_task(self._run(), name="events tail")

    async def stop(self) -> None:
        """Ends all streams and stops."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def close(self) -> None:
        """Ends all streams, those that begin later too."""
        self._is_closed = True
        for subscriber in list(self._all):
            subscriber.close()

    def __len__(self) -> int:
        return len(self._all)

    @contextlib.asynccontextmanager
    async def subscribed(self, wanted: Filter) -> AsyncIterator[Subscriber]:
        """A place among those who listen; it hears nothing before :meth:`follow` has brought it to the present."""
        subscriber = Subscriber(wanted)
        self._all.add(subscriber)
        if self._is_closed:
            subscriber.close()
        try:
            yield subscriber
        finally:
            self._all.discard(subscriber)
            mine = self._subscribers.get(wanted.tenant, set())
            mine.discard(subscriber)
            if not mine:
                self._subscribers.pop(wanted.tenant, None)

    async def follow(
        self, subscriber: Subscriber, position: int, *, idle_s: float
    ) -> AsyncGenerator[Sequence[Stored], None]:
        """All events after a position, in order, without end; an empty batch when nothing came for `idle_s`.

        Raises :class:`Behind`, :class:`Closing`, IdentityUnavailable.
        """
        loop = asyncio.get_running_loop()
        said_at = loop.time()
        while True:
            if self._is_closed:
                raise Closing
            if not self._known.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):
                        await self._known.wait()
                if not self._known.is_set():
                    yield []
                continue
            through = self._position
            if position >= through:
                # No await between this look and the entry: what is read from here on is told.
                self._subscribers.setdefault(subscriber.wanted.tenant, set()).add(subscriber)
                break
            found = await self._reads.after(subscriber.wanted, position, through, _CATCH_UP)
            position = found[-1].position if len(found) == _CATCH_UP else through
            if found or loop.time() - said_at > idle_s:
                yield found
                said_at = loop.time()
        while True:
            taken = await subscriber.take(idle_s)
            # A position that is ahead of the reader (its database was behind) is never told twice.
            yield [event for event in taken if event.position > position]

    async def _run(self) -> None:
        known = ""
        while True:
            try:
                await self._listen()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                if repr(error) != known:
                    known = repr(error)
                    log.warning("events: the log cannot be read, trying again: %s", known)
            await asyncio.sleep(0.5)

    async def _listen(self) -> None:
        connection = await connect(self._dsn, READER, command_timeout_s=10, application_name="aura events tail")
        try:
            with contextlib.suppress(asyncpg.FeatureNotSupportedError, asyncpg.ReadOnlySQLTransactionError):
                await connection.add_listener("aura_events", lambda *_: self._wake.set())
            while True:
                self._wake.clear()
                if not await self._read(connection):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_S):
                            await self._wake.wait()
        finally:
            connection.terminate()

    async def _read(self, connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        """Tells what is new; whether there may be more."""
        if not self._subscribers:
            last: int = await connection.fetchval("SELECT last FROM events.head")
            if not self._subscribers:  # nobody came meanwhile who would miss what lies between
                self._position = last
                self._known.set()
                return False
        rows = await connection.fetch(_NEWS, self._position, _READ_MAX)
        for row in rows:
            self._position = row["position"]
            for subscriber in self._subscribers.get(row["tenant_id"], ()):
                if subscriber.wanted.passes(row["tenant_id"], row["customer_id"], row["type"]):
                    subscriber.put(Stored(row["position"], row["event_id"], row["body"]))
        return len(rows) == _READ_MAX
