"""What admins see and do: users, sessions, tenants, the audit log, dead letters, idempotency keys."""

from __future__ import annotations

import asyncio
import base64
import uuid
from typing import Any

import asyncpg
import pytest

from aura_stream.identity import administration, samples
from aura_stream.settings import load_settings
from tests.identity.conftest import (
    OPERATOR,
    PASSWORD,
    Node,
    Person,
    StartNode,
    address,
    dead_letter,
    login,
    register,
    staff,
)


async def _tenant(node: Node) -> str:
    """A tenant that no other test has; its people have no money, and need none."""
    tenant = f"t{uuid.uuid4().hex[:10]}"
    assert (await node.code("POST", "/v1/tenants", {"id": tenant}, token=OPERATOR))[0] == 201
    return tenant


async def test_x42_a_tenant_made_over_http_has_accounts_and_money_without_a_restart(
    node: Node, start_node: StartNode
) -> None:
    other, tenant = await start_node(), f"t{uuid.uuid4().hex[:10]}"
    status, made, _ = await node.call("POST", "/v1/tenants", {"id": tenant}, token=OPERATOR)
    assert (status, made["ledger"]) == (201, "open")
    ada, bob = [await register(one, tenant=tenant) for one in (node, other)]
    transfer = {"from_account_id": ada.account, "to_account_id": bob.account, "amount": "2.50"}
    status, sent, _ = await other.call("POST", "/v1/transfers", transfer, token=ada.access)
    assert (status, sent["status"]) == (201, "completed"), sent
    _, balances, _ = await node.call("GET", f"/v1/accounts/{bob.account}/balances", token=bob.access)
    assert balances["available"] == "10002.50"
    assert await node.code(
        "POST", "/v1/accounts", {"customer": "x", "asset": "EUR"}, token=OPERATOR, Aura_Tenant=f"{tenant}x"
    ) == (404, "tenant_not_found")
    assert await node.code("POST", "/v1/tenants", {"id": tenant}, token=OPERATOR) == (409, "tenant_already_exists")


async def test_a_tenant_that_the_ledger_does_not_know_yet_waits_with_503_and_opens_by_itself(
    node: Node, owner: asyncpg.Connection[asyncpg.Record]
) -> None:
    tenant = f"t{uuid.uuid4().hex[:10]}"
    # As it is left by a process that ended between its row and the ledger's answer.
    await owner.execute("INSERT INTO identity.tenants (tenant_id, name) VALUES ($1, $1)", tenant)
    body, codes = {"customer": "ada", "asset": "EUR"}, set()
    async with asyncio.timeout(60):
        while True:
            status, answer, headers = await node.call("POST", "/v1/accounts", body, token=OPERATOR, Aura_Tenant=tenant)
            if status == 201:
                break
            codes.add((status, answer["code"], headers["Retry-After"]))
            await asyncio.sleep(0.01)
    assert codes <= {(503, "ledger_behind", "1")}
    assert (await node.call("GET", f"/v1/tenants/{tenant}", token=OPERATOR))[1]["ledger"] == "open"


async def _people(node: Node, tenant: str, *names: str) -> list[str]:
    ids = []
    for name in names:
        body = {"email": f"{name}@{tenant}.example.com", "password": PASSWORD, "roles": ["user"], "full_name": name}
        _, made, _ = await node.call("POST", "/v1/users/admin", body, token=OPERATOR, Aura_Tenant=tenant)
        ids.append(made["id"])
    return ids


