"""What the ledger's own code costs per transfer: CPU time of one process, without Kafka, so that it can be told on a
machine that others use.

    python -m aura_stream.bench.compute                       # of this code
    python -m aura_stream.bench.compute --beside ../main      # and of another checkout, in turns: the ratio
    python -m aura_stream.bench.compute --profile             # which functions, and how many calls

It is what a shard does between two requests to Kafka, with the shard's own code and a real store: fetched bytes become
records, records a unit of work, the unit messages, the messages batches of bytes, and its changes are written to
RocksDB. What Faust, aiokafka and the kernel do per request is not in it. The digest is over everything that was
written: two checkouts with the same digest did the same.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import hashlib
import json
import os
import pstats
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import aiokafka.consumer.fetcher as fetcher
from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from agents.ledger import Ledger
from agents.worker import NAMES, encode_rules
from aura_stream.bench.loads import BETWEEN, ONE_HOP, Command, by_partition, openings, transfers
from aura_stream.domain.state import Rules
from aura_stream.engine import transport  # noqa: F401 - what it does to the fetcher is part of what is measured
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.producer import TransactionalProducer
from aura_stream.engine.shard import Shard
from aura_stream.engine.store import RocksStores
from aura_stream.engine.unit import Memory

PARTITIONS = 4
RECORDS_PER_FETCH = 500
RECORDS_PER_UNIT = 1_000
NOW_MS = 1_795_168_800_000
STAGES = ("fetch", "decide", "finish", "build", "store")


class Machine:
    """The shards of a small cluster in one process, and the clock that runs only inside a stage."""

    def __init__(self, folder: Path) -> None:
        rules = Rules(("default",), "sandbox")
        encoded, rules_hash = encode_rules(rules)
        stores = RocksStores(folder)
        self.stores = [stores.open(str(number)) for number in range(PARTITIONS)]
        self.shards = [
            Memory(
                number,
                actor=Ledger(rules),
                names=NAMES,
                store=self.stores[number],
                partitioner=Partitioner(PARTITIONS),
                rules=encoded,
                rules_hash=rules_hash,
            )
            for number in range(PARTITIONS)
        ]
        self.producer = TransactionalProducer("localhost:1", "nobody")
        self.waiting: dict[int, list[bytes]] = defaultdict(list)  # fetched bytes by partition, topic in front
        self.topics: dict[int, list[str]] = defaultdict(list)
        self.ends: dict[tuple[str, int], int] = defaultdict(int)
        self.digest = hashlib.blake2b(digest_size=8)
        self.cpu = dict.fromkeys(STAGES, 0.0)
        self.profile: cProfile.Profile | None = None

    def fill(self, rows: int) -> None:
        """Transactions of others, so that looking for a new one costs what it does in a store that is in use."""
        pick = random.Random("fill")
        for store in self.stores:
            for _ in range(rows // 5_000):
                store.write([(b"t" + pick.randbytes(16), pick.randbytes(90).hex().encode()) for _ in range(5_000)])

    def write(self, topic: str, partition: int, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Puts records where the shard of a partition fetches, as a broker hands them out."""
        kept = list(records)
        for at in range(0, len(kept), RECORDS_PER_FETCH):
            builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 64 << 20)
            piece = kept[at : at + RECORDS_PER_FETCH]
            for number, (key, value) in enumerate(piece):
                builder.append(number, timestamp=NOW_MS, key=key, value=value, headers=[])
            place = (topic, partition)
            self.waiting[partition].append(self.ends[place].to_bytes(8, "big") + bytes(builder.build()[8:]))
            self.topics[partition].append(topic)
            self.ends[place] += len(piece)

    def run(self) -> None:
        """Until nothing moves."""
        while any(self.waiting.values()):
            for shard in self.shards:
                if self.waiting[shard.partition]:
                    self._unit(shard)

    def _fetched(self, partition: int) -> Iterator[Any]:
        while self.waiting[partition]:
            value, place = self.waiting[partition].pop(0), TopicPartition(self.topics[partition].pop(0), partition)
            start = int.from_bytes(value[:8], "big")
            found = fetcher.PartitionRecords(place, MemoryRecords(value), [], start, None, None, True, 1)
            yield [*found]

    def _unit(self, shard: Memory) -> None:
        times = [time.process_time()]
        if self.profile is not None:
            self.profile.enable()
        batch: list[Any] = []
        for records in self._fetched(shard.partition):
            batch.extend(records)
            if len(batch) >= RECORDS_PER_UNIT:
                break
        times.append(time.process_time())
        unit, taken = shard.run(batch)
        times.append(time.process_time())
        finished = unit.finish()
        times.append(time.process_time())
        like: Any = SimpleNamespace(number=shard.partition, setup=SimpleNamespace(names=NAMES, called={}))
        built = self.producer.build(Shard._messages(like, finished))
        buffers = [builder._build() for _, _, builder, _ in built]
        times.append(time.process_time())
        shard.adopt(finished)
        times.append(time.process_time())
        if self.profile is not None:
            self.profile.disable()
        for stage, before, after in zip(STAGES, times, times[1:], strict=False):
            self.cpu[stage] += after - before
        if taken != len(batch) or unit.dead:
            raise AssertionError(f"{len(batch) - taken} records were left, {unit.dead} became dead letters")
        by_place = sorted(zip(built, buffers, strict=True), key=lambda one: one[0][:2])
        for (topic, partition, _, _), buffer in by_place:
            records = self._read(topic, partition, bytes(buffer))
            if topic == NAMES.signals:
                self.write(topic, partition, [(record.key, record.value) for record in records])

    def _read(self, topic: str, partition: int, buffer: bytes) -> list[Any]:
        place = TopicPartition(topic, partition)
        found = list(fetcher.PartitionRecords(place, MemoryRecords(buffer), [], 0, None, None, True, 1))
        for one in found:
            self.digest.update(repr((topic, partition, one.key, one.value, tuple(one.headers))).encode())
        return found


