"""The catalogue of reasons: complete, one meaning each, and everything that the code raises is in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from aura_stream.domain.reasons import CATEGORIES, REASONS, Invalid, Refused
from aura_stream.settings import load_settings
from tests.rows import row
from tests.web.conftest import client_of
from web.aliases.table import ALIASES
from web.app import HANDLERS, create_app
from web.contract import _FIELD_CODES, load_contract
from web.problems import Problem

ROOT = Path(__file__).parents[2]
PACKAGES = ("aura_stream", "agents", "topics", "tables", "web")
NOWHERE = {"kafka_bootstrap": "127.0.0.1:1", "postgres_dsn": "postgresql://nobody@127.0.0.1:1/none"}

# L43 to L50, as LedgerBank lists them.
LEDGERBANK = {
    "validation": "invalid_amount_format missing_fields invalid_direction invalid_email_format invalid_password_format "
    "invalid_uuid_format invalid_datetime_format invalid_name_format invalid_role invalid_status invalid_payment_type "
    "invalid_currency_format invalid_account_type",
    "not_found": "user_not_found account_not_found payment_not_found token_not_found bank_not_found",
    "authentication": "invalid_credentials invalid_password invalid_token token_expired token_revoked "
    "invalid_token_type",
    "authorization": "forbidden insufficient_permissions unauthorized_access",
    "conflict": "email_already_exists already_processed duplicate_transaction",
    "business_rule": "insufficient_funds account_inactive daily_limit_exceeded amount_exceeds_limit negative_amount "
    "negative_balance currency_mismatch account_frozen account_suspended",
    "external_dependency": "timeout service_unavailable bank_api_error payment_provider_error",
    "system": "internal_server_error database_error configuration_error",
}
# Ours beside them, by status.
OURS = {
    400: "idempotency_key_missing idempotency_key_invalid unknown_field unsupported_asset",
    401: "api_key_invalid signature_invalid mfa_required",
    403: "tenant_inactive consent_expired",
    404: "transaction_not_found order_not_found tenant_not_found",
    409: "idempotency_in_progress tenant_selection_required invalid_state_transition version_conflict",
    422: "idempotency_key_reused quote_expired price_unavailable beneficiary_not_whitelisted velocity_exceeded "
    "screening_blocked reserve_insufficient policy_denied",
    429: "rate_limited",
    503: "rail_paused circuit_open chain_unavailable unknown_outcome paused",
}
STATUS = {
    "validation": {400, 405, 408, 413, 415},
    "not_found": {404},
    "authentication": {401},
    "authorization": {403},
    "conflict": {409},
    "business_rule": {422},
    "external_dependency": {503},
    "system": {500},
    "rate_limited": {429},
}


@cache
def _sources() -> list[tuple[str, ast.Call | ast.Constant]]:
    """Calls and constants of our code, with their file. The mock bank is another program, with an API of its own."""
    return [
        (str(file.relative_to(ROOT)), node)
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        if "mock_bank" not in file.parts and file.name != "reasons.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call | ast.Constant)
    ]


def _named() -> set[str]:
    """Every string that the code has: reasons are named in tables too."""
    return {node.value for _, node in _sources() if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _raised() -> Iterator[tuple[str, str]]:
    """First arguments of every `Refused(...)`, `Invalid(...)` and `Problem(...)`, where they are literals."""
    for file, node in _sources():
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("Refused", "Invalid", "Problem")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), f"{file}:{node.lineno}"


@row("L44", "L45", "L46", "L48", "L49")
def test_l43_to_l50_l106_ledgerbanks_46_reasons_are_there() -> None:
    names = {name: category for category, names in LEDGERBANK.items() for name in names.split()}
    assert len(names) == 46
    for name, category in names.items():
        assert REASONS[name].category == category, name


def test_l106_our_own_reasons_are_there() -> None:
    for status, names in OURS.items():
        for name in names.split():
            assert REASONS[name].status == status, name


def test_l42_every_reason_has_the_status_of_its_category() -> None:
    for name, reason in REASONS.items():
        assert reason.status in STATUS[reason.category], name
        assert reason.title and reason.hint, name


def test_l51_the_retry_matrix_is_ledgerbanks() -> None:
    matrix = {name: (one.tries, one.base_ms, one.has_breaker) for name, one in CATEGORIES.items()}
    assert matrix.pop("external_dependency") == (3, 1000, True)
    assert matrix.pop("system") == (2, 500, True)
    assert set(matrix.values()) == {(0, 0, False)} and len(matrix) == 7


def test_l106_a_reason_outside_the_catalogue_cannot_be_raised() -> None:
    unknown = [(name, place) for name, place in _raised() if name not in REASONS]
    assert unknown == []
    for raising in (Invalid, Refused):
        with pytest.raises(AssertionError):
            raising("made_up", "")
    with pytest.raises(KeyError):
        Problem("made_up")
    assert set(_FIELD_CODES.values()) <= set(REASONS)
    assert {name for alias in ALIASES for pair in alias.reasons.items() for name in pair} <= set(REASONS)


def test_l106_what_nothing_raises_yet_says_what_it_waits_for() -> None:
    named = _named()
    raised = {name for name, _ in _raised()}
    assert [name for name, one in REASONS.items() if not one.waits_for and name not in named] == []
    assert [name for name, one in REASONS.items() if one.waits_for and name in raised] == []


def test_l41_l52_a_problem_has_ledgerbanks_six_fields() -> None:
    members = {"account_id": "alice:EUR", "tenants": [{"tenant_code": "demo"}]}
    problem = Problem("insufficient_funds", "alice:EUR has 50.00 EUR available", members=members)
    document = problem.document(instance="/v1/transfers", request_id="r-1")

    assert set(document["error"]) == {"type", "message", "code", "reason", "details", "timestamp"}
    assert document["error"] | {"timestamp": ""} == {
        "type": "unprocessable_entity",
        "message": "Insufficient funds for this transaction",
        "code": 422,
        "reason": "insufficient_funds",
        "details": {"account_id": "alice:EUR"},
        "timestamp": "",
    }
    assert (document["type"], document["status"], document["retry"]) == ("/problems/insufficient_funds", 422, "new_key")
    assert (document["instance"], document["request_id"]) == ("/v1/transfers", "r-1")


async def test_l41_l53_sec40_every_failure_has_the_body_and_the_request_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(call: Any) -> web.Response:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setitem(HANDLERS, "getLiveness", breaks)
    app = create_app(load_settings(**NOWHERE))
    async with TestClient(TestServer(app)) as client:
        for method, path, status, kind in (
            ("GET", "/health/live", 500, "system_error"),
            ("GET", "/api/health/live", 500, "system_error"),
            ("GET", "/nowhere", 404, "not_found"),
            ("GET", "/api/nowhere", 404, "not_found"),
            ("DELETE", "/health", 405, "validation_error"),
            ("POST", "/api/auth/login", 415, "validation_error"),
        ):
            async with client.request(method, path, data=b"{}", headers={"X-Request-Id": "mine"}) as answer:
                body = await answer.json(content_type="application/problem+json")
                assert (answer.status, body["error"]["type"], body["error"]["code"]) == (status, kind, status), path
                assert (answer.headers["X-Request-Id"], body["request_id"]) == ("mine", "mine")
                assert "secret" not in str(body)


async def test_l106_the_type_of_every_problem_leads_to_its_meaning() -> None:
    client, _ = await client_of(load_settings(**NOWHERE))
    try:
        for code, reason in REASONS.items():
            async with client.get(Problem(code).document(instance="", request_id="r")["type"]) as answer:
                found = await answer.json()
            assert (answer.status, found["title"], found["retry"]) == (200, reason.title, reason.retry)
        async with client.get("/problems") as answer:
            assert {one["code"] for one in (await answer.json())["items"]} == set(REASONS)
        async with client.get("/problems/made_up") as answer:
            assert answer.status == 404
    finally:
        await client.close()


# --- the page ---------------------------------------------------------------------------------------------------------


async def test_x49_x50_l95_the_contract_is_a_page_that_loads_nothing_from_elsewhere() -> None:
    client, _ = await client_of(load_settings(**NOWHERE))
    try:
        for path in ("/docs", "/swagger", "/docs/explorer.js", "/docs/style.css"):
            async with client.get(path) as answer:
                text = await answer.text()
                policy = answer.headers["Content-Security-Policy"]
            assert answer.status == 200 and text
            assert "unsafe" not in policy and policy.startswith("default-src 'none'")
            for word in (
                "http://",
                "https://",
                "//cdn",
                "<script>",
                "<style",
                "style=",
                "onclick=",
                "innerHTML",
                "eval(",
            ):
                assert word not in text, (path, word)
        async with client.get("/docs/secrets.txt") as answer:
            assert answer.status == 400
        async with client.get("/swagger/spec") as answer:
            spec = await answer.json()
        async with client.get("/openapi.json") as answer:
            assert await answer.json() == spec
        assert spec["openapi"] == "3.1.0" and "/v1/transfers" in spec["paths"] and "/api/users" in spec["paths"]
    finally:
        await client.close()


def test_x65_every_operation_is_described() -> None:
    for path, item in load_contract().document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                assert operation["summary"] and operation["tags"], (method, path)
                assert operation["responses"], (method, path)
