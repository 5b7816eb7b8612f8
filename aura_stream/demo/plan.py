"""What the demo asks for: a mixed load from a seed, with the outcome of every command known beforehand.

Pure: the same seed gives the same steps. An outcome is certain whatever the order in which the two doors and the
partitions work, because a payment only spends what the plan itself has put on the account and not yet spent: what
others send is never counted on.
"""

from __future__ import annotations

import heapq
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from aura_stream.demo.cast import (
    ACCOUNTS,
    CLOSED,
    FROZEN,
    FUNDS,
    PEOPLE,
    SPEND,
    TENANTS,
    TOO_MUCH,
    VAULT,
    asset_of,
)
from aura_stream.demo.malformed import RECORDS, REQUESTS
from aura_stream.demo.steps import MAKES, Door, Expect, Step, transaction_id
from aura_stream.domain.assets import format_amount

HOLD_S: Final = 120.0
"""Deadline of a hold that is captured or released long before."""

Make = Callable[[Door, float], Step]
"""Makes a step for a door and a time, when its turn has come."""


def refused(reason: str, *events: str, late: Expect | None = None) -> Expect:
    """A refusal by business."""
    return Expect(outcome="refused", reason=reason, events=events, late=late)


class Plan:
    """Steps at a steady rate: `rate` a second to Kafka and `http_rate` over HTTP, in one order.

    Take them one by one with :meth:`next`; :meth:`closing` gives what must still be asked so that nothing stays open.
    """

    def __init__(self, seed: int, rate: float, http_rate: float) -> None:
        self._random = random.Random(seed)  # a repeatable load, not a secret
        self._rate = rate + http_rate
        self._http_share = http_rate / self._rate
        self._slot = 0
        self._http_credit = 0.0
        self._numbers = 0
        self._later: list[tuple[float, int, Door | None, Make]] = []
        self._order = 0
        self._sure: dict[tuple[str, str], int] = {}
        self._busy: set[tuple[str, str]] = set()
        self._scenarios: list[tuple[float, Callable[[Door, float], Step]]] = [
            (17, self._transfer_own),
            (26, self._transfer_other),
            (13, self._deposit_confirmed),
            (3, self._deposit_rejected),
            (2, self._deposit_canceled),
            (5, self._hold_captured),
            (4, self._hold_partly),
            (3, self._hold_released),
            (3, self._hold_expiring),
            (1, self._hold_returned),
            (4, self._too_much),
            (4, self._returned),
            (6, self._refused),
            (1, self._frozen_for_a_moment),
            (0.5, self._short_life),
            (6, self._malformed),
        ]
        self._weights = [weight for weight, _ in self._scenarios]

    # --- taking steps ---

    def opening(self) -> list[list[Step]]:
        """What comes before the load, in waves; each wave needs the one before to be decided."""
        accounts = [(tenant, f"{name}:{end}") for tenant in TENANTS for name in ACCOUNTS for end in ACCOUNTS[name]]
        accounts += [(tenant, f"{name}:EUR") for tenant in TENANTS for name in (FROZEN, CLOSED)]
        empty = [(tenant, f"{name}:{VAULT}") for tenant in TENANTS for name in PEOPLE]
        opens = [self._open(tenant, account, i) for i, (tenant, account) in enumerate(accounts + empty)]
        funded = [(tenant, account) for tenant, account in accounts if not account.startswith(CLOSED)]
        submits = [
            self._submit_deposit("kafka", 0.0, tenant, account, self._funds(account)) for tenant, account in funded
        ]
        confirms = [self._confirm("kafka", 0.0, submit) for submit in submits]
        for tenant, account in funded:
            self._sure[tenant, account] = self._funds(account)
        ends = [
            step
            for tenant in TENANTS
            for step in (
                self._on_account("kafka", 0.0, tenant, f"{FROZEN}:EUR", "freeze"),
                self._on_account("kafka", 0.0, tenant, f"{CLOSED}:EUR", "close"),
            )
        ]
        return [opens, submits, confirms, ends]

    def next(self) -> Step:
        """The next step of the load."""
        at = self._slot / self._rate
        self._slot += 1
        self._http_credit += self._http_share
        door: Door = "kafka"
        if self._http_credit >= 1:
            self._http_credit -= 1
            door = "http"
        make = self._due(door, at)
        if make is None:
            make = self._random.choices(self._scenarios, self._weights)[0][1]
        return make(door, at)

    def closing(self) -> Iterator[Step]:
        """What is left to be asked when the load ends: captures, releases, confirmations, repeats."""
        while self._later:
            _, _, only, make = heapq.heappop(self._later)
            at = self._slot / self._rate
            self._slot += 1
            yield make(only or "kafka", at)

    def _due(self, door: Door, at: float) -> Make | None:
        passed: list[tuple[float, int, Door | None, Make]] = []
        found: Make | None = None
        while self._later and self._later[0][0] <= at:
            item = heapq.heappop(self._later)
            if item[2] in (None, door):
                found = item[3]
                break
            passed.append(item)
        for item in passed:
            heapq.heappush(self._later, item)
        return found

    def _in(self, at: float, delay: tuple[float, float], make: Make, only: Door | None = None) -> None:
        self._order += 1
        heapq.heappush(self._later, (at + self._random.uniform(*delay), self._order, only, make))

    # --- making steps ---

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _step(
        self,
        door: Door,
        at: float,
        tenant: str,
        customer: str,
        type_: str,
        data: dict[str, Any],
        expect: Expect,
        **more: Any,
    ) -> Step:
        key = more.pop("key", "") or self._uuid()
        transaction = transaction_id(tenant, customer, key) if type_ in MAKES else str(data.get("transaction_id", ""))
        self._numbers += 1
        wait_s = -1 if self._random.random() < 0.7 else self._random.choice((0, 1, 5))
        return Step(
            number=self._numbers,
            at=at,
            door=door,
            tenant=tenant,
            customer=customer,
            key=key,
            type=type_,
            data=data,
            expect=expect,
            command_id=self._uuid(),
            transaction=transaction,
            wait_s=wait_s,
            names_owner=self._random.random() < 0.5,
            **more,
        )

    def _open(self, tenant: str, account: str, number: int) -> Step:
        customer, asset, *name = account.split(":")
        data = {"asset": asset} | ({"name": name[0]} if name else {})
        expect = Expect(outcome="done", events=("account.opened",))
        return self._step("http" if number % 4 == 0 else "kafka", 0.0, tenant, customer, "account.open", data, expect)

    def _on_account(self, door: Door, at: float, tenant: str, account: str, action: str, **more: Any) -> Step:
        done = {"freeze": "account.frozen", "unfreeze": "account.unfrozen", "close": "account.closed"}
        expect = more.pop("expect", Expect(outcome="done", events=(done[action],)))
        customer = account.split(":")[0]
        return self._step(door, at, tenant, customer, f"account.{action}", {"account_id": account}, expect, **more)

    def _submit_deposit(self, door: Door, at: float, tenant: str, account: str, amount: int, **more: Any) -> Step:
        data = {"account_id": account, "amount": format_amount(amount, asset_of(account))}
        expect = Expect(outcome="done", events=("deposit.submitted",))
        return self._step(door, at, tenant, account.split(":")[0], "deposit.submit", data, expect, **more)

    def _confirm(self, door: Door, at: float, submit: Step) -> Step:
        account = submit.data["account_id"]
        moves = ((account, _minor(submit.data["amount"], asset_of(account))),)
        expect = Expect(outcome="done", events=("deposit.credited",), moves=moves)
        return self._act(door, at, submit, "deposit.confirm", expect)

    def _act(self, door: Door, at: float, on: Step, type_: str, expect: Expect, **more: Any) -> Step:
        data = {"transaction_id": on.transaction} | more.pop("data", {})
        more.setdefault("after", on.number)
        return self._step(door, at, on.tenant, on.customer, type_, data, expect, **more)

    def _transfer(
        self, door: Door, at: float, tenant: str, source: str, target: str, amount: str, expect: Expect, **more: Any
    ) -> Step:
        data = {"from_account_id": source, "to_account_id": target, "amount": amount}
        if self._random.random() < 0.05:
            data["effective_at"] = f"2025-0{self._random.randint(1, 6)}-15T12:00:00Z"  # dated back
        return self._step(door, at, tenant, source.split(":")[0], "transfer.submit", data, expect, **more)

    def _hold(
        self,
        door: Door,
        at: float,
        tenant: str,
        source: str,
        target: str,
        amount: int,
        expect: Expect,
        expires_in_s: float,
    ) -> Step:
        data = {"account_id": source, "amount": format_amount(amount, asset_of(source)), "to_account_id": target}
        return self._step(door, at, tenant, source.split(":")[0], "hold.place", data, expect, expires_in_s=expires_in_s)

    def _funds(self, account: str) -> int:
        return FUNDS[asset_of(account)]

    def _tenant(self) -> str:
        return self._random.choice(TENANTS)

    def _account(self, *ends: str) -> str:
        """An account that has money: of one of the people, with one of these ends, or of any customer."""
        if ends:
            return f"{self._random.choice(PEOPLE)}:{self._random.choice(ends)}"
        name = self._random.choice(tuple(ACCOUNTS))
        return f"{name}:{self._random.choice(ACCOUNTS[name])}"

    def _other(self, account: str) -> str:
        """An account of another customer in the same asset."""
        customer, asset = account.split(":")[0], asset_of(account)
        names = [name for name, ends in ACCOUNTS.items() if name != customer and asset in ends]
        return f"{self._random.choice(names)}:{asset}"

    def _amount(self, account: str) -> int:
        low, high = SPEND[asset_of(account)]
        return self._random.randint(low, high)

    def _spend(self, at: float, tenant: str, account: str) -> int:
        """An amount that is surely there, taken from what may be spent; 0 when the account must be filled first."""
        amount = self._amount(account)
        if self._sure.get((tenant, account), 0) < amount:
            self._fill(at, tenant, account)
            return 0
        self._sure[tenant, account] -= amount
        return amount

    def _fill(self, at: float, tenant: str, account: str) -> None:
        """Asks for money on an account that runs low, in order and by one door: it may be spent from then on."""
        if (tenant, account) in self._busy:
            return
        self._busy.add((tenant, account))
        made: list[Step] = []

        def submit(door: Door, at: float) -> Step:
            made.append(self._submit_deposit(door, at, tenant, account, self._funds(account)))
            return made[0]

        def confirm(door: Door, at: float) -> Step:
            self._busy.discard((tenant, account))
            self._sure[tenant, account] += self._funds(account)
            return replace(self._confirm(door, at, made[0]), after=-1)

        self._in(at, (0, 0), submit, "kafka")
        self._in(at, (0, 0), confirm, "kafka")

    def _sometimes_again(self, at: float, step: Step) -> Step:
        """The step itself; now and then its repeat, or its key with another content, follows."""
        chance = self._random.random()
        if chance < 0.07:
            self._in(at, (0.05, 2), lambda door, at: self._again(door, at, step))
        elif chance < 0.09 and "amount" in step.data:
            self._in(at, (0.05, 2), lambda door, at: self._reused(door, at, step))
        return step

    def _again(self, door: Door, at: float, step: Step) -> Step:
        expect = Expect(outcome="repeat", reason=step.expect.reason)
        return self._step(
            door, at, step.tenant, step.customer, step.type, step.data, expect, key=step.key, after=step.number
        )

    def _reused(self, door: Door, at: float, step: Step) -> Step:
        account = step.data.get("account_id") or step.data["from_account_id"]
        asset = asset_of(account)
        data = step.data | {"amount": format_amount(_minor(step.data["amount"], asset) + 1, asset)}
        expect = Expect(outcome="reused", reason="idempotency_key_reused")
        return self._step(
            door, at, step.tenant, step.customer, step.type, data, expect, key=step.key, after=step.number
        )

    # --- scenarios: what goes well ---

    def _transfer_own(self, door: Door, at: float) -> Step:
        tenant, customer = self._tenant(), self._random.choice(tuple(ACCOUNTS))
        source, target = self._random.sample([f"{customer}:EUR", f"{customer}:EUR:savings"], 2)
        amount = self._spend(at, tenant, source)
        if not amount:
            return self._deposit_confirmed(door, at)
        expect = Expect(outcome="done", events=("transfer.completed",), moves=((source, -amount), (target, amount)))
        text = format_amount(amount, "EUR")
        return self._sometimes_again(at, self._transfer(door, at, tenant, source, target, text, expect))

    def _transfer_other(self, door: Door, at: float) -> Step:
        tenant, source = self._tenant(), self._account()
        target = self._other(source)
        amount = self._spend(at, tenant, source)
        if not amount:
            return self._deposit_confirmed(door, at)
        expect = Expect(
            outcome="done",
            events=("transfer.sent", "transfer.completed"),
            receiver=target.split(":")[0],
            received="transfer.received",
            moves=((source, -amount), (target, amount)),
        )
        text = format_amount(amount, asset_of(source))
        return self._sometimes_again(at, self._transfer(door, at, tenant, source, target, text, expect))

    def _deposit(self, door: Door, at: float) -> Step:
        account = self._account()
        return self._submit_deposit(door, at, self._tenant(), account, self._amount(account))

    def _deposit_confirmed(self, door: Door, at: float) -> Step:
        submit = self._deposit(door, at)

        def confirm(door: Door, at: float) -> Step:
            step = self._confirm(door, at, submit)
            chance = self._random.random()
            if chance < 0.08:
                twice = refused("already_processed")
                self._in(
                    at,
                    (0.1, 1),
                    lambda door, at: self._act(door, at, submit, "deposit.confirm", twice, after=step.number),
                )
            elif chance < 0.14:
                late = refused("invalid_state_transition")
                self._in(
                    at,
                    (0.1, 1),
                    lambda door, at: self._act(door, at, submit, "deposit.reject", late, after=step.number),
                )
            return self._sometimes_again(at, step)

        if self._random.random() < 0.05:
            self._in(at, (0, 0.1), lambda door, at: self._strangers(door, at, submit))
        self._in(at, (0.2, 1.5), confirm)
        return self._sometimes_again(at, submit)

    def _strangers(self, door: Door, at: float, submit: Step) -> Step:
        """A confirmation by somebody who does not own the deposit."""
        stranger = self._other(submit.data["account_id"]).split(":")[0]
        step = self._act(door, at, submit, "deposit.confirm", refused("transaction_not_found"))
        return replace(step, customer=stranger, names_owner=True)

    def _deposit_rejected(self, door: Door, at: float) -> Step:
        submit = self._deposit(door, at)
        expect = Expect(outcome="done", events=("deposit.rejected",))
        self._in(
            at,
            (0.2, 1.5),
            lambda door, at: self._sometimes_again(at, self._act(door, at, submit, "deposit.reject", expect)),
        )
        return submit

    def _deposit_canceled(self, door: Door, at: float) -> Step:
        submit = self._deposit(door, at)
        expect = Expect(outcome="done", events=("deposit.canceled",))
        self._in(at, (0.2, 1.5), lambda door, at: self._act(door, at, submit, "transaction.cancel", expect))
        return submit

    def _placed(self, door: Door, at: float, target: str = "") -> tuple[Step, int] | None:
        tenant, source = self._tenant(), self._account("EUR", "USD", "BTC")
        amount = self._spend(at, tenant, source)
        if not amount:
            return None
        if not target:
            own = asset_of(source) == "EUR" and self._random.random() < 0.3
            target = f"{source}:savings" if own else self._other(source)
        elif asset_of(source) != "EUR":
            target = target.replace("EUR", asset_of(source))
        expect = Expect(outcome="done", events=("hold.placed",))
        return self._hold(door, at, tenant, source, target, amount, expect, HOLD_S), amount

    def _capture(self, door: Door, at: float, hold: Step, amount: int, data: dict[str, Any]) -> Step:
        source, target = hold.data["account_id"], hold.data["to_account_id"]
        moves = ((source, -amount), (target, amount))
        late = refused("invalid_state_transition", "hold.expired")
        if source.split(":")[0] == target.split(":")[0]:
            expect = Expect(outcome="done", events=("hold.captured",), moves=moves, late=late)
        else:
            expect = Expect(
                outcome="done",
                events=("hold.capturing", "hold.captured"),
                receiver=target.split(":")[0],
                received="transfer.received",
                moves=moves,
                late=late,
            )
        return self._act(door, at, hold, "hold.capture", expect, data=data)

    def _hold_captured(self, door: Door, at: float) -> Step:
        placed = self._placed(door, at)
        if placed is None:
            return self._deposit_confirmed(door, at)
        hold, amount = placed

        def capture(door: Door, at: float) -> Step:
            step = self._capture(door, at, hold, amount, {})
            if self._random.random() < 0.15:
                gone = refused("invalid_state_transition")
                self._in(
                    at, (0.1, 1), lambda door, at: self._act(door, at, hold, "hold.release", gone, after=step.number)
                )
            return self._sometimes_again(at, step)

        self._in(at, (0.3, 2), capture)
        return hold

    def _hold_partly(self, door: Door, at: float) -> Step:
        placed = self._placed(door, at)
        if placed is None:
            return self._deposit_confirmed(door, at)
        hold, amount = placed
        asset = asset_of(hold.data["account_id"])
        part = self._random.randint(1, amount - 1)

        def too_much(door: Door, at: float) -> Step:
            data = {"amount": format_amount(amount + 1, asset)}
            late = refused("invalid_state_transition")
            return self._act(door, at, hold, "hold.capture", refused("amount_exceeds_limit", late=late), data=data)

        def capture(door: Door, at: float) -> Step:
            return self._capture(door, at, hold, part, {"amount": format_amount(part, asset)})

        if self._random.random() < 0.2:
            # First a capture of more than is held, and only then the right one: their order decides.
            def first(door: Door, at: float) -> Step:
                step = too_much(door, at)
                self._in(at, (0.1, 0.5), lambda door, at: replace(capture(door, at), after=step.number))
                return step

            self._in(at, (0.3, 1), first)
        else:
            self._in(at, (0.3, 2), capture)
        return hold

    def _hold_released(self, door: Door, at: float) -> Step:
        placed = self._placed(door, at)
        if placed is None:
            return self._deposit_confirmed(door, at)
        hold, _ = placed
        type_, event = self._random.choice((("hold.release", "hold.released"), ("transaction.cancel", "hold.canceled")))
        late = refused("invalid_state_transition", "hold.expired")
        expect = Expect(outcome="done", events=(event,), late=late)

        def release(door: Door, at: float) -> Step:
            return self._sometimes_again(at, self._act(door, at, hold, type_, expect))

        self._in(at, (0.3, 2), release)
        return hold

    def _hold_expiring(self, door: Door, at: float) -> Step:
        tenant, source = self._tenant(), self._account("EUR", "USD", "BTC")
        amount = self._spend(at, tenant, source)
        if not amount:
            return self._deposit_confirmed(door, at)
        late = refused("expires_at_in_past", "hold.failed")
        expect = Expect(outcome="done", events=("hold.placed", "hold.expired"), late=late)
        expires_in_s = self._random.uniform(1.5, 3)
        return self._hold(door, at, tenant, source, self._other(source), amount, expect, expires_in_s)

    def _hold_returned(self, door: Door, at: float) -> Step:
        """A hold for an account that does not take the money: it comes back."""
        placed = self._placed(door, at, f"{FROZEN}:EUR")
        if placed is None:
            return self._deposit_confirmed(door, at)
        hold, _ = placed
        reason = "account_frozen" if asset_of(hold.data["account_id"]) == "EUR" else "account_not_found"
        expect = Expect(
            outcome="returned",
            reason=reason,
            events=("hold.capturing", "hold.returned"),
            receiver=FROZEN,
            received="transfer.refused",
            late=refused("invalid_state_transition", "hold.expired"),
        )
        self._in(at, (0.3, 1), lambda door, at: self._act(door, at, hold, "hold.capture", expect))
        return hold

    # --- scenarios: what is refused ---

    def _too_much(self, door: Door, at: float) -> Step:
        tenant, source = self._tenant(), self._account()
        if self._random.random() < 0.3:
            target = self._other(source)
            data = {"account_id": source, "amount": TOO_MUCH, "to_account_id": target}
            expect = refused("insufficient_funds", "hold.failed")
            customer = source.split(":")[0]
            return self._step(door, at, tenant, customer, "hold.place", data, expect, expires_in_s=HOLD_S)
        expect = refused("insufficient_funds", "transfer.failed")
        step = self._transfer(door, at, tenant, source, self._other(source), TOO_MUCH, expect)
        return self._sometimes_again(at, step)

    def _returned(self, door: Door, at: float) -> Step:
        """Sent, and refused by the receiver's side: the money comes back."""
        tenant, source = self._tenant(), self._account("EUR")
        target, reason = self._random.choice(
            (
                (f"{FROZEN}:EUR", "account_frozen"),
                (f"{CLOSED}:EUR", "account_inactive"),
                ("nobody:EUR", "account_not_found"),
            )
        )
        amount = self._amount(source)
        if self._sure[tenant, source] < amount:
            return self._deposit_confirmed(door, at)
        # Under way it cannot be spent, and when it is back is not known: it is not counted on again.
        self._sure[tenant, source] -= amount
        text = format_amount(amount, "EUR")
        return self._sometimes_again(
            at, self._transfer(door, at, tenant, source, target, text, _comes_back(target, reason))
        )

    def _refused(self, door: Door, at: float) -> Step:
        tenant = self._tenant()
        customer = self._random.choice(PEOPLE)
        eur, other = f"{customer}:EUR", self._other(f"{customer}:EUR")
        failed = "transfer.failed"
        pairs: list[tuple[str, str, str, str]] = [
            (eur, eur, "10.00", "self_transfer"),
            (eur, other, "-5.00", "negative_amount"),
            (eur, other, "0", "negative_amount"),
            (f"{customer}:EUR:nowhere", other, "10.00", "account_not_found"),
            (eur, f"{customer}:USD", "10.00", "currency_mismatch"),
            (f"{FROZEN}:EUR", eur, "10.00", "account_frozen"),
            (f"{CLOSED}:EUR", eur, "10.00", "account_inactive"),
        ]
        if door == "kafka":
            # The contract of the HTTP door has no form for these; there they are bad requests.
            pairs += [
                (eur, f"{tenant}/{other}", "10.00", "cross_tenant"),
                (eur, "@clearing:EUR", "1.00", "account_not_found"),
            ]
        choice = self._random.randrange(len(pairs) + 3)
        if choice < len(pairs):
            source, target, amount, reason = pairs[choice]
            return self._sometimes_again_same_door(
                at, self._transfer(door, at, tenant, source, target, amount, refused(reason, failed))
            )
        if choice == len(pairs):
            data = {"asset": "EUR"}
            return self._step(door, at, tenant, customer, "account.open", data, refused("account_already_exists"))
        if choice == len(pairs) + 1:
            return self._on_account(door, at, tenant, eur, "close", expect=refused("account_in_use"))
        return self._on_account(door, at, tenant, f"{FROZEN}:EUR", "freeze", expect=refused("already_processed"))

    def _sometimes_again_same_door(self, at: float, step: Step) -> Step:
        if self._random.random() < 0.1:
            self._in(at, (0.05, 1), lambda door, at: self._again(door, at, step), step.door)
        return step

    def _frozen_for_a_moment(self, door: Door, at: float) -> Step:
        """Freeze, a payment that is refused, unfreeze: one customer's commands by one door keep their order."""
        tenant, vault = self._tenant(), self._account(VAULT)
        if (tenant, vault) not in self._busy:
            self._busy.add((tenant, vault))
            target = vault.removesuffix(":vault")

            def thaw(door: Door, at: float) -> Step:
                self._busy.discard((tenant, vault))
                return self._on_account(door, at, tenant, vault, "unfreeze")

            expect = refused("account_frozen", "transfer.failed")
            self._in(at, (0, 0), lambda door, at: self._on_account(door, at, tenant, vault, "freeze"), "kafka")
            self._in(
                at, (0, 0), lambda door, at: self._transfer(door, at, tenant, vault, target, "10.00", expect), "kafka"
            )
            self._in(at, (0, 0), thaw, "kafka")
        return self._transfer_other(door, at)

    def _short_life(self, door: Door, at: float) -> Step:
        """An account that is opened, closed, and then paid to."""
        tenant, payer = self._tenant(), self._account("EUR")
        self._numbers += 1
        owner = self._other(payer).split(":")[0]
        account = f"{owner}:EUR:t{self._numbers}"
        data = {"asset": "EUR", "name": f"t{self._numbers}"}
        opened = Expect(outcome="done", events=("account.opened",))

        def close(door: Door, at: float) -> Step:
            step = self._on_account(door, at, tenant, account, "close")
            self._in(at, (0.1, 0.5), lambda door, at: pay(door, at, step))
            return step

        def pay(door: Door, at: float, closed: Step) -> Step:
            amount = self._amount(payer)
            if self._sure[tenant, payer] < amount:
                return self._deposit_confirmed(door, at)
            self._sure[tenant, payer] -= amount
            expect = _comes_back(account, "account_inactive")
            return self._transfer(
                door, at, tenant, payer, account, format_amount(amount, "EUR"), expect, after=closed.number
            )

        self._in(
            at, (0, 0), lambda door, at: self._step(door, at, tenant, owner, "account.open", data, opened), "kafka"
        )
        self._in(at, (0, 0), close, "kafka")
        return self._transfer_other(door, at)

    # --- scenarios: what cannot be understood ---

    def _malformed(self, door: Door, at: float) -> Step:
        tenant, source = self._tenant(), self._account("EUR")
        step = self._transfer(door, at, tenant, source, self._other(source), "10.00", Expect(outcome="dead_letter"))
        if door == "http":
            reason, spoil = self._random.choice(REQUESTS)
            return replace(step, expect=Expect(outcome="bad_request", reason=reason), raw=spoil(step))
        reason, spoiled = self._random.choice(RECORDS)
        return replace(step, expect=Expect(outcome="dead_letter", reason=reason), raw=spoiled(step))


def _comes_back(target: str, reason: str) -> Expect:
    return Expect(
        outcome="returned",
        reason=reason,
        events=("transfer.sent", "transfer.returned"),
        receiver=target.split(":")[0],
        received="transfer.refused",
    )


def _minor(text: str, asset: str) -> int:
    """Minor units of an amount that the plan itself has written."""
    whole, _, fraction = text.partition(".")
    scale = len(format_amount(0, asset).partition(".")[2])
    return int(whole + fraction.ljust(scale, "0"))
