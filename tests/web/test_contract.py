"""The contract: valid, the same as the routes, and what it refuses. No Kafka and no Postgres here."""

from __future__ import annotations

import io
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml
from aiohttp.test_utils import TestClient
from openapi_spec_validator import validate

from aura_stream.domain.assets import SCALES
from aura_stream.domain.reasons import REASONS
from aura_stream.settings import load_settings
from tests.web.conftest import client_of
from tests.web.shapes import _resolved, allowed, answers
from web.aliases.document import SCHEMAS_FILE
from web.app import HANDLERS, create_app
from web.contract import CONTRACT_FILE, METHODS, ContractMismatch, Part, load_contract
from web.problems import Problem
from web.services import SERVICES

NOWHERE = {"kafka_bootstrap": "127.0.0.1:1", "postgres_dsn": "postgresql://nobody@127.0.0.1:1/none"}
KEY = "8d2f3c1e-5a0b-4b7e-9f43-2d6f0f0c9a11"
TRANSFER = {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "12.50"}

Client = TestClient[Any, Any]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """An app without Kafka and Postgres: what is wrong must be found without them."""
    client, _ = await client_of(load_settings(**NOWHERE))
    yield client
    await client.close()


class _Once(yaml.SafeLoader):
    """Refuses a name that stands twice: the second would silently take the place of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(set(names)) == len(names), (node.start_mark, sorted({one for one in names if names.count(one) > 1}))
        return super().construct_mapping(node, deep)


def test_a01_nothing_stands_twice_in_the_contract() -> None:
    for path in (CONTRACT_FILE, SCHEMAS_FILE):
        assert yaml.load(path.read_text(encoding="utf-8"), Loader=_Once)  # noqa: S506 - it is a safe loader


def test_contract_is_compiled_once_however_it_is_asked_for() -> None:
    assert load_contract() is load_contract("all") is load_contract(profile="all") is not load_contract("settlement")


def test_contract_is_valid_openapi() -> None:
    validate(yaml.safe_load(CONTRACT_FILE.read_text(encoding="utf-8")))


def _example(schema: dict[str, Any], place: str) -> Any:
    """An answer's example: what the schema says, or what its parts say, as a page is made of the example of an item."""
    found = _resolved(schema)
    if "example" in found or "examples" in found:
        return found["example"] if "example" in found else found["examples"][0]
    if "const" in found or "enum" in found:
        return found["const"] if "const" in found else found["enum"][0]
    if "items" in found:
        return [_example(found["items"], place + "[]")]
    if "properties" in found:
        return {name: _example(found["properties"][name], f"{place}.{name}") for name in found.get("required", ())}
    if found.get("type") == "boolean" or "null" in found.get("type", ""):
        return False if found["type"] == "boolean" else None
    if found.get("format") == "date-time":
        return "2026-11-20T10:00:00.000Z"
    raise AssertionError(f"{place} has no example")


def test_a01_x65_every_answer_has_an_example_that_fits_and_shows_nothing_else() -> None:
    for operation, code, schema in answers():
        if schema.get("type") == "object" and "properties" not in schema:
            continue  # the contract itself
        shown = _named(operation, code) or _example(schema, f"{operation} {code}")
        validator = allowed(operation, int(code), "application/json")
        assert validator is not None
        assert not [error.message for error in validator.iter_errors(shown)], (operation, code)


def _named(operation: str, code: str) -> Any:
    """The example that an answer has beside its schema."""
    for item in load_contract().document["paths"].values():
        for method in set(METHODS) & set(item):
            if item[method]["operationId"] == operation:
                content = _resolved(item[method]["responses"][code])["content"]["application/json"]
                return content.get("example")
    raise LookupError(operation)


def test_a01_every_body_has_an_example_that_fits() -> None:
    for operation in load_contract().operations.values():
        if operation.body is None or operation.alias_of:
            continue
        document = load_contract().document["paths"][operation.path][operation.method.lower()]
        content = document["requestBody"]["content"]["application/json"]
        examples = [one["value"] for one in content.get("examples", {}).values()] or [content.get("example")]
        if operation.body.names:
            assert examples != [None], operation.id
        for one in examples:
            operation.body.check({} if one is None else one)


