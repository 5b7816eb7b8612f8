"""Reading while parts of the ledger stand still: never a false 404, never back, never a guess."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from aura_stream.embedded import Process
from tests.e2e.stack import until
from tests.web.conftest import Api, Backend, client_of, until_ready


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """The process stands still inside the block."""
    process.freeze()
    try:
        yield
    finally:
        process.thaw()


async def test_a02_accepted_id_is_never_404_while_undecided(backend: Backend, api: Api, customer: str) -> None:
    account_id = await api.account(customer)
    other, _ = await client_of(backend.settings)
    await until_ready(other)
    try:
        with frozen(backend.processes["ledger-0"]):
            body = {"account_id": account_id, "amount": "5.00"}
            status, accepted, headers = await api.post("/v1/deposits", body, Prefer="wait=0")
            assert (status, accepted["status"], accepted["state"]) == (202, "created", "accepted")
            assert headers["Location"] == f"/v1/transactions/{accepted['id']}"
            assert (headers["Preference-Applied"], headers["Retry-After"]) == ("wait=0", "1")

            status, read, _ = await api.get(headers["Location"])
            assert (status, read["status"], read["state"]) == (200, "created", "accepted")
            async with other.get(headers["Location"]) as answer:
                # Another node cannot know it, and cannot prove that it does not exist.
                assert (answer.status, (await answer.json(content_type=None))["code"]) == (503, "ledger_behind")
            assert (await api.get(f"/v1/accounts/{customer}:JPY"))[1]["code"] == "ledger_behind"
        async with other.get(headers["Location"]) as answer:
            assert (answer.status, (await answer.json(content_type=None))["state"]) == (200, "awaiting_funds")
    finally:
        await other.close()


async def test_a02_status_comes_from_the_journal_while_postgres_is_behind(
    backend: Backend, api: Api, customer: str
) -> None:
    account_id = await api.account(customer)
    other, _ = await client_of(backend.settings)
    await until_ready(other)
    try:
        with frozen(backend.processes["sink-0"]):
            status, deposit, _ = await api.post("/v1/deposits", {"account_id": account_id, "amount": "5.00"})
            assert status == 201
            path = f"/v1/transactions/{deposit['id']}"
            assert (await api.get(path))[1]["state"] == "awaiting_funds"
            assert (await api.post(f"/v1/deposits/{deposit['id']}/confirm"))[0] == 200

            for client in (api.client, other):
                async with client.get(path) as answer:
                    read = await answer.json()
                assert (read["state"], len(read["events"]), len(read["entries"])) == ("credited", 2, 2)
            # Balances come from Postgres only: rather none than an old one.
            status, problem, headers = await api.get(f"/v1/accounts/{account_id}/balances")
            assert (status, problem["code"], headers["Retry-After"]) == (503, "ledger_behind", "1")
            assert (await api.get(f"/v1/transactions/{uuid.uuid4()}"))[0] == 404
        assert (await api.get(f"/v1/accounts/{account_id}/balances"))[1]["available"] == "5.00"
        assert (await api.get(path))[1]["state"] == "credited"
    finally:
        await other.close()


async def test_a02_node_that_starts_while_postgres_is_behind_knows_what_it_lacks(
    backend: Backend, api: Api, customer: str
) -> None:
    account_id = await api.account(customer)
    with frozen(backend.processes["sink-0"]):
        _, deposit, _ = await api.post("/v1/deposits", {"account_id": account_id, "amount": "5.00"})
        fresh, _ = await client_of(backend.settings)
        try:
            await until_ready(fresh)
            async with fresh.get(f"/v1/transactions/{deposit['id']}") as answer:
                assert (answer.status, (await answer.json())["state"]) == (200, "awaiting_funds")
        finally:
            await fresh.close()


async def test_a02_a08_answer_is_not_older_than_its_outcome_when_postgres_catches_up_behind_the_question(
    backend: Backend, api: Api, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres answers with the state before; by the time the answer is here, the tail has dropped what came after."""
    recent, ask, sink = api.services.tail.recent, api.services.reads.transaction, backend.processes["sink-0"]
    account_id = await api.account(customer)
    _, deposit, _ = await api.post("/v1/deposits", {"account_id": account_id, "amount": "5.00"})
    id_, confirm, key = deposit["id"], f"/v1/deposits/{deposit['id']}/confirm", str(uuid.uuid4())
    await until(lambda: recent.transaction(id_) is None, 30, "its first line is stored and dropped")

    async def slowly(*wanted: str) -> Any:
        answer = await ask(*wanted)
        sink.thaw()
        await until(lambda: recent.transaction(id_) is None, 30, "its second line is stored and dropped")
        return answer

    with frozen(sink):
        monkeypatch.setattr(api.services.reads, "transaction", slowly)
        first = await api.post(confirm, key=key)
    repeated = await api.post(confirm, key=key)
    assert [(status, body["state"], body["seq"]) for status, body, _ in (first, repeated)] == [(200, "credited", 2)] * 2


