"""Webhooks by the Standard Webhooks specification: signed, ordered, tried again over days, never sent to our own."""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import re
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import orjson
import pytest
from aiohttp import web

from aura_stream.embedded.processes import free_port
from aura_stream.events.envelope import Entry
from aura_stream.events.writer import Claim, EventWriter
from aura_stream.webhooks.delivery import UNDER_WAY_MAX, Deliveries
from aura_stream.webhooks.guard import AddressRefused, Guard, guarded_session, is_public
from aura_stream.webhooks.schedule import JITTER, STEPS_S
from tests.events.conftest import (
    Receiver,
    deposit,
    new_id,
    process_of,
    receiving,
    transfer,
    until_told,
    wait_for,
)
from tests.identity.conftest import Node, StartNode, register, staff
from tests.web.conftest import Backend

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]

ALLOWED = ("127.0.0.1",)
_NOBODYS = 999
"""A partition of the log's sources that no worker has."""


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def move(self, **by: float) -> None:
        self._ahead += timedelta(**by)


@pytest.fixture
async def node(start_node: StartNode, owner: Owner) -> AsyncIterator[Node]:
    """A node of a sandbox whose webhooks may reach this machine; no endpoint is left behind."""
    yield await start_node(webhook_allow=ALLOWED)
    await owner.execute("DELETE FROM events.webhook_endpoints")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sender(node: Node, backend: Backend, clock: Clock) -> AsyncIterator[Deliveries]:
    """What a worker runs, on the clock of the test."""
    one = Deliveries(backend.settings.postgres_dsn, node.services.identity.sealer, Guard(ALLOWED), now=clock)
    await one.start()
    yield one
    await one.stop()


async def endpoint(node: Node, token: str, url: str, *types: str, **more: str) -> dict[str, Any]:
    """A new endpoint."""
    body = {"url": url, "types": list(types or ("*",)), **more}
    status, made, _ = await node.call("POST", "/v1/webhook-endpoints", body, token=token)
    assert status == 201, made
    return made


