"""Proxies before Kafka and Postgres that lose, mute, delay and hold what passes: the network of the fault tests.

They live in a thread with a loop of its own, so that they outlive the loops of single tests and are not held up by a
checker that computes. What is set on them (a rule, a hold) can be set from any thread.

A *hold* is what a partition of the network is to TCP: nothing arrives, nobody is told, and after the healing what was
under way still comes, even from a client that has long given up. So a hold also makes requests late.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

Way = Literal["up", "down"]
BOTH: tuple[Way, ...] = ("up", "down")
What = Literal["lose request", "lose reply", "mute", "delay", "late", "repeat"]

PRODUCE, FETCH, METADATA, OFFSET_COMMIT, FIND_COORDINATOR = 0, 1, 3, 8, 10
JOIN_GROUP, HEARTBEAT = 11, 12
INIT_PRODUCER_ID, ADD_PARTITIONS, END_TXN = 22, 24, 26
END_TXN_FLEXIBLE = 3
TRANSACTIONAL = (INIT_PRODUCER_ID, ADD_PARTITIONS, END_TXN, PRODUCE)
FRAME_MAX = 64 << 20
_CLOSED = (ConnectionError, asyncio.IncompleteReadError, OSError)


@dataclass
class Rule:
    """What happens to the requests that it fits: of some API keys (all if empty), holding some bytes.

    - ``lose request``: it never arrives, the connection ends;
    - ``lose reply``: it is done, the connection ends instead of the answer;
    - ``mute``: it is done, and the connection is silent from then on;
    - ``delay``: it arrives `delay_s` later, and so do those behind it on this connection;
    - ``late``: the connection ends (with `silent`: is silent from now on), it arrives `delay_s` later by another one,
      with `after` not before that rule has been hit;
    - ``repeat``: it arrives, and again `delay_s` later by another one (what a retry of TCP's user may do).

    The first `skip` that fit are let through; `times` bounds how often (None: no bound); `chance` is per request.
    """

    what: What
    apis: tuple[int, ...] = ()
    holding: bytes = b""
    delay_s: float = 0.0
    times: int | None = None
    chance: float = 1.0
    skip: int = 0
    silent: bool = False
    after: Rule | None = None
    hits: int = 0

    def fits(self, api: int, frame: bytes, chances: random.Random) -> bool:
        """Whether it applies to this request; counts it if so."""
        if self.times is not None and self.hits >= self.times:
            return False
        if (self.apis and api not in self.apis) or self.holding not in frame:
            return False
        if self.chance < 1 and chances.random() >= self.chance:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True


class Net:
    """The thread in which proxies live. Close it to end them all."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs something in the thread and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def close(self) -> None:
        """Ends all proxies and their connections."""

        async def end() -> None:
            for server in self.servers:
                server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


class Proxy:
    """A TCP proxy on 127.0.0.1 whose two ways can be held, slowed and cut. `target` is asked for per connection."""

    def __init__(self, net: Net, port: int, target: tuple[str, int]) -> None:
        self.net, self.port, self.target = net, port, target
        self.counts: Counter[str] = Counter()
        self.slow_s = 0.0  # every message, each way
        self._held: set[Way] = set()
        self._open: dict[Way, asyncio.Event] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listens."""

        async def listen() -> None:
            self._open = {way: asyncio.Event() for way in BOTH}
            for event in self._open.values():
                event.set()
            server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port, limit=FRAME_MAX)
            self.port = server.sockets[0].getsockname()[1]
            self.net.servers.append(server)

        self.net.run(listen())

    def hold(self, *ways: Way) -> None:
        """Lets nothing through (both ways, or one), until :meth:`heal`."""

        async def set_() -> None:
            for way in ways or BOTH:
                self._held.add(way)
                self._open[way].clear()

        self.net.run(set_())

    def heal(self) -> None:
        """Lets everything through again."""

        async def set_() -> None:
            self.slow_s = 0.0
            self._held.clear()
            for event in self._open.values():
                event.set()

        self.net.run(set_())

    def cut(self) -> None:
        """Ends all connections that are open now."""
        self.net.run(self._end_all())

    async def _end_all(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            await self._open["up"].wait()
            from_server, upstream = await asyncio.open_connection(*self.target, limit=FRAME_MAX)
            await self._serve(Connection(reader, writer, from_server, upstream))
        except (*_CLOSED, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for side in (writer, upstream):
                if side is not None:
                    side.close()
                    with contextlib.suppress(Exception, asyncio.CancelledError):
                        await side.wait_closed()

    async def _serve(self, connection: Connection) -> None:
        """Both ways side by side, until one of them ends."""
        ways = [asyncio.create_task(self._up(connection)), asyncio.create_task(self._down(connection))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self, connection: Connection) -> None:
        while data := await connection.reader.read(1 << 16):
            await self._passes("up")
            connection.upstream.write(data)
            await connection.upstream.drain()

    async def _down(self, connection: Connection) -> None:
        while data := await connection.from_server.read(1 << 16):
            await self._passes("down")
            connection.writer.write(data)
            await connection.writer.drain()

    async def _passes(self, way: Way) -> None:
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        await self._open[way].wait()


@dataclass
class Connection:
    """One client's connection and the one to the server that stands behind it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    from_server: asyncio.StreamReader
    upstream: asyncio.StreamWriter
    muted: bool = False
    unanswered: set[int] = field(default_factory=set)  # correlation ids whose answers are lost


class KafkaProxy(Proxy):
    """Stands before one broker, which advertises its address; knows requests, their API keys and their answers."""

    def __init__(self, net: Net, port: int, target: tuple[str, int], *, seed: int = 0) -> None:
        super().__init__(net, port, target)
        self.rules: list[Rule] = []
        self._chances = random.Random(seed)
        self._late: set[asyncio.Task[None]] = set()
        self.late_errors: list[int] = []
        """What the broker said to requests that arrived late: Kafka's error codes, of EndTxn."""

    def heal(self) -> None:
        """Lets everything through again, without rules."""
        self.rules = []
        super().heal()

    def settled(self) -> bool:
        """Whether no late request is under way any more."""
        return not self._late

    async def _up(self, connection: Connection) -> None:
        while True:
            frame = await _frame(connection.reader)
            api, version, number = struct.unpack_from(">hhi", frame, 4)
            await self._passes("up")
            rule = next((rule for rule in self.rules if rule.fits(api, frame, self._chances)), None)
            if rule is not None:
                self.counts[f"{rule.what} {api}"] += 1
                if rule.what == "lose request":
                    return
                if rule.what == "late":
                    self._deliver_later(frame, rule)
                    if not rule.silent:
                        return
                    connection.muted = True
                    continue
                if rule.what == "lose reply":
                    connection.unanswered.add(number)
                elif rule.what == "repeat":
                    self._deliver_later(frame, rule)
                elif rule.what == "delay":
                    await asyncio.sleep(rule.delay_s)
                elif rule.what == "mute":
                    connection.muted = True
            self.counts[f"api {api} v{version}"] += 1
            connection.upstream.write(frame)
            await connection.upstream.drain()

    async def _down(self, connection: Connection) -> None:
        while True:
            frame = await _frame(connection.from_server)
            (number,) = struct.unpack_from(">i", frame, 4)
            await self._passes("down")
            if number in connection.unanswered:
                return
            if connection.muted:
                continue
            connection.writer.write(frame)
            await connection.writer.drain()

    def _deliver_later(self, frame: bytes, rule: Rule) -> None:
        async def deliver() -> None:
            await asyncio.sleep(rule.delay_s)
            while rule.after is not None and not rule.after.hits:  # noqa: ASYNC110 - rules are plain data
                await asyncio.sleep(0.01)
            with contextlib.suppress(*_CLOSED, TimeoutError):
                reader, writer = await asyncio.open_connection(*self.target)
                try:
                    writer.write(frame)
                    answer = await asyncio.wait_for(_frame(reader), 10)
                    api, version = struct.unpack_from(">hh", frame, 4)
                    if api == END_TXN:
                        tags = 1 if version >= END_TXN_FLEXIBLE else 0  # an empty list of them, in the answer's header
                        self.late_errors.append(struct.unpack_from(">h", answer, 12 + tags)[0])
                finally:
                    writer.close()

        task = self.net.loop.create_task(deliver())
        self._late.add(task)
        task.add_done_callback(self._late.discard)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    (size,) = struct.unpack(">i", head)
    return head + await reader.readexactly(size)


class PostgresProxy(Proxy):
    """Stands before a Postgres; can lose a message that holds a marker, or the answer to it."""

    def __init__(self, net: Net, dsn: str, port: int = 0) -> None:
        parts = urlsplit(dsn)
        assert parts.hostname and parts.port
        super().__init__(net, port, (parts.hostname, parts.port))
        self._marker = b""
        self._answers = False
        self._times = 0
        self.cuts = 0

    def through(self, dsn: str) -> str:
        """A DSN of the same server that leads through here."""
        parts = urlsplit(dsn)
        login, _, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{self.port}"))

    def lose(self, marker: bytes, *, answer: bool, times: int = 1) -> None:
        """Cuts the wire when a client sends `marker`: before the server has it, or (`answer`) after it is done."""
        self._marker, self._answers, self._times = marker, answer, times

    def heal(self) -> None:
        """Lets everything through again."""
        self._times = 0
        super().heal()

    async def _up(self, connection: Connection) -> None:
        while data := await connection.reader.read(1 << 16):
            await self._passes("up")
            if self._times > 0 and self._marker in data:
                self._times -= 1
                if self._answers:
                    connection.muted = True
                    connection.upstream.write(data)
                    await connection.upstream.drain()
                    await self._answered(connection)
                self.cuts += 1
                return
            connection.upstream.write(data)
            await connection.upstream.drain()

    async def _down(self, connection: Connection) -> None:
        while data := await connection.from_server.read(1 << 16):
            await self._passes("down")
            if connection.muted:
                connection.unanswered.add(0)  # the server has answered: what it does, it has done
                continue
            connection.writer.write(data)
            await connection.writer.drain()

    async def _answered(self, connection: Connection) -> None:
        async with asyncio.timeout(20):
            while not connection.unanswered:  # noqa: ASYNC110 - another task reads it
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def held(proxies: Iterable[Proxy], *ways: Way) -> AsyncIterator[None]:
    """A partition of the network for as long as the block takes."""
    found = list(proxies)
    for proxy in found:
        proxy.hold(*ways)
    try:
        yield
    finally:
        for proxy in found:
            proxy.heal()
