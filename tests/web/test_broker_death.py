"""A broker that dies and comes back, no ledger behind it: what was acknowledged is there, the rest was refused."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

import topics
from aura_stream.embedded import KafkaServer
from aura_stream.embedded.kafka import broker_is_ready
from aura_stream.engine.topics import apply_topics
from aura_stream.settings import load_settings
from tests.web.conftest import client_of, until_ready


@pytest.mark.timeout(300)
async def test_a20_acknowledged_commands_survive_and_the_others_were_refused(tmp_path: Path) -> None:
    kafka = KafkaServer(tmp_path / "kafka", tied=True)
    await asyncio.to_thread(kafka.start)
    client = None
    try:
        await apply_topics(kafka.bootstrap, topics.ALL, partitions=1, replication=1)
        nowhere = "postgresql://nobody@127.0.0.1:1/none"
        client, _ = await client_of(load_settings(kafka_bootstrap=kafka.bootstrap, partitions=1, postgres_dsn=nowhere))
        await until_ready(client)

        async def post(key: str) -> int:
            headers = {"Idempotency-Key": key, "Prefer": "wait=0"}
            body = {"account_id": "alice:EUR", "amount": "5.00"}
            async with client.post("/v1/deposits", json=body, headers=headers) as answer:
                return answer.status

        keys = [str(uuid.uuid4()) for _ in range(3)]
        assert await post(keys[0]) == 202
        await asyncio.to_thread(kafka.kill)
        assert await post(keys[1]) == 503
        assert await post(keys[2]) == 503
        await asyncio.to_thread(kafka.start)
        async with asyncio.timeout(40):
            while await post(keys[2]) == 503:
                await asyncio.to_thread(broker_is_ready, "127.0.0.1", kafka.port)

        written = await _keys_in(kafka.bootstrap)
        assert keys[0] in written
        assert keys[2] in written
        assert set(written) <= set(keys)
    finally:
        if client is not None:
            await client.close()
        await asyncio.to_thread(kafka.stop)


async def _keys_in(bootstrap: str) -> list[str]:
    """The idempotency keys of all commands in Kafka."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none")
    await consumer.start()
    try:
        place = TopicPartition(topics.COMMANDS.name, 0)
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        consumer.seek(place, 0)
        found: list[str] = []
        while await consumer.position(place) < end:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                found += [json.loads(record.value)["idempotency_key"] for record in records]
        return found
    finally:
        await consumer.stop()
