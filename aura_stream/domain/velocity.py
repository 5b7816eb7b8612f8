"""Limits per day on what a customer sends away: many small payments trip them where each alone is under every limit.

Counted are transfers to others, holds and withdrawals that were taken, per tenant, customer and asset, whichever of the
customer's accounts they leave, and per day of UTC. What is canceled or comes back later stays counted. A payment to
oneself is not counted, nor what uses again what came back (a retry, a re-mint). Without a limit nothing is counted.

Invariant
    V1  what was taken on one day is never more than the limit, in number and in sum
"""

from __future__ import annotations

from typing import Final

import msgspec

from aura_stream.domain.assets import format_amount
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Submission
from aura_stream.domain.state import DayLimit, SettlementRules

_DAY_MS: Final = 24 * 60 * 60 * 1000


class Sent(msgspec.Struct, frozen=True, array_like=True):
    """What a customer has sent of an asset on the last day on which it sent any; key: `<tenant>/<customer>/<asset>`."""

    day: int  # since 1970
    count: int
    amount: int  # minor units


def limit_of(rules: SettlementRules, asked: Submission) -> DayLimit | None:
    """The limit that a submission falls under."""
    limits = rules.day_limits.get(asked.tenant)
    if limits is None or not asked.from_account:
        return None
    if asked.type == "transfer" and asked.to_customer == asked.customer:
        return None
    return limits.get(asked.asset)


def counted(limit: DayLimit, before: Sent | None, asked: Submission, at: int) -> Sent:
    """The day's count with this submission. Raises :class:`Refused` when it would be above the limit."""
    day = at // _DAY_MS
    count, amount = (before.count, before.amount) if before is not None and before.day == day else (0, 0)
    if limit.count and count >= limit.count:
        raise Refused("velocity_exceeded", f"{count} payments of {asked.asset} today, as many as the tenant allows")
    if limit.amount and amount + asked.amount > limit.amount:
        sent, most = format_amount(amount, asked.asset), format_amount(limit.amount, asked.asset)
        raise Refused("daily_limit_exceeded", f"{sent} of {most} {asked.asset} are sent today")
    return Sent(day, count + 1, amount + asked.amount)
