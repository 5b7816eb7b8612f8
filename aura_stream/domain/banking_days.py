"""Days on which the Federal Reserve settles: no weekends, none of its holidays (Regulation J; the Fed's own list).

A holiday that falls on a Sunday is kept on Monday; one on a Saturday is not moved. A day is one of UTC here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

_DAY: Final = timedelta(days=1)
_FIXED: Final = ((1, 1), (6, 19), (7, 4), (11, 11), (12, 25))
# Month, weekday (Monday 0), which of the month (-1 = the last).
_FLOATING: Final = ((1, 0, 3), (2, 0, 3), (5, 0, -1), (9, 0, 1), (10, 0, 2), (11, 3, 4))


def is_banking_day(day: date) -> bool:
    """Whether the Federal Reserve settles on a day."""
    if day.weekday() >= 5:
        return False
    if (day.month, day.day) in _FIXED:
        return False
    before = day - _DAY
    if day.weekday() == 0 and (before.month, before.day) in _FIXED:
        return False
    which = (day.day - 1) // 7 + 1
    is_last = (day + 7 * _DAY).month != day.month
    return not any(
        day.month == month and day.weekday() == weekday and (which == number or (number == -1 and is_last))
        for month, weekday, number in _FLOATING
    )


def banking_days_after(at: int, days: int) -> int:
    """The same time of day, that many banking days later. Times are ms since 1970."""
    moment = datetime.fromtimestamp(at // 1000, UTC)
    left, day = days, moment.date()
    while left > 0:
        day += _DAY
        left -= is_banking_day(day)
    return at + (day - moment.date()).days * 86_400_000
