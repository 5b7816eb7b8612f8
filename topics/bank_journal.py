"""What the bank's lanes decided: one message per unit of work, with the attempts that were made outside."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

BANK_JOURNAL = Topic(
    "aura.bank-journal.v1",
    key="number of the partition",
    value="one unit of work, JSON",
    schema="lane-journal.json",
    config=KEEP | {"max.message.bytes": str(2 * 1024 * 1024)},
)
