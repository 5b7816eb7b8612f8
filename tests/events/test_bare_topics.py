"""The topics of events by their bare names, as a setting gives them: the whole way from a command to the log."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

import topics
from aura_stream.embedded import KafkaServer, PostgresServer, Stack
from aura_stream.engine.topics import apply_topics
from aura_stream.ledger.migrations import migrate
from aura_stream.settings import load_settings
from tests.engine.check import read_topic
from tests.events.conftest import process_of, until_told
from tests.identity.conftest import OPERATOR, Node, register
from tests.web.conftest import PARTITIONS, Backend, client_of, until_ready

NAMES = ("transaction-events", "account-events", "auth-events")


@pytest.fixture
async def bare(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Node]:
    """A stack of its own, since topics are fixed once they exist."""
    database = f"bare_{uuid.uuid4().hex[:10]}"
    connection = await asyncpg.connect(postgres.dsn())
    await connection.execute(f"CREATE DATABASE {database}")
    await connection.close()
    await migrate(postgres.dsn(database=database))
    kafka = KafkaServer(tmp_path / "kafka", tied=True)
    kafka.start()
    settings = load_settings(
        home=tmp_path,
        kafka_bootstrap=kafka.bootstrap,
        postgres_dsn=postgres.dsn(database=database),
        partitions=PARTITIONS,
        api_key=SecretStr(OPERATOR),
        bare_event_topics=True,
    )
    processes = Stack()
    try:
        await apply_topics(kafka.bootstrap, topics.every(bare=True), partitions=PARTITIONS, replication=1)
        backend = Backend(settings, kafka, processes)
        started = [process_of(role, backend, AURA_BARE_EVENT_TOPICS="true") for role in ("ledger", "sink", "events")]
        for process in started:
            processes.processes.append(process)
            process.start()
        for process in started:
            await asyncio.to_thread(process.wait_ready, 60)
        client, services = await client_of(settings)
        await until_ready(client)
        yield Node(client, services)
        await client.close()
    finally:
        await asyncio.to_thread(processes.stop)
        await asyncio.to_thread(kafka.stop)


@pytest.mark.timeout(120)
async def test_u10_u28_the_topics_can_have_their_bare_names(bare: Node) -> None:
    alice = await register(bare)
    await until_told(bare, alice.access, "deposit.credited")
    await until_told(bare, alice.access, "user.logged_in")
    types = []
    for name in NAMES:
        logs = await read_topic(bare.services.settings.kafka_bootstrap, name)
        types.append({orjson.loads(record.value)["type"] for log in logs.values() for record in log})
    assert types == [
        {"deposit.submitted", "deposit.credited"},
        {"account.opened"},
        {"user.registered", "user.logged_in"},
    ]
