"""NACHA files: 94-character records, written and read strictly. No IO.

    1 file header, { 5 batch header, { 6 entry, 7 addenda* }+, 8 batch control }+, 9 file control, 9s to blocks of ten

What is read must be right to the last control total: entry and addenda counts, entry hash (the sum of the first eight
digits of the routing numbers, its last ten digits), debit and credit totals, batch and block counts, ascending trace
numbers, and check digits of routing numbers. Source: Nacha Operating Rules, Appendix Three.

Names and texts are ASCII upper case on paper; here they are ASCII of either case, cut to their field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Literal, NoReturn

RECORD: Final = 94
BLOCKING: Final = 10
CREDITS: Final = {"checking": 22, "savings": 32}
"""Transaction codes that give money to the receiver; plus five: that take it; minus one: returns of
either."""

_PRINTABLE: Final = re.compile(r"[ -~]*")


class NachaError(ValueError):
    """A file breaks a rule of the format; the message names the line and the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addenda:
    """One addenda record: 05 payment information, 98 change, 99 return."""

    kind: Literal["05", "98", "99"]
    code: str = ""
    """Change or return code (98, 99)."""
    original_trace: str = ""
    original_routing: str = ""
    """First eight digits of the original receiver's bank (98, 99)."""
    text: str = ""
    """Payment information (05), corrected data (98), or information of the returning bank (99)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry detail record with its addenda."""

    code: int
    """Two digits: account type and direction, e.g. 22 checking credit, 27 checking debit, 26 return of a debit."""
    routing: str
    """The receiver's bank, nine digits with check digit."""
    account: str
    cents: int
    reference: str
    """Individual identification number, 15 characters at most."""
    name: str
    trace: str
    """Fifteen digits, ascending within a batch."""
    addenda: tuple[Addenda, ...] = ()

    @property
    def is_debit(self) -> bool:
        """Whether money is taken from the receiver."""
        return self.code % 10 >= 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Entries of one company with one effective date."""

    company: str
    company_id: str
    sec: str
    """Standard entry class: PPD, CCD, WEB, COR."""
    description: str
    effective: date
    odfi: str
    """First eight digits of the originating bank."""
    entries: tuple[Entry, ...]

    @property
    def service_class(self) -> int:
        """200 mixed, 220 credits only, 225 debits only."""
        kinds = {entry.is_debit for entry in self.entries}
        return 200 if len(kinds) == 2 else 225 if True in kinds else 220


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A whole file."""

    destination: str
    """Routing number of the receiving point, nine digits."""
    origin: str
    destination_name: str
    origin_name: str
    created: datetime
    modifier: str
    """A to Z, then 0 to 9: tells files of one day apart."""
    batches: tuple[Batch, ...]


def check_digit(first_eight: str) -> str:
    """The ninth digit of a routing number."""
    weights = (3, 7, 1, 3, 7, 1, 3, 7)
    return str(-sum(int(digit) * weight for digit, weight in zip(first_eight, weights, strict=True)) % 10)


def is_routing(number: str) -> bool:
    """Whether ``number`` is nine digits with the right check digit."""
    return len(number) == 9 and number.isascii() and number.isdigit() and check_digit(number[:8]) == number[8]


def _totals(entries: Sequence[Entry]) -> tuple[int, int, int, int]:
    """Count of entries and addenda, hash before it is cut, debits, credits."""
    count = sum(1 + len(entry.addenda) for entry in entries)
    hash_ = sum(int(entry.routing[:8]) for entry in entries)
    debits = sum(entry.cents for entry in entries if entry.is_debit)
    return count, hash_, debits, sum(entry.cents for entry in entries) - debits


# --- writing ---------------------------------------------------------------------------------------------------------


def _left(text: str, width: int) -> str:
    clean = text.encode("ascii", "replace").decode().replace("\n", " ")
    return "".join(sign if " " <= sign <= "~" else "?" for sign in clean)[:width].ljust(width)


def _number(value: int, width: int, what: str) -> str:
    text = str(value).rjust(width, "0")
    if value < 0 or len(text) > width:
        raise NachaError(f"{what} {value} does not fit into {width} digits")
    return text