async def test_l13_l14_users_are_listed_by_page_filter_and_sort(node: Node) -> None:
    tenant = await _tenant(node)
    ids = await _people(node, tenant, "cleo", "Ada", "bob")
    assert (await node.code("PUT", f"/v1/users/{ids[2]}", {"status": "SUSPENDED"}, token=OPERATOR, Aura_Tenant=tenant))[
        0
    ] == 200

    async def names(query: str) -> list[str]:
        status, listed, _ = await node.call("GET", f"/v1/users?{query}", token=OPERATOR, Aura_Tenant=tenant)
        assert status == 200, listed
        return [one["full_name"] for one in listed["items"]]

    assert await names("") == ["cleo", "Ada", "bob"]
    assert await names("sort=email:asc") == await names("sort=full_name") == ["Ada", "bob", "cleo"]
    assert await names("sort=status:asc,email:desc") == ["cleo", "Ada", "bob"]
    assert await names("sort=created_at:desc") == ["bob", "Ada", "cleo"]
    assert await names("status=SUSPENDED") == ["bob"]
    assert await names("status=ACTIVE&sort=email:desc") == ["cleo", "Ada"]
    assert await names(f"email=ADA@{tenant}.example.com") == ["Ada"]
    assert await names("role=admin") == []
    assert await names("page=2&page_size=2") == await names("page=2&page_size=2&sort=created_at") == ["bob"]
    assert await names("page=2&page_size=2&sort=full_name:asc") == ["cleo"]
    _, page, _ = await node.call("GET", "/v1/users?page_size=2", token=OPERATOR, Aura_Tenant=tenant)
    assert (page["page"], page["page_size"], page["total"], page["has_more"]) == (1, 2, 3, True)
    for bad in ("sort=password_hash:asc", "sort=email:up", "page=0", "page_size=101", "status=GONE", "order=1"):
        assert (await node.code("GET", f"/v1/users?{bad}", token=OPERATOR, Aura_Tenant=tenant))[0] == 400


@pytest.mark.parametrize("sort", ["email:asc", "full_name:desc,created_at:asc", "created_at:asc", "status,email:desc"])
async def test_l14_l15_every_sort_is_walked_by_cursor_without_loss_while_users_are_added(node: Node, sort: str) -> None:
    tenant = await _tenant(node)
    ids = await _people(node, tenant, "same", "b", "A", "d", "same2", "c")
    seen: list[str] = []
    cursor = ""
    while True:
        path = f"/v1/users?limit=2&sort={sort}{cursor}"
        _, page, _ = await node.call("GET", path, token=OPERATOR, Aura_Tenant=tenant)
        seen += [one["id"] for one in page["items"]]
        if len(seen) == 2:
            await _people(node, tenant, "a2", "z")
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) and set(ids) <= set(seen)


async def test_l14_more_users_than_can_be_opened_are_not_sorted_by_what_is_sealed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await _tenant(node)
    await _people(node, tenant, "a", "b", "c")
    monkeypatch.setattr(administration, "SORTED_MAX", 2)
    status, problem, _ = await node.call("GET", "/v1/users?sort=email", token=OPERATOR, Aura_Tenant=tenant)
    assert (status, problem["code"], problem["errors"][0]["pointer"]) == (400, "invalid_field", "sort")
    path = f"/v1/users?sort=email&email=a@{tenant}.example.com"
    assert (await node.call("GET", path, token=OPERATOR, Aura_Tenant=tenant))[0] == 200


async def test_l21_stats_count_users_by_kind(node: Node) -> None:
    tenant = await _tenant(node)
    ids = await _people(node, tenant, "a", "b", "c")
    admin = {"email": address(), "password": PASSWORD, "roles": ["admin"]}
    assert (await node.code("POST", "/v1/users/admin", admin, token=OPERATOR, Aura_Tenant=tenant))[0] == 201
    await node.call("PUT", f"/v1/users/{ids[0]}", {"status": "SUSPENDED"}, token=OPERATOR, Aura_Tenant=tenant)
    await node.call("DELETE", f"/v1/users/{ids[1]}", token=OPERATOR, Aura_Tenant=tenant)
    _, stats, _ = await node.call("GET", "/v1/users/stats", token=OPERATOR, Aura_Tenant=tenant)
    assert stats == {"total_users": 4, "active_users": 2, "admin_users": 1, "suspended_users": 1}


async def test_admins_end_a_users_session_on_every_node(node: Node, start_node: StartNode) -> None:
    other, ada, admin = await start_node(), await register(node), await staff(node, "admin")
    second = await login(node, ada.email)
    _, listed, _ = await node.call("GET", f"/v1/users/{ada.id}/sessions", token=admin.access)
    assert len(listed["items"]) == 2 and not any(one["current"] for one in listed["items"])
    assert (await other.code("GET", "/v1/users/me", token=second.access))[0] == 200
    newest = listed["items"][0]["id"]
    assert (await node.code("DELETE", f"/v1/users/{ada.id}/sessions/{newest}", token=admin.access))[0] == 200
    assert await other.code("GET", "/v1/users/me", token=second.access) == (401, "token_revoked")
    assert (await other.code("GET", "/v1/users/me", token=ada.access))[0] == 200


