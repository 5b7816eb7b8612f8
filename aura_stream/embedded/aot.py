"""A head start for the embedded broker: what its JVM has learned in one short run, kept beside the jars.

A JVM that starts reads some ten thousand classes, and then interprets: a broker's start costs 3 to 5 s of CPU, and its
first small transactions ten times what they cost a minute later. Java 25 can keep both in a file, classes as they are
after linking and which methods are hot (JEP 483, 514, 515). Measured on two shared cores, with the file and without:
half the CPU for a start, and two thirds of it for the first quarter of a minute of transactions.

The file is made once per user and machine: `aura up` begins it behind itself, `make test` beside its check, and
`python -m aura_stream.embedded.aot` makes it at once. No start waits for it or needs it: without it, or with one that
the JVM does not take (it looks at the versions and the jars itself), a broker starts as it did before.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from aura_stream import SetupError
from aura_stream.embedded.jars import cache_dir
from aura_stream.embedded.kafka import KafkaServer, aot_file, class_path, java

BEHIND = "--behind"
TOPIC = "training"
PRODUCERS = 8
TOUCHED = 3  # partitions per transaction, about what a unit of work writes to
TRANSACTIONS = 2_000
TRAINING_S = 20.0  # at most
ABANDONED_S = 30 * 24 * 3600.0
START_S = 600.0  # it yields to all others
STOP_S = 120.0  # a JVM that writes such a file does it when it ends


def make() -> Path | None:
    """Makes the file unless it is there; its path, or None while another process makes it. Raises SetupError."""
    path = aot_file(java(), class_path())
    if path.exists():
        return path
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "aot.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not path.exists():
            _train(path)
    return path


def make_behind() -> None:
    """Begins to make the file, unless it is there, in a process that yields to all others and is not waited for."""
    if aot_file(java(), class_path()).exists():
        return
    null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "aura_stream.embedded.aot", BEHIND],
        os.environ,
        file_actions=null,
        setsid=True,
    )


def _train(path: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix=".aot-", dir=cache_dir()))
    try:
        made = home / "made.aot"
        broker = KafkaServer(home / "kafka", tied=True, java_options=(f"-XX:AOTCacheOutput={made}",))
        broker.short_lived = False  # it shall learn with both compilers
        broker.start(START_S)
        try:
            asyncio.run(_work(broker.bootstrap))
        finally:
            in_order = broker.process.stop(STOP_S)
        if not in_order or not made.exists():
            raise SetupError(
                "The file that makes Kafka start quicker could not be made.",
                where=str(path),
                why=broker.process.log_tail() or "the JVM left none",
                fix="none is needed: Kafka starts without it, only slower",
            )
        for old in cache_dir().glob("*.aot"):
            if old.stat().st_mtime < time.time() - ABANDONED_S:
                old.unlink(missing_ok=True)  # of another JVM, or of other settings
        os.replace(made, path)
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _work(bootstrap: str) -> None:
    """What a broker of ours does most: small transactions over some partitions, read by a group once committed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, PRODUCERS * TOUCHED, 1)])
    await admin.close()
    reader = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=bootstrap,
        group_id=TOPIC,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=25,
    )
    producers = [
        AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{TOPIC}-{number}", linger_ms=0)
        for number in range(PRODUCERS)
    ]
    await asyncio.gather(reader.start(), *(producer.start() for producer in producers))
    reading = asyncio.create_task(_read(reader))
    until = time.monotonic() + TRAINING_S
    try:
        await asyncio.gather(*(_commit(producer, number, until) for number, producer in enumerate(producers)))
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await asyncio.gather(reader.stop(), *(producer.stop() for producer in producers))


async def _commit(producer: AIOKafkaProducer, number: int, until: float) -> None:
    for _ in range(TRANSACTIONS // PRODUCERS):
        if time.monotonic() > until:
            return
        async with producer.transaction():
            for partition in range(number * TOUCHED, (number + 1) * TOUCHED):
                await producer.send(TOPIC, b"x" * 500, partition=partition)


async def _read(reader: AIOKafkaConsumer) -> None:
    while True:
        await reader.getmany(timeout_ms=100)
        await reader.commit()


def main() -> None:
    """Makes the file, and says what it did."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it tries again is no news
    if BEHIND in sys.argv:
        os.nice(19)
    began = time.monotonic()
    try:
        path = make()
    except SetupError as error:
        print(error, file=sys.stderr)
        return  # it is a help, not a need
    took = time.monotonic() - began
    if path is None:
        print("Another process makes it just now.", file=sys.stderr)
    elif took > 1:
        print(f"Kafka will start quicker with {path} ({took:.0f} s)", file=sys.stderr)


if __name__ == "__main__":
    main()
