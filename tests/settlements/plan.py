"""What is asked for, and how the banks misbehave: both follow from the seed alone."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from typing import Any

from tests.e2e.client import NAMESPACE

TENANT = "default"
BANK_OF = {"ach": "bank-a", "sepa_instant": "bank-b", "sepa": "bank-b"}
FIAT_OF = {"ach": "USD", "sepa_instant": "EUR", "sepa": "EUR"}
TOKEN_OF = {"USD": "AUSD", "EUR": "AEUR"}
UNITS = 10_000
"""Minor units of a token (6 places) in a cent."""

PLAIN_CENTS = (0, 5, 10, 25, 40, 50, 75, 80)
"""None of them is a magic amount of the mock bank: what goes wrong is drawn by rate."""

# What befalls calls, inquiries and webhooks: basis points of each, and in each they add up to 3,000 = 30 %.
CALLS = {
    "error_before": 600,
    "error_after": 400,
    "timeout_before": 200,
    "timeout_after": 400,
    "late": 100,
    "rate_limited": 400,
    "cut_answer": 300,
    "html": 200,
    "huge": 50,
    "wrong_types": 150,
    "negative_amount": 100,
    "wrong_currency": 100,
}
INQUIRIES = {"inquiry_error": 1700, "inquiry_hang": 300, "stale_status": 1000}
WEBHOOKS = {"lost": 800, "duplicate": 800, "out_of_order": 500, "bad_signature": 300, "stale": 300, "cut": 300}
OUTCOMES = {"reject": 400, "return": 300, "one_cent_off": 100, "settled_twice": 200}
"""A tenth of all transfers goes another way than its sender wished."""
WHOLE = 0.3


def profile(faults: float, seed: int, *, outcomes: bool = True) -> dict[str, Any]:
    """A bank that misbehaves in this share of its calls, of its inquiries and of its webhooks."""
    rates = CALLS | INQUIRIES | WEBHOOKS | (OUTCOMES if outcomes else {}) | {"slow": 1000}
    scaled = {name: round(rate * faults / WHOLE) for name, rate in rates.items()}
    return {"name": "calm", "rates": scaled, "seed": seed % (1 << 31), "slow_ms": 300, "hang_ms": 3000}


def party(rail: str, number: int) -> dict[str, str]:
    """The other side of a payment, with a bank account."""
    bban = f"37040044{number:010}"
    check = 98 - int(f"{bban}131400") % 97  # ISO 13616; 1314 stands for DE
    account = f"021000021/{number:010}" if rail == "ach" else f"DE{check:02}{bban}"
    return {"name": "Bob Example", "account": account}


@dataclass(frozen=True, slots=True)
class Order:
    """One settlement: money in by a rail and minted, or tokens burnt and paid out."""

    kind: str  # deposit | withdrawal
    customer: str
    rail: str
    cents: int
    key: str
    is_early: bool = False  # of a push: the payer does not wait until we say that we expect it

    @property
    def id(self) -> str:
        """The transaction that it becomes."""
        return str(uuid.uuid5(NAMESPACE, f"{TENANT}/{self.customer}/{self.key}"))

    @property
    def number(self) -> int:
        """Of the other side's bank account: what a bank says of that is said of no other order."""
        return int(self.id[:8], 16)

    @property
    def fiat(self) -> str:
        """Its currency."""
        return FIAT_OF[self.rail]

    @property
    def amount(self) -> str:
        """As a client writes it."""
        return f"{self.cents // 100}.{self.cents % 100:02d}"

    def command(self) -> tuple[str, dict[str, Any]]:
        """Type and data of its command."""
        token_account = f"{self.customer}:{TOKEN_OF[self.fiat]}"
        if self.kind == "withdrawal":
            data = {"account_id": token_account, "amount": self.amount, "rail": self.rail}
            return "withdrawal.submit", data | {"beneficiary": party(self.rail, self.number)}
        data = {"account_id": f"{self.customer}:{self.fiat}", "amount": self.amount, "rail": self.rail}
        payer = {"payer": party("ach", self.number)} if self.rail == "ach" else {}
        return "deposit.submit", data | {"mint_to": token_account} | payer


def deposits(seed: int, count: int, customers: int) -> list[Order]:
    """Money that comes in: half is pushed by SCT Inst, half is pulled by ACH."""
    chance = random.Random(f"{seed}/deposits")
    return [
        Order(
            "deposit",
            f"s{chance.randrange(customers)}",
            chance.choice(("sepa_instant", "ach")),
            _cents(chance, 20, 90),
            _key(chance),
            chance.random() < 0.2,
        )
        for _ in range(count)
    ]


def withdrawals(seed: int, count: int, done: list[Order]) -> list[Order]:
    """Tokens that go out again, each of a deposit that was completed, and less than it brought."""
    chance = random.Random(f"{seed}/withdrawals")
    rails = {"USD": ("ach",), "EUR": ("sepa_instant", "sepa_instant", "sepa")}
    return [
        Order("withdrawal", one.customer, chance.choice(rails[one.fiat]), _cents(chance, 5, 15), _key(chance))
        for one in done[:count]
    ]


def _cents(chance: random.Random, low: int, high: int) -> int:
    return chance.randint(low, high) * 100 + chance.choice(PLAIN_CENTS)


def _key(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))
