"""Tenants that came while the ledger ran; those of the settings are known from the start, and in no table.

    tenant.open ──▶ opening ──every partition knows it──▶ open

A partition refuses commands of a tenant that it does not know. So the partition of the command tells all of them and
counts their answers: once the tenant is open no partition can be surprised by it. A tenant is never closed here;
who may send commands for it is decided at the doors.
"""

from __future__ import annotations

from typing import Final

import msgspec

TOLD: Final = -1
"""`missing` where another partition has told of the tenant."""


class KnownTenant(msgspec.Struct, frozen=True, array_like=True):
    """A tenant that a partition takes commands of. `missing`: how many have not answered this partition yet."""

    at: int  # ms since 1970
    missing: int = TOLD


def asked(known: KnownTenant | None, at: int, partitions: int) -> tuple[KnownTenant, bool]:
    """After a `tenant.open`, and whether all partitions must be told."""
    if known is None or known.missing == TOLD:
        return KnownTenant(known.at if known is not None else at, partitions), True
    return known, False


def told(known: KnownTenant | None, at: int) -> KnownTenant:
    """After another partition, or this one, has told of the tenant."""
    return known or KnownTenant(at)


def answered(known: KnownTenant) -> KnownTenant:
    """After a partition has said that it knows the tenant."""
    return KnownTenant(known.at, known.missing - 1) if known.missing > 0 else known


def status(known: KnownTenant) -> str:
    """`opening` or `open`, where it was asked for."""
    return "opening" if known.missing > 0 else "open"
