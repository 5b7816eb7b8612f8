"""Real worker processes on a real Kafka: killed, frozen, joined and ended under load. Every effect happens once."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from aura_stream.embedded.processes import Process, free_port
from aura_stream.engine.topics import apply_topics
from tests.engine.check import check_once, check_sums, lines_of, read_topic
from tests.engine.tally import declared, names

PARTITIONS = 4


class Tallies:
    """A cluster of tally workers and what was sent to them."""

    def __init__(self, bootstrap: str, prefix: str, home: Path) -> None:
        self.bootstrap, self.prefix, self.home = bootstrap, prefix, home
        self.names = names(prefix)
        self.workers: list[Process] = []
        self.sent: dict[str, tuple[str, str, int]] = {}

    def worker(self, name: str = "") -> Process:
        """A running worker; with the name of a former one it takes over its state."""
        name = name or f"w{len(self.workers)}"
        home = self.home / name
        home.mkdir(parents=True, exist_ok=True)
        port = free_port()
        process = Process(
            name,
            [sys.executable, "-m", "tests.engine.tally"],
            run_dir=home,
            log_dir=self.home,
            env={
                "TALLY_HOME": str(home),
                "TALLY_BOOTSTRAP": self.bootstrap,
                "TALLY_PREFIX": self.prefix,
                "TALLY_PARTITIONS": str(PARTITIONS),
                "TALLY_WEB_PORT": str(port),
                "TALLY_SESSION_S": "6",
            },
            tied=True,
            ready=lambda: (home / "ready").exists(),
        )
        (home / "ready").unlink(missing_ok=True)
        process.start()
        process.wait_ready(30)
        self.workers.append(process)
        self.web_port = port
        return process

    async def load(self, count: int, *, per_second: int = 0) -> None:
        """Sends `count` commands, two thirds to add and one third to give."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True, linger_ms=2)
        await producer.start()
        futures = []
        first = len(self.sent)
        for number in range(first, first + count):
            key = f"k{number % 40}"
            kind, text = ("give", f"give 1 k{number * 7 % 40}") if number % 3 == 0 else ("add", f"add {number % 10}")
            futures.append(await producer.send(self.names.commands, f"{number} {text}".encode(), key=key.encode()))
            self.sent[str(number)] = (kind, key, 1)
            if per_second and number % 50 == 49:
                await asyncio.sleep(50 / per_second)  # the pace of the load
        await asyncio.gather(*futures)
        await producer.stop()

    async def lines(self, *, within_s: float = 60) -> list[list[Any]]:
        """The journal's lines once every effect that was asked for is there."""
        gifts = sum(kind == "give" for kind, _, _ in self.sent.values())
        give_up = time.monotonic() + within_s
        while True:
            lines = lines_of(await read_topic(self.bootstrap, self.names.journal))
            if len(lines) >= len(self.sent) + gifts:
                return lines
            assert time.monotonic() < give_up, f"{len(lines)} of {len(self.sent) + gifts} effects\n{self.logs()}"
            await asyncio.sleep(0.2)

    async def assert_exact(self) -> None:
        """Every command once, sums that follow from one another, and the changelog's last state equal to them."""
        lines = await self.lines()
        check_once(lines, self.sent)
        totals = check_sums(lines)
        assert sum(totals.values()) == sum(int(line[3]) for line in lines if line[0] in ("add", "give", "got"))
        kept: dict[str, int] = {}
        for records in (await read_topic(self.bootstrap, self.names.changelog)).values():
            for record in records:
                if record.key.startswith(b"T"):
                    kept[record.key[1:].decode()] = orjson.loads(record.value)[1]
        assert kept == totals

    def logs(self) -> str:
        return "\n".join(process.log_tail(15) for process in self.workers)

    def stop(self) -> None:
        for process in self.workers:
            process.thaw()
            process.stop(5)


