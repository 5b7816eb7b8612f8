"""Kafka and Postgres die in mid-load and come back: all resumes alone, and nobody was told what is not so."""

from __future__ import annotations

import json

import pytest

from tests.e2e.client import Client, Intent
from tests.e2e.stack import START_S, E2EStack, eventually, until
from tests.invariants.coherent import assert_coherent

pytestmark = pytest.mark.timeout(240)


async def test_n06_without_kafka_http_takes_nothing_and_all_resumes_alone(stack: E2EStack, client: Client) -> None:
    async with client.loading():
        await client.reached(80, stack.logs)
        await stack.call(stack.local.kafka.kill)
        refused: list[Intent] = []
        async with client.connected():
            # The load has a session of its own; these are asked once each, while there is no broker at all.
            for _ in range(4):
                intent = client.transfer(
                    "default", "c0:EUR", "c1:EUR", "1.00", "completed/completed", "failed/refused:insufficient_funds"
                )
                attempt = await client.post(intent, retry=False)
                assert attempt.status == 503, attempt
                assert attempt.retry_after is not None and int(attempt.retry_after) >= 1, attempt
                assert attempt.body["code"] == "service_unavailable", attempt
                refused.append(intent)
            status, body, _ = await client.get("/health")
            assert (status, body["status"]) == (503, "unavailable"), body
            assert (await client.get("/health/live"))[0] == 200
            await stack.call(stack.local.kafka.start, START_S)
            # The same keys again: whether or not the first attempt got through later, there is one effect.
            for intent in refused:
                assert (await client.post(intent)).status in (201, 202, 422)
    assert client.answers[503]
    await assert_coherent(stack, client)
    for name in ("ledger-0", "sink-0", "api"):
        assert stack.processes[name].alive, f"{name} did not outlive the broker\n{stack.logs()}"


async def test_n06_a_broker_that_restarts_in_order_is_waited_for(stack: E2EStack, client: Client) -> None:
    # Under load: a transaction that is committed while the partitions lose their leader must get its markers later.
    async with client.loading(per_second=100.0):
        await client.reached(80, stack.logs)
        await stack.call(stack.local.kafka.restart)
    await assert_coherent(stack, client)


async def test_n10_without_postgres_the_ledger_goes_on_and_reads_are_never_stale(
    stack: E2EStack, client: Client
) -> None:
    async with client.loading():
        await client.reached(80, stack.logs)
        await stack.decided()
        old = next(one for one in client.intents if one.type == "transfer.submit")
        await stack.call(stack.local.postgres.kill)
        async with client.connected():
            # Decided and answered from the journal, while there is no database.
            intent = client.transfer(
                "default", "c2:EUR", "c2:EUR:save", "0.01", "completed/completed", "failed/refused:insufficient_funds"
            )
            attempt = await client.post(intent, wait="wait=20")
            assert attempt.status in (201, 422), attempt
            found = await client.read(intent.transaction_id, "default")
            assert found is not None and found.code in (200, 503), found
            past = await client.read(old.transaction_id, old.tenant)
            assert past is not None and past.code in (200, 503), "an id that only Postgres knows is not unknown"
            status, body, _ = await client.get("/health")
            assert (status, body["status"], body["checks"]["postgres"]["ok"]) == (200, "degraded", False), body
            assert (await client.get("/health/ready"))[0] == 200, "writes are taken"
            status, body, headers = await client.get("/v1/accounts/c2:EUR/balances")
            assert status == 503 and body["code"] in ("ledger_behind", "service_unavailable"), body
            assert int(headers["Retry-After"]) >= 1
        said = await stack.aura("status", "--json")
        rows = {row["name"]: row["state"] for row in json.loads(said.stdout)["processes"]}
        assert (said.returncode, rows.get("postgres", "ended"), rows["ledger-0"]) == (1, "ended", "ready"), said.stdout
        await stack.call(stack.local.postgres.start, START_S)
    await assert_coherent(stack, client)
    async with client.connected():

        async def not_told() -> str:
            status, body, _ = await client.get(f"/v1/transactions/{intent.transaction_id}")
            return "" if status == 200 and body["status"] in ("completed", "failed") else f"{status} {body}"

        await eventually(not_told, 30, "the API answers from Postgres again", stack.logs)
    assert all(stack.processes[name].alive for name in ("ledger-0", "sink-0", "api")), stack.logs()


async def test_n10_a_postgres_that_restarts_in_order_is_waited_for(stack: E2EStack, client: Client) -> None:
    async with client.loading():
        await client.reached(40, stack.logs)
        await stack.call(stack.local.postgres.restart)
    await assert_coherent(stack, client)


async def test_n10_the_sink_started_without_postgres_waits_for_it(stack: E2EStack, client: Client) -> None:
    assert await stack.terminate("sink-0") == 0
    await stack.call(stack.local.postgres.kill)
    size = stack.log_size("sink-0")
    sink = stack.launch("sink")
    await client.load(40, reading=False)
    await until(lambda: "Postgres does not answer" in stack.log_of("sink-0")[size:], 60, "the sink says so", stack.logs)
    assert sink.alive
    await stack.call(stack.local.postgres.start, START_S)
    await stack.call(sink.wait_ready, START_S)
    await assert_coherent(stack, client)
