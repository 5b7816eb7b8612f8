"""What the bank does wrong, and what it never does: act twice on one reference that it remembers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from aura_stream.mock_bank.faults import PROFILES, SUBMIT
from tests.mock_bank.conftest import CREDITOR, RECEIVER, Client, Start

NO_ANSWER = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)


async def reference(client: Client, name: str) -> dict[str, Any]:
    """What the books say of a reference."""
    listed = (await client.operator("GET", "/books/references", limit=1000))["references"]
    found: dict[str, Any] = next(one for one in listed if one["reference"] == name)
    return found


async def impatient(client: Client) -> None:
    """Hanging answers end soon, so that tests are quick."""
    await client.operator("PUT", "/profile", {"hang_ms": 30})


async def test_n30_same_reference_is_acted_on_once_and_another_body_is_refused(client: Client) -> None:
    first = await client.ach("REF-1", "10.00")
    again = await client.ach("REF-1", "10.00")
    other = await client.ach("REF-1", "10.01")

    assert (first.status, again.status, other.status) == (201, 200, 409)
    assert again.body == first.body and again.headers["Idempotent-Replayed"] == "true"
    assert (other.body["code"], other.body["transfer_id"]) == ("reference_reused", first.body["id"])
    books = await reference(client, "REF-1")
    assert (books["submissions"], books["acted"]) == (3, 1)


async def test_n30_reference_is_forgotten_after_its_window(client: Client) -> None:
    first = await client.ach("REF-1", "10.00")
    await client.pass_time(86_399)
    assert (await client.ach("REF-1", "10.00")).status == 200
    await client.pass_time(1)
    assert (await client.bank("GET", "/transfers", reference="REF-1")).status == 404

    second = await client.ach("REF-1", "10.00")

    assert second.status == 201 and second.body["id"] != first.body["id"]
    books = await client.books()
    assert (books["max_acted"], books["acted_twice"]) == (2, [{"reference": "REF-1", "acted": 2}])


@pytest.mark.parametrize(
    ("cents", "fault", "acted"),
    [
        ("55", "timeout_after", 1),
        ("56", "error_after", 1),
        ("58", "cut_answer", 1),
        ("57", "late", 0),
        ("88", "error_before", 0),
    ],
)
async def test_n30_magic_amount_leaves_the_outcome_unknown(client: Client, cents: str, fault: str, acted: int) -> None:
    await impatient(client)
    try:
        answer = await client.ach("REF-1", f"10.{cents}")
    except NO_ANSWER:
        assert fault in ("timeout_after", "cut_answer", "late")
    else:
        assert answer.status == {"error_after": 500, "error_before": 503}[fault]

    assert (await reference(client, "REF-1"))["acted"] == acted
    inquiry = await client.bank("GET", "/transfers", reference="REF-1")
    assert inquiry.status == (200 if acted else 404)
    calls = (await client.operator("GET", "/books/calls"))["calls"]
    (call,) = [one for one in calls if one["method"] == "POST" and one["reference"] == "REF-1"]
    assert (call["fault"], call["acted"]) == (fault, bool(acted))


async def test_n30_order_is_acted_on_after_the_inquiry_said_not_found(client: Client) -> None:
    await impatient(client)
    delay = (await client.bank("GET", "")).body["longest_processing_delay_s"]
    for name in ("REF-1", "REF-2"):
        with pytest.raises(NO_ANSWER):
            await client.ach(name, "10.57")
        assert (await client.bank("GET", "/transfers", reference=name)).status == 404
    # One waits as it should; the other sends the same order again too early. Neither is done twice.
    assert (await client.ach("REF-2", "10.57")).status == 201
    await client.pass_time(delay)

    assert (await client.status("REF-1"))["status"] == "pending"
    assert (await client.ach("REF-1", "10.57")).status == 200
    assert (await client.books())["max_acted"] == 1
    calls = (await client.operator("GET", "/books/calls"))["calls"]
    late = {one["reference"]: one["acted"] for one in calls if one["method"] == "LATE"}
    assert late == {"REF-1": True, "REF-2": False}


async def test_l51_two_errors_and_then_it_works(client: Client) -> None:
    statuses = [(await client.ach("REF-1", "10.88")).status for _ in range(4)]

    assert statuses == [503, 503, 201, 200]


async def test_n31_stuck_order_waits_for_somebody(client: Client) -> None:
    await client.fund()
    await client.ach("REF-1", "10.01")
    await client.sepa("REF-2", "10.01", instant=True)
    await client.pass_time(days=10)
    assert (await client.status_by_id("REF-1"))["status"] == "pending"
    assert (await client.status_by_id("REF-2"))["iso_status"] == "ACTC"

    settled = await client.operator("POST", "/decisions", {"reference": "REF-1", "status": "settled"})
    rejected = await client.operator("POST", "/decisions", {"reference": "REF-2", "status": "rejected", "code": "AB08"})
    assert (settled["status"], rejected["status"], rejected["code"]) == ("settled", "rejected", "AB08")
    again = await client.try_operator("POST", "/decisions", {"reference": "REF-1", "status": "rejected"})
    assert again.status == 409


async def test_n31_one_cent_is_missing_everywhere(client: Client) -> None:
    await client.ach("REF-1", "10.12")
    await client.pass_time(days=4)

    found = await client.status_by_id("REF-1")
    assert (found["amount"], found["settled_amount"]) == ("10.12", "10.11")
    assert (await client.books())["balances"]["trust-usd"] == "10.11"
    statement = await client.bank("GET", "/statements/camt.053", account_id="trust-usd", date="2026-11-23")
    assert b'<Amt Ccy="USD">10.11</Amt>' in statement.body


async def test_n31_settlement_is_told_twice_and_booked_once(client: Client) -> None:
    await client.ach("REF-1", "10.00", counterparty=RECEIVER | {"name": "FAULT settled_twice"})
    await client.pass_time(days=4)

    events = (await client.bank("GET", "/events")).body["events"]
    assert [event["type"] for event in events] == ["transfer.accepted", "transfer.settled", "transfer.settled"]
    assert events[1]["id"] != events[2]["id"]
    assert (await client.books())["balances"]["trust-usd"] == "10.00"


async def test_n31_rates_hit_as_often_as_they_say(client: Client) -> None:
    await client.operator("PUT", "/profile", {"name": "calm", "rates": {"error_before": 3000}, "seed": 5})
    statuses = [(await client.ach(f"REF-{number}", "1.00")).status for number in range(300)]

    assert 60 <= statuses.count(503) <= 120 and statuses.count(201) == 300 - statuses.count(503)


async def test_n31_stale_inquiry_shows_the_status_before(client: Client) -> None:
    await client.fund()
    await client.sepa("REF-1", "10.00")
    await client.pass_time(7200)
    await client.operator("PUT", "/profile", {"rates": {"stale_status": 10_000}})

    stale = await client.status("REF-1")
    assert (stale["status"], stale["iso_status"]) == ("sent", "ACTC") and "settled_at" not in stale
    await client.operator("PUT", "/profile", {"rates": {}})
    assert (await client.status("REF-1"))["status"] == "settled"


async def test_n31_too_many_calls_are_answered_with_429(client: Client) -> None:
    await client.operator("PUT", "/profile", {"calls_per_s": 3})
    answers = [await client.bank("GET", "/accounts") for _ in range(5)]

    assert [answer.status for answer in answers].count(429) >= 1
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["Retry-After"] == "1"


async def test_a14_bank_that_hangs_or_is_down_does_not_touch_the_other(start: Start) -> None:
    running = await start()
    a, b = await running.client("bank-a"), await running.client("bank-b")
    await a.operator("PUT", "/profile", {"name": "hanging", "hang_ms": 60_000})
    hanging = [asyncio.create_task(a.ach(f"REF-{number}", "1.00")) for number in range(50)]
    await asyncio.sleep(0)

    began = time.monotonic()
    for number in range(20):
        assert (await b.ach(f"REF-{number}", "1.00")).status == 201
    assert time.monotonic() - began < 10
    assert not any(task.done() for task in hanging)

    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await a.operator("PUT", "/profile", {"name": "down"})
    answers = [await a.ach("REF-1", "1.00"), await a.bank("GET", "/accounts"), await a.grant()]
    assert [answer.status for answer in answers] == [503, 503, 503]
    assert (await a.books())["transfers"] == {}
    await a.operator("PUT", "/profile", {"name": "calm"})
    assert (await a.ach("REF-1", "1.00")).status == 201


async def test_sec34_hostile_answers_of_an_order_that_was_done(client: Client) -> None:
    async def order(fault: str) -> Any:
        return await client.ach(fault.replace("_", "-"), "5.00", counterparty=RECEIVER | {"name": f"FAULT {fault}"})

    html, huge = await order("html"), await order("huge")
    types, negative = await order("wrong_types"), await order("negative_amount")

    currency = await order("wrong_currency")
    assert currency.body["currency"] == "EUR"
    assert html.status == 502 and b"<script>" in html.body
    assert len(huge.body["padding"]) == 10_000_000
    assert isinstance(types.body["amount"], list) and isinstance(types.body["seq"], str)
    assert negative.body["amount"] == "-5.00"
    listed = (await client.operator("GET", "/books/references"))["references"]
    assert [one["acted"] for one in listed] == [1, 1, 1, 1, 1]


async def test_n29_statement_is_cut_and_whole_when_asked_again(client: Client) -> None:
    await client.fund("10.00")
    await client.pass_time(days=1)
    await client.operator("PUT", "/profile", {"rates": {"cut_file": 5_000}})
    query = {"account_id": "trust-eur", "date": "2026-11-20"}
    bodies = [(await client.bank("GET", "/statements/camt.053", **query)).body for _ in range(12)]

    lengths = {len(body) for body in bodies}
    whole = max(bodies, key=len)
    assert len(lengths) == 2 and all(whole.startswith(body) for body in bodies)


def test_every_profile_names_known_faults_and_rates_of_one_call_stay_below_all() -> None:
    for rates in PROFILES.values():
        assert sum(rates.get(fault, 0) for fault in SUBMIT) < 10_000


def is_about(body: Any, name: str) -> bool:
    """Whether an answer is one that may be believed: a transfer of this reference, with an amount."""
    return isinstance(body, dict) and body.get("reference") == name and not str(body["amount"]).startswith("-")


async def settle_one(client: Client, name: str, delay_s: int) -> None:
    """A careful client: after any doubt it inquires, and sends the same bytes again only when nothing can come late."""
    for _ in range(40):
        try:
            if name.startswith("A"):
                answer = await client.ach(name, "2.50")
            else:
                answer = await client.sepa(name, "1.00", instant=True, creditor=CREDITOR)
            if answer.status in (200, 201) and answer.body.get("id") and answer.body["reference"] == name:
                return
        except NO_ANSWER:
            pass
        for _ in range(40):
            try:
                inquiry = await client.bank("GET", "/transfers", reference=name)
            except NO_ANSWER:
                continue
            if inquiry.status == 200 and is_about(inquiry.body, name):
                return
            if inquiry.status == 404:
                await client.pass_time(delay_s)
                again = await client.bank("GET", "/transfers", reference=name)
                if again.status == 200 and is_about(again.body, name):
                    return
                break
    raise AssertionError(f"{name} has no outcome")


@pytest.mark.parametrize("profile", ["flaky", "hostile"])
async def test_a13_n30_hundred_orders_through_a_misbehaving_bank_are_each_done_once(
    client: Client, profile: str
) -> None:
    await client.fund("1000.00")
    await client.operator("PUT", "/profile", {"name": profile, "hang_ms": 1, "slow_ms": 1, "seed": 7})
    for number in range(50):
        await settle_one(client, f"A-{number}", 60)
        await settle_one(client, f"S-{number}", 60)

    listed = (await client.operator("GET", "/books/references", limit=1000))["references"]
    assert len(listed) == 100
    assert {one["acted"] for one in listed} == {1}
    assert sum(one["submissions"] for one in listed) > 110
    calls = (await client.operator("GET", "/books/calls", limit=1000))["calls"]
    assert len({call["fault"] for call in calls}) > 6
    books = await client.books()
    assert books["max_acted"] == 1 and books["balanced"]


async def test_n31_incoming_ach_credit_can_be_taken_back(client: Client) -> None:
    pushed = await client.fund("10.00", "trust-usd", reference="in-1")
    wrong = await client.try_operator("POST", "/returns", {"transfer_id": pushed["id"], "code": "AC04"})
    assert (wrong.status, wrong.body["code"]) == (400, "wrong_code")
    taken = await client.operator("POST", "/returns", {"transfer_id": pushed["id"], "code": "R06"})

    assert taken["status"] == "returned"
    assert (await client.books())["balances"]["trust-usd"] == "0.00"


async def test_bank_whose_clock_fails_does_not_look_alive(start: Start) -> None:
    running = await start()
    bank = running.world.banks["bank-a"]
    bank.schedule(running.world.clock.now(), "no such job")

    await asyncio.wait_for(running.world.stopped.wait(), 20)

    assert isinstance(running.world.failure, ExceptionGroup)


async def test_everything_happens_at_its_own_time_in_order_however_long_the_step(client: Client) -> None:
    await client.fund()
    await client.ach("REF-1", "10.44")
    await client.sepa("REF-2", "10.22")
    await client.ach("REF-3", "10.22", same_day=True)
    await client.sepa("REF-4", "10.00", instant=True)
    await client.pass_time(days=30)

    events = (await client.bank("GET", "/events")).body["events"]
    times = [event["occurred_at"] for event in events]
    assert times == sorted(times) and len(set(times)) == 8  # five things were told at the start
    order = [(event["data"]["transfer"]["reference"], event["type"].partition(".")[2]) for event in events[5:]]
    assert [name for name, _ in order[:4]] == ["REF-4", "REF-2", "REF-3", "REF-1"]
    assert set(order[4:6]) == {("REF-2", "returned"), ("REF-3", "returned")}
    assert order[6:] == [("REF-1", "returned")]


async def test_n31_one_cent_is_missing_on_sepa_and_from_what_comes_in(client: Client) -> None:
    assert (await client.fund("100.12"))["settled_amount"] == "100.11"
    await client.sepa("REF-1", "10.12", instant=True)
    await client.pass_time(5)

    assert (await client.status("REF-1"))["settled_amount"] == "10.11"
    assert (await client.books())["balances"]["trust-eur"] == "90.00"


@pytest.mark.parametrize("kind", ["html", "huge", "wrong_types", "negative_amount", "wrong_currency"])
async def test_sec34_hostile_answers_to_inquiries(client: Client, kind: str) -> None:
    await client.ach("REF-1", "5.00")
    await client.operator("PUT", "/profile", {"rates": {f"inquiry_{kind}": 10_000}})

    answer = await client.bank("GET", "/transfers", reference="REF-1")

    assert answer.status == 200
    if kind == "html":
        assert b"<script>" in answer.body
    elif kind == "huge":
        assert len(answer.body["padding"]) == 10_000_000
    else:
        seen = {"wrong_types": ["5.00"], "negative_amount": "-5.00", "wrong_currency": "5.00"}
        assert answer.body["amount"] == seen[kind]
        assert (answer.body["currency"] == "EUR") == (kind == "wrong_currency")
    await client.operator("PUT", "/profile", {"rates": {}})
    assert (await client.status("REF-1"))["amount"] == "5.00"


@pytest.mark.parametrize("kind", ["error", "html", "huge", "wrong_types", "negative_amount"])
async def test_sec34_hostile_lists_of_events(client: Client, kind: str) -> None:
    await client.fund("5.00")
    await client.operator("PUT", "/profile", {"rates": {f"events_{kind}": 10_000}})

    answer = await client.bank("GET", "/events")

    assert answer.status == (503 if kind == "error" else 200)
    if kind in ("wrong_types", "negative_amount"):
        transfer = answer.body["events"][0]["data"]["transfer"]
        assert transfer["settled_amount"] == (["5.00"] if kind == "wrong_types" else "-5.00")
    elif kind == "huge":
        assert len(answer.body["padding"]) == 10_000_000
    await client.operator("PUT", "/profile", {"rates": {}})
    assert (await client.bank("GET", "/events")).body["events"][0]["data"]["transfer"]["amount"] == "5.00"


@pytest.mark.parametrize("kind", ["html", "huge", "wrong_types", "negative_amount"])
async def test_sec34_hostile_statements(client: Client, kind: str) -> None:
    await client.fund("5.00")
    await client.pass_time(days=1)
    query = {"account_id": "trust-eur", "date": "2026-11-20"}
    true = (await client.bank("GET", "/statements/camt.053", **query)).body
    await client.operator("PUT", "/profile", {"rates": {f"file_{kind}": 10_000}})

    spoiled = (await client.bank("GET", "/statements/camt.053", **query)).body

    wanted = {
        "html": b"<script>",
        "huge": b"x" * 10_000_000,
        "wrong_types": b">twelve</Amt>",
        "negative_amount": b">-5.00",
    }
    assert wanted[kind] in spoiled and spoiled != true
