"""What the chain's lanes decided: one message per unit of work, with the attempts that were made outside."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

CHAIN_JOURNAL = Topic(
    "aura.chain-journal.v1",
    key="number of the partition",
    value="one unit of work, JSON",
    schema="lane-journal.json",
    config=KEEP | {"max.message.bytes": str(2 * 1024 * 1024)},
)
