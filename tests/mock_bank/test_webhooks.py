"""Webhooks: signed by the specification, tried again, and spoiled as asked. What never comes is found by asking."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime

import pytest

from aura_stream.mock_bank.webhooks import sign
from tests.mock_bank.conftest import FRIDAY, Client, Receiver, Running, Start


@pytest.fixture
async def running(start: Start) -> Running:
    return await start()


@pytest.fixture
async def client(running: Running) -> Client:
    return await running.client()


@pytest.fixture
async def receiver(running: Running, client: Client) -> Receiver:
    return await running.receiver(client)


def test_sec33_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks specification and its reference libraries.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'

    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a13_events_arrive_signed_and_in_order(client: Client, receiver: Receiver) -> None:
    await client.ach("REF-1", "12.50")
    await client.flush()
    await client.pass_time(days=4)
    await client.flush()

    assert [(hook.type, hook.trouble) for hook in receiver.hooks] == [
        ("transfer.accepted", ""),
        ("transfer.settled", ""),
    ]
    assert [hook.transfer["seq"] for hook in receiver.hooks] == [1, 2]
    told = receiver.hooks[1].transfer
    assert (told["reference"], told["status"], told["settled_amount"]) == ("REF-1", "settled", "12.50")
    assert json.loads(receiver.hooks[1].body)["occurred_at"] == "2026-11-23T13:30:00.000Z"


@pytest.mark.parametrize(
    ("cents", "troubles"),
    [("13", ["signature", ""]), ("14", ["stale", ""]), ("15", ["cut", ""])],
)
async def test_sec33_n29_spoiled_try_is_followed_by_a_good_one(
    client: Client, receiver: Receiver, cents: str, troubles: list[str]
) -> None:
    await client.ach("REF-1", f"10.{cents}")
    await client.flush()
    assert [hook.trouble for hook in receiver.hooks] == troubles[:1]
    await client.pass_time(5)
    await client.flush()

    assert [hook.trouble for hook in receiver.hooks] == troubles
    assert len({hook.id for hook in receiver.hooks}) == 1


async def test_n29_duplicate_has_the_same_id_and_bytes(client: Client, receiver: Receiver) -> None:
    await client.ach("REF-1", "10.66")
    await client.flush()

    first, second = receiver.hooks
    assert (first.id, first.body) == (second.id, second.body) and not first.trouble and not second.trouble


async def test_n20_first_event_comes_after_the_second(client: Client, receiver: Receiver) -> None:
    await client.fund()
    await client.flush()
    receiver.hooks.clear()
    await client.sepa("REF-1", "10.77", instant=True)
    await client.flush()
    assert receiver.hooks == []
    await client.pass_time(5)
    await client.flush()

    assert [hook.transfer["seq"] for hook in receiver.hooks] == [2, 1]
    assert [hook.transfer["status"] for hook in receiver.hooks] == ["settled", "sent"]


async def test_n20_events_that_were_kept_back_come_an_hour_later_when_none_follows(
    client: Client, receiver: Receiver
) -> None:
    await client.operator("PUT", "/profile", {"rates": {"out_of_order": 10_000}})
    await client.ach("REF-1", "10.00")
    await client.pass_time(days=3, seconds=-1800)  # it settles on Monday at 8:30
    await client.pass_time(3_599)
    await client.flush()
    assert (await client.status_by_id("REF-1"))["status"] == "settled" and receiver.hooks == []
    await client.pass_time(1)
    await client.flush()

    assert [hook.type for hook in receiver.hooks] == ["transfer.accepted", "transfer.settled"]


async def test_n29_lost_webhook_is_found_by_asking(client: Client, receiver: Receiver) -> None:
    await client.ach("REF-1", "10.99")
    await client.pass_time(days=4)
    await client.flush()

    assert receiver.hooks == []
    answer = (await client.bank("GET", "/events", limit=1)).body
    assert [event["type"] for event in answer["events"]] == ["transfer.accepted"]
    rest = (await client.bank("GET", "/events", after=answer["after"])).body
    assert [event["type"] for event in rest["events"]] == ["transfer.settled"]
    assert (await client.bank("GET", "/events", after=rest["after"])).body == {"events": [], "after": rest["after"]}


async def test_failed_delivery_is_tried_again_on_the_schedule_and_then_given_up(
    client: Client, receiver: Receiver
) -> None:
    receiver.answer = 500
    await client.ach("REF-1", "10.00")
    await client.flush()
    for seconds, tries in ((4, 1), (1, 2), (299, 2), (1, 3), (1_800, 4), (7_200, 5)):
        await client.pass_time(seconds)
        await client.flush()
        assert len(receiver.hooks) == tries, seconds
    for _ in range(10):
        await client.pass_time(days=1)
        await client.flush()

    states = (await client.books())["webhooks"]
    assert states["failed"] >= 1
    first = [hook for hook in receiver.hooks if hook.id == receiver.hooks[0].id]
    assert len(first) == 10 and len({hook.body for hook in first}) == 1
    attempts = (await client.operator("GET", "/books/attempts"))["attempts"]
    assert {one["answer"] for one in attempts} == {"500"}


async def test_410_ends_the_webhook_until_it_is_set_again(client: Client, receiver: Receiver) -> None:
    receiver.answer = 410
    await client.ach("REF-1", "10.00")
    await client.flush()
    await client.ach("REF-2", "10.00")
    await client.flush()
    assert len(receiver.hooks) == 1

    receiver.answer = 0
    await client.bank("PUT", "/webhook", {"url": receiver.url})
    await client.flush()
    assert [hook.transfer["reference"] for hook in receiver.hooks] == ["REF-1", "REF-2"]


@pytest.mark.parametrize(("skew", "trouble"), [(300, ""), (-300, ""), (301, "stale"), (-301, "stale")])
async def test_sec33_banks_clock_may_be_wrong(client: Client, receiver: Receiver, skew: int, trouble: str) -> None:
    await client.operator("PUT", "/profile", {"skew_s": skew})
    await client.ach("REF-1", "10.00")
    await client.flush()

    assert [hook.trouble for hook in receiver.hooks] == [trouble]


async def test_wall_clock_runs_by_itself_and_can_be_pushed(start: Start) -> None:
    running = await start(clock="wall", start_ms=None, webhook_time="machine")
    client = await running.client()
    receiver = await running.receiver(client)
    receiver.now_s = lambda: int(time.time())
    await client.fund()
    await client.sepa("REF-1", "1.00", instant=True)
    async with asyncio.timeout(30):
        await receiver.settled.wait()

    await client.ach("REF-2", "1.00")
    await client.pass_time(days=6)
    assert (await client.status_by_id("REF-2"))["status"] == "settled"


async def test_a_wall_clock_may_begin_at_any_time_and_runs_on_from_there(start: Start) -> None:
    client = await (await start(clock="wall", start_ms=FRIDAY, webhook_time="machine")).client()

    now = datetime.fromisoformat((await client.books())["now"]).timestamp() * 1000
    await client.pass_time(days=1)
    later = datetime.fromisoformat((await client.books())["now"]).timestamp() * 1000

    assert 0 <= now - FRIDAY < 60_000
    assert 0 <= later - now - 86_400_000 < 60_000


async def test_webhooks_wait_while_the_bank_is_down(client: Client, receiver: Receiver) -> None:
    await client.ach("REF-1", "10.00")
    await client.flush()
    await client.operator("PUT", "/profile", {"name": "down"})
    await client.pass_time(days=4)
    await client.flush()
    assert len(receiver.hooks) == 1
    await client.operator("PUT", "/profile", {"name": "calm"})
    await client.flush()

    assert [hook.type for hook in receiver.good()] == ["transfer.accepted", "transfer.settled"]


@pytest.mark.parametrize(
    "url", ["http://example.com/hook", "http://169.254.169.254/", "file:///etc/passwd", "http://127.0.0.1.evil.test/"]
)
async def test_sec33_webhook_goes_to_this_machine_only(client: Client, url: str) -> None:
    answer = await client.bank("PUT", "/webhook", {"url": url})

    assert (answer.status, answer.body["code"]) == (400, "webhook_url_refused")


async def test_sec33_secrets_of_banks_differ(running: Running) -> None:
    banks = running.credentials["banks"]

    assert len({bank["webhook_secret"] for bank in banks.values()}) == len(banks) == 2
    assert len({bank["client_secret"] for bank in banks.values()}) == 2
