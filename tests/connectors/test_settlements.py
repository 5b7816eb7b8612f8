"""Forty settlements with banks of which every third call goes wrong: each ends as the bank's and the chain's books say.

`make settlements` runs a thousand.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from aura_stream.domain.ids import bank_reference
from tests.connectors.town import Town, soon
from tests.settlements import plan
from tests.settlements.drive import LIMITS, Drive

pytestmark = pytest.mark.timeout(600)  # starting a town is a part of its first test
COUNT = 40
FAULTS = 0.3


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town of its own, whose lanes are as patient as its banks are slow."""
    found = Town(tmp_path_factory.mktemp("town"), limits=LIMITS)
    try:
        found.open()
        yield found
    finally:
        found.close()


@pytest.mark.row("A13", "A14", "A15", "A07", "A25", "L49", "L51", "N20", "N30", "N31", "I10", "I11")
def test_a15_n30_i10_i11_b3_b4_b5_settlements_end_as_the_banks_and_the_chains_own_books_say(town: Town) -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"again: make settlements COUNT={COUNT} SEED={seed} FAULTS={FAULTS}")

    report = asyncio.run(Drive(town, town.anvil.rpc_url, seed=seed).run(COUNT, FAULTS))

    print(report)
    assert not report.wrong, str(report)
    assert sum(report.outcomes.values()) == COUNT
    assert sum(report.faults_met.values()) >= COUNT // 10, f"the banks have hardly misbehaved\n{report}"


HANGS_MS = 60_000
UNDER_WAY = "SELECT reference FROM settlement.attempts WHERE lane = 'bank:bank-a' AND ended_at IS NULL"


@pytest.fixture
async def hanging_a(town: Town) -> AsyncIterator[None]:
    """Bank A takes calls and answers none, and its lane waits for it longer than the test takes."""
    limits = {"bank-a": LIMITS | {"answer_ms": HANGS_MS}, "bank-b": LIMITS}
    await town.terminate("bank-0")
    await town.start("bank", AURA_BANK_LIMITS=json.dumps(limits))
    calm = plan.profile(0, 1)
    await town.operator("PUT", "/v1/simulate/banks/bank-b/profile", calm)
    hanging = calm | {"name": "hanging", "hang_ms": HANGS_MS}
    await town.operator("PUT", "/v1/simulate/banks/bank-a/profile", hanging)
    yield
    await town.operator("PUT", "/v1/simulate/banks/bank-a/profile", calm)
    await town.terminate("bank-0")
    await town.start("bank")


@pytest.mark.row("A14")
async def test_a14_calls_to_b_never_queue_behind_those_to_a(town: Town, hanging_a: None) -> None:
    """All calls that may be made to A at once are under way and as many wait: of those to B none waits for them."""
    for asset in ("USD", "EUR"):
        await town.customer("queue", asset)
    asked: dict[str, Any] = {"account_id": "queue:EUR", "amount": "100.00", "rail": "sepa_instant"}
    funds = await town.send("deposit.submit", "queue", asked)
    await town.reaches(funds, "awaiting_funds")
    await town.push(bank_reference(funds, "deposit"), "100.00")
    await town.reaches(funds, "completed")
    asked = {"account_id": "queue:USD", "amount": "10.00", "rail": "ach", "payer": plan.party("ach", 1)}
    for _ in range(2 * LIMITS["calls_at_once"]):
        await town.send("deposit.submit", "queue", asked)

    async def free() -> str:
        count = len(await town.fetch(UNDER_WAY))
        return "" if count == LIMITS["calls_at_once"] else f"{count} calls to A are under way"

    await soon(free, "A has as many calls as it may have", town)
    held = {row["reference"] for row in await town.fetch(UNDER_WAY)}
    waiting = (await town.metrics("bank-0"))["aura_lane_waiting", "bank:bank-a"]

    asked = {"account_id": "queue:EUR", "amount": "1.00", "rail": "sepa_instant"}
    asked |= {"beneficiary": plan.party("sepa_instant", 1)}
    paid = [await town.send("withdrawal.submit", "queue", asked) for _ in range(2 * LIMITS["calls_at_once"])]
    for id_ in paid:
        await town.reaches(id_, "payout_submitted", "completed")

    assert waiting >= 1, "nothing waits for A, so nothing could have queued behind it"
    assert {row["reference"] for row in await town.fetch(UNDER_WAY)} == held, "a call to A had to end first"
