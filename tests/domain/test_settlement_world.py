"""Deposits by bank and withdrawals by chance: banks and a chain that say anything in any order, pauses, operators.

After every unit: nothing is made or lost, no layer below zero, nothing asked for twice, tokens only for settled fiat,
trust covers what is owed, every path ends or waits for something that has a name.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aura_stream.domain.lane_requests import Burn, Inquire, Instruct, Mint, Withdraw
from aura_stream.domain.settlement import TOKENS, cents
from aura_stream.domain.signals import BANK_KINDS, ChainFact
from aura_stream.domain.state import TERMINAL, Fee, SettlementRules
from tests.domain.settlement_world import SettlementWorld
from tests.domain.world import DAY, HOUR, NAMES

ACCOUNTS = [f"{c}:{a}" for c in ("alice", "bob") for a in ("USD", "AUSD", "EUR", "AEUR")]
ACH, IBAN = "021000021/123456789", "DE89370400440532013000"
RULES = SettlementRules(
    fees={"default": {"deposit:ach": Fee(10, 100), "withdrawal:sepa": Fee(0, 50), "deposit:": Fee(5, 0)}},
    approval_above={"default": {"EUR": 20_000}},
    mint_hold_days={"default": 1},
)
customers = st.sampled_from(["alice", "bob"])
rails = st.sampled_from(["ach", "sepa", "sepa_instant"])
amounts = st.sampled_from(["60.00", "50.00", "33.33", "20.00", "20.50", "250.00", "0.07"])
CODES = ["R01", "R02", "R10", "AC04", "AB05", "AM05", "Z99", "C01", ""]


class Chain:
    """A chain and its minter lanes, as the ledger sees them: each mint and burn lands at most once, in any order."""

    def __init__(self, world: SettlementWorld) -> None:
        self.world = world
        self.state: dict[str, str] = {}  # by reference: queued, broadcast, landed, lost, dead, withdrawn
        self.work: dict[str, Mint | Burn] = {}
        self.supply: Counter[str] = Counter()

    def take(self) -> None:
        """Takes the requests that are new."""
        for request in self.world.requests():
            if isinstance(request, Mint | Burn) and request.reference not in self.work:
                self.work[request.reference] = request
                self.state[request.reference] = "queued"
        for request in self.world.requests():
            if isinstance(request, Withdraw) and self.state.get(request.reference) == "queued":
                self.state[request.reference] = "withdrawn"
                self.tell(request.reference, "withdrawn")

    def tell(self, reference: str, kind: str, **what: Any) -> None:
        """A fact for the ledger; nothing runs yet."""
        work = self.work[reference]
        step = "mint" if isinstance(work, Mint) else "burn"
        fact = ChainFact(work.transaction_id, work.tenant, step, kind, reference, **what)
        self.world.signal(self.world.partition(work.customer), fact)

    def move(self, choice: int, kind: str) -> None:
        """One piece of work goes on, if it can go there from where it is."""
        open_work = [r for r, state in self.state.items() if state in ("queued", "broadcast", "landed", "reorged")]
        if not open_work:
            return
        reference = open_work[-1 - choice % len(open_work)]
        before, work = self.state[reference], self.work[reference]
        sign = 1 if isinstance(work, Mint) else -1
        after = {
            ("queued", "broadcast"): "broadcast",
            ("queued", "failed"): "dead",
            ("broadcast", "broadcast"): "broadcast",
            ("broadcast", "mined"): "broadcast",
            ("broadcast", "stuck"): "broadcast",
            ("broadcast", "reorged"): "broadcast",
            ("broadcast", "failed"): "dead",
            ("broadcast", "confirmed"): "landed",
            ("landed", "confirmed"): "landed",
            ("landed", "reorged"): "reorged" if sign > 0 else None,  # a burn is told at finality
            ("reorged", "confirmed"): "landed",
            ("reorged", "lost"): "lost",
        }.get((before, kind))
        if after is None:
            return
        self.state[reference] = after
        if after == "landed" and before == "broadcast":
            self.supply[work.token] += sign * work.amount
        elif after == "lost":
            self.supply[work.token] -= work.amount
        self.tell(
            reference, kind, hash=f"0x{kind}{choice}", gas=7 if kind == "confirmed" and before == "broadcast" else 0
        )


class Settling(RuleBasedStateMachine):
    """Everything that can happen to deposits and withdrawals, in units of any size, some of them thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.world = SettlementWorld(settlement=RULES)
        self.chain = Chain(self.world)
        self.ids: list[str] = []
        self.pauses: list[str] = []
        self.checked = -1

    @initialize()
    def begin(self) -> None:
        for account in ACCOUNTS:
            self.world.open(account)
        for rail, to in (("ach", "own"), ("sepa", "own"), ("ach", "fiat"), ("sepa", "fiat")):
            self.deposit("alice", rail, "150.00", to, 1)
            self.bank_does_well(0)
        self.world.wait(4 * DAY)
        self.chain.take()
        self.chain_does_well()
        assert all(self.world.transaction(id_).state == "completed" for id_ in self.ids)

    def submit(self, type_: str, customer: str, **data: Any) -> None:
        self.ids.append(self.world.send(type_, customer, **data).transaction_id)
        self.world.driver.run()
        self.chain.take()

    @rule(
        customer=customers,
        rail=rails,
        amount=amounts,
        to=st.sampled_from(["own", "own", "own", "fiat", "out"]),
        odd=st.integers(0, 4),
    )
    def deposit(self, customer: str, rail: str, amount: str, to: str, odd: int) -> None:
        fiat = "USD" if rail == "ach" else "EUR"
        data: dict[str, Any] = {"account_id": f"{customer}:{fiat}", "amount": amount, "rail": rail}
        data["payer"] = {"name": "Review" if odd == 0 else "Alice"} | ({"account": ACH} if rail == "ach" else {})
        target = {"own": f"{customer}:A{fiat}", "out": "0x" + "5d" * 20}.get(to)
        self.submit("deposit.submit", customer, **data, **({"mint_to": target} if target else {}))

    @rule(customer=customers, rail=rails, amount=amounts, token=st.booleans())
    def withdraw(self, customer: str, rail: str, amount: str, token: bool) -> None:
        fiat = "USD" if rail == "ach" else "EUR"
        party = {"name": "Alice", "account": ACH if rail == "ach" else IBAN}
        account = f"{customer}:{'A' if token else ''}{fiat}"
        self.submit("withdrawal.submit", customer, account_id=account, amount=amount, rail=rail, beneficiary=party)

    def pick(self, choice: int) -> str | None:
        known = {request.transaction_id for request in self.world.requests() if hasattr(request, "transaction_id")}
        ids = [id_ for id_ in self.ids if id_ in known]
        if choice % 2:  # what is under way; else whatever came last
            ids = [id_ for id_ in ids if self.world.transaction(id_).status not in TERMINAL] or ids
        return ids[-1 - choice % len(ids)] if ids else None

    @rule(choice=st.integers(0, 5), type_=st.sampled_from(["deposit.retry", "withdrawal.retry", "withdrawal.remint"]))
    def again(self, choice: int, type_: str) -> None:
        if (id_ := self.pick(choice)) is not None:
            t = self.world.transaction(id_)
            party = {"name": "Alice", "account": ACH if t.asset in ("USD", "AUSD") else IBAN}
            extra = {"beneficiary": party} if type_ == "withdrawal.retry" else {}
            self.submit(type_, t.customer, transaction_id=id_, **extra)

    @rule(
        choice=st.integers(0, 5),
        kind=st.sampled_from([*BANK_KINDS, "settled", "settled", "accepted", "returned"]),
        code=st.sampled_from(CODES),
        odd=st.integers(0, 9),
    )
    def bank_says(self, choice: int, kind: str, code: str, odd: int) -> None:
        if (id_ := self.pick(choice)) is None or not self.has_bank(id_):
            return
        what: dict[str, Any] = {"code": code}
        if odd == 0 and kind in ("settled", "returned"):
            what["amount"] = 1 + self.world.settlement(id_).amount
        if odd in (2, 3) and kind == "returned":
            what["amount"] = 1  # what banks on the way have left of it
        if odd == 1:
            what["fact_id"] = "again"
        self.world.bank(id_, kind, **what)
        self.chain.take()

    def has_bank(self, id_: str) -> bool:
        return self.world.settlement(id_).rail != ""

    @rule(choice=st.integers(0, 5))
    def bank_does_well(self, choice: int) -> None:
        if (id_ := self.pick(choice)) is not None and self.has_bank(id_):
            self.world.bank(id_, "accepted")
            self.world.bank(id_, "settled")
            self.chain.take()

    @rule(
        choice=st.integers(0, 5),
        kind=st.sampled_from(
            ["broadcast", "broadcast", "mined", "confirmed", "confirmed", "reorged", "stuck", "failed", "lost"]
        ),
    )
    def chain_says(self, choice: int, kind: str) -> None:
        self.chain.move(choice, kind)
        self.world.driver.run()
        self.chain.take()

    @rule()
    def chain_does_well(self) -> None:
        for reference in [r for r, state in self.chain.state.items() if state in ("queued", "broadcast")]:
            if self.chain.state[reference] == "queued":
                self.chain.state[reference] = "broadcast"
                self.chain.tell(reference, "broadcast", hash="0x1")
            self.chain.state[reference] = "landed"
            work = self.chain.work[reference]
            self.chain.supply[work.token] += work.amount if isinstance(work, Mint) else -work.amount
            self.chain.tell(reference, "confirmed")
        self.world.driver.run()
        self.chain.take()

    @precondition(lambda self: self.ids)
    @rule(
        choice=st.integers(0, 5),
        type_=st.sampled_from(["approve", "approve", "reject", "cancel", "resolve"]),
        outcome=st.sampled_from(
            ["inquire", "settled", "rejected", "match", "refund", "mint_again", "burn_again", "write_off", "write_off"]
        ),
        operator=st.sampled_from(["olga", "otto", "alice"]),
    )
    def operate(self, choice: int, type_: str, outcome: str, operator: str) -> None:
        id_ = self.ids[-1 - choice % len(self.ids)]
        customer = next((c for c in ("alice", "bob") if self.owns(c, id_)), "alice")
        data = {} if type_ == "cancel" else {"operator": operator}
        if type_ == "resolve":
            # A person says what a statement says: here that nothing moved which the bank has not told.
            data |= {"outcome": outcome, "note": "seen"}
        self.world.send(f"transaction.{type_}", customer, transaction_id=id_, **data)
        self.world.driver.run()
        self.chain.take()

    def owns(self, customer: str, id_: str) -> bool:
        try:
            return self.world.transaction(id_).customer == customer
        except KeyError:
            return False

    @rule(source=st.sampled_from(ACCOUNTS), amount=st.sampled_from(["10", "0.01", "99", "30.5"]))
    def spend(self, source: str, amount: str) -> None:
        customer, asset = source.split(":")
        target = f"{'bob' if customer == 'alice' else 'alice'}:{asset}"
        self.world.send("transfer.submit", customer, from_account_id=source, to_account_id=target, amount=amount)

    @rule(account=st.sampled_from(ACCOUNTS), type_=st.sampled_from(["freeze", "unfreeze", "unfreeze", "close"]))
    def change_account(self, account: str, type_: str) -> None:
        if account.startswith("bob") and (type_ != "freeze" or account.endswith("EUR")):
            self.world.send(f"account.{type_}", account.split(":")[0], account_id=account)

    @rule(
        scope=st.sampled_from(
            [
                *({}, {"rail": "ach"}, {"chain": "local"}, {"bank": "bank-b"}, {"asset": "AEUR"}),
                *({"type": "withdrawal"}, {"account": "alice:EUR"}),
            ]
        ),
        often=st.integers(0, 3),
    )
    def pause_or_lift(self, scope: dict[str, str], often: int) -> None:
        """Pauses stand now and then; what they hold back would else never be reached."""
        if len(self.pauses) >= (2 if often == 0 else 1):
            self.world.send("pause.lift", "elsewhere", operator="otto", pause_id=self.pauses.pop(0))
        elif often == 0 or scope:
            self.pauses.append(self.world.send("pause.set", "ops", operator="olga", scope=scope).transaction_id)
        self.world.driver.run()
        self.world.answer_pauses()
        self.world.at += 1
        self.world.settle()
        self.chain.take()

    @rule(milliseconds=st.sampled_from([1000, 1000, HOUR, DAY, 4 * DAY, 11 * DAY]))
    def let_time_pass(self, milliseconds: int) -> None:
        self.world.wait(milliseconds)
        self.chain.take()

    @rule(partition=st.integers(0, 3), limit=st.integers(1, 3), commit=st.integers(0, 3))
    def run_a_unit(self, partition: int, limit: int, commit: int) -> None:
        self.world.driver.step(partition, limit=limit, commit=commit > 0)

    @rule(partition=st.integers(0, 3))
    def reopen(self, partition: int) -> None:
        self.world.driver.reopen(partition)

    @invariant()
    def everything_holds(self) -> None:
        written = sum(len(log) for log in self.world.driver.topics[NAMES.journal].values())
        if written != self.checked:
            self.world.check()
            self.checked = written

    def teardown(self) -> None:
        self.world.settle()
        self.chain.take()
        self.world.driver.run()
        self.world.check()
        self.world.check_rebuild()
        self.check_supply()
        self.check_inquiries()

    def check_supply(self) -> None:
        """Tokens on chain and mints in flight never exceed the fiat that has settled for them; the books agree."""
        balances: Counter[str] = Counter()
        for _, line in self.world.lines():
            for journal in getattr(line, "journals", []):
                for entry in journal.entries:
                    balances[entry.account_id] -= int(entry.amount)
        for token, fiat in TOKENS.items():
            minted = sum(
                work.amount
                for reference, work in self.chain.work.items()
                if work.token == token
                and isinstance(work, Mint)
                and self.chain.state[reference] not in ("withdrawn", "dead", "lost")
            )
            burnt = sum(
                work.amount
                for reference, work in self.chain.work.items()
                if work.token == token and isinstance(work, Burn) and self.chain.state[reference] == "landed"
            )
            asked = {work.transaction_id for work in self.chain.work.values() if isinstance(work, Mint)}
            funded = sum(
                (s.amount - s.fee) * cents(token, fiat)
                for id_ in asked
                if (s := self.world.settlement(id_)).token == token
            )
            assert minted <= funded, "more is minted than has settled"
            # What the ledger owes to token holders is what the chain has, but for what was lost and spent before.
            owed = balances[f"@reserve:{token}:{fiat}"] * cents(token, fiat)
            lost_and_spent = -balances[f"@receivable:chain:{token}"]
            lost_outside = sum(
                work.amount
                for reference, work in self.chain.work.items()
                if isinstance(work, Mint)
                and work.token == token
                and self.chain.state[reference] == "lost"
                and self.world.transaction(work.transaction_id).state != "mint_lost"
            )
            assert owed == self.chain.supply[token] + lost_and_spent + lost_outside
            assert self.chain.supply[token] <= minted - burnt

    def check_inquiries(self) -> None:
        """Whatever an operator asks for again, it is asked with the reference of the one instruction."""
        instructed = {r.reference for r in self.world.requests() if isinstance(r, Instruct)}
        assert {r.reference for r in self.world.requests() if isinstance(r, Inquire)} <= instructed


TestSettling = Settling.TestCase
TestSettling.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
