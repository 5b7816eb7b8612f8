"""Nobody sees or touches what is not theirs: tests made from the route table, and the database's own wall."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from aura_stream.identity.permissions import ACTIONS
from aura_stream.ledger.connection import EVENTS, IDENTITY, PLATFORM, TENANT, connect
from tests.identity.conftest import (
    OPERATOR,
    PASSWORD,
    Node,
    Person,
    StartNode,
    address,
    dead_letter,
    register,
    staff,
)
from tests.web.conftest import Backend
from web.aliases.serve import BY_ID
from web.contract import CONTRACT_FILE, METHODS, Contract, ContractMismatch, Operation, _operation, load_contract

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]

OPERATIONS = [one for one in load_contract().operations.values() if not one.is_public]
WITH_ID = [one for one in OPERATIONS if "{" in one.path]
# Bodies that a write needs to be understood; {account} is the id under attack.
BODIES: dict[str, dict[str, Any]] = {
    "submitDeposit": {"account_id": "{account}", "amount": "1.00"},
    "submitTransfer": {"from_account_id": "{account}", "to_account_id": "{own}", "amount": "1.00"},
    "placeHold": {
        "account_id": "{account}",
        "to_account_id": "{own}",
        "amount": "1.00",
        "expires_at": "2999-01-01T00:00:00Z",
    },
    "releaseLane": {"stopped": "foreign_nonce", "note": "mine"},
    "assignBreak": {"owner": "me"},
    "resolveBreak": {"resolution": "explained", "note": "mine"},
    "submitWithdrawal": {
        "account_id": "{account}",
        "amount": "1.00",
        "rail": "sepa",
        "beneficiary": {"name": "Mallory", "account": "DE89370400440532013000"},
    },
    "retryWithdrawal": {"beneficiary": {"name": "Mallory", "account": "DE89370400440532013000"}},
    "resolveTransaction": {"outcome": "refund"},
    "updateUser": {"full_name": "Owned"},
    "updateWebhookEndpoint": {"status": "disabled"},
    "replayWebhookEndpoint": {"from": "2020-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"},
    "ledgerbank_put_api_users_id": {"full_name": "Owned"},
    "ledgerbank_post_api_payments": {
        "user_bank_account_id": "{account}",
        "to_account_id": "{own}",
        "amount": "1.00",
        "direction": "DEBIT",
        "payment_type": "TRANSFER",
    },
    "upop_post_core_transactions_transfer": {
        "from_account_id": "{account}",
        "to_account_id": "{own}",
        "amount": 1,
        "currency": "EUR",
        "idempotency_key": "{key}",
    },
    "settlement_post_wallet_deposit_confirm": {"user_id": "{customer}", "transaction_id": "{transaction}"},
}


def name_of(operation: Operation) -> str:
    return operation.id


async def _ids(node: Node, owner: Person) -> dict[str, str]:
    """One id of everything that `owner` has."""
    _, listed, _ = await node.call("GET", "/v1/transactions", token=owner.access)
    _, sessions, _ = await node.call("GET", "/v1/users/me/sessions", token=owner.access)
    body = {"name": "mine", "scopes": ["money.read"]}
    _, key, _ = await node.call("POST", "/v1/api-keys", body, token=owner.access)
    _, jwks, _ = await node.call("GET", "/.well-known/jwks.json")
    body = {"url": "https://93.184.216.34/hook"}
    _, endpoint, _ = await node.call("POST", "/v1/webhook-endpoints", body, token=owner.access)
    path = f"/v1/webhook-endpoints/{endpoint['id']}/test"
    _, delivery, _ = await node.call("POST", path, token=owner.access)
    scope: Any = {"scope": {"account": owner.account}}
    named = {"token": OPERATOR, "Aura_Tenant": owner.tenant, "Prefer": "wait=0"}
    _, pause, _ = await node.call("POST", "/v1/pauses", scope, **named)
    return {
        "break_id": "7012345678901234",  # breaks are the platform's: refused before it is looked for
        "lane": "chain:local:AUSD",  # so with lanes
        "pause_id": pause["id"],
        "event_id": await _event(node, owner),
        "endpoint_id": endpoint["id"],
        "delivery_id": delivery["id"],
        "account_id": owner.account,
        "transaction_id": listed["items"][0]["id"],
        "user_id": owner.id,
        "session_id": sessions["items"][0]["id"],
        "key_id": key["id"],
        "tenant_id": owner.tenant,
        "kid": jwks["keys"][0]["kid"],
        "request_id": await _erasure(node, owner),
        "idempotency_key": listed["items"][0]["idempotency_key"],
        "letter_id": await dead_letter(node, owner),
    }


async def _erasure(node: Node, owner: Person) -> str:
    """A request to forget `owner` that waits for a second person."""
    body = {"user_id": owner.id}
    _, made, _ = await node.call("POST", "/v1/privacy/erasure-requests", body, token=OPERATOR, Aura_Tenant=owner.tenant)
    if "id" in made:
        return str(made["id"])
    _, listed, _ = await node.call("GET", "/v1/privacy/erasure-requests", token=owner.access)
    return str(listed["items"][0]["id"])


async def _event(node: Node, owner: Person) -> str:
    """An event in the log, as its worker would write it; the id."""
    event_id = f"t-{uuid.uuid4().hex}"
    connection = await connect(node.services.settings.postgres_dsn, EVENTS)
    try:
        claim = await connection.fetchrow("SELECT epoch, next_offsets FROM events.claim(998)")
        assert claim is not None
        whose = [event_id], [owner.tenant], [owner.customer]
        at = datetime.now(UTC)
        body = {"id": event_id, "type": "test.event", "version": 1, "tenant_id": owner.tenant, "seq": 0}
        body |= {"customer_id": owner.customer, "occurred_at": at.isoformat(), "data": {}}
        body |= {"request_id": "", "causation_id": ""}
        rest = ["test.event"], ["none"], [0], [""], [at], [json.dumps(body)]
        values = (claim["epoch"], claim["next_offsets"], *whose, *rest)
        assert await connection.fetchval(
            "SELECT events.append(998, $1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)", *values
        )
    finally:
        await connection.close()
    return event_id


_MISSING = {
    "break_id": "7998765432109876",
    "lane": "chain:local:AEUR",
    "pause_id": "00000000-0000-4000-8000-000000000001",
    "event_id": "t-00000000000000000000000000000000",
    "endpoint_id": "00000000-0000-4000-8000-000000000001",
    "delivery_id": "00000000-0000-4000-8000-000000000001",
    "account_id": "nobody0123456789:EUR",
    "transaction_id": "00000000-0000-4000-8000-000000000001",
    "user_id": "00000000-0000-4000-8000-000000000001",
    "session_id": "00000000-0000-4000-8000-000000000001",
    "key_id": "0123456789abcdef",
    "tenant_id": "nosuchtenant",
    "kid": "0123456789abcdef",
    "request_id": "00000000-0000-4000-8000-000000000001",
    "idempotency_key": "00000000-0000-4000-8000-000000000001",
    "letter_id": "0-999999999",
}


async def _attack(node: Node, operation: Operation, who: Person, ids: dict[str, str]) -> tuple[int, str]:
    """What `who` gets for these ids: the status and the whole body, with the ids themselves taken out."""
    path, key, body = _path(operation, ids), str(uuid.uuid4()), None
    if operation.body is not None:
        words = {"{account}": ids["account_id"], "{own}": who.account, "{key}": key}
        words |= {"{customer}": ids["account_id"].partition(":")[0], "{transaction}": ids["transaction_id"]}
        given = BODIES.get(operation.id, {})
        body = {name: words.get(value, value) if isinstance(value, str) else value for name, value in given.items()}
    status, answer, headers = await node.call(operation.method, path, body, token=who.access, key=key)
    shown = str(dict(sorted(answer.items())))
    for one in (*ids.values(), headers["X-Request-Id"], key):
        shown = shown.replace(one, "?")
    return status, re.sub(r"'(command_id|request_id|timestamp)': '[^']*'", "", shown)


def _path(operation: Operation, ids: dict[str, str]) -> str:
    """The operation's path with these ids; an alias may have a name of its own for one."""
    own = BY_ID[operation.id].path if operation.alias_of else {}
    return re.sub(r"\{(\w+)\}", lambda match: ids[own.get(match[1], match[1])], operation.path)


