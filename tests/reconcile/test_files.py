"""Files from outside: what is read, what is refused whole, and what importing one again or another one does."""

from __future__ import annotations

import asyncio
from datetime import date, datetime
from typing import Any

import pytest

from aura_stream.mock_bank.nacha import Addenda, Batch, File, render
from aura_stream.mock_bank.nacha import Entry as NachaEntry
from aura_stream.reconcile.camt053 import Unreadable, read
from aura_stream.reconcile.returns import Return, read_returns
from tests.reconcile.conftest import Desk

HEAD = '<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><BkToCstmrStmt>'
TAIL = "</BkToCstmrStmt></Document>"


def balance(code: str, amount: str, day: str = "2026-11-20", sign: str = "CRDT") -> str:
    return (
        f'<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp><Amt Ccy="EUR">{amount}</Amt>'
        f"<CdtDbtInd>{sign}</CdtDbtInd><Dt><Dt>{day}</Dt></Dt></Bal>"
    )


def entry(amount: str, more: str = "", sign: str = "CRDT", status: str = "<Sts><Cd>BOOK</Cd></Sts>") -> str:
    return (
        f'<Ntry><NtryRef>1</NtryRef><Amt Ccy="EUR">{amount}</Amt><CdtDbtInd>{sign}</CdtDbtInd>{status}'
        f"<ValDt><Dt>2026-11-20</Dt></ValDt><AcctSvcrRef>B-1</AcctSvcrRef>{more}</Ntry>"
    )


def details(reference: str, amount: str = "", more: str = "") -> str:
    money = f'<Amt Ccy="EUR">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd>' if amount else ""
    return f"<TxDtls><Refs><EndToEndId>{reference}</EndToEndId></Refs>{money}{more}</TxDtls>"


def statement(*entries: str, opening: str = "0", closing: str = "0.00", id_: str = "S-1", iban: str = "DE1") -> bytes:
    balances = balance("OPBD", opening) + balance("CLBD", closing)
    account = f"<Acct><Id><IBAN>{iban}</IBAN></Id><Ccy>EUR</Ccy></Acct>"
    return f"{HEAD}<Stmt><Id>{id_}</Id>{account}{balances}{''.join(entries)}</Stmt>{TAIL}".encode()


def test_a13_a_batch_is_its_parts_and_what_is_pending_is_nothing() -> None:
    batch = f"<NtryDtls>{details('a', '1.00')}{details('b', '2.5')}</NtryDtls>"
    back = f"<NtryDtls>{details('NOTPROVIDED', more='<RtrInf><Rsn><Cd>AC04</Cd></Rsn></RtrInf>')}</NtryDtls>"
    pending = entry("9.00", status="<Sts>PDNG</Sts>")
    (one,) = read(statement(entry("3.50", batch), entry("0.30", back, "DBIT"), pending, closing="3.20"))

    assert (one.id, one.account, one.currency, one.day, one.opening, one.closing) == (
        *("S-1", "DE1", "EUR", date(2026, 11, 20)),
        *(0, 320),
    )
    assert [(line.amount, line.reference, line.bank_reference, line.is_return, line.code) for line in one.lines] == [
        (100, "a", "B-1", False, ""),
        (250, "b", "B-1", False, ""),
        (-30, "", "B-1", True, "AC04"),
    ]


BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><a>&b;</a></Document>"""
FILE_READER = b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"><a>&a;</a></Document>"""


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (BOMB, "document type"),
        (FILE_READER, "document type"),
        (b"", "no whole XML"),
        (statement(entry("1.00"), closing="1.00")[:-40], "no whole XML"),
        (statement().replace(b"camt.053", b"camt.054"), "not the Document"),
        (f"{HEAD}{TAIL}".encode(), "no statement"),
        (statement().replace(b"CLBD", b"CLAV"), "no closing"),
        (statement(entry("1,00")), "amount '1,00'"),
        (statement(entry("1.005")), "amount '1.005'"),
        (statement(entry("NaN")), "amount"),
        (statement(entry("1.00").replace('Ccy="EUR"', 'Ccy="XXX"')), "no asset"),
        (statement(entry("1.00").replace('Ccy="EUR"', 'Ccy="USD"')), "is in USD"),
        (statement(entry("1.00", sign="BOTH")), "neither CRDT nor DBIT"),
        (statement(entry("1.00").replace("2026-11-20", "2026-11-32")), "the date"),
        (statement(entry("3.00", f"<NtryDtls>{details('a', '1')}{details('b', '1')}</NtryDtls>")), "details make 200"),
        (statement(b"\xff".decode("latin1")).replace(b"<Document", b"\xff<Document"), "XML"),
    ],
)
def test_sec34_n49_what_is_not_wholly_a_statement_is_refused_whole(file: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(file)


def test_a_fraction_of_zeros_is_the_same_amount_and_the_same_content() -> None:
    (short,), (long,) = read(statement(entry("1"), closing="1")), read(statement(entry("1.00000"), closing="1.00"))

    assert short.content_hash == long.content_hash
    (other,) = read(statement(entry("1.01"), closing="1.00"))
    assert other.content_hash != short.content_hash


async def test_importing_a_statement_again_has_no_effect_and_another_of_its_id_is_a_break(desk: Desk) -> None:
    await desk.books.moved("d1", 100)
    one = f"<NtryDtls>{details(desk.books.reference('d1'))}</NtryDtls>"
    right = statement(entry("1.00", one), closing="1.00")

    async def run(file: bytes) -> Any:
        return await desk.run(logins=[], files=[("bank-a", "trust", file)])

    assert ((await run(right)).imported, (await run(right)).imported) == (1, 0)
    # The same content in another layout is the same statement.
    assert (await run(right.replace(b"<Bal>", b"\n  <Bal>"))).known == 1
    assert await desk.breaks() == []

    wrong = await run(statement(entry("1.00", one), entry("5.00"), closing="6.00"))
    assert wrong.contradicting == 1
    (found,) = await desk.breaks()
    assert (found["kind"], found["amount"]) == ("statement_changed", 500)
    assert wrong.report["accounts"][0]["closing_balance"] == "1.00"
    again = await run(statement(entry("1.00", one), entry("5.00"), closing="6.00"))
    assert (again.known, again.opened, len(await desk.breaks())) == (1, [], 1)


async def test_a13_runs_at_once_keep_each_statement_once(desk: Desk) -> None:
    days = [f"2026-11-{day:02}" for day in range(1, 13)]
    content = [statement(id_=day).replace(b"2026-11-20", day.encode()) for day in days]
    files = [("bank-a", "trust", one) for one in content]

    runs = await asyncio.gather(*[desk.run(logins=[], files=files) for _ in range(3)])

    assert [sum(outcomes) for outcomes in zip(*[(run.imported, run.known) for run in runs], strict=True)] == [12, 24]
    assert await desk.breaks() == []


async def test_a_statement_of_another_account_is_not_taken(desk: Desk) -> None:
    await desk.run(logins=[], files=[("bank-a", "trust", statement())])
    other = statement(id_="S-2", iban="DE2").replace(b"2026-11-20", b"2026-11-21")

    outcome = await desk.run(logins=[], files=[("bank-a", "trust", other)])

    assert outcome.imported == 0 and "is of DE2, those before it were of DE1" in outcome.problems[0]


def returns_file(*entries: tuple[str, str, int, int], kind: str = "99") -> bytes:
    """A file of returns: reference, code, cents, transaction code."""
    made = [
        NachaEntry(
            code=code_of_entry,
            routing="091000022",
            account="1",
            cents=cents,
            reference=reference,
            name="Bob",
            trace=f"02100002{number:07d}",
            addenda=(Addenda(kind=kind, code=code, original_trace="0" * 15, original_routing="02100002"),),  # type: ignore[arg-type]  # of a test
        )
        for number, (reference, code, cents, code_of_entry) in enumerate(entries, 1)
    ]
    batch = Batch(
        company="AURA",
        company_id="1234567890",
        sec="PPD",
        description="PAYMENT",
        effective=date(2026, 11, 20),
        odfi="09100002",
        entries=tuple(made),
    )
    file = File(
        destination="091000022",
        origin="021000021",
        destination_name="BANK-A",
        origin_name="ACH OPERATOR",
        created=datetime(2026, 11, 20, 9),  # noqa: DTZ001 - as a file has it
        modifier="A",
        batches=(batch,),
    )
    return render(file).encode()


def test_a13_returns_of_both_directions_are_read_with_their_sign() -> None:
    file = returns_file(("DEPOSIT-1", "R01", 1022, 26), ("PAYOUT-1", "R03", 500, 21))

    assert read_returns(file) == [
        Return(reference="DEPOSIT-1", code="R01", amount=-1022, day=date(2026, 11, 20)),
        Return(reference="PAYOUT-1", code="R03", amount=500, day=date(2026, 11, 20)),
    ]


@pytest.mark.parametrize("cut", [1, 94, 95, 300, 475, 800, 949])
def test_sec34_a_file_of_returns_that_is_cut_is_refused(cut: int) -> None:
    file = returns_file(("DEPOSIT-1", "R01", 1022, 26))
    assert len(file) in (950, 949)

    with pytest.raises(Unreadable):
        read_returns(file[:cut] if cut < len(file) - 1 else file[:-2])


@pytest.mark.parametrize(
    ("record", "start", "told"),
    [
        (2, 29, "debits"),  # an amount
        (2, 5, "entry hash"),  # a bank
        (2, 2, "no return"),  # a direction
        (4, 9, "number of records"),
        (4, 19, "entry hash"),
        (4, 31, "debits"),
        (4, 43, "credits"),
        (4, 93, "ends the batch"),
        (5, 6, "batches"),
        (5, 12, "blocks"),
        (5, 20, "number of records"),
        (5, 30, "entry hash"),
        (5, 42, "debits"),
        (5, 54, "credits"),
    ],
)
def test_sec34_a_file_of_returns_with_one_other_digit_is_refused(record: int, start: int, told: str) -> None:
    lines = returns_file(("DEPOSIT-1", "R01", 1022, 26)).decode().split("\n")
    assert read_returns("\n".join(lines).encode())
    digit = lines[record][start]
    lines[record] = lines[record][:start] + str((int(digit) + 1) % 10) + lines[record][start + 1 :]

    with pytest.raises(Unreadable, match=told):
        read_returns("\n".join(lines).encode())


@pytest.mark.parametrize("left_out", [1, 2, 4])
def test_sec34_a_file_of_returns_that_lacks_a_record_is_refused(left_out: int) -> None:
    lines = returns_file(("DEPOSIT-1", "R01", 1022, 26)).decode().split("\n")
    lines.insert(-1, "9" * 94)
    del lines[left_out]

    with pytest.raises(Unreadable):
        read_returns("\n".join(lines).encode())


async def test_a13_a_return_that_no_statement_has_is_a_break_until_one_has_it(desk: Desk) -> None:
    file = returns_file(("DEPOSIT-1", "R01", 1022, 26))
    await desk.books.moved("seed", 5, currency="USD")
    first = await desk.run(logins=[], return_files=[("bank-a", file)])
    again = await desk.run(logins=[], return_files=[("bank-a", file)])
    assert (first.returns, again.returns, await desk.breaks()) == (1, 0, [])

    await desk.bank.fund("0.05", "trust-usd", reference=desk.books.reference("seed")[:15])
    await desk.bank.pass_time(days=3)
    await desk.run()
    (found,) = [one for one in await desk.breaks() if one["kind"] == "return_not_booked"]
    assert (found["amount"], found["reference"]) == (-1022, "DEPOSIT-1")
    assert "R01 on 2026-11-20" in found["detail"]


async def test_a13_a_return_of_the_banks_own_file_is_on_its_statement_too(desk: Desk) -> None:
    sent = await desk.bank.ach("DEPOSIT-1", "10.22", direction="debit")
    reference = {"bank_reference_": sent.body["id"]}
    await desk.books.moved("d1", 1022, currency="USD", **reference)
    against = "@receivable:returns:USD"
    await desk.books.moved("d1-back", -1022, currency="USD", kind="deposit.returned", against=against, **reference)
    await desk.bank.pass_time(days=12)

    outcome = await desk.run()

    assert (outcome.returns, outcome.matched, await desk.breaks()) == (1, 2, [])
