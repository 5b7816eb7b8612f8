"""The world outside: the mock bank by its operator's door, the chain by its node, and what anyone can see of both."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp
import asyncpg

from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainError, ChainNode
from aura_stream.demo.settled import Evidence, Settled
from aura_stream.demo.stories import BANKS, OUTSIDE, Payment
from aura_stream.domain.assets import parse_amount
from aura_stream.domain.settlement import TOKENS
from aura_stream.ledger.connection import READER, connect
from aura_stream.reconcile import run as reconciliation
from aura_stream.reconcile.sources import read_logins
from aura_stream.settings import Settings

LOOK_S: Final = 1.0
DAY_S: Final = 86_400
ACCOUNTS: Final = {("bank-a", "USD"): "trust-usd", ("bank-b", "EUR"): "trust-eur"}
"""Where the payments of the stories are booked."""
_PAGE: Final = "1000"
_ATTEMPTS_S: Final = 15.0

_LANES: Final = """
SELECT a.lane, coalesce(l.breaker, 'closed') AS breaker, coalesce(l.stopped, '') AS stopped, a.calls, a.under_way,
    a.failed
FROM (
    SELECT lane, count(*) AS calls, count(*) FILTER (WHERE ended_at IS NULL) AS under_way,
        count(*) FILTER (WHERE answer IN ('lost', 'not_processed')) AS failed
    FROM settlement.attempts GROUP BY lane
) a LEFT JOIN settlement.lanes l USING (lane) ORDER BY a.lane
"""


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach it all. `tokens` and `keys`: token -> its contract and our address that holds it."""

    settings: Settings
    tokens: Mapping[str, str]
    keys: Mapping[str, str]
    write_dsn: str
    read_dsn: str
    api_url: str
    api_key: str

    @property
    def credentials(self) -> Path:
        """The mock bank's file."""
        return self.settings.home / "mock-bank" / "credentials.json"


@dataclass(frozen=True, slots=True)
class Lane:
    """What is to be seen of a connector's lane."""

    name: str
    breaker: str
    stopped: str
    calls: int
    under_way: int
    failed: int


@dataclass(slots=True)
class Seen:
    """The last look."""

    lanes: list[Lane] = field(default_factory=list)
    height: int = 0
    bank_time: datetime | None = None
    profiles: dict[str, str] = field(default_factory=dict)
    reserves: dict[str, Any] = field(default_factory=dict)
    cash: dict[tuple[str, str], int] = field(default_factory=dict)
    """(bank, fiat) -> cents of our customers, by the bank's own books."""
    problem: str = ""


