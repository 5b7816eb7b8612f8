"""Ledger workers, sinks and the API are killed, frozen, ended and multiplied in mid-load."""

from __future__ import annotations

import re

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.e2e.client import Client
from tests.e2e.stack import E2EStack, eventually
from tests.invariants.coherent import assert_coherent
from tests.rows import row

pytestmark = pytest.mark.timeout(240)


@row("X22", "A08", "A11")
async def test_n01_a_killed_ledger_worker_loses_and_repeats_nothing(stack: E2EStack, client: Client) -> None:
    await stack.ensure("ledger", 1)
    async with client.loading():
        for victim in ("ledger-0", "ledger-1"):
            await client.reached(70, stack.logs)
            await stack.kill(victim)
            await stack.start("ledger", int(victim[-1]))
    await assert_coherent(stack, client)


@row("X22", "S20")
async def test_n01_a_killed_sink_loses_and_repeats_nothing(stack: E2EStack, client: Client) -> None:
    async with client.loading():
        for _ in range(2):
            await client.reached(60, stack.logs)
            await stack.kill("sink-0")
            await stack.start("sink")
    await assert_coherent(stack, client)


async def test_n01_a_killed_api_leaves_one_effect_per_key(stack: E2EStack, client: Client) -> None:
    client.http_share, share = 0.8, client.http_share
    try:
        async with client.loading():
            for _ in range(2):
                await client.reached(50, stack.logs)
                await stack.kill("api")
                await stack.start("api")
    finally:
        client.http_share = share
    assert client.answers[0], "no request was under way when the API was killed"
    await assert_coherent(stack, client)


async def test_n04_a_ledger_worker_that_wakes_after_its_session_writes_nothing(stack: E2EStack, client: Client) -> None:
    await stack.ensure("ledger", 1)
    async with client.loading():
        await client.reached(60, stack.logs)
        stack.processes["ledger-0"].freeze()
        await client.reached(40, stack.logs)
        # Another takes the partitions once the session is over, and decides all that waits.
        await stack.decided()
        stack.processes["ledger-0"].thaw()
        await client.reached(40, stack.logs)
    await assert_coherent(stack, client)
    assert stack.processes["ledger-0"].alive, f"to have been late is no reason to stop\n{stack.logs(30)}"


async def test_n04_a_sink_that_wakes_after_another_has_claimed_writes_nothing(stack: E2EStack, client: Client) -> None:
    epochs = await _epochs(stack)
    async with client.loading():
        await client.reached(60, stack.logs)
        stack.processes["sink-0"].freeze()
        await stack.start("sink", 1)

        async def unclaimed() -> str:
            now = await _epochs(stack)
            return "" if all(now[p] > epochs[p] for p in epochs) else f"epochs were {epochs}, are {now}"

        await eventually(unclaimed, 60, "sink-1 has claimed all partitions", stack.logs)
        await stack.decided()
        stack.processes["sink-0"].thaw()
        await client.reached(40, stack.logs)
    await assert_coherent(stack, client)
    assert stack.processes["sink-0"].alive, stack.logs(30)
    assert await stack.terminate("sink-1") == 0


async def test_n05_workers_that_join_and_leave_hold_nothing_up(stack: E2EStack, client: Client) -> None:
    await stack.ensure("ledger", 0)
    async with client.loading():
        for round_ in range(3):
            await stack.ensure("ledger", 1)
            await client.reached(20, stack.logs)
            if round_ == 1:
                await stack.kill("ledger-1")
            else:
                assert await stack.terminate("ledger-1") == 0
    await assert_coherent(stack, client)
    # Commands and signals of a partition went to one worker every time: else two would fence each other for ever.
    assert "came without" not in stack.log_of("ledger-0") + stack.log_of("ledger-1")


@row("S20")
async def test_n03_every_role_drains_on_sigterm(stack: E2EStack, client: Client) -> None:
    async with client.loading():
        for name in ("ledger-0", "sink-0", "api"):
            await client.reached(30, stack.logs)
            assert await stack.terminate(name) == 0, stack.logs()
            await stack.start(name.partition("-")[0])
    await assert_coherent(stack, client)


async def test_n03_nothing_is_delivered_again_after_a_stop_in_order(stack: E2EStack, client: Client) -> None:
    await stack.ensure("ledger", 0)
    if "ledger-1" in stack.processes and stack.processes["ledger-1"].alive:
        assert await stack.terminate("ledger-1") == 0
    await client.load(60)
    await stack.quiet()
    assert await stack.terminate("ledger-0") == 0
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
    await admin.start()
    committed = await admin.list_consumer_group_offsets("aura-ledger")
    await admin.close()
    ends = await stack.command_ends()
    assert {tp.partition: meta.offset for tp, meta in committed.items() if tp.topic == "aura.commands.v1"} == ends
    size = stack.log_size("ledger-0")
    await stack.start("ledger", 0)
    restored = re.findall(r"open, (\d+) records restored", stack.log_of("ledger-0")[size:])
    assert set(restored) == {"0"}, "the local state was warm and whole"
    await assert_coherent(stack, client, replay=0)


async def _epochs(stack: E2EStack) -> dict[int, int]:
    rows = await stack.fetch("SELECT partition, epoch FROM ledger.sink_offsets")
    return {row["partition"]: row["epoch"] for row in rows}
