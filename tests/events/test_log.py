"""The log of events: what the ledger and identity did, once, in order, seen by those who may."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

import orjson
import pytest

import topics
from aura_stream.ledger.connection import EVENTS, IDENTITY, READER, connect
from tests.engine.check import read_topic
from tests.events.conftest import (
    deposit,
    events_of,
    operator,
    process_of,
    transfer,
    until_told,
    wait_for,
)
from tests.identity.conftest import OPERATOR, PASSWORD, Node, Person, StartNode, login, register, staff
from tests.web.conftest import Backend
from tests.web.test_reading import frozen

if TYPE_CHECKING:
    import asyncpg

    from aura_stream.embedded import Process

    Owner = asyncpg.Connection[asyncpg.Record]


async def test_x50_u10_what_happens_to_money_is_told_with_the_envelope_in_order(node: Node) -> None:
    alice, bob = await register(node), await register(node)
    sent = await transfer(node, alice, bob.account, "12.50")
    await until_told(node, alice.access, "transfer.completed")

    events = await events_of(node, alice.access)
    keys = {"id", "type", "version", "tenant_id", "customer_id", "seq", "occurred_at", "data"}
    assert all(set(event) == keys | {"request_id", "causation_id"} for event in events)
    assert all((event["tenant_id"], event["customer_id"]) == ("default", alice.customer) for event in events)
    mine = [event for event in events if event["data"].get("transaction_id") == sent]
    assert [(event["type"], event["seq"]) for event in mine] == [("transfer.sent", 1), ("transfer.completed", 2)]
    assert mine[1]["data"] == {
        "transaction_id": sent,
        "status": "completed",
        "state": "completed",
        "amount": "12.50",
        "asset": "EUR",
        "from_account_id": alice.account,
        "to_account_id": bob.account,
    }
    opened = next(event for event in events if event["type"] == "account.opened")
    assert (opened["seq"], opened["data"]) == (1, {"account_id": alice.account, "asset": "EUR", "status": "open"})
    assert opened["causation_id"]
    assert [event["type"] for event in events if event["seq"] and "user_id" in event["data"]] == [
        "user.registered",
        "user.logged_in",
    ]


async def test_s10_a_get_never_shows_an_older_state_than_an_event(node: Node, backend: Backend) -> None:
    alice = await register(node)
    await deposit(node, alice)
    await until_told(node, alice.access, "deposit.credited", 2)
    with frozen(backend.processes["sink-0"]):
        body = {"account_id": alice.account, "amount": "3.00"}
        status, made, _ = await node.call("POST", "/v1/deposits", body, token=alice.access)
        assert status == 201
        await asyncio.sleep(1)
        assert made["id"] not in [e["data"].get("transaction_id") for e in await events_of(node, alice.access)]
    await until_told(node, alice.access, "deposit.submitted", 3)


async def test_u10_each_topic_holds_its_own_and_the_schemas_fit(node: Node, backend: Backend) -> None:
    alice = await register(node)
    _, _, _ = await node.call("POST", f"/v1/accounts/{alice.account}/close", {}, token=alice.access)
    await until_told(node, alice.access, "command.refused")
    values = {}
    for topic in topics.EVENTS:
        records = await read_topic(backend.settings.kafka_bootstrap, topic.name)
        values[topic.name] = [record for log in records.values() for record in log]
        for record in values[topic.name]:
            event = orjson.loads(record.value)
            tenant, customer = (
                event.get("tenant_id", event.get("tenant")),
                event.get("customer_id", event.get("customer")),
            )
            assert record.key == f"{tenant}/{customer}".encode()
    types = {
        name: {orjson.loads(one.value)["type"].partition(".")[0] for one in found} for name, found in values.items()
    }
    assert types["aura.transaction-events.v1"] <= {"deposit", "withdrawal", "transfer", "hold", "pause", "command"}
    assert types["aura.account-events.v1"] <= {"account", "command", "webhook"}
    assert types["aura.auth-events.v1"] <= {"user", "session", "api_key", "tenant"}
    assert "account" in types["aura.account-events.v1"]


async def test_sec48_auth_events_are_what_was_committed_and_say_nothing_personal(
    node: Node, backend: Backend, owner: Owner
) -> None:
    alice = await register(node)
    status, _, _ = await node.call(
        "POST",
        "/v1/auth/change-password",
        {"current_password": PASSWORD, "new_password": "another horse battery"},
        token=alice.access,
    )
    assert status == 200
    assert (await node.code("POST", "/v1/auth/login", {"email": alice.email, "password": "wrong wrong"}))[0] == 401
    again = await login(node, alice.email, password="another horse battery")
    await until_told(node, again.access, "user.logged_in", 2)
    told = await events_of(node, again.access, "&type=user.*,session.*")
    assert [event["type"] for event in told] == [
        "user.registered",
        "user.logged_in",
        "user.password_changed",
        "session.revoked",
        "user.logged_in",
    ] or [event["type"] for event in told][2:4] == ["session.revoked", "user.password_changed"]
    assert [event["seq"] for event in told] == [1, 2, 3, 4, 5]
    for topic in topics.EVENTS:
        for log in (await read_topic(backend.settings.kafka_bootstrap, topic.name)).values():
            for record in log:
                assert b"@example.com" not in record.value + record.key
    # Whatever others of the tenant have told meanwhile goes out too.
    await wait_for(lambda: owner.fetchval("SELECT count(*) = 0 FROM events.outbox WHERE tenant_id = 'default'"))


async def test_sec48_what_is_rolled_back_is_not_told(node: Node, owner: Owner) -> None:
    alice = await register(node)
    async with owner.transaction():
        await owner.execute("SAVEPOINT here")
        await owner.execute("UPDATE identity.users SET verified_at = now() WHERE user_id = $1::uuid", alice.id)
        assert await owner.fetchval("SELECT count(*) FROM events.outbox WHERE type = 'user.verified'") >= 1
        await owner.execute("ROLLBACK TO here")
    await deposit(node, alice)
    await until_told(node, alice.access, "deposit.credited", 2)
    assert not await events_of(node, alice.access, "&type=user.verified")


async def test_x50_pages_filters_and_cursors(node: Node) -> None:
    alice = await register(node)
    ids = [await deposit(node, alice, f"{number}.00") for number in range(1, 6)]
    await until_told(node, alice.access, "deposit.credited", 6)
    events = await events_of(node, alice.access)

    newest: list[str] = []
    cursor = ""
    while True:
        _, page, _ = await node.call("GET", f"/v1/events?limit=4{cursor}", token=alice.access)
        newest += [event["id"] for event in page["items"]]
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert newest == [event["id"] for event in reversed(events)]

    middle = events[4]
    _, page, _ = await node.call("GET", f"/v1/events?after={middle['id']}", token=alice.access)
    assert [event["id"] for event in page["items"]] == [event["id"] for event in events[5:]]
    _, page, _ = await node.call("GET", f"/v1/events?transaction_id={ids[2]}", token=alice.access)
    assert [event["type"] for event in page["items"]] == ["deposit.credited", "deposit.submitted"]
    _, page, _ = await node.call("GET", "/v1/events?type=account.*,deposit.credited&after=0", token=alice.access)
    assert {event["type"] for event in page["items"]} == {"account.opened", "deposit.credited"}
    start, end = events[3]["occurred_at"], events[-1]["occurred_at"]
    _, page, _ = await node.call("GET", f"/v1/events?after=0&from={start}&to={end}", token=alice.access)
    assert [e["id"] for e in page["items"]] == [e["id"] for e in events if start <= e["occurred_at"] < end]
    status, one, _ = await node.call("GET", f"/v1/events/{middle['id']}", token=alice.access)
    assert (status, one) == (200, middle)
    assert await node.code("GET", "/v1/events?after=9-9-9", token=alice.access) == (404, "event_not_found")
    assert await node.code("GET", "/v1/events?cursor=nonsense", token=alice.access) == (400, "invalid_field")
    assert await node.code("GET", "/v1/events?type=transfer;drop", token=alice.access) == (400, "invalid_field")


async def test_sec18_sec13_events_of_others_are_as_if_missing(node: Node) -> None:
    alice, mallory = await register(node), await register(node)
    abroad = await staff(node, "admin", tenant="demo")
    support = await staff(node, "support")
    await deposit(node, alice)
    (first, *_) = await until_told(node, alice.access, "deposit.credited", 2)
    missing = await node.call("GET", "/v1/events/9-9-9", token=mallory.access)
    for who in (mallory, abroad):
        status, answer, _ = await node.call("GET", f"/v1/events/{first['id']}", token=who.access)
        assert (status, answer["code"]) == (404, "event_not_found")
        assert set(answer) == set(missing[1])
        assert await node.code("GET", f"/v1/events?after={first['id']}", token=who.access) == (404, "event_not_found")
        assert first["id"] not in [event["id"] for event in await events_of(node, who.access)]
        _, page, _ = await node.call("GET", f"/v1/events?customer={alice.customer}", token=who.access)
        assert page == {"items": [], "has_more": False, "next_cursor": None}
    assert first in await events_of(node, support.access, f"&customer={alice.customer}")
    status, answer, _ = await node.call("GET", f"/v1/events/{first['id']}", token=operator(), Aura_Tenant="demo")
    assert status == 404
    assert (await node.call("GET", f"/v1/events/{first['id']}", token=operator()))[1] == first


async def test_sec16_sec17_the_log_is_behind_row_level_security_and_append_only(node: Node, backend: Backend) -> None:
    alice = await register(node)
    await until_told(node, alice.access, "user.logged_in")
    dsn = backend.settings.postgres_dsn
    for role, refused in ((IDENTITY, "INSERT"), (EVENTS, "INSERT"), (READER, "DELETE")):
        connection = await connect(dsn, role)
        try:
            if role == IDENTITY:
                assert await connection.fetchval("SELECT count(*) FROM events.log") == 0
                assert await connection.fetchval("SELECT count(*) FROM events.webhook_endpoints") == 0
            allowed = await connection.fetchval("SELECT has_table_privilege(current_user, 'events.log', $1)", refused)
            assert not allowed, (role, refused)
        finally:
            await connection.close()
    superuser = await connect(dsn, "aura_owner")
    try:
        open_tables = await superuser.fetch(
            """SELECT relname FROM pg_class WHERE relnamespace = 'events'::regnamespace AND relkind = 'r'
            AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY relname"""
        )
        # Offsets, numbers, and what only a function of the owner can read.
        assert [row["relname"] for row in open_tables] == ["clock", "head", "sources", "tickets"]
        assert not await superuser.fetchval("SELECT has_table_privilege('aura_identity', 'events.tickets', 'SELECT')")
        for statement in ("UPDATE events.log SET body = ''", "DELETE FROM events.log", "TRUNCATE events.log"):
            with pytest.raises(Exception, match="append-only"):
                await superuser.execute(statement)
    finally:
        await superuser.close()


async def test_u31_u11_a_killed_worker_loses_nothing_and_tells_nothing_twice(
    node: Node, backend: Backend, log_of_events: Process, owner: Owner
) -> None:
    people = [await register(node) for _ in range(3)]
    second = process_of("events", backend, 1)

    async def busy(who: Person) -> None:
        for number in range(12):
            await transfer(node, who, people[(people.index(who) + 1) % 3].account, f"{number + 1}.00")

    work = asyncio.gather(*(busy(one) for one in people))
    try:
        second.start()
        await asyncio.to_thread(second.wait_ready, 40)
        log_of_events.kill()
        await work
    finally:
        log_of_events.start()  # here: it is tied to the life of the thread that starts it
        await asyncio.to_thread(log_of_events.wait_ready, 60)
    for one in people:
        found = await until_told(node, one.access, "transfer.completed", 12)
        assert len(found) == 12
        found = await until_told(node, one.access, "transfer.received", 12)
        assert len({event["id"] for event in found}) == len(found) == 12
        seqs = defaultdict(list)
        for event in await events_of(node, one.access, "&type=transfer.sent,transfer.completed"):
            seqs[event["data"]["transaction_id"]].append(event["seq"])
        assert all(series == [1, 2] for series in seqs.values())
    await asyncio.to_thread(second.stop)
    rows = await owner.fetch("SELECT position FROM events.log ORDER BY position")
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))


async def test_u28_x73_the_ledger_does_not_wait_for_the_log(node: Node, log_of_events: Process) -> None:
    alice, bob = await register(node), await register(node)
    with frozen(log_of_events):
        sent = [await transfer(node, alice, bob.account) for _ in range(5)]

    async def all_told() -> bool:
        told = {e["data"]["transaction_id"] for e in await events_of(node, alice.access, "&type=transfer.completed")}
        return set(sent) <= told

    await wait_for(all_told, 60)


async def test_x66_any_node_answers_the_same(node: Node, start_node: StartNode) -> None:
    alice = await register(node)
    other = await start_node()
    await deposit(node, alice)
    await until_told(node, alice.access, "deposit.credited", 2)
    assert await events_of(other, alice.access) == await events_of(node, alice.access)


@pytest.mark.row("A06")
async def test_a06_a_node_knows_the_pauses_that_were_set_before_it_began(node: Node) -> None:
    ada = await register(node)
    body = {"scope": {"account": ada.account}, "note": "by letter", "operator": "olga"}
    _, receipt, _ = await node.call("POST", "/v1/pauses", body, token=OPERATOR, Prefer="wait=0")
    path = f"/v1/pauses/{receipt['id']}"
    seen = node.services.tail.recent.pauses

    async def logged() -> bool:
        return any(receipt["id"] in body for body in await node.services.events.reads.pauses())

    await wait_for(logged)
    seen.clear()  # as after a start: only the log has it
    status, pause, _ = await node.call("GET", path, token=OPERATOR)
    assert (status, pause["set_by"], pause["note"], pause["scope"]["account"]) == (
        200,
        "olga",
        "by letter",
        ada.account,
    )
    _, listed, _ = await node.call("GET", "/v1/pauses", token=OPERATOR)
    assert receipt["id"] in [one["id"] for one in listed["items"]]
    told = [event["data"]["pause"] for event in await events_of(node, OPERATOR, "&type=pause.*")]
    assert receipt["id"] in [one["id"] for one in told], "in a form that the contract names, or it were no answer"

    await node.call("POST", f"{path}/lift", {}, token=OPERATOR, Prefer="wait=0")

    async def lifted() -> bool:
        seen.clear()
        _, pause, _ = await node.call("GET", path, token=OPERATOR)
        return pause["lifted_at"] is not None

    await wait_for(lifted)
