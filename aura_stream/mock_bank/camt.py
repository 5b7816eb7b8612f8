"""Statements: camt.053 (a closed day with its balances) and camt.054 (notifications), as ISO 20022 XML of version 08.

Pure: the same lines give the same bytes. Amounts are cents; times are given by the caller, never taken from a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final
from xml.etree import ElementTree as ET

from aura_stream.mock_bank.money import text_of

NS_053: Final = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
NS_054: Final = "urn:iso:std:iso:20022:tech:xsd:camt.054.001.08"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One booked line of an account."""

    entry_id: str
    cents: int
    """Positive: money came in."""
    booked_ms: int
    day: date
    """Booking and value date in the account's zone."""
    transfer_id: str
    reference: str
    """The client's reference, which a statement shows as EndToEndId."""
    rail: str
    direction: str
    is_return: bool
    code: str
    name: str
    account: str
    """The counterparty's account number or IBAN."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whose statement it is."""

    id: str
    iban: str
    currency: str
    bic: str


def statement(account: Account, day: date, number: int, opening: int, lines: Sequence[Line], made_ms: int) -> bytes:
    """The camt.053 of one closed day: opening balance, lines, closing balance."""
    root = ET.Element("Document", xmlns=NS_053)
    message = ET.SubElement(root, "BkToCstmrStmt")
    id_ = f"{account.id}-{day:%Y%m%d}"[-35:]
    _group_header(message, id_, made_ms)
    body = ET.SubElement(message, "Stmt")
    _text(body, "Id", id_)
    _text(body, "ElctrncSeqNb", str(number))
    _text(body, "CreDtTm", _time(made_ms))
    _account(body, account)
    _balance(body, account, "OPBD", opening, day)
    _balance(body, account, "CLBD", opening + sum(line.cents for line in lines), day)
    _summary(body, lines)
    for line in lines:
        _entry(body, account, line)
    return _bytes(root)


def notification(account: Account, id_: str, lines: Sequence[Line], made_ms: int) -> bytes:
    """The camt.054 of lines as they were booked; without balances, and the day need not be closed."""
    root = ET.Element("Document", xmlns=NS_054)
    message = ET.SubElement(root, "BkToCstmrDbtCdtNtfctn")
    _group_header(message, id_, made_ms)
    body = ET.SubElement(message, "Ntfctn")
    _text(body, "Id", id_)
    _text(body, "CreDtTm", _time(made_ms))
    _account(body, account)
    _summary(body, lines)
    for line in lines:
        _entry(body, account, line)
    return _bytes(root)


def _bytes(root: ET.Element) -> bytes:
    ET.indent(root, " ")
    text: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    return text + b"\n"


def _text(parent: ET.Element, path: str, text: str) -> ET.Element:
    """Adds nested elements by ``path`` and sets the text of the last."""
    for name in path.split("/"):
        parent = ET.SubElement(parent, name)
    parent.text = "".join(sign for sign in text if sign >= " " and sign not in "\ufffe\uffff")
    return parent


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _group_header(message: ET.Element, id_: str, made_ms: int) -> None:
    header = ET.SubElement(message, "GrpHdr")
    _text(header, "MsgId", id_)
    _text(header, "CreDtTm", _time(made_ms))


def _account(body: ET.Element, account: Account) -> None:
    element = ET.SubElement(body, "Acct")
    if account.iban:
        _text(element, "Id/IBAN", account.iban)
    else:
        _text(element, "Id/Othr/Id", account.id)
    _text(element, "Ccy", account.currency)
    _text(element, "Svcr/FinInstnId/BICFI", account.bic)


def _amount(parent: ET.Element, currency: str, cents: int) -> None:
    _text(parent, "Amt", text_of(abs(cents))).set("Ccy", currency)
    _text(parent, "CdtDbtInd", "DBIT" if cents < 0 else "CRDT")


def _balance(body: ET.Element, account: Account, code: str, cents: int, day: date) -> None:
    balance = ET.SubElement(body, "Bal")
    _text(balance, "Tp/CdOrPrtry/Cd", code)
    _amount(balance, account.currency, cents)
    _text(balance, "Dt/Dt", day.isoformat())


def _summary(body: ET.Element, lines: Sequence[Line]) -> None:
    summary = ET.SubElement(body, "TxsSummry")
    for name, chosen in (
        ("TtlNtries", list(lines)),
        ("TtlCdtNtries", [line for line in lines if line.cents >= 0]),
        ("TtlDbtNtries", [line for line in lines if line.cents < 0]),
    ):
        part = ET.SubElement(summary, name)
        _text(part, "NbOfNtries", str(len(chosen)))
        _text(part, "Sum", text_of(sum(abs(line.cents) for line in chosen)))


def _entry(body: ET.Element, account: Account, line: Line) -> None:
    entry = ET.SubElement(body, "Ntry")
    _text(entry, "NtryRef", line.entry_id)
    _amount(entry, account.currency, line.cents)
    if line.is_return:
        _text(entry, "RvslInd", "true")
    _text(entry, "Sts/Cd", "BOOK")
    _text(entry, "BookgDt/DtTm", _time(line.booked_ms))
    _text(entry, "ValDt/Dt", line.day.isoformat())
    _text(entry, "AcctSvcrRef", line.transfer_id)
    domain = ET.SubElement(ET.SubElement(entry, "BkTxCd"), "Domn")
    _text(domain, "Cd", "PMNT")
    family = ET.SubElement(domain, "Fmly")
    for name, code in zip(("Cd", "SubFmlyCd"), _family(line), strict=True):
        _text(family, name, code)
    details = ET.SubElement(ET.SubElement(entry, "NtryDtls"), "TxDtls")
    refs = ET.SubElement(details, "Refs")
    _text(refs, "AcctSvcrRef", line.transfer_id)
    _text(refs, "EndToEndId", line.reference or "NOTPROVIDED")
    _amount(details, account.currency, line.cents)
    parties = ET.SubElement(details, "RltdPties")
    side = "Dbtr" if line.cents >= 0 else "Cdtr"
    _text(parties, f"{side}/Pty/Nm", line.name)
    if line.account:
        where = "IBAN" if line.rail.startswith("sepa") else "Othr/Id"
        _text(parties, f"{side}Acct/Id/{where}", line.account)
    if line.text:
        _text(details, "RmtInf/Ustrd", line.text[:140])
    if line.code and line.is_return:
        _text(details, "RtrInf/Rsn/Cd", line.code)


def _family(line: Line) -> tuple[str, str]:
    """Bank transaction code: family and sub-family of the PMNT domain."""
    if line.rail == "internal":
        return "MCOP", "OTHR"
    if line.direction == "debit":
        return "IDDT", "UPDD" if line.is_return else "PMDD"
    instant = line.rail == "sepa_instant"
    issued = line.direction == "credit"
    family = ("IRCT" if instant else "ICDT") if issued else ("RRCT" if instant else "RCDT")
    return family, "RRTN" if line.is_return else "DMCT" if line.rail == "ach" else "ESCT"
