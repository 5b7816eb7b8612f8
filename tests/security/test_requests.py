"""Hostile requests to a running API: each is refused by its own reason, and nothing is changed."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from aura_stream.domain.commands import parse_command
from aura_stream.domain.reasons import Invalid
from aura_stream.settings import load_settings
from tests.web.conftest import client_of

NOWHERE = {"kafka_bootstrap": "127.0.0.1:1", "postgres_dsn": "postgresql://nobody@127.0.0.1:1/none"}
TRANSFER: dict[str, Any] = {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "12.50"}


@pytest.fixture
async def client() -> AsyncIterator[TestClient[Any, Any]]:
    """An app without Kafka and Postgres: what passes its checks ends as 503, and nothing else does."""
    client, _ = await client_of(load_settings(**NOWHERE))
    yield client
    await client.close()


async def _post(client: TestClient[Any, Any], path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    headers = {"Idempotency-Key": str(uuid.uuid4()), "Content-Type": "application/json"}
    async with client.post(path, data=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.mark.parametrize(
    ("amount", "status", "code"),
    [
        ("12.5", 400, "invalid_amount_format"),
        ("1", 400, "invalid_amount_format"),
        ('"1e3"', 400, "invalid_amount_format"),
        ('"١٠"', 400, "invalid_amount_format"),
        ('"1' + "0" * 30 + '"', 400, "invalid_amount_format"),
        ('"1.001"', 400, "invalid_amount_format"),
        ('" 1"', 400, "invalid_amount_format"),
        ('"+1"', 400, "invalid_amount_format"),
        ('"1,00"', 400, "invalid_amount_format"),
        ("true", 400, "invalid_amount_format"),
        ("null", 400, "invalid_amount_format"),
        ('"NaN"', 400, "invalid_amount_format"),
        ('"Infinity"', 400, "invalid_amount_format"),
        ("NaN", 400, "invalid_json"),
        ("[]", 400, "invalid_amount_format"),
    ],
)
async def test_sec22_an_amount_that_is_none_is_refused(
    client: TestClient[Any, Any], amount: str, status: int, code: str
) -> None:
    body = json.dumps(TRANSFER).replace('"12.50"', amount).encode()
    found, problem = await _post(client, "/v1/transfers", body)
    assert (found, problem["code"]) == (status, code)


async def test_sec23_an_unknown_asset_is_refused(client: TestClient[Any, Any]) -> None:
    change = {"from_account_id": "alice:XXX", "to_account_id": "bob:XXX"}
    found, problem = await _post(client, "/v1/transfers", json.dumps(TRANSFER | change).encode())
    assert (found, problem["code"]) == (400, "unsupported_asset")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=1000000000", "limit"),
        ("limit=-1", "limit"),
        ("page=100000&page_size=100", "page"),
        ("page_size=1000000", "page_size"),
        ("sort=idempotency_key", "sort"),
        ("memo=x", "memo"),
    ],
)
async def test_sec29_a_dear_list_is_refused(client: TestClient[Any, Any], query: str, pointer: str) -> None:
    async with client.get(f"/v1/transactions?{query}") as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["errors"][0]["pointer"]) == (400, pointer)


_INJECTIONS = [
    "' OR 1=1 --",
    "'; DROP TABLE ledger.entries; --",
    '"; SELECT pg_sleep(10); --',
    "1) UNION SELECT 1",
    "\\x00",
]


@pytest.mark.parametrize("text", _INJECTIONS)
@pytest.mark.parametrize("name", ["sort", "cursor", "status", "type", "customer", "account_id", "asset", "from"])
async def test_sec35_sql_in_a_query_is_no_value_of_any_field(
    client: TestClient[Any, Any], name: str, text: str
) -> None:
    async with client.get("/v1/transactions", params={name: text}) as answer:
        problem = await answer.json(content_type=None)
        assert answer.status == 400 and problem["errors"][0]["pointer"] == name, problem


@pytest.mark.parametrize(
    "path", ["/table", "/table/balances", "/router", "/graph", "/stats", "/partitions/", "/debug", "/admin"]
)
async def test_sec41_the_pages_of_the_framework_are_not_on_the_public_port(
    client: TestClient[Any, Any], path: str
) -> None:
    async with client.get(path) as answer:
        assert answer.status == 404


async def test_sec40_an_answer_says_nothing_of_the_software(client: TestClient[Any, Any]) -> None:
    for path in ("/v1/transactions", "/nowhere", "/v1/accounts/alice:EUR", "/v1/transactions?limit=x"):
        async with client.get(path) as answer:
            text = await answer.text()
            for word in ("Traceback", "asyncpg", "aiohttp", 'File "', "SELECT", "line "):
                assert word not in text, path
            assert "aiohttp" not in answer.headers.get("Server", "")


@pytest.mark.parametrize(
    "body",
    [
        b'{"from_account_id":"alice:EUR","to_account_id":"bob:EUR","amount":"1.00","amount":"100.00"}',
        b'{"from_account_id":"alice:EUR","from_account_id":"eve:EUR","to_account_id":"bob:EUR","amount":"1.00"}',
        b'{"from_account_id":"alice:EUR","to_account_id":"bob:EUR","amount":"\\ud800"}',
        b'{"from_account_id":"alice:EUR","to_account_id":"bob:EUR","amount":"1.00"}{}',
        b'\xef\xbb\xbf{"from_account_id":"alice:EUR","to_account_id":"bob:EUR","amount":"1.00"}',
        b'{"from_account_id":"alice:EUR","to_account_id":"bob:EUR","amount":"1.00",}',
        b"{'amount':'1.00'}",
    ],
)
async def test_sec53_json_that_can_be_read_in_two_ways_is_refused(client: TestClient[Any, Any], body: bytes) -> None:
    status, problem = await _post(client, "/v1/transfers", body)
    assert (status, problem["code"]) == (400, "invalid_json")


_ENVELOPE = (
    b'{"id":"018f2d3c-8a6e-7c3e-9a51-3f1c2b7e9d10","type":"transfer.submit","tenant":"default","customer":"alice",'
    b'"idempotency_key":"8d2f3c1e-5a0b-4b7e-9f43-2d6f0f0c9a11","issued_at":"2026-11-20T10:00:00Z","data":%s}'
)


@pytest.mark.parametrize(
    "data",
    [
        b'{"from_account_id":"alice:EUR","to_account_id":"bob:EUR","amount":%s}' % amount
        for amount in (b'"\\ud800"', b"1e400", b"NaN", b"123456789012345678901234567890", b"{}")
    ],
)
async def test_sec53_both_doors_read_a_command_alike(client: TestClient[Any, Any], data: bytes) -> None:
    line = _ENVELOPE % data
    with pytest.raises(Invalid) as invalid:
        parse_command(line)
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": str(uuid.uuid4())}
    async with client.post("/v1/commands:batch", data=line, headers=headers) as answer:
        result = json.loads((await answer.text()).splitlines()[0])
    assert (result["status"], result["problem"]["code"]) == ("refused", invalid.value.reason)


async def test_l111_sec38_a_cookie_lets_nobody_in() -> None:
    settings = load_settings(**NOWHERE, api_key="the-first-operator-of-this-test")
    client, _ = await client_of(settings)
    try:
        for cookie in ("the-first-operator-of-this-test", "Bearer the-first-operator-of-this-test"):
            headers = {"Cookie": f"Authorization={cookie}; session={cookie}; access_token={cookie}"}
            async with client.get("/v1/transactions", headers=headers) as answer:
                assert answer.status in (401, 503) and "Set-Cookie" not in answer.headers
                assert (await answer.json(content_type=None))["code"] != "ledger_behind"
        async with client.get("/v1/accounts/x:EUR", headers={"Authorization": "Bearer wrong"}) as answer:
            assert answer.status == 401
    finally:
        await client.close()
