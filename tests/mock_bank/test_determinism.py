"""Same seed and same calls: the same behaviour, byte for byte; whatever other references do meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aura_stream.mock_bank import books, faults, oauth
from aura_stream.mock_bank.app import create_app
from aura_stream.mock_bank.world import Config, World
from tests.mock_bank.conftest import CREDITOR, FRIDAY, RECEIVER

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ach", "sepa", "instant", "inquire", "push", "clock"]), st.integers(0, 5), st.integers(1, 99)
    ),
    min_size=5,
    max_size=25,
)


@asynccontextmanager
async def a_bank(directory: str, seed: int) -> AsyncIterator[tuple[World, TestClient[Any, Any]]]:
    """A hostile bank with a secret and a clock that are given."""
    config = Config(
        data_dir=Path(directory),
        banks=("bank-a",),
        seed=seed,
        clock="manual",
        start_ms=FRIDAY,
        secret="the same",
        webhook_time="virtual",
    )
    world = World(config)
    async with TestClient(TestServer(create_app(world))) as client:
        yield world, client
    world.close()


async def play(steps: Sequence[Step], seed: int) -> list[Any]:
    """All that can be seen from outside while the steps are done, and the whole database in the end."""
    with tempfile.TemporaryDirectory() as directory:
        async with a_bank(directory, seed) as (world, client):
            return await _play(world, client, steps)


async def _play(world: World, client: TestClient[Any, Any], steps: Sequence[Step]) -> list[Any]:
    bank = world.banks["bank-a"]
    operator = {"Authorization": f"Bearer {world.operator_token}"}
    profile = {"name": "hostile", "hang_ms": 1, "slow_ms": 1, "rates": {"huge": 0}}
    await client.put("/v1/simulate/banks/bank-a/profile", json=profile, headers=operator)
    secret = {"client_id": oauth.client_id(bank), "client_secret": oauth.client_secret(bank)}
    seen: list[Any] = []
    for kind, number, cents in steps:
        bank.set_profile(faults.Profile(name="calm", seed=bank.profile.seed))
        form = secret | {"grant_type": "client_credentials"}
        token = (await (await client.post("/bank-a/oauth/token", data=form)).json())["access_token"]
        bank.set_profile(
            faults.Profile(name="hostile", seed=bank.profile.seed, rates={"huge": 0}, slow_ms=1, hang_ms=1)
        )
        headers = {"Authorization": f"Bearer {token}"}
        amount = f"{number + 1}.{cents:02d}"
        common = {"reference": f"REF-{number}", "amount": amount}
        try:
            if kind == "clock":
                body: Any = {"advance_s": 1 + number * cents * 977}
                answer = await client.post("/v1/simulate/clock", json=body, headers=operator)
            elif kind == "push":
                body = {"account_id": "trust-eur", "amount": amount, "sender": {"name": "Alice"}}
                answer = await client.post("/v1/simulate/banks/bank-a/incoming", json=body, headers=operator)
            elif kind == "inquire":
                answer = await client.get(f"/bank-a/v1/transfers?reference=REF-{number}", headers=headers)
            elif kind == "ach":
                body = common | {"direction": "debit", "account_id": "trust-usd", "counterparty": RECEIVER}
                answer = await client.post("/bank-a/v1/ach/transfers", json=body, headers=headers)
            else:
                body = common | {"account_id": "trust-eur", "instant": kind == "instant", "creditor": CREDITOR}
                answer = await client.post("/bank-a/v1/sepa/credit-transfers", json=body, headers=headers)
            seen.append((answer.status, await answer.read()))
        except (aiohttp.ClientError, ConnectionError) as error:
            seen.append(type(error).__name__ if not isinstance(error, aiohttp.ClientPayloadError) else "cut")
    tables = (
        "transfers",
        "entries",
        "events",
        "deliveries",
        "jobs",
        "calls",
        "files",
        "visits",
        "remembered",
        "tokens",
    )
    assert books.summary(bank)["balanced"]
    return seen + [[tuple(row) for row in bank.store.rows(f"SELECT * FROM {table} ORDER BY rowid")] for table in tables]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.integers(0, 2**32))
def test_a13_same_seed_and_same_calls_give_the_same_bytes(steps: list[Step], seed: int) -> None:
    first = asyncio.run(play(steps, seed))
    second = asyncio.run(play(steps, seed))

    assert first == second


def test_a13_another_seed_behaves_differently() -> None:
    steps = [("ach", number % 6, 50) for number in range(30)]

    assert asyncio.run(play(steps, 1)) != asyncio.run(play(steps, 2))


@given(st.integers(0, 2**32), st.permutations([(ref, times) for ref in "abcd" for times in (1, 2, 3)]))
def test_a13_fault_of_a_call_does_not_hang_on_other_references(seed: int, order: list[tuple[str, int]]) -> None:
    profile = faults.Profile(name="hostile", seed=seed)

    def plan(calls: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
        return {call: faults.on_submit(profile, "bank-a", *call, 1000, "Bob") for call in calls}

    assert plan(order) == plan(sorted(order))
