"""A mock bank in this process, with a manual clock and its own port; a client of it; a receiver of its webhooks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from aura_stream.mock_bank.app import create_app
from aura_stream.mock_bank.world import CREDENTIALS, Config, World

FRIDAY = 1_795_183_200_000
"""2026-11-20, 9:00 in New York, 15:00 in Frankfurt: a banking day in both, a Friday."""

RECEIVER = {"name": "Bob Example", "routing_number": "021000021", "account_number": "123456789"}
CREDITOR = {"name": "Bob Example", "iban": "DE89370400440532013000"}


@dataclass
class Answer:
    """An HTTP answer that has come, whole."""

    status: int
    body: Any
    headers: dict[str, str]


@dataclass
class Hook:
    """One webhook as it came in, and whether a strict receiver would take it."""

    id: str
    type: str
    body: bytes
    trouble: str

    @property
    def transfer(self) -> dict[str, Any]:
        """The transfer it tells about."""
        transfer: dict[str, Any] = json.loads(self.body)["data"]["transfer"]
        return transfer


@dataclass
class Receiver:
    """Takes webhooks as the Standard Webhooks specification says; ``answer`` overrides its status."""

    secret: str
    now_s: Callable[[], int]
    answer: int = 0
    hooks: list[Hook] = field(default_factory=list)
    url: str = ""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a good webhook that tells of a settlement."""

    async def handle(self, request: web.Request) -> web.Response:
        """Verifies, keeps and answers."""
        body = await request.read()
        trouble = self._trouble(request, body)
        type_ = "" if trouble == "cut" else json.loads(body)["type"]
        self.hooks.append(Hook(request.headers["webhook-id"], type_, body, trouble))
        if type_ == "transfer.settled" and not trouble:
            self.settled.set()
        return web.Response(status=self.answer or (401 if trouble else 204))

    def _trouble(self, request: web.Request, body: bytes) -> str:
        id_, stamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        signed = f"{id_}.{stamp}.".encode() + body
        right = hmac.new(base64.b64decode(self.secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        if request.headers["webhook-signature"] != f"v1,{base64.b64encode(right).decode()}":
            try:
                json.loads(body)
            except ValueError:
                return "cut"
            return "signature"
        return "stale" if abs(int(stamp) - self.now_s()) > 300 else ""

    def good(self) -> list[Hook]:
        """Those that verified."""
        return [hook for hook in self.hooks if not hook.trouble]


class Client:
    """Talks to one bank as the ledger would, and as an operator."""

    def __init__(self, session: aiohttp.ClientSession, credentials: dict[str, Any], bank: str) -> None:
        self.session = session
        self.all = credentials
        self.name = bank
        self.mine = credentials["banks"][bank]
        self.token = ""

    async def call(self, method: str, url: str, *, token: str = "", **options: Any) -> Answer:
        """One call. Raises what aiohttp raises when no whole answer comes."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.request(
            method, url, headers=headers | options.pop("headers", {}), allow_redirects=False, **options
        ) as answer:
            raw = await answer.read()
            body = json.loads(raw) if "json" in answer.content_type else raw
            return Answer(answer.status, body, dict(answer.headers))

    async def login(self) -> Self:
        """Gets a token for payments."""
        self.token = (await self.grant(grant_type="client_credentials")).body["access_token"]
        return self

    async def grant(self, **form: str) -> Answer:
        """The token endpoint, with the client's secret."""
        own = {"client_id": self.mine["client_id"], "client_secret": self.mine["client_secret"]}
        return await self.call("POST", f"{self.mine['url']}/oauth/token", data=own | form)

    async def bank(self, method: str, path: str, body: Any = None, **query: Any) -> Answer:
        """A call of the bank's own API, with a new token when the old one is too old."""
        options = {"json": body} if body is not None else {}
        url = f"{self.mine['url']}/v1{path}"
        answer = await self.call(method, url, token=self.token, params=query, **options)
        if answer.status == 401:
            await self.login()
            answer = await self.call(method, url, token=self.token, params=query, **options)
        return answer

    async def operator(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A call of this bank's part of `/v1/simulate`; it must succeed."""
        answer = await self.try_operator(method, path, body, **query)
        assert answer.status in (200, 201), answer
        return answer.body

    async def try_operator(self, method: str, path: str, body: Any = None, **query: Any) -> Answer:
        """The same, whatever comes of it."""
        url = f"{self.all['url']}/v1/simulate/banks/{self.name}{path}"
        options = {"json": body} if body is not None else {}
        return await self.call(method, url, token=self.all["operator_token"], params=query, **options)

    async def ach(self, reference: str, amount: str, *, direction: str = "debit", **more: Any) -> Answer:
        """An ACH order on the trust account."""
        body = {"reference": reference, "direction": direction, "account_id": "trust-usd", "amount": amount}
        return await self.bank("POST", "/ach/transfers", body | {"counterparty": RECEIVER} | more)

    async def sepa(self, reference: str, amount: str, **more: Any) -> Answer:
        """A SEPA order on the trust account."""
        body = {"reference": reference, "account_id": "trust-eur", "amount": amount, "creditor": CREDITOR}
        return await self.bank("POST", "/sepa/credit-transfers", body | more)

    async def fund(self, amount: str = "100000.00", account: str = "trust-eur", **more: Any) -> dict[str, Any]:
        """Money from outside."""
        body = {"account_id": account, "amount": amount, "sender": {"name": "Alice Example"}} | more
        result: dict[str, Any] = await self.operator("POST", "/incoming", body)
        return result

    async def status(self, reference: str) -> dict[str, Any]:
        """What an inquiry says; the reference must be found."""
        answer = await self.bank("GET", "/transfers", reference=reference)
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.body
        return found

    async def status_by_id(self, reference: str) -> dict[str, Any]:
        """The same by the bank's id, which it never forgets."""
        listed = await self.operator("GET", "/books/references", limit=1000)
        (one,) = [one for one in listed["references"] if one["reference"] == reference]
        answer = await self.bank("GET", f"/transfers/{one['transfers'][0]['id']}")
        found: dict[str, Any] = answer.body
        return found

    async def pass_time(self, seconds: int = 0, *, days: int = 0) -> None:
        """Lets virtual time pass for all banks."""
        url = f"{self.all['url']}/v1/simulate/clock"
        body = {"advance_s": seconds + days * 86_400}
        answer = await self.call("POST", url, token=self.all["operator_token"], json=body)
        assert answer.status == 200, answer

    async def books(self) -> Any:
        """The bank's own books."""
        return await self.operator("GET", "/books")

    async def flush(self) -> None:
        """Waits until all webhooks that are due have been tried."""
        assert (await self.operator("POST", "/webhooks/flush"))["idle"]


@dataclass
class Running:
    """A running mock bank."""

    world: World
    session: aiohttp.ClientSession
    credentials: dict[str, Any]
    runners: list[web.AppRunner]

    async def client(self, bank: str = "bank-a") -> Client:
        """A logged-in client of a bank."""
        return await Client(self.session, self.credentials, bank).login()

    async def receiver(self, client: Client) -> Receiver:
        """A receiver of the bank's webhooks, registered there."""
        receiver = Receiver(client.mine["webhook_secret"], lambda: self.world.clock.now() // 1000)
        app = web.Application()
        app.router.add_post("/hook", receiver.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        self.runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        assert (await client.bank("PUT", "/webhook", {"url": receiver.url})).status == 200
        return receiver


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts mock banks, each in a directory of its own, and ends them."""
    running: list[Running] = []

    async def begin(**options: Any) -> Running:
        config = Config(
            data_dir=tmp_path / f"bank-{len(running)}",
            clock="manual",
            start_ms=FRIDAY,
            secret="a secret of the test",
            webhook_time="virtual",
        )
        config = replace(config, **options)
        world = World(config)
        runner = web.AppRunner(create_app(world), shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        world.write_credentials(runner.addresses[0][1])
        credentials = json.loads((config.data_dir / CREDENTIALS).read_text())
        session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        running.append(Running(world, session, credentials, [runner]))
        return running[-1]

    yield begin
    for one in running:
        await one.session.close()
        for runner in reversed(one.runners):
            await runner.cleanup()
        one.world.close()


@pytest.fixture
async def client(start: Start) -> Client:
    """A client of bank A of a calm mock bank."""
    return await (await start()).client()