@pytest.fixture
async def victim(node: Node) -> Person:
    return await register(node, tenant="demo")


@pytest.mark.parametrize("role", ["user", "support", "admin"])
async def test_sec13_x25_another_tenants_id_answers_exactly_like_a_missing_one(
    node: Node, victim: Person, owner: Owner, role: str
) -> None:
    attacker = await (register(node) if role == "user" else staff(node, role))
    theirs, before = await _ids(node, victim), await _snapshot(node, victim, owner)
    seen = {}
    for operation in [*WITH_ID, *(one for one in OPERATIONS if one.id in BODIES and one not in WITH_ID)]:
        real = await _attack(node, operation, attacker, theirs)
        missing = await _attack(node, operation, attacker, _MISSING)
        assert real == missing, operation.id
        assert real[0] in (403, 404), (operation.id, real)
        seen[operation.id] = real[0]
    assert len(seen) >= 20 and 404 in seen.values()
    assert await _snapshot(node, victim, owner) == before


async def test_sec13_another_customer_of_the_tenant_is_as_far_away(node: Node, owner: Owner) -> None:
    attacker, victim = await register(node), await register(node)
    theirs, before = await _ids(node, victim), await _snapshot(node, victim, owner)
    for operation in [*WITH_ID, *(one for one in OPERATIONS if one.id in BODIES and one not in WITH_ID)]:
        real = await _attack(node, operation, attacker, theirs)
        assert real == await _attack(node, operation, attacker, _MISSING), operation.id
        assert real[0] in (403, 404), (operation.id, real)
    assert await _snapshot(node, victim, owner) == before
    _, listed, _ = await node.call("GET", f"/v1/transactions?customer={victim.customer}", token=attacker.access)
    assert listed == {"items": [], "has_more": False, "next_cursor": None}


