"""Pauses: what may not be started for now. Facts are booked all the same, and what was sent runs to its end.

    pause.set ──▶ set ──every partition and lane has it──▶ applied
                   │                                          │
                   └────────────────pause.lift────────────────┴──▶ lifted ──every one has it──▶ cleared

A pause has a scope: each field that is given must agree, one without any field holds everything. In its scope new work
is refused (`paused`: no transaction, no key burnt) and a state that would start a debit, a payout, a mint or a burn
parks: `parked_by` names the pause, its deadline stands still. Lifting drains what parked, in order, some at a time.

Invariants
    P1  nothing starts in the scope of a pause once the partition has it
    P2  the time that a pause stood is no part of any deadline in its scope
    P3  a pause acts at once; only lifting one may need a second person
"""

from __future__ import annotations

from typing import Final

import msgspec

KEPT_MS: Final = 40 * 24 * 60 * 60 * 1000
"""How long a lifted pause is remembered: longer than any deadline that it may have stopped."""

DRAINED_AT_ONCE: Final = 100
"""How many parked transactions one step of draining lets go on."""


class Scope(msgspec.Struct, frozen=True, array_like=True):
    """What a pause is about, or what a piece of work is: of work every field is known that applies to it."""

    tenant: str = ""
    type: str = ""  # deposit | withdrawal | transfer | hold
    rail: str = ""
    bank: str = ""
    chain: str = ""
    assets: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()


class Pause(msgspec.Struct, frozen=True, array_like=True):
    """A pause as every partition and lane knows it. Times are ms since 1970; `lifted_at` 0 = in force."""

    id: str
    scope: Scope
    at: int
    by: str  # the operator
    note: str = ""
    lifted_at: int = 0


class Pauses(msgspec.Struct, frozen=True, array_like=True):
    """All pauses of a partition, oldest first; the one row of its table."""

    pauses: tuple[Pause, ...] = ()


class Rollout(msgspec.Struct, frozen=True, array_like=True):
    """How far a pause has come, in the partition of its command. `missing` counts who has not answered yet."""

    id: str
    tenant: str
    customer: str
    by: str
    state: str  # set | applied | lifted | cleared
    missing: int


def covers(pause: Scope, work: Scope) -> bool:
    """Whether the work lies in the scope of a pause."""
    return (
        pause.tenant in ("", work.tenant)
        and pause.type in ("", work.type)
        and pause.rail in ("", work.rail)
        and pause.bank in ("", work.bank)
        and pause.chain in ("", work.chain)
        and (not pause.assets or any(asset in work.assets for asset in pause.assets))
        and (not pause.accounts or any(account in work.accounts for account in pause.accounts))
    )


def in_force(pauses: tuple[Pause, ...], work: Scope) -> Pause | None:
    """The pause that holds the work back, the oldest if there are several."""
    for pause in pauses:
        if not pause.lifted_at and covers(pause.scope, work):
            return pause
    return None


def stood_ms(pauses: tuple[Pause, ...], work: Scope, since: int, until: int) -> int:
    """How long in `[since, until)` a pause held the work back. Overlapping pauses count once."""
    spans = sorted(
        (max(pause.at, since), min(pause.lifted_at or until, until)) for pause in pauses if covers(pause.scope, work)
    )
    total, end = 0, since
    for start, stop in spans:
        start = max(start, end)
        if stop > start:
            total += stop - start
            end = stop
    return total


def with_pause(pauses: tuple[Pause, ...], pause: Pause) -> tuple[Pause, ...]:
    """The pauses after one was set, without those that were lifted so long ago that no deadline can need them."""
    kept = tuple(one for one in pauses if one.id != pause.id and not 0 < one.lifted_at < pause.at - KEPT_MS)
    return (*kept, pause)


def lifted(pauses: tuple[Pause, ...], pause_id: str, at: int) -> tuple[Pause, ...]:
    """The pauses after one was lifted."""
    return tuple(
        msgspec.structs.replace(one, lifted_at=at) if one.id == pause_id and not one.lifted_at else one
        for one in pauses
    )
