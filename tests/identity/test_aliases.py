"""The five systems' own paths, through HTTP: their shapes, our rules. Rows are those of the table of aliases."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import orjson
import pytest

from tests.identity.conftest import OPERATOR, PASSWORD, Node, Person, address, register, staff
from web.aliases.table import ALIASES, Alias
from web.contract import load_contract

CONTRACT = load_contract()
WRITES_WITH_KEY = [one for one in ALIASES if "idempotency-key" in CONTRACT.operations[one.operation].header.names]


async def _raw(
    node: Node, method: str, path: str, raw: bytes, token: str, **headers: str
) -> tuple[int, dict[str, Any]]:
    named = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | headers
    async with node.client.request(method, path, data=raw, headers=named) as answer:
        return answer.status, await answer.json(content_type=None)


async def _bare(node: Node, method: str, path: str, body: Any, token: str) -> tuple[int, dict[str, Any]]:
    """A request without an idempotency key in its header, as the five systems send it."""
    async with node.client.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"}) as answer:
        return answer.status, await answer.json(content_type=None)


async def _funded(node: Node, who: Person, asset: str, amount: str) -> str:
    status, account, _ = await node.call("POST", "/v1/accounts", {"asset": asset}, token=who.access)
    assert status == 201 or account["code"] == "account_already_exists", account
    body = {"account_id": f"{who.customer}:{asset}", "amount": amount}
    _, deposit, _ = await node.call("POST", "/v1/deposits", body, token=who.access)
    status, _, _ = await node.call("POST", f"/v1/deposits/{deposit['id']}/confirm", token=who.access)
    assert status == 200
    return f"{who.customer}:{asset}"


async def _available(node: Node, account: str) -> str:
    _, answer, _ = await node.call("GET", f"/v1/accounts/{account}/balances", token=OPERATOR)
    return str(answer["available"])


# --- Aurix and UPOP: what both own ------------------------------------------------------------------------------------


async def test_x01_x05_u12_u13_register_and_login_answer_in_both_shapes(node: Node) -> None:
    email = address()
    body = {"tenant_code": "demo", "email": email, "password": PASSWORD}
    status, made, _ = await node.call("POST", "/auth/register", body)
    assert status == 201
    assert set(made) == {"user_id", "email", "tenant_id", "wallet_id", "created_at"}
    assert (made["email"], made["tenant_id"]) == (email, "demo")

    status, grant, _ = await node.call("POST", "/auth/login", {"email": email, "password": PASSWORD})

    assert status == 200
    assert (grant["token_type"], grant["expires_in"]) == ("Bearer", 900)
    assert (grant["accessToken"], grant["refreshToken"]) == (grant["access_token"], grant["refresh_token"])
    status, pages, _ = await node.call("GET", "/transactions", token=grant["accessToken"])
    assert (status, set(pages)) == (200, {"items", "next_cursor"})


async def test_x04_several_tenants_are_told_in_aurix_shape(node: Node) -> None:
    email = address()
    for tenant in ("default", "demo"):
        await register(node, tenant=tenant, email=email)

    status, answer, _ = await node.call("POST", "/auth/login", {"email": email, "password": PASSWORD})

    assert status == 409
    assert answer["error"]["code"] == "tenant_selection_required"
    assert answer["error"]["message"] == "Multiple tenants found. Please select one."
    assert {one["tenant_code"] for one in answer["tenants"]} == {"default", "demo"}
    body = {"email": email, "password": PASSWORD, "tenant_code": "demo"}
    assert (await node.call("POST", "/auth/login", body))[0] == 200


async def test_x06_x07_x08_refresh_rotates_logout_and_a_new_password_end(node: Node) -> None:
    ada = await register(node)
    status, grant, _ = await node.call("POST", "/auth/refresh", {"refresh_token": ada.refresh})
    assert status == 200
    status, answer, _ = await node.call("POST", "/auth/refresh", {"refresh_token": ada.refresh})
    assert (status, answer["error"]["code"]) == (401, "token_revoked")

    assert (await node.call("POST", "/auth/logout", {}, token=grant["access_token"]))[0] == 200
    assert (await node.call("GET", "/transactions", token=grant["access_token"]))[0] == 401

    bob = await register(node)
    body = {"current_password": PASSWORD, "new_password": "another horse battery"}
    assert (await node.call("POST", "/auth/change-password", body, token=bob.access))[0] == 200
    assert (await node.call("GET", "/transactions", token=bob.access))[0] == 401


async def test_x19_history_is_paged_by_cursor_newest_first(node: Node) -> None:
    ada = await register(node)
    await _funded(node, ada, "USD", "10.00")
    seen, cursor = [], ""
    while True:
        _, page, _ = await node.call("GET", f"/transactions?limit=1{cursor}", token=ada.access)
        seen += [one["created_at"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) >= 2 and seen == sorted(seen, reverse=True)


async def test_x42_x43_x47_operators_list_and_deactivate_tenants(node: Node) -> None:
    name = f"t{uuid.uuid4().hex[:10]}"
    operator, ada = await staff(node, "operator"), await register(node)
    assert (await node.call("POST", "/v1/tenants", {"id": name}, token=operator.access))[0] == 201

    status, listed, _ = await node.call("GET", "/admin/tenants?limit=200", token=operator.access)
    assert status == 200 and name in [one["tenant_code"] for one in listed["items"]]
    status, tenant, _ = await node.call("POST", f"/admin/tenants/{name}/deactivate", token=operator.access)
    assert (status, tenant["tenant_id"], tenant["status"]) == (200, name, "inactive")

    for method, path in (("GET", "/admin/tenants"), ("POST", f"/admin/tenants/{name}/deactivate")):
        assert (await node.call(method, path, token=ada.access))[0] == 403
        assert (await node.call(method, path))[0] == 401


# --- LedgerBank -------------------------------------------------------------------------------------------------------


async def test_l01_l02_l03_l04_l107_login_has_its_envelope_and_its_five_fields(node: Node) -> None:
    ada = await register(node)
    status, answer, _ = await node.call("POST", "/api/auth/login", {"email": ada.email, "password": PASSWORD})
    assert (status, set(answer), answer["success"]) == (200, {"data", "success", "timestamp"}, True)
    assert set(answer["data"]) == {"access_token", "refresh_token", "user"}
    assert set(answer["data"]["user"]) == {"id", "email", "full_name", "role", "status"}

    refresh = {"refresh_token": answer["data"]["refresh_token"]}
    status, again, _ = await node.call("POST", "/api/auth/refresh", refresh)
    assert (status, set(again["data"])) == (200, {"access_token", "refresh_token", "user"})
    token = again["data"]["access_token"]
    status, me, _ = await node.call("GET", "/api/auth/me", token=token)
    assert (status, me["data"]["email"], me["data"]["active"]) == (200, ada.email, True)
    refresh = {"refresh_token": again["data"]["refresh_token"]}
    assert (await node.call("POST", "/api/auth/logout", refresh))[0] == 200
    assert (await node.call("GET", "/api/auth/me", token=token))[0] == 401


async def test_l10_l17_anyone_registers_and_is_a_user_whatever_the_body_says(node: Node) -> None:
    email = address()
    body = {"email": email, "full_name": "Alice", "password": PASSWORD, "password_confirmation": PASSWORD}
    status, answer, _ = await node.call("POST", "/api/users", body | {"role": "admin"})
    assert (status, answer["data"]["role"], answer["data"]["status"]) == (201, "user", "ACTIVE")
    _, login, _ = await node.call("POST", "/api/auth/login", {"email": email, "password": PASSWORD})
    assert login["data"]["user"]["role"] == "user"

    status, again, _ = await node.call("POST", "/api/users", body)
    assert (status, again["error"]["reason"], again["error"]["message"]) == (
        409,
        "email_already_exists",
        "Email already exists",
    )
    assert (again["error"]["type"], again["error"]["details"]["field"]) == ("conflict", "email")
    body |= {"email": address(), "password_confirmation": "another one"}
    assert await node.code("POST", "/api/users", body) == (400, "invalid_password_format")
    del body["password_confirmation"]
    assert await node.code("POST", "/api/users", body) == (400, "missing_fields")


async def test_l16_l18_l19_l20_l21_x17_admins_make_change_count_and_delete_users(node: Node) -> None:
    admin = await staff(node, "admin")
    _, before, _ = await node.call("GET", "/api/users/stats", token=admin.access)
    body = {"email": address(), "full_name": "Grace", "password": PASSWORD, "password_confirmation": PASSWORD}
    status, made = await _bare(node, "POST", "/api/users/admin", body | {"role": "support"}, admin.access)
    assert (status, made["data"]["role"], made["success"]) == (201, "support", True)
    key = str(uuid.uuid4())
    twice = body | {"email": address(), "role": "user"}
    _, first, _ = await node.call("POST", "/api/users/admin", twice, token=admin.access, key=key)
    status, again, headers = await node.call("POST", "/api/users/admin", twice, token=admin.access, key=key)
    assert (status, again["data"], headers["Idempotent-Replayed"]) == (201, first["data"], "true")
    ours = {name: twice[name] for name in ("email", "full_name", "password")} | {"roles": ["user"]}
    status, same, headers = await node.call("POST", "/v1/users/admin", ours, token=admin.access, key=key)
    assert (status, same["id"], headers["Idempotent-Replayed"]) == (201, first["data"]["id"], "true")
    path = f"/api/users/{made['data']['id']}"

    status, changed = await _bare(node, "PUT", path, {"full_name": "Grace H.", "status": "SUSPENDED"}, admin.access)
    assert (status, changed["data"]["full_name"], changed["data"]["suspended"]) == (200, "Grace H.", True)
    status, read, _ = await node.call("GET", path, token=admin.access)
    assert (status, read["data"]["status"]) == (200, "SUSPENDED")
    _, counted, _ = await node.call("GET", "/api/users/stats", token=admin.access)
    assert set(counted["data"]) == {"total_users", "active_users", "admin_users", "suspended_users"}
    assert counted["data"]["suspended_users"] == before["data"]["suspended_users"] + 1
    status, deleted = await _bare(node, "DELETE", path, None, admin.access)
    assert (status, deleted["data"]["status"], deleted["data"]["deleted"]) == (200, "DELETED", True)

    ada = await register(node)
    for method, url in (("GET", "/api/users"), ("GET", path), ("GET", "/api/users/stats"), ("DELETE", path)):
        assert (await node.call(method, url, token=ada.access))[0] == 403


async def test_l13_l14_l36_users_are_filtered_sorted_and_paged_by_number(node: Node) -> None:
    admin = await staff(node, "admin")
    made = [(await register(node)).email for _ in range(3)]

    # Who was erased has no address any more: the others are looked at.
    sorted_ = "/api/users?status=ACTIVE&page_size=2&sort=email:asc"
    _, first, _ = await node.call("GET", f"{sorted_}&page=1", token=admin.access)
    _, second, _ = await node.call("GET", f"{sorted_}&page=2", token=admin.access)
    total = first["pagination"]["total"]
    assert (len(first["data"]), first["pagination"]["page_size"], total >= 4) == (2, 2, True)
    emails = [one["email"] for one in first["data"] + second["data"]]
    assert emails == sorted(emails) and len(set(emails)) == len(emails)

    _, capped, _ = await node.call("GET", "/api/users?page_size=100000", token=admin.access)
    assert capped["pagination"]["page_size"] == 100
    sort = "status:desc,inserted_at:desc"
    _, newest, _ = await node.call("GET", f"/api/users?role=user&status=ACTIVE&sort={sort}", token=admin.access)
    assert [one["email"] for one in newest["data"]][: len(made)] == made[::-1]
    assert {one["role"] for one in newest["data"]} == {"user"}
    for query, code in (
        ("sort=password_hash:asc", "invalid_field"),
        ("sort=email:up", "invalid_field"),
        ("status=GONE", "invalid_status"),
        ("role=king", "invalid_role"),
        ("page=0", "invalid_field"),
        ("color=red", "unknown_field"),
        ("from=yesterday", "invalid_datetime_format"),
    ):
        assert await node.code("GET", f"/api/users?{query}", token=admin.access) == (400, code), query


async def test_l15_keyset_pages_are_stable_while_users_come(node: Node) -> None:
    admin = await staff(node, "admin")
    _, counted, _ = await node.call("GET", "/api/users/stats", token=admin.access)
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while len(seen) < counted["data"]["total_users"]:
        headers = {"Authorization": f"Bearer {admin.access}"}
        async with node.client.get("/api/users/keyset", params=query, headers=headers) as answer:
            page = await answer.json()
        assert answer.status == 200
        seen += [one["id"] for one in page["data"]]
        await register(node)
        following = page["pagination"]["next_cursor"]
        assert set(following) == {"inserted_at", "id"}
        query["cursor"] = orjson.dumps(following).decode()
        if len(seen) > 12:
            break
    assert len(seen) == len(set(seen))
    for wrong in ('{"id":"x"}', '{"inserted_at":"2026-01-01T00:00:00Z"}', "{]}", "x", '{"inserted_at":1,"id":2}'):
        params = {"cursor": wrong}
        async with node.client.get("/api/users/keyset", params=params, headers=headers) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "invalid_field"), wrong


async def test_l23_l24_l25_l11_a_profile_is_read_and_changed(node: Node) -> None:
    ada = await register(node)
    status, changed, _ = await node.call("PUT", "/api/profile", {"full_name": "Ada King"}, token=ada.access)
    assert (status, changed["data"]["full_name"]) == (200, "Ada King")
    status, read, _ = await node.call("GET", "/api/profile", token=ada.access)
    assert (status, read["data"]["full_name"]) == (200, "Ada King")
    new = {"new_password": "another horse battery", "password_confirmation": "another horse battery"}
    body = {"current_password": "not the password", **new}
    assert await node.code("PUT", "/api/profile/password", body, token=ada.access) == (401, "invalid_password")
    body["current_password"] = PASSWORD
    assert (await node.call("PUT", "/api/profile/password", body, token=ada.access))[0] == 200
    assert (await node.call("GET", "/api/profile", token=ada.access))[0] == 401


async def test_l26_l29_l30_l31_l35_a_credit_is_pending_until_it_is_processed(node: Node) -> None:
    ada = await register(node)
    account = ada.account
    before = await _available(node, account)
    body = {
        "amount": "100.50",
        "direction": "CREDIT",
        "payment_type": "DEPOSIT",
        "description": "salary",
        "user_bank_account_id": account,
    }
    status, made = await _bare(node, "POST", "/api/payments", body, ada.access)
    payment = made["data"]
    assert (status, payment["status"], payment["amount"], payment["posted_at"]) == (201, "PENDING", "100.50", None)
    assert (payment["direction"], payment["payment_type"], payment["user_bank_account_id"]) == (
        "CREDIT",
        "DEPOSIT",
        account,
    )
    assert await _available(node, account) == before
    path = f"/api/payments/{payment['id']}"
    _, read, _ = await node.call("GET", f"{path}/status", token=ada.access)
    assert read["data"] == {"id": payment["id"], "status": "PENDING", "posted_at": None}

    status, done = await _bare(node, "POST", f"{path}/process", {}, ada.access)
    assert (status, done["data"]["status"]) == (200, "COMPLETED")
    assert done["data"]["posted_at"] is not None
    status, again = await _bare(node, "POST", f"{path}/process", {}, ada.access)
    assert (status, again["error"]["reason"], again["error"]["type"]) == (409, "already_processed", "conflict")
    status, late = await _bare(node, "DELETE", path, None, ada.access)
    assert (status, late["error"]["reason"]) == (409, "invalid_state_transition")
    missing = f"/api/payments/{uuid.uuid4()}"
    _, none, _ = await node.call("GET", missing, token=ada.access)
    assert (none["error"]["reason"], none["error"]["code"]) == ("payment_not_found", 404)


async def test_l32_l28_l36_a_pending_payment_is_cancelled_and_lists_are_filtered(node: Node) -> None:
    ada, bob = await register(node), await register(node)
    credit = {
        "amount": "7.00",
        "direction": "CREDIT",
        "payment_type": "DEPOSIT",
        "user_bank_account_id": ada.account,
    }
    _, made = await _bare(node, "POST", "/api/payments", credit, ada.access)
    status, gone = await _bare(node, "DELETE", f"/api/payments/{made['data']['id']}", None, ada.access)
    assert (status, gone["data"]["status"]) == (200, "CANCELLED")
    debit = {
        "amount": "2.00",
        "direction": "DEBIT",
        "payment_type": "TRANSFER",
        "user_bank_account_id": ada.account,
        "to_account_id": bob.account,
    }
    status, sent = await _bare(node, "POST", "/api/payments", debit, ada.access)
    assert (status, sent["data"]["status"], sent["data"]["direction"]) == (201, "COMPLETED", "DEBIT")

    async def listed(query: str) -> list[str]:
        _, page, _ = await node.call("GET", f"/api/payments?{query}", token=ada.access)
        assert set(page["pagination"]) == {"page", "page_size", "total", "total_pages"}
        return [one["id"] for one in page["data"]]

    assert await listed("status=CANCELLED") == [gone["data"]["id"]]
    assert await listed("direction=DEBIT") == [sent["data"]["id"]]
    assert gone["data"]["id"] in await listed("direction=CREDIT&max=7.00&min=7.00")
    assert await listed("status=PENDING") == [] == await listed("status=PROCESSING")
    assert sent["data"]["id"] not in await listed("to=2020-01-01T00:00:00Z")
    for change, code in (
        ({"direction": "SIDEWAYS"}, "invalid_direction"),
        ({"payment_type": "GIFT"}, "invalid_payment_type"),
        ({"payment_type": "WITHDRAWAL"}, "invalid_payment_type"),
        ({"amount": "2.001"}, "invalid_amount_format"),
        ({"amount": 2}, "invalid_amount_format"),
        ({"amount": "-2.00"}, "negative_amount"),
        ({"amount": "999999999.00"}, "insufficient_funds"),
        ({"user_bank_account_id": "nonsense"}, "invalid_account_id"),
        ({"color": "red"}, "unknown_field"),
    ):
        status, answer = await _bare(node, "POST", "/api/payments", debit | change, ada.access)
        assert answer["error"]["reason"] == code, change
        assert status == (422 if code in ("negative_amount", "insufficient_funds") else 400)


async def test_l37_l38_l39_l40_health_is_bare_and_open(node: Node) -> None:
    status, health, _ = await node.call("GET", "/api/health")
    assert (status, set(health), health["status"]) == (200, {"status", "timestamp", "version", "uptime"}, "ok")
    assert health["version"] == "1.0.0" and health["uptime"] > 0
    _, detailed, _ = await node.call("GET", "/api/health/detailed")
    assert set(detailed["checks"]) == {"database", "memory", "disk"}
    assert detailed["checks"]["database"] == "ok"
    for path in ("/api/health/ready", "/api/health/live"):
        assert (await node.call("GET", path))[:2] == (200, {"status": "ok"})


# --- Settlement PoC -----------------------------------------------------------------------------------------------


async def test_s01_s02_s03_s04_s05_s07_a_deposit_is_exact_and_credited_once(node: Node) -> None:
    ada = await register(node)
    account = f"{ada.customer}:BTC"
    assert (await node.call("POST", "/v1/accounts", {"asset": "BTC"}, token=ada.access))[0] == 201
    own = str(uuid.uuid4())
    raw = f'{{"user_id":"{ada.customer}","currency":"BTC","amount":0.12345678,"transaction_id":"{own}"}}'.encode()

    async def deposit() -> tuple[int, dict[str, Any]]:
        return await _raw(node, "POST", "/wallet/deposit", raw, ada.access)

    answers = await asyncio.gather(*(deposit() for _ in range(5)))
    made = [body for status, body in answers if status == 201]
    assert made and {status for status, _ in answers} <= {201, 409}
    assert {one["id"] for one in made} == {made[0]["id"]}
    assert (made[0]["amount"], made[0]["status"], made[0]["transaction_id"]) == ("0.12345678", "pending", own)
    assert await _available(node, account) == "0.00000000"

    confirm = {"user_id": ada.customer, "transaction_id": own}
    for _ in range(2):
        status, done = await _bare(node, "POST", "/wallet/deposit/confirm", confirm, ada.access)
        assert (status, done["status"]) == (200, "confirmed")
    assert await _available(node, account) == "0.12345678"


async def test_s06_s10_another_user_cannot_deposit_or_confirm(node: Node) -> None:
    ada, eve = await register(node), await register(node)
    own = str(uuid.uuid4())
    body = {"user_id": ada.customer, "currency": "EUR", "amount": 1.5, "transaction_id": own}
    assert (await _bare(node, "POST", "/wallet/deposit", body, eve.access))[0] == 403
    status, made = await _bare(node, "POST", "/wallet/deposit", body, ada.access)
    assert (status, made["amount"]) == (201, "1.50")
    for who, user in ((eve, ada.customer), (eve, eve.customer)):
        confirm = {"user_id": user, "transaction_id": own}
        status, answer = await _bare(node, "POST", "/wallet/deposit/confirm", confirm, who.access)
        assert (status, answer["code"]) == (404, "transaction_not_found")
    confirm = {"user_id": ada.customer, "transaction_id": str(uuid.uuid4())}
    assert (await _bare(node, "POST", "/wallet/deposit/confirm", confirm, ada.access))[0] == 404


@pytest.mark.parametrize(
    "number",
    [
        "1e999999999",
        "1e400",
        "-0.0000000000000000000000001",
        "NaN",
        "Infinity",
        "true",
        "null",
        "[1]",
        "1." + "1" * 5000,
    ],
)
async def test_s07_u26_numbers_that_are_no_amounts_are_refused(node: Node, number: str) -> None:
    ada = await register(node)
    own = uuid.uuid4()
    raw = f'{{"user_id":"{ada.customer}","currency":"EUR","amount":{number},"transaction_id":"{own}"}}'.encode()
    status, answer = await _raw(node, "POST", "/wallet/deposit", raw, ada.access)
    assert status == 400
    assert answer["code"] in ("invalid_amount_format", "invalid_json")


# --- UPOP -------------------------------------------------------------------------------------------------------------


async def test_u14_u15_l52_a_core_account_and_a_core_transfer(node: Node) -> None:
    ada, bob = await register(node), await register(node)
    for who in (ada, bob):
        status, account = await _bare(node, "POST", "/core/accounts", {"currency": "USD"}, who.access)
        assert (status, account["account_id"], account["currency"]) == (201, f"{who.customer}:USD", "USD")
    await _funded(node, ada, "USD", "250.00")
    key = str(uuid.uuid4())
    body = {"amount": 100, "currency": "USD", "to_account_id": f"{bob.customer}:USD", "idempotency_key": key}

    status, sent = await _bare(node, "POST", "/core/transactions/transfer", body, ada.access)

    assert (status, sent["status"], sent["amount"], sent["currency"]) == (201, "completed", "100.00", "USD")
    assert sent["from_account_id"] == f"{ada.customer}:USD"
    status, again = await _bare(node, "POST", "/core/transactions/transfer", body, ada.access)
    assert (status, again["id"]) == (201, sent["id"])
    status, other = await _bare(node, "POST", "/core/transactions/transfer", body | {"amount": 99}, ada.access)
    assert (status, other["code"]) == (422, "idempotency_key_reused")
    much = body | {"amount": 999.5, "idempotency_key": str(uuid.uuid4())}
    status, poor = await _bare(node, "POST", "/core/transactions/transfer", much, ada.access)
    assert (status, poor["error"]["reason"]) == (422, "insufficient_funds")
    told = {"account_id": f"{ada.customer}:USD", "available": "150.00", "requested": "999.50"}
    assert poor["error"]["details"].items() >= told.items() and poor["error"]["type"] == "unprocessable_entity"
    assert poor["error"]["message"] == "Insufficient funds for this transaction"
    wrong = body | {"from_account_id": ada.account, "idempotency_key": str(uuid.uuid4())}
    status, refused = await _bare(node, "POST", "/core/transactions/transfer", wrong, ada.access)
    assert (status, refused["code"]) == (422, "currency_mismatch")
    assert await _available(node, f"{bob.customer}:USD") == "100.00"
    # The same request at /v1 is the same request.
    ours = {"from_account_id": f"{ada.customer}:USD", "to_account_id": f"{bob.customer}:USD", "amount": "100.00"}
    status, same, headers = await node.call("POST", "/v1/transfers", ours, token=ada.access, key=key)
    assert (status, same["id"], headers["Idempotent-Replayed"]) == (201, sent["id"], "true")


# --- every row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ALIASES, ids=lambda one: one.id)
def test_l90_x47_an_alias_has_the_permission_of_its_operation(alias: Alias) -> None:
    mine, original = CONTRACT.operations[alias.id], CONTRACT.operations[alias.operation]
    assert (mine.permission, mine.is_public) == (original.permission, original.is_public)
    assert mine.alias_of == original.id and not original.alias_of
    assert (mine.method, mine.path) == (alias.method, alias.url)


def _filled(path: str) -> str:
    return re.sub(r"\{\w+\}", lambda _: str(uuid.uuid4()), path)


@pytest.mark.parametrize("alias", WRITES_WITH_KEY, ids=lambda one: one.id)
async def test_a02_a03_an_alias_takes_a_key_but_no_malformed_one(node: Node, alias: Alias) -> None:
    operation = CONTRACT.operations[alias.id]
    path = _filled(operation.path.replace("{tenant_id}", "nosuchtenant"))
    body: dict[str, Any] | None = {} if operation.body else None
    answer = await node.code(alias.method, path, body, token=OPERATOR, key="not a uuid")
    assert answer == (400, "idempotency_key_invalid")


@pytest.mark.parametrize("alias", [one for one in ALIASES if one.body], ids=lambda one: one.id)
async def test_u26_l86_an_alias_refuses_what_its_schema_does_not_know(node: Node, alias: Alias) -> None:
    schema = CONTRACT.document["components"]["schemas"][alias.body]
    path = _filled(alias.url)
    body: dict[str, Any] = dict(schema.get("example", {}))
    admin = await staff(node, "operator" if CONTRACT.operations[alias.id].permission == "operations.check" else "admin")
    status, answer, _ = await node.call(alias.method, path, body | {"x\0y": 1}, token=admin.access)
    assert (status, answer["code"], answer["errors"][0]["pointer"]) == (400, "unknown_field", "/x\0y")
    for name in body:
        status, answer, _ = await node.call(alias.method, path, body | {name: {"a": 1}}, token=admin.access)
        assert status == 400, name
        assert answer["errors"][0]["pointer"] == f"/{name}"
        assert answer["error"]["type"] == "validation_error"
        if isinstance(body[name], str):
            for value in ("\0", "x" * 100_000):
                status, answer, _ = await node.call(alias.method, path, body | {name: value}, token=admin.access)
                assert (status, answer["errors"][0]["pointer"]) == (400, f"/{name}"), name
