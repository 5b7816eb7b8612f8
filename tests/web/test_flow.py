"""Writing and reading over HTTP, on the real ledger."""

from __future__ import annotations

import asyncio
import json
import uuid
from decimal import Decimal

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.web.conftest import Api, Backend, client_of, until_ready


async def test_a01_account_opens_and_is_read_at_once(api: Api, customer: str) -> None:
    status, account, headers = await api.post("/v1/accounts", {"customer": customer, "asset": "EUR"})

    assert (status, account["id"], account["status"]) == (201, f"{customer}:EUR", "open")
    assert headers["Location"] == f"/v1/accounts/{customer}:EUR"
    status, read, _ = await api.get(headers["Location"])
    assert (status, read["opened_at"]) == (200, account["opened_at"])
    status, balances, _ = await api.get(f"/v1/accounts/{customer}:EUR/balances")
    assert (status, balances["posted"], balances["available"]) == (200, "0.00", "0.00")


async def test_a03_deposit_waits_for_its_money_and_is_booked_once(api: Api, customer: str) -> None:
    account_id = await api.account(customer)

    status, deposit, _ = await api.post("/v1/deposits", {"account_id": account_id, "amount": "100.00"})
    assert (status, deposit["status"], deposit["state"]) == (201, "processing", "awaiting_funds")
    status, confirmed, _ = await api.post(f"/v1/deposits/{deposit['id']}/confirm")
    assert (status, confirmed["status"], confirmed["state"]) == (200, "completed", "credited")
    status, again, _ = await api.post(f"/v1/deposits/{deposit['id']}/confirm")
    assert (status, again["code"], again["transaction_id"]) == (409, "already_processed", deposit["id"])

    _, detail, _ = await api.get(f"/v1/transactions/{deposit['id']}")
    assert [event["type"] for event in detail["events"]] == ["deposit.submitted", "deposit.credited"]
    assert sum(Decimal(entry["amount"]) for entry in detail["entries"]) == 0
    _, balances, _ = await api.get(f"/v1/accounts/{account_id}/balances")
    assert balances["available"] == "100.00"


async def test_a05_transfer_between_customers_completes_and_shows_both_halves(api: Api, customer: str) -> None:
    alice = await api.account(customer, amount="50.00")
    bob = await api.account(f"{customer}-b")

    body = {"from_account_id": alice, "to_account_id": bob, "amount": "12.5"}
    status, transfer, _ = await api.post("/v1/transfers", body, Prefer="wait=10")

    assert (status, transfer["status"], transfer["amount"]) == (201, "completed", "12.50")
    _, detail, _ = await api.get(f"/v1/transactions/{transfer['id']}")
    assert [event["state"] for event in detail["events"]] == ["sent", "completed"]
    assert {entry["account_id"] for entry in detail["entries"]} == {alice, bob, "@clearing:EUR"}
    assert (await api.get(f"/v1/accounts/{bob}/balances"))[1]["available"] == "12.50"
    assert (await api.get(f"/v1/accounts/{alice}/balances"))[1]["available"] == "37.50"
    entries = (await api.get(f"/v1/accounts/{alice}/entries?limit=1"))[1]
    assert (entries["has_more"], entries["items"][0]["amount"], entries["items"][0]["direction"]) == (
        True,
        "12.50",
        "debit",
    )
    older = (await api.get(f"/v1/accounts/{alice}/entries?cursor={entries['next_cursor']}"))[1]
    assert [entry["amount"] for entry in older["items"]] == ["-50.00"]


async def test_a05_hold_is_captured_in_part_and_the_rest_released(api: Api, customer: str) -> None:
    alice = await api.account(customer, amount="50.00")
    shop = await api.account(f"{customer}-shop")

    body = {"account_id": alice, "amount": "30.00", "to_account_id": shop, "expires_at": "2099-01-01T00:00:00Z"}
    status, hold, _ = await api.post("/v1/holds", body)
    assert (status, hold["state"]) == (201, "held")
    assert (await api.get(f"/v1/accounts/{alice}/balances"))[1]["held"] == "30.00"
    status, captured, _ = await api.post(f"/v1/holds/{hold['id']}/capture", {"amount": "20.00"}, Prefer="wait=10")
    assert (status, captured["state"], captured["captured_amount"]) == (200, "captured", "20.00")
    balances = (await api.get(f"/v1/accounts/{alice}/balances"))[1]
    assert (balances["available"], balances["held"]) == ("30.00", "0.00")


