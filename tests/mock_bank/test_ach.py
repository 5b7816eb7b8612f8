"""ACH: windows, the calendar, files, settlement, returns within their days."""

from __future__ import annotations

from typing import Any

import pytest

from aura_stream.mock_bank.nacha import File, parse, render
from tests.mock_bank.conftest import RECEIVER, Client, Start
from tests.mock_bank.test_nacha import FILE, GOLDEN

HOUR = 3_600
DAY = 24 * HOUR


async def files(client: Client, kind: str) -> list[File]:
    """The parsed files of a kind."""
    listed = (await client.bank("GET", "/ach/files")).body["files"]
    texts = [(await client.bank("GET", f"/ach/files/{one['id']}")).body for one in listed if one["kind"] == kind]
    return [parse(text.decode()) for text in texts]


async def test_a04_debit_leaves_in_the_windows_file_and_settles_on_the_next_banking_day(client: Client) -> None:
    ordered = await client.ach("REF-1", "12.50")
    assert ordered.status == 201 and ordered.body["status"] == "pending"
    assert ordered.body["settles_at"] == "2026-11-23T13:30:00.000Z"

    await client.pass_time(8 * HOUR + 1799)  # 17:29:59
    assert (await client.status("REF-1"))["status"] == "pending"
    await client.pass_time(1)
    assert (await client.status("REF-1"))["status"] == "sent"

    await client.pass_time(days=2)
    assert (await client.status_by_id("REF-1"))["status"] == "sent"
    await client.pass_time(days=1)
    settled = await client.status_by_id("REF-1")
    assert (settled["status"], settled["settled_at"]) == ("settled", "2026-11-23T13:30:00.000Z")
    assert settled["settled_amount"] == "12.50"
    books = await client.books()
    assert (books["balances"]["trust-usd"], books["balances"]["network:USD"]) == ("12.50", "-12.50")
    assert books["balanced"]

    (file,) = await files(client, "origination")
    (batch,) = file.batches
    (entry,) = batch.entries
    assert (entry.reference, entry.cents, entry.code, entry.routing) == ("REF-1", 1250, 27, RECEIVER["routing_number"])
    assert batch.effective.isoformat() == "2026-11-23" and entry.trace == settled["trace_number"]


async def test_a04_same_day_credit_settles_the_same_day_and_needs_cover(client: Client) -> None:
    refused = await client.ach("REF-0", "10.00", direction="credit", same_day=True)
    assert (refused.status, refused.body["status"], refused.body["code"]) == (201, "rejected", "AM04")

    await client.fund("30.00", "trust-usd")
    paid = await client.ach("REF-1", "20.00", direction="credit", same_day=True)
    assert paid.body["settles_at"] == "2026-11-20T18:00:00.000Z"
    account = (await client.bank("GET", "/accounts/trust-usd")).body
    assert (account["balance"], account["available"]) == ("30.00", "10.00")
    short = await client.ach("REF-2", "10.01", direction="credit", same_day=True)
    assert short.body["code"] == "AM04"

    await client.pass_time(5 * HOUR)
    assert (await client.status("REF-1"))["status"] == "settled"
    assert (await client.bank("GET", "/accounts/trust-usd")).body["balance"] == "10.00"


async def test_a04_holiday_waits(start: Start) -> None:
    wednesday_evening = 1_795_651_200_000  # 2026-11-25 19:00 in New York, before Thanksgiving
    client = await (await start(start_ms=wednesday_evening)).client()

    assert (await client.ach("REF-1", "1.00")).body["settles_at"] == "2026-11-30T13:30:00.000Z"


@pytest.mark.parametrize(
    ("amount", "code", "on"),
    [
        ("10.22", "R01", "2026-11-25T13:30:00.000Z"),
        ("10.33", "R03", "2026-11-25T13:30:00.000Z"),
        ("10.44", "R10", "2026-11-27T13:30:00.000Z"),  # three days are Thanksgiving
    ],
)
async def test_a04_magic_amount_returns_after_it_settled(client: Client, amount: str, code: str, on: str) -> None:
    await client.ach("REF-1", amount)
    await client.pass_time(days=4)
    assert (await client.status_by_id("REF-1"))["status"] == "settled"
    assert (await client.bank("GET", "/accounts/trust-usd")).body["balance"] == amount

    await client.pass_time(days=4)

    found = await client.status_by_id("REF-1")
    assert (found["status"], found["code"]) == ("returned", code)
    assert found["updated_at"] == on
    assert (await client.bank("GET", "/accounts/trust-usd")).body["balance"] == "0.00"
    (file,) = await files(client, "return")
    (entry,) = file.batches[0].entries
    assert (entry.code, entry.addenda[0].kind, entry.addenda[0].code) == (26, "99", code)
    assert entry.addenda[0].original_trace == found["trace_number"] and entry.reference == "REF-1"


