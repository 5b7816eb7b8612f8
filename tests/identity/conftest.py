"""The real thing for identity: the running ledger of the HTTP tests, API nodes beside each other, people who log in."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from multidict import CIMultiDict
from pydantic import SecretStr

from aura_stream.domain.ids import record_key
from aura_stream.settings import Settings
from tests.web.conftest import Backend, backend, client_of, until_ready  # noqa: F401 - a fixture
from web.services import Services

OPERATOR = "the-first-operator-of-these-tests"
PASSWORD = "correct horse battery"
Answer = tuple[int, dict[str, Any], CIMultiDict[str]]


@dataclass(frozen=True)
class Node:
    """One API process' worth of app."""

    client: TestClient[Any, Any]
    services: Services

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str = "", key: str = "", **headers: str
    ) -> Answer:
        """Status, body and headers; a write gets a fresh idempotency key."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            named["Authorization"] = f"Bearer {token}"
        if method != "GET":
            named["Idempotency-Key"] = key or str(uuid.uuid4())
        options = {} if body is None else {"json": body}
        async with self.client.request(method, path, headers=named, **options) as answer:
            return answer.status, await answer.json(content_type=None), CIMultiDict(answer.headers)

    async def code(self, method: str, path: str, body: Any = None, **options: str) -> tuple[int, str]:
        """Status and, of a failure, its code."""
        status, answer, _ = await self.call(method, path, body, **options)
        return status, answer.get("code", "")


@dataclass
class Person:
    """Somebody who is logged in."""

    email: str
    tenant: str
    access: str
    refresh: str
    user: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.user["id"])

    @property
    def customer(self) -> str:
        return str(self.user["customer"])

    @property
    def account(self) -> str:
        return f"{self.customer}:EUR"


def address() -> str:
    """An e-mail address that no other test has."""
    return f"p{uuid.uuid4().hex[:12]}@example.com"


StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start_node(backend: Backend) -> AsyncIterator[StartNode]:  # noqa: F811 - the fixture
    """Starts API nodes on the running ledger; settings may be changed."""
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> Node:
            settings = with_settings(backend.settings, api_key=SecretStr(OPERATOR), **changes)
            client, services = await client_of(settings)
            stack.push_async_callback(client.close)
            await until_ready(client)
            async with asyncio.timeout(20):
                while True:
                    if await _is_ready(services, settings):
                        break
                    await asyncio.sleep(0.02)
            return Node(client, services)

        yield start


@pytest.fixture
async def node(start_node: StartNode) -> Node:
    """One API node."""
    return await start_node()


@pytest.fixture
async def owner(backend: Backend) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:  # noqa: F811 - the fixture
    """Postgres as a superuser."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(backend.settings.postgres_dsn)
    yield connection
    await connection.close()


def with_settings(settings: Settings, **changes: Any) -> Settings:
    """The settings with changes, checked again."""
    return Settings(**{**settings.model_dump(), **changes})


async def register(node: Node, *, tenant: str = "default", email: str = "", password: str = PASSWORD) -> Person:
    """A new user, logged in."""
    email = email or address()
    body = {"tenant_code": tenant, "email": email, "password": password}
    status, answer, _ = await node.call("POST", "/v1/auth/register", body)
    assert status == 201, answer
    return await login(node, email, tenant=tenant, password=password)


async def login(node: Node, email: str, *, tenant: str = "default", password: str = PASSWORD) -> Person:
    """Somebody who logs in."""
    body = {"email": email, "password": password, "tenant_code": tenant}
    status, answer, _ = await node.call("POST", "/v1/auth/login", body)
    assert status == 200, answer
    return Person(email, tenant, answer["access_token"], answer["refresh_token"], answer["user"])


async def staff(node: Node, *roles: str, tenant: str = "default") -> Person:
    """Somebody with roles, made by the first operator."""
    email = address()
    body = {"email": email, "password": PASSWORD, "roles": list(roles)}
    status, answer, _ = await node.call("POST", "/v1/users/admin", body, token=OPERATOR, Aura_Tenant=tenant)
    assert status == 201, answer
    return await login(node, email, tenant=tenant)


async def dead_letter(node: Node, owner: Person) -> str:
    """The id of a dead letter under the key of `owner`: bytes that are no command."""
    commands, marker = node.services.commands, uuid.uuid4().hex
    key = record_key(owner.tenant, owner.customer)
    await commands.append_many([(commands.partition_of(key), key, f"no command {marker}".encode())])
    async with asyncio.timeout(30):
        while True:
            _, listed, _ = await node.call("GET", "/v1/dead-letters", token=OPERATOR)
            for one in listed["items"]:
                _, letter, _ = await node.call("GET", f"/v1/dead-letters/{one['id']}", token=OPERATOR)
                if marker in base64.b64decode(letter["value_base64"]).decode("utf-8", "replace"):
                    return str(one["id"])
            await asyncio.sleep(0.05)


async def _is_ready(services: Services, settings: Settings) -> bool:
    """Whether people can be let in: the feed is heard, there is a key to sign with, the tenants are made."""
    if not (services.identity.feed.is_fresh and services.identity.ring.newest):
        return False
    async with services.identity.database.platform() as connection:
        rows = await connection.fetch("SELECT tenant_id FROM identity.tenants")
    return set(settings.tenants) <= {row["tenant_id"] for row in rows}
