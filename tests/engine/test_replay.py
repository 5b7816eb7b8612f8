"""A replay of the recorded inputs leads to the same bytes; another behaviour is found out at the first difference."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from aura_stream.engine.kafka import RealKafka
from aura_stream.engine.replay import Replay, ReplayDiffers, compare_signals
from aura_stream.engine.topics import apply_topics
from aura_stream.engine.unit import Record, Unit
from tests.engine.check import read_topic
from tests.engine.tally import TallyActor, declared, names
from tests.engine.test_worker import PARTITIONS, Tallies


class Log(RealKafka):
    """It counts who reads."""

    readers = 0

    async def read(self, partition: TopicPartition, start: int, end: int) -> AsyncGenerator[list[Record], None]:
        self.readers += 1
        try:
            async for records in super().read(partition, start, end):
                yield records
        finally:
            self.readers -= 1


class Generous(TallyActor):
    """Decides otherwise, but only now and then."""

    def command(self, unit: Unit, record: Record) -> None:
        if record.offset == 17:
            self._add(unit, "add", "17", record.key or b"", 1_000)
        else:
            super().command(unit, record)


async def test_a_replay_of_the_inputs_gives_the_same_journal_byte_for_byte(
    kafka: Any, unique: str, tmp_path: Path
) -> None:
    await apply_topics(kafka.bootstrap, declared(unique), partitions=PARTITIONS, replication=1)
    tallies = Tallies(kafka.bootstrap, unique, tmp_path)
    log = Log(kafka.bootstrap)
    await log.start()
    try:
        worker = tallies.worker()
        for _ in range(5):
            await tallies.load(200)  # several units, which interleave commands and signals by chance
        await tallies.lines()
        worker.stop(20)

        recorded = await read_topic(kafka.bootstrap, tallies.names.journal)
        units = 0
        for partition in range(PARTITIONS):
            replay = Replay(partition, log, tallies.names, PARTITIONS, lambda rules: TallyActor())
            again = [pair async for pair in replay.run()]
            assert log.readers == 0, "a connection is left open"
            assert again == [(record.offset, record.value) for record in recorded[partition]]
            units += replay.units
        assert units > PARTITIONS

        with pytest.raises(ReplayDiffers, match=r"seq \d+: at byte"):
            for partition in range(PARTITIONS):
                replay = Replay(partition, log, tallies.names, PARTITIONS, lambda rules: Generous())
                [pair async for pair in replay.run()]
        assert log.readers == 0
    finally:
        tallies.stop()
        await log.stop()


def test_signals_that_arrived_are_those_that_were_sent_whatever_went_on_meanwhile() -> None:
    log = RealKafka("nobody:9092")  # never asked: what was read is given here
    sender, receiver = (Replay(number, log, names("t"), 2, lambda rules: TallyActor()) for number in (0, 1))
    sender.sent = {(0, 1, 1): b"one", (0, 1, 2): b"two", (0, 1, 3): b"under way"}
    receiver.got = {(0, 1, 1): b"one", (0, 1, 2): b"two"}
    assert compare_signals([sender, receiver]) == 3

    receiver.got[0, 1, 4] = b"sent behind the end of the sender's replay"
    assert compare_signals([sender, receiver], went_on={0}) == 3
    for went_on in ((), {1}):
        with pytest.raises(ReplayDiffers, match="signal 4 from partition 0 to 1"):
            compare_signals([sender, receiver], went_on)

    receiver.got[0, 1, 2] = b"forged"
    with pytest.raises(ReplayDiffers, match="signal 2 from partition 0 to 1"):
        compare_signals([sender, receiver], went_on={0})
