"""The one question after every scenario: is everything still exactly right?"""

from __future__ import annotations

import weakref

import asyncpg

from aura_stream.ledger.verify import verify
from tests.e2e.client import Client
from tests.e2e.stack import PARTITIONS, QUIET_S, E2EStack
from tests.invariants.checks import INVARIANTS, Violation, equal, must
from tests.invariants.snapshot import Remembered, Snapshot, take

_REMEMBERED: weakref.WeakKeyDictionary[Client, Remembered] = weakref.WeakKeyDictionary()


async def assert_coherent(stack: E2EStack, client: Client, *, within_s: float = QUIET_S, replay: int = 6) -> Snapshot:
    """Waits until the ledger is at rest, repeats some requests, and holds everything against every invariant."""
    await stack.quiet(within_s)
    if replay and any(attempt.decided for intent in client.intents for attempt in intent.attempts):
        await client.replay(replay)
        await stack.quiet(within_s)
    connection = await stack.connect()
    try:
        found = await take(stack.bootstrap, connection, client, partitions=PARTITIONS)
        for check in INVARIANTS:
            try:
                check(found)
            except Violation as violation:
                raise Violation(f"{check.__name__}: {violation}\n{stack.logs()}") from None
        i13_unaltered(found, _REMEMBERED.setdefault(client, Remembered()))
        await i13_immutable(connection)
        for result in await verify(connection):
            must(result.good, f"aura ledger verify: {result.name}: {result.offender}")
    finally:
        await connection.close()
    return found


def i13_unaltered(found: Snapshot, remembered: Remembered) -> int:
    """What was there at the last look is there now, as it was; a terminal status has stayed."""
    now = {(row["journal_id"], row["leg"]): row for row in found.entries}
    for place, row in remembered.entries.items():
        equal(f"entry {place} since the last look", now.get(place), row)
    for id_, (seq, status) in remembered.statuses.items():
        row = found.transactions.get(id_, {})
        must(row and row["seq"] >= seq, f"{id_} is gone or went back")
        must(status not in ("completed", "failed", "canceled") or row["status"] == status, f"{id_} was {status}")
    remembered.entries = now
    remembered.statuses = {id_: (row["seq"], row["status"]) for id_, row in found.transactions.items()}
    return len(now)


async def i13_immutable(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """Not even the owner can change, remove or empty journals and entries."""
    tried = 0
    for table in ("journals", "entries"):
        for statement in (
            f"UPDATE ledger.{table} SET tenant_id = 'x'",
            f"DELETE FROM ledger.{table}",
            f"TRUNCATE ledger.{table} CASCADE",
        ):
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(statement)
            except asyncpg.PostgresError:
                tried += 1
            else:
                raise Violation(f"the database allows: {statement}")
            finally:
                await transaction.rollback()
    return tried
