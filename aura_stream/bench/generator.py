"""The open loop: commands at a fixed rate, each at its own time, whatever the system under test does.

A process of its own, so that nothing but the machine can slow it down: `python -m aura_stream.bench.generator`. It
reads a :class:`Plan` as one line of JSON, says `ready`, reads the time to start at (ns of the monotonic clock, the same
for all processes of a machine), and ends with a line of JSON about itself.

Command `n` is due at start + n / rate. A latency counts from there, not from when the command was really sent, so a
generator that is held up cannot hide it (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque

import msgspec
import uvloop
from aiokafka import AIOKafkaProducer

import topics
from aura_stream.bench.kafka import BATCH_BYTES, send
from aura_stream.bench.loads import Command, transfers
from aura_stream.engine.partitioner import Partitioner

TICK_S = 0.005
"""What is due within it goes together: the `linger.ms` that Kafka's own producer has by default."""


class Plan(msgspec.Struct, frozen=True):
    """What to send, where, how fast."""

    bootstrap: str
    partitions: int
    load: str
    section: int
    count: int
    rate: float


class Done(msgspec.Struct, frozen=True):
    """What the generator says of itself: how late it handed commands to Kafka's client, and its CPU time."""

    late_ms_max: float
    ended_ms: float
    cpu_s: float


def due_ns(start_ns: int, rate: float, index: int) -> int:
    """When a command is due."""
    return start_ns + int(index * 1e9 / rate)


class Lane:
    """One partition: what is due waits for the answer to what was sent before, and then goes as one batch."""

    def __init__(self, producer: AIOKafkaProducer, partition: int) -> None:
        self.waiting: deque[Command] = deque()
        self.wake = asyncio.Event()
        self.ended = False
        self._producer, self._partition = producer, partition

    async def run(self) -> None:
        """Sends until there is nothing more to come."""
        while True:
            if not self.waiting:
                if self.ended:
                    return
                self.wake.clear()
                await self.wake.wait()
                continue
            batch = list(self.waiting)
            self.waiting.clear()
            for future in await send(self._producer, self._partition, batch):
                await future


async def generate(plan: Plan) -> Done:
    """Sends everything and waits for the last acknowledgement."""
    partition_of = Partitioner(plan.partitions)
    commands = [(partition_of(command[0]), command) for command in transfers(plan.load, plan.section, plan.count)]
    producer = AIOKafkaProducer(bootstrap_servers=plan.bootstrap, acks="all", max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        await producer.partitions_for(topics.COMMANDS.name)
        print("ready", flush=True)
        start_ns = int(await asyncio.to_thread(sys.stdin.readline))
        lanes = [Lane(producer, number) for number in range(plan.partitions)]
        tasks = [asyncio.create_task(lane.run()) for lane in lanes]
        late_ns = sent = 0
        before = os.times()
        while sent < plan.count:
            now = time.monotonic_ns()
            due = min(plan.count, int((now - start_ns) * plan.rate / 1e9) + 1 if now >= start_ns else 0)
            if due > sent:
                late_ns = max(late_ns, now - due_ns(start_ns, plan.rate, sent))
                for partition, command in commands[sent:due]:
                    lane = lanes[partition]
                    lane.waiting.append(command)
                    lane.wake.set()
                sent = due
            await asyncio.sleep(TICK_S)
        for lane in lanes:
            lane.ended = True
            lane.wake.set()
        await asyncio.gather(*tasks)
        after = os.times()
        cpu_s = after.user + after.system - before.user - before.system
        return Done(late_ns / 1e6, (time.monotonic_ns() - start_ns) / 1e6, cpu_s)
    finally:
        await producer.stop()


def main() -> None:
    """Runs one plan."""
    plan = msgspec.json.decode(sys.stdin.readline(), type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(generate(plan))
    print(msgspec.json.encode(done).decode(), flush=True)


if __name__ == "__main__":
    main()