async def _snapshot(node: Node, victim: Person, owner: Owner) -> list[Any]:
    """Everything of the victim that an attack could change."""
    await node.services.identity.audit.written()
    _, account, _ = await node.call("GET", f"/v1/accounts/{victim.account}/balances", token=victim.access)
    _, me, _ = await node.call("GET", "/v1/users/me", token=victim.access)
    _, listed, _ = await node.call("GET", "/v1/transactions", token=victim.access)
    sessions = await owner.fetch("SELECT * FROM identity.sessions WHERE user_id = $1", uuid.UUID(victim.id))
    keys = await owner.fetch("SELECT * FROM identity.api_keys WHERE user_id = $1", uuid.UUID(victim.id))
    return [account, me, listed, sorted(map(str, sessions)), sorted(map(str, keys))]


async def test_x10_sec14_a_tenant_that_a_client_names_is_never_trusted(node: Node) -> None:
    ada, admin = await register(node), await staff(node, "admin")
    for who in (ada, admin):
        for path in (f"/v1/accounts/{who.account}", "/v1/transactions", "/v1/users/me", "/v1/api-keys"):
            answer = await node.code("GET", path, token=who.access, Aura_Tenant="demo")
            assert answer == (400, "tenant_mismatch"), path
            assert (await node.code("GET", path, token=who.access, Aura_Tenant="default"))[0] in (200, 404)
    for extra in ("tenant", "tenant_id"):
        body = {"asset": "USD", extra: "demo"}
        assert await node.code("POST", "/v1/accounts", body, token=ada.access) == (400, "unknown_field")


async def test_sec15_the_same_key_in_two_tenants_is_two_keys(node: Node) -> None:
    key = str(uuid.uuid4())
    for tenant in ("default", "demo"):
        who = await register(node, tenant=tenant)
        body = {"asset": "USD"}
        status, answer, headers = await node.call("POST", "/v1/accounts", body, token=who.access, key=key)
        assert (status, answer["tenant"], "Idempotent-Replayed" in headers) == (201, tenant, False)


# --- roles on routes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS, ids=name_of)
async def test_x68_l108_every_route_that_is_not_open_asks_for_a_login(node: Node, operation: Operation) -> None:
    path = _path(operation, _MISSING)
    for headers in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}, {"Authorization": "Bearer x.y.z"}):
        status, answer, got = await node.call(operation.method, path, {} if operation.body else None, **headers)
        assert (status, answer["code"]) == (401, "invalid_token")
        assert got["WWW-Authenticate"].startswith("Bearer")


