"""What every unit of work did, in order: inputs, answers, transactions, journals. Postgres is made of it."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

JOURNAL = Topic(
    "aura.journal.v1",
    key="number of the partition",
    value="one unit of work, JSON",
    schema="journal.json",
    config=KEEP | {"max.message.bytes": str(2 * 1024 * 1024)},
)