@pytest.fixture
async def tallies(kafka: Any, unique: str, tmp_path: Path) -> Any:
    await apply_topics(kafka.bootstrap, declared(unique), partitions=PARTITIONS, replication=1)
    found = Tallies(kafka.bootstrap, unique, tmp_path)
    yield found
    found.stop()


def opened(process: Process) -> list[tuple[int, int]]:
    """Partition and number of records restored, for each time the worker opened a shard."""
    text = process.log_path.read_text()
    return [(int(p), int(n)) for p, n in re.findall(r"shard (\d+): open, (\d+) records restored", text)]


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def test_n01_killed_workers_lose_and_repeat_nothing(tallies: Tallies) -> None:
    first, second = tallies.worker(), tallies.worker()
    loading = asyncio.create_task(tallies.load(6000, per_second=2000))
    for victim in (first, second):
        await asyncio.sleep(0.8)  # into the load
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(tallies.worker, victim.name)
    await loading
    await tallies.assert_exact()


async def test_n04_a_worker_that_wakes_up_late_can_write_nothing(tallies: Tallies) -> None:
    frozen = tallies.worker()
    loading = asyncio.create_task(tallies.load(4000, per_second=1000))
    await asyncio.sleep(0.5)
    frozen.freeze()
    other = await asyncio.to_thread(tallies.worker)  # joins once the session of the frozen one is over
    await loading
    assert {partition for partition, _ in opened(other)} == set(range(PARTITIONS))
    await tallies.lines()
    frozen.thaw()
    await tallies.load(200)
    await tallies.assert_exact()


async def test_n03_sigterm_finishes_the_running_unit_and_leaves_in_order(tallies: Tallies) -> None:
    worker = tallies.worker()
    loading = asyncio.create_task(tallies.load(2000, per_second=2000))
    await asyncio.sleep(0.5)
    worker.send(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 15), worker.log_tail()
    assert worker.returncode == 0, worker.log_tail()
    await loading
    tallies.worker("w0")
    await tallies.assert_exact()


async def test_a_rebalance_moves_only_what_must_move(tallies: Tallies) -> None:
    first = tallies.worker()
    await tallies.load(300)
    await tallies.lines()
    assert sorted(p for p, _ in opened(first)) == list(range(PARTITIONS))
    second = tallies.worker()
    moved = sorted(p for p, _ in opened(second))
    assert len(moved) == PARTITIONS // 2
    await tallies.load(300)
    await tallies.lines()
    assert len(opened(first)) == PARTITIONS, "what stayed was not opened again"
    assert "came without" not in first.log_path.read_text() + second.log_path.read_text()
    await asyncio.to_thread(second.stop, 20)
    await tallies.load(300)
    await tallies.assert_exact()
    assert sorted(p for p, _ in opened(first)[PARTITIONS:]) == moved, "only what had moved came back"


async def test_a_restarted_worker_finds_its_state_warm(tallies: Tallies) -> None:
    worker = tallies.worker()
    await tallies.load(2000)
    await tallies.lines()
    await asyncio.to_thread(worker.kill)
    again = await asyncio.to_thread(tallies.worker, "w0")
    restored = sum(n for _, n in opened(again)[PARTITIONS:])
    assert restored < 100, "only what the killed one had not written is read from the changelog"
    cold = await asyncio.to_thread(tallies.worker, "cold")
    assert sum(n for _, n in opened(cold)) > 0, "a worker without state reads the changelog"
    await tallies.load(100)
    await tallies.assert_exact()


async def test_damaged_local_state_is_restored_from_the_changelog(tallies: Tallies) -> None:
    worker = tallies.worker()
    await tallies.load(500)
    await tallies.lines()
    await asyncio.to_thread(worker.kill)
    for path in (tallies.home / "w0" / "state").rglob("MANIFEST-*"):
        path.write_bytes(b"not a manifest")
    again = await asyncio.to_thread(tallies.worker, "w0")
    assert sum(n for _, n in opened(again)[PARTITIONS:]) > 0
    await tallies.load(100)
    await tallies.assert_exact()


