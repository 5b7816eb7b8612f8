"""The table of magic amounts and names, line by line: what a client sees of each, on the rails of both currencies."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import aiohttp
import pytest

from aura_stream.mock_bank.faults import MAGIC_ANY, MAGIC_RETURN
from tests.mock_bank.conftest import CREDITOR, RECEIVER, Client, Start

NO_ANSWER: Final = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
SLOW_MS: Final = 120
TAKEN: Final = (201, 200, 200)


@dataclass(frozen=True)
class Seen:
    """What three submissions of one order bring (0: no answer), how it ends, and what webhooks say of it."""

    submits: tuple[int, int, int] = TAKEN
    ends: str = "settled"
    code: str = ""
    hooks: tuple[str, ...] = ("accepted", "settled")
    cents_less: int = 0


LOST: Final = (0, 200, 200)
BACK: Final = ("accepted", "settled", "returned")
TABLE: Final[dict[tuple[str, int], Seen]] = {
    **{
        (currency, cents): seen
        for currency in ("USD", "EUR")
        for cents, seen in {
            0: Seen(),
            1: Seen(ends="pending" if currency == "USD" else "sent", hooks=("accepted",)),
            2: Seen(),  # and slow
            11: Seen(ends="rejected", code="R13" if currency == "USD" else "MS03", hooks=("rejected",)),
            12: Seen(cents_less=1),
            13: Seen(hooks=("accepted signature", "accepted", "settled")),
            14: Seen(hooks=("accepted stale", "accepted", "settled")),
            15: Seen(hooks=("accepted cut", "accepted", "settled")),
            55: Seen(LOST),
            56: Seen((500, 200, 200)),
            57: Seen((0, 201, 200)),
            58: Seen(LOST),
            66: Seen(hooks=("accepted", "accepted", "settled")),
            77: Seen(hooks=("settled", "accepted")),
            88: Seen((503, 503, 201)),
            99: Seen(hooks=()),
        }.items()
    },
    ("USD", 22): Seen(ends="returned", code="R01", hooks=BACK),
    ("USD", 33): Seen(ends="returned", code="R03", hooks=BACK),
    ("USD", 44): Seen(ends="returned", code="R10", hooks=BACK),
    ("EUR", 22): Seen(ends="returned", code="AC04", hooks=BACK),
    ("EUR", 33): Seen(ends="rejected", code="AC01", hooks=("accepted", "rejected")),
    ("EUR", 44): Seen(),  # of what we send; of what was pushed in see below
}


def test_l51_every_magic_amount_has_its_line_here() -> None:
    known = {(currency, cents) for cents in (0, *MAGIC_ANY) for currency in ("USD", "EUR")} | set(MAGIC_RETURN)
    assert set(TABLE) == known


@pytest.mark.parametrize(("currency", "cents"), list(TABLE), ids=lambda one: str(one))
async def test_l51_a_magic_amount_does_what_its_line_says(start: Start, currency: str, cents: int) -> None:
    running = await start()
    client = await running.client("bank-a" if currency == "USD" else "bank-b")
    receiver = await running.receiver(client)
    await client.fund("1000.00")
    await client.operator("PUT", "/profile", {"hang_ms": 30, "slow_ms": SLOW_MS})
    order = client.ach if currency == "USD" else client.sepa
    submits, slowest = [], 0.0
    for _ in range(3):
        began = time.monotonic()
        try:
            submits.append((await order("MAGIC", f"10.{cents:02d}")).status)
        except NO_ANSWER:
            submits.append(0)
        slowest = max(slowest, time.monotonic() - began)
    for _ in range(8):
        await client.flush()
        await client.pass_time(days=1)
    await client.flush()

    found = await client.status_by_id("MAGIC")
    told = [
        f"{hook.type.removeprefix('transfer.') or 'accepted'} {hook.trouble}".strip()
        for hook in receiver.hooks
        if hook.type != "transfer.received"
    ]
    less = 0
    if found["status"] in ("settled", "returned"):
        less = round(float(found["amount"]) * 100) - round(float(found["settled_amount"]) * 100)
    seen = Seen((submits[0], submits[1], submits[2]), found["status"], found.get("code", ""), tuple(told), less)
    assert seen == TABLE[currency, cents]
    assert (slowest * 1000 >= SLOW_MS) or MAGIC_ANY.get(cents) != "slow"
    assert (await client.books())["max_acted"] == (0 if MAGIC_ANY.get(cents) == "refused" else 1)
    events = (await client.bank("GET", "/events")).body["events"]
    listed = {one["type"] for one in events if one["data"]["transfer"]["reference"] == "MAGIC"}
    assert listed >= {f"transfer.{one.split()[0]}" for one in told} and listed  # also what no webhook has told


async def test_l51_eur_44_that_was_pushed_in_is_recalled_three_days_later(client: Client) -> None:
    pushed = await client.fund("10.44", reference="MAGIC")
    await client.pass_time(days=3, seconds=-60)
    assert (await client.bank("GET", f"/transfers/{pushed['id']}")).body["status"] == "settled"
    await client.pass_time(60)

    found = (await client.bank("GET", f"/transfers/{pushed['id']}")).body
    assert (found["status"], found["code"]) == ("returned", "FOCR")  # the recall was for FRAD
    types = [event["type"] for event in (await client.bank("GET", "/events")).body["events"]]
    assert types == ["transfer.received", "transfer.returned", "recall.answered"]  # it is taken, not asked for


@pytest.mark.parametrize(
    ("cents", "name", "at_once", "ends", "code", "told"),
    [
        ("01", "Alice", "pending", "pending", "", []),
        ("11", "Alice", "rejected", "rejected", "MS03", []),
        ("22", "Alice", "settled", "returned", "AC04", ["transfer.received", "transfer.returned"]),
        ("33", "Alice", "rejected", "rejected", "AC01", []),
        ("00", "REJECT AC06", "rejected", "rejected", "AC06", []),
        ("00", "RETURN AC06", "settled", "returned", "AC06", ["transfer.received", "transfer.returned"]),
    ],
)
async def test_l51_money_that_is_pushed_in_has_its_magic_too(
    client: Client, cents: str, name: str, at_once: str, ends: str, code: str, told: list[str]
) -> None:
    body = {"account_id": "trust-eur", "amount": f"10.{cents}", "sender": {"name": name}, "reference": "MAGIC"}
    pushed = await client.operator("POST", "/incoming", body)
    assert pushed["status"] == at_once
    await client.pass_time(days=6)

    found = (await client.bank("GET", f"/transfers/{pushed['id']}")).body
    assert (found["status"], found.get("code", "")) == (ends, code)
    assert [event["type"] for event in (await client.bank("GET", "/events")).body["events"]] == told
    assert (await client.books())["balances"]["trust-eur"] == "0.00"


@pytest.mark.parametrize(("decided", "cents"), [("settled", "10.01"), ("rejected", "0.00")])
async def test_l51_a_push_that_is_stuck_comes_when_somebody_decides_so(
    client: Client, decided: str, cents: str
) -> None:
    body = {"account_id": "trust-eur", "amount": "10.01", "sender": {"name": "Alice"}, "reference": "MAGIC"}
    await client.operator("POST", "/incoming", body)

    found = await client.operator("POST", "/decisions", {"reference": "MAGIC", "status": decided})

    assert found["status"] == decided
    events = (await client.bank("GET", "/events")).body["events"]
    assert [event["type"] for event in events] == (["transfer.received"] if decided == "settled" else [])
    assert (await client.books())["balances"]["trust-eur"] == cents


async def test_l51_by_rate_nothing_but_a_cent_is_missing_from_what_is_pushed_in(client: Client) -> None:
    await client.operator("PUT", "/profile", {"rates": {"reject": 5_000, "return": 5_000}})
    await client.fund("10.00")
    await client.operator("PUT", "/profile", {"rates": {"stuck": 10_000}})
    await client.fund("10.00")
    await client.pass_time(days=6)
    assert (await client.books())["balances"]["trust-eur"] == "20.00"


async def test_l51_usd_44_comes_back_three_days_after_it_settled(client: Client) -> None:
    await client.ach("MAGIC", "10.44")
    await client.pass_time(days=12)
    events = {one["type"]: one["occurred_at"] for one in (await client.bank("GET", "/events")).body["events"]}
    assert events["transfer.settled"][:10] == "2026-11-23"
    assert events["transfer.returned"][:10] == "2026-11-27"  # the 26th is Thanksgiving


@pytest.mark.parametrize(
    ("name", "ends", "code"),
    [
        ("RETURN R29", "returned", "R29"),
        ("return r07", "returned", "R07"),
        ("REJECT R02", "rejected", "R02"),
        ("NOC C01", "settled", ""),
        ("FAULT refused", "rejected", "R13"),
        ("FAULT stuck", "pending", ""),
        ("Bob Example", "settled", ""),
    ],
)
async def test_l51_a_name_asks_for_a_code_or_a_fault(client: Client, name: str, ends: str, code: str) -> None:
    await client.ach("NAMED", "10.00", counterparty=RECEIVER | {"name": name})
    await client.pass_time(days=70)

    found = await client.status_by_id("NAMED")
    assert (found["status"], found.get("code", "")) == (ends, code)
    types = {one["type"] for one in (await client.bank("GET", "/events")).body["events"]}
    assert ("transfer.corrected" in types) == name.startswith("NOC")


async def test_l51_a_sepa_name_rejects_with_any_code(client: Client) -> None:
    await client.fund()
    await client.sepa("NAMED", "10.00", creditor=CREDITOR | {"name": "REJECT AC06"})
    await client.pass_time(days=2)

    found = await client.status_by_id("NAMED")
    assert (found["status"], found["code"]) == ("rejected", "AC06")
