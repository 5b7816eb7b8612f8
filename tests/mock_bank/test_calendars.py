"""Banking days, windows and deadlines, against dates that can be looked up."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_stream.mock_bank import calendars as cal

INSTANTS = st.integers(1_577_836_800_000, 2_208_988_800_000)


def new_york(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=cal.NEW_YORK).timestamp()) * 1000


def frankfurt(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=cal.FRANKFURT).timestamp()) * 1000


def test_fed_holidays_are_those_that_the_federal_reserve_published() -> None:
    days_2026 = ("01-01", "01-19", "02-16", "05-25", "06-19", "09-07", "10-12", "11-11", "11-26", "12-25")
    days_2027 = ("01-01", "01-18", "02-15", "05-31", "07-05", "09-06", "10-11", "11-11", "11-25")

    assert cal.fed_holidays(2026) == {date.fromisoformat(f"2026-{day}") for day in days_2026}  # 4 July is a Saturday
    assert cal.fed_holidays(2027) == {
        date.fromisoformat(f"2027-{day}") for day in days_2027
    }  # 19 June, 25 December too
    assert date(2021, 6, 18) not in cal.fed_holidays(2021)


@pytest.mark.parametrize("sunday", ["2024-03-31", "2025-04-20", "2026-04-05", "2027-03-28", "2030-04-21", "2038-04-25"])
def test_target_closes_around_easter(sunday: str) -> None:
    day = date.fromisoformat(sunday)

    assert cal.easter(day.year) == day
    assert not cal.is_target_day(date.fromordinal(day.toordinal() - 2))
    assert not cal.is_target_day(date.fromordinal(day.toordinal() + 1))
    assert cal.is_target_day(date.fromordinal(day.toordinal() + 2))
    assert not cal.is_target_day(date(day.year, 5, 1))


@pytest.mark.parametrize(
    ("now", "same_day", "cut_off", "settles"),
    [
        ("2026-11-20T09:59", True, "2026-11-20T10:00", "2026-11-20T13:00"),
        ("2026-11-20T10:00", True, "2026-11-20T14:15", "2026-11-20T17:00"),
        ("2026-11-20T16:14", True, "2026-11-20T16:15", "2026-11-20T18:00"),
        ("2026-11-20T16:15", True, "2026-11-23T10:00", "2026-11-23T13:00"),
        ("2026-11-20T17:29", False, "2026-11-20T17:30", "2026-11-23T08:30"),
        ("2026-11-20T17:30", False, "2026-11-23T17:30", "2026-11-24T08:30"),
        ("2026-11-25T12:00", False, "2026-11-25T17:30", "2026-11-27T08:30"),  # Thanksgiving between
        ("2026-11-21T12:00", True, "2026-11-23T10:00", "2026-11-23T13:00"),  # a Saturday
        ("2026-03-06T18:00", False, "2026-03-09T17:30", "2026-03-10T08:30"),  # clocks change on the weekend
    ],
)
def test_ach_windows(now: str, same_day: bool, cut_off: str, settles: str) -> None:
    assert cal.ach_window(new_york(now), same_day=same_day) == (new_york(cut_off), new_york(settles))


@pytest.mark.parametrize(
    ("now", "settles"),
    [
        ("2026-11-20T15:59", "2026-11-20T17:00"),
        ("2026-11-20T16:00", "2026-11-23T17:00"),
        ("2026-04-02T16:30", "2026-04-07T17:00"),  # Good Friday to Easter Monday
        ("2026-12-24T17:00", "2026-12-28T17:00"),
    ],
)
def test_sepa_cycle(now: str, settles: str) -> None:
    assert cal.sepa_settlement(frankfurt(now)) == frankfurt(settles)


def test_return_days() -> None:
    settled = new_york("2026-11-24T08:30")

    assert cal.ach_return_at(settled, 2) == new_york("2026-11-27T08:30")
    assert cal.ach_return_after_days(settled, 4) == new_york("2026-11-30T08:30")
    assert cal.ach_return_deadline(settled, 2, calendar_days=False) == new_york("2026-11-28T00:00")
    assert cal.ach_return_deadline(settled, 60, calendar_days=True) == new_york("2027-01-24T00:00")


@given(INSTANTS, st.booleans())
def test_every_entry_leaves_later_and_settles_later_still_on_a_banking_day(now: int, same_day: bool) -> None:
    cut_off, settles = cal.ach_window(now, same_day=same_day)

    assert now < cut_off < settles < now + 8 * cal.DAY_MS
    assert cal.is_fed_day(cal.local(cut_off, cal.NEW_YORK).date())
    assert cal.is_fed_day(cal.local(settles, cal.NEW_YORK).date())
    assert now < cal.sepa_settlement(now) < now + 8 * cal.DAY_MS