async def test_sec19_x47_every_role_gets_403_exactly_where_the_table_says_none(node: Node) -> None:
    people = {role: await staff(node, role) for role in ("user", "support", "admin", "operator", "auditor")}
    from aura_stream.identity.permissions import Principal, Reach, reach

    for operation in OPERATIONS:
        if operation.id in ("revokeSigningKey", "rotateSigningKey"):
            continue  # would end everybody's tokens; their permission is the same as in the table
        path = _path(operation, _MISSING)
        if "ticket" in operation.query.names:
            path += "?unknown=1"  # a stream that is let in has no end
        for role, who in people.items():
            allowed = reach(Principal(kind="user", tenant="", roles=(role,)), operation.permission) > Reach.NONE
            body = {"unknown": 1} if operation.body else None
            status, code = await node.code(operation.method, path, body, token=who.access)
            # What is allowed is refused only for its content.
            assert (code == "insufficient_permissions") != allowed, (operation.id, role, status, code)


@pytest.mark.parametrize("path", ["/v1/Tenants", "/v1/tenants/", "/v1/%74enants/", "/v1//tenants", "/v1/tenants;x"])
async def test_sec19_other_spellings_of_a_path_lead_nowhere(node: Node, path: str) -> None:
    ada = await register(node)
    for method in ("GET", "HEAD", "OPTIONS", "PATCH"):
        async with node.client.request(
            method, path, headers={"Authorization": f"Bearer {ada.access}"}, allow_redirects=False
        ) as answer:
            assert answer.status in (403, 404, 405)


def test_sec19_a_route_without_a_declared_permission_stops_the_start() -> None:
    document = load_contract().document
    for path, item in document["paths"].items():
        for method in set(METHODS) & set(item):
            assert item[method]["x-permission"] in {*ACTIONS, "public"}
            for wrong in (None, "anything", "public" if item[method].get("security") != [] else "money.read"):
                changed = {**item, method: {**item[method], "x-permission": wrong}}
                with pytest.raises(ContractMismatch, match="x-permission"):
                    _operation(document, path, method, changed)
    assert isinstance(load_contract(), Contract) and CONTRACT_FILE.exists()


async def test_domain_2_16_support_reads_and_cancels_but_does_not_pay(node: Node) -> None:
    ada, bob = await register(node), await register(node)
    support, admin, auditor = await staff(node, "support"), await staff(node, "admin"), await staff(node, "auditor")
    deposit = {"account_id": ada.account, "amount": "5.00"}
    _, made, _ = await node.call("POST", "/v1/deposits", deposit, token=ada.access)
    path = f"/v1/transactions/{made['id']}"
    transfer = {"from_account_id": ada.account, "to_account_id": bob.account, "amount": "1.00"}
    for who in (support, admin, auditor):
        assert (await node.code("GET", path, token=who.access))[0] == 200
        assert (await node.code("POST", "/v1/transfers", transfer, token=who.access))[0] in (403, 404)
    assert (await node.code("POST", f"{path}/cancel", {}, token=auditor.access))[0] == 403
    assert (await node.code("POST", f"{path}/cancel", {}, token=bob.access)) == (404, "transaction_not_found")
    status, canceled, _ = await node.call("POST", f"{path}/cancel", {}, token=support.access)
    assert (status, canceled["status"]) == (200, "canceled")
    for who, status in ((ada, 403), (support, 403), (admin, 200)):
        assert (await node.code("POST", f"/v1/accounts/{ada.account}/freeze", token=who.access))[0] == status
    refused = await node.code("POST", "/v1/transfers", transfer, token=ada.access)
    assert refused == (422, "account_frozen")


async def test_u16_a_transaction_is_shown_to_both_its_parties_and_nobody_else(node: Node) -> None:
    ada, bob, eve = await register(node), await register(node), await register(node)
    transfer = {"from_account_id": ada.account, "to_account_id": bob.account, "amount": "1.00"}
    status, made, _ = await node.call("POST", "/v1/transfers", transfer, token=ada.access)
    assert (status, made["status"]) == (201, "completed")
    for who, expected in ((ada, 200), (bob, 200), (eve, 404)):
        assert (await node.code("GET", f"/v1/transactions/{made['id']}", token=who.access))[0] == expected


