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
    review: bytes | None = None  # a pause was lifted: from where what is set aside is to be looked at; None: it was


class BankJob(msgspec.Struct, frozen=True, array_like=True):
    """A job; key: `<bank>/` and our reference. `until` is when the call under way is given up, 0 = there is none."""

    job: Job
    calls: int = 0
    until: int = 0
    is_inquiry: bool = False  # the call under way
    is_paused: bool = False  # set aside until a pause is lifted


class Due(msgspec.Struct, frozen=True, array_like=True):
    """Something is due; key: `<bank>/`, `c` (a call to be given up), `w` (waits), `p` (waits, a pause holds it back)
    or `e` (came early), the time (8 bytes), our reference; of what came early also `/` and the bank's id of it."""


BANK_LANES = Table("bank_lanes", BankLane, prefix=b"B")
BANK_JOBS = Table("bank_jobs", BankJob, prefix=b"J")
BANK_DUE = Table("bank_due", Due, prefix=b"D")


class ShortReference(msgspec.Struct, frozen=True, array_like=True):
    """Our reference; key: `<bank>/` and the 15 characters by which NACHA knows it."""

    reference: str


BANK_SHORT = Table("bank_short", ShortReference, prefix=b"S")


class Early(msgspec.Struct, frozen=True, array_like=True):
    """Money that bears a reference as ours are, and that the ledger has not spoken of yet; key: `<bank>/`, the
    reference, `/` and the bank's id of the news. `event` is the bank's own."""

    event: bytes
    is_unmatched: bool = False  # it was waited for in vain, and lies in suspense


BANK_EARLY = Table("bank_early", Early, prefix=b"E")


def early_key(bank: str, reference: str, fact_id: str) -> bytes:
    """The key of money that came early."""
    return f"{bank}/{reference}/{fact_id}".encode()


def job_key(bank: str, reference: str) -> bytes:
    """The key of a job, or of a short reference."""
    return f"{bank}/{reference}".encode()


def due_prefix(bank: str, kind: str) -> bytes:
    """What the keys of a lane's due jobs of a kind begin with."""
    return f"{bank}/{kind}".encode()


def due_key(bank: str, kind: str, at: int, reference: str) -> bytes:
    """The key of a due job."""
    return due_prefix(bank, kind) + at.to_bytes(8, "big") + reference.encode()
