"""Personal data: exported to whom it belongs, forgotten for good, and never where it could not be forgotten."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

import topics
from tests.identity.conftest import OPERATOR, PASSWORD, Node, Person, StartNode, address, login, register, staff
from tests.web.conftest import PARTITIONS, Backend, environment

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]

REQUESTS = "/v1/privacy/erasure-requests"


async def _give_all(node: Node, giver: Person, taker: Person) -> None:
    _, have, _ = await node.call("GET", f"/v1/accounts/{giver.account}/balances", token=giver.access)
    transfer = {"from_account_id": giver.account, "to_account_id": taker.account, "amount": have["available"]}
    status, made, _ = await node.call("POST", "/v1/transfers", transfer, token=giver.access, Prefer="wait=20")
    assert (status, made["status"]) == (201, "completed"), made
    await node.call("GET", "/v1/transactions", token=giver.access)  # waits until it is stored


async def test_x41_sec48_who_has_no_money_is_forgotten_at_once_and_the_books_still_hold(
    node: Node, backend: Backend, owner: Owner
) -> None:
    email, name = address(), f"Canary {uuid.uuid4().hex}"
    body = {"tenant_code": "default", "email": email, "password": PASSWORD, "full_name": name}
    assert (await node.call("POST", "/v1/auth/register", body))[0] == 201
    ada, bob = await login(node, email), await register(node)
    assert (ada.user["email"], ada.user["full_name"]) == (email, name)
    await _give_all(node, ada, bob)
    before = await _money(owner, ada)
    assert len(before) >= 2

    status, request, _ = await node.call("POST", REQUESTS, {}, token=ada.access)

    assert (status, request["status"], request["user_id"]) == (201, "completed", ada.id)
    assert await node.code("GET", "/v1/users/me", token=ada.access) == (401, "token_revoked")
    again = {"email": email, "password": PASSWORD}
    assert await node.code("POST", "/v1/auth/login", again) == (401, "invalid_credentials")
    row = await owner.fetchrow("SELECT * FROM identity.users WHERE user_id = $1", uuid.UUID(ada.id))
    assert row is not None and row["status"] == "DELETED"
    assert {row[name] for name in ("email_hash", "email_sealed", "full_name_sealed", "password_hash")} == {None}
    key = await owner.fetchrow("SELECT * FROM identity.subject_keys WHERE user_id = $1", uuid.UUID(ada.id))
    assert key is not None and key["key_sealed"] is None and key["destroyed_at"] is not None
    _, seen, _ = await node.call("GET", f"/v1/audit-log?actor=user:{ada.id}", token=OPERATOR)
    assert seen["items"] and {one["address"] for one in seen["items"]} == {None}
    # Money, chain and audit are what they were.
    assert await _money(owner, ada) == before
    assert await owner.fetchval("SELECT identity.audit_broken_at('default')") is None
    await _ledger_verifies(backend)
    # The address is free for another person.
    assert (await register(node, email=email)).id != ada.id


async def _money(owner: Owner, who: Person) -> list[Any]:
    rows = await owner.fetch("SELECT * FROM ledger.entries WHERE account_id = $1 ORDER BY journal_id, leg", who.account)
    return [dict(row) for row in rows]


async def _ledger_verifies(backend: Backend) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aura_stream.cli", "ledger", "verify"),
        env={**os.environ, **environment("verify", backend.settings)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


async def test_x41_with_a_balance_an_erasure_is_pending_and_login_ends_at_once(
    node: Node, start_node: StartNode, owner: Owner
) -> None:
    other, ada, bob = await start_node(), await register(node), await register(node)
    assert (await other.code("GET", "/v1/users/me", token=ada.access))[0] == 200
    status, request, _ = await node.call("POST", REQUESTS, {}, token=ada.access)
    assert (status, request["status"], request["waits_for"]) == (202, "pending", ["balance"])
    for one in (node, other):
        assert await one.code("GET", "/v1/users/me", token=ada.access) == (401, "token_revoked")
    assert await node.code("POST", "/v1/auth/login", {"email": ada.email, "password": PASSWORD}) == (
        422,
        "account_suspended",
    )
    # Somebody of the tenant pays out what is left; then the next look is the end of it.
    assert await node.services.erasures.look() == 0
    transfer = {"from_account_id": ada.account, "to_account_id": bob.account, "amount": "10000.00"}
    status, _, _ = await node.call("POST", "/v1/transfers", transfer, token=OPERATOR, Prefer="wait=20")
    assert status == 201
    await node.services.erasures.look()
    _, request, _ = await node.call("GET", f"{REQUESTS}/{request['id']}", token=OPERATOR)
    assert (request["status"], request["waits_for"]) == ("completed", [])
    sealed = await owner.fetchval("SELECT email_sealed FROM identity.users WHERE user_id = $1", uuid.UUID(ada.id))
    assert sealed is None


async def test_sec26_somebody_elses_erasure_takes_two_persons(node: Node) -> None:
    ada, bob, admin = await register(node), await register(node), await staff(node, "admin")
    operator = await staff(node, "operator")
    await _give_all(node, ada, bob)
    body = {"user_id": ada.id}
    assert await node.code("POST", REQUESTS, body, token=bob.access) == (404, "user_not_found")
    status, request, _ = await node.call("POST", REQUESTS, body, token=operator.access)
    assert (status, request["status"], request["maker"]) == (202, "requires_approval", f"user:{operator.id}")
    assert (await node.code("GET", "/v1/users/me", token=ada.access))[0] == 200
    assert await node.code("POST", REQUESTS, body, token=admin.access) == (409, "already_processed")
    approve = f"{REQUESTS}/{request['id']}/approve"
    assert await node.code("POST", approve, token=admin.access) == (403, "insufficient_permissions")
    assert await node.code("POST", approve, token=operator.access) == (403, "maker_is_checker")
    status, done, _ = await node.call("POST", approve, token=OPERATOR)
    assert (status, done["status"]) == (200, "completed")
    for what in ("approve", "reject"):
        refused = await node.code("POST", f"{REQUESTS}/{request['id']}/{what}", token=OPERATOR)
        assert refused == (409, "invalid_state_transition")
    _, listed, _ = await node.call("GET", f"{REQUESTS}?status=completed&limit=1", token=admin.access)
    assert [one["id"] for one in listed["items"]] == [request["id"]]


async def test_sec26_a_rejected_erasure_changes_nothing(node: Node) -> None:
    ada, admin = await register(node), await staff(node, "admin")
    _, request, _ = await node.call("POST", REQUESTS, {"user_id": ada.id}, token=admin.access)
    status, done, _ = await node.call("POST", f"{REQUESTS}/{request['id']}/reject", token=OPERATOR)
    assert (status, done["status"]) == (200, "rejected")
    assert (await node.call("GET", "/v1/users/me", token=ada.access))[1]["email"] == ada.email
    assert (await node.call("POST", REQUESTS, {"user_id": ada.id}, token=admin.access))[0] == 202


async def test_x40_export_has_everything_of_the_person_and_nothing_of_others(node: Node) -> None:
    ada, bob, admin = await register(node), await register(node), await staff(node, "admin")
    transfer = {"from_account_id": ada.account, "to_account_id": bob.account, "amount": "1.23"}
    _, made, _ = await node.call("POST", "/v1/transfers", transfer, token=ada.access)
    status, document, headers = await node.call("GET", "/v1/privacy/export", token=ada.access)
    assert status == 200 and "attachment" in headers["Content-Disposition"]
    assert document["profile"]["email"] == ada.email
    assert [one["id"] for one in document["accounts"]] == [ada.account]
    account = document["accounts"][0]
    assert (account["balances"]["posted"], len(account["entries"])) == ("9998.77", 2)
    assert made["id"] in {one["id"] for one in document["transactions"]}
    assert document["sessions"][0]["current"] is True
    actions = {one["action"] for one in document["audit"]}
    assert {"user.register", "session.login", "privacy.export"} <= actions
    assert {one["address"] for one in document["audit"]} <= {"127.0.0.1", None}
    assert bob.email not in str(document) and bob.id not in str(document)
    assert document["external_logins"] == [] and document["webhook_endpoints"] == []
    assert await node.code("GET", f"/v1/privacy/export?user_id={bob.id}", token=ada.access) == (404, "user_not_found")
    status, document, _ = await node.call("GET", f"/v1/privacy/export?user_id={bob.id}", token=admin.access)
    assert (status, document["profile"]["email"]) == (200, bob.email)


async def test_x40_x41_names_that_a_person_has_given_are_exported_and_forgotten(
    start_node: StartNode, owner: Owner
) -> None:
    node = await start_node(webhook_allow=("127.0.0.1",))
    ada, bob, word = await register(node), await register(node), f"canary{uuid.uuid4().hex}"
    await _give_all(node, ada, bob)
    hook = {"url": f"http://127.0.0.1:9/{word}", "description": word}
    assert (await node.call("POST", "/v1/webhook-endpoints", hook, token=ada.access))[0] == 201
    key = {"name": word, "scopes": ["money.read"]}
    assert (await node.call("POST", "/v1/api-keys", key, token=ada.access))[0] == 201
    await owner.execute(
        "INSERT INTO identity.external_identities (issuer, subject, tenant_id, user_id) VALUES ($1, $2, 'default', $3)",
        "https://issuer.example.com",
        word,
        uuid.UUID(ada.id),
    )

    _, document, _ = await node.call("GET", "/v1/privacy/export", token=ada.access)
    assert [one["name"] for one in document["api_keys"]] == [word]
    assert [one["description"] for one in document["webhook_endpoints"]] == [word]
    assert document["external_logins"] == [{"issuer": "https://issuer.example.com", "subject": word}]

    assert (await node.call("POST", REQUESTS, {}, token=ada.access))[0] == 201
    found = ""
    for table in ("identity.api_keys", "identity.external_identities", "events.webhook_endpoints"):
        found += str(await owner.fetch(f"SELECT t::text FROM {table} t"))
    assert ada.id in found and word not in found


async def test_sec48_personal_data_is_in_no_topic_no_row_and_no_log_line(
    node: Node, backend: Backend, owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    email, name = f"canary-{uuid.uuid4().hex}@example.com", f"Canary {uuid.uuid4().hex}"
    body = {"tenant_code": "default", "email": email, "password": PASSWORD, "full_name": name}
    assert (await node.call("POST", "/v1/auth/register", body))[0] == 201
    ada, bob, admin = await login(node, email), await register(node), await staff(node, "admin")
    await node.call("POST", "/v1/auth/login", {"email": email, "password": "wrong-password"})
    await node.call("PUT", "/v1/users/me", {"full_name": f"{name} II"}, token=ada.access)
    assert (await node.call("GET", f"/v1/users?page=1&email={email.upper()}", token=admin.access))[1]["total"] == 1
    await _give_all(node, ada, bob)
    await node.call("GET", "/v1/privacy/export", token=ada.access)
    await node.services.identity.audit.written()

    found = caplog.text
    for log in (backend.settings.home / "log").glob("*"):
        found += log.read_text(errors="replace")
    consumer = AIOKafkaConsumer(bootstrap_servers=backend.settings.kafka_bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(one.name, p) for one in topics.ALL for p in range(PARTITIONS)]
        ends = await consumer.end_offsets(places)
        assert sum(ends.values()) > 0
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        quiet = 0
        while quiet < 5:
            batch = await consumer.getmany(timeout_ms=200)
            quiet = 0 if batch else quiet + 1
            found += "".join(str((one.key, one.value, one.headers)) for some in batch.values() for one in some)
    finally:
        await consumer.stop()
    tables = await owner.fetch(
        """SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
        WHERE schemaname IN ('identity', 'ledger', 'events')"""
    )
    assert len(tables) > 15
    for table in tables:
        found += "".join(str(row["t"]) for row in await owner.fetch(f"SELECT t::text AS t FROM {table['name']} t"))

    assert ada.customer in found  # what is looked at is the right thing
    for personal in (email, email.partition("@")[0], name, email.encode().hex(), name.encode().hex()):
        assert personal not in found


async def test_sec47_a_destroyed_key_does_not_come_back(node: Node, owner: Owner) -> None:
    ada, bob = await register(node), await register(node)
    await _give_all(node, ada, bob)
    assert (await node.call("POST", REQUESTS, {}, token=ada.access))[0] == 201
    for change in ("key_sealed = '\\x00', destroyed_at = NULL", "destroyed_at = now()"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await owner.execute(f"UPDATE identity.subject_keys SET {change} WHERE user_id = $1", uuid.UUID(ada.id))