async def test_l90_operators_and_auditors_cross_tenants_and_are_written_down(node: Node, owner: Owner) -> None:
    victim = await register(node, tenant="demo")
    operator, auditor = await staff(node, "operator"), await staff(node, "auditor")
    path = f"/v1/accounts/{victim.account}"
    for who in (operator, auditor):
        assert (await node.code("GET", path, token=who.access))[0] == 404
        assert (await node.code("GET", path, token=who.access, Aura_Tenant="demo"))[0] == 200
    await node.services.identity.audit.written()
    rows = await owner.fetch(
        "SELECT actor FROM identity.audit_log WHERE tenant_id = 'demo' AND reason = 'crossed_tenants'"
    )
    assert {f"user:{operator.id}", f"user:{auditor.id}"} <= {row["actor"] for row in rows}


async def test_l18_admins_do_not_make_or_touch_operators(node: Node) -> None:
    admin, operator = await staff(node, "admin"), await staff(node, "operator")
    body = {"email": address(), "password": PASSWORD, "roles": ["operator"]}
    assert (await node.code("POST", "/v1/users/admin", body, token=admin.access)) == (403, "insufficient_permissions")
    for change in ({"status": "SUSPENDED"}, {"roles": ["user"]}):
        refused = await node.code("PUT", f"/v1/users/{operator.id}", change, token=admin.access)
        assert refused == (403, "insufficient_permissions")
        refused = await node.code("PUT", f"/v1/users/{admin.id}", change, token=admin.access)
        assert refused == (403, "insufficient_permissions")
    ada = await register(node)
    assert (await node.code("PUT", f"/v1/users/{ada.id}", {"roles": ["support"]}, token=admin.access))[0] == 200
    assert (await node.call("GET", "/v1/users/me", token=ada.access))[1]["roles"] == ["support"]


# --- API keys -------------------------------------------------------------------------------------------------------


async def test_api_keys_of_a_tenant_do_what_their_scopes_name_for_any_customer(node: Node) -> None:
    ada, bob, admin = await register(node), await register(node), await staff(node, "admin")
    body = {"name": "shop", "scopes": ["money.read", "money.create"]}
    status, made, _ = await node.call("POST", "/v1/api-keys", body, token=admin.access)
    assert status == 201 and made["customer"] is None
    key = made["key"]
    for who in (ada, bob):
        assert (await node.code("GET", f"/v1/accounts/{who.account}", token=key))[0] == 200
    transfer = {"from_account_id": ada.account, "to_account_id": bob.account, "amount": "1.00"}
    assert (await node.code("POST", "/v1/transfers", transfer, token=key))[0] == 201
    for method, path, content in (
        ("POST", "/v1/accounts", {"customer": "x", "asset": "EUR"}),
        ("GET", "/v1/users/me", None),
        ("GET", "/v1/api-keys", None),
    ):
        assert await node.code(method, path, content, token=key) == (403, "insufficient_permissions")
    assert await node.code("GET", f"/v1/accounts/{ada.account}", token=key, Aura_Tenant="demo") == (
        400,
        "tenant_mismatch",
    )


async def test_api_keys_of_a_user_reach_their_own_customer_only(node: Node) -> None:
    ada, bob = await register(node), await register(node)
    body = {"name": "script", "scopes": ["money.read"]}
    _, made, _ = await node.call("POST", "/v1/api-keys", body, token=ada.access)
    assert made["customer"] == ada.customer
    assert (await node.code("GET", f"/v1/accounts/{ada.account}", token=made["key"]))[0] == 200
    assert await node.code("GET", f"/v1/accounts/{bob.account}", token=made["key"]) == (404, "account_not_found")
    for theirs in ({**body, "user_id": bob.id},):
        refused = await node.code("POST", "/v1/api-keys", theirs, token=ada.access)
        assert refused == (403, "insufficient_permissions")
    _, listed, _ = await node.call("GET", "/v1/api-keys", token=ada.access)
    assert [one["id"] for one in listed["items"]] == [made["id"]] and "key" not in listed["items"][0]
    assert (await node.call("GET", "/v1/api-keys", token=bob.access))[1]["items"] == []


