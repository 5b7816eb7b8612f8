"""The sandbox's table of magic amounts and names, line by line, through the product: what becomes of each of them, and
what was tried for it. The banks are heard by their webhooks alone, until what no webhook tells is asked for."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pytest

from aura_stream.domain.ids import bank_reference
from aura_stream.mock_bank.faults import MAGIC_ANY, MAGIC_RETURN
from tests.connectors.test_banks import IBAN, funded
from tests.connectors.town import Town, soon

pytestmark = pytest.mark.timeout(400)  # starting a town is a part of its first test

DAY_S: Final = 24 * 60 * 60
BOB: Final = "Bob Example"
Row = tuple[str, str, str]  # status, state, reason


class Line(NamedTuple):
    """How a transaction of this amount or name ends, and the answers to its calls; the last of "inquire" repeat."""

    row: Row
    calls: tuple[str, ...] = ("submit accepted",)
    back: bool = False
    """Whether the customer has its money as it was before."""


DONE: Final = ("completed", "completed", "")
UNKNOWN: Final = ("submit lost", "inquire accepted")
OFTEN: Final[dict[int | str, Line]] = {
    0: Line(DONE),
    2: Line(DONE),
    13: Line(DONE),
    14: Line(DONE),
    15: Line(DONE),
    55: Line(DONE, UNKNOWN),
    56: Line(DONE, UNKNOWN),
    57: Line(DONE, ("submit lost", "inquire not_found", "submit accepted")),
    58: Line(DONE, UNKNOWN),
    66: Line(DONE),
    77: Line(DONE),
    88: Line(DONE, ("submit not_processed", "submit not_processed", "submit accepted")),
    99: Line(DONE),
}
REJECTED: Final = ("failed", "rejected", "bank_rejected")
RETURNED: Final = ("returned", "returned", "bank_returned")

DEBITS: Final[dict[int | str, Line]] = {
    **OFTEN,
    1: Line(("processing", "submitted", ""), back=True),
    11: Line(REJECTED, ("submit rejected",), back=True),
    12: Line(("requires_attention", "submitted", "amount_mismatch"), back=True),
    22: Line(RETURNED, back=True),
    33: Line(RETURNED, back=True),
    44: Line(RETURNED, back=True),
    "RETURN R29": Line(RETURNED, back=True),
    "REJECT R02": Line(REJECTED, back=True),
    "NOC C01": Line(DONE),
    "FAULT settled_twice": Line(DONE),
    "Maria Review": Line(("requires_approval", "requires_approval", ""), (), back=True),
    "Dora Denied": Line(("failed", "refused", "screening_blocked"), (), back=True),
}
"""We collect by ACH."""
PAYOUTS: Final[dict[int | str, Line]] = {
    **OFTEN,
    1: Line(("processing", "payout_submitted", "")),
    11: Line(("failed", "payout_rejected", "bank_rejected"), ("submit rejected",), back=True),
    12: Line(("requires_attention", "payout_submitted", "amount_mismatch")),
    22: Line(("returned", "payout_returned", "bank_returned"), back=True),
    33: Line(("failed", "payout_rejected", "bank_rejected"), back=True),
    44: Line(DONE),  # what is recalled is money that was pushed to us
    "RETURN AC06": Line(("returned", "payout_returned", "bank_returned"), back=True),
    "REJECT AC01": Line(("failed", "payout_rejected", "bank_rejected"), back=True),
    # A time-out somewhere is no answer: the bank is asked, and says it again.
    "REJECT AB05": Line(
        ("failed", "payout_rejected", "bank_rejected"), ("submit accepted", "inquire rejected"), back=True
    ),
    "Maria Review": Line(("requires_approval", "requires_approval", ""), ()),
    "Dora Denied": Line(("failed", "refused", "screening_blocked"), (), back=True),
}
"""We pay by SCT Inst."""
WAITS: Final = ("processing", "awaiting_funds", "")
PUSHES: Final[dict[int | str, Line]] = {
    **{cents: Line(DONE, ()) for cents in (0, 13, 14, 15, 66, 77, 99)},
    1: Line(WAITS, (), back=True),
    11: Line(WAITS, (), back=True),
    12: Line(("requires_attention", "awaiting_funds", "amount_mismatch"), (), back=True),
    22: Line(RETURNED, (), back=True),
    33: Line(WAITS, (), back=True),
    44: Line(RETURNED, (), back=True),
}
"""Somebody sends us money by SEPA; no call of ours, so nothing befalls one."""
CALL_FAULTS: Final = {2, 55, 56, 57, 58, 88}


def test_l51_every_magic_amount_has_its_lines_here() -> None:
    known = {*MAGIC_ANY, *(cents for _, cents in MAGIC_RETURN)}
    for table, missing in ((DEBITS, set()), (PAYOUTS, set()), (PUSHES, CALL_FAULTS)):
        assert {one for one in table if isinstance(one, int)} == {0, *known} - missing


def amount_of(what: int | str, more: int) -> tuple[str, str]:
    """Amount and name of a line; whole parts tell lines apart."""
    return (f"{more}.{what:02d}", BOB) if isinstance(what, int) else (f"{more}.00", what)


@pytest.mark.row("A13", "L49", "L51", "A15", "N20", "N29", "N30", "N31")
async def test_a13_l49_l51_each_magic_amount_and_name_ends_as_its_line_says_and_shows_what_was_tried(
    town: Town,
) -> None:
    await town.terminate("bank-0")
    await town.start("bank", AURA_BANK_POLL_S="3600")  # from now on webhooks alone
    await funded(town, "payer", "2000.00")
    expected: dict[str, tuple[str, Line, str]] = {}  # transaction -> what it is, its line, the account
    amounts: dict[str, str] = {}
    for n, (what, line) in enumerate(DEBITS.items()):
        amount, name = amount_of(what, 10 + n)
        await town.customer(f"debit{n}", "USD")
        account, payer = f"debit{n}:USD", {"name": name, "account": "021000021/123456789"}
        asked: dict[str, Any] = {"account_id": account, "amount": amount, "rail": "ach", "payer": payer}
        id_ = await town.send("deposit.submit", f"debit{n}", asked)
        expected[id_], amounts[id_] = (f"debit of {amount} from {name}", line, account), amount
    for n, (what, line) in enumerate(PUSHES.items()):
        amount, _ = amount_of(what, 10 + n)
        await town.customer(f"push{n}", "EUR")
        asked = {"account_id": f"push{n}:EUR", "amount": amount, "rail": "sepa"}
        id_ = await town.send("deposit.submit", f"push{n}", asked)
        expected[id_], amounts[id_] = (f"push of {amount}", line, f"push{n}:EUR"), amount
        await town.reaches(id_, "awaiting_funds")
        await town.push(bank_reference(id_, "deposit"), amount, "sepa")
    for n, (what, line) in enumerate(PAYOUTS.items()):
        amount, name = amount_of(what, 10 + n)
        beneficiary = {"name": name, "account": IBAN}
        asked = {"account_id": "payer:EUR", "amount": amount, "rail": "sepa_instant", "beneficiary": beneficiary}
        id_ = await town.send("withdrawal.submit", "payer", asked)
        expected[id_], amounts[id_] = (f"payout of {amount} to {name}", line, ""), amount

    async def is_out(id_: str) -> str:
        what = expected[id_][0]
        row = await town.transaction(id_)
        return f"{what} is {row}" if row[1] in ("", "submitting", "payout_submitting") else ""

    async def all_are_out() -> str:
        return "; ".join([why for id_ in expected if (why := await is_out(id_))])

    await soon(all_are_out, "each has a definite answer of its bank", town, 90)
    for id_, (_, line, _) in expected.items():
        if line.calls[1:] == ("inquire rejected",):
            # What is asked for afterwards is asked within the day in which a bank knows its references.
            await town.reaches(id_, line.row[1])
    await town.pass_time(12 * DAY_S)

    silent = {id_ for id_ in expected if amounts[id_].endswith(".99")}

    async def others(ids: set[str]) -> str:
        found = [(expected[id_], await town.transaction(id_)) for id_ in sorted(ids)]
        return "; ".join(f"{what} is {row}, not {line.row}" for (what, line, _), row in found if row != line.row)

    await soon(lambda: others(expected.keys() - silent), "the bank's webhooks have told of all others", town, 90)
    for id_ in silent:  # .99: no webhook ever comes
        assert (await town.transaction(id_))[1] in ("submitted", "awaiting_funds", "payout_submitted"), expected[id_]
    await town.terminate("bank-0")
    await town.start("bank")
    await soon(lambda: others(silent), "what no webhook has told is found by asking", town)

    left = 200_000
    for id_, (what, line, account) in expected.items():
        cents = int(amounts[id_].replace(".", ""))
        shown = await town.http("GET", f"/v1/transactions/{id_}")
        tried = shown.get("attempts", [])
        told = [f"{one['kind']} {one['answer']}" for one in tried]
        inquired = [one for one in told if one.startswith("inquire")]
        kinds = [one.partition(" ")[0] for one in line.calls]
        if "inquire" not in kinds:
            assert tuple(told) == line.calls, what
        else:
            # How often it is asked hangs on the time, how it ends does not. A webhook may spare the question.
            assert [one for one in told if one.startswith("submit")] == [
                one for one in line.calls if one.startswith("submit")
            ], (what, told)
            answers = [one.replace("settled", "accepted") for one in inquired]
            assert answers[-1:] == [line.calls[1]] or (not answers and line.calls == UNKNOWN), (what, told)
        for one in tried:
            assert one["reference"] and one["breaker"] in ("closed", "open", "half_open"), what
            assert one["started_at"] <= one["ended_at"] and one["took_ms"] >= 0, what
        if told:
            bank = "bank-a" if account else "bank-b"
            book = await town.at_bank(bank, tried[0]["reference"])
            refused = told == ["submit rejected"]
            assert (book["acted"], len({one["reference"] for one in tried})) == (0 if refused else 1, 1), what
        if account:
            assert await town.balance(account) == (0 if line.back else cents), what
        elif not line.back:
            left -= cents
    assert await town.balance("payer:EUR") == left
    for bank in ("bank-a", "bank-b"):
        books = await town.operator("GET", f"/v1/simulate/banks/{bank}/books")
        assert (books["max_acted"], books["balanced"]) == (1, True)
