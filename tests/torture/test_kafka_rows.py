"""Brokers die, stall and fill up, their links stop and go: nothing acknowledged is lost, and all goes on by itself."""

from __future__ import annotations

import subprocess
import time

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

import topics
from tests.e2e.client import partition_of
from tests.e2e.stack import PARTITIONS, eventually, until
from tests.engine.check import read_topic
from tests.torture import faults
from tests.torture.faults import Torture, fill, no_tmpfs, tmpfs
from tests.torture.ordeal import ordeal
from tests.torture.proxies import OFFSET_COMMIT, PRODUCE, Rule, Way

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


async def leader_of(torture: Torture, topic: str, partition: int) -> int:
    """The index of the broker that leads a partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=torture.stack.bootstrap)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
        leader = next(one["leader"] for one in found["partitions"] if one["partition"] == partition)
        return int(leader) - 1
    finally:
        await admin.close()


async def hints(torture: Torture) -> dict[int, int]:
    """Where the group of the ledger workers says that it stands in the commands."""
    admin = AIOKafkaAdminClient(bootstrap_servers=torture.stack.bootstrap)
    await admin.start()
    try:
        committed = await admin.list_consumer_group_offsets("aura-ledger")
        return {tp.partition: meta.offset for tp, meta in committed.items() if tp.topic == topics.COMMANDS.name}
    finally:
        await admin.close()


async def test_n07_a_stall_while_offsets_are_committed_and_a_kill_lose_nothing(torture: Torture) -> None:
    stack = torture.stack
    async with ordeal(torture):
        stall = [Rule("delay", (OFFSET_COMMIT,), delay_s=5.0) for _ in stack.lane("ledger-0")]
        for proxy, rule in zip(stack.lane("ledger-0"), stall, strict=True):
            proxy.rules = [rule]
        await until(lambda: any(rule.hits for rule in stall), 30, "an offset commit is held up", stack.logs)
        await torture.client.reached(10, stack.logs)
        await stack.kill("ledger-0")
    # The group was told no more than what is applied: who goes by it meets nothing that it has not seen.
    applied = await stack.fetch("SELECT partition, commands_offset FROM ledger.sink_offsets")
    told = await hints(torture)
    assert told and all(told[row["partition"]] <= row["commands_offset"] for row in applied if row["partition"] in told)


async def test_n06_n08_a_leader_that_is_lost_with_its_disk_takes_nothing_along(torture: Torture) -> None:
    """Its followers have everything, go on without it, and give it back what it had."""
    stack = torture.stack
    async with ordeal(torture):
        number = await leader_of(torture, topics.COMMANDS.name, 0)
        await stack.call(stack.cluster.brokers[number].kill)
        await torture.client.reached(15, stack.logs)
        await stack.decided()
        await stack.broker(number, wipe=True)
    await in_sync(torture)


async def in_sync(torture: Torture) -> None:
    """Waits until every replica has everything again, so that the next broker may go."""
    admin = AIOKafkaAdminClient(bootstrap_servers=torture.stack.bootstrap)
    await admin.start()

    async def missing() -> str:
        found = await admin.describe_topics([topic.name for topic in topics.ALL])
        behind = [
            (one["topic"], part["partition"]) for one in found for part in one["partitions"] if len(part["isr"]) < 3
        ]
        return f"not in sync: {behind[:3]} and others" if behind else ""

    try:
        await eventually(missing, 90, "all replicas are in sync", pause_s=0.5)
    finally:
        await admin.close()


async def test_n08_records_are_asked_of_leaders_only(torture: Torture) -> None:
    """A replica that comes back is behind, and says of what it does not have yet that it is out of range."""
    async with torture.client.loading():
        await torture.client.reached(10, torture.stack.logs)
    asked = {name for proxy in torture.stack.kafka_proxies() for name in proxy.counts if name.startswith("api 1 ")}
    assert asked == {"api 1 v10"}, "from version 11 on any replica answers"


async def test_h04_signals_of_an_aborted_transaction_are_never_read(torture: Torture) -> None:
    """A worker that read them would stop: they cannot be decoded, and a signal is never a dead letter."""
    producer = AIOKafkaProducer(bootstrap_servers=torture.stack.bootstrap, transactional_id="a-stranger")
    await producer.start()
    async with ordeal(torture):
        await producer.begin_transaction()
        for partition in range(PARTITIONS):
            await producer.send_and_wait(topics.SIGNALS.name, b"no signal", key=b"0", partition=partition)
        await producer.abort_transaction()
        await torture.client.reached(10, torture.stack.logs)
    await producer.stop()
    uncommitted = await read_topic(torture.stack.bootstrap, topics.SIGNALS.name, isolation="read_uncommitted")
    assert all(b"no signal" in {record.value for record in records} for records in uncommitted.values())
    assert all(torture.stack.processes[name].alive for name in ("ledger-0", "ledger-1")), torture.stack.logs()


async def test_n09_without_a_majority_nothing_is_accepted(torture: Torture) -> None:
    stack, client = torture.stack, torture.client
    await in_sync(torture)
    async with ordeal(torture):
        for broker in stack.cluster.brokers[:2]:
            await stack.call(broker.kill)
        # What was sent while the brokers went down may have got through; what is sent from now on cannot.
        began = time.monotonic()
        intent = client.transfer(
            "default", "c1:EUR", "c1:EUR:save", "0.02", "completed/completed", "failed/refused:insufficient_funds"
        )
        attempt = await client.post(intent, retry=False, wait="wait=0")
        assert (attempt.status, attempt.body.get("code")) == (503, "service_unavailable"), attempt
        assert int(attempt.retry_after or 0) >= 1
        assert not [
            one
            for other in client.intents
            for one in other.attempts
            if one.began > began and (one.offset >= 0 or one.status in (200, 201, 202))
        ], "accepted by a minority"


@pytest.mark.parametrize("ways", [(), ("down",)], ids=["both ways", "replies"])
async def test_n16_a_worker_that_is_cut_off_from_kafka_loses_its_partitions_and_writes_nothing(
    torture: Torture, ways: tuple[Way, ...]
) -> None:
    stack = torture.stack
    async with ordeal(torture):
        for proxy in stack.lane("ledger-0"):
            proxy.hold(*ways)
        # The other worker takes over what it had and decides everything; what was under way arrives after that.
        await stack.decided()
    assert stack.processes["ledger-0"].alive, stack.logs(30)


async def test_n18_all_links_stop_one_by_one_and_go_on_in_another_order(torture: Torture) -> None:
    async with ordeal(torture), faults.swizzle(torture):
        pass


async def test_n23_while_dead_letters_cannot_be_written_nothing_goes_past_them(torture: Torture) -> None:
    stack, client = torture.stack, torture.client
    where = partition_of("default", "c1")
    lanes = [*stack.lane("ledger-0"), *stack.lane("ledger-1")]
    sizes = {name: stack.log_size(name) for name in ("ledger-0", "ledger-1")}

    def told(what: str) -> bool:
        return any(what in stack.log_of(name)[at:] for name, at in sizes.items())

    async with ordeal(torture):
        rules = [Rule("lose request", (PRODUCE,), topics.DEAD_LETTERS.name.encode()) for _ in lanes]
        for proxy, rule in zip(lanes, rules, strict=True):
            proxy.rules = [rule]
        bad = client.bad_bytes("default", "c1")[0]
        await client.put_raw(bad)
        attempt = bad.attempt
        assert attempt is not None
        await until(lambda: attempt.offset >= 0, 30, "the bad bytes are in the log", stack.logs)
        await until(lambda: told("runs the unit again"), 60, "a try was in vain", stack.logs)
        (row,) = await stack.fetch("SELECT commands_offset FROM ledger.sink_offsets WHERE partition = $1", where)
        assert row["commands_offset"] <= attempt.offset, "it went past bytes whose dead letter it could not write"
    letters = (await read_topic(stack.bootstrap, topics.DEAD_LETTERS.name))[where]
    assert [one.value for one in letters if dict(one.headers)["aura-offset"] == b"%d" % attempt.offset] == [bad.value]


async def test_n28_a_broker_whose_disk_is_full_goes_and_the_others_stay(torture: Torture) -> None:
    if why := no_tmpfs():
        pytest.skip(f"N28: {why}")
    stack = torture.stack
    await in_sync(torture)
    broker = stack.cluster.brokers[2]
    async with ordeal(torture):
        await stack.call(broker.kill)
        await stack.call(lambda: subprocess.run(["rm", "-r", str(broker.data_dir)], check=True))
        broker.data_dir.mkdir()
        await stack.call(tmpfs, broker.data_dir, 512)
        try:
            await stack.broker(2)
            await in_sync(torture)
            filler = await stack.call(fill, broker.data_dir)

            async def missing() -> str:
                return "it still runs" if broker.process.alive else ""

            await eventually(missing, 90, "the broker stops for want of room", stack.logs)
            await torture.client.reached(10, stack.logs)
            await stack.decided()
            filler.unlink()
            await stack.broker(2)
            await in_sync(torture)
        finally:
            await stack.call(broker.kill)
            await stack.call(lambda: subprocess.run(["umount", "-l", str(broker.data_dir)], check=True))
            await stack.call(lambda: subprocess.run(["rm", "-r", str(broker.data_dir)], check=True))
    await in_sync(torture)