async def test_a_revoked_or_expired_key_is_out_on_every_node(node: Node, start_node: StartNode) -> None:
    other, admin = await start_node(), await staff(node, "admin")
    body = {"name": "shop", "scopes": ["money.read"]}
    _, made, _ = await node.call("POST", "/v1/api-keys", body, token=admin.access)
    assert (await other.code("GET", "/v1/transactions", token=made["key"]))[0] == 200
    wrong = made["key"][:-1] + ("A" if made["key"][-1] != "A" else "B")
    assert await other.code("GET", "/v1/transactions", token=wrong) == (401, "api_key_invalid")

    assert (await node.code("DELETE", f"/v1/api-keys/{made['id']}", token=admin.access))[0] == 200

    assert await other.code("GET", "/v1/transactions", token=made["key"]) == (401, "api_key_invalid")
    past = {**body, "expires_at": "2020-01-01T00:00:00Z"}
    assert await node.code("POST", "/v1/api-keys", past, token=admin.access) == (400, "invalid_field")


async def test_a_key_does_not_outlive_its_user(node: Node, start_node: StartNode) -> None:
    other, ada = await start_node(), await register(node)
    body = {"name": "script", "scopes": ["money.read"]}
    _, made, _ = await node.call("POST", "/v1/api-keys", body, token=ada.access)
    assert (await other.code("GET", "/v1/transactions", token=made["key"]))[0] == 200
    assert (await node.code("DELETE", f"/v1/users/{ada.id}", token=OPERATOR))[0] == 200
    assert await other.code("GET", "/v1/transactions", token=made["key"]) == (401, "api_key_invalid")


async def test_batch_lines_are_allowed_one_by_one(node: Node) -> None:
    ada, bob = await register(node), await register(node)
    lines = [_line(who.customer, "deposit.submit", account_id=who.account, amount="1.00") for who in (ada, bob)]
    lines.append(_line(ada.customer, "account.freeze", account_id=ada.account))
    headers = {"Authorization": f"Bearer {ada.access}", "Content-Type": "application/x-ndjson"}
    async with node.client.post("/v1/commands:batch", data="\n".join(lines), headers=headers) as answer:
        text = await answer.text()
    assert re.findall(r'"status":"(accepted|refused)"', text) == ["accepted", "refused", "refused"]
    assert text.count("insufficient_permissions") >= 2


def _line(customer: str, type_: str, **data: str) -> str:
    return json.dumps(
        {
            "id": str(uuid.uuid4()),
            "type": type_,
            "tenant": "default",
            "customer": customer,
            "idempotency_key": str(uuid.uuid4()),
            "issued_at": "2026-11-20T10:00:00Z",
            "data": data,
        }
    )


# --- writes that move no money, once --------------------------------------------------------------------------------


async def test_a02_the_same_key_makes_one_thing_on_any_node(node: Node, start_node: StartNode) -> None:
    other, admin, key = await start_node(), await staff(node, "admin"), str(uuid.uuid4())
    body = {"name": "shop", "scopes": ["money.read"]}
    answers = await asyncio.gather(
        *(one.call("POST", "/v1/api-keys", body, token=admin.access, key=key) for one in (node, other) * 10)
    )
    assert {status for status, _, _ in answers} <= {201, 409}
    made = {answer["key"] for status, answer, _ in answers if status == 201}
    assert len(made) == 1
    status, again, headers = await other.call("POST", "/v1/api-keys", body, token=admin.access, key=key)
    assert (status, again["key"], headers["Idempotent-Replayed"]) == (201, *made, "true")
    changed = await node.code("POST", "/v1/api-keys", {**body, "name": "x"}, token=admin.access, key=key)
    assert changed == (422, "idempotency_key_reused")


async def test_a_failed_write_gives_its_key_back(node: Node) -> None:
    key = str(uuid.uuid4())
    for _ in range(2):
        refused = await node.code("POST", "/v1/tenants", {"id": "default"}, token=OPERATOR, key=key)
        assert refused == (409, "tenant_already_exists")


# --- the database's own wall ----------------------------------------------------------------------------------------