class Outside:
    """See the module. Errors of connections are aiohttp's and asyncpg's, :class:`ChainError` of the node."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.seen = Seen()
        self._session: aiohttp.ClientSession | None = None
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._open = AsyncExitStack()
        self._node = ChainNode(address.settings.chain_rpc_url)
        known = json.loads(address.credentials.read_text(encoding="utf-8"))
        self._url = f"{known['url']}/v1/simulate"
        self._operator = {"Authorization": f"Bearer {known['operator_token']}"}
        self._login = {"Authorization": f"Bearer {address.api_key}"}

    async def start(self) -> None:
        """Connects."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        await self._open.enter_async_context(self._node)

    async def stop(self) -> None:
        """Disconnects."""
        if self._session is not None:
            await self._session.close()
        await self._open.aclose()
        if self._connection is not None:
            await self._connection.close(timeout=2)

    # --- doing ---

    async def pay(self, payment: Payment) -> None:
        """A payer pays: the money is at our bank when this returns."""
        account = f"trust-{'usd' if payment.rail == 'ach' else 'eur'}"
        body = {"account_id": account, "amount": payment.amount, "rail": payment.rail, "reference": payment.reference}
        await self._bank("POST", f"/banks/{payment.bank}/incoming", body | {"sender": {"name": payment.name}})

    async def behave(self, bank: str, name: str, **more: Any) -> None:
        """How a bank behaves from now on."""
        await self._bank("PUT", f"/banks/{bank}/profile", {"name": name, **more})
        self.seen.profiles[bank] = name

    async def pass_day(self) -> int:
        """A day passes at the banks; how many things have happened meanwhile. All due news are out when it returns."""
        passed = await self._bank("POST", "/clock", {"advance_s": DAY_S})
        for bank in sorted(set(BANKS.values())):
            await self._bank("POST", f"/banks/{bank}/webhooks/flush")
        return int(passed["done"])

    async def reorganise(self, depth: int) -> None:
        """The chain loses its youngest blocks, and what was in them."""
        await Chaos(self._node, self.address.settings).reorg(depth)

    # --- looking ---

    async def run(self) -> None:
        """Looks, until it is cancelled."""
        while True:
            try:
                await self._look()
                self.seen.problem = ""
            except (aiohttp.ClientError, ChainError, OSError, TimeoutError, asyncpg.PostgresError) as error:
                self.seen.problem = str(error) or type(error).__name__
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        self.seen.height = (await self._node.head()).number
        clock = await self._bank("GET", "/clock")
        self.seen.bank_time = datetime.fromisoformat(clock["now"])
        for (bank, fiat), account in ACCOUNTS.items():
            books = await self._bank("GET", f"/banks/{bank}/books")
            self.seen.cash[bank, fiat] = parse_amount(books["balances"][account], fiat)
        rows = await (await self._postgres()).fetch(_LANES)
        self.seen.lanes = [Lane(*row) for row in rows]
        self.seen.reserves = await self._reserves() or self.seen.reserves

    async def _reserves(self) -> dict[str, Any]:
        """The newest report; empty before the first."""
        assert self._session is not None
        async with self._session.get(f"{self.address.api_url}/v1/reserves", headers=self._login) as answer:
            return dict(await answer.json()) if answer.status == 200 else {}

    async def _api(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A request of our own operator."""
        assert self._session is not None
        headers = self._login | ({"Idempotency-Key": str(uuid4())} if body is not None else {})
        async with self._session.request(method, self.address.api_url + path, json=body, headers=headers) as answer:
            found = await answer.json()
            if answer.status >= 300:
                raise aiohttp.ClientError(f"{method} {path}: {answer.status} {found.get('detail', '')}")
            return dict(found)

    async def _postgres(self) -> asyncpg.Connection[asyncpg.Record]:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self.address.read_dsn, READER, application_name="aura demo")
        return self._connection

    # --- evidence ---

    async def evidence(self, settled: Settled) -> Evidence:
        """What banks, chain and reconciliation say, once everything is at rest."""
        found = Evidence()
        await self._ask_banks(settled, found)
        await self._ask_chain(found)
        logins = read_logins(self.address.credentials)
        wanted = reconciliation.Wanted(
            logins=[logins[name] for name in sorted(set(BANKS.values()))],
            chain_rpc_url=self.address.settings.chain_rpc_url,
            confirmations=self.address.settings.chain_confirmations,
            tokens=self.address.tokens,
        )
        await reconciliation.reconcile(self.address.write_dsn, wanted)
        await self._close_cases(settled, found)
        outcome = await reconciliation.reconcile(self.address.write_dsn, wanted)
        found.report, found.problems = outcome.report, outcome.problems
        return found

    async def _close_cases(self, settled: Settled, found: Evidence) -> None:
        """The operator's work: what the bank's codes call a person for is looked at, and closed."""
        cases: dict[str, int] = {}
        where = "/v1/breaks?kind=needs_a_person&status=open"
        more = where
        while more:
            page = await self._api("GET", more)
            cases |= {one["transaction_id"]: one["id"] for one in page["items"]}
            more = f"{where}&cursor={page['next_cursor']}" if page["has_more"] else ""
        found.cases = set(cases)
        note = "the customer was asked; the account stays frozen"
        for transaction in settled.cases(found) & cases.keys():
            path = f"/v1/breaks/{cases[transaction]}/resolve"
            await self._api("POST", path, {"resolution": "explained", "note": note})

    async def _ask_banks(self, settled: Settled, found: Evidence) -> None:
        references = await self._references(settled)
        statuses: dict[str, tuple[str, ...]] = {}
        for bank in sorted(set(BANKS.values())):
            books = await self._bank("GET", f"/banks/{bank}/books")
            found.acted_twice += [one["reference"] for one in books["acted_twice"]]
            found.unbalanced += [] if books["balanced"] else [bank]
            for (name, fiat), account in ACCOUNTS.items():
                if name == bank:
                    found.cash[name, fiat] = parse_amount(books["balances"][account], fiat)
            after, more = "", True
            while more:
                page = await self._bank(
                    "GET", f"/banks/{bank}/books/references", query={"after": after, "limit": _PAGE}
                )
                for one in page["references"]:
                    statuses[one["reference"]] = tuple(transfer["status"] for transfer in one["transfers"])
                    after = one["reference"]
                more = bool(page["references"])
        found.orders = {id_: statuses.get(reference, ()) for id_, reference in references.items()}
        rows = await (await self._postgres()).fetch(
            "SELECT account_id, sum(amount) AS total FROM ledger.entries"
            " WHERE account_id LIKE '@bank:bank-%:trust:%' GROUP BY account_id"
        )
        for row in rows:
            _, bank, _, fiat = row["account_id"].split(":")
            found.booked[bank, fiat] = int(row["total"])

    async def _references(self, settled: Settled) -> dict[str, str]:
        """Transaction -> the reference by which the bank knows our order; for ach the lane has allotted it."""
        orders = [goal for goal in settled.goals.values() if goal.is_order]
        allotted = {goal.transaction for goal in orders if goal.rail == "ach" and settled.was_instructed(goal)}
        async with asyncio.timeout(_ATTEMPTS_S):
            while True:
                rows = await (await self._postgres()).fetch(
                    "SELECT DISTINCT transaction_id::text AS id, reference FROM settlement.attempts"
                    " WHERE kind = 'submit' AND transaction_id = ANY ($1::uuid[])",
                    sorted(allotted),
                )
                if len({row["id"] for row in rows}) == len(allotted):
                    break
                await asyncio.sleep(0.2)  # the lanes' journal is written to Postgres a moment later
        return {goal.transaction: goal.reference for goal in orders} | {row["id"]: row["reference"] for row in rows}

    async def _ask_chain(self, found: Evidence) -> None:
        minted: defaultdict[str, list[int]] = defaultdict(list)
        burned: defaultdict[str, list[int]] = defaultdict(list)
        head = (await self._node.head()).number
        for token in TOKENS:
            contract = self.address.tokens[token]
            for event in await self._node.events(contract, 0, head):
                (minted if event.kind == "minted" else burned)[event.reference.hex()].append(event.amount)
            found.supply[token] = await self._node.total_supply(contract, head)
            found.held[token] = int(await self._node.read(contract, "balanceOf", self.address.keys[token], at=head))
            found.elsewhere[token] = int(await self._node.read(contract, "balanceOf", OUTSIDE, at=head))
        found.minted, found.burned = dict(minted), dict(burned)

    async def _bank(
        self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """A call of the bank's operator."""
        assert self._session is not None
        async with self._session.request(
            method, self._url + path, json=body, params=query, headers=self._operator
        ) as answer:
            found = await answer.json()
            if answer.status >= 300:
                raise aiohttp.ClientError(f"{method} {path}: {answer.status} {found.get('detail', '')}")
            return dict(found)