def measure(load: str, count: int, rounds: int, filled: int, *, profile: bool = False) -> dict[str, Any]:
    """Microseconds of CPU per transfer of each round by stage, and the digest of all that was written."""

    async def one() -> dict[str, Any]:
        found: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            machine = Machine(Path(folder))
            machine.fill(filled)
            _write(machine, openings(0))
            machine.run()
            gc.collect()  # as a worker does
            gc.freeze()
            gc.set_threshold(100_000, 50, 100)
            if profile:
                machine.profile = cProfile.Profile(builtins=True)
            for number in range(1, rounds + 1):
                machine.cpu = dict.fromkeys(STAGES, 0.0)
                _write(machine, transfers(load, number, count))
                machine.run()
                found.append({stage: cpu_s / count * 1e6 for stage, cpu_s in machine.cpu.items()})
                found[-1]["total"] = sum(found[-1].values())
            if machine.profile is not None:
                _show(machine.profile, count * rounds)
        return {"rounds": found, "digest": machine.digest.hexdigest()}

    return asyncio.run(one())


def _write(machine: Machine, commands: Iterator[Command]) -> None:
    for partition, records in by_partition(commands, PARTITIONS).items():
        machine.write(NAMES.commands, partition, records)


def _show(profile: cProfile.Profile, count: int) -> None:
    stats: Any = pstats.Stats(profile)
    rows = sorted(stats.stats.items(), key=lambda row: -row[1][2])
    calls = sum(row[1] for _, row in rows)
    print(f"{calls / count:.0f} calls per transfer; with the profiler on, in us per transfer:")
    for (file, line, name), (_, number, own, whole, _) in rows[:70]:
        where = f"{'/'.join(Path(file).parts[-2:])}:{line} {name}" if line else name
        print(f"{own / count * 1e6:7.2f} own {whole / count * 1e6:7.2f} with {number / count:6.2f} x  {where}")


def _elsewhere(checkout: Path, load: str, count: int, rounds: int, filled: int) -> dict[str, Any]:
    program = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    found = subprocess.run(
        [
            *(sys.executable, "-c", program, str(Path(__file__).resolve()), "--json"),
            *("--load", load, "--transfers", str(count), "--rounds", str(rounds), "--filled", str(filled)),
        ],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
        capture_output=True,
        text=True,
    )
    said: dict[str, Any] = json.loads(found.stdout)
    return said


def main() -> None:
    """Measures as the arguments say and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--load", choices=[ONE_HOP, BETWEEN], action="append")
    parser.add_argument("--transfers", type=int, default=4_000, help="in one round")
    parser.add_argument("--rounds", type=int, default=6, help="of one process")
    parser.add_argument("--filled", type=int, default=50_000, help="rows that each store holds before")
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--turns", type=int, default=3, help="how many processes of each checkout, in turns")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for load in given.load or [ONE_HOP, BETWEEN]:
        size = (given.transfers, given.rounds, given.filled)
        if given.json or given.profile:
            found = measure(load, *size, profile=given.profile)
            if given.json:
                print(json.dumps(found))
            continue
        here = Path(__file__).resolve().parents[2]
        checkouts = [here] if given.beside is None else [given.beside.resolve(), here]
        runs: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
        digests = set()
        for number in range(given.turns):
            for checkout in checkouts if number % 2 else checkouts[::-1]:
                said = _elsewhere(checkout, load, *size)
                runs[checkout].extend(said["rounds"])
                digests.add(said["digest"])
        print(f"{load}: us of CPU per transfer; the best of {given.rounds * given.turns} rounds, and the median")
        for checkout, rounds in runs.items():
            row = "  ".join(f"{stage} {min(one[stage] for one in rounds):6.2f}" for stage in (*STAGES, "total"))
            print(f"  {row}  median {median(one['total'] for one in rounds):6.2f}  {checkout.name}")
        if given.beside is not None:
            for what in (min, median):
                before, after = (what(one["total"] for one in rounds) for rounds in runs.values())
                print(f"  {after / before:.3f} of {checkouts[0].name} ({what.__name__})")
        print(f"  {'the same' if len(digests) == 1 else 'NOT THE SAME'} was written: {', '.join(digests)}")


if __name__ == "__main__":
    main()
