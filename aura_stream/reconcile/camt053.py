"""Reads camt.053 (ISO 20022 bank statement): what it says of one account and one day, or why it is no such file.

Written from the message definition, not from the mock bank's writer: versions 02 to 13 differ in what is not read here.
A file is somebody else's bytes: no DTD and no entities are taken, and nothing is half read.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import orjson

from aura_stream.domain.assets import SCALES

BYTES_MAX: Final = 64 * 1024 * 1024
ZONES: Final = {"USD": ZoneInfo("America/New_York"), "EUR": ZoneInfo("Europe/Berlin")}
"""Where an account's day begins and ends."""

_NAMESPACE: Final = re.compile(r"\{urn:iso:std:iso:20022:tech:xsd:camt\.053\.001\.(0[2-9]|1[0-3])\}")
_AMOUNT: Final = re.compile(r"([0-9]{1,13})(?:\.([0-9]{1,5}))?")
_NO_REFERENCE: Final = "NOTPROVIDED"


class Unreadable(Exception):
    """It is no statement that can be imported; the message says why and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One booked entry. Amounts are minor units, positive when money came in."""

    amount: int
    day: date
    reference: str
    bank_reference: str
    is_return: bool
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One account's day."""

    id: str
    account: str
    """IBAN, or the bank's own number."""
    currency: str
    day: date
    opening: int
    closing: int
    lines: tuple[StatementLine, ...]

    @property
    def content_hash(self) -> bytes:
        """sha256 of what it says: the same however and whenever the file was made."""
        lines = [
            [one.amount, one.day, one.reference, one.bank_reference, one.is_return, one.code] for one in self.lines
        ]
        says = [self.id, self.account, self.currency, self.day, self.opening, self.closing, lines]
        return hashlib.sha256(orjson.dumps(says)).digest()


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise Unreadable("it has a document type declaration, which no bank's file needs")


def read(file: bytes) -> list[Statement]:
    """The statements of a file. Raises :class:`Unreadable` unless all of it is understood."""
    if len(file) > BYTES_MAX:
        raise Unreadable(f"it has {len(file)} bytes; {BYTES_MAX} at most are read")
    try:
        root = ET.fromstring(file, ET.XMLParser(target=_NoDoctype()))  # no DTD, so no entities
    except ET.ParseError as error:
        raise Unreadable(f"it is no whole XML: {error}") from None
    except (LookupError, ValueError) as error:
        raise Unreadable(f"it cannot be decoded: {error}") from None
    found = _NAMESPACE.match(root.tag)
    if found is None:
        raise Unreadable(f"its root is {root.tag[:100]}, not the Document of a camt.053")
    names = {"": found[0][1:-1]}
    statements = root.findall("BkToCstmrStmt/Stmt", names)
    if not statements:
        raise Unreadable("it holds no statement (BkToCstmrStmt/Stmt)")
    return [_statement(one, names) for one in statements]


def _statement(stmt: ET.Element, names: dict[str, str]) -> Statement:
    id_ = _need(stmt, "Id", names)
    account = stmt.findtext("Acct/Id/IBAN", "", names) or _need(stmt, "Acct/Id/Othr/Id", names)
    balances: dict[str, tuple[int, date, str]] = {}
    for bal in stmt.findall("Bal", names):
        code = bal.findtext("Tp/CdOrPrtry/Cd", "", names)
        if code in ("OPBD", "PRCD", "CLBD"):
            amount, currency = _signed(bal, names, f"balance {code} of {id_}")
            # Opening booked and previously closed booked are the same figure by definition.
            balances["OPBD" if code == "PRCD" else code] = amount, _day(bal.find("Dt", names), names, "", id_), currency
    if set(balances) != {"OPBD", "CLBD"}:
        raise Unreadable(f"statement {id_} has no opening (OPBD) or no closing balance (CLBD)")
    opening, _, currency = balances["OPBD"]
    closing, day, closing_currency = balances["CLBD"]
    stated = stmt.findtext("Acct/Ccy", currency, names)
    if {currency, closing_currency, stated} != {currency}:
        raise Unreadable(f"statement {id_} is in several currencies: {currency}, {closing_currency}, {stated}")
    entries = stmt.findall("Ntry", names)
    lines = [line for entry in entries for line in _lines(entry, names, id_, currency)]
    stated_count = stmt.findtext("TxsSummry/TtlNtries/NbOfNtries", "", names)
    if stated_count and stated_count != str(len(entries)):
        raise Unreadable(f"statement {id_} says that it has {stated_count[:20]} entries, and has {len(entries)}")
    return Statement(
        id=id_, account=account, currency=currency, day=day, opening=opening, closing=closing, lines=tuple(lines)
    )