async def delivery_of(node: Node, token: str, event_id: str) -> dict[str, Any]:
    """The one delivery of an event, with its tries."""
    _, page, _ = await node.call("GET", f"/v1/webhook-deliveries?event_id={event_id}", token=token)
    (listed,) = page["items"]
    status, found, _ = await node.call("GET", f"/v1/webhook-deliveries/{listed['id']}", token=token)
    assert status == 200
    assert {name: found[name] for name in listed} == listed
    return found


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> list[bool]:
    """Which signatures are right, computed as the specification says and not by our code."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    right = base64.b64encode(hmac.new(key, text, sha256).digest()).decode()
    return [one == f"v1,{right}" for one in headers["webhook-signature"].split()]


async def test_x50_s10_events_are_posted_signed_with_the_bytes_of_the_log(
    node: Node, sender: Deliveries, receiver: Receiver
) -> None:
    alice, bob = await register(node), await register(node)
    await until_told(node, alice.access, "deposit.credited")
    made = await endpoint(node, alice.access, receiver.url, "transfer.*")
    assert made["secret"].startswith("whsec_")
    _, again, _ = await node.call("GET", f"/v1/webhook-endpoints/{made['id']}", token=alice.access)
    assert again == {name: value for name, value in made.items() if name != "secret"}
    await transfer(node, alice, bob.account)
    told = await until_told(node, alice.access, "transfer.completed")
    await sender.run_due()

    assert [event["type"] for event in receiver.events] == ["transfer.sent", "transfer.completed"]
    for headers, body in receiver.came:
        assert is_signed(made["secret"], headers, body) == [True]
        assert abs(int(headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
        assert headers["content-type"] == "application/json"
        async with node.client.get(
            f"/v1/events/{headers['webhook-id']}", headers={"Authorization": f"Bearer {alice.access}"}
        ) as answer:
            assert await answer.read() == body
    found = await delivery_of(node, alice.access, told[0]["id"])
    assert (found["status"], found["attempts"]) == ("delivered", 1)
    assert [(one["status_code"], one["response"], one["error"]) for one in found["tries"]] == [
        (200, "it was 200", None)
    ]


async def test_sec18_an_endpoint_gets_what_its_owner_may_see(node: Node, sender: Deliveries) -> None:
    alice, mallory = await register(node), await register(node)
    admin, abroad = await staff(node, "admin"), await staff(node, "admin", tenant="demo")
    async with AsyncExitStack() as stack:
        hers, mine, all_, theirs, one = [await stack.enter_async_context(receiving()) for _ in range(5)]
        await endpoint(node, alice.access, hers.url)
        await endpoint(node, mallory.access, mine.url)
        await endpoint(node, admin.access, all_.url, "deposit.credited")
        await endpoint(node, abroad.access, theirs.url)
        await endpoint(node, admin.access, one.url, customer=alice.customer)
        paid = await deposit(node, alice)
        await until_told(node, alice.access, "deposit.credited", 2)
        await sender.run_due()
        assert {event["customer_id"] for event in hers.events + one.events} == {alice.customer}
        assert not any(event["customer_id"] == alice.customer for event in mine.events + theirs.events)
        assert [e["type"] for e in all_.events if e["data"]["transaction_id"] == paid] == ["deposit.credited"]
    body = {"url": hers.url, "customer": alice.customer}
    status, code = await node.code("POST", "/v1/webhook-endpoints", body, token=mallory.access)
    assert (status, code) == (403, "insufficient_permissions")


async def test_a22_tries_again_on_the_schedule_over_days_then_disables_and_tells(
    node: Node, sender: Deliveries, receiver: Receiver, clock: Clock
) -> None:
    alice = await register(node)
    await until_told(node, alice.access, "deposit.credited")
    made = await endpoint(node, alice.access, receiver.url, "deposit.credited")
    receiver.answer = 500
    await deposit(node, alice)
    event = (await until_told(node, alice.access, "deposit.credited", 2))[-1]
    assert await sender.run_due() == 1
    for tries, step in enumerate(STEPS_S, 1):
        found = await delivery_of(node, alice.access, event["id"])
        assert (found["status"], found["attempts"]) == ("pending", tries)
        waits = (datetime.fromisoformat(found["next_at"]) - clock()).total_seconds()
        assert step - 30 < waits <= step * (1 + JITTER)
        clock.move(seconds=waits - 2)
        assert await sender.run_due() == 0
        clock.move(seconds=4)
        assert await sender.run_due() == 1
    found = await delivery_of(node, alice.access, event["id"])
    assert (found["status"], found["attempts"], found["next_at"]) == ("failed", 10, None)
    assert [(one["status_code"], one["error"]) for one in found["tries"]] == [(500, "HTTP 500")] * 10
    spent = datetime.fromisoformat(found["tries"][0]["at"]) - datetime.fromisoformat(found["tries"][-1]["at"])
    assert timedelta(days=3) < spent < timedelta(days=4)
    assert len({(headers["webhook-id"], body) for headers, body in receiver.came}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.came}) == 10
    assert all(is_signed(made["secret"], headers, body) == [True] for headers, body in receiver.came)

    path = f"/v1/webhook-endpoints/{made['id']}"
    _, now, _ = await node.call("GET", path, token=alice.access)
    assert (now["status"], now["disabled_reason"]) == ("disabled", "failing")
    (disabled,) = await until_told(node, alice.access, "webhook.endpoint_disabled")
    assert disabled["data"] == {"endpoint_id": made["id"], "reason": "failing"}

    receiver.answer = 200
    assert (await node.call("PUT", path, {"status": "enabled"}, token=alice.access))[1]["failing_since"] is None
    assert (await node.call("POST", f"/v1/webhook-deliveries/{found['id']}/retry", token=alice.access))[0] == 200
    assert await sender.run_due() == 1
    assert (await delivery_of(node, alice.access, event["id"]))["status"] == "delivered"
    assert receiver.came[-1][1] == receiver.came[0][1]


async def _told(writer: EventWriter, claim: Claim, number: int, type_: str, moved_ms: int) -> Claim:
    """The log is told of the clock, as by a ledger."""
    at = datetime.now(UTC)
    body = orjson.dumps({"id": f"clock-{number}", "type": type_, "data": {"clock": {"moved_ms": moved_ms}}}).decode()
    event = Entry(f"clock-{number}", "default", "clock", type_, f"event:{number}", 0, "", at, body, 0)
    offsets = [number, 0, 0]
    assert await writer.append(_NOBODYS, claim, offsets, [event])
    return Claim(claim.epoch, offsets)


async def test_the_schedule_comes_nearer_when_the_clock_is_moved(
    node: Node, sender: Deliveries, clock: Clock, receiver: Receiver, owner: Owner, backend: Backend
) -> None:
    who = await register(node)
    await until_told(node, who.access, "deposit.credited")
    receiver.answer = 503
    await endpoint(node, who.access, receiver.url, "deposit.credited")
    await deposit(node, who)
    event = (await until_told(node, who.access, "deposit.credited", 2))[-1]
    assert await sender.run_due() == 1
    clock.move(seconds=10)
    assert await sender.run_due() == 1
    before = await delivery_of(node, who.access, event["id"])
    (failing,) = await owner.fetch("SELECT failing_since FROM events.webhook_endpoints")
    writer = EventWriter(backend.settings.postgres_dsn)
    try:
        claim = await writer.claim(_NOBODYS)
        for number, (type_, moved_ms) in enumerate(
            [("clock.advanced", 200_000), ("clock.advanced", 320_000), ("clock.advanced", 260_000)], 1
        ):
            claim = await _told(writer, claim, number, type_, moved_ms)
        claim = await _told(writer, claim, 4, "clock.moved", 320_000)
        after = await delivery_of(node, who.access, event["id"])
        nearer = datetime.fromisoformat(before["next_at"]) - datetime.fromisoformat(after["next_at"])
        assert nearer == timedelta(seconds=320), "the largest sum, once"
        (since,) = await owner.fetch("SELECT failing_since FROM events.webhook_endpoints")
        assert failing["failing_since"] - since["failing_since"] == timedelta(seconds=320)
        (found,) = await owner.fetch("SELECT moved_ms, taken_ms FROM events.clock")
        assert tuple(found) == (320_000, 320_000)
        # It is due five minutes early, and bears this world's time: receivers check it.
        receiver.answer = 200
        clock.move(seconds=20)
        assert await sender.run_due() == 1
        headers, _ = receiver.came[-1]
        assert abs(int(headers["webhook-timestamp"]) - clock().timestamp()) < 60
        assert (await delivery_of(node, who.access, event["id"]))["status"] == "delivered"
    finally:
        await writer.close()
        # The ledger that others share knows nothing of it.
        await owner.execute("UPDATE events.clock SET moved_ms = 0, taken_ms = 0")


async def test_x50_an_endpoint_that_is_gone_is_disabled_at_once(
    node: Node, sender: Deliveries, receiver: Receiver
) -> None:
    alice = await register(node)
    await until_told(node, alice.access, "deposit.credited")
    made = await endpoint(node, alice.access, receiver.url, "deposit.*")
    receiver.answer = 410
    await deposit(node, alice)
    await until_told(node, alice.access, "deposit.credited", 2)
    await sender.run_due()
    _, now, _ = await node.call("GET", f"/v1/webhook-endpoints/{made['id']}", token=alice.access)
    assert (now["status"], now["disabled_reason"]) == ("disabled", "gone")
    count = len(receiver.came)
    await deposit(node, alice)
    await until_told(node, alice.access, "webhook.endpoint_disabled")
    assert await sender.run_due() == 0
    assert len(receiver.came) == count


async def test_x65_the_receiver_of_the_guide_verifies_what_we_send(
    node: Node, sender: Deliveries, tmp_path: Path
) -> None:
    guide = (Path(__file__).parents[2] / "docs/guide/events.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    alice = await register(node)
    made = await endpoint(node, alice.access, url, "webhook.none")
    (tmp_path / "receiver.py").write_text(program.replace("9000", str(port)))
    receiver = await asyncio.create_subprocess_exec(
        sys.executable, "receiver.py", cwd=tmp_path, env=os.environ | {"SECRET": made["secret"]}
    )
    try:

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await wait_for(listens)
        path = f"/v1/webhook-endpoints/{made['id']}"
        _, good, _ = await node.call("POST", f"{path}/test", token=alice.access)
        await sender.run_due()
        assert (await delivery_of(node, alice.access, good["event_id"]))["tries"][0]["status_code"] == 204
        await node.call("POST", f"{path}/rotate-secret", {"overlap_s": 0}, token=alice.access)
        _, bad, _ = await node.call("POST", f"{path}/test", token=alice.access)
        await sender.run_due()
        assert (await delivery_of(node, alice.access, bad["event_id"]))["tries"][0]["status_code"] == 401
    finally:
        receiver.kill()
        await receiver.wait()


async def test_x50_a_rotated_secret_overlaps_with_the_old_one(
    node: Node, sender: Deliveries, receiver: Receiver, clock: Clock
) -> None:
    alice = await register(node)
    made = await endpoint(node, alice.access, receiver.url, "webhook.none")
    path = f"/v1/webhook-endpoints/{made['id']}"
    _, turned, _ = await node.call("POST", f"{path}/rotate-secret", {"overlap_s": 3600}, token=alice.access)
    assert turned["secret"] != made["secret"]
    await node.call("POST", f"{path}/test", token=alice.access)
    await sender.run_due()
    clock.move(hours=2)
    await node.call("POST", f"{path}/test", token=alice.access)
    await sender.run_due()
    during, after = receiver.came
    assert is_signed(turned["secret"], *during) == [True, False]
    assert is_signed(made["secret"], *during) == [False, True]
    assert is_signed(turned["secret"], *after) == [True]
    assert receiver.events[0]["type"] == "webhook.test"


async def test_x52_first_tries_go_out_in_order_of_seq_and_a_retry_holds_nothing_back(
    node: Node, sender: Deliveries, receiver: Receiver, clock: Clock
) -> None:
    alice, bob = await register(node), await register(node)
    await until_told(node, alice.access, "deposit.credited")
    await endpoint(node, alice.access, receiver.url, "transfer.*")
    failed: set[str] = set()

    async def slow(request: web.Request, body: bytes) -> web.Response:
        # The first event of a transaction takes longer than the second: order must not depend on it.
        event = receiver.events[-1]
        await asyncio.sleep(0.05 if event["seq"] == 1 else 0)
        refuse = event["seq"] == 1 and event["id"] not in failed
        failed.add(event["id"])
        return web.Response(status=500 if refuse else 200)

    receiver.answer = slow
    for _ in range(8):
        await transfer(node, alice, bob.account)
    await until_told(node, alice.access, "transfer.completed", 8)
    await sender.run_due()
    seqs = defaultdict(list)
    for event in receiver.events:
        seqs[event["data"]["transaction_id"]].append(event["seq"])
    assert len(seqs) == 8
    assert all(series == [1, 2] for series in seqs.values())
    clock.move(seconds=10)
    await sender.run_due()
    assert Counter(event["seq"] for event in receiver.events) == {1: 16, 2: 8}


@pytest.mark.timeout(60)
async def test_x73_a_dead_endpoint_holds_up_nobody_and_its_answer_is_kept_short(
    node: Node, sender: Deliveries, receiver: Receiver
) -> None:
    alice, bob = await register(node), await register(node)
    await until_told(node, alice.access, "deposit.credited")
    async with receiving() as dead, receiving() as talkative:
        hangs = asyncio.Event()
        under_way = 0

        async def hang(request: web.Request, body: bytes) -> web.Response:
            nonlocal under_way
            under_way += 1
            await hangs.wait()
            return web.Response()

        async def talk(request: web.Request, body: bytes) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                for _ in range(10_000):
                    await response.write(b"\x00\xff" * 5_000)
            except ConnectionError:
                pass
            return response

        dead.answer, talkative.answer = hang, talk
        await endpoint(node, alice.access, dead.url, "transfer.*")
        await endpoint(node, alice.access, talkative.url, "transfer.completed")
        await endpoint(node, alice.access, receiver.url, "transfer.*")
        for _ in range(6):
            await transfer(node, alice, bob.account)
        await until_told(node, alice.access, "transfer.completed", 6)
        running = asyncio.create_task(sender.run())

        async def all_came() -> bool:
            return len(receiver.came) == 12 and len(talkative.came) == 6

        await wait_for(all_came, 12)
        assert under_way == UNDER_WAY_MAX
        _, page, _ = await node.call("GET", "/v1/webhook-deliveries?status=delivered&limit=200", token=alice.access)
        for one in page["items"]:
            _, found, _ = await node.call("GET", f"/v1/webhook-deliveries/{one['id']}", token=alice.access)
            assert len(found["tries"][0]["response"]) <= 1024
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        hangs.set()
        await sender.stop()


@pytest.mark.timeout(120)
async def test_u31_two_workers_share_the_work_and_a_killed_one_loses_nothing(
    node: Node, backend: Backend, receiver: Receiver, owner: Owner
) -> None:
    alice, bob = await register(node), await register(node)
    await until_told(node, alice.access, "deposit.credited")
    await endpoint(node, alice.access, receiver.url, "transfer.*")
    for _ in range(15):
        await transfer(node, alice, bob.account)
    told = await until_told(node, alice.access, "transfer.completed", 15)
    workers = [process_of("webhooks", backend, slot, AURA_WEBHOOK_ALLOW="127.0.0.1") for slot in (0, 1)]

    async def count(request: web.Request, body: bytes) -> web.Response:
        await asyncio.sleep(0.1)
        return web.Response()

    receiver.answer = count
    try:
        for worker in workers:
            worker.start()

        async def came(count: int) -> bool:
            return len({headers["webhook-id"] for headers, _ in receiver.came}) >= count

        await wait_for(lambda: came(10), 60)
        workers[0].kill()
        # Its leases would end in a minute; the test does not wait for that.
        await asyncio.sleep(0.5)
        await owner.execute("UPDATE events.webhook_deliveries SET lease_until = now() WHERE lease IS NOT NULL")
        await wait_for(lambda: came(30), 60)
    finally:
        assert await asyncio.to_thread(workers[1].stop, 15, signal.SIGTERM)
        await asyncio.to_thread(workers[0].stop)
    twice = [one for one, times in Counter(h["webhook-id"] for h, _ in receiver.came).items() if times > 1]
    # Only what was under way when the one was killed may come again: never more than it may have.
    assert len(twice) <= 2 * UNDER_WAY_MAX
    assert {event["id"] for event in told} <= {headers["webhook-id"] for headers, _ in receiver.came}
    assert "Traceback" not in workers[1].log_path.read_text()


async def test_n03_u31_a_worker_that_stops_writes_down_what_it_is_told(
    node: Node, sender: Deliveries, receiver: Receiver
) -> None:
    alice = await register(node)
    await until_told(node, alice.access, "deposit.credited")
    await endpoint(node, alice.access, receiver.url, "deposit.credited")
    asked, stopping = asyncio.Event(), asyncio.Event()

    async def wait(request: web.Request, body: bytes) -> web.Response:
        asked.set()
        await stopping.wait()
        return web.Response()

    receiver.answer = wait
    await deposit(node, alice)
    await until_told(node, alice.access, "deposit.credited", 2)
    assert await sender.take() == 1
    await asked.wait()
    stop = asyncio.create_task(sender.stop())
    await asyncio.sleep(0)
    stopping.set()
    await stop
    _, page, _ = await node.call("GET", "/v1/webhook-deliveries", token=alice.access)
    assert [one["status"] for one in page["items"]] == ["delivered"]


async def test_x50_a_time_can_be_replayed_and_deliveries_are_listed(
    node: Node, sender: Deliveries, receiver: Receiver
) -> None:
    alice = await register(node)
    for number in range(3):
        await deposit(node, alice, f"{number + 1}.00")
    told = await until_told(node, alice.access, "deposit.credited", 4)
    made = await endpoint(node, alice.access, receiver.url, "deposit.*", "account.*")
    path = f"/v1/webhook-endpoints/{made['id']}"
    assert await sender.run_due() == 0
    body = {"from": told[0]["occurred_at"], "to": "2999-01-01T00:00:00Z", "types": ["deposit.credited"]}
    status, answer, _ = await node.call("POST", f"{path}/replay", body, token=alice.access)
    assert (status, answer) == (201, {"deliveries": 4})
    await sender.run_due()
    assert sorted(event["id"] for event in receiver.events) == sorted(event["id"] for event in told)
    seen, cursor = [], ""
    while True:
        _, page, _ = await node.call("GET", f"/v1/webhook-deliveries?limit=3{cursor}", token=alice.access)
        seen += [one["event_id"] for one in page["items"]]
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(seen) == sorted(event["id"] for event in told)
    assert (await node.call("DELETE", path, token=alice.access))[0] == 200
    assert await node.code("GET", path, token=alice.access) == (404, "webhook_endpoint_not_found")


async def test_sec13_sec24_endpoints_of_others_are_as_if_missing_and_a_repeat_makes_one(
    node: Node, receiver: Receiver
) -> None:
    alice, mallory = await register(node), await register(node)
    abroad = await staff(node, "admin", tenant="demo")
    key, body = new_id(), {"url": receiver.url}
    made = [await node.call("POST", "/v1/webhook-endpoints", body, token=alice.access, key=key) for _ in range(2)]
    assert made[0][1] == made[1][1]
    assert made[1][2]["Idempotent-Replayed"] == "true"
    path = f"/v1/webhook-endpoints/{made[0][1]['id']}"
    for who in (mallory, abroad):
        for method, at, with_ in (
            ("GET", path, None),
            ("PUT", path, {"status": "disabled"}),
            ("DELETE", path, None),
            ("POST", f"{path}/test", None),
            ("POST", f"{path}/rotate-secret", {}),
            ("POST", f"{path}/replay", {"from": "2020-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z"}),
        ):
            assert await node.code(method, at, with_, token=who.access) == (404, "webhook_endpoint_not_found")
        assert (await node.call("GET", "/v1/webhook-endpoints", token=who.access))[1]["items"] == []
    support = await staff(node, "support")
    assert await node.code("GET", "/v1/webhook-endpoints", token=support.access) == (403, "insufficient_permissions")


async def test_sec43_secrets_are_sealed_at_rest(node: Node, receiver: Receiver, owner: Owner) -> None:
    alice = await register(node)
    made = await endpoint(node, alice.access, receiver.url)
    text = await owner.fetchval("SELECT e.*::text FROM (SELECT * FROM events.webhook_endpoints) e")
    raw = base64.b64decode(made["secret"].removeprefix("whsec_"))
    assert made["id"] in text
    assert made["secret"] not in text and raw.hex() not in text


async def test_x27_sec09_nothing_is_sent_for_a_suspended_user(
    node: Node, sender: Deliveries, receiver: Receiver
) -> None:
    alice = await register(node)
    made = await endpoint(node, alice.access, receiver.url)
    admin = await staff(node, "admin")
    status, _, _ = await node.call("PUT", f"/v1/users/{alice.id}", {"status": "SUSPENDED"}, token=admin.access)
    assert status == 200
    assert await sender.run_due() == 0
    _, now, _ = await node.call("GET", f"/v1/webhook-endpoints/{made['id']}", token=admin.access)
    assert (now["status"], now["disabled_reason"]) == ("disabled", "owner_disabled")


# --- SEC32: requests to our own side --------------------------------------------------------------------------------

PRIVATE = [
    *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::", "::1", "fe80::1", "fe80::1%eth0"),
    *("fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8"),
    *("64:ff9b::7f00:1", "2002:7f00:1::", "2001::1", "2001:db8::1", "nonsense", ""),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_sec32_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111"])
def test_sec32_public_addresses_are(address: str) -> None:
    assert is_public(address)


URLS = [
    *(
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "https://127.0.0.1:8443/",
        "https://169.254.169.254/latest/meta-data/",
    ),
    *("https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://10.0.0.8/", "https://0/"),
    *("https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/", "https://localhost/"),
    *("https://user:pass@example.com/", "file:///etc/passwd", "gopher://example.com/", "https://example.com:22/"),
    *("http://example.com/", "https:///path", "https://", "nonsense", "https://example.com/#x", "https://a b/"),
    *("https://127.0.0.1\u3002/", "https://\uff11\uff12\uff17.0.0.1/", "//example.com/", "https://example.com:99999/"),
]


@pytest.mark.parametrize("url", URLS)
async def test_sec32_addresses_of_ours_are_refused_when_they_are_saved(url: str) -> None:
    with pytest.raises(AddressRefused):
        await Guard().check(url)


async def test_sec32_refused_over_http_with_a_reason_and_nothing_saved(start_node: StartNode) -> None:
    strict = await start_node()
    alice = await register(strict)
    for url in (
        "https://169.254.169.254/",
        "https://localhost/",
        "http://127.0.0.1:8080/",
        "https://no.such.host.invalid/",
    ):
        code = await strict.code("POST", "/v1/webhook-endpoints", {"url": url}, token=alice.access)
        assert code == (422, "webhook_url_refused"), url
    _, page, _ = await strict.call("GET", "/v1/webhook-endpoints", token=alice.access)
    assert page["items"] == []


async def test_sec32_a_name_that_turns_private_after_saving_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Sequence[str]] = [["93.184.216.34"], ["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::1"]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    opened: list[Any] = []

    async def open_nothing(addr_infos: Any, **_: Any) -> Any:
        opened.extend(addr_infos)
        raise OSError("this test opens no connection")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", open_nothing)
    guard = Guard(resolve_=rebinding)
    assert await guard.check("https://rebind.example/hook") == "https://rebind.example/hook"
    async with guarded_session(guard, 5) as session:
        for _ in range(3):
            with pytest.raises(aiohttp.ClientConnectorError) as refused:
                await session.post("https://rebind.example/hook")
            assert isinstance(refused.value.os_error, AddressRefused)
    assert not opened
    # Where the name stays public, the connection goes to the very address that was checked.
    answers[:] = [["93.184.216.34"]]
    async with guarded_session(guard, 5) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post("https://rebind.example/hook")
    assert [info[4][0] for info in opened] == ["93.184.216.34"]


async def test_sec32_redirects_are_not_followed(node: Node, sender: Deliveries, receiver: Receiver) -> None:
    alice = await register(node)
    async with receiving() as inside:

        async def away(request: web.Request, body: bytes) -> web.Response:
            return web.Response(status=307, headers={"Location": inside.url})

        receiver.answer = away
        made = await endpoint(node, alice.access, receiver.url, "webhook.none")
        _, test, _ = await node.call("POST", f"/v1/webhook-endpoints/{made['id']}/test", token=alice.access)
        assert await sender.run_due() == 1
        found = await delivery_of(node, alice.access, test["event_id"])
        assert found["tries"][0]["error"] == "HTTP 307: redirects are not followed"
        assert not inside.came


async def test_sec32_an_address_that_was_allowed_once_is_checked_again_when_it_is_opened(
    node: Node, backend: Backend, receiver: Receiver
) -> None:
    alice = await register(node)
    made = await endpoint(node, alice.access, receiver.url, "webhook.none")
    _, test, _ = await node.call("POST", f"/v1/webhook-endpoints/{made['id']}/test", token=alice.access)
    strict = Deliveries(backend.settings.postgres_dsn, node.services.identity.sealer, Guard())
    await strict.start()
    try:
        assert await strict.run_due() == 1
    finally:
        await strict.stop()
    found = await delivery_of(node, alice.access, test["event_id"])
    assert found["tries"][0]["error"].startswith("refused: ")
    assert not receiver.came


def test_sec32_live_mode_allows_no_exceptions() -> None:
    from aura_stream.settings import SettingsError, load_settings

    with pytest.raises(SettingsError, match="public addresses only"):
        load_settings(mode="live", webhook_allow="127.0.0.1", api_key=bytes(range(16)).hex())
