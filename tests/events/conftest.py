"""The real thing for events: the running ledger of the HTTP tests, a worker that keeps the log, API nodes, people."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aura_stream.embedded import Process
from tests.identity.conftest import (
    OPERATOR,
    Node,
    Person,
    node,  # noqa: F401 - a fixture
    owner,  # noqa: F401 - a fixture
    start_node,  # noqa: F401 - a fixture
)
from tests.web.conftest import Backend, backend, environment  # noqa: F401 - a fixture

Event = dict[str, Any]
WAIT_S = 30.0


def process_of(role: str, backend: Backend, slot: int = 0, **more: str) -> Process:  # noqa: F811 - the fixture
    """A worker process of the backend."""
    settings = backend.settings
    env = environment(role, settings) | {"AURA_SLOT": str(slot), "AURA_SESSION_TIMEOUT_S": "6"} | more
    argv = [sys.executable, "-m", "aura_stream.cli", "worker", role]
    home = settings.home
    return Process(f"{role}-{slot}", argv, run_dir=home / "run", log_dir=home / "log", env=env, tied=True)


@pytest.fixture(scope="session")
def log_of_events(backend: Backend) -> Iterator[Process]:  # noqa: F811 - the fixture
    """The worker that keeps the log of events."""
    process = process_of("events", backend)
    backend.processes.add(process, timeout_s=60)
    yield process


@pytest.fixture(autouse=True)
def _with_log(log_of_events: Process) -> None:
    """Every test here needs it."""


async def wait_for(condition: Callable[[], Awaitable[Any]], timeout_s: float = WAIT_S) -> Any:
    """What `condition` gives as soon as it gives something."""
    async with asyncio.timeout(timeout_s):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(0.02)


async def events_of(node: Node, token: str, query: str = "") -> list[Event]:  # noqa: F811 - the fixture
    """All events that a login sees, oldest first."""
    events: list[Event] = []
    cursor = "after=0"
    while True:
        status, page, _ = await node.call("GET", f"/v1/events?{cursor}&limit=200{query}", token=token)
        assert status == 200, page
        events += page["items"]
        if not page["has_more"]:
            return events
        cursor = f"cursor={page['next_cursor']}"


async def until_told(node: Node, token: str, type_: str, count: int = 1) -> list[Event]:  # noqa: F811 - the fixture
    """The events of a type, as soon as there are so many."""

    async def look() -> list[Event]:
        found = await events_of(node, token, f"&type={type_}")
        return found if len(found) >= count else []

    found: list[Event] = await wait_for(look)
    return found


async def deposit(node: Node, who: Person, amount: str = "10.00", *, token: str = "") -> str:  # noqa: F811 - the fixture
    """Money on somebody's account: the transaction's id."""
    body = {"account_id": who.account, "amount": amount}
    status, answer, _ = await node.call("POST", "/v1/deposits", body, token=token or who.access)
    assert status == 201, answer
    status, answer, _ = await node.call("POST", f"/v1/deposits/{answer['id']}/confirm", {}, token=token or who.access)
    assert status == 200, answer
    return str(answer["id"])


async def transfer(node: Node, who: Person, to: str, amount: str = "1.00") -> str:  # noqa: F811 - the fixture
    """A transfer that has ended: its id."""
    body = {"from_account_id": who.account, "to_account_id": to, "amount": amount}
    status, answer, _ = await node.call("POST", "/v1/transfers", body, token=who.access)
    assert status == 201, answer
    return str(answer["id"])


class Receiver:
    """A server that is told: what came, and what it answers."""

    def __init__(self) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[web.Request, bytes], Awaitable[web.StreamResponse]] | int = 200
        self.url = ""

    @property
    def events(self) -> list[Event]:
        """The bodies, read."""
        return [orjson.loads(body) for _, body in self.came]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Takes one webhook."""
        body = await request.read()
        self.came.append(({name.lower(): value for name, value in request.headers.items()}, body))
        if isinstance(self.answer, int):
            return web.Response(status=self.answer, text=f"it was {self.answer}")
        return await self.answer(request, body)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on this machine; sandbox nodes may reach it (AURA_WEBHOOK_ALLOW)."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.handle)
    server = TestServer(app)
    await server.start_server()
    receiver.url = f"http://127.0.0.1:{server.port}/hook"
    try:
        yield receiver
    finally:
        await server.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """One receiver."""
    async with receiving() as one:
        yield one


class Stream:
    """A client of the stream of Server-Sent Events, as a browser's EventSource reads it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id = ""
        self.closed: dict[str, str] = {}

    async def next(self) -> Event | None:
        """The next event; None at the end. Raises aiohttp.ClientError when the connection breaks."""
        name, data = "", ""
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            if line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and data:
                if name == "closed":
                    self.closed = orjson.loads(data)
                    return None
                event: Event = orjson.loads(data)
                return event
        return None


@asynccontextmanager
async def streaming(base: str, token: str, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    """A stream on an API node."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{base}/v1/events/stream{query}", headers=named) as response,
    ):
        assert response.status == 200, await response.text()
        yield Stream(response)


def base_of(node: Node) -> str:  # noqa: F811 - the fixture
    """Where a node is."""
    return str(node.client.make_url("")).rstrip("/")


def operator() -> str:
    """The first operator's key."""
    return OPERATOR


def new_id() -> str:
    """A UUID."""
    return str(uuid.uuid4())