async def test_a_rewind_of_the_group_and_a_resend_of_the_bytes_change_nothing_applied(tallies: Tallies) -> None:
    """A rewind (group offsets reset) does nothing: the offsets that count are in the state."""
    worker = tallies.worker()
    await tallies.load(500)
    before = await tallies.lines()
    await asyncio.to_thread(worker.stop, 20)
    admin = AIOKafkaAdminClient(bootstrap_servers=tallies.bootstrap)
    await admin.start()
    committed = await admin.list_consumer_group_offsets(tallies.prefix)
    await admin.close()
    assert sum(meta.offset for tp, meta in committed.items() if tp.topic == tallies.names.commands) == 500
    await _rewind(tallies, list(committed))
    tallies.worker("w0")
    await tallies.load(1)
    after = await tallies.lines()
    assert len(after) - len(before) <= 2
    await tallies.assert_exact()


async def _rewind(tallies: Tallies, partitions: list[Any]) -> None:
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        bootstrap_servers=tallies.bootstrap, group_id=tallies.prefix, enable_auto_commit=False, auto_offset_reset="none"
    )
    await consumer.start()
    consumer.assign(partitions)
    await consumer.commit(dict.fromkeys(partitions, 0))
    await consumer.stop()


async def test_the_clock_fires_deadlines_when_nothing_else_moves(tallies: Tallies) -> None:
    tallies.worker()
    producer = AIOKafkaProducer(bootstrap_servers=tallies.bootstrap)
    await producer.start()
    sent = await producer.send_and_wait(tallies.names.commands, b"d1 later 700", key=b"k1")
    await producer.stop()

    async def fired() -> list[Any]:
        lines = lines_of(await read_topic(tallies.bootstrap, tallies.names.journal))
        return [line for line in lines if line[0] == "deadline"]

    async with asyncio.timeout(15):
        while not (found := await fired()):  # noqa: ASYNC110 - the topic is read again
            await asyncio.sleep(0.1)
    assert found[0][1] == "d1"
    assert 700 <= found[0][4] - sent.timestamp < 5_000


async def test_poison_does_not_hold_up_its_neighbours(tallies: Tallies) -> None:
    tallies.worker()
    producer = AIOKafkaProducer(bootstrap_servers=tallies.bootstrap)
    await producer.start()
    for value in (b"", b"\xff\xfe", b"x" * 900_000, b"1 divide 0", None):
        await producer.send_and_wait(tallies.names.commands, value, key=b"k1", partition=0)
    await producer.stop()
    await tallies.load(100)

    async with asyncio.timeout(30):
        while True:
            journal = lines_of(await read_topic(tallies.bootstrap, tallies.names.journal))
            if sum(line[0] == "dead" for line in journal) == 5 and len(journal) >= 100 + 34 + 5:
                break
            await asyncio.sleep(0.1)
    letters = (await read_topic(tallies.bootstrap, f"{tallies.prefix}-dead-letters"))[0]
    assert [letter.value for letter in letters] == [b"", b"\xff\xfe", b"x" * 900_000, b"1 divide 0", None]
    assert {dict(letter.headers)["aura-reason"] for letter in letters} == {b"unknown"}


def test_faust_statistics_are_served_on_loopback_and_nothing_else(tallies: Tallies) -> None:
    tallies.worker()
    status, body = get(tallies.web_port, "/")
    assert status == 200
    assert "Sensor0" in json.loads(body)
    for path in ("/table/", "/router/", "/graph/"):
        assert get(tallies.web_port, path)[0] == 404, path
    listening = Path("/proc/net/tcp").read_text().split("\n")
    mine = [line.split()[1] for line in listening[1:] if line and line.split()[3] == "0A"]
    assert [address for address in mine if address.endswith(f":{tallies.web_port:04X}")] == [
        f"0100007F:{tallies.web_port:04X}"
    ]