async def test_l85_the_audit_log_is_read_by_filters_and_pages(node: Node) -> None:
    ada, admin = await register(node), await staff(node, "admin")
    await node.call("POST", "/v1/auth/login", {"email": ada.email, "password": "wrong-password"})
    await node.services.identity.audit.written()
    path = f"/v1/audit-log?actor=user:{ada.id}"
    _, page, _ = await node.call("GET", f"{path}&limit=1", token=admin.access)
    assert (page["items"][0]["action"], page["has_more"]) == ("session.login", True)
    _, rest, _ = await node.call("GET", f"{path}&cursor={page['next_cursor']}", token=admin.access)
    assert [one["action"] for one in rest["items"]] == ["user.register"]
    assert rest["items"][0]["address"] == "127.0.0.1"
    _, refused, _ = await node.call("GET", "/v1/audit-log?outcome=refused&limit=200", token=admin.access)
    assert {one["outcome"] for one in refused["items"]} == {"refused"}
    assert (await node.call("GET", f"{path}&to=2020-01-01T00:00:00Z", token=admin.access))[1]["items"] == []
    platform = "/v1/audit-log?chain=platform&action=user.create"
    assert await node.code("GET", platform, token=admin.access) == (403, "insufficient_permissions")
    assert (await node.call("GET", "/v1/audit-log?chain=platform", token=OPERATOR))[0] == 200


async def test_idempotency_keys_are_looked_up(node: Node) -> None:
    ada, admin, key = await register(node), await staff(node, "admin"), str(uuid.uuid4())
    deposit = {"account_id": ada.account, "amount": "5.00"}
    _, made, _ = await node.call("POST", "/v1/deposits", deposit, token=ada.access, key=key)
    await node.call("GET", f"/v1/transactions/{made['id']}", token=ada.access)
    await node.call("GET", "/v1/transactions", token=ada.access)  # waits until it is stored
    status, found, _ = await node.call("GET", f"/v1/idempotency-keys/{key}", token=admin.access)
    assert status == 200 and [one["id"] for one in found["transactions"]] == [made["id"]]
    body, key = {"name": "shop", "scopes": ["money.read"]}, str(uuid.uuid4())
    await node.call("POST", "/v1/api-keys", body, token=admin.access, key=key)
    _, found, _ = await node.call("GET", f"/v1/idempotency-keys/{key}", token=admin.access)
    assert [(one["actor"], one["status"]) for one in found["answers"]] == [(f"user:{admin.id}", 201)]
    missing = await node.code("GET", f"/v1/idempotency-keys/{uuid.uuid4()}", token=admin.access)
    assert missing == (404, "idempotency_key_not_found")


async def test_dead_letters_are_listed_read_and_sent_again_by_two_persons(node: Node) -> None:
    ada, admin, operator = await register(node), await staff(node, "admin"), await staff(node, "operator")
    letter = await dead_letter(node, ada)
    status, shown, _ = await node.call("GET", f"/v1/dead-letters/{letter}", token=admin.access)
    assert (status, shown["reason"], shown["tenant"]) == (200, "invalid_json", "default")
    assert base64.b64decode(shown["key_base64"]).decode() == f"default/{ada.customer}"
    path = f"/v1/dead-letters/{letter}/requeue"
    assert await node.code("POST", f"{path}/approve", token=OPERATOR) == (409, "invalid_state_transition")
    assert (await node.code("POST", path, token=operator.access))[0] == 202
    assert await node.code("POST", path, token=admin.access) == (409, "already_processed")
    assert await node.code("POST", f"{path}/approve", token=operator.access) == (403, "maker_is_checker")
    status, done, _ = await node.call("POST", f"{path}/approve", token=OPERATOR)
    assert (status, done["status"], done["maker"]) == (200, "requeued", f"user:{operator.id}")
    assert await node.code("POST", path, token=admin.access) == (409, "already_processed")
    # It fails again, as a new letter with the same bytes.
    value = shown["value_base64"]
    for _ in range(200):
        _, listed, _ = await node.call("GET", "/v1/dead-letters?limit=20", token=OPERATOR)
        again = [
            one["id"]
            for one in listed["items"]
            if one["id"] != letter
            and (await node.call("GET", f"/v1/dead-letters/{one['id']}", token=OPERATOR))[1]["value_base64"] == value
        ]
        if again:
            break
    assert again
    _, trail, _ = await node.call("GET", f"/v1/audit-log?subject={letter}", token=admin.access)
    assert [one["action"] for one in trail["items"]] == ["dead_letter.requeue", "dead_letter.requeue_request"]