def render(file: File) -> str:
    """The file's text: records ended by a newline each. Raises :class:`NachaError` for what does not fit."""
    records = [
        (
            f"101 {file.destination} {file.origin}{file.created:%y%m%d%H%M}{file.modifier}094101"
            f"{_left(file.destination_name, 23)}{_left(file.origin_name, 23)}{' ' * 8}"
        )
    ]
    for number, batch in enumerate(file.batches, 1):
        records += _render_batch(batch, number)
    every = [entry for batch in file.batches for entry in batch.entries]
    count, hash_, debits, credits_ = _totals(every)
    blocks = -(-(len(records) + 1) // BLOCKING)
    records.append(
        f"9{_number(len(file.batches), 6, 'batch count')}{_number(blocks, 6, 'block count')}"
        f"{_number(count, 8, 'entry count')}{hash_ % 10**10:010d}"
        f"{_number(debits, 12, 'debits')}{_number(credits_, 12, 'credits')}{' ' * 39}"
    )
    records += ["9" * RECORD] * (blocks * BLOCKING - len(records))
    for record in records:
        if len(record) != RECORD:
            raise NachaError(f"a record has {len(record)} characters instead of {RECORD}: {record!r}")
    return "\n".join(records) + "\n"


def _render_batch(batch: Batch, number: int) -> Iterator[str]:
    tail = f"{batch.odfi}{_number(number, 7, 'batch number')}"
    yield (
        f"5{batch.service_class}{_left(batch.company, 16)}{' ' * 20}{_left(batch.company_id, 10)}{_left(batch.sec, 3)}"
        f"{_left(batch.description, 10)}{batch.effective:%y%m%d}{batch.effective:%y%m%d}   1{tail}"
    )
    for entry in batch.entries:
        yield (
            f"6{entry.code:02d}{entry.routing}{_left(entry.account, 17)}{_number(entry.cents, 10, 'amount')}"
            f"{_left(entry.reference, 15)}{_left(entry.name, 22)}  {1 if entry.addenda else 0}{entry.trace}"
        )
        for place, addenda in enumerate(entry.addenda, 1):
            yield _render_addenda(addenda, entry, place)
    count, hash_, debits, credits_ = _totals(batch.entries)
    yield (
        f"8{batch.service_class}{_number(count, 6, 'entry count')}{hash_ % 10**10:010d}"
        f"{_number(debits, 12, 'debits')}{_number(credits_, 12, 'credits')}{_left(batch.company_id, 10)}"
        f"{' ' * 25}{tail}"
    )


def _render_addenda(addenda: Addenda, entry: Entry, place: int) -> str:
    if addenda.kind == "05":
        return f"705{_left(addenda.text, 80)}{place:04d}{entry.trace[-7:]}"
    middle = f"{addenda.code}{addenda.original_trace}{' ' * 6}{addenda.original_routing}"
    if addenda.kind == "98":
        return f"798{middle}{_left(addenda.text, 29)}{' ' * 15}{entry.trace}"
    return f"799{middle}{_left(addenda.text, 44)}{entry.trace}"


# --- reading ---------------------------------------------------------------------------------------------------------


def parse(text: str) -> File:
    """Reads a file. Raises :class:`NachaError` at the first rule that it breaks."""
    return _Reader(text).file()


class _Reader:
    """Goes through the records one by one; ``line`` is the one that errors name."""

    def __init__(self, text: str) -> None:
        self.line = 0
        lines = text.split("\n")
        if lines[-1] != "":
            raise NachaError("the last record does not end with a newline: the file is cut off")
        self.records = lines[:-1]
        for number, record in enumerate(self.records, 1):
            self.line = number
            if len(record) != RECORD:
                self.fail(f"{len(record)} characters instead of {RECORD}")
            if not _PRINTABLE.fullmatch(record):
                self.fail("a character that is not printable ASCII")
        self.line = 0

    def fail(self, why: str) -> NoReturn:
        raise NachaError(f"line {self.line}: {why}")

    def take(self, kind: str) -> str:
        """The next record, which must be of this kind."""
        if self.line >= len(self.records):
            raise NachaError(f"line {self.line + 1}: the file ends where a record of type {kind} must stand")
        record = self.records[self.line]
        self.line += 1
        if record[0] != kind:
            self.fail(f"a record of type {record[0]} where one of type {kind} must stand")
        return record

    def next_kind(self) -> str:
        return self.records[self.line][0] if self.line < len(self.records) else ""

    def number(self, text: str, what: str) -> int:
        if not (text.isascii() and text.isdigit()):
            self.fail(f"{what} is not a number: {text!r}")
        return int(text)

    def must_be(self, what: str, said: object, right: object) -> None:
        if said != right:
            self.fail(f"{what} is {said}, but must be {right}")

    def day(self, text: str, what: str) -> date:
        try:
            return datetime.strptime(text, "%y%m%d").date()  # noqa: DTZ007  # a date has no zone
        except ValueError:
            self.fail(f"{what} is no date: {text!r}")

    def file(self) -> File:
        head = self.take("1")
        self.must_be("the priority code", head[1:3], "01")
        self.must_be("record size, blocking factor and format code", head[34:40], "094101")
        for what, number in (("destination", head[4:13]), ("origin", head[14:23])):
            if not is_routing(number):
                self.fail(f"the immediate {what} is no routing number: {number!r}")
        try:
            created = datetime.strptime(head[23:33], "%y%m%d%H%M")  # noqa: DTZ007  # local to the bank by definition
        except ValueError:
            self.fail(f"the creation date and time are none: {head[23:33]!r}")
        batches: list[Batch] = []
        while self.next_kind() == "5":
            batches.append(self.batch(len(batches) + 1))
        if not batches:
            self.fail("a file has at least one batch")
        control = self.take("9")
        self.must_be("the batch count", self.number(control[1:7], "the batch count"), len(batches))
        self.must_be("the block count", self.number(control[7:13], "the block count"), -(-self.line // BLOCKING))
        self.controls(control[13:21], control[21:31], control[31:43], control[43:55], batches)
        while self.line < len(self.records):
            self.must_be("a filler record", self.take("9"), "9" * RECORD)
        self.must_be("the number of records modulo ten", len(self.records) % BLOCKING, 0)
        return File(
            destination=head[4:13],
            origin=head[14:23],
            destination_name=head[40:63].rstrip(),
            origin_name=head[63:86].rstrip(),
            created=created,
            modifier=head[33],
            batches=tuple(batches),
        )

    def controls(self, count: str, hash_: str, debits: str, credits_: str, batches: Sequence[Batch]) -> None:
        right = _totals([entry for batch in batches for entry in batch.entries])
        self.must_be("the entry and addenda count", self.number(count, "the entry count"), right[0])
        self.must_be("the entry hash", self.number(hash_, "the entry hash"), right[1] % 10**10)
        self.must_be("the total of debits", self.number(debits, "the total of debits"), right[2])
        self.must_be("the total of credits", self.number(credits_, "the total of credits"), right[3])

    def batch(self, number: int) -> Batch:
        head = self.take("5")
        self.must_be("the batch number", self.number(head[87:94], "the batch number"), number)
        entries: list[Entry] = []
        while self.next_kind() == "6":
            entries.append(self.entry())
            if len(entries) > 1 and entries[-1].trace <= entries[-2].trace:
                self.fail(f"trace number {entries[-1].trace} does not ascend")
        if not entries:
            self.fail("a batch has at least one entry")
        batch = Batch(
            company=head[4:20].rstrip(),
            company_id=head[40:50].rstrip(),
            sec=head[50:53],
            description=head[53:63].rstrip(),
            effective=self.day(head[69:75], "the effective entry date"),
            odfi=head[79:87],
            entries=tuple(entries),
        )
        self.number(batch.odfi, "the originating bank")
        control = self.take("8")
        self.must_be("the service class of the control", control[1:4], head[1:4])
        if self.number(head[1:4], "the service class") not in (200, batch.service_class):
            self.fail(f"service class {head[1:4]} does not fit the entries")
        self.controls(control[4:10], control[10:20], control[20:32], control[32:44], [batch])
        self.must_be("the company of the control", control[44:54].rstrip(), batch.company_id)
        self.must_be("bank and batch number of the control", control[79:94], head[79:94])
        return batch

    def entry(self) -> Entry:
        record = self.take("6")
        code = self.number(record[1:3], "the transaction code")
        if code // 10 not in (2, 3) or code % 10 not in (1, 2, 6, 7):
            self.fail(f"transaction code {code} is not one of checking or savings")
        if not is_routing(record[3:12]):
            self.fail(f"{record[3:12]!r} is no routing number")
        cents, trace = self.number(record[29:39], "the amount"), record[79:94]
        self.number(trace, "the trace number")
        addenda: list[Addenda] = []
        self.must_be("the addenda indicator", record[78], "1" if self.next_kind() == "7" else "0")
        while self.next_kind() == "7":
            addenda.append(self.addenda(trace, len(addenda) + 1))
        return Entry(
            code=code,
            routing=record[3:12],
            account=record[12:29].rstrip(),
            cents=cents,
            reference=record[39:54].rstrip(),
            name=record[54:76].rstrip(),
            trace=trace,
            addenda=tuple(addenda),
        )

    def addenda(self, trace: str, place: int) -> Addenda:
        record = self.take("7")
        kind = record[1:3]
        if kind == "05":
            self.must_be("the addenda sequence number", self.number(record[83:87], "the sequence number"), place)
            self.must_be("the entry's number in its addenda", record[87:94], trace[-7:])
            return Addenda(kind="05", text=record[3:83].rstrip())
        if kind not in ("98", "99"):
            self.fail(f"addenda type {kind} is not 05, 98 or 99")
        self.must_be("the trace number of the addenda", record[79:94], trace)
        text = record[35:64] if kind == "98" else record[35:79]
        return Addenda(
            kind="98" if kind == "98" else "99",
            code=record[3:6],
            original_trace=record[6:21],
            original_routing=record[27:35],
            text=text.rstrip(),
        )
