"""What the minters' lanes know: each lane, its jobs by reference, which wait for a nonce and which are on the chain."""

from __future__ import annotations

import msgspec

from aura_stream.domain.lanes.minter import Job, Minter
from aura_stream.engine.table import Table


class ChainLane(msgspec.Struct, frozen=True, array_like=True):
    """A lane; key: `<chain>:<token>`. Times are ms."""

    minter: Minter
    breaker: str = "closed"  # closed | open | half_open
    failures: int = 0  # looks in a row that saw nothing
    look_at: int = 0  # when the lane's deadline is set for
    looking_until: int = 0  # when the look under way is given up; 0 = there is none
    height: int = 0  # the highest block that was seen
    chain: str = ""  # id and first block of the chain that it began with


class ChainJob(msgspec.Struct, frozen=True, array_like=True):
    """A job; key: `<chain>:<token>/` and its reference. `raw` are its latest signed bytes, in hexadecimal digits."""

    job: Job
    number: int  # of its arrival
    raw: str = ""
    since: int = 0  # a block before it can have happened
    sends: int = 0


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """A job; key: `<chain>:<token>/`, `q` (no nonce yet) or `s` (signed, not final), number or nonce, reference."""


CHAIN_LANES = Table("chain_lanes", ChainLane, prefix=b"C")
CHAIN_JOBS = Table("chain_jobs", ChainJob, prefix=b"M")
CHAIN_WAITING = Table("chain_waiting", Waiting, prefix=b"W")


def job_key(lane: str, reference: str) -> bytes:
    """The key of a job."""
    return f"{lane}/{reference}".encode()


def waiting_prefix(lane: str, kind: str) -> bytes:
    """What the keys of a lane's waiting jobs of a kind begin with."""
    return f"{lane}/{kind}".encode()


def waiting_key(lane: str, kind: str, number: int, reference: str) -> bytes:
    """The key of a waiting job."""
    return waiting_prefix(lane, kind) + number.to_bytes(8, "big") + reference.encode()
