"""Drives settlements through real processes while the banks misbehave, until each has ended; then asks all books.

A bank's clock is virtual and ours is not. Minutes pass while calls are under way (a bank is done with a call within
its longest delay, and so must the lane's patience be longer than that); days pass only while no call is: a bank
forgets a reference after a day, and must not while we still ask for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaProducer

from aura_stream.chain.signer import SigningKey, derived, load_key
from aura_stream.domain.ids import bank_reference
from tests.e2e.client import COMMANDS, partition_of
from tests.e2e.stack import E2EStack
from tests.settlements import books, plan
from tests.settlements.plan import TENANT, Order

LIMITS = {
    "calls_at_once": 8,
    "backoff_ms": 100,
    "answer_ms": 2_000,
    "open_ms": 1_000,
    "inquire_every_ms": 500,
    "inquiries": 40,
    "longest_delay_ms": 8_000,
}
"""A lane's patience that fits a bank whose time runs :data:`MINUTE_S` in every :data:`TICK_S`."""
TICK_S, MINUTE_S = 0.5, 30
DAYS = 8
"""Until the last return has come: three banking days, with a weekend and a holiday between."""
STALL_S = 120.0
"""When to stop hoping: so long after the last thing that moved."""
_DAY_S = 24 * 60 * 60
BEFORE_THE_BANK = frozenset(
    {"submitting", "awaiting_funds", "tokens_held", "burn_broadcast", "burn_confirming", "payout_submitting"}
)
"""States after which a call to a bank may still come, or is under way."""
_ROWS = (
    "SELECT transaction_id::text AS id, type, status, state, coalesce(reason, '') AS reason, seq"
    " FROM ledger.transactions WHERE transaction_id = ANY($1::uuid[])"
)


@dataclass
class Report:
    """What a run did and found."""

    count: int
    seed: int
    faults: float
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)  # of attempts, by kind
    faults_met: Counter[str] = field(default_factory=Counter)  # as the banks noted them
    by_operator: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        attempts = sum(self.answers.values())
        lines = [
            f"settlements: {self.count} in {self.seconds:.0f} s, {self.faults:.0%} faults, seed {self.seed}",
            *(f"  {count:5} {name}" for name, count in sorted(self.outcomes.items())),
            f"attempts outside: {attempts}",
            *(f"  {count:5} {name}" for name, count in sorted(self.answers.items())),
            f"faults as the banks noted them: {sum(self.faults_met.values())}",
            "  " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults_met.items())),
            f"left to an operator: {dict(sorted(self.by_operator.items())) or 'none'}",
            f"wrong: {len(self.wrong)}",
            *(f"  {one}" for one in self.wrong[:40]),
            f"again: make settlements COUNT={self.count} SEED={self.seed} FAULTS={self.faults:g}",
        ]
        return "\n".join(lines)


