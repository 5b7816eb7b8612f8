"""Fixtures for all tests: a real Kafka and a real Postgres, started once, and a database per test."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from aura_stream.embedded import KafkaServer, PostgresServer
from aura_stream.engine import transactions
from aura_stream.ledger.migrations import migrate
from tests.order import in_order

if TYPE_CHECKING:
    from tests.web.conftest import Backend

# How long examples take says how busy the machine is, and nothing of ours.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@dataclass(frozen=True)
class ExternalKafka:
    """Somebody else's Kafka, named by AURA_KAFKA_BOOTSTRAP: usable, but not to be stopped or killed."""

    bootstrap: str


@dataclass(frozen=True)
class ExternalPostgres:
    """Somebody else's Postgres, named by AURA_POSTGRES_DSN."""

    owner_dsn: str

    def dsn(self, user: str | None = None, database: str | None = None) -> str:
        """The given DSN with another database; it has one role only."""
        parts = urlsplit(self.owner_dsn)
        return urlunsplit(parts._replace(path=f"/{database}")) if database else self.owner_dsn


_SERVICES = frozenset({"kafka", "postgres"})
_WITH_PROCESSES = frozenset(
    {
        "bench",
        "chain",
        "connectors",
        "demo",
        "docs",
        "e2e",
        "invariants",
        "mock_bank",
        "reconcile",
        "services",
        "torture",
    }
)
"""Folders whose tests start processes of their own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs a service: by its fixtures, or by the folder where it lies. Orders the files, so that several
    processes end together (`tests/order.py`)."""
    tests = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        if folder in _WITH_PROCESSES or _SERVICES & set(getattr(item, "fixturenames", ())):
            item.add_marker("integration")
    in_order(items)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer | ExternalKafka]:
    """A broker for the whole run (``.bootstrap``). Tests share it, so they name their own topics and groups."""
    if bootstrap := os.environ.get("AURA_KAFKA_BOOTSTRAP"):
        yield ExternalKafka(bootstrap)
        return
    with KafkaServer(tmp_path_factory.mktemp("kafka"), tied=True) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer | ExternalPostgres]:
    """A Postgres for the whole run (``.dsn(user=..., database=...)``). Tests take ``database`` for one of their own."""
    if dsn := os.environ.get("AURA_POSTGRES_DSN"):
        yield ExternalPostgres(dsn)
        return
    with PostgresServer(tmp_path_factory.mktemp("postgres"), tied=True) as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """The owner's DSN of a fresh, empty database, dropped after the test."""
    yield from _database(postgres, "template1")


@pytest.fixture(scope="session")
def template(postgres: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """The name of a database that has the schema and nothing else; nobody may be connected to it."""
    for dsn in _database(postgres, "template1"):
        _run(partial(migrate, dsn))
        yield urlsplit(dsn).path.lstrip("/")


@pytest.fixture
def migrated(postgres: PostgresServer | ExternalPostgres, template: str) -> Iterator[str]:
    """As `database`, with the schema: a copy, since to migrate takes ten times as long."""
    yield from _database(postgres, template)


@pytest.fixture(scope="session")
def running_ledger(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One Kafka, ledger worker and sink for all tests over HTTP, of whatever folder (`backend` there)."""
    from tests.web.conftest import running  # only where it is needed: it imports half of the product

    with running(postgres, tmp_path_factory.mktemp("web")) as backend:
        yield backend


@pytest.fixture
def unique() -> str:
    """A short name that no other test uses, for topics, groups and the like."""
    return uuid.uuid4().hex[:10]


@pytest.fixture(params=["first", "second"])
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both protocols of transactions: the embedded broker speaks the second, and still understands the first."""
    if request.param == "first":
        monkeypatch.setattr(transactions, "SECOND", transactions.SECOND + 1)
    return str(request.param)


@pytest.fixture(autouse=True)
def _no_stray_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep a developer's own `.aura/env` out of the tests."""
    monkeypatch.setenv("AURA_HOME", str(tmp_path / ".aura"))


def _database(postgres: PostgresServer | ExternalPostgres, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(postgres.dsn(), f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.dsn(database=name)
    _execute(postgres.dsn(), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _execute(dsn: str, sql: str) -> None:
    """Run one statement."""

    async def run() -> None:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    _run(run)


def _run(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run something asynchronous, also from inside a running event loop: in a thread with a loop of its own."""
    failure: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001  # raised again by the caller
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
