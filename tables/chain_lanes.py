"""What the minters' lanes know: each lane, its jobs by reference, which wait or are on the chain, its addresses."""

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
    final: int = 0  # the highest final block that was seen
    forwarder: str = ""  # the contract behind its deposit addresses, once that is final
    deploying: str = ""  # reference of the job that puts it there
    scanned: int = 0  # the last block whose transfers were read; 0 = no address was given yet


class OpenSend(msgspec.Struct, frozen=True, array_like=True):
    """A broadcast that was started at a time."""

    number: int
    hash: str
    at: int


class ChainJob(msgspec.Struct, frozen=True, array_like=True):
    """A job; key: `<chain>:<token>/` and its reference. `raw` are its latest signed bytes, in hexadecimal digits."""

    job: Job
    number: int  # of its arrival
    raw: str = ""
    since: int = 0  # a block before it can have happened
    sends: int = 0
    open: tuple[OpenSend, ...] = ()  # attempts that were started and whose end nobody has told


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """A job; key: `<chain>:<token>/`, `m` (a mint without a nonce yet), `q` (another without) or `s` (signed, not
    final), number or nonce, reference."""


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Whose an address is."""

    tenant: str
    account: str
    waiting: int = 0  # minor units that have come there, and are too few to be swept


CHAIN_LANES = Table("chain_lanes", ChainLane, prefix=b"C")
CHAIN_JOBS = Table("chain_jobs", ChainJob, prefix=b"M")
CHAIN_WAITING = Table("chain_waiting", Waiting, prefix=b"W")
CHAIN_ADDRESSES = Table("chain_addresses", Owner, prefix=b"A")
"""Deposit addresses; key: `<chain>:<token>/<address>`."""
CHAIN_WANTED = Table("chain_wanted", Owner, prefix=b"X")
"""Who waits for an address until the contract behind it is there; key: `<chain>:<token>/<tenant>/<account>`."""


def job_key(lane: str, reference: str) -> bytes:
    """The key of a job."""
    return f"{lane}/{reference}".encode()


def waiting_prefix(lane: str, kind: str) -> bytes:
    """What the keys of a lane's waiting jobs of a kind begin with."""
    return f"{lane}/{kind}".encode()


def waiting_key(lane: str, kind: str, number: int, reference: str) -> bytes:
    """The key of a waiting job."""
    return waiting_prefix(lane, kind) + number.to_bytes(8, "big") + reference.encode()


def address_key(lane: str, address: str) -> bytes:
    """The key of a deposit address."""
    return f"{lane}/{address}".encode()


def wanted_key(lane: str, tenant: str, account: str) -> bytes:
    """The key of an address that is wanted."""
    return f"{lane}/{tenant}/{account}".encode()
