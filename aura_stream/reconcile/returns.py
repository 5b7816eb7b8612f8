"""Reads the returns of a NACHA file: which of our orders came back, why, and with how much money.

Only what reconciliation needs is read, and all that controls it (counts, hashes and totals of batches and of the file),
by which one that is cut or changed is found.
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


class _Sums:
    """What the entries of a batch, or of the file, come to."""

    def __init__(self) -> None:
        self.records = self.hash = self.debits = self.credits = 0

    def add(self, batch: _Sums) -> None:
        """A batch of the file has ended."""
        self.records += batch.records
        self.hash += batch.hash
        self.debits += batch.debits
        self.credits += batch.credits

    def check(self, control: str, digits: int, whose: str, number: int) -> None:
        """Compares with what a control record says: how many records (of so many digits), hash, debits, credits."""
        ends = (0, digits, digits + 10, digits + 22, digits + 34)
        found = (self.records, self.hash % 10**10, self.debits, self.credits)
        for place, what in enumerate(("number of records", "entry hash", "debits", "credits")):
            stated = _number(control[ends[place] : ends[place + 1]], number)
            if stated != found[place]:
                raise Unreadable(
                    f"record {number}, the totals of the {whose}: its {what} is {stated}, that of what stands there "
                    f"{found[place]}"
                )


def read_returns(file: bytes) -> list[Return]:
    """The returns of a file, in its order; notifications of change are none. Raises :class:`Unreadable`."""
    found: list[Return] = []
    whole, batch = _Sums(), _Sums()
    head = entry = ""  # of the batch that is open, and of its last entry
    batches = 0
    records = _records(file)
    for number, record in enumerate(records, 1):
        kind = record[0]
        if (kind in "678" and not head) or (kind in "59" and head):
            raise Unreadable(f"record {number}, of type {kind}, stands {'within' if head else 'outside'} a batch")
        if kind == "5":
            batches, batch, head, entry = batches + 1, _Sums(), record, ""
        elif kind == "6":
            entry, cents = record, _number(record[29:39], number)
            batch.records += 1
            batch.hash += _number(record[3:11], number)
            if record[2] in "6789":
                batch.debits += cents
            else:
                batch.credits += cents
        elif kind == "7":
            batch.records += 1
            if record[1:3] == "99":
                if not entry:
                    raise Unreadable(f"record {number} is an addenda without its entry")
                found.append(_return(entry, record, _day(head[69:75], number), number))
        elif kind == "8":
            batch.check(record[4:44], 6, "batch", number)
            if record[79:94] != head[79:94]:
                raise Unreadable(f"record {number} ends the batch {record[79:94]}, but {head[79:94]} began")
            whole.add(batch)
            head = ""
        elif kind == "9" and record != "9" * _RECORD:
            stated, blocks = _number(record[1:7], number), _number(record[7:13], number)
            if (stated, blocks) != (batches, len(records) // 10):
                raise Unreadable(
                    f"it says that it has {stated} batches in {blocks} blocks; {batches}, {len(records) // 10}"
                )
            whole.check(record[13:55], 8, "file", number)
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
