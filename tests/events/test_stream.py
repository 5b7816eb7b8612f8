"""Live events by Server-Sent Events and WebSocket: nothing lost, nothing twice, nothing for who may not see it."""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest

from aura_stream.embedded import Process
from aura_stream.embedded.local import http_ok
from aura_stream.embedded.processes import free_port
from tests.events.conftest import (
    Stream,
    base_of,
    deposit,
    events_of,
    operator,
    streaming,
    transfer,
    until_told,
    wait_for,
)
from tests.identity.conftest import Node, StartNode, login, register, staff
from tests.web.conftest import Backend, environment

if TYPE_CHECKING:
    import asyncpg

    Owner = asyncpg.Connection[asyncpg.Record]


@asynccontextmanager
async def socket(
    base: str, token: str = "", query: str = "", protocols: tuple[str, ...] = ()
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket on an API node."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{base}/v1/events/ws{query}", headers=headers, protocols=protocols) as one,
    ):
        yield one


async def message(one: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The next message of a socket."""
    async with asyncio.timeout(20):
        return dict(orjson.loads(await one.receive_str()))


async def test_s18_both_streams_tell_what_happens_as_the_log_has_it(node: Node) -> None:
    alice, bob = await register(node), await register(node)
    await until_told(node, alice.access, "user.logged_in")
    await until_told(node, alice.access, "deposit.credited")
    base = base_of(node)
    async with streaming(base, alice.access) as stream, socket(base, alice.access) as one:
        hello = await message(one)
        assert set(hello) == {"hello"}
        sent = await transfer(node, alice, bob.account)
        async with asyncio.timeout(20):
            pushed = [await stream.next() for _ in range(2)]
        told = [(await message(one))["event"] for _ in range(2)]
    assert pushed == told
    assert [event["type"] for event in told] == ["transfer.sent", "transfer.completed"]
    assert [event["data"]["transaction_id"] for event in told] == [sent, sent]
    assert (await events_of(node, alice.access))[-2:] == told


async def test_s18_filters_and_resume_from_an_event(node: Node) -> None:
    alice = await register(node)
    for number in range(3):
        await deposit(node, alice, f"{number + 1}.00")
    await until_told(node, alice.access, "deposit.credited", 4)
    events = await events_of(node, alice.access)
    base = base_of(node)
    async with streaming(base, alice.access, f"?after={events[2]['id']}") as stream:
        assert [await stream.next() for _ in events[3:]] == events[3:]
    # A browser that reconnects sends the header and the URL as it was: the header is the younger.
    async with streaming(base, alice.access, "?after=0", Last_Event_ID=events[5]["id"]) as stream:
        assert await stream.next() == events[6]
    async with socket(base, alice.access, "?after=0&type=account.*,deposit.credited") as one:
        await message(one)
        wanted = [e for e in events if e["type"].startswith("account.") or e["type"] == "deposit.credited"]
        assert [(await message(one))["event"] for _ in wanted] == wanted
    assert await node.code("GET", "/v1/events/stream?after=9-9-9", token=alice.access) == (404, "event_not_found")


@pytest.mark.timeout(120)
async def test_s18_no_loss_and_no_repeat_over_cut_connections_and_restarts_of_the_api(
    node: Node, backend: Backend, tmp_path: Path
) -> None:
    """Connections are cut at random and the API process is killed and started again, while money moves."""
    alice, bob = await register(node), await register(node)
    await until_told(node, alice.access, "deposit.credited")
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    process = Process(
        "api-streams",
        [sys.executable, "-m", "aura_stream.cli", "api"],
        run_dir=tmp_path,
        log_dir=tmp_path,
        env=environment("api", backend.settings) | {"AURA_API_PORT": str(port), "AURA_API_KEY": operator()},
        tied=True,
        ready=lambda: http_ok(f"{base}/health/ready"),
    )
    process.start()
    await asyncio.to_thread(process.wait_ready, 40)
    dice = random.Random(20261121)
    total = 40
    begin = (await events_of(node, alice.access))[-1]["id"]
    got: dict[str, list[str]] = {"sse": [], "ws": []}
    cuts = 0

    async def traffic() -> None:
        for _ in range(total):
            await transfer(node, alice, bob.account)

    async def listen(kind: str) -> None:
        nonlocal cuts
        mine, last = got[kind], begin
        while len(mine) < 2 * total:
            patience = dice.uniform(0.05, 1.2)
            try:
                async with asyncio.timeout(patience):
                    if kind == "sse":
                        async with streaming(base, alice.access, Last_Event_ID=last) as stream:
                            while (event := await stream.next()) is not None:
                                mine.append(event["id"])
                                last = event["id"]
                    else:
                        async with socket(base, alice.access, f"?after={last}") as one:
                            async for raw in one:
                                said = orjson.loads(raw.data)
                                if "event" in said:
                                    mine.append(said["event"]["id"])
                                    last = said["event"]["id"]
            except (TimeoutError, aiohttp.ClientError, AssertionError):
                # Cut, or the API is away or not ready to let anybody in.
                cuts += 1
                await asyncio.sleep(0.02)

    async def restarts() -> None:
        for how in ("kill", "stop"):
            await asyncio.sleep(1.5)
            await asyncio.to_thread(getattr(process, how))
            process.start()
            await asyncio.to_thread(process.wait_ready, 40)

    try:
        async with asyncio.timeout(100):
            await asyncio.gather(traffic(), listen("sse"), listen("ws"), restarts())
    finally:
        await asyncio.to_thread(process.stop)
    log = [event["id"] for event in await events_of(node, alice.access)]
    wanted = log[log.index(begin) + 1 :]
    assert len(wanted) == 2 * total
    assert got["sse"] == wanted
    assert got["ws"] == wanted
    assert cuts >= 4
    assert "Traceback" not in process.log_path.read_text()


async def test_sec18_a_stream_tells_nothing_of_another_customer_or_tenant(node: Node) -> None:
    alice, mallory = await register(node), await register(node)
    abroad, support = await staff(node, "admin", tenant="demo"), await staff(node, "support")
    await until_told(node, mallory.access, "deposit.credited")
    base = base_of(node)
    async with (
        streaming(base, mallory.access) as hers,
        streaming(base, abroad.access) as theirs,
        streaming(base, support.access, f"?type=deposit.*&customer={alice.customer}") as seen,
    ):
        await deposit(node, alice)
        async with asyncio.timeout(20):
            event = await seen.next()
            assert event is not None and event["customer_id"] == alice.customer
            await deposit(node, mallory)
            first = await hers.next()
        assert first is not None and first["customer_id"] == mallory.customer
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while event := await theirs.next():
                    assert event["tenant_id"] == "demo"
    status, code = await node.code("GET", f"/v1/events/stream?customer={alice.customer}", token=mallory.access)
    assert (status, code) == (403, "insufficient_permissions")
    assert (await node.code("GET", "/v1/events/stream?access_token=x"))[0] == 401


@pytest.mark.parametrize("way", ["logout", "suspended", "expired"])
async def test_sec18_sec09_a_stream_ends_with_its_login(node: Node, start_node: StartNode, way: str) -> None:
    alice = await register(node)
    here = await start_node(access_token_s=10) if way == "expired" else node
    who = await login(here, alice.email)
    base = base_of(here)
    await until_told(here, who.access, "user.logged_in", 2)
    async with streaming(base, who.access) as stream, socket(base, who.access) as one:
        await message(one)
        if way == "logout":
            assert (await node.call("POST", "/v1/auth/logout", {}, token=who.access))[0] in (200, 204)
        elif way == "suspended":
            body = {"status": "SUSPENDED"}
            assert (await node.call("PUT", f"/v1/users/{alice.id}", body, token=operator()))[0] == 200
        if way != "expired":
            # What is told of it comes after the revocation was answered: to nobody whose login it was.
            await deposit(node, alice, token=operator())
        async with asyncio.timeout(25):
            assert await stream.next() is None
            said = await message(one)
            while "event" in said:
                said = await message(one)
            assert (await one.receive()).type == aiohttp.WSMsgType.CLOSE
    reasons = {
        "logout": {"token_revoked"},
        "suspended": {"token_revoked"},
        "expired": {"token_expired", "token_revoked"},
    }
    assert stream.closed["code"] in reasons[way]
    assert said["closed"]["code"] == stream.closed["code"]
    assert said["closed"]["resume_after"]
    assert one.close_code == 4401


async def test_s18_browsers_take_a_ticket_once_and_sockets_a_subprotocol(node: Node) -> None:
    alice = await register(node)
    await until_told(node, alice.access, "deposit.credited")
    base = base_of(node)
    _, made, _ = await node.call("POST", "/v1/stream/tickets", token=alice.access)
    async with streaming(base, "", f"?ticket={made['ticket']}&after=0") as stream:
        event = await stream.next()
        assert event is not None and event["customer_id"] == alice.customer
    assert await node.code("GET", f"/v1/events/stream?ticket={made['ticket']}") == (401, "invalid_token")
    assert await node.code("GET", f"/v1/events/stream?ticket={'x' * 43}") == (401, "invalid_token")
    async with socket(base, "", "?after=0", ("aura.v1", f"bearer.{alice.access}")) as one:
        assert one.protocol == "aura.v1"
        await message(one)
        assert (await message(one))["event"] == event
    # A ticket is worth what its login is worth.
    _, made, _ = await node.call("POST", "/v1/stream/tickets", token=alice.access)
    await node.call("POST", "/v1/auth/logout", {}, token=alice.access)
    assert await node.code("GET", f"/v1/events/stream?ticket={made['ticket']}") == (401, "token_revoked")


async def test_sec18_a_token_in_the_url_is_refused(node: Node) -> None:
    alice = await register(node)
    for query in (f"?token={alice.access}", f"?access_token={alice.access}"):
        assert (await node.code("GET", f"/v1/events/stream{query}"))[0] == 401
        assert await node.code("GET", f"/v1/events/stream{query}", token=alice.access) == (400, "unknown_field")
    assert await node.code("GET", "/v1/events/ws", token=alice.access) == (400, "invalid_field")


async def test_x73_a_client_that_does_not_read_is_cut_off_and_holds_up_nobody(node: Node, owner: Owner) -> None:
    alice = await register(node)
    await until_told(node, alice.access, "deposit.credited")
    before = (await events_of(node, alice.access))[-1]["id"]
    base, tail = base_of(node), node.services.events.tail
    reader, writer = await asyncio.open_connection("127.0.0.1", node.client.port)
    head = f"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.access}\r\n\r\n"
    writer.write(head.encode())
    assert b"200" in await reader.readline()
    await wait_for(_is(tail, 1))
    transport: Any = writer.transport
    transport.pause_reading()
    async with streaming(base, alice.access, "?type=test.flood") as stream:
        await wait_for(_is(tail, 2))
        flood = 12_000
        written = asyncio.create_task(_flood(owner, alice.customer, flood))
        async with asyncio.timeout(60):
            got = [await stream.next() for _ in range(flood)]
            await written
        assert [event["seq"] for event in got if event] == list(range(1, flood + 1))
        assert await deposit(node, alice)
    await wait_for(_is(tail, 0))
    writer.close()
    # The one that was cut off begins again where it was.
    async with streaming(base, alice.access, "?type=test.flood", Last_Event_ID=before) as stream:
        assert [(await stream.next() or {})["seq"] for _ in range(flood)] == list(range(1, flood + 1))


def _is(tail: Any, count: int) -> Any:
    async def look() -> bool:
        return len(tail) == count

    return look


async def _flood(owner: Owner, customer: str, count: int) -> None:
    """Many large events, in portions, as the log's worker writes them; on a partition that no topic has."""
    await owner.execute("SELECT events.claim(999)")
    filler = "x" * 1500
    for start in range(0, count, 500):
        rows = range(start + 1, start + 501)
        run = uuid.uuid4().hex[:12]
        bodies = [
            orjson.dumps({"id": f"f-{run}-{n}", "type": "test.flood", "seq": n, "data": {"filler": filler}}).decode()
            for n in rows
        ]
        source = await owner.fetchrow("SELECT epoch, next_offsets FROM events.sources WHERE partition = 999")
        assert source is not None
        epoch, offsets = source
        done = await owner.fetchval(
            """SELECT events.append(999, $1, $2, $2, $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::int[], $9::text[], $10::timestamptz[], $11::text[])""",
            epoch,
            offsets,
            [f"f-{run}-{n}" for n in rows],
            ["default"] * 500,
            [customer] * 500,
            ["test.flood"] * 500,
            ["event:flood"] * 500,
            list(rows),
            [""] * 500,
            [datetime.now(UTC)] * 500,
            bodies,
        )
        assert done is not None
        await asyncio.sleep(0.05)


async def test_s18_streams_of_a_node_are_bounded(start_node: StartNode) -> None:
    node = await start_node(streams_max=1)
    alice = await register(node)
    async with streaming(base_of(node), alice.access) as stream:
        assert isinstance(stream, Stream)
        await wait_for(_is(node.services.events.tail, 1))
        assert await node.code("GET", "/v1/events/stream", token=alice.access) == (503, "service_unavailable")
    await wait_for(_is(node.services.events.tail, 0))
