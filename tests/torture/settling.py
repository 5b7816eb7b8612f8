"""Settlements under the torture: the same driver as `make settlements`, with the torture's own client as its witness.

Each order and each word of the operator is an intent of the client, so the ledger's invariants hold for them as for all
else; how each must end is asked of the banks' and the chain's own books.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg

from aura_stream.chain.rpc import ChainError
from aura_stream.domain.ids import bank_reference
from tests.e2e.client import Client
from tests.settlements import books, plan
from tests.settlements.drive import DAYS, Drive, is_push
from tests.settlements.plan import TENANT, Order
from tests.torture.stack import TortureStack

PER_S = 2.0
CUSTOMERS = 6
LOOK_S = 1.0
FAULTS = 0.15
"""What the banks' calls suffer all the time, beside the faults that are drawn."""
_AWAY = (aiohttp.ClientError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
_MAY = {
    "deposit.submit": (
        "completed/completed",
        "failed/rejected:bank_rejected",
        "failed/returned:bank_returned",
        "returned/returned:bank_returned",
    ),
    "withdrawal.submit": (
        "completed/completed",
        "failed/payout_rejected:bank_rejected",
        "returned/payout_returned:bank_returned",
        "failed/refused:insufficient_funds",  # a return has taken the tokens back first
    ),
    "transaction.resolve": ("done", "refused:invalid_state_transition", "refused:already_processed"),
    "account.open": ("done",),
}


class Settling(Drive):
    """Settles for as long as it is told to, through whatever happens."""

    def __init__(self, stack: TortureStack, client: Client, *, seed: int) -> None:
        assert stack.chain is not None
        super().__init__(stack, stack.chain.rpc_url, seed=seed)
        self.client = client
        self._chance = random.Random(f"{seed}/settling")
        self._paid_out: set[str] = set()
        self.unbacked: list[str] = []
        self.looks = 0

    async def command(self, type_: str, customer: str, data: dict[str, Any], key: str = "") -> None:
        """An intent of the client."""
        intent = self.client.intent(type_, TENANT, customer, data, *_MAY[type_])
        intent.key = key or intent.key
        await self.client.put(intent)

    async def push(self, one: Order) -> None:
        """Its payer sends the money, once: whether the bank has taken it says its own book."""
        self.pushed.add(one.id)
        while not self._has_come(one):
            try:
                await super().push(one)
            except _AWAY:
                await asyncio.sleep(0.5)

    def _has_come(self, one: Order) -> bool:
        db = sqlite3.connect(f"file:{self.home / plan.BANK_OF[one.rail]}.sqlite3?mode=rw", uri=True, timeout=10)
        try:
            db.execute("PRAGMA query_only = 1")
            sql = "SELECT 1 FROM transfers WHERE direction = 'incoming' AND reference = ?"
            return db.execute(sql, (bank_reference(one.id, "deposit"),)).fetchone() is not None
        finally:
            db.close()

    async def set_profile(self, bank: str, profile: dict[str, Any]) -> None:
        """From now on a bank is like this, as soon as it listens."""
        while True:
            with contextlib.suppress(*_AWAY):
                await self.misbehave(bank, profile)
                return
            await asyncio.sleep(0.5)

    async def usual(self, *banks: str) -> None:
        """Banks are as they mostly are."""
        for bank in banks or ("bank-a", "bank-b"):
            usual = plan.profile(FAULTS, self.seed)
            usual["rates"]["one_cent_off"] = 0  # what a person must resolve is proven elsewhere
            await self.set_profile(bank, usual)

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        """Settles while the block runs."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._settle_on(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def prepare(self) -> None:
        """Accounts for those who settle."""
        for number in range(CUSTOMERS):
            for asset in ("EUR", "USD", "AEUR", "AUSD"):
                await self.command("account.open", f"s{number}", {"asset": asset})
        await self.usual()

    async def _settle_on(self, stop: asyncio.Event) -> None:
        next_at = look_at = time.monotonic()
        while not stop.is_set():
            if time.monotonic() >= next_at:
                next_at = time.monotonic() + 1 / PER_S
                await self.send(plan.deposits(self._chance.getrandbits(32), 1, CUSTOMERS))
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK_S
                await self._look()
            with contextlib.suppress(*_AWAY):
                async with asyncio.timeout(10):
                    rows = await self.rows(self.orders)
                await self.see_to(rows)
                await self._pay_out(rows)
            await asyncio.sleep(0.2)

    async def _look(self) -> None:
        """Holds what is on the chain just now against what the banks say has come: first the one, then the other."""
        with contextlib.suppress(*_AWAY, ChainError):
            async with asyncio.timeout(3):  # a node that stands still is no reason to settle nothing
                tokens = {token: await books.on_chain(self.node_url, key) for token, key in self._keys().items()}
            files = {bank: self.home / f"{bank}.sqlite3" for bank in ("bank-a", "bank-b")}
            transfers = {bank: dict(books.at_bank(path))["transfers"] for bank, path in files.items()}
            pushes = {one.id: plan.BANK_OF[one.rail] for one in self.orders if is_push(one)}
            self.unbacked += books.unbacked(tokens, transfers, pushes)
            self.looks += 1

    async def _pay_out(self, rows: list[dict[str, Any]]) -> None:
        by_id = {one.id: one for one in self.orders}
        for row in rows:
            if row["type"] == "deposit" and row["state"] == "completed" and row["id"] not in self._paid_out:
                self._paid_out.add(row["id"])
                if self._chance.random() < 0.7:
                    await self.send(plan.withdrawals(self._chance.getrandbits(32), 1, [by_id[row["id"]]]))

    async def come_to_rest(self) -> None:
        """No new ones; the banks are well; every settlement ends, and days pass until the last return has come."""
        for bank in ("bank-a", "bank-b"):
            await self.set_profile(bank, plan.profile(0, self.seed))
        async with self.time_passes():
            await self.until_known()
            await self.days(DAYS)
            await self.until_ended(self.orders)

    async def must_agree(self) -> None:
        """All books are of the same money, and none was ahead of another meanwhile. Raises AssertionError."""
        assert self.looks, "nobody has looked at the books while they were written"
        await self._look()
        wrong = self.unbacked or await self.until_right()
        assert not wrong, f"{len(wrong)} settlements or sums are wrong:\n" + "\n".join(wrong[:30])

    async def outcomes(self) -> dict[str, int]:
        """How they have ended."""
        found: dict[str, int] = {}
        for row in await self.rows(self.orders):
            assert row["status"] in books.ENDED, row
            name = f"{row['type']} {row['state']}"
            found[name] = found.get(name, 0) + 1
        return dict(sorted(found.items()))
