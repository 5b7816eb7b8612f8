"""How a bank is called: one call at a time after it failed, in its own pace, never by more calls at once than it likes;
and what it may say without any of it being believed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from aura_stream.domain.ids import bank_reference
from aura_stream.webhooks.signatures import sign
from tests.connectors.test_banks import funded, payout
from tests.connectors.town import LIMITS, Town, soon

pytestmark = pytest.mark.timeout(400)  # starting a town is a part of its first test

PAYER = {"name": "Bob Example", "account": "021000021/123456789"}


async def attempts_since(town: Town, lane: str, at: datetime) -> list[dict[str, Any]]:
    """All attempts of a lane, in their order."""
    sql = "SELECT * FROM settlement.attempts WHERE lane = $1 AND started_at >= $2 ORDER BY started_at"
    return [dict(row) for row in await town.fetch(sql, lane, at)]


async def now(town: Town) -> datetime:
    """By the database."""
    (row,) = await town.fetch("SELECT now() AS at")
    at: datetime = row["at"]
    return at


def most_at_once(attempts: list[dict[str, Any]]) -> int:
    """How many calls were under way at once, at the most."""
    counts: list[int] = [
        sum(other["started_at"] <= one["started_at"] < other["ended_at"] for other in attempts) for one in attempts
    ]
    return max(counts)


async def behave(town: Town, bank: str, **profile: Any) -> None:
    await town.operator("PUT", f"/v1/simulate/banks/{bank}/profile", {"name": "calm", **profile})


@asynccontextmanager
async def unpolled(town: Town, limits: dict[str, Any] | None = None) -> AsyncIterator[None]:
    """The connector hears the banks by their webhooks alone; in the end banks are calm, and asked as ever."""
    await town.terminate("bank-0")
    of_banks = {"bank-a": LIMITS, "bank-b": {**LIMITS, **(limits or {})}}
    await town.start("bank", AURA_BANK_POLL_S="3600", AURA_BANK_LIMITS=json.dumps(of_banks))
    try:
        yield
    finally:
        for bank in ("bank-a", "bank-b"):
            await behave(town, bank)
        await town.terminate("bank-0")
        await town.start("bank")


async def noted(town: Town, bank: str, what: str = "unreadable") -> float:
    return (await town.metrics("bank-0")).get(("aura_lane_notes_total", f"bank:{bank}", what), 0)


@pytest.mark.row("A14", "A15", "N31")
async def test_a14_n31_half_open_lets_one_call_through_while_many_wait_and_all_doors_show_it(town: Town) -> None:
    await town.customer("a14", "USD")
    began, told = await now(town), len(await town.told_of("bank:bank-a"))
    await behave(town, "bank-a", name="hanging")
    (at,) = await town.fetch("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms")
    clock = await town.operator("GET", "/v1/simulate/clock")
    ahead_ms = datetime.fromisoformat(clock["now"]).timestamp() * 1000 - at["ms"]
    ids = []
    for _ in range(12):
        asked = {"account_id": "a14:USD", "amount": "10.00", "rail": "ach", "payer": PAYER}
        ids.append(await town.send("deposit.submit", "a14", asked))

    async def probed() -> str:
        heard = (await town.told_of("bank:bank-a"))[told:]
        return "" if heard.count("lane.breaker_half_open") >= 3 else f"the lane has told {heard}"

    await soon(probed, "three probes have failed", town)
    shown = await town.http("GET", "/v1/lanes/bank:bank-a")
    assert shown["breaker"] in ("open", "half_open") and shown["failures"] >= 5
    gauges = await town.metrics("bank-0")
    assert gauges["aura_lane_breaker", "bank:bank-a"] in (1, 2) and gauges["aura_lane_breaker", "bank:bank-b"] == 0
    assert (await town.http("GET", "/v1/lanes/bank:bank-b"))["breaker"] == "closed"
    await behave(town, "bank-a")
    for id_ in ids:
        await town.reaches(id_, "submitted")

    found = await attempts_since(town, "bank:bank-a", began)
    lost = sorted(one["ended_at"] for one in found if one["answer"] == "lost")
    opened, closed = lost[4], min(one["ended_at"] for one in found if one["answer"] not in ("lost", "not_processed"))
    before = [one for one in found if one["started_at"] < opened]
    probes = [one for one in found if opened <= one["started_at"] < closed]
    assert most_at_once(before) == 4  # as many as this bank likes at once, and no more
    assert len(probes) >= 3 and most_at_once(probes) == 1
    waits = [(b["started_at"] - a["ended_at"]).total_seconds() for a, b in pairwise(probes)]
    assert min(waits) >= LIMITS["open_ms"] / 1000
    heard = (await town.told_of("bank:bank-a"))[told:]
    assert heard.count("lane.breaker_half_open") == len(probes) and heard[-1] == "lane.breaker_closed"
    # The bank's own journal has no other call of that time either: nobody lists its events beside the probe.
    calls = (await town.operator("GET", "/v1/simulate/banks/bank-a/books/calls?limit=1000"))["calls"]
    window = (opened.timestamp() * 1000 + 50, closed.timestamp() * 1000)
    seen = [one for one in calls if window[0] < _ms(one["at"]) - ahead_ms < window[1] and one["method"] != "LATE"]
    assert len(seen) == len(probes), seen
    # What hung was ended by the call's own time-out, before the lane had to give it up.
    details = {one["detail"] for one in found if one["answer"] == "lost"}
    assert details == {"no answer within 1.8 s"}


@pytest.mark.row("A14", "N30", "N31")
async def test_a14_n30_a_connector_that_slept_through_its_calls_ends_each_attempt_once(town: Town) -> None:
    """What it hears of a call that its lane has given up is true, and shown; but the attempt was over."""
    await town.customer("slept", "USD")
    began = await now(town)
    lost = ("aura_lane_attempts_total", "lost", "submit", "bank:bank-a")
    before = (await town.metrics("bank-0")).get(lost, 0)
    await behave(town, "bank-a", name="hanging")
    asked = {"account_id": "slept:USD", "amount": "10.00", "rail": "ach", "payer": PAYER}
    ids = [await town.send("deposit.submit", "slept", asked) for _ in range(4)]

    async def under_way() -> str:
        found = await attempts_since(town, "bank:bank-a", began)
        return "" if len(found) >= 4 else f"{len(found)} calls were made"

    await soon(under_way, "four calls are under way", town)
    latest = max(one["started_at"] for one in await attempts_since(town, "bank:bank-a", began))

    async def over() -> str:
        (row,) = await town.fetch("SELECT now() - $1::timestamptz > interval '3.5 s' AS is_over", latest)
        return "" if row["is_over"] else "the lane still waits for its calls"

    town.processes["bank-0"].freeze()
    try:
        await soon(over, "the calls' time is over", town)
    finally:
        town.processes["bank-0"].thaw()
    await behave(town, "bank-a")
    for id_ in ids:
        await town.reaches(id_, "submitted")
    found = await attempts_since(town, "bank:bank-a", began)
    assert most_at_once(found) == 4
    submits = [one for one in found if one["kind"] == "submit" and one["answer"] == "lost"]

    async def counted() -> str:
        known = (await town.metrics("bank-0"))[lost] - before
        return "" if known == len(submits) else f"{known} attempts are counted, {len(submits)} were made"

    await soon(counted, "each attempt is counted once", town)


def _ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


@pytest.mark.row("A14", "A15", "L51", "N31")
async def test_a15_l51_a_bank_is_called_in_its_own_pace_and_left_alone_for_as_long_as_it_asks(town: Town) -> None:
    async with unpolled(town, {"calls_at_once": 2, "gap_ms": 300, "answer_ms": 10_000}):
        await funded(town, "pace", "500.00")
        began = await now(town)
        await behave(town, "bank-b", slow_ms=1200)
        ids = [await payout(town, "pace", "10.02") for _ in range(6)]  # .02: its answer takes as long
        for id_ in ids:
            await town.reaches(id_, "completed")
        found = await attempts_since(town, "bank:bank-b", began)
        assert len(found) == 6 and most_at_once(found) == 2
        gaps = [(b["started_at"] - a["started_at"]).total_seconds() for a, b in pairwise(found)]
        assert min(gaps) >= 0.3

        began = await now(town)
        limited = await payout(town, "pace", "11.00", "FAULT rate_limited")
        await town.reaches(limited, "completed")
        first, second = await attempts_since(town, "bank:bank-b", began)
        assert (first["answer"], first["status"], second["answer"]) == ("not_processed", 429, "accepted")
        # Retry-After: 1. Its own backoff would have been 0.2 s at most.
        assert (second["started_at"] - first["ended_at"]).total_seconds() >= 1


@pytest.mark.row("SEC34", "N30", "A13", "A15", "L49")
async def test_n30_sec34_after_inquiries_that_nobody_can_read_a_person_is_asked_and_the_money_stays_on_its_way(
    town: Town,
) -> None:
    async with unpolled(town, {"inquiries": 3}):
        await funded(town, "asked", "100.00")
        ids = {}
        for kind in ("error", "html", "huge", "wrong_types", "negative_amount", "wrong_currency"):
            before = await noted(town, "bank-b")
            await behave(town, "bank-b", rates={f"inquiry_{kind}": 10_000, "lost": 10_000})
            id_ = ids[kind] = await payout(town, "asked", "10.55")  # acts, and never answers
            await soon(attention(town, id_), "a person is asked", town)
            submit, *inquiries = await town.attempts(id_)
            assert (submit["kind"], [one["kind"] for one in inquiries]) == ("submit", ["inquire"] * 3)
            assert {one["answer"] for one in inquiries} == ({"not_processed"} if kind == "error" else {"lost"})
            assert all(one["detail"] for one in inquiries)

            async def counted(seen: float = before + (0 if kind == "error" else 3)) -> str:
                notes = await noted(town, "bank-b")
                return "" if notes == seen else f"{notes} notes, not {seen}"

            await soon(counted, "what nobody can read is counted", town)
        assert await town.balance("asked:EUR") == 10_000 - len(ids) * 1055  # neither back nor gone
        await behave(town, "bank-b")
        for id_ in ids.values():
            await town.http("POST", f"/v1/transactions/{id_}/resolve", {"outcome": "inquire"})
            await town.reaches(id_, "payout_submitted", "completed")
    for id_ in ids.values():
        await town.reaches(id_, "completed")
        assert (await town.at_bank("bank-b", bank_reference(id_, "payout")))["acted"] == 1


def attention(town: Town, id_: str) -> Callable[[], Awaitable[str]]:
    """A payout that waits for a person."""

    async def missing() -> str:
        found = await town.transaction(id_)
        return "" if found[:2] == ("requires_attention", "payout_submitting") else str(found)

    return missing


@pytest.mark.row("SEC34", "A13")
@pytest.mark.parametrize("kind", ["error", "html", "huge", "wrong_types", "negative_amount"])
async def test_sec34_a_list_of_events_that_nobody_can_read_is_an_alarm_and_asked_for_again(
    town: Town, kind: str
) -> None:
    name = f"list-{kind.replace('_', '-')}"
    before = await noted(town, "bank-b")
    await behave(town, "bank-b", rates={f"events_{kind}": 10_000})
    try:
        await funded(town, name, "10.00")  # its webhook comes

        async def alarmed() -> str:
            gauges = await town.metrics("bank-0")
            failed = gauges["aura_lane_failed_polls", "bank:bank-b"]
            read = kind in ("error", "html", "huge") or await noted(town, "bank-b") > before
            return "" if failed >= 1 and read else f"{failed} lists failed"

        await soon(alarmed, "the lane shows that it hears nothing", town)
    finally:
        await behave(town, "bank-b")

    async def well() -> str:
        failed = (await town.metrics("bank-0"))["aura_lane_failed_polls", "bank:bank-b"]
        return "" if not failed else f"{failed} lists failed"

    await soon(well, "the lane hears again", town)
    assert await town.balance(f"{name}:EUR") == 1000


@pytest.mark.row("SEC34", "SEC33", "N29", "A13")
async def test_sec34_a_signed_webhook_that_nobody_can_read_is_parked_or_refused_and_books_nothing(town: Town) -> None:
    ids = {}
    async with unpolled(town):
        for kind, status in (("html", "400"), ("huge", "413"), ("wrong_types", "204"), ("negative_amount", "204")):
            name = f"hook-{kind.replace('_', '-')}"
            await town.customer(name, "EUR")
            asked = {"account_id": f"{name}:EUR", "amount": "10.00", "rail": "sepa_instant"}
            id_ = ids[name] = await town.send("deposit.submit", name, asked)
            await town.reaches(id_, "awaiting_funds")
            parked = await letters(town)
            await behave(town, "bank-b", rates={f"webhook_{kind}": 10_000})
            await town.push(bank_reference(id_, "deposit"), "10.00")

            async def answered(fault: str = f"webhook_{kind}", right: str = status) -> str:
                tries = (await town.operator("GET", "/v1/simulate/banks/bank-b/books/attempts?limit=1000"))["attempts"]
                answers = [one["answer"] for one in tries if one["fault"] == fault]
                return "" if answers == [right] else f"answers {answers}"

            await soon(answered, "the bank has its answer", town)
            if status != "204":
                continue

            async def is_parked(seen: int = parked) -> str:
                return "" if await letters(town) == seen + 1 else "no dead letter"

            await soon(is_parked, "it is a dead letter", town)
            assert (await town.transaction(id_))[1] == "awaiting_funds"
        assert (await town.metrics("bank-0"))["aura_lane_dead_letters", "bank:bank-b"] >= 2
    for name, id_ in ids.items():
        await town.reaches(id_, "completed")  # the true one comes again, or is found by asking
        assert await town.balance(f"{name}:EUR") == 1000


async def letters(town: Town) -> int:
    """How many dead letters there are."""
    found = await town.http("GET", "/v1/dead-letters?limit=200")
    return sum(one["topic"] == "aura.bank-inbox.v1" for one in found["items"])


def nested(depth: int) -> Any:
    found: Any = "deep"
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.row("SEC34", "SEC33")
async def test_sec34_nothing_that_a_signed_event_may_say_hurts_those_who_read_it(town: Town) -> None:
    await town.customer("sec34", "EUR")
    asked = {"account_id": "sec34:EUR", "amount": "34.00", "rail": "sepa_instant"}
    id_ = await town.send("deposit.submit", "sec34", asked)
    await town.reaches(id_, "awaiting_funds")
    known = json.loads((town.local.home / "mock-bank" / "credentials.json").read_text())["banks"]["bank-b"]
    good = {
        "id": "tr_sec34",
        "reference": bank_reference(id_, "deposit"),
        "direction": "incoming",
        "currency": "EUR",
        "amount": "34.00",
        "settled_amount": "34.00",
        "settled_at": "2026-11-20T10:00:00Z",
        "status": "settled",
    }

    async def post(event: Any) -> int:
        body = json.dumps(event).encode()
        stamp = int(time.time())
        headers = {
            "webhook-id": "evt_sec34",
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign([known["webhook_secret"]], "evt_sec34", stamp, body),
            "Content-Type": "application/json",
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{town.settings.api_url}/v1/bank-webhooks/bank-b", data=body, headers=headers) as answer,
        ):
            return answer.status

    def event(**changes: Any) -> dict[str, Any]:
        return {"id": "evt_sec34", "type": "transfer.received", "data": {"transfer": {**good, **changes}}}

    hostile: list[tuple[Any, int]] = [
        (event(settled_amount="-34.00"), 204),
        (event(settled_amount=34), 204),
        (event(settled_amount="3.4e1"), 204),
        (event(settled_amount="0.00"), 204),
        (event(settled_amount="99999999999999999.00"), 204),
        (event(currency="XXX"), 204),
        (event(currency="BTC"), 204),
        (event(currency=["EUR"]), 204),
        (event(reference="0" * 32, currency="XXX"), 204),
        (event(id="tr\u0000"), 204),
        (event(direction=None), 204),
        (event(remittance={"a": 1}), 204),
        ({"id": "evt_sec34", "type": "transfer.received", "data": []}, 204),
        ({"id": "evt_sec34", "type": ["transfer.received"]}, 204),
        (["an event"], 400),
        ({**event(), "more": nested(600)}, 400),
        ({**event(), "more": "x" * 70_000}, 413),
    ]
    for content, status in hostile:
        assert await post(content) == status, str(content)[:200]
    await asyncio.sleep(1)  # nothing of all that may have an effect, however late
    assert (await town.transaction(id_))[:2] == ("processing", "awaiting_funds")
    assert await town.balance("sec34:EUR") == 0

    assert await post(event(settled_at="0001-01-01T00:00:00+00:00")) == 204  # its money is true, its time is not
    await town.reaches(id_, "completed")
    (row,) = await town.fetch("SELECT min(effective_at) AS at FROM ledger.journals WHERE transaction_id = $1", id_)
    assert row["at"].year >= 2026
    await funded(town, "sec34-after", "10.00")


@pytest.mark.row("SEC33", "A13")
@pytest.mark.parametrize("skew_s", [-400, 400])
async def test_sec33_a_bank_whose_clock_is_wrong_is_not_believed_and_heard_by_asking(town: Town, skew_s: int) -> None:
    await behave(town, "bank-b", skew_s=skew_s)
    try:
        await funded(town, f"skew{skew_s}", "10.00")

        async def refused() -> str:
            tries = (await town.operator("GET", "/v1/simulate/banks/bank-b/books/attempts?limit=1000"))["attempts"]
            return "" if tries and tries[-1]["answer"] == "401" else f"answers {[one['answer'] for one in tries][-3:]}"

        await soon(refused, "its webhook is refused", town)
    finally:
        await behave(town, "bank-b", skew_s=0)


@pytest.mark.row("A13", "N30", "N31", "L49")
@pytest.mark.parametrize("profile", ["flaky", "hostile", "down", "hanging"])
async def test_a13_l49_with_each_profile_every_payout_ends_as_the_banks_own_books_say(town: Town, profile: str) -> None:
    name = f"profile-{profile}"
    await funded(town, name, "1000.00")
    await behave(town, "bank-b", name=profile, seed=8, hang_ms=500)
    ids = [await payout(town, name, f"{10 + n}.00") for n in range(8)]

    async def tried() -> str:
        found = [len(await town.attempts(id_)) for id_ in ids]
        return "" if sum(found) >= 8 else f"{found} attempts"

    await soon(tried, "the bank was called as it is", town)
    await behave(town, "bank-b")
    ends = {"settled": "completed", "rejected": "payout_rejected", "returned": "payout_returned", "": "payout_rejected"}
    left = 100_000

    async def ended() -> str:
        nonlocal left
        left, wrong = 100_000, []
        for n, id_ in enumerate(ids):
            book = await town.at_bank("bank-b", bank_reference(id_, "payout"))
            (transfer,) = book.get("transfers") or [{"status": ""}]
            row = await town.transaction(id_)
            short = transfer.get("settled_amount", transfer.get("amount")) != transfer.get("amount")
            left -= 1000 + 100 * n if row[1] not in ("payout_rejected", "payout_returned") else 0
            if (row[1] != ends.get(transfer["status"]) or book.get("acted", 0) > 1) and not (short and row[2]):
                wrong.append(f"{row} is {transfer['status']!r} at the bank")
        return "; ".join(wrong)

    async def out() -> str:
        states = [(await town.transaction(id_))[1] for id_ in ids]
        return "" if "payout_submitting" not in states else f"{states}"

    await soon(out, "each has a definite answer", town, 120)
    await town.pass_time(6 * 24 * 60 * 60)
    await soon(ended, "each ended as the bank says", town, 90)
    assert await town.balance(f"{name}:EUR") == left