async def test_a04_rejection_comes_before_settlement(client: Client) -> None:
    at_once = await client.ach("REF-1", "10.11")
    assert (at_once.status, at_once.body["status"], at_once.body["code"]) == (201, "rejected", "R13")
    bad_bank = await client.ach("REF-2", "10.00", counterparty=RECEIVER | {"routing_number": "021000022"})
    assert bad_bank.body["code"] == "R13"

    later = await client.ach("REF-3", "10.00", counterparty=RECEIVER | {"name": "Reject R03"})
    assert later.body["status"] == "pending"
    await client.pass_time(9 * HOUR)
    found = await client.status("REF-3")
    assert (found["status"], found["code"]) == ("rejected", "R03")
    await client.pass_time(days=5)
    assert (await client.books())["balances"]["trust-usd"] == "0.00"
    assert await files(client, "origination") == []


@pytest.mark.parametrize(("code", "days", "late"), [("R01", 2, 7), ("R10", 59, 64)])
async def test_a04_return_is_refused_after_its_last_day(client: Client, code: str, days: int, late: int) -> None:
    for number in (1, 2):
        await client.ach(f"REF-{number}", "5.00")
    early = await client.try_operator("POST", "/returns", {"reference": "REF-1", "code": code})
    assert (early.status, early.body["code"]) == (409, "not_settled")
    await client.pass_time(days=3 + days)
    in_time = await client.try_operator("POST", "/returns", {"reference": "REF-1", "code": code})
    assert (in_time.status, in_time.body["status"]) == (200, "returned")

    await client.pass_time(days=late - days)
    too_late = await client.try_operator("POST", "/returns", {"reference": "REF-2", "code": code})
    assert (too_late.status, too_late.body["code"]) == (422, "return_window_passed")
    forced = await client.operator("POST", "/returns", {"reference": "REF-2", "code": code, "force": True})
    assert forced["code"] == code
    again = await client.try_operator("POST", "/returns", {"reference": "REF-2", "code": code, "force": True})
    assert again.status == 409
    assert (await client.books())["balances"]["trust-usd"] == "0.00"


async def test_a04_change_tells_new_details_and_moves_nothing(client: Client) -> None:
    await client.ach("REF-1", "5.00", counterparty=RECEIVER | {"name": "NOC C01"})
    await client.pass_time(days=6)

    events = (await client.bank("GET", "/events")).body["events"]
    change = next(event for event in events if event["type"] == "transfer.corrected")["data"]["change"]
    assert (change["code"], change["corrected"]["account_number"]) == ("C01", "987654321")
    (file,) = await files(client, "return")
    (entry,) = file.batches[0].entries
    assert (file.batches[0].sec, entry.cents, entry.addenda[0].kind) == ("COR", 0, "98")
    assert (await client.books())["balances"]["trust-usd"] == "5.00"


async def test_a04_account_at_the_same_bank_is_debited_or_sends_r01(client: Client) -> None:
    routing = (await client.bank("GET", "")).body["routing_number"]
    accounts = [{"currency": "USD", "balance": "50.00"}]
    (alice,) = (await client.operator("POST", "/users", {"user": "alice", "accounts": accounts}))["accounts"]
    here = RECEIVER | {"routing_number": routing, "account_number": alice["account_number"]}

    await client.ach("REF-1", "40.00", counterparty=here)
    await client.pass_time(days=3)
    await client.ach("REF-2", "40.00", counterparty=here)
    await client.pass_time(days=10)

    books = await client.books()
    assert (books["balances"]["alice-1"], books["balances"]["trust-usd"]) == ("10.00", "40.00")
    assert (await client.status_by_id("REF-2"))["code"] == "R01"


async def upload(client: Client, text: str) -> Any:
    url = f"{client.mine['url']}/v1/ach/files"
    return await client.call("POST", url, token=client.token, data=text, headers={"Content-Type": "text/plain"})


async def test_a04_uploaded_file_is_taken_once_or_not_at_all(client: Client) -> None:
    broken = await upload(client, GOLDEN.replace("0000001250REF", "0000001251REF"))
    assert (broken.status, broken.body["code"]) == (400, "invalid_nacha_file")
    assert "total of debits" in broken.body["detail"]
    await client.fund("10.00", "trust-usd")

    first = await upload(client, GOLDEN)
    assert first.status == 201 and first.body["accepted"] == ["REF-1", "REF-2"]
    again = await upload(client, render(FILE))
    assert again.body["accepted"] == [] and again.body["duplicates"] == ["REF-1", "REF-2"]

    await client.pass_time(days=4)
    assert (await client.status_by_id("REF-1"))["status"] == "settled"
    books = await client.books()
    assert books["balances"]["trust-usd"] == "21.51" and books["max_acted"] == 1  # 10.00 + 12.50 - 0.99
