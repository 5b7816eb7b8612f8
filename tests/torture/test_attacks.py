"""The attacks that broke the engine's prototype, against a real broker: late EndTxn first.

The name of a test begins with the number that the attack has in the review: C (money can be wrong), H (stalls and
storms), M. Those that need no proxy are in `tests/engine/test_kafka.py`, `test_stale.py` and `tests/simulation`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from aura_stream.embedded import KafkaServer, Listener
from aura_stream.embedded.processes import free_port
from aura_stream.engine.errors import CommitFailed
from aura_stream.engine.kafka import RealKafka
from aura_stream.engine.producer import COMMIT_TIMEOUT_S, TransactionalProducer
from aura_stream.engine.shard import Setup, Shard
from aura_stream.engine.topics import apply_topics
from tests.engine.check import fetched, read_topic
from tests.engine.tally import declared, make_setup
from tests.engine.test_kafka import Feeder, message, reached, started, values, wrote
from tests.torture.proxies import END_TXN, KafkaProxy, Net, Rule

pytestmark = pytest.mark.timeout(120)
OLD_EPOCH = (47, 90)  # INVALID_PRODUCER_EPOCH, PRODUCER_FENCED
IDS_EXPIRE_MS = 6_000


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaServer, KafkaProxy]]:
    """A broker with a proxy before it; idle transactional ids expire within seconds there."""
    listener = Listener("PROXIED", free_port(), free_port())
    settings = {
        "transactional.id.expiration.ms": str(IDS_EXPIRE_MS),
        "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
    }
    home = tmp_path_factory.mktemp("attacks")
    with KafkaServer(home, listeners=(listener,), settings=settings, tied=True) as server, Net() as net:
        proxy = KafkaProxy(net, listener.advertised_port, ("127.0.0.1", listener.port))
        proxy.start()
        yield server, proxy


@pytest.fixture
def proxy(broker: tuple[KafkaServer, KafkaProxy]) -> Iterator[KafkaProxy]:
    """Without rules before and after."""
    found = broker[1]
    found.late_errors = []
    yield found
    found.heal()
    found.cut()


@pytest.fixture
def direct(broker: tuple[KafkaServer, KafkaProxy]) -> str:
    """The broker's own address, for those who look on."""
    return broker[0].bootstrap


@pytest.fixture
async def setup(direct: str, proxy: KafkaProxy, unique: str, tmp_path: Path) -> Setup:
    """A tally engine of two partitions that meets the broker through the proxy."""
    await apply_topics(direct, declared(unique), partitions=2, replication=1)
    return make_setup(f"127.0.0.1:{proxy.port}", unique, 2, tmp_path)


async def once_each(direct: str, setup: Setup, count: int) -> None:
    """`count` commands have had their effect, each once, and the changelog knows the same sum."""
    lines = [line for value in await values(direct, setup.names.journal) for line in orjson.loads(value)["lines"]]
    assert [(line[1], line[4]) for line in lines] == [(str(n), n) for n in range(1, count + 1)]
    changelog = (await read_topic(direct, setup.names.changelog))[0]
    assert [r.value for r in changelog if r.key == b"Tkey"][-1] == b"[%d,%d]" % (count, count)


async def visible(direct: str, setup: Setup) -> tuple[int, int]:
    """How many records of the journal and of the changelog can be read as committed."""
    return len(await values(direct, setup.names.journal)), len(await values(direct, setup.names.changelog))


async def test_c01_without_the_taint_rule_a_late_endtxn_commits_half_of_the_next_transaction(
    direct: str, proxy: KafkaProxy, unique: str
) -> None:
    """The attack itself, on a bare producer: if a broker or a client ever shuts this door, the rule can go."""
    await apply_topics(direct, declared(unique), partitions=1, replication=1)
    journal, changelog = f"{unique}-journal", f"{unique}-changelog"
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{proxy.port}", transactional_id=unique)
    await producer.start()
    proxy.rules = [Rule("late", (END_TXN,), times=1, delay_s=1.5)]
    await producer.begin_transaction()
    await producer.send_and_wait(journal, b"1", partition=0)
    await producer.send_and_wait(changelog, b"1", key=b"k", partition=0)
    await producer.commit_transaction()
    assert proxy.rules[0].hits == 1, "the caller has seen no error"
    await producer.begin_transaction()
    await producer.send_and_wait(journal, b"2", partition=0)
    await reached(lambda: proxy.late_errors == [0])
    assert (await values(direct, journal), await values(direct, changelog)) == ([b"1", b"2"], [b"1"])
    # This producer is broken for good: it still believes in a transaction that is over.
    with pytest.raises(KafkaError):
        await producer.abort_transaction()
    await producer.stop()


