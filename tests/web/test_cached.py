"""Reads that are asked for again: ETag and 304, a cache that is never stale, and the class behind it."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from aura_stream.cache import TtlCache
from tests.web.conftest import Api, Backend, client_of, until_ready


def _used(api: Api) -> tuple[int, int]:
    used = api.services.answers.used
    return used["hit"], used["miss"]


async def test_x57_a_read_is_answered_from_memory_and_never_stale_after_a_write(api: Api, customer: str) -> None:
    account = await api.account(customer, "EUR", "100.00")
    other = await api.account(f"{customer}x", "EUR")
    paths = [
        f"/v1/accounts/{account}/balances",
        f"/v1/accounts/{account}",
        f"/v1/accounts/{account}/entries?limit=100",
        f"/v1/accounts?customer={customer}",
        f"/v1/transactions?customer={customer}&limit=100",
    ]
    for path in paths:
        first = await api.get(path)
        hits, misses = _used(api)
        again = await api.get(path)
        assert again[:2] == first[:2] and again[2]["ETag"] == first[2]["ETag"]
        assert _used(api) == (hits + 1, misses), path

    for number in range(1, 6):
        body = {"from_account_id": account, "to_account_id": other, "amount": "1.00"}
        assert (await api.post("/v1/transfers", body))[0] == 201
        assert (await api.get(paths[0]))[1]["available"] == f"{100 - number}.00"
        assert len((await api.get(paths[2]))[1]["items"]) == 1 + number
        assert len((await api.get(paths[4]))[1]["items"]) == 1 + number


async def test_x57_no_reader_is_behind_a_write_of_another_node(api: Api, backend: Backend, customer: str) -> None:
    account = await api.account(customer, "EUR", "100.00")
    client, services = await client_of(backend.settings)
    try:
        await until_ready(client)
        there = Api(client, services)
        for number in range(1, 4):
            for one in (api, there):
                assert (await one.get(f"/v1/accounts/{account}/balances"))[0] == 200
            body = {"account_id": account, "amount": "1.00"}
            status, deposit, _ = await there.post("/v1/deposits", body)
            assert status == 201 and (await there.post(f"/v1/deposits/{deposit['id']}/confirm"))[0] == 200
            balances = [(await one.get(f"/v1/accounts/{account}/balances"))[1]["available"] for one in (api, there)]
            assert balances == [f"{100 + number}.00"] * 2
    finally:
        await client.close()


async def test_x57_who_has_the_answer_is_told_that_it_holds(api: Api, customer: str) -> None:
    account = await api.account(customer, "EUR", "10.00")
    status, deposit, _ = await api.post("/v1/deposits", {"account_id": account, "amount": "1.00"})
    assert status == 201
    for path in (f"/v1/accounts/{account}/balances", f"/v1/transactions/{deposit['id']}"):
        status, _, headers = await api.get(path)
        tag = headers["ETag"]
        assert status == 200 and headers["Cache-Control"] == "private, no-cache"
        assert set(headers["Vary"].split(", ")) >= {"Authorization", "Aura-Tenant"}
        for given in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
            async with api.client.get(path, headers={"If-None-Match": given}) as answer:
                assert (answer.status, await answer.read(), answer.headers["ETag"]) == (304, b"", tag)
        async with api.client.get(path, headers={"If-None-Match": '"other"'}) as answer:
            assert answer.status == 200

    assert (await api.post(f"/v1/deposits/{deposit['id']}/confirm"))[0] == 200
    async with api.client.get(path, headers={"If-None-Match": tag}) as answer:
        assert (answer.status, (await answer.json())["status"]) == (200, "completed")
    assert (await api.get(f"/v1/accounts/{customer}x:EUR", If_None_Match="*"))[0] == 404


async def test_x57_one_customers_answer_is_nobody_elses(api: Api, customer: str) -> None:
    account = await api.account(customer, "EUR", "10.00")
    assert (await api.get(f"/v1/accounts/{account}"))[0] == 200
    status, _, headers = await api.get(f"/v1/accounts/{account}", Aura_Tenant="demo")
    assert status == 404 and headers["Cache-Control"] == "no-store"


async def test_sec53_x57_a_name_given_twice_is_refused_at_both_doors_of_commands(api: Api, customer: str) -> None:
    account = await api.account(customer, "EUR", "10.00")
    other = await api.account(f"{customer}x", "EUR")
    data = {"from_account_id": account, "to_account_id": other, "amount": "1.00"}
    envelope: dict[str, Any] = {
        "type": "transfer.submit",
        "tenant": "default",
        "customer": customer,
        "issued_at": "2026-11-20T10:00:00Z",
        "data": data,
    }

    def command(twice: bytes) -> bytes:
        ids = {"id": str(uuid.uuid4()), "idempotency_key": str(uuid.uuid4())}
        return json.dumps(ids | envelope).encode().replace(b'"amount": "1.00"', twice)

    ambiguous = [
        b'"amount": "1.00", "amount": "9.00"',
        b'"amount": "9.00", "am\\u006funt": "1.00"',
        b'"effective_at": null, "amount": 9, "amount": "1.00"',
        b'"amount":null,"amount":"1.00"',
    ]
    lines = [command(one) for one in ambiguous] + [command(b'"amount": "1.00", "effective_at": null')]
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": str(uuid.uuid4())}
    async with api.client.post("/v1/commands:batch", data=b"\n".join(lines), headers=headers) as answer:
        results = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [one["status"] for one in results] == ["refused"] * 4 + ["accepted"]
    assert {one["problem"]["code"] for one in results[:4]} == {"invalid_json"}

    key = f"default/{customer}".encode()
    partition = api.services.commands.partition_of(key)
    records = [(partition, key, command(one)) for one in ambiguous]
    last = (await api.services.commands.append_many(records))[partition]
    async with asyncio.timeout(30):
        while True:
            _, listed, _ = await api.get("/v1/dead-letters?limit=100")
            mine = [one for one in listed["items"] if one["partition"] == partition and 0 <= last - one["offset"] < 4]
            if len(mine) == len(ambiguous):
                break
            await asyncio.sleep(0.05)
    assert {one["reason"] for one in mine} == {"invalid_json"}
    assert (await api.get(f"/v1/accounts/{account}/balances"))[1]["available"] == "9.00"


def test_l93_values_end_and_the_oldest_makes_room() -> None:
    clock, gone = [0.0], []
    cache: TtlCache[str, int] = TtlCache(10, dropped=lambda key, value: gone.append((key, value)), now=lambda: clock[0])
    cache.put("a", 1, 5.0, 4)
    cache.put("b", 2, 50.0, 4)
    assert (cache.get("a"), cache.get("b"), len(cache), cache.weight) == (1, 2, 2, 8)
    cache.put("c", 3, 50.0, 4)
    assert (cache.get("a"), len(cache), gone) == (None, 2, [("a", 1)])
    cache.put("b", 20, 10.0, 2)
    assert (cache.get("b"), cache.weight) == (20, 6)
    clock[0] = 10.0
    assert (cache.get("b"), cache.get("c"), cache.weight) == (None, 3, 4)
    cache.put("large", 9, 50.0, 11)
    assert cache.get("large") is None and cache.get("c") == 3
    cache.clear()
    assert (len(cache), cache.weight, cache.get("c")) == (0, 0, None)


@pytest.mark.parametrize("room", [0, 1])
async def test_l93_the_room_of_the_read_cache_is_a_setting(backend: Backend, customer: str, room: int) -> None:
    client, services = await client_of(backend.settings.model_copy(update={"read_cache_mib": room}))
    try:
        await until_ready(client)
        one = Api(client, services)
        account = await one.account(customer, "EUR")
        for _ in range(3):
            assert (await one.get(f"/v1/accounts/{account}"))[0] == 200
        assert services.answers.used == {"hit": 2 * room, "miss": 3 - 2 * room}
    finally:
        await client.close()