async def test_sec16_sec17_without_a_tenant_nothing_is_seen_and_a_tenant_ends_with_its_transaction(
    node: Node, backend: Backend
) -> None:
    await register(node, tenant="demo")
    connection = await connect(backend.settings.postgres_dsn, IDENTITY)
    tables = [
        row["name"]
        for row in await connection.fetch(
            """SELECT c.relname AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'identity'::regnamespace AND c.relkind = 'r' AND a.attname = 'tenant_id'
                AND c.relname <> 'revocations'"""
        )
    ]
    assert len(tables) >= 10
    try:
        for table in tables:
            assert await connection.fetchval(f"SELECT count(*) FROM identity.{table}") == 0, table
            async with connection.transaction():
                await connection.execute("SELECT set_config('aura.tenant', 'demo', true)")
                seen = await connection.fetch(f"SELECT DISTINCT tenant_id FROM identity.{table}")
                assert {row["tenant_id"] for row in seen} <= {"demo"}, table
            assert await connection.fetchval(f"SELECT count(*) FROM identity.{table}") == 0, table
        async with connection.transaction():
            await connection.execute("SELECT set_config('aura.tenant', 'demo', true)")
            assert await connection.fetchval("SELECT count(*) FROM identity.users") > 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            async with connection.transaction():
                await connection.execute("SELECT set_config('aura.tenant', 'demo', true)")
                await connection.execute(
                    """INSERT INTO identity.users (user_id, tenant_id, customer_id, roles)
                    VALUES (gen_random_uuid(), 'default', 'smuggled', '{admin}')"""
                )
    finally:
        await connection.close()


async def test_sec16_the_ledger_shows_the_api_one_tenant_at_a_time(node: Node, backend: Backend, owner: Owner) -> None:
    victim = await register(node, tenant="demo")
    assert (await node.code("GET", f"/v1/accounts/{victim.account}", token=victim.access))[0] == 200  # it is stored
    things = [
        row["name"]
        for row in await owner.fetch(
            """SELECT c.relname AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'v') AND a.attname = 'tenant_id'"""
        )
    ]
    assert {"accounts", "transactions", "journals", "entries", "balances", "in_flight"} <= set(things)
    balance = f"SELECT posted FROM ledger.balance_as_of('demo', '{victim.account}')"
    connection = await connect(backend.settings.postgres_read_dsn, TENANT)
    try:
        for tenant, is_seen in ((None, False), ("default", False), ("demo", True)):
            async with connection.transaction():
                await connection.execute("SELECT set_config('aura.tenant', $1, true)", tenant or "")
                for thing in things:
                    found = await connection.fetch(f"SELECT DISTINCT tenant_id FROM ledger.{thing}")
                    assert {row["tenant_id"] for row in found} <= ({tenant} if tenant else set()), (tenant, thing)
                mine = "SELECT count(*) FROM ledger.entries WHERE account_id = $1"
                assert bool(await connection.fetchval(mine, victim.account)) == is_seen
                assert await connection.fetchval(balance) == (1_000_000 if is_seen else 0)
        for statement in ("DELETE FROM ledger.entries", "UPDATE ledger.accounts SET status = 'open'"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
    bypass = await owner.fetch("SELECT rolname FROM pg_roles WHERE rolbypassrls AND rolname LIKE 'aura_%'")
    assert [row["rolname"] for row in bypass] == ["aura_writer"]


async def test_sec16_the_roles_own_nothing_bypass_nothing_and_every_table_is_forced(owner: Owner) -> None:
    for role in (IDENTITY, PLATFORM, TENANT):
        row = await owner.fetchrow("SELECT rolbypassrls, rolsuper, rolcanlogin FROM pg_roles WHERE rolname = $1", role)
        assert row is not None and not any(row.values())
        assert await owner.fetchval("SELECT count(*) FROM pg_class WHERE relowner = $1::text::regrole", role) == 0
    open_tables = await owner.fetch(
        """SELECT relname FROM pg_class WHERE relnamespace = 'identity'::regnamespace AND relkind = 'r'
        AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY relname"""
    )
    # What belongs to the platform and says nothing of a person: ids to forget, processes, public keys, and pseudonyms
    # of no use without a secret that the database does not have.
    names = ["login_places", "nodes", "rate_buckets", "revocations", "signing_keys"]
    assert [row["relname"] for row in open_tables] == names


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM identity.users",
        "DELETE FROM identity.sessions",
        "DELETE FROM identity.audit_log",
        "UPDATE identity.audit_log SET reason = ''",
        "INSERT INTO identity.audit_log SELECT * FROM identity.audit_log",
        "UPDATE identity.users SET tenant_id = 'demo'",
        "UPDATE identity.users SET customer_id = 'other'",
        "UPDATE identity.sessions SET user_id = gen_random_uuid()",
        "UPDATE identity.api_keys SET scopes = '{money.create}'",
        "UPDATE identity.tenants SET status = 'active'",
        "TRUNCATE identity.users",
        "DROP TABLE identity.users",
        "SELECT * FROM ledger.entries",
    ],
)
async def test_sec47_the_role_of_the_api_can_do_no_more_than_its_part(backend: Backend, statement: str) -> None:
    connection = await connect(backend.settings.postgres_dsn, IDENTITY)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


