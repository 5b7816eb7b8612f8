"""Reads the returns of a NACHA file: which of our orders came back, why, and with how much money.

Only what reconciliation needs is read, and the control totals, by which a file that is cut or changed is found.
Source: Nacha Operating Rules, Appendix Three (layout) and Four (returns).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from aura_stream.reconcile.camt053 import Unreadable

BYTES_MAX: Final = 64 * 1024 * 1024
_RECORD: Final = 94
_RETURN_OF_CREDIT, _RETURN_OF_DEBIT = ("21", "31"), ("26", "36")


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """One order that came back."""

    reference: str
    """Ours: the individual identification number."""
    code: str
    amount: int
    """Cents; negative: a collection that is taken back from us, positive: a payment that we have back."""
    day: date


def read_returns(file: bytes) -> list[Return]:
    """The returns of a file, in its order; notifications of change are none. Raises :class:`Unreadable`."""
    records = _records(file)
    found: list[Return] = []
    debited = credited = entries = batches = 0
    day: date | None = None
    entry = ""
    for number, record in enumerate(records, 1):
        kind = record[0]
        if kind == "5":
            batches += 1
            day = _day(record[69:75], number)
        elif kind == "6":
            entries, entry = entries + 1, record
            cents = _number(record[29:39], number)
            if record[2] in "6789":
                debited += cents
            else:
                credited += cents
        elif kind == "7":
            entries += 1
            if record[1:3] == "99":
                if not entry or day is None:
                    raise Unreadable(f"record {number} is an addenda without its entry")
                found.append(_return(entry, record, day, number))
        elif kind == "9":
            if record == "9" * _RECORD:
                continue
            stated = _number(record[1:7], number), _number(record[13:21], number)
            if stated != (batches, entries):
                raise Unreadable(
                    f"it says that it has {stated[0]} batches and {stated[1]} records; {batches}, {entries}"
                )
            if (_number(record[31:43], number), _number(record[43:55], number)) != (debited, credited):
                raise Unreadable("its totals of debits and credits are not the sums of its entries")
    return found


def _records(file: bytes) -> list[str]:
    if len(file) > BYTES_MAX:
        raise Unreadable(f"it has {len(file)} bytes; {BYTES_MAX} at most are read")
    try:
        records = file.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise Unreadable("a NACHA file is ASCII, and it is not") from None
    for number, record in enumerate(records, 1):
        if len(record) != _RECORD or record[0] not in "156789":
            raise Unreadable(f"record {number} is no NACHA record of {_RECORD} signs")
    if not records or records[0][:3] != "101" or len(records) % 10:
        raise Unreadable("it does not begin with a file header, or does not fill blocks of ten records")
    if not any(record[0] == "9" and record != "9" * _RECORD for record in records):
        raise Unreadable("it has no file control record: it is cut")
    return records


def _return(entry: str, addenda: str, day: date, number: int) -> Return:
    code = addenda[3:6]
    cents = _number(entry[29:39], number)
    if entry[1:3] not in (*_RETURN_OF_CREDIT, *_RETURN_OF_DEBIT) or not re.fullmatch(r"R[0-9]{2}", code) or not cents:
        raise Unreadable(f"record {number} says {code!r} of an entry {entry[1:3]} of {cents} cents: no return is that")
    sign = -1 if entry[1:3] in _RETURN_OF_DEBIT else 1
    return Return(reference=entry[39:54].rstrip(), code=code, amount=sign * cents, day=day)


def _number(text: str, number: int) -> int:
    if not text.isascii() or not text.isdigit():
        raise Unreadable(f"record {number} has {text!r} in place of a number")
    return int(text)


def _day(text: str, number: int) -> date:
    try:
        return datetime.strptime(text, "%y%m%d").date()  # noqa: DTZ007 - a date
    except ValueError:
        raise Unreadable(f"record {number} has the date {text!r}") from None
