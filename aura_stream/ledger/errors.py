"""What can go wrong between the sink and Postgres.

LedgerError
├── Diverged        Postgres and the shard differ: the partition stops loudly, a person must look (rule 22)
├── Fenced          another sink has claimed the partition, or this batch is not the next one: claim again
├── Unavailable     no answer, or nobody knows how the commit ended: claim again and read the position
└── NotMigrated     the schema is missing or does not fit this program
"""

from __future__ import annotations


class LedgerError(Exception):
    """Something went wrong between this program and the ledger database."""


class Diverged(LedgerError):
    """The journal says something that the ledger cannot hold: a number twice, a gap, a sum that is not zero.

    `partition` and `seq` name the journal record (the first of the batch when the database names no row),
    `constraint` what was violated. Never skipped and never repaired by a program.
    """

    def __init__(self, partition: int, seq: int, constraint: str, detail: str) -> None:
        super().__init__(f"partition {partition}, journal seq {seq}: {constraint}: {detail}")
        self.partition, self.seq, self.constraint, self.detail = partition, seq, constraint, detail


class Fenced(LedgerError):
    """The batch did not meet the position it was made for: another owner, or a repeat. Nothing was written."""


class Unavailable(LedgerError):
    """The database did not answer. What was under way may be committed or not; only a new claim tells."""


class NotMigrated(LedgerError):
    """The database's schema is not the one of this program."""