async def test_c01_a_late_endtxn_that_a_retry_had_overtaken_commits_nothing_of_the_next_unit(
    direct: str, proxy: KafkaProxy, setup: Setup, protocol: str
) -> None:
    feeder = Feeder()
    first, second = await wrote(direct, setup, b"1 add 1", b"2 add 1")
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    # The first EndTxn is late, its retry goes through; the next unit is open when the late one comes.
    proxy.rules = [
        Rule("late", (END_TXN,), times=1, delay_s=1.5),
        Rule("delay", (END_TXN,), skip=1, times=1, delay_s=2.5),
    ]
    shard.put(fetched([first]), 1)
    await reached(lambda: shard.counters.units == 1 and shard.counters.reopened == 1)
    before = await visible(direct, setup)
    shard.put(fetched([second]), 1)
    await reached(lambda: len(proxy.late_errors) == 1)
    assert proxy.late_errors[0] in OLD_EPOCH
    assert proxy.rules[1].hits == 1 and shard.counters.units == 1, "the second unit is open now"
    assert await visible(direct, setup) == before, "and nothing of it can be seen"
    await reached(lambda: shard.counters.units == 2)
    await shard.close()
    await setup.kafka.stop()
    assert not feeder.failed
    await once_each(direct, setup, 2)


async def test_c01_an_endtxn_held_back_past_the_time_out_commits_nothing_of_the_unit_that_follows(
    direct: str, proxy: KafkaProxy, setup: Setup, protocol: str
) -> None:
    feeder = Feeder()
    (record,) = await wrote(direct, setup, b"1 add 1")
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    empty = await visible(direct, setup)
    # Neither the first EndTxn nor its retries arrive before the shard has given up, reopened and sent the unit anew.
    # The new unit's own EndTxn is held back meanwhile.
    held = Rule("delay", (END_TXN,), times=1, delay_s=2.7)
    proxy.rules = [Rule("late", (END_TXN,), silent=True, after=held)]
    shard.put(fetched([record]), 1)
    await reached(lambda: shard.counters.reopened >= 1, 30)
    proxy.rules = [held]
    await reached(lambda: len(proxy.late_errors) >= 1, 30)
    assert held.hits == 1 and shard.counters.units == 0, "the unit is open for the second time"
    assert proxy.late_errors[0] in OLD_EPOCH
    assert await visible(direct, setup) == empty
    await reached(lambda: shard.counters.units == 1, 30)
    await reached(lambda: proxy.settled(), 30)
    assert all(error in OLD_EPOCH for error in proxy.late_errors)
    await shard.close()
    await setup.kafka.stop()
    assert not feeder.failed
    await once_each(direct, setup, 1)


@pytest.mark.parametrize("what", ["lose request", "lose reply", "mute", "repeat"])
async def test_c01_whatever_happens_to_an_endtxn_each_unit_has_its_effect_once(
    direct: str, proxy: KafkaProxy, setup: Setup, protocol: str, what: Any
) -> None:
    feeder = Feeder()
    records = await wrote(direct, setup, *(b"%d add 1" % n for n in range(1, 7)))
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    for number, record in enumerate(records):
        proxy.rules = [Rule(what, (END_TXN,), times=1 if what == "mute" else 2)] if number % 2 == 0 else []
        shard.put(fetched([record]), 1)
        await reached(lambda record=record: shard.applied(setup.names.commands) == record.offset, 30)
    await shard.close()
    await setup.kafka.stop()
    assert not feeder.failed
    await once_each(direct, setup, 6)


