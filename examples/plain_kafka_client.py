"""A client of Aura Stream that uses nothing of it: an ordinary Kafka producer and consumer (aiokafka).

    python examples/plain_kafka_client.py 127.0.0.1:9092

Opens two accounts, brings in 100.00 EUR, transfers 12.50 EUR, and prints each event as it comes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

COMMANDS = "aura.commands.v1"
EVENTS = ("aura.transaction-events.v1", "aura.account-events.v1")
TENANT = "default"


async def send(producer: AIOKafkaProducer, type_: str, customer: str, data: dict[str, str]) -> str:
    """Writes one command and returns its id. Key: `<tenant>/<customer>`; the default partitioner is the right one."""
    command = {
        "id": str(uuid.uuid4()),
        "type": type_,
        "tenant": TENANT,
        "customer": customer,
        # To repeat a command after a failure, send it again with the same key: it has no second effect.
        "idempotency_key": str(uuid.uuid4()),
        "issued_at": datetime.now(UTC).isoformat(),
        "data": data,
    }
    value, key = json.dumps(command).encode(), f"{TENANT}/{customer}".encode()
    await producer.send_and_wait(COMMANDS, value, key=key)
    return str(command["id"])


async def event_of(consumer: AIOKafkaConsumer, **wanted: str) -> dict[str, Any]:
    """Reads events until one has these fields, and prints what belongs to this run on the way."""
    async for record in consumer:
        event: dict[str, Any] = json.loads(record.value)
        about = event["data"]
        if event["type"] == "command.refused":
            print(f"refused: {event.get('reason') or about['reason']}: {about.get('detail', '')}")
        if all(event.get(name) == value for name, value in wanted.items()):
            amount = f"{about['amount']} {about['asset']}" if "amount" in about else about.get("account_id", "")
            customer = event.get("customer") or event["customer_id"]
            print(f"{event['type']:<20} {customer:<16} {amount:<24} {event.get('status') or about['status']}")
            return event
    raise RuntimeError("the topic has no more events")


async def main(bootstrap: str) -> None:
    """One transfer, from nothing."""
    run = uuid.uuid4().hex[:8]
    alice, bob = f"alice-{run}", f"bob-{run}"
    consumer = AIOKafkaConsumer(
        *EVENTS,
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="latest",
        # Events are written in transactions: without this, those of aborted ones would be seen too.
        isolation_level="read_committed",
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    async with consumer, producer:
        await consumer.seek_to_end()
        for customer in (alice, bob):
            command_id = await send(producer, "account.open", customer, {"asset": "EUR"})
            await event_of(consumer, causation_id=command_id)
        command_id = await send(producer, "deposit.submit", alice, {"account_id": f"{alice}:EUR", "amount": "100.00"})
        deposit = await event_of(consumer, command_id=command_id)
        command_id = await send(producer, "deposit.confirm", alice, {"transaction_id": str(deposit["transaction_id"])})
        await event_of(consumer, command_id=command_id)
        command_id = await send(
            producer,
            "transfer.submit",
            alice,
            {"from_account_id": f"{alice}:EUR", "to_account_id": f"{bob}:EUR", "amount": "12.50"},
        )
        transfer = await event_of(consumer, command_id=command_id)
        await event_of(consumer, transaction_id=transfer["transaction_id"], type="transfer.completed")


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"), timeout=30))