def test_contract_and_handlers_are_the_same() -> None:
    contract = load_contract()
    contract.compare(HANDLERS)

    with pytest.raises(ContractMismatch, match=r"without a handler: \['openAccount'\]"):
        contract.compare(HANDLERS.keys() - {"openAccount"})
    with pytest.raises(ContractMismatch, match=r"without an operation: \['sing'\]"):
        contract.compare([*HANDLERS, "sing"])


async def test_contract_and_routes_are_the_same() -> None:
    app = create_app(load_settings(**NOWHERE))

    routes = {(route.method, route.resource.canonical if route.resource else "") for route in app.router.routes()}

    assert routes == {(one.method, one.path) for one in load_contract().operations.values()}


def test_contract_knows_the_assets_of_the_ledger() -> None:
    schemas = load_contract().document["components"]["schemas"]

    assert schemas["Asset"]["enum"] == list(SCALES)
    assert f"(?:{'|'.join(SCALES)})" in schemas["AccountId"]["pattern"]


PARTS = [
    (f"{one.id}-{part.where}", part)
    for one in load_contract().operations.values()
    for part in (one.body, one.query, one.path_part)
    if part is not None and part.names
]


@pytest.mark.parametrize("part", [part for _, part in PARTS], ids=[name for name, _ in PARTS])
def test_u26_l86_every_field_refuses_nul_bytes_excess_and_other_types(part: Part) -> None:
    values: list[Any] = ["\0", "a\0b", "x" * 200_000, {"a": 1}, [[]], "\ud7ff" * 70_000]
    for name in part.names:
        for value in values:
            with pytest.raises(Problem) as caught:
                part.check({name: value})
            pointer = f"/{name}" if part.where == "body" else name
            found = [error for error in caught.value.errors if error["pointer"] == pointer]
            assert found, (name, str(value)[:20])
            assert caught.value.status == 400
            assert len(found[0]["detail"]) <= 300
    with pytest.raises(Problem) as caught:
        part.check({"no_such_field": 1})
    assert "unknown_field" in [error["code"] for error in caught.value.errors]


