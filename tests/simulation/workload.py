"""What clients ask for: all kinds of commands over a few customers, repeats, reused keys and bytes that mean nothing.

A client sends again what was not acknowledged, with the same bytes; the log may then hold it twice, and the second
copy may come much later.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Any

from agents.worker import NAMES
from aura_stream.domain.commands import format_time
from aura_stream.domain.ids import derived_id, id_text, record_key
from tests.simulation.world import World

COMMANDS = 110
CUSTOMERS = ("alice", "bob", "carl", "dora")
ACCOUNTS = ("alice:EUR", "bob:EUR", "carl:EUR", "dora:EUR", "alice:JPY", "bob:JPY", "alice:EUR:save")
POISON = (b"", b"null", b'{"type":"transfer.submit"}', b"\xff\xfe", b'{"id":"\\u0000"}', b"[" * 50)
BEGIN = (("default", ACCOUNTS), ("demo", ("alice:EUR", "bob:EUR")))
SUBMITS = ("transfer.submit", "transfer.submit", "transfer.submit", "hold.place", "hold.place", "deposit.submit")
ACTIONS = ("hold.capture", "hold.capture", "hold.release", "deposit.confirm", "deposit.reject", "transaction.cancel")


@dataclass(slots=True)
class Asked:
    """A command that was built."""

    message: dict[str, Any]

    @property
    def transaction_id(self) -> str:
        """The id of the transaction that it begins, if it begins one."""
        m = self.message
        return id_text(derived_id(m["tenant"], m["customer"], m["idempotency_key"]))


class Client:
    """Sends commands, and keeps in mind which were acknowledged."""

    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.acknowledged: list[tuple[int, bytes]] = []  # partition and bytes
        self.asked: list[Asked] = []
        self.submitted: list[Asked] = []
        self.pace = self.random.choice((0.01, 0.05, 0.3))  # seconds between two commands
        self._count = 0
        self._sending: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """All of it."""
        for tenant, accounts in BEGIN:
            for account in accounts:
                customer, asset, *name = account.split(":")
                self.ask("account.open", customer, tenant, asset=asset, **({"name": name[0]} if name else {}))
                deposit = self.ask("deposit.submit", customer, tenant, account_id=account, amount="100")
                self.ask("deposit.confirm", customer, tenant, transaction_id=deposit.transaction_id)
                await asyncio.sleep(self.pace)
        for _ in range(COMMANDS - 3 * sum(len(accounts) for _, accounts in BEGIN)):
            self._something()
            await asyncio.sleep(self.random.expovariate(1 / self.pace))
        await asyncio.gather(*self._sending)

    def ask(self, type_: str, customer: str, tenant: str = "default", key: str = "", **data: Any) -> Asked:
        """Builds a command and begins to send it."""
        self._count += 1
        message = {
            "id": str(uuid.UUID(int=self._count)),
            "type": type_,
            "tenant": tenant,
            "customer": customer,
            "idempotency_key": key or f"key-{self.random.choice(('a', 'b'))}{self._count}",
            "issued_at": "2026-11-20T10:00:00Z",
            "data": data,
        }
        asked = Asked(message)
        self.asked.append(asked)
        if type_ in SUBMITS:
            self.submitted.append(asked)
        self._send(record_key(tenant, customer), json.dumps(message).encode())
        return asked

    def _send(self, key: bytes, value: bytes, partition: int | None = None) -> None:
        where = self.world.partitioner(key) if partition is None else partition
        self._sending.append(self.world.loop.create_task(self._deliver(where, key, value)))

    async def _deliver(self, partition: int, key: bytes, value: bytes) -> None:
        world, faults = self.world, self.world.faults
        place = (NAMES.commands, partition)
        if delay := faults.delay():
            await asyncio.sleep(delay)
        while True:
            fate = "lost" if world.broker.down else faults.request()
            if fate in ("ok", "reply lost"):
                world.broker.write(place, [(key, value, ())])
            if fate == "ok":
                break
            if fate == "late":
                world.broker.later(faults.lateness(), world.broker.write, place, [(key, value, ())])
            await asyncio.sleep(0.2)
        self.acknowledged.append((partition, value))
        if faults.happens(faults.profile.duplicates):
            faults.counts["duplicates"] += 1
            world.broker.later(faults.random.choice((0.0, 0.5, 8.0)), world.broker.write, place, [(key, value, ())])

    # --- what is asked ---------------------------------------------------------------------------------------------

    def _something(self) -> None:
        drawn = self.random.random()
        if drawn < 0.5 or not self.submitted:
            self._submit()
        elif drawn < 0.78:
            self._act()
        elif drawn < 0.86:
            self._repeat()
        elif drawn < 0.92:
            account = self.random.choice(ACCOUNTS)
            kind = self.random.choice(("freeze", "unfreeze", "unfreeze", "close"))
            self.ask(f"account.{kind}", account.split(":")[0], account_id=account)
        elif drawn < 0.96:
            first = self.random.choice(self.asked).message
            data = {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "3.21"}
            self.ask("transfer.submit", first["customer"], first["tenant"], first["idempotency_key"], **data)
        elif drawn < 0.98:
            self._send(record_key("default", self.random.choice(CUSTOMERS)), self.random.choice(POISON))
        elif drawn < 0.995:
            astray = json.dumps(self.random.choice(self.asked).message).encode()
            self._send(b"default/nobody", astray, self.random.randrange(len(CUSTOMERS) - 1))
        else:
            by = self.random.choice((2, 600, 90_000, 8 * 86_400))
            self.ask("clock.advance", self.random.choice(CUSTOMERS), operator="olga", advance_s=by)

    def _submit(self) -> None:
        tenant = self.random.choice(("default", "default", "demo"))
        type_ = self.random.choice(SUBMITS)
        account, to = self.random.choice(ACCOUNTS), self.random.choice(ACCOUNTS)
        if self.random.random() < 0.8:
            to = self.random.choice([a for a in ACCOUNTS if a.split(":")[1] == account.split(":")[1]])
        # The same keys in both tenants: they must not meet.
        key = f"both-{self.random.randrange(12)}" if self.random.random() < 0.3 else ""
        customer, amount = account.split(":")[0], self.random.choice(("1", "5", "10", "20", "40", "75"))
        if "JPY" not in account and self.random.random() < 0.3:
            amount += self.random.choice((".10", ".29"))
        if type_ == "deposit.submit":
            self.ask(type_, customer, tenant, key, account_id=account, amount=amount)
        elif type_ == "transfer.submit":
            self.ask(type_, customer, tenant, key, from_account_id=account, to_account_id=to, amount=amount)
        else:
            until = format_time(
                self.world.ledger_ms() + self.random.choice((500, 1_500, 3_000, 6_000, 20_000, 3_600_000))
            )
            data = {"account_id": account, "to_account_id": to, "amount": amount, "expires_at": until}
            self.ask(type_, customer, tenant, key, **data)

    def _act(self) -> None:
        target = self.random.choice(self.submitted[-12:])
        begun, action = target.message["type"], self.random.choice(ACTIONS)
        if begun.split(".")[0] != action.split(".")[0] and self.random.random() < 0.7:
            action = {"hold.place": "hold.capture", "deposit.submit": "deposit.confirm"}.get(begun, action)
        data: dict[str, Any] = {"transaction_id": target.transaction_id}
        if action == "hold.capture" and self.random.random() < 0.5:
            data["amount"] = self.random.choice(("1", "2", "3.50"))
        self.ask(action, target.message["customer"], target.message["tenant"], **data)

    def _repeat(self) -> None:
        message = dict(self.random.choice(self.asked).message)
        if self.random.random() < 0.5:
            self._count += 1
            message["id"] = str(uuid.UUID(int=self._count))
        self._send(record_key(message["tenant"], message["customer"]), json.dumps(message).encode())
