"""The engine's dealings with a real Kafka, one rule at a time: fencing, refused sends, taint, restore, topics."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced

from aura_stream.engine import restore as restore_module
from aura_stream.engine import transactions, transport
from aura_stream.engine.driver import LogRecord
from aura_stream.engine.errors import CommitFailed, DataLost, EngineError, Fenced
from aura_stream.engine.kafka import RealKafka
from aura_stream.engine.partition import Fetch
from aura_stream.engine.producer import Message, TransactionalProducer
from aura_stream.engine.restore import encode_position, read_position, restore
from aura_stream.engine.shard import Setup, Shard
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.topics import Topic, TopicMismatch, apply_topics, check_topics
from aura_stream.engine.unit import STATE_KEY, Memory
from tests.engine.check import fetched, read_topic
from tests.engine.tally import declared, make_setup


@pytest.fixture
async def prefix(kafka: Any, unique: str) -> str:
    await apply_topics(kafka.bootstrap, declared(unique), partitions=2, replication=1)
    return unique


@pytest.fixture
async def log(kafka: Any) -> AsyncIterator[RealKafka]:
    found = RealKafka(kafka.bootstrap)
    await found.start()
    yield found
    await found.stop()


def message(topic: str, value: bytes, key: bytes = b"k") -> Message:
    return (topic, 0, key, value, [])


async def values(bootstrap: str, topic: str) -> list[bytes]:
    return [record.value for record in (await read_topic(bootstrap, topic))[0]]


async def started(bootstrap: str, transactional_id: str, *topics: str) -> TransactionalProducer:
    producer = TransactionalProducer(bootstrap, transactional_id)
    await producer.start(topics)
    return producer


@pytest.mark.row("N06")
async def test_n06_a_client_that_starts_while_no_broker_shows_waits_for_one(
    kafka: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows, updated = 0, ClusterMetadata.update_metadata

    def update(cluster: ClusterMetadata, metadata: Any) -> None:
        nonlocal shows
        shows += 1
        if shows > 3:
            updated(cluster, metadata)

    monkeypatch.setattr(ClusterMetadata, "update_metadata", update)
    producer = await started(kafka.bootstrap, f"{prefix}-late", f"{prefix}-commands")
    await producer.commit(producer.build([message(f"{prefix}-commands", b"in the end")]))
    await producer.stop()
    assert shows > 3

    shows = 0
    consumer = AIOKafkaConsumer(
        f"{prefix}-commands", bootstrap_servers=kafka.bootstrap, group_id=prefix, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            found = await consumer.getone()
    finally:
        await consumer.stop()
    assert found.value == b"in the end" and shows > 3


async def test_brokers_that_leave_out_ends_of_transactions_are_told_from_others(kafka: Any) -> None:
    assert 0 < await transactions.newest_metadata(kafka.bootstrap) < transactions.LOSES_MARKERS.start


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_producer_whose_epochs_are_used_up_goes_on_under_the_id_that_the_broker_gives(
    kafka: Any, prefix: str
) -> None:
    """Each transaction takes an epoch of 16 bits (KIP-890), so a busy shard comes here within half an hour."""
    topic = declared(prefix)[0].name
    producer = await started(kafka.bootstrap, prefix, topic)
    ends = [(await producer.commit(producer.build([message(topic, b"%d" % n)])))[topic, 0] for n in range(33_000)]
    assert ends == list(range(1, 66_000, 2)), "a record and a marker each"
    other = await started(kafka.bootstrap, prefix, topic)
    with pytest.raises((Fenced, CommitFailed)):
        await producer.commit(producer.build([message(topic, b"late")]))
    await other.commit(other.build([message(topic, b"next")]))
    assert (await values(kafka.bootstrap, topic))[-2:] == [b"32999", b"next"]
    await producer.abandon()
    await other.stop()


async def test_a_unit_is_one_transaction_and_its_ends_are_known(kafka: Any, prefix: str, protocol: str) -> None:
    journal, changelog = f"{prefix}-journal", f"{prefix}-changelog"
    producer = await started(kafka.bootstrap, f"{prefix}-0", journal, changelog)
    assert producer._client.second is (protocol == "second")
    first = await producer.commit(
        producer.build([message(journal, b"1"), message(journal, b"2"), message(changelog, b"c")])
    )
    assert first == {(journal, 0): 2, (changelog, 0): 1}
    second = await producer.commit(producer.build([message(journal, b"3")]))
    assert second == {(journal, 0): 4}, "the transaction's marker takes an offset"
    await producer.stop()
    assert await values(kafka.bootstrap, journal) == [b"1", b"2", b"3"]


async def test_a_new_owner_fences_the_former_one(kafka: Any, prefix: str, protocol: str) -> None:
    journal = f"{prefix}-journal"
    former = await started(kafka.bootstrap, f"{prefix}-0", journal)
    await former.commit(former.build([message(journal, b"former")]))
    later = await started(kafka.bootstrap, f"{prefix}-0", journal)
    with pytest.raises(Fenced):
        await former.commit(former.build([message(journal, b"zombie")]))
    await later.commit(later.build([message(journal, b"later")]))
    await former.abandon()
    await later.stop()
    assert await values(kafka.bootstrap, journal) == [b"former", b"later"]


async def test_a_refused_send_is_never_committed(kafka: Any, prefix: str, protocol: str) -> None:
    journal, changelog = f"{prefix}-journal", f"{prefix}-changelog"
    producer = await started(kafka.bootstrap, f"{prefix}-0", journal, changelog)
    oversize = message(journal, b"x" * (3 << 20))
    with pytest.raises(EngineError, match="refuses"):
        await producer.commit(producer.build([message(changelog, b"half"), oversize]))
    await producer.abandon()
    after = await started(kafka.bootstrap, f"{prefix}-0", changelog)  # ends the open transaction
    await after.stop()
    assert await values(kafka.bootstrap, changelog) == []


async def test_a_unit_of_many_batches_is_written_in_order(kafka: Any, prefix: str, protocol: str) -> None:
    journal = f"{prefix}-journal"
    producer = await started(kafka.bootstrap, f"{prefix}-0", journal)
    large = [b"%d" % number + b"x" * 400_000 for number in range(7)]
    batches = producer.build([message(journal, value) for value in large])
    assert len(batches) > 2
    assert await producer.commit(batches) == {(journal, 0): 7}
    assert await producer.commit(producer.build([message(journal, b"last")])) == {(journal, 0): 9}
    await producer.stop()
    assert b"".join(value[:1] for value in await values(kafka.bootstrap, journal)) == b"0123456l"


async def test_a_late_end_ends_nothing_of_the_next_transaction(kafka: Any, prefix: str) -> None:
    """In the second protocol an epoch is over with its transaction; `tests/torture` shows the attack on the first."""
    journal = f"{prefix}-journal"
    producer = await started(kafka.bootstrap, f"{prefix}-0", journal)
    client = producer._client
    before = client._id, client._epoch
    await producer.commit(producer.build([message(journal, b"1")]))
    ((topic, partition, batch, count),) = producer.build([message(journal, b"2")])
    sealed = client.sealed((topic, partition), batch, count)
    answers = await client.produce({(topic, partition): sealed})
    while not isinstance(answers[topic, partition], int):  # the markers of the one before are being written
        answers = await client.produce({(topic, partition): sealed})
    now, (client._id, client._epoch) = (client._id, client._epoch), before
    with pytest.raises((ProducerFenced, InvalidProducerEpoch)):
        await client.end()
    assert await values(kafka.bootstrap, journal) == [b"1"]
    client._id, client._epoch = now
    await client.end()
    await producer.stop()
    assert await values(kafka.bootstrap, journal) == [b"1", b"2"]


async def test_any_failed_request_taints_a_producer(kafka: Any, prefix: str) -> None:
    producer = await started(kafka.bootstrap, f"{prefix}-0", f"{prefix}-journal")
    assert producer.tainted is False
    with pytest.raises(KafkaError):
        await producer._client._producer.client.send(999, object())  # no such node
    assert bool(producer.tainted) is True
    await producer.stop()


async def test_an_unreachable_kafka_is_an_error_in_time_and_leaves_nothing(unique: str) -> None:
    producer = TransactionalProducer("127.0.0.1:1", unique)
    with pytest.raises(CommitFailed, match="cannot start"):
        await producer.start(["any"])
    assert producer._client._producer._closed


def test_another_faust_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    transport.check_faust()
    monkeypatch.setitem(transport.PINNED, "faust", "0.0.1")
    with pytest.raises(RuntimeError, match=r"0\.0\.1 is needed"):
        transport.check_faust()


async def test_a_stranger_s_open_transaction_makes_restore_wait_and_then_refuse(
    kafka: Any, prefix: str, log: RealKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    changelog = TopicPartition(f"{prefix}-changelog", 0)
    stranger = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=f"{prefix}-stranger", transaction_timeout_ms=60_000
    )
    await stranger.start()
    await stranger.begin_transaction()
    await stranger.send_and_wait(changelog.topic, b"open", key=b"x", partition=0)
    owner = await started(kafka.bootstrap, f"{prefix}-0", changelog.topic)
    await owner.commit(owner.build([message(changelog.topic, b"hidden behind it")]))
    await owner.stop()

    monkeypatch.setattr(restore_module, "HANGING_S", 0.3)
    with pytest.raises(DataLost, match="find-hanging"):
        await restore(MemoryStore(), changelog, log)

    monkeypatch.setattr(restore_module, "HANGING_S", 30)
    waiting = asyncio.create_task(restore(store := MemoryStore(), changelog, log))
    await stranger.abort_transaction()
    assert await waiting == 1
    assert store.get(b"k") == b"hidden behind it"
    await stranger.stop()


async def test_restore_goes_on_from_where_the_store_stands_and_deletes_what_was_deleted(
    kafka: Any, prefix: str, log: RealKafka
) -> None:
    changelog = TopicPartition(f"{prefix}-changelog", 0)
    owner = await started(kafka.bootstrap, f"{prefix}-0", changelog.topic)
    await owner.commit(owner.build([message(changelog.topic, b"1", b"a"), message(changelog.topic, b"1", b"b")]))
    store = MemoryStore()
    assert await restore(store, changelog, log) == 2
    await owner.commit(owner.build([message(changelog.topic, b"2", b"a"), (changelog.topic, 0, b"b", None, [])]))
    assert await restore(store, changelog, log) == 2
    assert (store.get(b"a"), store.get(b"b")) == (b"2", None)
    assert read_position(store).offset == (await log.ends([changelog]))[changelog]
    assert await restore(store, changelog, log) == 0
    await owner.stop()


async def test_a_changelog_that_is_shorter_than_the_store_is_data_lost(kafka: Any, prefix: str, log: RealKafka) -> None:
    store = MemoryStore()
    store.write([(restore_module.POSITION_KEY, encode_position(500, 0))])
    with pytest.raises(DataLost, match="ends at 0"):
        await restore(store, TopicPartition(f"{prefix}-changelog", 0), log)


async def test_a_changelog_that_is_another_one_is_data_lost(kafka: Any, prefix: str, log: RealKafka) -> None:
    changelog = TopicPartition(f"{prefix}-changelog", 0)
    owner = await started(kafka.bootstrap, f"{prefix}-0", changelog.topic)
    state = b'{"seq":1}'
    await owner.commit(owner.build([message(changelog.topic, state, STATE_KEY)] * 3))
    await owner.stop()
    store = MemoryStore()
    store.write([(restore_module.POSITION_KEY, encode_position(1, 0)), (STATE_KEY, b'{"seq":9}')])
    with pytest.raises(DataLost, match="another topic"):
        await restore(store, changelog, log)


async def test_topics_are_created_once_and_checked(kafka: Any, unique: str) -> None:
    topics = [Topic(f"{unique}-a", "k", "v"), Topic(f"{unique}-b", "k", "v")]
    with pytest.raises(TopicMismatch, match="lacks") as missing:
        await check_topics(kafka.bootstrap, topics, partitions=3)
    assert missing.value.fix == "aura topics apply"
    created = await apply_topics(kafka.bootstrap, topics, partitions=3, replication=1)
    assert created == [f"{unique}-a", f"{unique}-b"]
    assert await apply_topics(kafka.bootstrap, topics, partitions=3, replication=1) == []
    with pytest.raises(TopicMismatch, match="with 3 partitions, 4 are configured") as other:
        await apply_topics(kafka.bootstrap, topics, partitions=4, replication=1)
    assert "AURA_PARTITIONS=3" in other.value.fix and "apply" not in other.value.fix, "applying cannot mend it"


# --- a shard by itself ----------------------------------------------------------------------------------------------


class Feeder:
    """Plays the consumer for one shard."""

    def __init__(self) -> None:
        self.failed: list[BaseException] = []
        self.started = asyncio.Event()
        self.owned = True

        async def start(_: Any) -> None:
            self.started.set()

        async def caught_up(_: int) -> bool:
            return True

        async def owns(_: int) -> bool:
            return self.owned

        self.fetch = Fetch(start, lambda _: None, lambda _: None, caught_up, owns, self.fail)

    def fail(self, error: BaseException) -> None:
        self.failed.append(error)
        self.started.set()


async def reached(condition: Any, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def wrote(bootstrap: str, setup: Setup, *commands: bytes) -> list[Any]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    sent = [await producer.send_and_wait(setup.names.commands, c, key=b"key", partition=0) for c in commands]
    await producer.stop()
    return [
        LogRecord(setup.names.commands, 0, meta.offset, meta.timestamp, b"key", command)
        for meta, command in zip(sent, commands, strict=True)
    ]


async def test_a_unit_whose_commit_fails_runs_again_on_a_new_producer(
    kafka: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the transaction began, or after it was committed: in both cases every record has its effect once."""
    setup, feeder = make_setup(kafka.bootstrap, prefix, 2, tmp_path), Feeder()
    records = await wrote(kafka.bootstrap, setup, b"1 add 1", b"2 add 2", b"3 add 3")
    commit, plan = TransactionalProducer.commit, ["before", "after", "taint"]

    async def unlucky(self: TransactionalProducer, batches: Any) -> Any:
        fault = plan.pop(0) if plan else ""
        if fault == "before":
            raise CommitFailed("cut before")
        ends = await commit(self, batches)
        if fault == "after":
            raise CommitFailed("the answer was lost")
        self._client.failed = fault == "taint"
        return ends

    monkeypatch.setattr(TransactionalProducer, "commit", unlucky)
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    for record in records:
        shard.put(fetched([record]), 1)
        await reached(lambda record=record: shard.applied(setup.names.commands) == record.offset)
    await reached(lambda: shard.counters.reopened == 3)
    await shard.close()
    await setup.kafka.stop()
    assert not feeder.failed
    lines = [
        line for value in await values(kafka.bootstrap, setup.names.journal) for line in orjson.loads(value)["lines"]
    ]
    assert [(line[1], line[4]) for line in lines] == [("1", 1), ("2", 3), ("3", 6)]


