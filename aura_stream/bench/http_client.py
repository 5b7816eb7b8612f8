"""Requests over a fixed number of connections, each sending its next when the last is answered.

A process of its own: `python -m aura_stream.bench.http_client`. It reads a :class:`Plan` as one line of JSON, encodes
every request beforehand, says `ready`, waits for a line, and ends with a line of JSON. It speaks just as much HTTP/1.1
as is needed, so that it costs a fraction of what any server does: a client library would be the bottleneck.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import cast

import msgspec
import uvloop

from aura_stream.bench.figures import latency
from aura_stream.bench.loads import ONE_HOP, Command, own_transfers, transfers

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Plan(msgspec.Struct, frozen=True):
    """What to send, where, over how many connections. `lines` above zero: batches of so many commands each.

    Several credentials are used in turns; `customers` are whose they are, in the same order (default: those of loads).
    """

    port: int
    credentials: tuple[str, ...]
    section: int
    count: int
    connections: int
    lines: int = 0
    customers: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True):
    """What came of it: accepted commands, answers by status, time, and the first answer that was not expected."""

    accepted: int
    statuses: dict[str, int]
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_s: float
    surprise: str


def requests(plan: Plan) -> Iterator[bytes]:
    """Every request, ready to be sent: transfers between two accounts of one customer."""
    own = plan.customers
    commands = own_transfers(plan.section, plan.count, own) if own else transfers(ONE_HOP, plan.section, plan.count)
    credentials = itertools.cycle(plan.credentials)
    if plan.lines:
        for batch in iter(lambda: [value for _, value in itertools.islice(commands, plan.lines)], []):
            body = b"\n".join(batch)
            yield _request(plan.port, next(credentials), "/v1/commands:batch", "application/x-ndjson", "", body)
    else:
        yield from (_single(plan.port, next(credentials), command) for command in commands)


def _single(port: int, credential: str, command: Command) -> bytes:
    sent = msgspec.json.decode(command[1])
    extra = f"Idempotency-Key: {sent['idempotency_key']}\r\nPrefer: respond-async\r\n"
    return _request(port, credential, "/v1/transfers", "application/json", extra, msgspec.json.encode(sent["data"]))


def _request(port: int, credential: str, path: str, media_type: str, extra: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {credential}\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    )
    return head.encode() + body


class Tally:
    """What all connections have heard."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.accepted = 0
        self.took_us: list[float] = []
        self.surprise = ""

    def add(self, status: str, body: bytes, took_us: float, *, batch: bool) -> None:
        """Counts one answer."""
        self.statuses[status] += 1
        self.took_us.append(took_us)
        if batch and status == "200":
            self.accepted += body.count(b'"status":"accepted"')
        elif not batch and status == "202":
            self.accepted += 1
        elif not self.surprise:
            self.surprise = f"{status} {body[:500].decode(errors='replace')}"


class Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, waiting: Iterator[bytes], tally: Tally, *, batch: bool) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting, self._tally, self._batch = waiting, tally, batch
        self._heard = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport; :meth:`go_on` sends."""
        self._transport = cast(asyncio.Transport, transport)  # of TCP, though uvloop's is no subclass

    def go_on(self) -> None:
        """Sends the next request, or ends."""
        request = next(self._waiting, None)
        if request is None:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Takes a whole answer and sends the next request."""
        self._heard += data
        end = self._heard.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self._heard, 0, end + 2)
        if found is None:
            self._fail(f"an answer without a length: {self._heard[:200]!r}")
            return
        begin = end + 4
        if len(self._heard) < begin + int(found[1]):
            return
        took_us = (time.perf_counter() - self._sent_at) * 1e6
        self._tally.add(self._heard[9:12].decode(), self._heard[begin:], took_us, batch=self._batch)
        self._heard = b""
        self.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """The server may close only when all is said."""
        self._fail(f"the connection was closed: {error!r}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(why))


async def send(plan: Plan) -> Done:
    """Sends everything and waits for the last answer."""
    waiting, tally = iter(list(requests(plan))), Tally()
    loop = asyncio.get_running_loop()
    connections = [
        (
            await loop.create_connection(
                lambda: Connection(waiting, tally, batch=plan.lines > 0), "127.0.0.1", plan.port
            )
        )[1]
        for _ in range(plan.connections)
    ]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    before, began = time.process_time(), time.monotonic()
    for connection in connections:
        connection.go_on()
    await asyncio.gather(*(connection.done for connection in connections))
    seconds, cpu_s = time.monotonic() - began, time.process_time() - before
    took = latency(tally.took_us)
    assert took is not None
    return Done(tally.accepted, dict(tally.statuses), seconds, took.p50_ms, took.p99_ms, cpu_s, tally.surprise)


def main() -> None:
    """Runs one plan."""
    plan = msgspec.json.decode(sys.stdin.readline(), type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(send(plan))
    print(msgspec.json.encode(done).decode(), flush=True)


if __name__ == "__main__":
    main()
