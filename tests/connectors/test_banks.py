"""Banks that misbehave: whatever they do, each order is acted on once, and its outcome is found and told."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator

import aiohttp
import pytest

from aura_stream.domain.ids import bank_reference
from aura_stream.webhooks.signatures import make_secret, sign
from tests.connectors.town import LIMITS, Town, soon
from tests.e2e.client import NAMESPACE

pytestmark = pytest.mark.timeout(400)  # starting a town is a part of its first test

IBAN = "DE89370400440532013000"


async def funded(town: Town, name: str, amount: str) -> None:
    """A customer with fiat that came by SEPA."""
    await town.customer(name, "EUR")
    id_ = await town.send(
        "deposit.submit", name, {"account_id": f"{name}:EUR", "amount": amount, "rail": "sepa_instant"}
    )
    await town.reaches(id_, "awaiting_funds")
    await town.push(bank_reference(id_, "deposit"), amount)
    await town.reaches(id_, "completed")


async def payout(town: Town, name: str, amount: str, party: str = "Bob Example") -> str:
    """A payout of fiat, within seconds."""
    beneficiary = {"name": party, "account": IBAN}
    asked = {"account_id": f"{name}:EUR", "amount": amount, "rail": "sepa_instant", "beneficiary": beneficiary}
    return await town.send("withdrawal.submit", name, asked)


@pytest.fixture
async def deaf(town: Town) -> AsyncIterator[None]:
    """Nobody tells the lanes anything by itself: no webhook of bank-b arrives, and its events are not asked for."""
    await town.terminate("bank-0")
    await town.start("bank", AURA_BANK_POLL_S="3600")
    yield
    await town.operator("PUT", "/v1/simulate/banks/bank-b/profile", {"rates": {"lost": 0}})
    await town.terminate("bank-0")
    await town.start("bank")


@pytest.mark.row("N30", "SEC34", "A15", "A13", "L49")
async def test_n30_sec34_no_answer_that_can_be_believed_leads_to_an_inquiry_and_one_submission(
    town: Town, deaf: None
) -> None:
    # .55 acts and never answers, .56 acts and answers 500, .58 acts and its answer breaks off; the others act and
    # answer what no honest bank answers.
    await funded(town, "n30", "1000.00")
    await town.operator("PUT", "/v1/simulate/banks/bank-b/profile", {"rates": {"lost": 10_000}})
    asked = [("10.55", "Bob"), ("10.56", "Bob"), ("10.58", "Bob")]
    faults = ("html", "huge", "wrong_types", "negative_amount", "wrong_currency")
    asked += [(f"{20 + n}.00", f"FAULT {fault}") for n, fault in enumerate(faults)]

    ids = [await payout(town, "n30", amount, party) for amount, party in asked]
    for id_ in ids:
        await town.reaches(id_, "payout_submitted", "completed")  # or settled before anybody asked

    for id_ in ids:
        submit, *inquiries = await town.attempts(id_)
        assert (submit["kind"], submit["answer"]) == ("submit", "lost")
        assert {one["kind"] for one in inquiries} == {"inquire"}
        assert inquiries[-1]["answer"] in ("accepted", "settled")
        assert {one["reference"] for one in inquiries} == {submit["reference"]}
        book = await town.at_bank("bank-b", submit["reference"])
        assert (book["submissions"], book["acted"]) == (1, 1)

    # What no webhook ever tells is found by asking for events.
    await town.terminate("bank-0")
    await town.start("bank")
    for id_ in ids:
        await town.reaches(id_, "completed")
    assert await town.balance("n30:EUR") == 100_000 - sum(int(amount.replace(".", "")) for amount, _ in asked)


@pytest.mark.row("L51", "L49", "A15", "N31")
async def test_l51_a15_what_was_certainly_not_processed_is_tried_three_times_with_one_reference(town: Town) -> None:
    await funded(town, "l51", "100.00")

    id_ = await payout(town, "l51", "10.88")
    await town.reaches(id_, "completed")

    first, second, third = [one for one in await town.attempts(id_) if one["kind"] == "submit"]
    assert [one["answer"] for one in (first, second)] == ["not_processed", "not_processed"]
    assert [one["status"] for one in (first, second, third)] == [503, 503, 201]
    assert third["answer"] == "accepted"
    assert len({one["reference"] for one in (first, second, third)}) == 1
    waits = [(b["started_at"] - a["started_at"]).total_seconds() for a, b in ((first, second), (second, third))]
    assert waits[0] >= LIMITS["backoff_ms"] / 2000 and waits[1] >= LIMITS["backoff_ms"] / 1000
    assert (await town.at_bank("bank-b", first["reference"]))["acted"] == 1


@pytest.mark.row("N20", "A13")
@pytest.mark.parametrize("cents", ["66", "77", "99"])
async def test_n20_events_twice_out_of_order_or_never_are_booked_once(town: Town, cents: str) -> None:
    await funded(town, f"n20-{cents}", "100.00")

    id_ = await payout(town, f"n20-{cents}", f"10.{cents}")
    await town.reaches(id_, "completed")

    assert await town.balance(f"n20-{cents}:EUR") == 10000 - 1000 - int(cents)
    booked = await town.fetch(
        "SELECT kind, count(*) AS times FROM ledger.journals WHERE transaction_id = $1 GROUP BY kind", id_
    )
    assert all(row["times"] == 1 for row in booked), booked


@pytest.mark.row("N31")
async def test_n31_a_refused_payout_gives_the_money_back(town: Town) -> None:
    await funded(town, "n31", "100.00")

    id_ = await payout(town, "n31", "10.11")
    await town.reaches(id_, "payout_rejected")

    assert (await town.transaction(id_))[0] == "failed"
    assert await town.balance("n31:EUR") == 10000


@pytest.mark.row("A04", "N31")
async def test_a04_money_that_nobody_announced_goes_to_suspense_once(town: Town) -> None:
    await town.push("nobody knows this", "77.00")

    async def missing() -> str:
        rows = await town.fetch(
            "SELECT count(*) AS n FROM ledger.transactions WHERE type = 'suspense' AND amount = 7700"
        )
        return "" if rows[0]["n"] == 1 else f"{rows[0]['n']} suspense transactions"

    await soon(missing, "it is in suspense", town)


@pytest.mark.row("N20", "A04")
async def test_n20_money_that_is_here_before_its_deposit_is_credited_once(town: Town) -> None:
    await town.customer("early", "EUR")
    key = uuid.uuid4().hex
    id_ = str(uuid.uuid5(NAMESPACE, f"default/early/{key}"))
    await town.push(bank_reference(id_, "deposit"), "55.00")

    async def heard() -> str:
        known = (await town.metrics("bank-0"))["aura_lane_early", "bank:bank-b"]
        return "" if known == 1 else f"{known} payments are early"

    await soon(heard, "the lane has heard of it", town)
    submitted = {"account_id": "early:EUR", "amount": "55.00", "rail": "sepa_instant"}
    assert await town.send("deposit.submit", "early", submitted, key) == id_

    await town.reaches(id_, "completed")
    assert await town.balance("early:EUR") == 5500
    assert (await town.metrics("bank-0"))["aura_lane_early", "bank:bank-b"] == 0
    suspense = "SELECT count(*) FROM ledger.transactions WHERE type = 'suspense' AND amount = 5500"
    assert (await town.fetch(suspense))[0][0] == 0


@pytest.mark.row("SEC33", "N29", "N20")
async def test_sec33_n29_only_what_the_bank_has_signed_now_is_heard_and_once(town: Town) -> None:
    await town.customer("sec33", "EUR")
    submitted = {"account_id": "sec33:EUR", "amount": "33.00", "rail": "sepa_instant"}
    id_ = await town.send("deposit.submit", "sec33", submitted)
    await town.reaches(id_, "awaiting_funds")
    known = json.loads((town.local.home / "mock-bank" / "credentials.json").read_text())["banks"]
    transfer = {
        "id": "tr_sec33",
        "reference": bank_reference(id_, "deposit"),
        "direction": "incoming",
        "currency": "EUR",
        "amount": "33.00",
        "settled_amount": "33.00",
        "settled_at": "2026-11-20T10:00:00Z",
        "status": "settled",
    }
    event = {"id": "evt_sec33", "type": "transfer.received", "data": {"transfer": transfer}}
    body = json.dumps(event).encode()
    secret, other, now = known["bank-b"]["webhook_secret"], known["bank-a"]["webhook_secret"], int(time.time())

    async def post(
        content: bytes, signature: str, stamp: int = now, bank: str = "bank-b", id_: str = "evt_sec33"
    ) -> int:
        headers = {"webhook-id": id_, "webhook-timestamp": str(stamp), "webhook-signature": signature}
        url = f"{town.settings.api_url}/v1/bank-webhooks/{bank}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=content, headers=headers | {"Content-Type": "application/json"}) as answer,
        ):
            return answer.status

    good = sign([secret], "evt_sec33", now, body)
    assert await post(body, "") == 401
    assert await post(body, sign([other], "evt_sec33", now, body)) == 401
    assert await post(body, good, id_="evt_other") == 401
    assert await post(body, good, bank="bank-a") == 401
    assert await post(body, good, bank="bank-x") == 401
    assert await post(body, sign([secret], "evt_sec33", now - 600, body), now - 600) == 401
    for stamp in (now - 305, now + 310):
        assert await post(body, sign([secret], "evt_sec33", stamp, body), stamp) == 401
    assert await post(body, sign([make_secret()], "evt_sec33", now, body)) == 401  # as a tenant has for its own hooks
    assert await post(body, sign([secret], "evt_sec33", now, body).replace("v1,", "v2,")) == 401
    for cut in range(0, len(body), 7):
        assert await post(body[:cut], good) == 401
    half = body[: len(body) // 2]
    assert await post(half, sign([secret], "evt_sec33", now, half)) == 400
    await asyncio.sleep(1)  # nothing of all that may have an effect, however late
    assert (await town.transaction(id_))[1] == "awaiting_funds"

    assert [await post(body, good) for _ in range(3)] == [204, 204, 204]
    await town.reaches(id_, "completed")
    assert await town.balance("sec33:EUR") == 3300

    # Said once more, signed anew at either end of what is now, and under ids of its own: still once.
    for n, stamp in enumerate((now - 280, now + 290)):
        again = json.dumps(event | {"id": f"evt_sec33_{n}"}).encode()
        name = f"evt_sec33_{n}"
        assert await post(again, sign([secret], name, stamp, again), stamp, id_=name) == 204
    await funded(town, "sec33-after", "10.00")  # behind them in the same inbox
    assert await town.balance("sec33:EUR") == 3300
    suspense = "SELECT count(*) FROM ledger.transactions WHERE type = 'suspense' AND amount = 3300"
    assert (await town.fetch(suspense))[0][0] == 0


@pytest.mark.row("A13", "A04")
async def test_a13_the_banks_webhooks_come_in(town: Town) -> None:
    await funded(town, "a13", "44.00")

    async def missing() -> str:
        tries = (await town.operator("GET", "/v1/simulate/banks/bank-b/books/attempts"))["attempts"]
        return (
            "" if any(one["answer"] == "204" for one in tries) else f"answers {[one['answer'] for one in tries][-5:]}"
        )

    await soon(missing, "a webhook was taken", town)


@pytest.mark.row("A14", "N31")
async def test_a14_bank_a_hangs_and_bank_b_goes_on_and_half_open_lets_a_back(town: Town) -> None:
    await town.customer("a14", "USD")
    before = {bank: await town.told_of(f"bank:{bank}") for bank in ("bank-a", "bank-b")}  # other tests have their own
    await town.operator("PUT", "/v1/simulate/banks/bank-a/profile", {"name": "hanging"})
    try:
        stuck = []
        for _ in range(4):
            payer = {"name": "Bob Example", "account": "021000021/123456789"}
            asked = {"account_id": "a14:USD", "amount": "10.00", "rail": "ach", "payer": payer}
            stuck.append(await town.send("deposit.submit", "a14", asked))

        async def is_open() -> str:
            rows = await town.fetch("SELECT breaker FROM settlement.lanes WHERE lane = 'bank:bank-a'")
            return "" if rows and rows[0]["breaker"] != "closed" else "bank-a's breaker is closed"

        await soon(is_open, "the breaker of bank-a opens", town)

        async def counted() -> str:
            lost = (await town.metrics("bank-0")).get(("aura_lane_attempts_total", "lost", "submit", "bank:bank-a"), 0)
            return "" if lost >= 4 else f"{lost} lost submissions are counted"

        await soon(counted, "the attempts are counted", town)
        shown = await town.metrics("bank-0")
        assert shown["aura_lane_breaker", "bank:bank-a"] > 0 == shown["aura_lane_breaker", "bank:bank-b"]
        assert shown["aura_lane_waiting", "bank:bank-a"] + shown["aura_lane_under_way", "bank:bank-a"] >= 1
        for n in range(3):
            await funded(town, f"a14-{n}", "10.00")
        assert "submitted" not in [(await town.transaction(id_))[1] for id_ in stuck]
        lanes = await town.fetch("SELECT lane FROM settlement.lanes WHERE breaker <> 'closed' AND lane = 'bank:bank-b'")
        assert lanes == []
    finally:
        await town.operator("PUT", "/v1/simulate/banks/bank-a/profile", {"name": "calm"})
    for id_ in stuck:
        await town.reaches(id_, "submitted", "rejected")
    references = {one["reference"] for id_ in stuck for one in await town.attempts(id_)}
    books = [await town.at_bank("bank-a", reference) for reference in references]
    assert all(book.get("acted", 0) <= 1 for book in books)
    closed = await town.fetch("SELECT breaker FROM settlement.lanes WHERE lane = 'bank:bank-a'")
    assert closed[0]["breaker"] == "closed"
    assert (await town.metrics("bank-0"))["aura_lane_breaker", "bank:bank-a"] == 0
    told = (await town.told_of("bank:bank-a"))[len(before["bank-a"]) :]
    assert (told[0], told[-1]) == ("lane.breaker_opened", "lane.breaker_closed") and "lane.breaker_half_open" in told
    assert await town.told_of("bank:bank-b") == before["bank-b"]


@pytest.mark.row("N30", "A14")
async def test_n30_a_killed_connector_leaves_nothing_undone_and_nothing_done_twice(town: Town) -> None:
    await funded(town, "kill", "100.00")

    id_ = await payout(town, "kill", "20.55")  # acts, and never answers

    async def is_out() -> str:
        found = await town.attempts(id_)
        return "" if found else "no attempt yet"

    await soon(is_out, "the call is out", town)
    await town.kill("bank-0")
    await town.start("bank")
    await town.reaches(id_, "completed")

    found = await town.attempts(id_)
    assert [one["kind"] for one in found].count("submit") == 1
    book = await town.at_bank("bank-b", found[0]["reference"])
    assert (book["submissions"], book["acted"]) == (1, 1)
    assert await town.balance("kill:EUR") == 10000 - 2055
