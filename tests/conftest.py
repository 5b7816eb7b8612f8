"""Fixtures for all tests: a real Kafka and a real Postgres, started once, and an empty database per test."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from aura_stream.embedded import KafkaServer, PostgresServer


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
    """Marks what needs a service: by its fixtures, or by the folder where it lies."""
    tests = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        if folder in _WITH_PROCESSES or _SERVICES & set(getattr(item, "fixturenames", ())):
            item.add_marker("integration")


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
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(postgres.dsn(), f"CREATE DATABASE {name}")
    yield postgres.dsn(database=name)
    _execute(postgres.dsn(), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def unique() -> str:
    """A short name that no other test uses, for topics, groups and the like."""
    return uuid.uuid4().hex[:10]


@pytest.fixture(autouse=True)
def _no_stray_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep a developer's own `.aura/env` out of the tests."""
    monkeypatch.setenv("AURA_HOME", str(tmp_path / ".aura"))


def _execute(dsn: str, sql: str) -> None:
    """Run one statement, also from inside a running event loop: in a thread with a loop of its own."""
    failure: list[BaseException] = []

    async def run() -> None:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    def target() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001  # raised again by the caller
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
