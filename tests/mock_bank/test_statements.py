"""camt.053 and camt.054: read as a stranger would, and added up."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from tests.mock_bank.conftest import Client

NS53 = {"c": "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"}
NS54 = {"c": "urn:iso:std:iso:20022:tech:xsd:camt.054.001.08"}
ENTRY_ORDER = ["NtryRef", "Amt", "CdtDbtInd", "RvslInd", "Sts", "BookgDt", "ValDt", "AcctSvcrRef", "BkTxCd", "NtryDtls"]


def cents(element: ET.Element, path: str, names: dict[str, str]) -> int:
    """A signed amount: of `path`/Amt, negative when its indicator says DBIT."""
    place = element.find(path, names) if path else element
    assert place is not None
    whole, _, part = (place.findtext("c:Amt", "", names)).partition(".")
    value = int(whole) * 100 + int(part)
    return -value if place.findtext("c:CdtDbtInd", "", names) == "DBIT" else value


def balances(body: bytes) -> dict[str, int]:
    """Opening and closing balance of a camt.053."""
    found = ET.fromstring(body).findall(".//c:Bal", NS53)
    return {bal.findtext("c:Tp/c:CdOrPrtry/c:Cd", "", NS53): cents(bal, "", NS53) for bal in found}


async def statement(client: Client, day: str, account: str = "trust-eur") -> Any:
    return await client.bank("GET", "/statements/camt.053", account_id=account, date=day)


async def test_days_follow_each_other_and_each_adds_up(client: Client) -> None:
    await client.fund("100.00", reference="in-1", remittance="Invoice <4711> & more")
    await client.sepa("out-1", "40.22")
    await client.pass_time(days=7)

    opening, seen = 0, []
    for day in ("2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26"):
        body = (await statement(client, day)).body
        root = ET.fromstring(body)
        entries = root.findall(".//c:Ntry", NS53)
        amounts = [cents(entry, "", NS53) for entry in entries]
        both = balances(body)
        assert both["OPBD"] == opening and both["CLBD"] == opening + sum(amounts)
        assert root.findtext(".//c:TxsSummry/c:TtlNtries/c:NbOfNtries", "", NS53) == str(len(entries))
        for entry in entries:
            order = [ENTRY_ORDER.index(child.tag.partition("}")[2]) for child in entry]
            assert order == sorted(order)
            assert entry.findtext("c:Sts/c:Cd", "", NS53) == "BOOK"
            seen.append((entry.findtext(".//c:EndToEndId", "", NS53), cents(entry, "", NS53)))
        opening = both["CLBD"]

    assert seen == [("in-1", 10_000), ("out-1", -4_022), ("out-1", 4_022)]
    assert opening == 10_000


async def test_entry_says_what_it_is(client: Client) -> None:
    await client.fund("100.00", reference="in-1", remittance="Invoice <4711> & more")
    await client.sepa("out-1", "40.22")
    await client.pass_time(days=7)
    entries = []
    for day in range(20, 27):
        root = ET.fromstring((await statement(client, f"2026-11-{day}")).body)
        entries += root.findall(".//c:Ntry", NS53)

    family = [
        (entry.findtext(".//c:Fmly/c:Cd", "", NS53), entry.findtext(".//c:SubFmlyCd", "", NS53)) for entry in entries
    ]
    assert family == [("RCDT", "ESCT"), ("ICDT", "ESCT"), ("ICDT", "RRTN")]
    assert entries[0].findtext(".//c:Ustrd", "", NS53) == "Invoice <4711> & more"
    assert entries[2].findtext(".//c:RtrInf/c:Rsn/c:Cd", "", NS53) == "AC04"
    assert entries[2].findtext("c:RvslInd", "", NS53) == "true" and entries[1].find("c:RvslInd", NS53) is None
    assert entries[1].findtext(".//c:Cdtr/c:Pty/c:Nm", "", NS53) == "Bob Example"


async def test_day_is_closed_by_the_clock_of_the_accounts_zone_and_then_never_changes(client: Client) -> None:
    await client.fund("1.00")
    await client.fund("1.00", "trust-usd")
    assert (await statement(client, "2026-11-20")).body["code"] == "day_not_closed"
    await client.pass_time(9 * 3_600)  # midnight in Frankfurt, six in the evening in New York
    first = await statement(client, "2026-11-20")
    assert first.status == 200
    assert (await statement(client, "2026-11-20", "trust-usd")).status == 409

    await client.fund("7.00")
    await client.pass_time(days=3)
    assert (await statement(client, "2026-11-20")).body == first.body
    assert (await statement(client, "2026-11-20", "trust-usd")).status == 200
    assert (await statement(client, "2026-02-30")).status == 400
    assert (await statement(client, "2026-11-20", "trust-gbp")).status == 404


async def test_notification_shows_the_open_day(client: Client) -> None:
    query = {"account_id": "trust-eur", "date": "2026-11-20"}
    for count in range(3):
        body = (await client.bank("GET", "/statements/camt.054", **query)).body
        assert len(ET.fromstring(body).findall(".//c:Ntry", NS54)) == count
        await client.fund("1.00")


async def test_internal_transfer_is_on_both_statements(client: Client) -> None:
    await client.fund("10.00")
    body = {"reference": "int-1", "account_id": "trust-eur", "to_account_id": "operating-eur"}
    moved = await client.bank("POST", "/internal-transfers", body | {"amount": "4.00", "currency": "EUR"})
    assert (moved.status, moved.body["status"]) == (201, "settled")
    short = body | {"reference": "int-2", "amount": "6.01", "currency": "EUR"}
    assert (await client.bank("POST", "/internal-transfers", short)).body["code"] == "AM04"
    wrong = body | {"reference": "int-3", "amount": "1.00", "currency": "USD"}
    assert (await client.bank("POST", "/internal-transfers", wrong)).body["code"] == "currency_mismatch"
    await client.pass_time(days=1)

    closing = [
        balances((await statement(client, "2026-11-20", name)).body)["CLBD"] for name in ("trust-eur", "operating-eur")
    ]
    assert closing == [600, 400]