async def test_five_failures_of_one_unit_stop_the_process(
    kafka: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, feeder = make_setup(kafka.bootstrap, prefix, 2, tmp_path), Feeder()
    (record,) = await wrote(kafka.bootstrap, setup, b"1 add 1")

    async def never(self: TransactionalProducer, batches: Any) -> Any:
        raise CommitFailed("again")

    monkeypatch.setattr(TransactionalProducer, "commit", never)
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    feeder.started.clear()
    shard.put(fetched([record]), 1)
    await asyncio.wait_for(feeder.started.wait(), 30)
    assert isinstance(feeder.failed[0], EngineError)
    assert shard.counters.reopened == 5
    await shard.release(gently=False)
    await setup.kafka.stop()


async def test_a_fenced_shard_that_is_not_the_owner_gives_up(kafka: Any, prefix: str, tmp_path: Path) -> None:
    setup, feeder = make_setup(kafka.bootstrap, prefix, 2, tmp_path), Feeder()
    (record,) = await wrote(kafka.bootstrap, setup, b"1 add 1")
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    rival = await started(kafka.bootstrap, f"{prefix}-0", setup.names.journal)
    feeder.owned = False
    shard.put(fetched([record]), 1)
    await reached(lambda: shard.state == "closed")
    assert not feeder.failed
    await rival.stop()
    await setup.kafka.stop()


async def test_a_fenced_shard_that_is_the_owner_takes_the_partition_back(
    kafka: Any, prefix: str, tmp_path: Path
) -> None:
    setup, feeder = make_setup(kafka.bootstrap, prefix, 2, tmp_path), Feeder()
    (record,) = await wrote(kafka.bootstrap, setup, b"1 add 1")
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    rival = await started(kafka.bootstrap, f"{prefix}-0", setup.names.journal)
    shard.put(fetched([record]), 1)
    await reached(lambda: shard.applied(setup.names.commands) == record.offset)
    with pytest.raises(Fenced):
        await rival.commit(rival.build([message(setup.names.journal, b"zombie")]))
    await rival.abandon()
    await shard.close()
    await setup.kafka.stop()


async def test_nothing_reaches_the_store_before_the_commit(
    kafka: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, feeder = make_setup(kafka.bootstrap, prefix, 2, tmp_path), Feeder()
    (record,) = await wrote(kafka.bootstrap, setup, b"1 add 1")
    commit = TransactionalProducer.commit
    seen: list[bytes | None] = []

    async def watched(self: TransactionalProducer, batches: Any) -> Any:
        assert shard._store is not None
        seen.append(shard._store.get(b"Tkey"))
        ends = await commit(self, batches)
        seen.append(shard._store.get(b"Tkey"))
        return ends

    monkeypatch.setattr(TransactionalProducer, "commit", watched)
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    shard.put(fetched([record]), 1)
    await reached(lambda: shard.counters.units == 1)
    assert seen == [None, None]
    assert shard._store is not None
    assert shard._store.get(b"Tkey") == b"[1,1]"
    await shard.close()
    await setup.kafka.stop()


async def test_lists_of_another_generation_are_dropped(kafka: Any, prefix: str, tmp_path: Path) -> None:
    setup, feeder = make_setup(kafka.bootstrap, prefix, 2, tmp_path), Feeder()
    records = await wrote(kafka.bootstrap, setup, b"1 add 1", b"2 add 1")
    shard = Shard(0, setup, feeder.fetch, 7)
    await feeder.started.wait()
    shard.put(fetched(records[1:]), 6)
    assert shard.waiting == 0
    await shard.suspend()
    shard.put(fetched(records), 7)
    assert shard.waiting == 0
    shard.resume(8)
    shard.put(fetched(records), 8)
    await reached(lambda: shard.applied(setup.names.commands) == records[-1].offset)
    await shard.close()
    await setup.kafka.stop()


async def test_a_log_that_lost_records_is_not_repaired_in_silence(kafka: Any, prefix: str, tmp_path: Path) -> None:
    """The state says that offset 41 was applied; the topic ends before."""
    setup, feeder = make_setup(kafka.bootstrap, prefix, 2, tmp_path), Feeder()
    owner = await started(kafka.bootstrap, f"{prefix}-0", setup.names.changelog)
    state = b'{"at":1,"seq":1,"applied":{"commands":41},"counters":{},"sent":{},"received":{},"rules":"none"}'
    await owner.commit(owner.build([message(setup.names.changelog, state, STATE_KEY)]))
    await owner.stop()
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    assert isinstance(feeder.failed[0], DataLost)
    assert "42 comes next" in str(feeder.failed[0])
    await shard.release(gently=False)
    await setup.kafka.stop()


async def test_a_store_that_was_away_for_too_long_is_restored_from_zero(
    kafka: Any, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(kafka.bootstrap, prefix, 2, tmp_path)
    for expected, stale in ((0, False), (0, False), (2, True)):
        if stale:
            monkeypatch.setattr("aura_stream.engine.shard.STALE_MS", -1_000)
        feeder = Feeder()
        shard = Shard(0, setup, feeder.fetch, 1)
        await feeder.started.wait()
        assert shard.counters.restored == expected
        if expected == 0 and shard.applied(setup.names.commands) < 0:
            (record,) = await wrote(kafka.bootstrap, setup, b"1 add 1")
            shard.put(fetched([record]), 1)
            await reached(lambda shard=shard: shard.counters.units == 1)
        await shard.close()
    await setup.kafka.stop()


def left_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize("blocks", ["all", "of one key"])
async def test_n26_a_store_with_an_unreadable_block_is_removed_and_restored_once(
    kafka: Any, prefix: str, tmp_path: Path, blocks: str
) -> None:
    """A flipped bit lets a store be opened, and is met when the block is read: at open, or in a unit long after."""
    setup = make_setup(kafka.bootstrap, prefix, 2, tmp_path)
    records = await wrote(kafka.bootstrap, setup, b"1 add 1", b"2 add 1")
    for number, record in enumerate(records):
        if number == 1:
            damaged = 0
            for path in (tmp_path / f"{prefix}-0").glob("*.sst"):
                data = bytearray(path.read_bytes())
                data[12] ^= 1  # in the first block
                damaged += path.write_bytes(data)
            assert damaged
        feeder = Feeder()
        shard = Shard(0, setup, feeder.fetch, 1)
        await feeder.started.wait()
        shard.put(fetched([record]), 1)
        await reached(lambda shard=shard, record=record: shard.applied(setup.names.commands) == record.offset)
        assert not feeder.failed
        if number == 0 and blocks == "of one key":
            # Blocks enough that position and state are in others than the key that the next record needs.
            assert shard._store is not None
            shard._store.write([(b"X%d" % n, random.Random(n).randbytes(4096)) for n in range(64)])
        await shard.close()
    await setup.kafka.stop()
    assert left_in(tmp_path) == [f"{prefix}-0"], "nothing damaged is left behind"
    lines = [
        line for value in await values(kafka.bootstrap, setup.names.journal) for line in orjson.loads(value)["lines"]
    ]
    assert [(line[1], line[4]) for line in lines] == [("1", 1), ("2", 2)]


def test_a_memory_reads_its_state_from_the_store(tmp_path: Path) -> None:
    store = MemoryStore()
    store.write([(STATE_KEY, b'{"seq":5,"applied":{"commands":9}}')])
    setup = make_setup("127.0.0.1:1", "p", 1, tmp_path)
    memory = Memory(
        0, actor=setup.actor, names=setup.names, store=store, partitioner=setup.partitioner, rules=b"", rules_hash=""
    )
    assert (memory.state.seq, memory.state.applied) == (5, {"commands": 9})
