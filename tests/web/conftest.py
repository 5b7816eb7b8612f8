"""The real thing for the HTTP tests: Kafka, Postgres, a ledger worker, a sink, and the app in this process."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDict

import topics
from aura_stream.embedded import KafkaServer, PostgresServer, Process, Stack
from aura_stream.embedded.local import http_ok
from aura_stream.embedded.processes import free_port
from aura_stream.engine.topics import apply_topics
from aura_stream.ledger.migrations import migrate
from aura_stream.settings import Settings, load_settings
from tests.web.shapes import only_what_is_allowed
from web.app import create_app
from web.services import SERVICES, Services

PARTITIONS = 4


@dataclass(frozen=True)
class Backend:
    """A running ledger: its settings and its processes."""

    settings: Settings
    kafka: KafkaServer
    processes: Stack


@contextmanager
def running(postgres: PostgresServer, home: Path) -> Iterator[Backend]:
    """Kafka of its own (the topics' names are fixed), a fresh database, one ledger worker and one sink."""
    database = f"web_{uuid.uuid4().hex[:10]}"

    async def prepare() -> None:
        connection = await asyncpg.connect(postgres.dsn())
        await connection.execute(f"CREATE DATABASE {database}")
        await connection.close()
        await migrate(postgres.dsn(database=database))

    kafka = KafkaServer(home / "kafka", tied=True)
    try:
        kafka.launch()
        asyncio.run(prepare())
        kafka.wait_ready()
        asyncio.run(apply_topics(kafka.bootstrap, topics.ALL, partitions=PARTITIONS, replication=1))
        settings = load_settings(
            home=home,
            kafka_bootstrap=kafka.bootstrap,
            postgres_dsn=postgres.dsn(database=database),
            partitions=PARTITIONS,
            rate_limit=1_000_000,
            login_limit=1_000_000,
        )
        with Stack() as processes:
            for role in ("ledger", "sink"):
                processes.processes.append(_worker(role, settings))
                processes.processes[-1].start()
            for process in processes.processes:
                process.wait_ready(60)
            yield Backend(settings, kafka, processes)
    finally:
        kafka.stop()


@pytest.fixture(scope="session")
def backend(running_ledger: Backend) -> Backend:
    """The running ledger, which tests share: they name their own customers, users and tenants."""
    return running_ledger


def environment(role: str, settings: Settings) -> dict[str, str]:
    """What a process of the backend needs to know."""
    return {
        "AURA_HOME": str(settings.home),
        "AURA_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "AURA_POSTGRES_DSN": settings.postgres_dsn,
        "AURA_PARTITIONS": str(PARTITIONS),
        "AURA_RATE_LIMIT": str(settings.rate_limit),
        "AURA_LOGIN_LIMIT": str(settings.login_limit),
        "AURA_ROLE": role,
        "AURA_FAUST_WEB_PORT": str(free_port()),
    }


def api_process(backend: Backend, directory: Path, **env: str) -> tuple[Process, str]:
    """An API as a process of its own, not started yet, and its address; `env` adds to or changes its settings."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = Process(
        "api",
        [sys.executable, "-m", "aura_stream.cli", "api"],
        run_dir=directory,
        log_dir=directory,
        env=environment("api", backend.settings) | {"AURA_API_PORT": str(port)} | env,
        tied=True,
        ready=lambda: http_ok(f"{url}/health/ready"),
    )
    return process, url


def metrics_of(url: str) -> str:
    """Where the metrics of an API process with this address are."""
    port = int(url.rpartition(":")[2])
    return f"http://127.0.0.1:{load_settings(api_port=port).metrics_port}"


def _worker(role: str, settings: Settings) -> Process:
    argv = [sys.executable, "-m", "aura_stream.cli", "worker", role]
    env, home = environment(role, settings), settings.home
    return Process(f"{role}-0", argv, run_dir=home / "run", log_dir=home / "log", env=env, tied=True)


class Api:
    """A client of the app, with a little help for what every test does."""

    def __init__(self, client: TestClient[Any, Any], services: Services) -> None:
        self.client, self.services = client, services

    async def post(
        self, path: str, body: Any = None, key: str | None = None, **headers: str
    ) -> tuple[int, dict[str, Any], CIMultiDict[str]]:
        """Status, body and headers of a write with a fresh key (or `key`)."""
        named = {"Idempotency-Key": key or str(uuid.uuid4())} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        async with self.client.post(path, json={} if body is None else body, headers=named) as answer:
            return answer.status, await answer.json(content_type=None), CIMultiDict(answer.headers)

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, Any], CIMultiDict[str]]:
        """Status, body and headers of a read."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.get(path, headers=named) as answer:
            return answer.status, await answer.json(content_type=None), CIMultiDict(answer.headers)

    async def account(self, customer: str, asset: str = "EUR", amount: str = "") -> str:
        """An open account, with money when an amount is given."""
        status, account, _ = await self.post("/v1/accounts", {"customer": customer, "asset": asset})
        assert status == 201, account
        if amount:
            status, deposit, _ = await self.post("/v1/deposits", {"account_id": account["id"], "amount": amount})
            assert status == 201, deposit
            status, deposit, _ = await self.post(f"/v1/deposits/{deposit['id']}/confirm")
            assert status == 200, deposit
        return str(account["id"])


async def client_of(settings: Settings) -> tuple[TestClient[Any, Any], Services]:
    """A started client of an app with these settings; its journal tail is reading."""
    app = create_app(settings)
    app.middlewares.insert(0, only_what_is_allowed)
    client = TestClient(TestServer(app), timeout=aiohttp.ClientTimeout(total=40))
    await client.start_server()
    return client, app[SERVICES]


async def until_ready(client: TestClient[Any, Any], timeout_s: float = 20.0) -> None:
    """Waits until the app says that it is ready."""
    async with asyncio.timeout(timeout_s):
        while True:
            async with client.get("/health/ready") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.02)


@pytest.fixture
async def api(backend: Backend) -> AsyncIterator[Api]:
    """An API node on the running ledger."""
    client, services = await client_of(backend.settings)
    await until_ready(client)
    yield Api(client, services)
    await client.close()


@pytest.fixture
def customer() -> str:
    """A customer that no other test has."""
    return f"c{uuid.uuid4().hex[:12]}"
