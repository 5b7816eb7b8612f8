"""What the bank's lanes know: each lane, its jobs by reference, when each is due, and whose a bank's reference is."""

from __future__ import annotations

import msgspec

from aura_stream.domain.lanes.bank import Job, Lane
from aura_stream.engine.table import Table


class BankLane(msgspec.Struct, frozen=True, array_like=True):
    """A lane; key: its bank's name. Times are ms."""

    lane: Lane
    look_at: int = 0  # when the lane's deadline is set for
    polled: int = 0  # number of the last event that was listed
    poll_at: int = 0  # when events are listed next
    failed_polls: int = 0  # in a row
    statement_at: int = 0  # when the minters were last told that the bank's books were read


class BankJob(msgspec.Struct, frozen=True, array_like=True):
    """A job; key: `<bank>/` and our reference. `until` is when the call under way is given up, 0 = there is none."""

    job: Job
    calls: int = 0
    until: int = 0
    is_inquiry: bool = False  # the call under way


class Due(msgspec.Struct, frozen=True, array_like=True):
    """A job is due; key: `<bank>/`, `c` (a call to be given up) or `w` (waits), the time (8 bytes), our reference."""


BANK_LANES = Table("bank_lanes", BankLane, prefix=b"B")
BANK_JOBS = Table("bank_jobs", BankJob, prefix=b"J")
BANK_DUE = Table("bank_due", Due, prefix=b"D")


class ShortReference(msgspec.Struct, frozen=True, array_like=True):
    """Our reference; key: `<bank>/` and the 15 characters by which NACHA knows it."""

    reference: str


BANK_SHORT = Table("bank_short", ShortReference, prefix=b"S")


def job_key(bank: str, reference: str) -> bytes:
    """The key of a job, or of a short reference."""
    return f"{bank}/{reference}".encode()


def due_prefix(bank: str, kind: str) -> bytes:
    """What the keys of a lane's due jobs of a kind begin with."""
    return f"{bank}/{kind}".encode()


def due_key(bank: str, kind: str, at: int, reference: str) -> bytes:
    """The key of a due job."""
    return due_prefix(bank, kind) + at.to_bytes(8, "big") + reference.encode()
