"""Banking days and hours: when a file leaves, when money settles, how long a return may come. Computed, never fetched.

Sources: Federal Reserve holiday schedule (5 U.S.C. 6103; a Sunday's holiday is observed on Monday, a Saturday's is not
observed), TARGET calendar (ECB: 1 January, Good Friday, Easter Monday, 1 May, 25 and 26 December), FedACH processing
schedule. All times in and out are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

NEW_YORK: Final = ZoneInfo("America/New_York")
FRANKFURT: Final = ZoneInfo("Europe/Berlin")
DAY_MS: Final = 86_400_000

SAME_DAY_WINDOWS: Final = (
    (time(10, 0), time(13, 0)),
    (time(14, 15), time(17, 0)),
    (time(16, 15), time(18, 0)),
)
"""The bank's cut-offs before the Fed's windows (10:30, 14:45, 16:45 ET), and when those settle."""
NEXT_DAY_CUT_OFF: Final = time(17, 30)
ACH_MORNING: Final = time(8, 30)
"""When next-day entries settle and when returns are handed out, ET."""
SEPA_CUT_OFF: Final = time(16, 0)
SEPA_SETTLES: Final = time(17, 0)

IsBankingDay = Callable[[date], bool]


@cache
def easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar (Meeus, Jones and Butcher)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (a + 11 * h) // 319
    r = (2 * e + 2 * i - k - h + m + 32) % 7
    month = (h - m + r + 90) // 25
    return date(year, month, (h - m + r + month + 19) % 32)


def _nth_weekday(year: int, month: int, weekday: int, nth: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))


@cache
def fed_holidays(year: int) -> frozenset[date]:
    """The days of ``year`` on which the Federal Reserve Banks are closed, besides weekends."""
    last_monday_of_may = date(year, 5, 31) - timedelta(days=date(year, 5, 31).weekday())
    fixed = [date(year, 1, 1), date(year, 7, 4), date(year, 11, 11), date(year, 12, 25)]
    if year >= 2022:
        fixed.append(date(year, 6, 19))
    observed = [day + timedelta(days=1) if day.weekday() == 6 else day for day in fixed]
    floating = [
        _nth_weekday(year, 1, 0, 3),
        _nth_weekday(year, 2, 0, 3),
        last_monday_of_may,
        _nth_weekday(year, 9, 0, 1),
        _nth_weekday(year, 10, 0, 2),
        _nth_weekday(year, 11, 3, 4),
    ]
    return frozenset(day for day in [*observed, *floating] if day.weekday() < 5)


@cache
def target_holidays(year: int) -> frozenset[date]:
    """The closing days of TARGET in ``year``; some of them may be weekends."""
    sunday = easter(year)
    return frozenset(
        [
            date(year, 1, 1),
            sunday - timedelta(days=2),
            sunday + timedelta(days=1),
            date(year, 5, 1),
            date(year, 12, 25),
            date(year, 12, 26),
        ]
    )


def is_fed_day(day: date) -> bool:
    """Whether the Federal Reserve Banks settle on ``day``."""
    return day.weekday() < 5 and day not in fed_holidays(day.year)


def is_target_day(day: date) -> bool:
    """Whether TARGET is open on ``day``."""
    return day.weekday() < 5 and day not in target_holidays(day.year)


def add_days(day: date, count: int, is_open: IsBankingDay) -> date:
    """The ``count``-th banking day after ``day``."""
    while count:
        day += timedelta(days=1)
        count -= is_open(day)
    return day


def on_or_after(day: date, is_open: IsBankingDay) -> date:
    """``day`` if it is a banking day, else the next one."""
    return day if is_open(day) else add_days(day, 1, is_open)


def at(day: date, clock: time, zone: ZoneInfo) -> int:
    """A wall-clock time of a zone as milliseconds."""
    return int(datetime.combine(day, clock, zone).timestamp()) * 1000


def local(at_ms: int, zone: ZoneInfo) -> datetime:
    """Milliseconds as the wall clock of a zone shows them."""
    return datetime.fromtimestamp(at_ms // 1000, zone)


def ach_window(now_ms: int, *, same_day: bool) -> tuple[int, int]:
    """The next cut-off after ``now_ms`` and when what it takes along settles."""
    now = local(now_ms, NEW_YORK)
    today = now.date()
    if is_fed_day(today):
        if same_day:
            for cut_off, settles in SAME_DAY_WINDOWS:
                if now.time() < cut_off:
                    return at(today, cut_off, NEW_YORK), at(today, settles, NEW_YORK)
        elif now.time() < NEXT_DAY_CUT_OFF:
            next_day = add_days(today, 1, is_fed_day)
            return at(today, NEXT_DAY_CUT_OFF, NEW_YORK), at(next_day, ACH_MORNING, NEW_YORK)
    day = add_days(today, 1, is_fed_day)
    if same_day:
        cut_off, settles = SAME_DAY_WINDOWS[0]
        return at(day, cut_off, NEW_YORK), at(day, settles, NEW_YORK)
    return at(day, NEXT_DAY_CUT_OFF, NEW_YORK), at(add_days(day, 1, is_fed_day), ACH_MORNING, NEW_YORK)


def sepa_settlement(now_ms: int) -> int:
    """When a SEPA credit transfer that is accepted now settles: today before the cut-off, else the next TARGET day."""
    now = local(now_ms, FRANKFURT)
    day = now.date()
    if not is_target_day(day) or now.time() >= SEPA_CUT_OFF:
        day = add_days(day, 1, is_target_day)
    return at(day, SEPA_SETTLES, FRANKFURT)


def ach_return_at(settled_ms: int, banking_days: int) -> int:
    """The morning, ``banking_days`` after settlement, on which a return is handed out."""
    day = add_days(local(settled_ms, NEW_YORK).date(), banking_days, is_fed_day)
    return at(day, ACH_MORNING, NEW_YORK)


def ach_return_after_days(settled_ms: int, days: int) -> int:
    """The first banking morning at least ``days`` calendar days after settlement."""
    day = local(settled_ms, NEW_YORK).date() + timedelta(days=days)
    return at(on_or_after(day, is_fed_day), ACH_MORNING, NEW_YORK)


def ach_return_deadline(settled_ms: int, window: int, *, calendar_days: bool) -> int:
    """The last moment at which a return of this window may come: midnight after its last day, ET."""
    day = local(settled_ms, NEW_YORK).date()
    last = day + timedelta(days=window) if calendar_days else add_days(day, window, is_fed_day)
    return at(last + timedelta(days=1), time(0), NEW_YORK)


def target_days_after(at_ms: int, days: int) -> int:
    """The same cycle time, ``days`` TARGET days later."""
    day = add_days(local(at_ms, FRANKFURT).date(), days, is_target_day)
    return at(day, SEPA_SETTLES, FRANKFURT)
