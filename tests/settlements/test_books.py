"""The checker of settlements finds what it is for: each way in which books can differ is planted in good ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from aura_stream.domain.ids import bank_reference, chain_reference
from tests.settlements.books import Books, Chain, unbacked, wrong

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


def asked_for_another_amount(found: Books) -> None:
    found.transfers["bank-b"][1] |= {"cents": 499, "settled_cents": 499}


def completed_and_never_minted(found: Books) -> None:
    del found.tokens["AEUR"].minted[MINT]


def failed_and_minted(found: Books) -> None:
    found.transactions[DEPOSIT] |= {"status": "failed", "state": "rejected", "reason": "bank_rejected"}


def burnt_for_a_return_and_never_minted(found: Books) -> None:
    found.transactions[DEPOSIT] |= {"status": "returned", "state": "returned", "reason": "bank_returned"}
    found.transfers["bank-b"][0] |= {"status": "returned"}
    found.tokens["AEUR"].burnt[chain_reference(DEPOSIT, "return/1")] = [12_500_001]


def burnt_twice(found: Books) -> None:
    found.tokens["AEUR"].burnt[BURN].append(5_000_000)


def burnt_by_nobody(found: Books) -> None:
    found.tokens["AEUR"].burnt["ab" * 32] = [1]


def minted_for_a_withdrawal(found: Books) -> None:
    found.tokens["AEUR"].minted[chain_reference(WITHDRAWAL, "mint/1")] = [5_000_000]


def logs_are_not_the_supply(found: Books) -> None:
    found.tokens["AEUR"].minted[MINT] = [12_500_001]


def credited_and_in_no_block(found: Books) -> None:
    found.balances["@custody:chain:local:AEUR", "available"] -= 1_000_000
    found.balances["@custody:chain:local:unconfirmed:AEUR", "available"] = 1_000_000


def customers_have_more_than_our_address(found: Books) -> None:
    found.balances["anna:AEUR", "available"] -= 1


def the_banks_own_books_are_off(found: Books) -> None:
    found.unbalanced["bank-b"] = 1


def an_attempt_of_nobody(found: Books) -> None:
    found.attempts[1]["id"] = "6b1fd34c-0b4b-55ea-8cf5-1bb74f0d7a7e"


def an_end_without_an_answer(found: Books) -> None:
    found.attempts[1]["answer"] = ""


def a_breaker_that_is_none(found: Books) -> None:
    found.attempts[1]["breaker"] = ""


@pytest.mark.row("I10", "I11")
@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (asked_for_another_amount, "asked for 499 cents, the customer asked for 500"),
        (completed_and_never_minted, "the chain has no mint of it"),
        (failed_and_minted, "12500000 units of it are on the chain"),
        (burnt_for_a_return_and_never_minted, "burnt [12500001] for its return"),
        (burnt_twice, "AEUR: burnt 2 times"),
        (burnt_by_nobody, "AEUR: burnt by the unknown reference"),
        (minted_for_a_withdrawal, "a withdrawal has minted [5000000]"),
        (logs_are_not_the_supply, "minted and not burnt are 7500001"),
        (credited_and_in_no_block, "1000000 units are credited and in no block"),
        (customers_have_more_than_our_address, "our address holds 7500000 and customers have 7500001"),
        (the_banks_own_books_are_off, "1 of its own journals do not add up"),
        (an_attempt_of_nobody, "is of the unknown transaction 6b1fd34c"),
        (an_end_without_an_answer, "has an end and no answer"),
        (a_breaker_that_is_none, "was made while the breaker was ''"),
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


@pytest.mark.row("I10", "I11")
def test_b3_i11_what_was_minted_before_it_was_paid_is_found_at_that_moment() -> None:
    def at_a_moment(*rows: dict[str, Any], **minted: int) -> list[str]:
        logs = {chain_reference(DEPOSIT, name.replace("_", "/")): [amount] for name, amount in minted.items()}
        banks = {"bank-b": [one | {"currency": "EUR"} for one in rows]}
        return list(unbacked({"AEUR": Chain(minted=logs)}, banks, {DEPOSIT: "bank-b"}))

    came, other = transfer(CREDIT, "incoming", 1250), transfer("ab" * 16, "incoming", 1250)
    assert at_a_moment() == at_a_moment(came) == at_a_moment(came, mint_1=12_500_000) == []
    assert at_a_moment(came, other, mint_2=12_500_000) == []  # after a first one that could not land
    early, of_it = at_a_moment(came | {"settled_cents": None}, mint_1=12_500_000)
    assert "AEUR: 12500000 units were minted when 0 cents had settled" in early and DEPOSIT in of_it
    (of_it,) = at_a_moment(other, mint_1=12_500_000)  # another's money came, and in all it is enough
    assert f"units of {DEPOSIT} were minted when 0 cents of it had come" in of_it
    assert len(at_a_moment(came, mint_1=12_500_001)) == 2
    (of_it,) = at_a_moment(came, other, mint_1=12_500_000, mint_2=12_500_000)
    assert "25000000 units" in of_it
    assert at_a_moment(transfer(PAYOUT, "credit", 1250), mint_1=1) != []  # what went out is not what came
