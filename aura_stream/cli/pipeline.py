"""How far commands have come: accepted by Kafka, decided by the ledger, committed in Postgres. For `aura status`."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

import topics
from aura_stream.brokers import client_options
from aura_stream.ledger.connection import READER, connect
from aura_stream.ledger.errors import LedgerError
from aura_stream.settings import Settings

WAIT_S = 5.0
_LANES = """
SELECT lane, breaker, failures, stopped FROM settlement.lanes WHERE breaker <> 'closed' OR stopped <> '' ORDER BY lane
"""


@dataclass(slots=True)
class Pipeline:
    """Counts of commands; None where the service that knows does not answer. `troubles` say what is wrong."""

    accepted: int | None = None
    decided: int | None = None
    committed: int | None = None
    workers: list[dict[str, Any]] = field(default_factory=list)
    lanes: list[dict[str, Any]] = field(default_factory=list)
    """Breakers that are not closed, and lanes that are stopped."""
    troubles: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The state for people."""
        waiting = _left(self.accepted, self.decided)
        behind = _left(self.accepted, self.committed)
        accepted = "?" if self.accepted is None else self.accepted
        return [
            f"commands     {accepted} accepted, {waiting} wait for the ledger, {behind} are not in Postgres yet",
            *(_of_lane(lane) for lane in self.lanes),
            *self.troubles,
        ]


def _of_lane(lane: dict[str, Any]) -> str:
    state = (
        f"stopped: {lane['stopped']}" if lane["stopped"] else f"breaker {lane['breaker']}, {lane['failures']} failures"
    )
    return f"{lane['lane']:<12} {state}"


async def look(settings: Settings, ready_files: list[Path]) -> Pipeline:
    """Asks Kafka, Postgres and the workers that wrote these files; never raises for one that does not answer."""
    found = Pipeline()
    await asyncio.gather(_ask_kafka(settings, found), _ask_postgres(settings, found))
    for path in ready_files:
        await asyncio.to_thread(_ask_worker, path, found)
    return found


async def _ask_kafka(settings: Settings, found: Pipeline) -> None:
    partitions = [TopicPartition(topics.COMMANDS.name, number) for number in range(settings.partitions)]
    consumer = AIOKafkaConsumer(**client_options(settings.kafka), enable_auto_commit=False)
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    try:
        async with asyncio.timeout(WAIT_S):
            await consumer.start()
            await admin.start()
            ends = await consumer.end_offsets(partitions)
            group = await admin.list_consumer_group_offsets(f"{settings.app_id}-ledger")
        found.accepted = sum(ends.values())
        found.decided = sum(max(group[tp].offset, 0) for tp in partitions if tp in group)
    except (KafkaError, OSError, TimeoutError) as error:
        found.troubles.append(
            f"Kafka at {settings.kafka_bootstrap} does not answer ({type(error).__name__}): no command is accepted"
        )
    finally:
        await consumer.stop()
        await admin.close()


async def _ask_postgres(settings: Settings, found: Pipeline) -> None:
    try:
        async with asyncio.timeout(WAIT_S):
            connection = await connect(settings.postgres_read_dsn, READER)
            try:
                found.committed = await connection.fetchval(
                    "SELECT coalesce(sum(commands_offset), 0)::bigint FROM ledger.sink_offsets"
                )
                found.lanes = [dict(row) for row in await connection.fetch(_LANES)]
            finally:
                await connection.close(timeout=1)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, LedgerError, OSError, TimeoutError) as error:
        found.troubles.append(
            f"Postgres does not answer ({type(error).__name__}): the ledger goes on, the sink waits and catches up"
        )


def _ask_worker(path: Path, found: Pipeline) -> None:
    try:
        port = json.loads(path.read_text()).get("web_port")
        if port is None:
            return  # it has no partitions, and so no such page
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/partitions/", timeout=2) as answer:
            status = json.load(answer)
    except (OSError, ValueError, KeyError, urllib.error.URLError):
        found.troubles.append(f"{path.stem} does not answer on its status page")
        return
    found.workers.append({"name": path.stem, **status})
    found.troubles.extend(
        f"{path.stem}, partition {row['partition']} has stopped: {row['diverged']}. Look: aura ledger verify"
        for row in status["partitions"]
        if row.get("diverged")
    )


def _left(whole: int | None, done: int | None) -> str:
    return "?" if whole is None or done is None else str(max(0, whole - done))