class Drive:
    """Settlements of one town: a stack with banks, and a chain at `node_url`."""

    def __init__(
        self, town: E2EStack, node_url: str, *, seed: int, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.town, self.node_url, self.seed, self.say = town, node_url, seed, say
        self.orders: list[Order] = []
        self.by_operator: Counter[str] = Counter()
        self.pushed: set[str] = set()
        self._resolved: set[tuple[str, int]] = set()

    # --- the whole ---------------------------------------------------------------------------------------------------

    async def run(self, count: int, faults: float) -> Report:
        """So many settlements: deposits first, then withdrawals of what they brought; days pass, and all is asked."""
        began = time.monotonic()
        report = Report(count, self.seed, faults)
        async with self.connected():
            for bank in ("bank-a", "bank-b"):
                await self.misbehave(bank, plan.profile(faults, self.seed))
            async with self.time_passes():
                first = plan.deposits(self.seed, count - count * 2 // 5, max(4, count // 8))
                await self.open_accounts(first)
                await self.send(first)
                self.say(f"{len(first)} deposits are sent")
                await self.until_known()
                await self.until_ended(first)
                done = [one for one in first if (await self._row(one.id))["state"] == "completed"]
                second = plan.withdrawals(self.seed, count - len(first), done)
                await self.send(second)
                self.say(f"{len(second)} withdrawals of {len(done)} completed deposits are sent")
                await self.until_known()
                await self.days(DAYS)
                await self.until_ended(self.orders)
                report.wrong = await self.until_right()
            report.count = len(self.orders)
            await self._count(report)
        report.seconds = time.monotonic() - began
        return report

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """With a producer, and a session to the banks' operator."""
        self._producer = AIOKafkaProducer(bootstrap_servers=self.town.bootstrap, acks="all")
        await self._producer.start()
        try:
            async with self.with_operator():
                yield
        finally:
            await self._producer.stop()

    @asynccontextmanager
    async def with_operator(self) -> AsyncIterator[None]:
        """With a session to the banks' operator."""
        known = json.loads((self.home / "credentials.json").read_text())
        self._url, self._token = known["url"], known["operator_token"]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as self._session:
            yield

    @property
    def home(self) -> Path:
        """Where the banks keep their books."""
        return self.town.local.home / "mock-bank"

    # --- asking ------------------------------------------------------------------------------------------------------

    async def command(self, type_: str, customer: str, data: dict[str, Any], key: str = "") -> None:
        """Writes one command to the public topic."""
        value = {
            "id": str(uuid.uuid4()),
            "type": type_,
            "tenant": TENANT,
            "customer": customer,
            "data": data,
            "idempotency_key": key or str(uuid.uuid4()),
            "issued_at": "2026-11-20T10:00:00Z",
        }
        await self._producer.send_and_wait(
            *(COMMANDS, json.dumps(value).encode(), f"{TENANT}/{customer}".encode(), partition_of(TENANT, customer))
        )

    async def open_accounts(self, orders: Iterable[Order]) -> None:
        """Accounts of their customers, in both currencies and tokens."""
        for customer in sorted({one.customer for one in orders}):
            for asset in ("EUR", "USD", "AEUR", "AUSD"):
                await self.command("account.open", customer, {"asset": asset})

    async def send(self, orders: Iterable[Order]) -> None:
        """Sends them; some payers pay before we have said that we expect it."""
        for one in orders:
            self.orders.append(one)
            type_, data = one.command()
            if one.is_early and is_push(one):
                await self.push(one)
            await self.command(type_, one.customer, data, one.key)

    async def push(self, one: Order) -> None:
        """Its payer sends the money."""
        self.pushed.add(one.id)
        await self._operator(
            "POST",
            f"/v1/simulate/banks/{plan.BANK_OF[one.rail]}/incoming",
            {
                "account_id": f"trust-{one.fiat.lower()}",
                "amount": one.amount,
                "rail": one.rail,
                "reference": bank_reference(one.id, "deposit"),
                "sender": {"name": "Alice Example"},
            },
        )

    # --- the banks' operator -----------------------------------------------------------------------------------------

    async def misbehave(self, bank: str, profile: dict[str, Any]) -> None:
        """From now on a bank is like this."""
        await self._operator("PUT", f"/v1/simulate/banks/{bank}/profile", profile)

    async def _operator(self, method: str, path: str, body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        async with self._session.request(method, self._url + path, json=body, headers=headers) as answer:
            found = await answer.json()
            assert answer.status < 300, found
            return found

    @asynccontextmanager
    async def time_passes(self) -> AsyncIterator[None]:
        """The banks' minutes pass while the block runs; a bank that is away misses some."""

        async def tick() -> None:
            while True:
                await asyncio.sleep(TICK_S)
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    await self._operator("POST", "/v1/simulate/clock", {"advance_s": MINUTE_S})

        task = asyncio.create_task(tick())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def days(self, count: int) -> None:
        """Days pass for the banks, an hour at a time so that their events come in order."""
        for _ in range(count * 6):
            await self._operator("POST", "/v1/simulate/clock", {"advance_s": _DAY_S // 6})
            await asyncio.sleep(0.05)

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def rows(self, orders: Iterable[Order]) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.town.fetch(_ROWS, [one.id for one in orders])]

    async def _row(self, id_: str) -> dict[str, Any]:
        return dict((await self.town.fetch(_ROWS, [id_]))[0])

    async def until_known(self) -> None:
        """Until the banks have taken or refused everything: no call of ours waits for its outcome."""

        def left(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [row for row in rows if row["state"] in BEFORE_THE_BANK]

        await self._until(left, self.orders, "their banks have them")

        async def under_way() -> str:
            count = await self._calls()
            return f"{count} calls are under way" if count else ""

        await self._eventually(under_way, "no call is under way")

    async def until_ended(self, orders: list[Order]) -> None:
        """Until each has a status that ends it, while days pass whenever no call is under way. What waits for a person,
        an operator resolves by the bank's word."""

        def left(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [row for row in rows if row["status"] not in books.ENDED]

        await self._until(left, orders, "all have ended", days_pass=True)

    async def _until(
        self,
        left: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
        orders: list[Order],
        what: str,
        *,
        days_pass: bool = False,
    ) -> None:
        moved_at, last = time.monotonic(), -1
        while True:
            rows = await self.rows(orders)
            await self.see_to(rows)
            missing = left(rows)
            if len(rows) == len(orders) and not missing:
                return
            progress = sum(row["seq"] for row in rows)
            if progress != last:
                moved_at, last = time.monotonic(), progress
            waited = time.monotonic() - moved_at
            states = Counter(f"{row['type']} {row['status']}/{row['state']}:{row['reason']}" for row in missing)
            examples = [row["id"] for row in missing[:3]]
            assert waited < STALL_S, (
                f"{what}: nothing has moved for {waited:.0f} s; {len(orders) - len(rows)} are not there,"
                f" {dict(states)}, as {examples}\n{self.town.logs(30)}"
            )
            if days_pass and not any(row["state"] in BEFORE_THE_BANK for row in rows) and not await self._calls():
                await self._operator("POST", "/v1/simulate/clock", {"advance_s": _DAY_S // 6})
            await asyncio.sleep(0.3)

    async def _calls(self) -> int:
        """How many calls to banks are under way."""
        sql = "SELECT count(*) FROM settlement.attempts WHERE lane LIKE 'bank:%' AND ended_at IS NULL"
        return int((await self.town.fetch(sql))[0][0])

    async def see_to(self, rows: list[dict[str, Any]]) -> None:
        """What others do: payers pay what is expected, and an operator sees to what needs a person."""
        by_id = {one.id: one for one in self.orders}
        for row in rows:
            one = by_id[row["id"]]
            if row["state"] == "awaiting_funds" and row["status"] == "processing" and one.id not in self.pushed:
                await self.push(one)
            if row["status"] == "requires_attention" and (one.id, row["seq"]) not in self._resolved:
                outcome = _way_out(row)
                if outcome:
                    self._resolved.add((one.id, row["seq"]))
                    self.by_operator[f"{row['reason']}: {outcome}"] += 1
                    data = {"transaction_id": one.id, "outcome": outcome, "operator": "olga"}
                    await self.command("transaction.resolve", one.customer, data)

    async def _eventually(self, missing: Callable[[], Any], what: str) -> None:
        give_up = time.monotonic() + STALL_S
        while found := await missing():
            assert time.monotonic() < give_up, f"{what}: {found}\n{self.town.logs(30)}"
            await asyncio.sleep(0.3)

    # --- the books ---------------------------------------------------------------------------------------------------

    async def until_right(self, within_s: float = 60.0) -> list[str]:
        """What is wrong when everything has come to rest; [] as soon as nothing is."""
        give_up = time.monotonic() + within_s
        while True:
            found = await self.read()
            wrong = books.wrong(found) + self._missing(found)
            if not wrong or time.monotonic() > give_up:
                return wrong
            await asyncio.sleep(1.0)

    def _missing(self, found: books.Books) -> list[str]:
        return [f"{one.id} was sent, and is nowhere" for one in self.orders if one.id not in found.transactions]

    async def read(self) -> books.Books:
        """All books as they are now."""
        connection = await self.town.connect()
        try:
            await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
            files = {bank: self.home / f"{bank}.sqlite3" for bank in ("bank-a", "bank-b")}
            return await books.read(connection, files, self.node_url, self._keys())
        finally:
            await connection.close()

    def _keys(self) -> dict[str, SigningKey]:
        key = load_key(self.town.settings)
        return {token: derived(key, token) for token in ("AEUR", "AUSD")}

    async def _count(self, report: Report) -> None:
        found = await self.read()
        mine = {one.id for one in self.orders}
        report.by_operator = self.by_operator
        for id_, row in found.transactions.items():
            if id_ in mine:
                report.outcomes[f"{row['type']} {row['state']}{': ' + row['reason'] if row['reason'] else ''}"] += 1
        for row in found.attempts:
            if row["id"] in mine:
                report.answers[f"{row['kind']}: {row['answer'] or '-'}"] += 1
        for calls in found.calls.values():
            report.faults_met.update(call["fault"] for call in calls if call["fault"])


def is_push(one: Order) -> bool:
    """Whether its payer sends the money by himself."""
    return one.kind == "deposit" and one.rail != "ach"


def _way_out(row: dict[str, Any]) -> str:
    """What an operator does: money that is not what was asked for is given back, or is what was paid."""
    if row["reason"] == "amount_mismatch":
        return "refund" if row["type"] == "deposit" else "settled"
    return {"unknown_outcome": "inquire", "no_answer": "inquire"}.get(row["reason"], "")