async def test_h05_a_commit_without_any_answer_is_given_up_in_time_and_so_is_its_producer(
    direct: str, proxy: KafkaProxy, setup: Setup
) -> None:
    producer = TransactionalProducer(f"127.0.0.1:{proxy.port}", f"{setup.app_id}-0")
    await producer.start([setup.names.journal])
    proxy.rules = [Rule("mute", (END_TXN,))]
    began = time.monotonic()
    with pytest.raises(CommitFailed):
        await producer.commit(producer.build([message(setup.names.journal, b"1")]))
    assert time.monotonic() - began < COMMIT_TIMEOUT_S + 10
    began = time.monotonic()
    await producer.stop()
    assert time.monotonic() - began < COMMIT_TIMEOUT_S + 10
    proxy.heal()
    after = await started(direct, f"{setup.app_id}-0", setup.names.journal)
    await after.stop()


async def test_h07_a_takeover_ends_the_open_transaction_of_a_frozen_owner_at_once(
    direct: str, setup: Setup, proxy: KafkaProxy
) -> None:
    """Its readers wait for a takeover at most, not for the transaction's time-out."""
    frozen = await started(f"127.0.0.1:{proxy.port}", f"{setup.app_id}-0", setup.names.journal)
    await frozen._write(frozen.build([message(setup.names.journal, b"half")]))
    log = RealKafka(direct)
    await log.start()
    place = TopicPartition(setup.names.journal, 0)
    assert (await log.committed_ends([place]))[place] == 0, "the open transaction holds readers up"
    began = time.monotonic()
    owner = await started(direct, f"{setup.app_id}-0", setup.names.journal)
    async with asyncio.timeout(8):
        while (await log.committed_ends([place]))[place] != (await log.ends([place]))[place]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert time.monotonic() - began < 8, "less than the transaction's time-out"
    await owner.stop()
    await frozen.abandon()
    await log.stop()
    assert await values(direct, setup.names.journal) == []


async def test_m05_a_shard_that_waits_for_the_broker_does_not_hold_up_another(
    direct: str, proxy: KafkaProxy, setup: Setup
) -> None:
    slow_feeder, feeder = Feeder(), Feeder()
    records = await wrote(direct, setup, b"1 add 1")
    slow, other = Shard(0, setup, slow_feeder.fetch, 1), Shard(1, setup, feeder.fetch, 1)
    await slow_feeder.started.wait()
    await feeder.started.wait()
    proxy.rules = [Rule("delay", (END_TXN,), f"{setup.app_id}-0".encode(), times=1, delay_s=2.5)]
    slow.put(fetched(records), 1)
    await reached(lambda: proxy.rules[0].hits == 1)
    producer = AIOKafkaProducer(bootstrap_servers=direct)
    await producer.start()
    for number in range(5):
        meta = await producer.send_and_wait(setup.names.commands, b"x%d add 1" % number, key=b"other", partition=1)
        record: Any = (await read_topic(direct, setup.names.commands))[1][-1]
        other.put(fetched([record]), 1)
        await reached(lambda meta=meta: other.applied(setup.names.commands) == meta.offset)
    assert (slow.counters.units, other.counters.units) == (0, 5)
    await producer.stop()
    await reached(lambda: slow.counters.units == 1)
    await asyncio.gather(slow.close(), other.close())
    await setup.kafka.stop()
    assert not slow_feeder.failed and not feeder.failed


async def test_m06_a_producer_whose_id_kafka_has_forgotten_is_replaced(
    direct: str, proxy: KafkaProxy, setup: Setup
) -> None:
    """Seven days of silence are six seconds here."""
    feeder = Feeder()
    first, second = await wrote(direct, setup, b"1 add 1", b"2 add 1")
    shard = Shard(0, setup, feeder.fetch, 1)
    await feeder.started.wait()
    shard.put(fetched([first]), 1)
    await reached(lambda: shard.counters.units == 1)
    await asyncio.sleep(IDS_EXPIRE_MS / 1000 + 1.5)  # nothing tells when the broker forgets an id
    shard.put(fetched([second]), 1)
    await reached(lambda: shard.counters.units == 2, 30)
    assert shard.counters.reopened == 1
    await shard.close()
    await setup.kafka.stop()
    assert not feeder.failed
    await once_each(direct, setup, 2)