async def test_s11_unknown_and_foreign_ids_are_404(api: Api, customer: str) -> None:
    account_id = await api.account(customer)
    _, deposit, _ = await api.post("/v1/deposits", {"account_id": account_id, "amount": "5.00"})

    assert (await api.get(f"/v1/transactions/{uuid.uuid4()}"))[1]["code"] == "transaction_not_found"
    path = f"/v1/transactions/{deposit['id']}"
    status, problem, _ = await api.get(path, Aura_Tenant="demo")
    assert (status, problem["code"]) == (404, "transaction_not_found")
    assert (await api.get(f"/v1/accounts/{customer}:USD"))[1]["code"] == "account_not_found"
    assert (await api.post(f"/v1/deposits/{uuid.uuid4()}/confirm"))[1]["code"] == "transaction_not_found"
    status, problem, _ = await api.post(f"/v1/deposits/{deposit['id']}/confirm", {"customer": "somebody"})
    assert (status, problem["code"]) == (404, "transaction_not_found")


async def test_a05_transactions_are_listed_by_filter_and_cursor(api: Api, customer: str) -> None:
    account_id = await api.account(customer)
    ids = []
    for amount in ("1.00", "2.00", "3.00"):
        _, deposit, _ = await api.post("/v1/deposits", {"account_id": account_id, "amount": amount})
        ids.append(deposit["id"])
    await api.post(f"/v1/transactions/{ids[0]}/cancel")

    first = (await api.get(f"/v1/transactions?customer={customer}&limit=2"))[1]
    assert ([item["id"] for item in first["items"]], first["has_more"]) == ([ids[2], ids[1]], True)
    rest = (await api.get(f"/v1/transactions?customer={customer}&limit=2&cursor={first['next_cursor']}"))[1]
    assert ([item["id"] for item in rest["items"]], rest["has_more"], rest["next_cursor"]) == ([ids[0]], False, None)
    canceled = (await api.get(f"/v1/transactions?customer={customer}&status=canceled&type=deposit&asset=EUR"))[1]
    assert [item["id"] for item in canceled["items"]] == [ids[0]]
    by_key = (await api.get(f"/v1/transactions?idempotency_key={first['items'][0]['idempotency_key']}"))[1]
    assert [item["id"] for item in by_key["items"]] == [ids[2]]
    created = first["items"][0]["created_at"]
    before = (await api.get(f"/v1/transactions?account_id={account_id}&to={created.replace('+', '%2B')}"))[1]
    assert ids[2] not in [item["id"] for item in before["items"]]


async def test_a05_balances_as_of_a_time_before_the_money_came(api: Api, customer: str) -> None:
    account_id = await api.account(customer, amount="5.00")

    past = (await api.get(f"/v1/accounts/{account_id}/balances?effective_at=2020-01-01T00:00:00Z"))[1]
    now = (await api.get(f"/v1/accounts/{account_id}/balances?known_at=2999-01-01T00:00:00Z"))[1]

    assert (past["posted"], past["effective_at"]) == ("0.00", "2020-01-01T00:00:00Z")
    assert now["posted"] == "5.00"


async def test_a01_account_is_frozen_unfrozen_and_closed(api: Api, customer: str) -> None:
    account_id = await api.account(customer, amount="5.00")
    key = str(uuid.uuid4())

    assert (await api.post(f"/v1/accounts/{account_id}/freeze", key=key))[1]["status"] == "frozen"
    again = await api.post(f"/v1/accounts/{account_id}/freeze", key=key)
    assert (again[0], again[1]["status"], again[2]["Idempotent-Replayed"]) == (200, "frozen", "true")
    body = {"from_account_id": account_id, "to_account_id": f"{customer}:EUR:savings", "amount": "1.00"}
    assert (await api.post("/v1/transfers", body))[1]["code"] == "account_frozen"
    assert (await api.post(f"/v1/accounts/{account_id}/unfreeze"))[1]["status"] == "open"
    status, problem, _ = await api.post(f"/v1/accounts/{account_id}/close")
    assert (status, problem["code"], problem["account_id"]) == (409, "account_in_use", account_id)
    savings = (await api.post("/v1/accounts", {"customer": customer, "asset": "EUR", "name": "savings"}))[1]
    assert savings["id"] == f"{customer}:EUR:savings"
    assert (await api.post("/v1/accounts", {"customer": customer, "asset": "EUR"}))[1][
        "code"
    ] == "account_already_exists"
    closed = await api.post(f"/v1/accounts/{savings['id']}/close")
    assert (closed[0], closed[1]["status"]) == (200, "closed")
    assert (await api.get(f"/v1/accounts/{savings['id']}"))[1]["closed_at"] == closed[1]["closed_at"]


async def test_s11_markers_of_foreign_transactions_do_not_keep_a_404_back(
    backend: Backend, api: Api, customer: str, unique: str
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=backend.settings.kafka_bootstrap, transactional_id=unique)
    await producer.start()
    envelope = {
        "id": str(uuid.uuid4()),
        "type": "account.open",
        "tenant": "default",
        "customer": customer,
        "idempotency_key": "any printable text",
        "issued_at": "2026-11-20T10:00:00Z",
        "data": {"asset": "EUR"},
    }
    async with producer.transaction():
        await producer.send_and_wait("aura.commands.v1", json.dumps(envelope).encode(), f"default/{customer}".encode())
    await producer.stop()

    assert (await api.get(f"/v1/transactions/{uuid.uuid4()}"))[0] == 404
    assert (await api.get(f"/v1/accounts/{customer}:USD"))[0] == 404
    assert (await api.get(f"/v1/accounts/{customer}:EUR"))[0] == 200
