"""The clock of a sandbox, by its doors: one call moves ledger, lanes and banks, and only the time has changed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from tests.connectors.test_banks import funded, payout
from tests.connectors.town import Town, soon

pytestmark = pytest.mark.timeout(400)  # starting a town is a part of its first test

HOUR_S, DAY_S = 3_600, 86_400
PAYER = {"name": "Alice Example", "account": "021000021/123456789"}


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def advance(town: Town, advance_s: int, key: str = "") -> tuple[int, dict[str, Any]]:
    """Moves the clock over HTTP; waits until everybody has it."""
    headers = {
        "Authorization": f"Bearer {town.environment['AURA_API_KEY']}",
        "Aura-Tenant": "default",
        "Idempotency-Key": key or str(uuid.uuid4()),
        "Prefer": "wait=30",
    }
    url = f"{town.settings.api_url}/v1/simulate/clock"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json={"advance_s": advance_s}) as answer,
    ):
        return answer.status, await answer.json()


async def created_at(town: Town, id_: str) -> datetime:
    """When a transaction began, by the ledger's time."""
    (row,) = await town.fetch("SELECT created_at FROM ledger.transactions WHERE transaction_id = $1", id_)
    found: datetime = row["created_at"]
    return found


@pytest.mark.row("A04", "A13", "L49")
async def test_a04_a13_one_call_moves_ledger_lanes_and_banks_and_what_was_due_has_happened(town: Town) -> None:
    await funded(town, "clara", "100.00")
    await town.customer("shop", "EUR")
    deposit = {"account_id": "clara:EUR", "amount": "5.00", "rail": "sepa"}
    waiting = await town.send("deposit.submit", "clara", deposit)
    await town.reaches(waiting, "awaiting_funds")
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    about = {"account_id": "clara:EUR", "to_account_id": "shop:EUR", "amount": "40.00", "expires_at": until}
    hold = await town.send("hold.place", "clara", about)
    await town.reaches(hold, "held")
    before = await town.http("GET", "/v1/simulate/clock")
    assert (before["moved_s"], before["state"]) == (0, "moved")

    key = str(uuid.uuid4())
    status, clock = await advance(town, 8 * DAY_S, key)
    assert (status, clock["moved_s"], clock["state"]) == (200, 8 * DAY_S, "moved"), clock
    assert time_of(clock["now"]) - time_of(before["now"]) >= timedelta(days=8)
    assert abs(time_of(clock["banks"]["now"]) - time_of(clock["now"])) < timedelta(seconds=30)
    await town.reaches(waiting, "expired")
    await town.reaches(hold, "expired")
    # The same request again moves nothing, neither here nor there.
    status, again = await advance(town, 8 * DAY_S, key)
    assert (status, again["moved_s"], again["state"]) == (200, 8 * DAY_S, "moved")
    assert time_of(again["banks"]["now"]) - time_of(clock["banks"]["now"]) < timedelta(hours=1)
    # The lanes go on by the new time: a payout is started, sent and answered.
    paid = await payout(town, "clara", "10.00")
    await town.reaches(paid, "completed")
    (first, *_) = await town.attempts(paid)
    assert first["started_at"] >= time_of(clock["now"])
    assert await created_at(town, paid) >= time_of(clock["now"])


@pytest.mark.row("A07")
async def test_a07_the_days_for_a_return_pass_with_the_ledgers_clock(town: Town) -> None:
    await town.customer("rita", "USD")
    asked = {"account_id": "rita:USD", "amount": "20.00", "rail": "ach", "payer": PAYER}
    debits = [await town.send("deposit.submit", "rita", asked) for _ in range(2)]
    for id_ in debits:
        await town.reaches(id_, "submitted")
    for _ in range(6 * 4):  # over any weekend and holiday
        await advance(town, 6 * HOUR_S)
        states = [(await town.transaction(id_))[1] for id_ in debits]
        if states == ["completed"] * 2:
            break
    for id_ in debits:
        await town.reaches(id_, "completed")
    early, late = [(await town.attempts(id_))[0]["reference"] for id_ in debits]
    path = "/v1/simulate/banks/bank-a/returns"
    await town.operator("POST", path, {"reference": early, "code": "R01"})
    await town.reaches(debits[0], "returned", "returning")
    await advance(town, 7 * DAY_S)
    with pytest.raises(AssertionError, match="return_window_passed"):  # the bank's own rule: two banking days for R01
        await town.operator("POST", path, {"reference": late, "code": "R01"})
    assert (await town.transaction(debits[1]))[1] == "completed"


