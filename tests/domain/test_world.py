"""The whole business as one state machine: whatever is asked, repeated, broken or thrown away, the invariants hold."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aura_stream.domain.assets import format_amount
from aura_stream.domain.commands import format_time
from tests.domain.world import DAY, HOUR, NAMES, Sent, World

CUSTOMERS = ("alice", "bob", "carl", "dora")
ASSETS = ("EUR", "JPY")
ACCOUNTS = [f"{c}:{a}" for c in CUSTOMERS for a in ASSETS] + ["alice:EUR:save", "bob:JPY:save"]
customers = st.sampled_from(CUSTOMERS)
accounts = st.sampled_from(ACCOUNTS)
odd_accounts = st.sampled_from([*ACCOUNTS, "nobody:EUR", "@clearing:EUR", "demo/alice:EUR"])
# Mostly what can succeed: two accounts in one asset, amounts that are there.
good_pairs = st.sampled_from(
    [(a, b) for a in ACCOUNTS for b in ACCOUNTS if a != b and a.split(":")[1] == b.split(":")[1]]
)
own_pairs = st.sampled_from([("alice:EUR", "alice:EUR:save"), ("bob:JPY", "bob:JPY:save")])
pairs = st.one_of(good_pairs, good_pairs, own_pairs, good_pairs, st.tuples(odd_accounts, odd_accounts))
amounts = st.sampled_from(["1", "5", "10", "20", "3", "40", "75", "100", "0", "-5"])
SUBMITS = ("deposit.submit", "transfer.submit", "hold.place")
ACTIONS = ("hold.capture", "hold.release", "deposit.confirm", "deposit.reject", "transaction.cancel")
tenants = st.sampled_from(["default", "default", "default", "demo"])


def owner(account: str) -> str:
    """Who would use the account: its customer, or alice where it has none."""
    customer = account.split(":")[0]
    return customer if customer in CUSTOMERS else "alice"


class Business(RuleBasedStateMachine):
    """Commands of all kinds from several customers, in units of any size, some of them thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.sent: list[Sent] = []
        self.submitted: list[Sent] = []
        self.checked = -1

    @initialize(some=st.booleans())
    def begin(self, some: bool) -> None:
        for account in ACCOUNTS:
            if some or account != "dora:JPY":
                self.world.open(account, "100")
        self.world.open("alice:EUR", "100", tenant="demo")

    def send(self, type_: str, customer: str, tenant: str = "default", **data: str) -> None:
        sent = self.world.send(type_, customer, tenant=tenant, **data)
        self.sent.append(sent)
        if type_ in SUBMITS:
            self.submitted.append(sent)

    @rule(pair=pairs, amount=amounts, cents=st.sampled_from(["", ".00", ".50"]), tenant=tenants)
    def transfer(self, pair: tuple[str, str], amount: str, cents: str, tenant: str) -> None:
        account, to = pair
        customer, cents = owner(account), cents if "EUR" in account else ""
        data = {"from_account_id": account, "to_account_id": to, "amount": amount + cents}
        self.send("transfer.submit", customer, tenant=tenant, **data)

    @rule(account=accounts, amount=amounts)
    def deposit(self, account: str, amount: str) -> None:
        self.send("deposit.submit", owner(account), account_id=account, amount=amount)

    @rule(pair=pairs, amount=amounts, minutes=st.sampled_from([30, 3000, 3000, 1, -1]))
    def hold(self, pair: tuple[str, str], amount: str, minutes: int) -> None:
        account, to = pair
        data = {"account_id": account, "to_account_id": to, "amount": amount}
        until = format_time(self.world.at + minutes * 60_000)
        self.send("hold.place", owner(account), expires_at=until, **data)

    def recent(self, type_: str, choice: int) -> Sent:
        fitting = [sent for sent in self.submitted if type_ in ("", sent.message["type"])]
        return fitting[-1 - choice % len(fitting)] if fitting else self.submitted[-1]

    def act(self, action: str, target: Sent, customer: str = "", **data: str) -> None:
        message = target.message
        data["transaction_id"] = target.transaction_id
        self.send(action, customer or message["customer"], tenant=message["tenant"], **data)

    @precondition(lambda self: self.submitted)
    @rule(choice=st.integers(0, 2), amount=st.sampled_from(["", "1", "2", "3", "5", "0", "1000", "1.555"]))
    def capture(self, choice: int, amount: str) -> None:
        self.act("hold.capture", self.recent("hold.place", choice), **({"amount": amount} if amount else {}))

    @precondition(lambda self: self.submitted)
    @rule(choice=st.integers(0, 2), action=st.sampled_from(["hold.release", "transaction.cancel"]))
    def give_back(self, choice: int, action: str) -> None:
        self.act(action, self.recent("hold.place", choice))

    @precondition(lambda self: self.submitted)
    @rule(choice=st.integers(0, 2), action=st.sampled_from(["deposit.confirm", "deposit.reject", "transaction.cancel"]))
    def settle_deposit(self, choice: int, action: str) -> None:
        self.act(action, self.recent("deposit.submit", choice))

    @precondition(lambda self: self.submitted)
    @rule(choice=st.integers(0, 9), action=st.sampled_from(ACTIONS), customer=st.sampled_from(["", "carl"]))
    def act_on_anything(self, choice: int, action: str, customer: str) -> None:
        self.act(action, self.recent("", choice), customer)

    @rule(account=odd_accounts, type_=st.sampled_from(["freeze", "unfreeze", "unfreeze", "close"]))
    def change_account(self, account: str, type_: str) -> None:
        self.send(f"account.{type_}", owner(account), account_id=account)

    @rule(account=accounts, to=accounts)
    def empty_and_close(self, account: str, to: str) -> None:
        """A closed account is rare by chance; this asks for one, and it may still be refused."""
        stored = self.world.find(account)
        if stored is not None and stored.available:
            amount = format_amount(stored.available, account.split(":")[1])
            data = {"from_account_id": account, "to_account_id": to, "amount": amount}
            self.send("transfer.submit", owner(account), **data)
        self.send("account.close", owner(account), account_id=account)

    @rule(account=accounts)
    def open_account(self, account: str) -> None:
        customer, asset, *name = account.split(":")
        named = {"name": name[0]} if name else {}
        self.send("account.open", customer, asset=asset, **named)

    @precondition(lambda self: self.sent)
    @rule(choice=st.integers(0, 20), same_id=st.booleans())
    def repeat(self, choice: int, same_id: bool) -> None:
        first = self.sent[-1 - choice % len(self.sent)]
        if same_id:
            self.world.raw(first.record.key or b"", first.record.value)
        else:
            again = first.message
            self.world.send(
                again["type"],
                again["customer"],
                key=again["idempotency_key"],
                tenant=again["tenant"],
                **again["data"],
            )

    @precondition(lambda self: self.sent)
    @rule(choice=st.integers(0, 20), account=accounts)
    def reuse_a_key(self, choice: int, account: str) -> None:
        first = self.sent[-1 - choice % len(self.sent)].message
        data = {"from_account_id": account, "to_account_id": "bob:EUR:no", "amount": "3.21"}
        self.world.send(
            "transfer.submit", first["customer"], key=first["idempotency_key"], tenant=first["tenant"], **data
        )

    @rule(
        value=st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"", b"null", b"[]", b"{}", b'{"type":"transfer.submit"}', b'{"id":"\\u0000"}', b"\xff"]),
        ),
        customer=customers,
    )
    def send_bytes(self, value: bytes, customer: str) -> None:
        self.world.raw(f"default/{customer}".encode(), value)

    @precondition(lambda self: self.sent)
    @rule(choice=st.integers(0, 20), partition=st.integers(0, 3), key=st.sampled_from([b"", b"default/eve", None]))
    def send_astray(self, choice: int, partition: int, key: bytes | None) -> None:
        message = self.sent[-1 - choice % len(self.sent)].message
        right = f"{message['tenant']}/{message['customer']}".encode()
        if key is None and partition == self.world.driver.partitioner(right):
            return
        self.world.raw(right if key is None else key, json.dumps(message).encode(), partition)

    @rule(milliseconds=st.sampled_from([1, 1000, 1000, 60_000, HOUR // 4, HOUR + 1, DAY + 1, 8 * DAY]))
    def let_time_pass(self, milliseconds: int) -> None:
        self.world.at += milliseconds

    @rule(partition=st.integers(0, 3), limit=st.integers(1, 5), commit=st.integers(0, 3))
    def run_a_unit(self, partition: int, limit: int, commit: int) -> None:
        self.world.driver.step(partition, limit=limit, commit=commit > 0)

    @rule(partition=st.integers(0, 3))
    def reopen(self, partition: int) -> None:
        self.world.driver.reopen(partition)

    @rule()
    def run_all(self) -> None:
        self.world.driver.run()

    @rule(partition=st.integers(0, 3))
    def let_the_clock_speak(self, partition: int) -> None:
        self.world.tick(partition)

    @invariant()
    def everything_holds(self) -> None:
        written = sum(len(log) for log in self.world.driver.topics[NAMES.journal].values())
        if written != self.checked:
            self.world.check()
            self.checked = written

    def teardown(self) -> None:
        self.world.settle()
        self.world.check()
        self.world.check_rebuild()


TestBusiness = Business.TestCase
TestBusiness.settings = settings(
    max_examples=150, stateful_step_count=70, deadline=None, suppress_health_check=list(HealthCheck)
)