def test_every_reason_can_be_told() -> None:
    for code in REASONS:
        document = Problem(code).document(instance="/", request_id="r")
        assert document["type"] == f"/problems/{code}"
        assert document["hint"]


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"amount": 12.5}, "invalid_amount_format", "/amount"),
        ({"amount": "12.555"}, "invalid_amount_format", "/amount"),
        ({"amount": "1e3"}, "invalid_amount_format", "/amount"),
        ({"amount": None}, "invalid_amount_format", "/amount"),
        ({"color": "red"}, "unknown_field", "/color"),
        ({"a/b~c": 1}, "unknown_field", "/a~1b~0c"),
        ({"from_account_id": "alice"}, "invalid_account_id", "/from_account_id"),
        ({"from_account_id": "alice:GOLD"}, "unsupported_asset", "/from_account_id"),
        ({"to_account_id": 7}, "invalid_account_id", "/to_account_id"),
        ({"effective_at": "yesterday"}, "invalid_datetime_format", "/effective_at"),
        ({"effective_at": "2026-02-30T00:00:00Z"}, "invalid_datetime_format", "/effective_at"),
        ({"effective_at": "2999-01-01T00:00:00Z"}, "effective_at_in_future", "/effective_at"),
    ],
)
async def test_s19_bad_body_is_refused_with_its_reason_and_place(
    client: Client, change: dict[str, Any], code: str, pointer: str
) -> None:
    async with client.post("/v1/transfers", json=TRANSFER | change, headers={"Idempotency-Key": KEY}) as answer:
        problem = await answer.json(content_type="application/problem+json")

    assert (answer.status, problem["code"]) == (400, code)
    assert pointer in [error["pointer"] for error in problem["errors"]]
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem["instance"] == "/v1/transfers"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"amount": NaN}', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
    ],
)
async def test_s19_bytes_that_are_no_json_are_refused(client: Client, body: bytes, code: str) -> None:
    headers = {"Idempotency-Key": KEY, "Content-Type": "application/json"}
    async with client.post("/v1/transfers", data=body, headers=headers) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, code)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "idempotency_key_missing"),
        ({"Idempotency-Key": "order-17"}, "idempotency_key_invalid"),
        ({"Idempotency-Key": KEY, "Aura-Tenant": "UPPER"}, "invalid_field"),
    ],
)
async def test_a02_write_without_a_usable_key_is_refused(client: Client, headers: dict[str, str], code: str) -> None:
    async with client.post("/v1/transfers", json=TRANSFER, headers=headers) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, code)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nothing", 404, "route_not_found"),
        ("DELETE", "/v1/holds", 405, "method_not_allowed"),
        ("GET", "/v1/transactions?limit=0", 400, "invalid_field"),
        ("GET", "/v1/transactions?limit=1&limit=2", 400, "invalid_field"),
        ("GET", "/v1/transactions?color=red", 400, "unknown_field"),
        ("GET", "/v1/transactions?cursor=x", 400, "invalid_field"),
        ("GET", "/v1/transactions/17", 400, "invalid_uuid_format"),
        ("GET", "/v1/accounts/alice", 400, "invalid_account_id"),
        ("GET", "/v1/accounts/@clearing:EUR", 404, "account_not_found"),
        ("GET", f"/v1/transactions/{KEY}", 503, "service_unavailable"),
        ("GET", "/v1/accounts/alice:EUR", 503, "service_unavailable"),
    ],
)
async def test_sec40_every_failure_is_a_problem_document(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    async with client.request(method, path, headers={"X-Request-Id": "mine-1"}) as answer:
        problem = await answer.json(content_type="application/problem+json")

    assert (answer.status, problem["status"], problem["code"], problem["request_id"]) == (
        status,
        status,
        code,
        "mine-1",
    )
    assert problem["title"]
    if status == 405:
        assert answer.headers["Allow"] == "POST"
    if status == 503:
        assert int(answer.headers["Retry-After"]) > 0


async def test_large_and_foreign_bodies_are_refused(client: Client) -> None:
    headers = {"Idempotency-Key": KEY}
    async with client.post("/v1/transfers", data=io.BytesIO(b" " * (1024 * 1024 + 1)), headers=headers) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (413, "message_too_large")
    async with client.post("/v1/transfers", data="a=1", headers=headers | {"Content-Type": "text/plain"}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (415, "unsupported_media_type")


async def test_s11_unknown_tenant_and_foreign_account_are_refused(client: Client) -> None:
    # Whether there is such a tenant is not known here: nobody is let through while that cannot be asked.
    async with client.get("/v1/accounts/alice:EUR", headers={"Aura-Tenant": "nobody"}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (503, "service_unavailable")
    body = TRANSFER | {"from_account_id": "demo/alice:EUR"}
    async with client.post("/v1/transfers", json=body, headers={"Idempotency-Key": KEY}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (422, "cross_tenant")


async def test_a20_nothing_is_accepted_while_kafka_is_away(client: Client) -> None:
    async with client.post("/v1/transfers", json=TRANSFER, headers={"Idempotency-Key": str(uuid.uuid4())}) as answer:
        problem = await answer.json(content_type=None)

    assert (answer.status, problem["code"], answer.headers["Retry-After"]) == (503, "service_unavailable", "2")
    assert "nothing was sent" in problem["detail"]


async def test_a20_x48_health_says_what_is_away(client: Client) -> None:
    async with client.get("/health/live") as answer:
        assert answer.status == 200
    async with client.get("/health/ready") as answer:
        assert (answer.status, (await answer.json())["checks"]["journal"]["ok"]) == (503, False)
    async with client.get("/health") as answer:
        assert (answer.status, (await answer.json())["checks"]["kafka"]["ok"]) == (503, False)
    metrics = await client.app[SERVICES].metrics.text()
    assert b'aura_http_requests_total{method="GET",operation="getHealth",status="503"} 1.0' in metrics
    async with client.get("/openapi.json") as answer:
        assert (await answer.json())["openapi"] == "3.1.0"


async def test_key_is_demanded_when_one_is_set() -> None:
    client, _ = await client_of(load_settings(**NOWHERE, api_key="s3cret"))
    try:
        for header, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Basic s3cret"}, 401),
            ({"Authorization": "Bearer \udcff"}, 401),
            ({"Authorization": "Bearer s3cret"}, 400),
        ):
            async with client.post("/v1/transfers", json=TRANSFER, headers=header) as answer:
                assert answer.status == status
                if status == 401:
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        async with client.get("/health/live") as answer:
            assert answer.status == 200
    finally:
        await client.close()
