"""Registration, login, refresh, logout, passwords, e-mail verification: through HTTP, on the real thing."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import bcrypt
import pytest

from aura_stream.identity import repository
from tests.identity.conftest import OPERATOR, PASSWORD, Node, StartNode, address, login, register, staff

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]


async def test_x01_x02_u13_registration_makes_a_user_with_a_wallet_that_has_money(node: Node) -> None:
    email = address()
    body = {"tenant_code": "demo", "email": email, "password": PASSWORD}

    status, made, _ = await node.call("POST", "/v1/auth/register", body)

    assert status == 201 and set(made) == {"user_id", "email", "tenant_id", "wallet_id", "created_at"}
    assert (made["email"], made["tenant_id"]) == (email, "demo")
    ada = await login(node, email, tenant="demo")
    status, balances, _ = await node.call("GET", f"/v1/accounts/{made['wallet_id']}:EUR/balances", token=ada.access)
    assert (status, balances["posted"], balances["available"]) == (200, "10000.00", "10000.00")


async def test_x02_a_wallet_is_opened_once_also_when_the_answer_did_not_wait_for_it(
    node: Node, start_node: StartNode
) -> None:
    other = await start_node(api_wait_s=0.0)
    ada = await register(other)
    async with asyncio.timeout(20):
        while True:
            _, listed, _ = await node.call("GET", "/v1/transactions?status=completed", token=ada.access)
            if listed.get("items"):
                break
            await asyncio.sleep(0.05)
    _, listed, _ = await node.call("GET", "/v1/transactions", token=ada.access)
    assert [one["type"] for one in listed["items"]] == ["deposit"]


async def test_x11_x03_x04_one_address_in_several_tenants_is_asked_which(node: Node) -> None:
    email = address()
    await register(node, tenant="default", email=email)
    status, _, _ = await node.call("POST", "/v1/auth/login", {"email": email.upper(), "password": PASSWORD})
    assert status == 200

    await register(node, tenant="demo", email=email)
    status, answer, _ = await node.call("POST", "/v1/auth/login", {"email": email, "password": PASSWORD})

    assert (status, answer["code"]) == (409, "tenant_selection_required")
    assert [one["tenant_code"] for one in answer["tenants"]] == ["default", "demo"]
    assert (await login(node, email, tenant="demo")).user["tenant"] == "demo"


async def test_x04_tenants_whose_password_differs_are_not_told(node: Node) -> None:
    email = address()
    await register(node, tenant="default", email=email)
    await register(node, tenant="demo", email=email, password="another horse battery")

    status, answer, _ = await node.call("POST", "/v1/auth/login", {"email": email, "password": PASSWORD})
    assert (status, answer["user"]["tenant"]) == (200, "default")
    wrong = {"email": email, "password": "neither of the two"}
    assert await node.code("POST", "/v1/auth/login", wrong) == (401, "invalid_credentials")


async def test_l47_x11_an_address_is_taken_once_per_tenant_whatever_its_case(node: Node) -> None:
    ada = await register(node)
    body = {"email": ada.email.upper(), "password": PASSWORD}
    assert await node.code("POST", "/v1/auth/register", body) == (409, "email_already_exists")
    body = {"tenant_code": "nobody", "email": address(), "password": PASSWORD}
    assert await node.code("POST", "/v1/auth/register", body) == (404, "tenant_not_found")


async def test_x05_l05_u06_tokens_are_jwts_with_ids_and_lives_of_their_own(node: Node) -> None:
    ada = await register(node)
    status, answer, _ = await node.call("POST", "/v1/auth/login", {"email": ada.email, "password": PASSWORD})
    access, refresh = (_claims(answer[name]) for name in ("access_token", "refresh_token"))

    assert status == 200 and (answer["token_type"], answer["expires_in"]) == ("Bearer", 900)
    assert (access["exp"] - access["iat"], refresh["exp"] - refresh["iat"]) == (900, 604_800)
    assert len({access["jti"], refresh["jti"], _claims(ada.access)["jti"], _claims(ada.refresh)["jti"]}) == 4
    assert access["sid"] == refresh["sid"] != _claims(ada.access)["sid"]


async def test_l12_sec11_unknown_and_known_address_cost_the_same_and_say_the_same(node: Node) -> None:
    ada = await register(node)
    passwords = node.services.identity.passwords
    seen = []
    for email in (ada.email, address()):
        before = passwords.verified
        status, answer, headers = await node.call("POST", "/v1/auth/login", {"email": email, "password": "wrong one"})
        assert passwords.verified == before + 1
        del answer["request_id"], answer["error"]["timestamp"]
        seen.append((status, answer, headers["WWW-Authenticate"]))
    assert seen[0] == seen[1] and seen[0][0] == 401


async def test_l12_what_is_wrong_with_a_user_is_said_only_after_the_password(node: Node) -> None:
    ada = await register(node)
    status, _, _ = await node.call("PUT", f"/v1/users/{ada.id}", {"status": "SUSPENDED"}, token=OPERATOR)
    assert status == 200
    for password, expected in (("wrong one", (401, "invalid_credentials")), (PASSWORD, (422, "account_suspended"))):
        assert await node.code("POST", "/v1/auth/login", {"email": ada.email, "password": password}) == expected


async def test_x06_refresh_rotates_and_the_old_token_stops(node: Node) -> None:
    ada = await register(node)
    status, answer, _ = await node.call("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh})
    assert status == 200 and answer["refresh_token"] != ada.refresh
    assert await node.code("GET", "/v1/users/me", token=answer["access_token"]) == (200, "")
    # At once and with an unused successor it may be a lost answer: refused, but the login goes on.
    assert await node.code("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh}) == (401, "token_revoked")
    assert await node.code("GET", "/v1/users/me", token=answer["access_token"]) == (200, "")


async def test_l06_reuse_after_the_successor_was_used_ends_the_family_on_every_node(
    node: Node, start_node: StartNode
) -> None:
    other = await start_node()
    ada = await register(node)
    _, second, _ = await node.call("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh})
    _, third, _ = await other.call("POST", "/v1/auth/refresh", {"refresh_token": second["refresh_token"]})
    assert await other.code("GET", "/v1/users/me", token=third["access_token"]) == (200, "")

    assert await node.code("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh}) == (401, "token_revoked")

    for token in (ada.access, second["access_token"], third["access_token"]):
        assert await other.code("GET", "/v1/users/me", token=token) == (401, "token_revoked")
    refused = await other.code("POST", "/v1/auth/refresh", {"refresh_token": third["refresh_token"]})
    assert refused == (401, "token_revoked")


async def test_l06_reuse_late_ends_the_family(node: Node, owner: Owner) -> None:
    ada = await register(node)
    _, second, _ = await node.call("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh})
    async with owner.transaction():
        await owner.execute("SET LOCAL session_replication_role = replica")  # the past cannot be changed otherwise
        await owner.execute(
            "UPDATE identity.refresh_tokens SET used_at = used_at - interval '11 seconds' WHERE jti = $1",
            uuid.UUID(_claims(ada.refresh)["jti"]),
        )
    assert await node.code("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh}) == (401, "token_revoked")
    assert await node.code("GET", "/v1/users/me", token=second["access_token"]) == (401, "token_revoked")


async def test_x06_of_many_refreshes_at_once_one_wins(node: Node, start_node: StartNode) -> None:
    other = await start_node()
    ada = await register(node)
    answers = await asyncio.gather(
        *(one.code("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh}) for one in (node, other) * 10)
    )
    assert sorted(answers) == [(200, "")] + [(401, "token_revoked")] * 19


async def test_x07_logout_holds_on_every_node_when_it_is_answered(node: Node, start_node: StartNode) -> None:
    other = await start_node()
    for _ in range(5):
        ada = await register(node)
        for one in (node, other):  # both remember the token now
            assert await one.code("GET", "/v1/users/me", token=ada.access) == (200, "")
        assert await node.code("POST", "/v1/auth/logout", {}, token=ada.access) == (200, "")
        for one in (other, node):
            assert await one.code("GET", "/v1/users/me", token=ada.access) == (401, "token_revoked")
        refused = await other.code("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh})
        assert refused == (401, "token_revoked")


async def test_x07_what_is_looked_up_while_it_is_revoked_is_not_remembered(
    node: Node, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, ada = await start_node(), await register(node)
    assert await node.code("GET", "/v1/users/me", token=ada.access) == (200, "")
    read, go_on, original = asyncio.Event(), asyncio.Event(), repository.live_session

    async def slow(connection: Any, session_id: str) -> Any:
        row = await original(connection, session_id)
        read.set()
        await go_on.wait()
        return row

    monkeypatch.setattr(repository, "live_session", slow)
    under_way = asyncio.create_task(other.code("GET", "/v1/users/me", token=ada.access))
    await read.wait()
    assert await node.code("POST", "/v1/auth/logout", {}, token=ada.access) == (200, "")
    go_on.set()

    assert await under_way == (200, "")  # it began before
    assert await other.code("GET", "/v1/users/me", token=ada.access) == (401, "token_revoked")


async def test_l03_logout_by_refresh_token_and_everywhere(node: Node) -> None:
    ada = await register(node)
    here, there = await login(node, ada.email), await login(node, ada.email)
    assert await node.code("POST", "/v1/auth/logout", {"refresh_token": here.refresh}) == (200, "")
    assert await node.code("GET", "/v1/users/me", token=here.access) == (401, "token_revoked")
    assert await node.code("GET", "/v1/users/me", token=there.access) == (200, "")
    assert await node.code("POST", "/v1/auth/logout", {"everywhere": True}, token=there.access) == (200, "")
    for one in (ada, there):
        assert await node.code("GET", "/v1/users/me", token=one.access) == (401, "token_revoked")
    assert await node.code("POST", "/v1/auth/logout", {"refresh_token": here.refresh}) == (401, "token_revoked")
    assert await node.code("POST", "/v1/auth/logout", {}) == (401, "invalid_token")


async def test_x08_l11_l10_change_of_password_ends_every_session(node: Node, start_node: StartNode) -> None:
    other = await start_node()
    ada = await register(node)
    elsewhere = await login(other, ada.email)
    path, new = "/v1/auth/change-password", "another horse battery"
    wrong = {"current_password": "not it, not it", "new_password": new}
    assert await node.code("POST", path, wrong, token=ada.access) == (401, "invalid_password")
    differs = {"current_password": PASSWORD, "new_password": new, "password_confirmation": "something else"}
    assert await node.code("POST", path, differs, token=ada.access) == (400, "invalid_password_format")
    short = {"current_password": PASSWORD, "new_password": "short"}
    assert await node.code("POST", path, short, token=ada.access) == (400, "invalid_password_format")

    right = {"current_password": PASSWORD, "new_password": new, "password_confirmation": new}
    assert await node.code("POST", path, right, token=ada.access) == (200, "")

    for one in (node, other):
        for who in (ada, elsewhere):
            assert await one.code("GET", "/v1/users/me", token=who.access) == (401, "token_revoked")
    old = {"email": ada.email, "password": PASSWORD}
    assert await node.code("POST", "/v1/auth/login", old) == (401, "invalid_credentials")
    await login(node, ada.email, password=new)


async def test_l09_length_of_a_password_depends_on_the_role(node: Node) -> None:
    for password, expected in (("seven77", 400), ("eight888", 201)):
        body = {"email": address(), "password": password}
        assert (await node.code("POST", "/v1/auth/register", body))[0] == expected
    for roles, password, expected in (
        (["support"], "fourteen-chars", 400),
        (["admin"], "fourteen-chars", 400),
        (["admin"], "fifteen-chars-1", 201),
        (["user"], "eight888", 201),
    ):
        wanted = {"email": address(), "password": password, "roles": roles}
        status, _ = await node.code("POST", "/v1/users/admin", wanted, token=OPERATOR)
        assert status == expected, (roles, password)


async def test_l08_x09_sec12_bcrypt_is_accepted_and_becomes_argon2id(node: Node, owner: Owner) -> None:
    ada = await register(node)
    stored = "SELECT password_hash FROM identity.users WHERE user_id = $1"
    ours = await owner.fetchval(stored, uuid.UUID(ada.id))
    memory, passes, lanes = (int(one) for one in re.findall(r"[mtp]=(\d+)", ours))
    assert ours.startswith("$argon2id$") and (memory, passes, lanes) >= (19_456, 2, 1)

    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await owner.execute("UPDATE identity.users SET password_hash = $2 WHERE user_id = $1", uuid.UUID(ada.id), old)
    body = {"email": ada.email, "password": "wrong one"}
    assert await node.code("POST", "/v1/auth/login", body) == (401, "invalid_credentials")
    assert await owner.fetchval(stored, uuid.UUID(ada.id)) == old
    await login(node, ada.email)
    assert (await owner.fetchval(stored, uuid.UUID(ada.id))).startswith("$argon2id$")
    await login(node, ada.email)


async def test_api4_a_flood_of_logins_is_bounded_and_told_to_come_again(node: Node, start_node: StartNode) -> None:
    ada = await register(node)
    small = await start_node(password_threads=1, password_queue=1)
    body = {"email": ada.email, "password": "wrong one"}
    answers = await asyncio.gather(*(small.call("POST", "/v1/auth/login", body) for _ in range(30)))
    codes = {(status, answer["code"]) for status, answer, _ in answers}
    assert codes == {(401, "invalid_credentials"), (503, "service_unavailable")}
    assert all(int(headers["Retry-After"]) >= 1 for status, _, headers in answers if status == 503)
    assert await small.code("GET", "/v1/users/me", token=ada.access) == (200, "")


async def test_l101_verification_by_the_token_of_the_mail_once(node: Node) -> None:
    ada = await register(node)
    assert ada.user["verified"] is False
    _, box, _ = await node.call("GET", "/v1/users/me/mailbox", token=ada.access)
    assert [(one["to"], one["template"]) for one in box["items"]] == [(ada.email, "verify_email")]
    token = box["items"][0]["token"]
    assert await node.code("POST", "/v1/auth/verify-email", {"token": "x" * 43}) == (404, "token_not_found")
    status, user, _ = await node.call("POST", "/v1/auth/verify-email", {"token": token})
    assert (status, user["id"], user["verified"]) == (200, ada.id, True)
    assert await node.code("POST", "/v1/auth/verify-email", {"token": token}) == (404, "token_not_found")
    resend = await node.code("POST", "/v1/auth/verify-email/resend", token=ada.access)
    assert resend == (409, "already_processed")


async def test_l101_a_tenant_may_ask_for_a_verified_address(node: Node) -> None:
    tenant = f"t{uuid.uuid4().hex[:8]}"
    body = {"id": tenant, "needs_verified_email": True}
    assert (await node.code("POST", "/v1/tenants", body, token=OPERATOR))[0] == 201
    who = {"email": address(), "password": PASSWORD, "tenant_code": tenant}
    status, made, _ = await node.call("POST", "/v1/auth/register", who, Prefer="wait=0")
    assert status == 201
    assert await node.code("POST", "/v1/auth/login", who) == (403, "email_not_verified")
    # The mail is sealed: only who has the secret can send it.
    principal = _principal(tenant, made["user_id"])
    (mail, _), *_ = await node.services.identity.logins.mails(principal)
    assert (await node.code("POST", "/v1/auth/verify-email", {"token": mail.token}))[0] == 200
    assert (await node.code("POST", "/v1/auth/login", who))[0] == 200


async def test_l23_l24_l04_profile_is_ones_own(node: Node) -> None:
    ada = await register(node)
    status, me, _ = await node.call("PUT", "/v1/users/me", {"full_name": "Ada Lovelace"}, token=ada.access)
    assert (status, me["full_name"]) == (200, "Ada Lovelace")
    for path in ("/v1/users/me", "/v1/auth/me"):
        assert (await node.call("GET", path, token=ada.access))[1] == me


async def test_sec20_l17_a_role_or_tenant_cannot_be_smuggled_in(node: Node) -> None:
    ada = await register(node)
    for extra in ({"role": "admin"}, {"roles": ["admin"]}, {"tenant_id": "demo"}, {"status": "ACTIVE"}):
        body = {"email": address(), "password": PASSWORD, **extra}
        assert await node.code("POST", "/v1/auth/register", body) == (400, "unknown_field")
        body = {"full_name": "A", **extra}
        assert await node.code("PUT", "/v1/users/me", body, token=ada.access) == (400, "unknown_field")


async def test_sessions_are_listed_and_ended_one_by_one(node: Node) -> None:
    ada = await register(node)
    other = await login(node, ada.email)
    _, listed, _ = await node.call("GET", "/v1/users/me/sessions", token=ada.access)
    assert [one["current"] for one in listed["items"]] == [False, True]
    path = f"/v1/users/me/sessions/{listed['items'][0]['id']}"
    stranger = await register(node)
    assert await node.code("DELETE", path, token=stranger.access) == (404, "session_not_found")
    assert await node.code("DELETE", path, token=ada.access) == (200, "")
    assert await node.code("GET", "/v1/users/me", token=other.access) == (401, "token_revoked")
    assert await node.code("GET", "/v1/users/me", token=ada.access) == (200, "")


async def test_l20_l19_a_suspended_or_deleted_user_is_out_everywhere_at_once(node: Node, start_node: StartNode) -> None:
    other = await start_node()
    admin = await staff(node, "admin")
    for method, body in (("PUT", {"status": "SUSPENDED"}), ("DELETE", None)):
        ada = await register(node)
        assert await other.code("GET", "/v1/users/me", token=ada.access) == (200, "")
        assert (await node.code(method, f"/v1/users/{ada.id}", body, token=admin.access))[0] == 200
        assert await other.code("GET", "/v1/users/me", token=ada.access) == (401, "token_revoked")
        refused = await other.code("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh})
        assert refused == (401, "token_revoked")


async def test_x27_x43_a_deactivated_tenant_lets_nobody_in_and_keeps_its_data(
    node: Node, start_node: StartNode
) -> None:
    other = await start_node()
    tenant = f"t{uuid.uuid4().hex[:8]}"
    assert (await node.code("POST", "/v1/tenants", {"id": tenant}, token=OPERATOR))[0] == 201
    who = {"email": address(), "password": PASSWORD, "tenant_code": tenant}
    assert (await node.code("POST", "/v1/auth/register", who, Prefer="wait=0"))[0] == 201
    ada = await login(node, who["email"], tenant=tenant)
    assert await other.code("GET", "/v1/users/me", token=ada.access) == (200, "")

    assert (await node.code("POST", f"/v1/tenants/{tenant}/deactivate", token=OPERATOR))[0] == 200

    for one in (other, node):
        assert await one.code("GET", "/v1/users/me", token=ada.access) == (403, "tenant_inactive")
    refreshed = await other.code("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh})
    assert refreshed == (403, "tenant_inactive")
    assert await other.code("POST", "/v1/auth/login", who) == (403, "tenant_inactive")
    body = {**who, "email": address()}
    assert await other.code("POST", "/v1/auth/register", body) == (403, "tenant_inactive")
    assert (await node.code("POST", f"/v1/tenants/{tenant}/activate", token=OPERATOR))[0] == 200
    assert await other.code("GET", "/v1/users/me", token=ada.access) == (200, "")


async def test_sec56_u03_nobody_is_let_in_while_the_database_of_logins_is_away(
    start_node: StartNode, node: Node
) -> None:
    ada = await register(node)
    alone = await start_node()
    assert await alone.code("GET", "/v1/users/me", token=ada.access) == (200, "")
    await alone.services.identity.feed.stop()  # as if it did not hear any more

    assert await alone.code("GET", "/v1/users/me", token=ada.access) == (503, "service_unavailable")
    # The first operator's key needs no database.
    assert (await alone.code("GET", f"/v1/accounts/{ada.account}", token=OPERATOR))[0] == 200


async def test_x66_a_node_that_was_stopped_is_not_waited_for(node: Node, start_node: StartNode, owner: Owner) -> None:
    ada = await register(node)
    for _ in range(5):
        leaving = await start_node()
        its_own = "SELECT count(*) FROM identity.nodes WHERE node_id = $1"
        assert await owner.fetchval(its_own, leaving.services.identity.feed._node) == 1
        await leaving.client.close()
        assert await owner.fetchval(its_own, leaving.services.identity.feed._node) == 0
    assert await node.code("POST", "/v1/auth/logout", {}, token=ada.access) == (200, "")


async def test_x07_a_node_that_does_not_answer_is_waited_for_then_said(
    node: Node, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura_stream.identity.feed.CONFIRM_S", 0.3)
    ada = await register(node)
    silent = uuid.uuid4()
    await owner.execute("INSERT INTO identity.nodes VALUES ($1, 0, clock_timestamp())", silent)
    try:
        refused = await node.code("POST", "/v1/auth/logout", {}, token=ada.access)
    finally:
        await owner.execute("DELETE FROM identity.nodes WHERE node_id = $1", silent)
    assert refused == (503, "revocation_unconfirmed")
    assert await node.code("GET", "/v1/users/me", token=ada.access) == (401, "token_revoked")


def _claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def _principal(tenant: str, user_id: str) -> Any:
    from aura_stream.identity.permissions import Principal

    return Principal(kind="user", tenant=tenant, roles=("user",), user_id=user_id)