async def test_dead_letters_come_in_pages_without_gap_or_repeat(node: Node) -> None:
    people: list[Person] = [await register(node) for _ in range(3)]
    made = [await dead_letter(node, who) for who in people for _ in range(2)]
    seen: list[str] = []
    cursor = ""
    for _ in range(100):
        _, page, _ = await node.call("GET", f"/v1/dead-letters?limit=2{cursor}", token=OPERATOR)
        seen += [one["id"] for one in page["items"]]
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) and set(made) <= set(seen)


@pytest.mark.parametrize("path", ["/v1/dead-letters/9999-1", "/v1/dead-letters/0-99999999999"])
async def test_a_dead_letter_that_is_not_there_is_404(node: Node, path: str) -> None:
    assert await node.code("GET", path, token=OPERATOR) == (404, "dead_letter_not_found")


DEMO = {
    "tenants": ("default", "demo", "aurix-demo", "partner-co"),
    "sample_logins": True,
    "demo_tenant": "aurix-demo",
    "demo_admin_email": "admin@Aurix.com",
    "demo_admin_password": "P@ssw0rd",
    "demo_user_email": "user@Aurix.com",
    "demo_user_password": "Password@",
}


async def test_x26_x60_x61_l96_demo_tenants_and_people_are_there_once(start_node: StartNode) -> None:
    node, other = [await start_node(**DEMO) for _ in range(2)]
    people = [
        ("ADMIN@aurix.com", "P@ssw0rd", "operator", "aurix-demo"),
        ("user@aurix.com", "Password@", "user", "aurix-demo"),
        ("alice@example.com", "password123!", "user", "default"),
        ("admin@example.com", "admin123!", "admin", "default"),
    ]
    for email, password, role, tenant in people:
        for one in (node, other):
            async with asyncio.timeout(30):
                while True:
                    body = {"email": email, "password": password}
                    status, answer, _ = await one.call("POST", "/v1/auth/login", body)
                    if status == 200:
                        break
                    await asyncio.sleep(0.1)
            assert (answer["user"]["role"], answer["user"]["tenant"]) == (role, tenant)
            # As in Aurix, whose admin has all of /admin/*.
            sees = (await one.call("GET", "/admin/tenants", token=answer["access_token"]))[0]
            assert sees == (200 if role == "operator" else 403)
    await node.services.identity.audit.written()
    await samples.ensure(*_of(node))
    for tenant, count in (("aurix-demo", 2), ("partner-co", 0)):
        _, listed, _ = await node.call("GET", "/v1/users?page=1", token=OPERATOR, Aura_Tenant=tenant)
        assert listed["total"] == count
    assert (await node.call("GET", "/v1/tenants/partner-co", token=OPERATOR))[1]["status"] == "active"


def _of(node: Node) -> Any:
    identity = node.services.identity
    return node.services.settings, identity.database, identity.logins, identity.passwords, identity.audit


@pytest.mark.parametrize("missing", [name for name in DEMO if name.startswith("demo_")])
def test_x61_one_setting_missing_seeds_nobody_and_live_mode_never_does(missing: str) -> None:
    assert len(samples.samples(load_settings(**DEMO))) == 4
    assert {one.tenant for one in samples.samples(load_settings(**DEMO | {missing: ""}))} == {"default"}
    live = {"mode": "live", "api_key": bytes(range(16)).hex(), "identity_secret": bytes(range(32)).hex()}
    assert samples.samples(load_settings(**DEMO | live)) == []
