"""Limits of rates that all API processes share, without a round trip per request (ADR 21).

What was spent of a bucket in its window stands in Postgres. A process takes what its requests need and a twentieth of
what is then left (1000 at most) in advance, a lease, and spends it from memory; so no more than the limit is ever spent
in a window, and at most what the leases hold is left unspent. What is known to be used up is refused without asking.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aura_stream.identity import repository
from aura_stream.identity.database import Database
from aura_stream.identity.sealing import Sealer

_REMEMBERED_MAX: Final = 20_000


class Bucket(NamedTuple):
    """What is limited: `limit` per `window_s` seconds, unless the tenant has its own for requests and commands."""

    kind: str
    """requests | commands (of a user or key) | address | login | login_address | login_known."""
    name: str
    tenant: str
    limit: int
    window_s: int


class Standing(NamedTuple):
    """Where a bucket stands after a request. `remaining` may be more than what other processes have left of it."""

    kind: str
    is_allowed: bool
    limit: int
    window_s: int
    remaining: int
    reset_s: float
    is_first_refusal: bool = False
    """The first request that this process refuses in the window."""


@dataclass(slots=True)
class _Lease:
    held: int = 0
    left_over: int = 0
    """What Postgres had left when it was asked last."""
    limit: int = 0
    window_s: int = 0
    ends_at: float = float("-inf")
    wanted: int = 0
    """What the requests that wait for Postgres need."""
    has_refused: bool = False
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limits:
    """This process' leases."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._leases: dict[tuple[str, str, str], _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    async def spend(self, bucket: Bucket, count: int = 1) -> Standing:
        """Spends `count`, all or nothing. Raises :class:`IdentityUnavailable`: what cannot be counted is not let in."""
        lease = self._lease(bucket)
        if self._is_open(lease, count):
            await self._ask(bucket, lease, count)
        return self._settle(bucket, lease, count)

    def give_back(self, bucket: Bucket, count: int = 1) -> None:
        """Takes back what was spent for something that does not count after all."""
        lease = self._leases.get(bucket[:3])
        if lease is not None and _now() < lease.ends_at:
            lease.held += count

    def _settle(self, bucket: Bucket, lease: _Lease, count: int) -> Standing:
        is_allowed = lease.held >= count
        is_first = False
        if is_allowed:
            lease.held -= count
        else:
            is_first, lease.has_refused = not lease.has_refused, True
        remaining = lease.held + lease.left_over
        reset_s = max(0.0, lease.ends_at - _now())
        return Standing(bucket.kind, is_allowed, lease.limit, lease.window_s, remaining, reset_s, is_first)

    @staticmethod
    def _is_open(lease: _Lease, count: int) -> bool:
        """Whether only Postgres knows. Others never put back, so what was not left then is not left now."""
        return _now() >= lease.ends_at or lease.held < count <= lease.held + lease.left_over

    async def _ask(self, bucket: Bucket, lease: _Lease, count: int) -> None:
        lease.wanted += count
        try:
            async with lease.asking:
                if not self._is_open(lease, count):
                    return
                began = _now()
                held = lease.held if began < lease.ends_at else 0
                wanted = max(lease.wanted - held, 1)
                async with self._database.nobody() as connection:
                    name = self._sealer.pseudonym(f"{bucket.tenant}/{bucket.name}")
                    row = await repository.lease(connection, bucket, f"{bucket.kind}/{name}", wanted, count - held)
                # Another request may have spent or given back meanwhile; a new window knows nothing of the old lease.
                ends_at = began + row["left_s"]
                is_same = lease.ends_at > began and ends_at - lease.ends_at < row["window_s"] / 2
                lease.held = row["granted"] + (lease.held if is_same else 0)
                lease.has_refused = lease.has_refused and is_same
                lease.left_over, lease.limit, lease.window_s = row["left_over"], row["allowed"], row["window_s"]
                # Never later than Postgres' own end, reckoned from before it was asked.
                lease.ends_at = ends_at
        finally:
            lease.wanted -= count

    def _lease(self, bucket: Bucket) -> _Lease:
        lease = self._leases.get(bucket[:3])
        if lease is None:
            if len(self._leases) >= _REMEMBERED_MAX:
                self._forget()
            lease = self._leases[bucket[:3]] = _Lease()
        return lease

    def _forget(self) -> None:
        """Makes room: what has ended goes, and else the oldest half; what it held stays unspent."""
        now = _now()
        self._leases = {key: lease for key, lease in self._leases.items() if lease.ends_at > now or lease.wanted}
        if len(self._leases) >= _REMEMBERED_MAX:
            for key in list(self._leases)[: _REMEMBERED_MAX // 2]:
                if not self._leases[key].wanted:
                    del self._leases[key]


def _now() -> float:
    return asyncio.get_running_loop().time()
