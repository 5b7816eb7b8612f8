"""Postgres does not answer, or late, or refuses, or deadlocks: every row is there once, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import pytest

from tests.e2e.stack import eventually, until
from tests.torture.faults import Torture, all_connections, owner_session
from tests.torture.ordeal import ordeal
from tests.torture.proxies import Way

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


async def test_n11_a_commit_whose_answer_is_lost_is_there_once(torture: Torture) -> None:
    proxy = torture.stack.postgres_of["sink"]
    before = proxy.cuts
    async with ordeal(torture):
        proxy.lose(b"COMMIT", answer=True, times=4)
        await until(lambda: proxy.cuts == before + 4, 60, "four answers were lost", torture.stack.logs)


async def test_n12_a_commit_that_never_arrives_is_done_again(torture: Torture) -> None:
    proxy = torture.stack.postgres_of["sink"]
    before = proxy.cuts
    async with ordeal(torture):
        proxy.lose(b"COMMIT", answer=False, times=4)
        await until(lambda: proxy.cuts == before + 4, 60, "four requests were lost", torture.stack.logs)


async def test_n13_a_slow_postgres_shows_as_units_behind_and_holds_nothing_else_up(torture: Torture) -> None:
    stack, client = torture.stack, torture.client
    sinks = [stack.processes[name] for name in ("sink-0", "sink-1")]
    async with ordeal(torture):
        stack.postgres_of["sink"].slow_s = 0.5
        behind = 0

        async def missing() -> str:
            nonlocal behind
            _, body, _ = await client.get("/health")
            behind = max(behind, int(body["checks"]["postgres"]["units_behind"]))
            return "" if behind > 0 else f"nothing is behind: {body}"

        await eventually(missing, 60, "the lag is seen from outside", stack.logs)
        # The ledger does not wait for Postgres: outcomes still come, from the journal.
        intent = client.transfer(
            "default", "c2:EUR", "c2:EUR:save", "0.01", "completed/completed", "failed/refused:insufficient_funds"
        )
        assert (await client.post(intent, wait="wait=20")).status in (201, 422)
    assert all(sink.alive for sink in sinks), "slow is no reason to stop, or to be thrown out of the group"


async def test_n14_the_victim_of_a_deadlock_goes_on_where_postgres_says(torture: Torture) -> None:
    stack = torture.stack
    size = {name: stack.log_size(name) for name in ("sink-0", "sink-1")}
    met = False

    def deadlocked() -> bool:
        return any("deadlock detected" in stack.log_of(name)[at:] for name, at in size.items())

    async with ordeal(torture), owner_session(stack) as session:
        for _ in range(20):
            # The sinks hold their row of sink_offsets and then ask for what this session has; it asks for their rows.
            with contextlib.suppress(asyncpg.DeadlockDetectedError, asyncpg.QueryCanceledError):
                async with session.transaction():
                    await session.execute("SET LOCAL deadlock_timeout = '60s'")  # so that a sink is the victim
                    await session.execute("SET LOCAL statement_timeout = '10s'")
                    await session.execute("LOCK TABLE ledger.units IN SHARE MODE")
                    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'ledger.units'::regclass AND NOT granted"
                    async with asyncio.timeout(20):
                        while not (await stack.fetch(waiting))[0]["count"]:  # noqa: ASYNC110 - Postgres has no event for it
                            await asyncio.sleep(0.01)
                    await session.execute("UPDATE ledger.sink_offsets SET epoch = epoch")
            if met := deadlocked():
                break
    assert met, "no sink was the victim of a deadlock"


async def test_n15_without_a_free_connection_reads_are_503_and_all_recovers(torture: Torture) -> None:
    stack, client = torture.stack, torture.client
    async with ordeal(torture):
        async with all_connections(stack):
            status, body, headers = await client.get("/v1/accounts/c1:EUR/balances")
            assert (status, body["code"]) in ((503, "service_unavailable"), (503, "ledger_behind")), body
            assert int(headers["Retry-After"]) >= 1
            await client.reached(10, stack.logs)

        async def missing() -> str:
            status, body, _ = await client.get("/v1/accounts/c1:EUR/balances")
            return "" if status == 200 else f"{status} {body}"

        await eventually(missing, 60, "the API reads again", stack.logs)
    assert all(stack.processes[name].alive for name in ("sink-0", "sink-1", "api")), stack.logs()


@pytest.mark.parametrize("ways", [(), ("up",), ("down",)], ids=["both ways", "requests", "replies"])
async def test_n17_sinks_that_are_cut_off_from_postgres_go_on_when_it_is_back(
    torture: Torture, ways: tuple[Way, ...]
) -> None:
    stack = torture.stack
    sinks = [stack.processes[name] for name in ("sink-0", "sink-1")]
    async with ordeal(torture):
        stack.postgres_of["sink"].hold(*ways)
        await torture.client.reached(30, stack.logs)
    assert all(sink.alive for sink in sinks), stack.logs(30)