# --- audit ----------------------------------------------------------------------------------------------------------


async def test_l85_sec57_refusals_and_admin_actions_are_written_down_without_secrets(node: Node, owner: Owner) -> None:
    admin, ada = await staff(node, "admin"), await register(node)
    request = f"audit-{uuid.uuid4().hex[:8]}"
    bad = {"email": ada.email, "password": "a-canary-password"}
    await node.call("POST", "/v1/auth/login", bad, X_Request_Id=f"{request}-1")
    await node.call("GET", "/v1/tenants", token=ada.access, X_Request_Id=f"{request}-2")
    await node.call("GET", "/v1/users/me", token=ada.access[:-4] + "AAAA", X_Request_Id=f"{request}-3")
    await node.call("PUT", f"/v1/users/{ada.id}", {"full_name": "A"}, token=admin.access, X_Request_Id=f"{request}-4")
    await node.services.identity.audit.written()

    rows = await owner.fetch(
        "SELECT * FROM identity.audit_log WHERE request_id LIKE $1 ORDER BY request_id", f"{request}%"
    )

    assert [(row["actor"], row["action"], row["outcome"], row["reason"]) for row in rows] == [
        ("anonymous", "session.login", "refused", "invalid_credentials"),
        (f"user:{ada.id}", "tenants.read", "refused", "insufficient_permissions"),
        ("anonymous", "profile.read", "refused", "invalid_token"),
        (f"user:{admin.id}", "user.update", "ok", ""),
    ]
    whole = str([dict(row) for row in await owner.fetch("SELECT * FROM identity.audit_log")])
    for secret in ("a-canary-password", ada.email, ada.access, "127.0.0.1"):
        assert secret not in whole


@pytest.mark.parametrize(
    "crime",
    [
        "UPDATE identity.audit_log SET reason = 'nothing' WHERE tenant_id = $1 AND seq = 2",
        "DELETE FROM identity.audit_log WHERE tenant_id = $1 AND seq = 2",
        """WITH moved AS (DELETE FROM identity.audit_log WHERE tenant_id = $1 AND seq = 2 RETURNING *)
        INSERT INTO identity.audit_log SELECT tenant_id, 99, at, actor, action, outcome, reason, subject, request_id,
            address_sealed, previous, hash FROM moved""",
    ],
)
async def test_sec46_the_chain_names_the_first_row_that_is_wrong(node: Node, owner: Owner, crime: str) -> None:
    tenant = f"t{uuid.uuid4().hex[:8]}"
    assert (await node.code("POST", "/v1/tenants", {"id": tenant}, token=OPERATOR))[0] == 201
    for _ in range(3):
        body = {"email": address(), "password": PASSWORD, "roles": ["user"]}
        assert (await node.code("POST", "/v1/users/admin", body, token=OPERATOR, Aura_Tenant=tenant))[0] == 201
    assert await owner.fetchval("SELECT identity.audit_broken_at($1)", tenant) is None
    with pytest.raises(asyncpg.RestrictViolationError):
        await owner.execute(crime, tenant)
    async with owner.transaction():
        await owner.execute("ALTER TABLE identity.audit_log DISABLE TRIGGER immutable")
        await owner.execute(crime, tenant)
        await owner.execute("ALTER TABLE identity.audit_log ENABLE ALWAYS TRIGGER immutable")
    assert await owner.fetchval("SELECT identity.audit_broken_at($1)", tenant) == 2
