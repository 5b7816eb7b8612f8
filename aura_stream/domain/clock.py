"""The clock of a sandbox: days pass in a call. In live mode it is the machines', and nothing moves it.

    clock.advance ──▶ moving ──every partition and lane has it──▶ moved

Time is a record's own stamp plus how far the clock was moved in all. That sum is told, never the step: the largest one
holds, so that a repeat or another order changes nothing, and time only goes forward.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aura_stream.domain.reasons import Refused

FURTHEST_MS: Final = 100 * 366 * 86_400_000
"""How far ahead the clock may be in all: every time that follows from it can be stored and written down."""


class Moving(msgspec.Struct, frozen=True, array_like=True):
    """The last move that began in a partition. `missing` counts who has not answered yet."""

    moved_ms: int
    missing: int
    tenant: str  # of its command
    customer: str
    by: str


def advanced(mode: str, moved_ms: int, advance_s: int) -> int:
    """How far the clock is moved in all after a `clock.advance`. Raises :class:`Refused`."""
    if mode != "sandbox":
        raise Refused("sandbox_only", f"the ledger runs in {mode} mode, and its clock is the machines'")
    moved_ms += advance_s * 1000
    if moved_ms > FURTHEST_MS:
        raise Refused("clock_too_far", f"{moved_ms // 86_400_000} days; at most {FURTHEST_MS // 86_400_000}")
    return moved_ms


def taken(moving: Moving | None, moved_ms: int) -> Moving | None:
    """After somebody's answer; None where it is about a move that a later one of this partition has overtaken."""
    if moving is None or moving.moved_ms != moved_ms or moving.missing <= 0:
        return None
    return msgspec.structs.replace(moving, missing=moving.missing - 1)
