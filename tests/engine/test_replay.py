"""A replay of the recorded inputs leads to the same bytes; another behaviour is found out at the first difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aura_stream.engine.kafka import RealKafka
from aura_stream.engine.replay import Replay, ReplayDiffers
from aura_stream.engine.topics import apply_topics
from aura_stream.engine.unit import Record, Unit
from tests.engine.check import read_topic
from tests.engine.tally import TallyActor, declared
from tests.engine.test_worker import PARTITIONS, Tallies


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
    log = RealKafka(kafka.bootstrap)
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
            assert again == [(record.offset, record.value) for record in recorded[partition]]
            units += replay.units
        assert units > PARTITIONS

        with pytest.raises(ReplayDiffers, match=r"seq \d+: at byte"):
            for partition in range(PARTITIONS):
                replay = Replay(partition, log, tallies.names, PARTITIONS, lambda rules: Generous())
                [pair async for pair in replay.run()]
    finally:
        tallies.stop()
        await log.stop()
