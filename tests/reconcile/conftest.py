"""A migrated ledger, written by the real writer, beside real mock banks on a manual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from aura_stream.domain.events import ByBank
from aura_stream.domain.ids import bank_reference
from aura_stream.ledger.connection import connect
from aura_stream.ledger.writer import LedgerWriter
from aura_stream.reconcile.run import Outcome, Wanted, reconcile
from aura_stream.reconcile.sources import BankLogin
from tests.ledger.builders import Shard, transaction_id
from tests.mock_bank.conftest import FRIDAY, Client, start  # noqa: F401 - a fixture

DAY_MS = 86_400_000


@dataclass
class Books:
    """The ledger's side: deposits and payouts at bank A, in Postgres by the ledger's own writer."""

    dsn: str
    writer: LedgerWriter
    shards: dict[str, Shard] = field(default_factory=dict)
    at: int = FRIDAY

    async def shard(self, tenant: str = "default") -> Shard:
        """The partition of a tenant; its clock is the banks'."""
        if tenant not in self.shards:
            made = self.shards[tenant] = Shard(len(self.shards), tenant)
            made.at = self.at
            await self.writer.claim(made.partition)
            customer = f"c-{tenant}"
            made.unit(*(made.account(f"{customer}:{asset}") for asset in ("EUR", "USD", "AEUR", "AUSD")))
            await self.flush(made)
        return self.shards[tenant]

    async def flush(self, shard: Shard) -> None:
        """Writes what the shard has recorded."""
        for record in shard.records:
            await self.writer.write(shard.partition, [record])
        shard.records.clear()

    async def moved(
        self,
        key: str,
        amount: int,
        *,
        currency: str = "EUR",
        tenant: str = "default",
        kind: str = "deposit.completed",
        against: str = "",
        bank_reference_: str = "",
        day: int = 0,
    ) -> str:
        """Money booked at bank A for a transaction, `day` days after the beginning; positive came in. Its id."""
        shard = await self.shard(tenant)
        customer = f"c-{tenant}"
        found = transaction_id(customer, key, tenant)
        booked = shard.journal(
            found,
            (f"@bank:bank-a:trust:{currency}", "available", amount),
            (against or f"{customer}:{currency}", "available", -amount),
            kind=kind,
            effective_at=self.at + day * DAY_MS,
            asset=currency,
        )
        about = ByBank(rail="sepa", bank="bank-a", bank_reference=bank_reference_)
        shard.unit(
            shard.transaction(customer, key, booked, event=kind, amount=abs(amount), asset=currency, by_bank=about)
        )
        await self.flush(shard)
        return found

    async def owed(self, token: str, fiat: str, amount: int, tokens: int) -> None:
        """A mint of the ledger: a customer's fiat becomes tokens."""
        shard = await self.shard()
        found = transaction_id("c-default", f"mint-{shard.seq}")
        one = shard.journal(
            found,
            (f"c-default:{fiat}", "available", amount),
            (f"@reserve:{token}:{fiat}", "available", -amount),
            asset=fiat,
        )
        two = shard.journal(
            found,
            (f"@custody:chain:local:{token}", "available", tokens),
            (f"c-default:{token}", "available", -tokens),
            asset=token,
        )
        shard.unit(
            shard.transaction(
                "c-default",
                f"mint-{shard.seq}",
                one,
                two,
                event="deposit.completed",
                asset=fiat,
                amount=amount,
                by_bank=ByBank(bank="bank-a"),
            )
        )
        await self.flush(shard)

    def reference(self, key: str, tenant: str = "default", step: str = "deposit") -> str:
        """The reference of a transaction's step."""
        return bank_reference(transaction_id(f"c-{tenant}", key, tenant), step)


@pytest.fixture
async def books(migrated: str) -> AsyncIterator[Books]:
    async with await LedgerWriter.connect(migrated) as writer:
        yield Books(migrated, writer)


@dataclass
class Desk:
    """Both sides and the reconciliation between them."""

    books: Books
    bank: Client

    @property
    def login(self) -> BankLogin:
        mine = self.bank.mine
        return BankLogin("bank-a", mine["url"], mine["client_id"], mine["client_secret"])

    async def run(self, **more: Any) -> Outcome:
        """One run with bank A's API, unless told otherwise."""
        return await reconcile(self.books.dsn, Wanted(**({"logins": [self.login]} | more)))

    async def breaks(self, status: str = "open") -> list[dict[str, Any]]:
        """The breaks, oldest first."""
        connection = await connect(self.books.dsn)
        try:
            rows = await connection.fetch(
                "SELECT * FROM reconciliation.break_states WHERE status = $1 ORDER BY break_id", status
            )
        finally:
            await connection.close()
        return [dict(row) for row in rows]

    async def kinds(self, status: str = "open") -> list[str]:
        """Kinds of the breaks."""
        return [one["kind"] for one in await self.breaks(status)]


@pytest.fixture
async def desk(books: Books, start: Any) -> Desk:  # noqa: F811 - the fixture
    return Desk(books, await (await start()).client())


@pytest.fixture
async def owner(books: Books) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(books.dsn)
    yield connection
    connection.terminate()