def _lines(entry: ET.Element, names: dict[str, str], id_: str, currency: str) -> list[StatementLine]:
    """An entry's lines: itself, or, where it is a batch whose details have amounts, each of these."""
    status = entry.findtext("Sts/Cd", "", names) or entry.findtext("Sts", "", names).strip()
    if status not in ("", "BOOK"):
        return []  # pending and information only: nothing has moved
    where = f"entry {entry.findtext('NtryRef', '?', names)[:40]} of {id_}"
    total, own = _signed(entry, names, where)
    if own != currency:
        raise Unreadable(f"{where} is in {own}, the account in {currency}")
    day = _day(entry.find("ValDt", names), names, currency, where, entry.find("BookgDt", names))
    is_return = entry.findtext("RvslInd", "", names) in ("true", "1")
    details = entry.findall("NtryDtls/TxDtls", names)
    amounts = [total]
    if len(details) > 1:
        amounts = [_signed(one, names, where, total)[0] for one in details]
        if sum(amounts) != total:
            raise Unreadable(f"{where} is {total} minor units, and its details make {sum(amounts)}")
    lines = []
    for amount, one in zip(amounts, details or [entry], strict=True):
        reference = one.findtext("Refs/EndToEndId", "", names)
        code = one.findtext("RtrInf/Rsn/Cd", "", names)
        lines.append(
            StatementLine(
                amount=amount,
                day=day,
                reference="" if reference == _NO_REFERENCE else reference[:64],
                bank_reference=(
                    one.findtext("Refs/AcctSvcrRef", "", names) or entry.findtext("AcctSvcrRef", "", names)
                )[:64],
                is_return=is_return or bool(code),
                code=code[:10],
            )
        )
    return [line for line in lines if line.amount]


def _need(element: ET.Element, path: str, names: dict[str, str]) -> str:
    text = element.findtext(path, "", names).strip()
    if not text or len(text) > 64:
        raise Unreadable(f"{path} is missing or longer than 64 signs")
    return text


def _signed(element: ET.Element, names: dict[str, str], where: str, like: int = 0) -> tuple[int, str]:
    """Amount and currency; without an indicator of its own it has the sign of `like`."""
    amount = element.find("Amt", names)
    if amount is None:
        amount = element.find("AmtDtls/TxAmt/Amt", names)
    if amount is None:
        raise Unreadable(f"{where} has no amount")
    currency = amount.get("Ccy", "")
    if currency not in SCALES:
        raise Unreadable(f"{where} is in {currency[:10]!r}, which is no asset here")
    found = _AMOUNT.fullmatch((amount.text or "").strip())
    places = SCALES[currency]
    fraction = (found[2] or "").rstrip("0") if found else ""
    if found is None or len(fraction) > places:
        raise Unreadable(f"{where} has the amount {(amount.text or '')[:30]!r}")
    minor = int(found[1]) * 10**places + int(fraction.ljust(places, "0") or "0")
    indicator = element.findtext("CdtDbtInd", "", names) or ("DBIT" if like < 0 else "CRDT" if like > 0 else "")
    if indicator not in ("CRDT", "DBIT"):
        raise Unreadable(f"{where} says neither CRDT nor DBIT")
    return (-minor if indicator == "DBIT" else minor), currency


def _day(
    element: ET.Element | None, names: dict[str, str], currency: str, where: str, other: ET.Element | None = None
) -> date:
    """A day; a time is of the day that it is where the account is kept."""
    for one in (element, other):
        if one is None:
            continue
        try:
            if text := one.findtext("Dt", "", names).strip():
                return date.fromisoformat(text[:10])
            if text := one.findtext("DtTm", "", names).strip():
                at = datetime.fromisoformat(text)
                return (
                    at.date() if at.tzinfo is None or currency not in ZONES else at.astimezone(ZONES[currency]).date()
                )
        except ValueError:
            raise Unreadable(f"{where} has the date {text[:40]!r}") from None
    raise Unreadable(f"{where} has no date")
