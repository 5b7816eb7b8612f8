"""Bytes that come twice, in the wrong form, all at once, or in a race: each has its one right end."""

from __future__ import annotations

import asyncio
import collections
import json

import aiohttp
import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import MessageSizeTooLargeError

from aura_stream.engine.partition import BATCH_RECORDS_MAX, WAITING_MAX
from aura_stream.ledger.verify import digest
from tests.e2e.client import CUSTOMERS, Client, Malformed, partition_of
from tests.e2e.stack import PARTITIONS, E2EStack, eventually
from tests.invariants.coherent import assert_coherent
from tests.rows import row
from tests.torture.faults import ROLE

pytestmark = pytest.mark.timeout(240)


async def _digest(stack: E2EStack) -> str:
    connection = await stack.connect()
    try:
        return await digest(connection)
    finally:
        await connection.close()


@row("A02", "S19")
async def test_n21_malformed_bytes_are_dead_letters_and_the_partition_moves_on(stack: E2EStack, client: Client) -> None:
    bad = client.bad_bytes("default", "c1") + client.bad_bytes("demo", "c5")
    async with client.connected():
        for one in bad:
            await client.put_raw(one)
            good = client.transfer(
                "default", "c1:EUR", "c1:EUR:save", "0.01", "completed/completed", "failed/refused:insufficient_funds"
            )
            await client.put(good)
    found = await assert_coherent(stack, client)
    assert len({one.reason for one in bad}) >= 12
    behind = [one for one in bad if one.attempt is None or one.attempt.offset < 0]
    assert not behind, f"never acknowledged: {behind}"
    letters = {(p, dict(one.headers)["aura-offset"]): one for p, log in found.dead_letters.items() for one in log}
    for one in bad:
        assert one.attempt is not None
        letter = letters[one.attempt.partition, b"%d" % one.attempt.offset]
        assert dict(letter.headers)["aura-reason"].decode() == one.reason
        assert dict(letter.headers)["aura-detail"], "says what is wrong"


async def test_n21_what_is_too_large_is_refused_to_its_sender(stack: E2EStack, client: Client) -> None:
    before = await stack.command_ends()
    async with client.connected():
        with pytest.raises(MessageSizeTooLargeError):
            await client._producer.send_and_wait("aura.commands.v1", b"x" * (10 << 20), b"default/c1")
        status = (await client.get("/health/ready"))[0]
    assert status == 200
    assert await stack.command_ends() == before
    largest = Malformed(b"default/c1", b" " * (1000 << 10), partition_of("default", "c1"), "invalid_json")
    async with client.connected():
        await client.put_raw(largest)
    await assert_coherent(stack, client)


@row("S05")
async def test_n19_the_same_bytes_again_change_nothing(stack: E2EStack, client: Client) -> None:
    await client.load(120)
    await stack.quiet()
    before, ends = await _digest(stack), await stack.command_ends()
    resent = await client.resend()
    await stack.quiet()
    assert sum((await stack.command_ends()).values()) - sum(ends.values()) == resent > 200
    assert await _digest(stack) == before
    await assert_coherent(stack, client)


async def test_n33_a_rewind_of_the_groups_changes_nothing(stack: E2EStack, client: Client) -> None:
    await client.load(40)
    found = await assert_coherent(stack, client)
    before = await _digest(stack)
    for role in ("ledger", "sink"):
        assert await stack.terminate(f"{role}-0") == 0
    for group in ("aura-ledger", "aura-sink"):
        await _rewind(stack, group)
    for role in ("ledger", "sink"):
        await stack.start(role)
    after = await assert_coherent(stack, client, replay=0)
    assert await _digest(stack) == before
    assert {p: len(log) for p, log in after.journal.items()} == {p: len(log) for p, log in found.journal.items()}


