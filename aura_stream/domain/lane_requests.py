"""What the ledger asks of lanes: the messages of `aura.bank-requests.v1` and `aura.chain-requests.v1`.

A request is written in the unit that decided it, to the partition of the lane's key. Lanes answer by signals
(`BankFact`, `ChainFact`, `Applied`). A request names the transaction it is for and carries a reference derived from
transaction and step: the same step asked for twice has the same reference, and is done once.
Amounts are integer minor units of the asset.
"""

from __future__ import annotations

import msgspec

from aura_stream.domain.pauses import Pause


class Instruct(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="instruct"):
    """Collect a debit or send a payout. `party_account` is an IBAN, or `<routing number>/<account number>`."""

    transaction_id: str
    tenant: str
    customer: str
    step: str  # debit | payout
    rail: str
    reference: str
    asset: str
    amount: int
    party_name: str
    party_account: str


class Expect(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="expect"):
    """A payment with this reference is expected; the lane keeps the reference, also after the deposit has expired."""

    transaction_id: str
    tenant: str
    customer: str
    rail: str
    reference: str
    asset: str
    amount: int


class Inquire(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="inquire"):
    """Ask the bank again what became of a reference (an operator's wish; the lane inquires by itself before that)."""

    transaction_id: str
    reference: str


class Mint(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="mint"):
    """Mint `amount` tokens to `to` ("" = our custody address), backed by as much fiat that has settled for it.

    The lane adds the amount to what may be minted and reserves it before it signs. What is withdrawn or fails for good
    takes its backing along.
    """

    transaction_id: str
    tenant: str
    customer: str
    reference: str
    token: str
    amount: int
    to: str = ""


class Burn(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="burn"):
    """Burn `amount` tokens of our custody address. For a return, they count as an open return until they are burnt."""

    transaction_id: str
    tenant: str
    customer: str
    reference: str
    token: str
    amount: int
    is_return: bool = False


class Withdraw(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="withdraw"):
    """Do not mint if nothing is signed yet: answered `withdrawn`, or not at all since `broadcast` is on its way."""

    transaction_id: str
    reference: str


class SetPause(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="pause"):
    """A pause was set, or lifted (`pause.lifted_at`); answered with `Applied` to partition `home` of the ledger."""

    pause: Pause
    home: int


class SetClock(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="clock"):
    """The time is `moved_ms` ahead of the records'; answered with `ClockTaken` to partition `home` of the ledger."""

    moved_ms: int
    home: int


class StatementRead(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="request", tag="statement"):
    """A bank's books were read to their end, at this time (ms); from its lane to those that mint against its money."""

    at: int


BankRequest = Instruct | Expect | Inquire | SetPause | SetClock
ChainRequest = Mint | Burn | Withdraw | StatementRead | SetPause | SetClock

ENCODE = msgspec.json.Encoder().encode
DECODE_BANK = msgspec.json.Decoder(BankRequest).decode
DECODE_CHAIN = msgspec.json.Decoder(ChainRequest).decode
