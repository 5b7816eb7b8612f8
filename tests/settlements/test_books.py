"""The checker of settlements finds what it is for: each way in which books can differ is planted in good ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from aura_stream.domain.ids import bank_reference, chain_reference
from tests.settlements.books import Books, Chain, wrong

DEPOSIT, WITHDRAWAL = "89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa", "aec54451-49df-57b5-ab08-8d24ffda18ad"
MINT, BURN = chain_reference(DEPOSIT, "mint/1"), chain_reference(WITHDRAWAL, "burn")
CREDIT, PAYOUT = bank_reference(DEPOSIT, "deposit"), bank_reference(WITHDRAWAL, "payout")


def transaction(id_: str, type_: str, asset: str, amount: int) -> dict[str, Any]:
    by_bank = {"rail": "sepa_instant", "bank": "bank-b", "mint_to": "anna:AEUR"}
    return {
        "id": id_,
        "type": type_,
        "status": "completed",
        "state": "completed",
        "reason": "",
        "asset": asset,
        "amount": amount,
        "history": [{"by_bank": by_bank}],
    }


def transfer(reference: str, direction: str, cents: int) -> dict[str, Any]:
    return {
        "id": f"tr_{reference[:4]}",
        "reference": reference,
        "direction": direction,
        "cents": cents,
        "settled_cents": cents,
        "status": "settled",
        "accepted": 1,
    }


def attempt(number: int, lane: str, reference: str, kind: str, answer: str, status: int) -> dict[str, Any]:
    return {
        "id": WITHDRAWAL if reference == PAYOUT else DEPOSIT,
        "lane": lane,
        "reference": reference,
        "kind": kind,
        "number": number,
        "answer": answer,
        "status": status,
        "ended_at": "now",
        "breaker": "closed",
    }


def good() -> Books:
    """12.50 EUR came and were minted, 5.00 were burnt and paid out after an inquiry."""
    chain = "chain:local:AEUR"
    return Books(
        transactions={
            DEPOSIT: transaction(DEPOSIT, "deposit", "EUR", 1250),
            WITHDRAWAL: transaction(WITHDRAWAL, "withdrawal", "AEUR", 5_000_000),
        },
        balances={
            ("@bank:bank-b:trust:EUR", "available"): 750,
            ("@reserve:AEUR:EUR", "available"): -750,
            ("@custody:chain:local:AEUR", "available"): 7_500_000,
            ("anna:AEUR", "available"): -7_500_000,
        },
        journals={DEPOSIT: Counter({"deposit.completed EUR": 1}), WITHDRAWAL: Counter({"withdrawal.burnt AEUR": 1})},
        attempts=[
            attempt(1, chain, "0xaa", "broadcast", "taken", 0),
            attempt(1, "bank:bank-b", PAYOUT, "submit", "lost", 500),
            attempt(2, "bank:bank-b", PAYOUT, "inquire", "settled", 200),
        ],
        transfers={"bank-b": [transfer(CREDIT, "incoming", 1250), transfer(PAYOUT, "credit", 500)]},
        calls={"bank-b": [{"method": "POST", "reference": PAYOUT}, {"method": "GET", "reference": PAYOUT}]},
        bank_balances={("bank-b", "trust-eur"): 750, ("bank-b", "operating-eur"): 0},
        unbalanced={"bank-b": 0},
        tokens={"AEUR": Chain(7_500_000, 7_500_000, {MINT: [12_500_000]}, {BURN: [5_000_000]})},
    )


def test_good_books_are_found_good() -> None:
    assert wrong(good()) == []


def minted_twice(found: Books) -> None:
    found.tokens["AEUR"].minted[MINT].append(12_500_000)


def minted_under_a_second_reference(found: Books) -> None:
    found.tokens["AEUR"].minted[chain_reference(DEPOSIT, "mint/2")] = [12_500_000]


def minted_by_nobody(found: Books) -> None:
    found.tokens["AEUR"].minted["ab" * 32] = [1]


def paid_twice(found: Books) -> None:
    found.transfers["bank-b"].append(transfer(PAYOUT, "credit", 500))


def paid_and_not_burnt(found: Books) -> None:
    del found.tokens["AEUR"].burnt[BURN]


def paid_for_nobody(found: Books) -> None:
    found.transfers["bank-b"].append(transfer("cd" * 16, "credit", 500))


def completed_and_never_paid(found: Books) -> None:
    del found.transfers["bank-b"][1]


def completed_and_rejected(found: Books) -> None:
    found.transfers["bank-b"][1] |= {"status": "rejected", "settled_cents": None}


def failed_and_paid(found: Books) -> None:
    found.transactions[WITHDRAWAL] |= {"status": "failed", "state": "payout_rejected", "reason": "bank_rejected"}


def left_half_done(found: Books) -> None:
    found.transactions[DEPOSIT] |= {"status": "processing", "state": "mint_queued"}


def left_in_suspense(found: Books) -> None:
    found.transactions["x"] = transaction("x", "suspense", "EUR", 100)


def supply_is_off(found: Books) -> None:
    found.tokens["AEUR"].supply += 1


def custody_is_off(found: Books) -> None:
    found.tokens["AEUR"].custody -= 10_000


def trust_is_off(found: Books) -> None:
    found.bank_balances["bank-b", "trust-eur"] -= 1


def not_backed(found: Books) -> None:
    found.balances["@bank:bank-b:trust:EUR", "available"] -= 100
    found.bank_balances["bank-b", "trust-eur"] -= 100


def booked_twice(found: Books) -> None:
    found.journals[DEPOSIT]["deposit.completed EUR"] = 2


def a_call_of_nobody(found: Books) -> None:
    found.calls["bank-b"].append({"method": "POST", "reference": PAYOUT})


def an_answer_to_no_call(found: Books) -> None:
    del found.calls["bank-b"][0]


def an_attempt_without_end(found: Books) -> None:
    found.attempts[1]["ended_at"] = None


@pytest.mark.row("I10", "I11")
@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (minted_twice, "AEUR: minted 2 times"),
        (minted_under_a_second_reference, "minted [12500000, 12500000]"),
        (minted_by_nobody, "unknown reference"),
        (paid_twice, "acted 2 times"),
        (paid_and_not_burnt, "burnt []"),
        (paid_for_nobody, "by none of our transactions"),
        (completed_and_never_paid, "never taken"),
        (completed_and_rejected, "the bank's books say rejected"),
        (failed_and_paid, "the bank's books say settled"),
        (left_half_done, "left processing/mint_queued"),
        (left_in_suspense, "in suspense"),
        (supply_is_off, "B3, I10"),
        (custody_is_off, "B5"),
        (trust_is_off, "B4"),
        (not_backed, "B3 EUR"),
        (booked_twice, "2 journals of deposit.completed"),
        (a_call_of_nobody, "of which 1 were attempts of ours"),
        (an_answer_to_no_call, "which knows of 0 calls"),
        (an_attempt_without_end, "has no end"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_i10_i11_b3_b4_b5_what_is_planted_is_found(plant: Callable[[Books], None], told: str) -> None:
    books = good()
    plant(books)

    assert any(told in one for one in wrong(books)), wrong(books)