@pytest.mark.row("N01", "N33")
async def test_n01_who_is_killed_or_starts_from_nothing_has_the_time_of_the_log(town: Town) -> None:
    _, clock = await advance(town, DAY_S)
    for role in ("ledger", "bank"):
        await town.kill(f"{role}-0")
        shutil.rmtree(town.settings.home / "state" / f"{role}-0")
        await town.start(role)

    # An API process that starts anew learns it from the log of events.
    await town.start("events")

    async def missing() -> str:
        (row,) = await town.fetch("SELECT moved_ms, taken_ms FROM events.clock")
        return "" if tuple(row) == (clock["moved_s"] * 1000,) * 2 else f"the log knows {tuple(row)}"

    await soon(missing, "the log of events has the clock", town)
    await town.terminate("api")
    await town.start("api")
    found = await town.http("GET", "/v1/simulate/clock")
    assert (found["moved_s"], found["state"]) == (clock["moved_s"], "moved")
    await town.customer("nina", "EUR")
    data = {"account_id": "nina:EUR", "amount": "1.00", "rail": "sepa"}
    id_ = await town.send("deposit.submit", "nina", data)
    await town.reaches(id_, "awaiting_funds")
    assert await created_at(town, id_) >= time_of(clock["now"])
    status, further = await advance(town, 60)
    assert (status, further["moved_s"], further["state"]) == (200, clock["moved_s"] + 60, "moved"), "it counts on"


@pytest.mark.row("N33")
async def test_n33_a_rebuild_and_a_deep_look_find_the_same_ledger(town: Town) -> None:
    status, _ = await advance(town, HOUR_S)
    assert status == 200
    done = await town.aura("rebuild", "--json", **town.env)
    assert done.returncode == 0, done.stdout + done.stderr
    deep = await town.aura("ledger", "verify", "--deep", "--json", **town.env)
    assert [one for one in json.loads(deep.stdout) if one["offender"]] == [], deep.stderr


async def test_the_shell_moves_all_of_it_or_the_banks_alone(town: Town) -> None:
    before = await town.http("GET", "/v1/simulate/clock")
    moved = await town.aura("trigger", "clock", "2h")
    assert moved.returncode == 0, moved.stderr
    shown = json.loads(moved.stdout)
    assert shown["moved_s"] == before["moved_s"] + 2 * HOUR_S
    alone = await town.aura("trigger", "clock", "3d", "--banks")
    assert alone.returncode == 0, alone.stderr
    after = json.loads((await town.aura("trigger", "clock")).stdout)
    assert after["moved_s"] == shown["moved_s"]
    assert time_of(after["banks"]["now"]) - time_of(after["now"]) > timedelta(days=2)
    _, caught_up = await advance(town, DAY_S)  # the banks are ahead already, and stay there
    assert time_of(caught_up["banks"]["now"]) - time_of(after["banks"]["now"]) < timedelta(hours=1)


async def test_the_ledger_itself_refuses_in_live_mode_what_comes_by_the_topic(town: Town) -> None:
    await town.terminate("ledger-0")
    key, secret = os.urandom(16).hex(), os.urandom(32).hex()
    await town.start("ledger", AURA_MODE="live", AURA_API_KEY=key, AURA_IDENTITY_SECRET=secret)
    try:
        await town.send("clock.advance", "clock", {"operator": "olga", "advance_s": DAY_S})

        async def missing() -> str:
            rows = await town.fetch("SELECT detail FROM ledger.refusals WHERE reason = 'sandbox_only'")
            return "" if [row["detail"] for row in rows if "live mode" in row["detail"]] else "nothing is refused"

        await soon(missing, "the move is refused", town)
    finally:
        await town.terminate("ledger-0")
        await town.start("ledger")