async def _rewind(stack: E2EStack, group: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
    await admin.start()
    committed = list(await admin.list_consumer_group_offsets(group))
    await admin.close()
    assert committed
    consumer = AIOKafkaConsumer(bootstrap_servers=stack.bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([TopicPartition(tp.topic, tp.partition) for tp in committed])
    await consumer.commit(dict.fromkeys(committed, 0))
    await consumer.stop()


@row("X24", "X20", "A10")
async def test_n38_a_hot_receiver_has_the_exact_balance(stack: E2EStack, client: Client) -> None:
    hot = client.intent("account.open", "default", "hot", {"asset": "EUR"}, "done")
    async with client.connected():
        await client.put(hot)
    await stack.quiet()
    async with client.connected():
        for number in range(400):
            payer = CUSTOMERS[number % len(CUSTOMERS)]
            await client.put(
                client.transfer(
                    "default", f"{payer}:EUR", "hot:EUR", "0.10", "completed/completed",
                    "failed/refused:insufficient_funds",
                )
            )  # fmt: skip
        # And out of one wallet, a hundred at once, through the other door.
        await stack.quiet()
        answers = await asyncio.gather(
            *(
                client.post(
                    client.transfer(
                        "default", "hot:EUR", f"{CUSTOMERS[n % 8]}:EUR", "0.20", "completed/completed",
                        "failed/refused:insufficient_funds",
                    ),
                    wait="wait=30",
                )
                for n in range(100)
            )
        )  # fmt: skip
    found = await assert_coherent(stack, client)
    paid = [row for row in found.transactions.values() if row["to_account_id"] == "hot:EUR"]
    taken = [row for row in found.transactions.values() if row["from_account_id"] == "hot:EUR"]
    assert len(paid) == 400 and len(taken) == len(answers) == 100
    balance = (
        sum(row["status"] == "completed" for row in paid) * 10 - sum(r["status"] == "completed" for r in taken) * 20
    )
    async with client.connected():
        _, body, _ = await client.get("/v1/accounts/hot:EUR/balances")
    assert body["posted"] == body["available"] == f"{balance // 100}.{balance % 100:02d}", body
    columns = await stack.fetch(
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_schema = 'ledger' AND table_type = 'BASE TABLE'"
    )
    assert not [c for c in columns if c["data_type"] in ("real", "double precision", "money")], "no float near money"
    kept = {"balance_checkpoints"}  # derived, append-only, never needed
    assert not [c for c in columns if "balance" in c["column_name"] and c["table_name"] not in kept]


async def test_n39_of_two_commands_for_the_last_unit_one_wins(stack: E2EStack, client: Client) -> None:
    races = []
    for number in range(6):
        customer = f"race{number}"
        async with client.connected():
            await client.put(client.open("default", customer))
            for intent in client.paid_in("default", customer, "EUR", 100):
                await client.put(intent)
        races.append(customer)
    await stack.quiet()
    outcomes = ("completed/completed", "failed/refused:insufficient_funds")
    async with client.connected():
        for customer in races:
            rivals = [client.transfer("default", f"{customer}:EUR", f"c{n}:EUR", "1.00", *outcomes) for n in (1, 2)]
            data = {"account_id": f"{customer}:EUR", "amount": "1.00", "to_account_id": "c3:EUR"}
            hold = client.intent("hold.place", "default", customer, data | {"expires_at": "2199-01-01T00:00:00Z"})
            hold.may = frozenset({"processing/held", outcomes[1]})
            await asyncio.gather(client.post(rivals[0]), client.put(rivals[1]), client.put(hold))
    found = await assert_coherent(stack, client)
    won = collections.Counter(
        row["customer_id"]
        for row in found.transactions.values()
        if row["customer_id"] in races and row["type"] != "deposit" and row["status"] != "failed"
    )
    assert won == dict.fromkeys(races, 1)


@row("S03", "S04", "S05", "S06")
async def test_a_deposit_is_available_once_and_only_when_it_is_confirmed(stack: E2EStack, client: Client) -> None:
    async with client.connected():
        assert (await client.post(client.open("default", "dora"), wait="wait=20")).status == 201
        deposit, confirm = client.paid_in("default", "dora", "EUR", 1_050)
        first = await client.post(deposit, wait="wait=20")
        assert (first.status, first.body["status"], first.body["state"]) == (201, "processing", "awaiting_funds")

        async def balance() -> str:
            status, body, _ = await client.get("/v1/accounts/dora:EUR/balances")
            assert status == 200, body
            return str(body["available"])

        assert await balance() == "0.00", "nothing is available before it is confirmed"
        again = await client.post(deposit, wait="wait=20")
        assert (again.status, again.body["id"], again.replayed) == (201, first.body["id"], True)
        stranger = client.intent(
            "deposit.confirm", "default", "c1", {"transaction_id": deposit.transaction_id},
            "refused:transaction_not_found",
        )  # fmt: skip
        assert (await client.post(stranger, wait="wait=20")).status == 404
        unknown = client.intent(
            "deposit.confirm", "default", "dora", {"transaction_id": "00000000-0000-4000-8000-000000000000"},
            "refused:transaction_not_found",
        )  # fmt: skip
        assert (await client.post(unknown, wait="wait=20")).status == 404
        assert await balance() == "0.00"
        assert (await client.post(confirm, wait="wait=20")).status == 200
        assert await balance() == "10.50"
        twice = client.act("deposit.confirm", deposit, "refused:already_processed")
        assert (await client.post(twice, wait="wait=20")).status == 409
        assert (await client.post(confirm, wait="wait=20")).status == 200
        assert await balance() == "10.50"
    await assert_coherent(stack, client)


@row("S11", "S19", "S20", "A11")
async def test_http_only_publishes_and_a_process_of_its_own_decides(stack: E2EStack, client: Client) -> None:
    """Without a ledger process HTTP still publishes; what it published is decided by the next one."""
    await stack.quiet()
    assert await stack.terminate("ledger-0") == 0
    before = await stack.command_ends()
    intent = client.transfer(
        "default", "c4:EUR", "c4:EUR:save", "0.05", "completed/completed", "failed/refused:insufficient_funds"
    )
    async with client.connected():
        attempt = await client.post(intent, wait="wait=0")
        assert (attempt.status, attempt.body["status"], attempt.body["state"]) == (202, "created", "accepted")
        where = partition_of("default", "c4")
        assert await stack.command_ends() == before | {where: before[where] + 1}
        found = await client.read(intent.transaction_id, "default")
        assert found is not None and (found.code, found.status) == (200, "created")
    assert not await stack.fetch("SELECT 1 FROM ledger.transactions WHERE transaction_id = $1", intent.transaction_id)
    await stack.start("ledger")
    await assert_coherent(stack, client)
    rows = await stack.fetch(
        "SELECT status, state FROM ledger.transactions WHERE transaction_id = $1", intent.transaction_id
    )
    assert [tuple(row) for row in rows] == [("completed", "completed")]


@row("A09")
async def test_the_ledgers_own_writer_cannot_change_what_is_written(stack: E2EStack, client: Client) -> None:
    await client.load(5, reading=False)
    await stack.quiet()
    connection = await asyncpg.connect(stack.environment["AURA_POSTGRES_WRITE_DSN"])
    try:
        for table in ("entries", "journals", "units", "refusals"):
            for statement in (f"DELETE FROM ledger.{table}", f"UPDATE ledger.{table} SET partition = 0"):
                with pytest.raises(asyncpg.PostgresError):
                    await connection.execute(statement)
    finally:
        await connection.close()
    await assert_coherent(stack, client)


async def test_n33_a_rebuild_from_the_log_gives_the_same_ledger(stack: E2EStack, client: Client) -> None:
    """At the end of all that this file did to the ledger: dead letters, repeats, races, a rewind."""
    await client.load(20)
    await assert_coherent(stack, client)
    result = await stack.aura("rebuild", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout)["same"] is True
    verified = await stack.aura("ledger", "verify", "--json")
    assert verified.returncode == 0 and all(check["good"] for check in json.loads(verified.stdout)), verified.stdout
    await assert_coherent(stack, client, replay=0)


async def test_c03_a_backlog_that_fills_every_inbox_of_a_worker_loses_nothing(stack: E2EStack, client: Client) -> None:
    """All partitions of the worker stop fetching in the middle of it, and what was fetched by then is handled too."""
    await stack.quiet()
    assert await stack.terminate("ledger-0") == 0
    before = await stack.command_ends()
    async with client.connected():
        ends = await client.flood(WAITING_MAX + 2 * BATCH_RECORDS_MAX)
        worker = await stack.start("ledger", module=ROLE, AURA_TORTURE="late@1")
        port = json.loads(worker.ready_file.read_text())["web_port"]
        waiting: dict[int, int] = {}

        async def not_full() -> str:
            async with aiohttp.request("GET", f"http://127.0.0.1:{port}/partitions/") as answer:
                for one in (await answer.json())["partitions"]:
                    waiting[one["partition"]] = max(one["waiting"], waiting.get(one["partition"], 0))
            full = len(waiting) == PARTITIONS and min(waiting.values()) > WAITING_MAX
            return "" if full else f"waiting by partition, at most: {waiting}"

        await eventually(not_full, 60, "every inbox is full", stack.logs, pause_s=0.02)
    assert min(end - before[place] for place, end in (await stack.command_ends()).items()) > WAITING_MAX
    await assert_coherent(stack, client)
    assert worker.alive, stack.logs()
    assert await stack.terminate("ledger-0") == 0
    await stack.start("ledger")
    ids = [one.transaction_id for one in ends]
    sql = "SELECT count(*) AS n FROM ledger.transactions WHERE transaction_id::text = ANY($1) AND status = 'completed'"
    assert (await stack.fetch(sql, ids))[0]["n"] == len(ids), "the one before the backlog, and the one behind it"