async def test_s11_l52_refusal_by_business_names_its_transaction_and_what_there_was(api: Api, customer: str) -> None:
    alice = await api.account(customer, amount="1.00")
    key = str(uuid.uuid4())
    body = {"from_account_id": alice, "to_account_id": f"{customer}-b:EUR", "amount": "5.00"}

    status, problem, headers = await api.post("/v1/transfers", body, key)

    assert (status, problem["code"], headers["Content-Type"]) == (422, "insufficient_funds", "application/problem+json")
    status, failed, _ = await api.get(f"/v1/transactions/{problem['transaction_id']}")
    assert (failed["status"], failed["reason"], failed["entries"]) == ("failed", "insufficient_funds", [])
    again = await api.post("/v1/transfers", body, key)
    assert (again[0], again[1]["code"], again[2]["Idempotent-Replayed"]) == (422, "insufficient_funds", "true")
    # What there was is of the decision: a repeat is told the same, whatever came since, also from Postgres alone.
    told = {"account_id": alice, "available": "1.00", "requested": "5.00"}
    assert problem["error"]["details"].items() >= told.items()
    assert again[1]["error"]["details"] == problem["error"]["details"]
    _, deposit, _ = await api.post("/v1/deposits", {"account_id": alice, "amount": "100.00"})
    assert (await api.post(f"/v1/deposits/{deposit['id']}/confirm"))[0] == 200
    assert (await api.get(f"/v1/accounts/{alice}/balances"))[1]["available"] == "101.00"
    client, services = await client_of(api.services.settings)
    try:
        await until_ready(client)
        elsewhere = await Api(client, services).post("/v1/transfers", body, key)
        assert elsewhere[1]["error"]["details"] == problem["error"]["details"]
    finally:
        await client.close()


async def test_a02_repeat_gives_the_first_answer_even_after_the_transaction_moved_on(api: Api, customer: str) -> None:
    account_id = await api.account(customer)
    key, body = str(uuid.uuid4()), {"account_id": account_id, "amount": "10.00"}
    first = await api.post("/v1/deposits", body, key)
    await api.post(f"/v1/deposits/{first[1]['id']}/confirm")

    again = await api.post("/v1/deposits", body | {"amount": "10"}, f'"{key.upper()}"')

    assert (again[0], again[2]["Idempotent-Replayed"]) == (201, "true")
    assert {**again[1], "command_id": ""} == {**first[1], "command_id": ""}
    assert "Idempotent-Replayed" not in first[2]


async def test_a02_another_body_under_the_key_is_refused_and_changes_nothing(api: Api, customer: str) -> None:
    account_id = await api.account(customer)
    key = str(uuid.uuid4())
    first = await api.post("/v1/deposits", {"account_id": account_id, "amount": "10.00"}, key)

    status, problem, _ = await api.post("/v1/deposits", {"account_id": account_id, "amount": "11.00"}, key)

    assert (status, problem["code"], problem["transaction_id"]) == (422, "idempotency_key_reused", first[1]["id"])
    assert (await api.get(f"/v1/transactions/{first[1]['id']}"))[1]["amount"] == "10.00"


async def test_a02_hundred_requests_with_one_key_have_one_effect(api: Api, customer: str) -> None:
    account_id = await api.account(customer)
    key, body = str(uuid.uuid4()), {"account_id": account_id, "amount": "10.00"}

    answers = await asyncio.gather(*(api.post("/v1/deposits", body, key) for _ in range(100)))

    assert {status for status, _, _ in answers} <= {201, 409}
    done = [(answer, headers) for status, answer, headers in answers if status == 201]
    assert len({answer["id"] for answer, _ in done}) == 1
    assert sum("Idempotent-Replayed" not in headers for _, headers in done) == 1
    assert all(answer["code"] == "idempotency_in_progress" for status, answer, _ in answers if status == 409)
    listed = (await api.get(f"/v1/transactions?customer={customer}"))[1]
    assert [item["id"] for item in listed["items"]] == [done[0][0]["id"]]


async def test_request_id_comes_back_and_travels_with_the_command(backend: Backend, api: Api, customer: str) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=backend.settings.kafka_bootstrap, auto_offset_reset="none")
    await consumer.start()
    place = TopicPartition("aura.commands.v1", api.services.commands.partition_of(f"default/{customer}".encode()))
    consumer.assign([place])
    consumer.seek(place, (await consumer.end_offsets([place]))[place])

    body = {"customer": customer, "asset": "EUR"}
    _, account, headers = await api.post("/v1/accounts", body, X_Request_Id="req-42")
    record = await consumer.getone()
    await consumer.stop()

    assert headers["X-Request-Id"] == "req-42"
    assert ("aura-request-id", b"req-42") in record.headers
    assert (record.key, json.loads(record.value)["id"]) == (f"default/{customer}".encode(), account["command_id"])
