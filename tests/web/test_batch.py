"""Many commands in one request."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from aura_stream.domain.ids import derived_id, id_text, record_key
from tests.web.conftest import PARTITIONS, Api, Backend
from topics.commands import COMMANDS

NDJSON = {"Content-Type": "application/x-ndjson"}


def a_line(customer: str, type_: str = "account.open", **changed: Any) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "type": type_,
        "tenant": "default",
        "customer": customer,
        "idempotency_key": str(uuid.uuid4()),
        "issued_at": "2026-11-20T10:00:00Z",
        "data": {"asset": "EUR"},
    } | changed


async def send(api: Api, lines: list[Any], **headers: str) -> tuple[int, list[dict[str, Any]]]:
    raw = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    named = NDJSON | {name.replace("_", "-"): value for name, value in headers.items()}
    async with api.client.post("/v1/commands:batch", data=io.BytesIO(raw), headers=named) as answer:
        body = await answer.read()
        return answer.status, [json.loads(line) for line in body.splitlines()]


async def test_a20_each_line_has_its_result_and_bad_lines_stop_nothing(api: Api, customer: str) -> None:
    deposit = a_line(customer, "deposit.submit", data={"account_id": f"{customer}:EUR", "amount": "5.00"})
    lines = [
        a_line(customer),
        b"{",
        a_line(customer, tenant="demo"),
        a_line(customer, idempotency_key="order-17"),
        a_line(customer, "deposit.submit", data={"account_id": f"{customer}:EUR", "amount": 5}),
        deposit,
        b"",
        a_line(customer, "deposit.submit", data={"account_id": f"{customer}:EUR", "amount": "5.001"}),
        a_line(customer, data={"asset": "GOLD"}),
    ]

    status, results = await send(api, lines)

    assert status == 200
    assert [(one["line"], one["status"], one.get("problem", {}).get("code")) for one in results] == [
        (1, "accepted", None),
        (2, "refused", "invalid_json"),
        (3, "refused", "invalid_field"),
        (4, "refused", "idempotency_key_invalid"),
        (5, "refused", "invalid_amount_format"),
        (6, "accepted", None),
        (8, "refused", "invalid_amount_format"),
        (9, "refused", "unsupported_asset"),
    ]
    expected = id_text(derived_id("default", customer, deposit["idempotency_key"]))
    assert (results[5]["transaction_id"], results[5]["command_id"]) == (expected, deposit["id"])
    status, read, _ = await api.get(f"/v1/transactions/{expected}")
    assert (status, read["amount"]) == (200, "5.00")
    assert read["status"] in ("created", "processing")


async def test_a20_order_is_kept_and_all_is_durable_before_the_answer(backend: Backend, api: Api, unique: str) -> None:
    customers = [f"{unique}{number}" for number in range(7)]
    lines = [a_line(customers[number % 7], data={"asset": "EUR", "name": f"n{number}"}) for number in range(3000)]

    status, results = await send(api, lines)

    assert status == 200
    assert [one["command_id"] for one in results] == [line["id"] for line in lines]
    seen = await _commands_of(backend, set(customers))
    for customer in customers:
        wanted = [line["id"] for line in lines if line["customer"] == customer]
        assert [one["id"] for one in seen if one["customer"] == customer] == wanted


async def test_batch_that_is_empty_or_of_another_type_is_refused(api: Api) -> None:
    assert (await send(api, [b"", b" "]))[0] == 400
    async with api.client.post("/v1/commands:batch", json=a_line("x")) as answer:
        assert answer.status == 415


async def _commands_of(backend: Backend, customers: set[str]) -> list[dict[str, Any]]:
    """The commands of some customers that Kafka has now, in order of partition and offset."""
    keys = {record_key("default", customer) for customer in customers}  # the bytes of others may be no commands
    consumer = AIOKafkaConsumer(bootstrap_servers=backend.settings.kafka_bootstrap, auto_offset_reset="none")
    await consumer.start()
    try:
        places = [TopicPartition(COMMANDS.name, one) for one in range(PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found = []
        for place in places:
            consumer.seek(place, 0)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                found += [json.loads(record.value) for record in records if record.key in keys]
        return found
    finally:
        await consumer.stop()
