"""What is played between customers, banks and the chain: stories from a seed, with the end of each known beforehand.

Pure: the same seed tells the same stories. Each has a customer of its own, so that none hangs on another. Amounts and
names make the mock bank do what it does (its magic table); what befalls calls and webhooks changes no end.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aura_stream.demo.cast import TENANTS
from aura_stream.demo.steps import MAKES, Door, Expect, Step, transaction_id
from aura_stream.domain.ids import bank_reference
from aura_stream.domain.settlement import RAILS

FIRST_NUMBER: Final = 100_000_000
"""Of steps: beyond those of the plan."""
BANKS: Final = {"ach": "bank-a", "sepa": "bank-b", "sepa_instant": "bank-b"}
MAKER, CHECKER = "clara", "otto"
"""Who asks for what a second person must approve, and that person."""
OUTSIDE: Final = "0x52908400098527886E0F7030069857D2E4169EE7"
"""An address on the chain that is not ours."""
IBAN: Final = "DE89370400440532013000"
OTHER_IBAN: Final = "FR1420041010050500013M02606"
ACH_ACCOUNT: Final = "021000021/123456789"

CALL_FAULTS: Final = (2, 55, 56, 58, 88)
"""Cents: slow; no answer, an error or half an answer although it was done; twice unavailable."""
NEWS_FAULTS: Final = (13, 14, 15, 66, 77, 99)
"""Cents: news with a wrong signature, too old, cut, twice, out of order, never."""
PLAIN: Final = (0, 5, 10, 20, 25, 30, 40, 50, 60, 75, 80, 90)

_DOORS: Final[tuple[Door, ...]] = ("kafka", "kafka", "http")

WAITS_FOR_MONEY: Final = frozenset({"awaiting_funds"})
WAITS_FOR_APPROVAL: Final = frozenset({"requires_approval"})
WAITS_FOR_PERSON: Final = frozenset({"requires_attention"})
COMPLETED: Final = frozenset({"completed"})
PAYOUT_BACK: Final = frozenset({"payout_rejected", "payout_returned"})


class Payment(NamedTuple):
    """What a payer sends from his bank."""

    bank: str
    rail: str
    amount: str
    reference: str
    name: str


class When(NamedTuple):
    """It is time for an act when a transaction has one of these states or statuses."""

    transaction: str
    states: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What must become of a transaction. `end` is a name of `settled.ENDS`; amounts are cents."""

    transaction: str
    tenant: str
    customer: str
    is_payout: bool
    rail: str
    """"" = no bank has a part in it: tokens are made again from what came back."""
    fiat: str
    token: str
    """"" = it stays money at the bank."""
    amount: int
    end: str
    address: str = ""
    """Where tokens go that are not for the customer's account."""
    is_case: bool = False
    """Whether the bank's code calls an operator, if the bank acts on it."""

    @property
    def bank(self) -> str:
        """Which bank has a part in it."""
        return BANKS.get(self.rail, "")

    @property
    def is_order(self) -> bool:
        """Whether we tell the bank to move money, and do not wait for a payer."""
        return self.is_payout or (bool(self.rail) and RAILS[self.rail].is_pull)

    @property
    def reference(self) -> str:
        """Ours towards the bank, except for ach, where the lane allots one."""
        return bank_reference(self.transaction, "payout" if self.is_payout else "deposit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One thing that somebody does: a command, or a payment at the bank."""

    when: When | None = None
    step: Step | None = None
    payment: Payment | None = None
    goal: Goal | None = None
    """Of the transaction that the command makes."""
    rail: str = ""
    """What it begins goes by this rail: it is not done while that is paused."""


@dataclass(slots=True)
class Story:
    """Acts in their order."""

    kind: str
    tenant: str
    customer: str
    acts: list[Act] = field(default_factory=list)


class Stories:
    """Tells stories: at first one of each kind, then at random."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"stories {seed}")  # a repeatable load, not a secret
        self._numbers = FIRST_NUMBER
        self._customers = 0
        self._kinds: tuple[Callable[[], Story], ...] = (
            self._by_transfer,
            self._instant_with_bad_news,
            self._kept_as_fiat,
            self._a_cent_short,
            self._taken_back_for_fraud,
            self._canceled,
            self._in_and_out,
            self._out_with_bad_calls,
            self._payout_refused,
            self._payout_to_another,
            self._payout_came_back,
            self._reviewed,
            self._turned_down,
            self._name_denied,
            self._by_debit,
            self._debit_with_bad_calls,
            self._debit_with_bad_news,
            self._debit_refused,
            self._debit_rejected,
            self._debit_bounced,
            self._debit_not_authorised,
            self._out_by_ach,
            self._to_an_address,
            self._details_changed,
        )
        self._left = self._random.sample(self._kinds, len(self._kinds))

    def next(self) -> Story:
        """The next story."""
        return (self._left.pop() if self._left else self._random.choice(self._kinds))()

    @property
    def first_round_left(self) -> int:
        """How many kinds were not played yet."""
        return len(self._left)

    def rest_of_first_round(self) -> Iterator[Story]:
        """What was not played yet."""
        while self._left:
            yield self.next()

    def while_paused(self, rail: str) -> Story:
        """A deposit that is asked for while its rail is paused: refused, and nothing of it remains."""
        story = self._begin("asked for while paused", RAILS[rail].fiat)
        expect = Expect(outcome="refused", reason="paused", settles=True)
        data = {"account_id": f"{story.customer}:{RAILS[rail].fiat}", "amount": "10.00", "rail": rail}
        # By Kafka: over HTTP the answer would be 503, after which a client asks again until it is taken.
        story.acts.append(Act(step=self._step(story, "deposit.submit", data, expect, door="kafka")))
        return story

    def pause(self, rail: str) -> Step:
        """The command that pauses a rail."""
        data = {"operator": CHECKER, "scope": {"rail": rail}, "note": "the demo looks what a pause does"}
        story = Story("pause", TENANTS[0], CHECKER)
        return self._step(story, "pause.set", data, Expect(outcome="done", events=("pause.set",)), door="kafka")

    def lift(self, pause: Step) -> Step:
        """The command that lifts it."""
        pause_id = transaction_id(pause.tenant, pause.customer, pause.key)
        data = {"operator": CHECKER, "pause_id": pause_id}
        story = Story("pause", TENANTS[0], CHECKER)
        return self._step(story, "pause.lift", data, Expect(outcome="done", events=("pause.lifted",)), door="kafka")

    # --- parts ---

    def _begin(self, kind: str, fiat: str) -> Story:
        self._customers += 1
        story = Story(kind, self._random.choice(TENANTS), f"c{self._customers}")
        opened = Expect(outcome="done", events=("account.opened",))
        for asset in (fiat, f"A{fiat}"):
            story.acts.append(Act(step=self._step(story, "account.open", {"asset": asset}, opened, door="kafka")))
        return story

    def _step(
        self,
        story: Story,
        type_: str,
        data: dict[str, Any],
        expect: Expect,
        *,
        door: Door | None = None,
        makes: bool = False,
    ) -> Step:
        self._numbers += 1
        key = self._uuid()
        made = type_ in MAKES or makes
        own = transaction_id(story.tenant, story.customer, key)
        return Step(
            number=self._numbers,
            at=0.0,
            door=self._random.choice(_DOORS) if door is None else door,
            tenant=story.tenant,
            customer=story.customer,
            key=key,
            type=type_,
            data=data,
            expect=expect,
            command_id=self._uuid(),
            transaction=own if made else str(data.get("transaction_id", "")),
        )

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _amount(self, cents: int | None = None, least: int = 20, most: int = 900) -> int:
        cents = self._random.choice(PLAIN) if cents is None else cents
        return self._random.randint(least, most) * 100 + cents

    def _deposit(
        self,
        story: Story,
        rail: str,
        amount: int,
        end: str,
        *,
        name: str = "Nina Example",
        mints: bool = True,
        address: str = "",
        pays: bool = True,
        is_case: bool = False,
        door: Door | None = None,
    ) -> str:
        """Asks for a deposit; the payer of a push pays as soon as it is awaited. The transaction's id."""
        way = RAILS[rail]
        data: dict[str, Any] = {"account_id": f"{story.customer}:{way.fiat}", "amount": text(amount), "rail": rail}
        if mints:
            data["mint_to"] = address or f"{story.customer}:{way.token}"
        data["payer"] = {"name": name} | ({"account": ACH_ACCOUNT} if way.is_pull else {})
        if "Review" in name:
            data["requested_by"] = MAKER
        refused = end == "blocked"
        expect = Expect(
            outcome="refused" if refused else "done", reason="screening_blocked" if refused else "", settles=True
        )
        step = self._step(story, "deposit.submit", data, expect, door=door)
        goal = Goal(
            transaction=step.transaction,
            tenant=story.tenant,
            customer=story.customer,
            is_payout=False,
            rail=rail,
            fiat=way.fiat,
            token=way.token if mints else "",
            amount=amount,
            end=end,
            address=address,
            is_case=is_case,
        )
        story.acts.append(Act(step=step, goal=goal, rail=rail))
        if pays and not way.is_pull:
            self._pay(story, goal)
        return step.transaction

    def _pay(self, story: Story, goal: Goal) -> None:
        payment = Payment(goal.bank, goal.rail, text(goal.amount), goal.reference, "Nina Example")
        story.acts.append(Act(when=When(goal.transaction, WAITS_FOR_MONEY), payment=payment))

    def _withdraw(
        self, story: Story, after: str, rail: str, amount: int, end: str, *, name: str = "Bob Example"
    ) -> str:
        """Tokens are burnt and paid out, once the deposit is completed."""
        way = RAILS[rail]
        data = {
            "account_id": f"{story.customer}:{way.token}",
            "amount": text(amount),
            "rail": rail,
            "beneficiary": {"name": name, "account": ACH_ACCOUNT if rail == "ach" else IBAN},
        }
        step = self._step(story, "withdrawal.submit", data, Expect(outcome="done", settles=True))
        goal = self._goal(story, step, rail, way.token, amount, end, is_payout=True)
        story.acts.append(Act(when=When(after, COMPLETED), step=step, goal=goal, rail=rail))
        return step.transaction

    def _goal(self, story: Story, step: Step, rail: str, token: str, amount: int, end: str, *, is_payout: bool) -> Goal:
        return Goal(
            transaction=step.transaction,
            tenant=story.tenant,
            customer=story.customer,
            is_payout=is_payout,
            rail=rail,
            fiat=(token or RAILS[rail].token)[1:],
            token=token,
            amount=amount,
            end=end,
        )

    def _on(self, story: Story, when: When, type_: str, who: str, expect: Expect, **data: Any) -> None:
        """An operator's word on a transaction."""
        about = {"transaction_id": when.transaction, "operator": who} | data
        story.acts.append(Act(when=when, step=self._step(story, type_, about, expect)))

    # --- euros, sent by the payer ---

    def _by_transfer(self) -> Story:
        story = self._begin("SEPA to tokens", "EUR")
        self._deposit(story, "sepa", self._amount(), "completed")
        return story

    def _instant_with_bad_news(self) -> Story:
        story = self._begin("instant to tokens, with bad news", "EUR")
        self._deposit(story, "sepa_instant", self._amount(self._random.choice(NEWS_FAULTS)), "completed")
        return story

    def _kept_as_fiat(self) -> Story:
        story = self._begin("SEPA, kept as euros", "EUR")
        self._deposit(story, "sepa", self._amount(), "kept", mints=False)
        return story

    def _a_cent_short(self) -> Story:
        story = self._begin("a cent short, given to the customer", "EUR")
        id_ = self._deposit(story, "sepa_instant", self._amount(12), "refunded")
        done = Expect(outcome="done", settles=True)
        self._on(story, When(id_, WAITS_FOR_PERSON), "transaction.resolve", CHECKER, done, outcome="refund")
        return story

    def _taken_back_for_fraud(self) -> Story:
        story = self._begin("taken back by the bank, clawed back", "EUR")
        self._deposit(story, "sepa", self._amount(44), "returned")
        return story

    def _canceled(self) -> Story:
        story = self._begin("canceled before the money came", "EUR")
        id_ = self._deposit(story, "sepa", self._amount(), "canceled", pays=False)
        step = self._step(story, "transaction.cancel", {"transaction_id": id_}, Expect(outcome="done", settles=True))
        story.acts.append(Act(when=When(id_, WAITS_FOR_MONEY), step=step))
        return story

    def _in_and_out(self) -> Story:
        story = self._begin("in, burnt, paid out instantly", "EUR")
        id_ = self._deposit(story, "sepa_instant", amount := self._amount(), "completed")
        self._withdraw(story, id_, "sepa_instant", amount, "paid")
        return story

    def _out_with_bad_calls(self) -> Story:
        story = self._begin("paid out, with bad calls", "EUR")
        id_ = self._deposit(story, "sepa_instant", self._amount(least=500), "completed")
        cents = self._random.choice((*CALL_FAULTS, *NEWS_FAULTS))
        self._withdraw(story, id_, "sepa_instant", self._amount(cents, most=400), "paid")
        return story

    def _payout_refused(self) -> Story:
        story = self._begin("payout refused at once", "EUR")
        id_ = self._deposit(story, "sepa_instant", self._amount(least=500), "completed")
        self._withdraw(story, id_, "sepa_instant", self._amount(11, most=400), "payout_rejected")
        return story

    def _payout_to_another(self) -> Story:
        story = self._begin("payout rejected, paid to another account", "EUR")
        id_ = self._deposit(story, "sepa_instant", amount := self._amount(), "completed")
        out = self._withdraw(story, id_, "sepa_instant", amount, "payout_rejected", name="REJECT AC04")
        data = {
            "transaction_id": out,
            "beneficiary": {"name": "Bob Example", "account": OTHER_IBAN},
            "rail": "sepa_instant",
        }
        expect = Expect(outcome="done", settles=True)
        step = self._step(story, "withdrawal.retry", data, expect, door="kafka", makes=True)
        goal = self._goal(story, step, "sepa_instant", "", amount, "paid", is_payout=True)
        story.acts.append(Act(when=When(out, PAYOUT_BACK), step=step, goal=goal, rail="sepa_instant"))
        return story

    def _payout_came_back(self) -> Story:
        story = self._begin("payout came back, minted again", "EUR")
        id_ = self._deposit(story, "sepa", amount := self._amount(), "completed")
        out = self._withdraw(story, id_, "sepa", amount, "payout_returned", name="RETURN AC04")
        expect = Expect(outcome="done", settles=True)
        data = {"transaction_id": out}
        step = self._step(story, "withdrawal.remint", data, expect, door="kafka", makes=True)
        goal = self._goal(story, step, "", "AEUR", amount, "minted_again", is_payout=False)
        story.acts.append(Act(when=When(out, PAYOUT_BACK), step=step, goal=goal))
        return story

    # --- a second person ---

    def _reviewed(self) -> Story:
        story = self._begin("approved by a second person", "EUR")
        id_ = self._deposit(story, "sepa", self._amount(), "completed", name="Maria Review", pays=False)
        goal = story.acts[-1].goal
        assert goal is not None
        waits = When(id_, WAITS_FOR_APPROVAL)
        self._on(
            story, waits, "transaction.approve", MAKER, Expect(outcome="refused", reason="four_eyes", settles=True)
        )
        self._on(story, waits, "transaction.approve", CHECKER, Expect(outcome="done", settles=True))
        self._pay(story, goal)
        return story

    def _turned_down(self) -> Story:
        story = self._begin("turned down by a second person", "USD")
        id_ = self._deposit(story, "ach", self._amount(), "denied", name="Maria Review")
        done = Expect(outcome="done", settles=True)
        self._on(story, When(id_, WAITS_FOR_APPROVAL), "transaction.reject", CHECKER, done)
        return story

    def _name_denied(self) -> Story:
        story = self._begin("a name on the list, refused", "USD")
        self._deposit(story, "ach", self._amount(), "blocked", name="Dora Denied")
        return story

    # --- dollars, collected by us ---

    def _by_debit(self) -> Story:
        story = self._begin("ACH to tokens", "USD")
        self._deposit(story, "ach", self._amount(), "completed")
        return story

    def _debit_with_bad_calls(self) -> Story:
        story = self._begin("ACH to tokens, with bad calls", "USD")
        self._deposit(story, "ach", self._amount(self._random.choice(CALL_FAULTS)), "completed")
        return story

    def _debit_with_bad_news(self) -> Story:
        story = self._begin("ACH to tokens, with bad news", "USD")
        self._deposit(story, "ach", self._amount(self._random.choice(NEWS_FAULTS)), "completed")
        return story

    def _debit_refused(self) -> Story:
        story = self._begin("debit refused at once", "USD")
        self._deposit(story, "ach", self._amount(11), "rejected")
        return story

    def _debit_rejected(self) -> Story:
        story = self._begin("debit rejected before it settled", "USD")
        self._deposit(story, "ach", self._amount(), "rejected", name="REJECT R03")
        return story

    def _debit_bounced(self) -> Story:
        story = self._begin("debit bounced, clawed back", "USD")
        self._deposit(story, "ach", self._amount(22), "returned")
        return story

    def _debit_not_authorised(self) -> Story:
        story = self._begin("debit not authorised, clawed back and frozen", "USD")
        self._deposit(story, "ach", self._amount(44), "returned", is_case=True)
        return story

    def _out_by_ach(self) -> Story:
        story = self._begin("in and out by ACH", "USD")
        id_ = self._deposit(story, "ach", amount := self._amount(), "completed")
        self._withdraw(story, id_, "ach", amount, "paid")
        return story

    def _to_an_address(self) -> Story:
        story = self._begin("ACH to an address on the chain", "USD")
        self._deposit(story, "ach", self._amount(), "completed", address=OUTSIDE)
        return story

    def _details_changed(self) -> Story:
        story = self._begin("ACH to tokens, with a notice of change", "USD")
        self._deposit(story, "ach", self._amount(), "completed", name="NOC C01")
        return story


def text(cents: int) -> str:
    """Cents in major units."""
    return f"{cents // 100}.{cents % 100:02}"
