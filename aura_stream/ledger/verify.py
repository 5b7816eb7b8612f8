"""Proves the ledger from its own rows: what must never be true, asked of Postgres alone.

Each check is a function named after what holds. It counts what it looked at and gives the first row that breaks it.
All of them read one snapshot. Those marked :func:`settles` compare partitions with each other; while the sinks are
writing, one partition may be ahead of another, and with steady traffic some transfer is between two always. So they are
asked again for a while, and only what offends every time offends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from aura_stream.domain.settlement import TOKENS, cents
from aura_stream.journal import JOURNALS_PER_PARTITION
from aura_stream.ledger import chain_walk

if TYPE_CHECKING:
    import asyncpg

    from aura_stream.ledger.connection import Connection

SETTLE_PAUSE_S: Final = 0.5
OFFENDERS_MAX: Final = 50_000
"""More than any transfers that are between two partitions at once; where there are more, it is not asked again."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: how many `things` were looked at, and the first offending row, if any."""

    name: str
    holds: str
    checked: int
    things: str
    offender: dict[str, Any] | None
    others: tuple[dict[str, Any], ...] = ()  # further offenders, of a check that is asked again

    @property
    def good(self) -> bool:
        """Whether nothing offends."""
        return self.offender is None


CheckFunction = Callable[["Connection"], Awaitable[Check]]
CHECKS: Final[list[CheckFunction]] = []
_SETTLES: Final[dict[str, tuple[str, ...]]] = {}


def _check(function: CheckFunction) -> CheckFunction:
    CHECKS.append(function)
    return function


def settles(*columns: str) -> Callable[[CheckFunction], CheckFunction]:
    """Marks a check that compares partitions with each other; the columns tell one offender from another."""

    def mark(function: CheckFunction) -> CheckFunction:
        _SETTLES[function.__name__] = columns
        return function

    return mark


async def verify(connection: asyncpg.Connection[asyncpg.Record], settle_s: float = 0.0) -> list[Check]:
    """All checks on one snapshot, in order.

    Checks between partitions that fail are asked again on newer snapshots for up to `settle_s` seconds, until nothing
    is left that has offended in each: 0 for a ledger at rest, some seconds for one that is being written. Raises
    asyncpg's and the system's errors.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        results = [await check(connection) for check in CHECKS]
    until = time.monotonic() + settle_s
    while (again := [at for at, result in enumerate(results) if _may_pass(result)]) and time.monotonic() < until:
        await asyncio.sleep(SETTLE_PAUSE_S)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for place in again:
                results[place] = _in_both(results[place], await CHECKS[place](connection))
    return results


def _may_pass(result: Check) -> bool:
    """Whether it offends, may settle, and what offends is known to the last row."""
    return result.offender is not None and result.name in _SETTLES and len(result.others) + 1 < OFFENDERS_MAX


def _in_both(before: Check, now: Check) -> Check:
    """The later result, with the offenders that were some before."""
    if not _may_pass(now):
        return now
    columns = _SETTLES[now.name]
    known = {tuple(row[name] for name in columns) for row in _offenders(before)}
    still = [row for row in _offenders(now) if tuple(row[name] for name in columns) in known]
    return replace(now, offender=still[0] if still else None, others=tuple(still[1:]))


def _offenders(result: Check) -> list[dict[str, Any]]:
    return [result.offender, *result.others] if result.offender is not None else []


async def digest(connection: asyncpg.Connection[asyncpg.Record], until: Mapping[int, int] | None = None) -> str:
    """The sha256 of all entries, ordered by partition, journal and leg; two ledgers with the same money have the same.

    `until` bounds it: partition to its last journal id; others are left out. Times of writing are not in it, so a
    rebuild gives the same digest.
    """
    total = sha256()
    where = ""
    if until is not None:
        bounds = [f"journal_id BETWEEN {p * JOURNALS_PER_PARTITION} AND {last}" for p, last in sorted(until.items())]
        where = f"WHERE {' OR '.join(bounds) or 'false'}"

    async def feed(chunk: bytes) -> None:
        total.update(chunk)

    await connection.copy_from_query(_DIGEST.format(where=where), output=feed, format="text")
    return total.hexdigest()


_DIGEST: Final = """
SELECT partition, journal_id, leg, transaction_id, tenant_id, account_id, asset, amount, layer,
    (extract(epoch FROM effective_at) * 1000000)::bigint, (extract(epoch FROM posted_at) * 1000000)::bigint
FROM ledger.entries
{where}
ORDER BY journal_id, leg
"""


@_check
async def journals_balanced(connection: Connection) -> Check:
    """The entries of every journal sum to zero per asset."""
    return await _ask(
        connection,
        journals_balanced,
        "journals",
        "SELECT count(*) FROM ledger.journals",
        """SELECT journal_id, asset, sum(amount) AS total FROM ledger.entries
        GROUP BY journal_id, asset HAVING sum(amount) <> 0 ORDER BY journal_id""",
    )


@_check
async def leg_sets_complete(connection: Connection) -> Check:
    """Every journal has exactly its legs, 0 to leg_count - 1; none is without entries."""
    return await _ask(
        connection,
        leg_sets_complete,
        "journals",
        "SELECT count(*) FROM ledger.journals",
        """SELECT j.journal_id, j.leg_count, e.legs, e.lowest, e.highest
        FROM ledger.journals j
        LEFT JOIN (
            SELECT journal_id, count(*) AS legs, min(leg) AS lowest, max(leg) AS highest
            FROM ledger.entries GROUP BY journal_id
        ) e USING (journal_id)
        WHERE (e.legs = j.leg_count AND e.lowest = 0 AND e.highest = j.leg_count - 1) IS NOT TRUE
        ORDER BY j.journal_id""",
    )


@_check
async def entries_agree_with_journals(connection: Connection) -> Check:
    """Every entry has a journal with the same tenant, asset, transaction, partition and times; its asset is known."""
    return await _ask(
        connection,
        entries_agree_with_journals,
        "entries",
        "SELECT count(*) FROM ledger.entries",
        """SELECT e.journal_id, e.leg, e.tenant_id, e.account_id, j.tenant_id AS journal_tenant
        FROM ledger.entries e
        LEFT JOIN ledger.journals j USING (journal_id)
        LEFT JOIN ledger.assets a ON a.asset = e.asset
        WHERE (e.tenant_id = j.tenant_id AND e.asset = j.asset AND e.transaction_id = j.transaction_id
            AND e.partition = j.partition AND e.effective_at = j.effective_at AND e.posted_at = j.posted_at
            AND a.asset IS NOT NULL AND (e.layer = 'available' OR e.account_id NOT LIKE '@%')) IS NOT TRUE
        ORDER BY e.journal_id, e.leg""",
    )


@_check
async def journal_numbers_dense(connection: Connection) -> Check:
    """Each partition's journals are numbered 1, 2, 3 ... up to where the sink stands."""
    return await _ask(
        connection,
        journal_numbers_dense,
        "journals",
        "SELECT count(*) FROM ledger.journals",
        """SELECT coalesce(j.partition, o.partition) AS partition, j.journals, j.lowest, j.highest, o.last_journal
        FROM (
            SELECT partition, count(*) AS journals, min(journal_id & 281474976710655) AS lowest,
                max(journal_id & 281474976710655) AS highest
            FROM ledger.journals GROUP BY partition
        ) j
        FULL JOIN ledger.sink_offsets o USING (partition)
        WHERE (coalesce(j.journals, 0) = o.last_journal AND coalesce(j.highest, 0) = o.last_journal
            AND coalesce(j.lowest, 1) = 1) IS NOT TRUE
        ORDER BY 1""",
    )


@_check
async def units_dense(connection: Connection) -> Check:
    """Each partition's units are 1, 2, 3 ..., known in that order, and continue each other's journal numbers."""
    return await _ask(
        connection,
        units_dense,
        "units",
        "SELECT count(*) FROM ledger.units",
        """SELECT partition, seq, before, first_journal, last_before, committed_at, known_before FROM (
            SELECT partition, seq, lag(seq, 1, 0::bigint) OVER w AS before,
                (counters ->> 'first_journal')::bigint AS first_journal,
                lag((counters ->> 'last_journal')::bigint, 1, 0::bigint) OVER w AS last_before,
                committed_at, lag(committed_at, 1, '-infinity') OVER w AS known_before
            FROM ledger.units WINDOW w AS (PARTITION BY partition ORDER BY seq)
        ) u
        WHERE (seq = before + 1 AND first_journal = last_before + 1 AND committed_at >= known_before) IS NOT TRUE
        UNION ALL
        SELECT o.partition, o.last_seq, u.highest, o.last_journal, u.last_journal, o.committed_at, NULL
        FROM ledger.sink_offsets o
        LEFT JOIN (
            SELECT partition, max(seq) AS highest, max((counters ->> 'last_journal')::bigint) AS last_journal
            FROM ledger.units GROUP BY partition
        ) u USING (partition)
        WHERE (o.last_seq, o.last_journal) IS DISTINCT FROM (coalesce(u.highest, 0), coalesce(u.last_journal, 0))
        ORDER BY 1, 2""",
    )


@_check
async def journals_sealed(connection: Connection) -> Check:
    """Every journal is among those that its unit names."""
    return await _ask(
        connection,
        journals_sealed,
        "journals",
        "SELECT count(*) FROM ledger.journals",
        """SELECT j.journal_id, j.journal_seq FROM ledger.journals j
        LEFT JOIN ledger.units u ON u.partition = j.partition AND u.seq = j.journal_seq
        WHERE (j.journal_id & 281474976710655 BETWEEN (u.counters ->> 'first_journal')::bigint
            AND (u.counters ->> 'last_journal')::bigint) IS NOT TRUE
        ORDER BY j.journal_id""",
    )


@_check
async def commands_covered(connection: Connection) -> Check:
    """The units of a partition read every command offset and every signal offset at most once, in order.

    Offsets between two ranges were no records but Kafka's marks of transactions; only Kafka can say so, see
    :func:`command_holes`.
    """
    return await _ask(
        connection,
        commands_covered,
        "command offsets",
        """SELECT coalesce(sum((i ->> 2)::bigint - (i ->> 1)::bigint + 1), 0)::bigint
        FROM ledger.units u, jsonb_array_elements(u.inputs) i WHERE i ->> 0 = 'commands'""",
        """SELECT * FROM (
            SELECT u.partition, u.seq, i ->> 0 AS source, (i ->> 1)::bigint AS first, (i ->> 2)::bigint AS last,
                lag((i ->> 2)::bigint, 1, -1::bigint) OVER w AS before
            FROM ledger.units u, jsonb_array_elements(u.inputs) WITH ORDINALITY AS x (i, n)
            WHERE i ->> 0 IN ('commands', 'signals')
            WINDOW w AS (PARTITION BY u.partition, i ->> 0 ORDER BY u.seq, n)
        ) r
        WHERE first <= before OR last < first
        UNION ALL
        SELECT o.partition, o.last_seq, 'commands', NULL, o.commands_offset, u.last
        FROM ledger.sink_offsets o
        LEFT JOIN (
            SELECT partition, max((i ->> 2)::bigint) AS last
            FROM ledger.units, jsonb_array_elements(inputs) i WHERE i ->> 0 = 'commands' GROUP BY partition
        ) u USING (partition)
        WHERE o.commands_offset <> coalesce(u.last + 1, 0)
        ORDER BY 1, 2""",
    )


async def command_holes(connection: Connection) -> list[tuple[int, int, int]]:
    """Offsets of commands that no unit has read: (partition, first, last). A record among them would be lost."""
    rows = await connection.fetch(
        """SELECT partition, before + 1 AS first, first - 1 AS last FROM (
            SELECT u.partition, (i ->> 1)::bigint AS first,
                lag((i ->> 2)::bigint, 1, -1::bigint) OVER (PARTITION BY u.partition ORDER BY u.seq, n) AS before
            FROM ledger.units u, jsonb_array_elements(u.inputs) WITH ORDINALITY AS x (i, n)
            WHERE i ->> 0 = 'commands'
        ) r
        WHERE first > before + 1 ORDER BY 1, 2"""
    )
    return [(row["partition"], row["first"], row["last"]) for row in rows]


@_check
async def commands_answered(connection: Connection) -> Check:
    """There are as many answers as commands: a command without an outcome or with two would break the sum."""
    return await _ask(
        connection,
        commands_answered,
        "answers",
        "SELECT coalesce(sum((counters ->> 'answers')::bigint), 0)::bigint FROM ledger.units",
        """SELECT partition, commands, answers FROM (
            SELECT partition, sum((counters ->> 'answers')::bigint) AS answers, sum(coalesce((
                SELECT sum((i ->> 2)::bigint - (i ->> 1)::bigint + 1)
                FROM jsonb_array_elements(u.inputs) i WHERE i ->> 0 = 'commands'
            ), 0)) AS commands
            FROM ledger.units u
            -- The parts of a unit whose last part is not here yet have not named their inputs.
            WHERE seq <= (SELECT max(l.seq) FROM ledger.units l WHERE l.partition = u.partition AND l.last)
            GROUP BY partition
        ) p
        WHERE commands <> answers ORDER BY partition""",
    )


@_check
async def customers_never_negative(connection: Connection) -> Check:
    """No layer of a customer's account is below zero after any of its journals, from the first to now."""
    return await _ask(
        connection,
        customers_never_negative,
        "entries",
        "SELECT count(*) FROM ledger.entries WHERE account_id NOT LIKE '@%'",
        """SELECT tenant_id, account_id, layer, journal_id, balance FROM (
            SELECT tenant_id, account_id, layer, journal_id,
                -sum(amount) OVER (PARTITION BY tenant_id, account_id, layer ORDER BY journal_id) AS balance
            FROM ledger.entries WHERE account_id NOT LIKE '@%'
        ) b
        WHERE balance < 0 ORDER BY journal_id""",
    )


@_check
async def customers_keep_to_their_accounts(connection: Connection) -> Check:
    """Entries of a customer's account are in the partition and asset in which it was opened."""
    return await _ask(
        connection,
        customers_keep_to_their_accounts,
        "entries",
        "SELECT count(*) FROM ledger.entries WHERE account_id NOT LIKE '@%'",
        """SELECT e.tenant_id, e.account_id, e.journal_id, e.partition, e.asset, a.partition AS opened_in
        FROM ledger.entries e
        LEFT JOIN ledger.accounts a ON a.tenant_id = e.tenant_id AND a.account_id = e.account_id
        WHERE e.account_id NOT LIKE '@%' AND (a.partition = e.partition AND a.asset = e.asset) IS NOT TRUE
        ORDER BY e.journal_id""",
    )


@_check
async def sums_zero(connection: Connection) -> Check:
    """All entries of a tenant and asset sum to zero."""
    return await _ask(
        connection,
        sums_zero,
        "entries",
        "SELECT count(*) FROM ledger.entries",
        """SELECT tenant_id, asset, sum(amount) AS total FROM ledger.entries
        GROUP BY tenant_id, asset HAVING sum(amount) <> 0 ORDER BY 1, 2""",
    )


@_check
async def idempotency_keys_unique(connection: Connection) -> Check:
    """No idempotency key of a customer made two transactions (read from the rows, not from the index)."""
    return await _ask(
        connection,
        idempotency_keys_unique,
        "transactions",
        "SELECT count(*) FROM ledger.transactions",
        """SELECT tenant_id, customer_id, idempotency_key, count(*) AS transactions FROM ledger.transactions
        GROUP BY 1, 2, 3 HAVING count(*) > 1 ORDER BY 1, 2, 3""",
    )


@_check
async def histories_whole(connection: Connection) -> Check:
    """A transaction's events are numbered 1 to its seq, the last is its status, an end is only followed by a return."""
    return await _ask(
        connection,
        histories_whole,
        "transactions",
        "SELECT count(*) FROM ledger.transactions",
        """SELECT t.transaction_id, t.seq, t.status, t.state, h.seqs, h.statuses
        FROM ledger.transactions t
        CROSS JOIN LATERAL (
            SELECT array_agg((e ->> 'seq')::int ORDER BY n) AS seqs, array_agg(e ->> 'status' ORDER BY n) AS statuses,
                bool_or(ended AND e ->> 'status' <> before
                    AND NOT (before = 'completed' AND e ->> 'status' = 'returned')) AS came_back
            FROM (
                SELECT e, n, lag(e ->> 'status') OVER (ORDER BY n) AS before,
                    lag(e ->> 'status') OVER (ORDER BY n) IN ('completed', 'failed', 'canceled', 'returned') AS ended
                FROM jsonb_array_elements(t.history) WITH ORDINALITY AS x (e, n)
            ) f
        ) h
        WHERE (h.seqs = ARRAY(SELECT generate_series(1, t.seq)) AND h.came_back IS NOT TRUE
            AND t.history -> -1 ->> 'status' = t.status AND t.history -> -1 ->> 'state' = t.state
            AND coalesce(t.history -> -1 ->> 'reason', '') = coalesce(t.reason, '')) IS NOT TRUE
        ORDER BY t.partition, t.created_at, t.transaction_id""",
    )


@_check
@settles("transaction_id", "journal_id")
async def transactions_know_their_journals(connection: Connection) -> Check:
    """The journals that a transaction lists are exactly those that name it, in its tenant."""
    return await _ask(
        connection,
        transactions_know_their_journals,
        "journals",
        "SELECT count(*) FROM ledger.journals",
        """SELECT coalesce(l.transaction_id, j.transaction_id) AS transaction_id,
            coalesce(l.journal_id, j.journal_id) AS journal_id,
            l.journal_id IS NOT NULL AS listed, j.journal_id IS NOT NULL AS booked
        FROM (
            SELECT t.transaction_id, t.tenant_id, listed.journal_id
            FROM ledger.transactions t, unnest(t.journal_ids) AS listed (journal_id)
        ) l
        FULL JOIN ledger.journals j ON j.journal_id = l.journal_id AND j.transaction_id = l.transaction_id
            AND j.tenant_id = l.tenant_id
        WHERE l.journal_id IS NULL OR j.journal_id IS NULL
        ORDER BY 2""",
    )


# Deposits by bank and withdrawals move money between assets and houses, in many steps: they have a check of their own.
_BY_BANK: Final = "history -> 0 ? 'by_bank'"

# What each transaction has moved in all: per account, per layer, through clearing.
_MOVED: Final = """
    SELECT t.transaction_id, t.type, t.status, t.state, t.amount, t.captured_amount, t.from_account_id, t.to_account_id,
        t.history,
        coalesce(sum(e.amount) FILTER (WHERE e.account_id = t.from_account_id), 0) AS out_of,
        coalesce(sum(-e.amount) FILTER (WHERE e.account_id = t.to_account_id), 0) AS into,
        coalesce(sum(-e.amount) FILTER (WHERE e.layer <> 'available'), 0) AS waiting,
        coalesce(sum(-e.amount) FILTER (WHERE e.account_id LIKE '@clearing:%'), 0) AS clearing,
        count(e.journal_id) AS entries
    FROM ledger.transactions t
    LEFT JOIN ledger.entries e ON e.transaction_id = t.transaction_id AND e.tenant_id = t.tenant_id
    GROUP BY t.transaction_id
"""


@_check
@settles("transaction_id")
async def completed_moved_the_amount(connection: Connection) -> Check:
    """A completed transaction has moved its amount (a hold: what was captured) from its source to its target."""
    return await _ask(
        connection,
        completed_moved_the_amount,
        "completed transactions",
        "SELECT count(*) FROM ledger.transactions WHERE status = 'completed'",
        f"""SELECT transaction_id, type, amount, captured_amount, out_of, "into", waiting, clearing FROM ({_MOVED}) m
        WHERE status = 'completed' AND NOT {_BY_BANK} AND (
            "into" = CASE type WHEN 'hold' THEN captured_amount ELSE amount END
            AND out_of = CASE WHEN from_account_id IS NULL THEN 0 ELSE "into" END
            AND waiting = 0 AND clearing = 0 AND entries > 0
        ) IS NOT TRUE
        ORDER BY transaction_id""",  # noqa: S608  # constants of this module
    )


@_check
@settles("transaction_id", "account_id", "layer")
async def failed_moved_nothing(connection: Connection) -> Check:
    """A failed or canceled transaction has no entries, or they return on every account and layer what they took."""
    return await _ask(
        connection,
        failed_moved_nothing,
        "failed or canceled transactions",
        "SELECT count(*) FROM ledger.transactions WHERE status IN ('failed', 'canceled')",
        f"""SELECT t.transaction_id, t.status, e.account_id, e.layer, sum(e.amount) AS total
        FROM ledger.transactions t
        JOIN ledger.entries e ON e.transaction_id = t.transaction_id AND e.tenant_id = t.tenant_id
        WHERE t.status IN ('failed', 'canceled') AND NOT t.{_BY_BANK}
        GROUP BY t.transaction_id, e.account_id, e.layer
        HAVING sum(e.amount) <> 0
        ORDER BY t.transaction_id""",  # noqa: S608  # constants of this module
    )


@_check
@settles("transaction_id", "account_id", "layer")
async def settlements_leave_nothing_behind(connection: Connection) -> Check:
    """A deposit by bank or withdrawal that has ended holds nothing: no layer but available, nothing under way."""
    return await _ask(
        connection,
        settlements_leave_nothing_behind,
        "ended deposits by bank and withdrawals",
        f"""SELECT count(*) FROM ledger.transactions
        WHERE {_BY_BANK} AND status IN ('completed', 'failed', 'canceled', 'returned')""",  # noqa: S608  # a constant
        f"""SELECT t.transaction_id, t.status, t.state, e.account_id, e.layer, sum(e.amount) AS total
        FROM ledger.transactions t
        JOIN ledger.entries e ON e.transaction_id = t.transaction_id AND e.tenant_id = t.tenant_id
        WHERE t.{_BY_BANK} AND t.status IN ('completed', 'failed', 'canceled', 'returned') AND t.state <> 'returning'
            AND (e.layer <> 'available' OR e.account_id LIKE '@rail:%')
        GROUP BY t.transaction_id, e.account_id, e.layer
        HAVING sum(e.amount) <> 0
        ORDER BY t.transaction_id""",  # noqa: S608  # constants of this module
    )


# Tokens, their fiat, and how many minor units of the token one of the fiat is.
_TOKENS: Final = ", ".join(f"('{token}', '{fiat}', {cents(token, fiat)})" for token, fiat in sorted(TOKENS.items()))


@_check
async def tokens_have_their_reserve(connection: Connection) -> Check:
    """What a transaction has moved in the reserve of a token is what it moved in the tokens that we keep."""
    return await _ask(
        connection,
        tokens_have_their_reserve,
        "transactions with tokens",
        "SELECT count(DISTINCT transaction_id) FROM ledger.entries WHERE account_id LIKE '@reserve:%'",
        f"""SELECT t.transaction_id, t.state, m.token, m.reserve, m.kept
        FROM (
            SELECT e.transaction_id, k.token,
                coalesce(-sum(e.amount * k.cents) FILTER (WHERE e.account_id LIKE '@reserve:%'), 0) AS reserve,
                coalesce(sum(e.amount) FILTER (WHERE e.account_id NOT LIKE '@reserve:%'), 0) AS kept
            FROM ledger.entries e JOIN (VALUES {_TOKENS}) k (token, fiat, cents) ON e.asset IN (k.token, k.fiat)
            WHERE e.account_id = '@reserve:' || k.token || ':' || k.fiat OR e.asset = k.token
                AND (e.account_id LIKE '@custody:chain:%' OR e.account_id LIKE '@receivable:chain:%')
            GROUP BY e.transaction_id, k.token
        ) m
        JOIN ledger.transactions t USING (transaction_id)
        -- Tokens at an address of the customer's own are not with us.
        WHERE m.reserve <> m.kept AND coalesce(t.history -> -1 -> 'by_bank' ->> 'mint_to', '') NOT LIKE '0x%'
        ORDER BY t.transaction_id""",  # noqa: S608  # constants of this module
    )


@_check
async def trust_covers_what_is_owed(connection: Connection) -> Check:
    """Per fiat, what is at the banks and due from open returns covers reserves, customers, payouts and suspense."""
    return await _ask(
        connection,
        trust_covers_what_is_owed,
        "entries of fiat with a token",
        f"SELECT count(*) FROM ledger.entries JOIN (VALUES {_TOKENS}) k (token, fiat, cents) ON fiat = asset",  # noqa: S608
        f"""SELECT fiat, trust, open_returns, owed FROM (
            SELECT k.fiat, coalesce(s.trust, 0) AS trust, coalesce(s.owed, 0) AS owed,
                coalesce(r.tokens, 0) / k.cents AS open_returns
            FROM (VALUES {_TOKENS}) k (token, fiat, cents)
            LEFT JOIN LATERAL (
                SELECT sum(e.amount) FILTER (WHERE e.account_id LIKE '@bank:%:trust:%') AS trust,
                    -sum(e.amount) FILTER (WHERE (e.account_id NOT LIKE '@%' AND e.layer <> 'pending_in')
                        OR e.account_id LIKE '@reserve:%' OR e.account_id LIKE '@suspense:%'
                        OR e.account_id LIKE '@clearing:%' OR e.account_id LIKE '@rail:%:outgoing:%') AS owed
                FROM ledger.entries e WHERE e.asset = k.fiat
            ) s ON true
            -- What is being burnt for a return: the reserve still owes it, the bank has it back already.
            LEFT JOIN LATERAL (
                SELECT -sum(e.amount) AS tokens FROM ledger.entries e JOIN ledger.transactions t USING (transaction_id)
                WHERE t.type = 'deposit' AND t.state = 'returning' AND e.asset = k.token AND e.layer = 'held'
            ) r ON true
        ) f
        WHERE trust + open_returns < owed
        ORDER BY fiat""",  # noqa: S608  # constants of this module
    )


@_check
async def in_transit_is_pending(connection: Connection) -> Check:
    """Per tenant and asset, what banks are collecting is what customers have pending."""
    return await _ask(
        connection,
        in_transit_is_pending,
        "entries in transit",
        "SELECT count(*) FROM ledger.entries WHERE account_id LIKE '@rail:%:in_transit:%'",
        """SELECT tenant_id, asset, in_transit, pending FROM (
            SELECT tenant_id, asset, coalesce(sum(amount) FILTER (WHERE account_id LIKE '@rail:%'), 0) AS in_transit,
                coalesce(-sum(amount) FILTER (WHERE layer = 'pending_in'), 0) AS pending
            FROM ledger.entries WHERE layer = 'pending_in' OR account_id LIKE '@rail:%:in_transit:%'
            GROUP BY tenant_id, asset
        ) s
        WHERE in_transit <> pending ORDER BY 1, 2""",
    )


@_check
async def nothing_settled_twice(connection: Connection) -> Check:
    """No deposit has minted more than it brought, no withdrawal has burnt or paid out more than it took."""
    return await _ask(
        connection,
        nothing_settled_twice,
        "deposits by bank and withdrawals",
        f"SELECT count(*) FROM ledger.transactions WHERE {_BY_BANK}",  # noqa: S608  # constants of this module
        f"""SELECT t.transaction_id, t.type, t.state, t.amount, m.minted, m.reserved, m.paid, k.token
        FROM ledger.transactions t
        JOIN (
            SELECT e.transaction_id, sum(e.amount) FILTER (WHERE e.account_id LIKE '@custody:%' AND e.asset IN (
                    SELECT token FROM (VALUES {_TOKENS}) k (token, fiat, cents))) AS minted,
                -sum(e.amount) FILTER (WHERE e.account_id LIKE '@reserve:%') AS reserved,
                -sum(e.amount) FILTER (WHERE e.account_id LIKE '@bank:%:trust:%' OR e.account_id LIKE '@suspense:%'
                    OR e.account_id LIKE '@bank:%:operating:%' OR e.account_id LIKE '@expense:bank:%'
                    OR e.account_id LIKE '@expense:losses:%' OR e.account_id LIKE '@income:unexplained:%') AS paid
            FROM ledger.entries e WHERE e.account_id LIKE '@%' GROUP BY e.transaction_id
        ) m USING (transaction_id)
        -- A deposit's amount is fiat, a withdrawal's of its account: with a token the fiat is that much less.
        LEFT JOIN (VALUES {_TOKENS}) k (token, fiat, cents) ON t.asset IN (k.token, k.fiat)
        WHERE t.{_BY_BANK} AND CASE t.type
            WHEN 'deposit' THEN coalesce(m.minted, 0) NOT BETWEEN 0 AND t.amount * k.cents
                OR coalesce(m.reserved, 0) NOT BETWEEN 0 AND t.amount
            WHEN 'withdrawal' THEN coalesce(m.minted, 0) NOT BETWEEN -t.amount AND 0
                OR coalesce(m.paid, 0) > CASE t.asset WHEN k.token THEN t.amount / k.cents ELSE t.amount END
            ELSE false
        END
        ORDER BY t.transaction_id""",  # noqa: S608  # constants of this module
    )


@_check
async def suspense_is_told(connection: Connection) -> Check:
    """What a transaction has in suspense, in its own fiat, is what it says has come or gone unexplained."""
    return await _ask(
        connection,
        suspense_is_told,
        "transactions with money in suspense",
        "SELECT count(DISTINCT transaction_id) FROM ledger.entries WHERE account_id LIKE '@suspense:%'",
        f"""SELECT t.transaction_id, t.state, s.told, s.booked FROM ledger.transactions t
        LEFT JOIN (VALUES {_TOKENS}) k (token, fiat, cents) ON t.asset IN (k.token, k.fiat)
        LEFT JOIN (
            SELECT e.transaction_id, e.asset, abs(sum(e.amount)) AS amount FROM ledger.entries e
            WHERE e.account_id LIKE '@suspense:%' GROUP BY e.transaction_id, e.asset
        ) e ON e.transaction_id = t.transaction_id AND e.asset = coalesce(k.fiat, t.asset)
        CROSS JOIN LATERAL (
            SELECT coalesce((t.history -> -1 -> 'by_bank' ->> 'suspense')::numeric, 0) AS told,
                coalesce(e.amount, 0) AS booked
        ) s
        WHERE t.{_BY_BANK} AND abs(s.told) <> s.booked
        ORDER BY t.transaction_id""",  # noqa: S608  # constants of this module
    )


@_check
async def held_is_open_holds(connection: Connection) -> Check:
    """What holds have moved into the held layer of every account is the sum of its open holds."""
    return await _ask(
        connection,
        held_is_open_holds,
        "open holds",
        "SELECT count(*) FROM ledger.transactions WHERE type = 'hold' AND state = 'held'",
        f"""SELECT tenant_id, account_id, coalesce(h.amount, 0) AS holds, coalesce(e.amount, 0) AS held
        FROM (
            SELECT tenant_id, from_account_id AS account_id, sum(amount) AS amount
            FROM ledger.transactions WHERE type = 'hold' AND state = 'held' GROUP BY 1, 2
        ) h
        FULL JOIN (
            SELECT tenant_id, account_id, -sum(amount) AS amount FROM ledger.entries
            WHERE layer = 'held'
                AND transaction_id NOT IN (SELECT transaction_id FROM ledger.transactions WHERE {_BY_BANK})
            GROUP BY 1, 2
        ) e USING (tenant_id, account_id)
        WHERE coalesce(h.amount, 0) <> coalesce(e.amount, 0)
        ORDER BY 1, 2""",  # noqa: S608  # constants of this module
    )


_FLYING: Final = "(('transfer', 'sent'), ('hold', 'capturing'), ('suspense', 'matching'))"
"""Type and state of what is between two customers."""


@_check
@settles("transaction_id", "asset")
async def clearing_is_in_flight(connection: Connection) -> Check:
    """Clearing holds exactly the transfers that are sent, the captures under way and what is being matched."""
    return await _ask(
        connection,
        clearing_is_in_flight,
        "transactions in flight",
        f"SELECT count(*) FROM ledger.transactions WHERE (type, state) IN {_FLYING}",  # noqa: S608  # a constant
        f"""SELECT tenant_id, asset, transaction_id,
            coalesce(f.amount, 0) AS in_flight, coalesce(c.amount, 0) AS clearing
        FROM (
            SELECT tenant_id, asset, transaction_id, coalesce(captured_amount, amount) AS amount
            FROM ledger.transactions
            WHERE (type, state) IN {_FLYING}
        ) f
        FULL JOIN (
            SELECT tenant_id, asset, transaction_id, -sum(amount) AS amount FROM ledger.entries
            WHERE account_id LIKE '@clearing:%' GROUP BY 1, 2, 3 HAVING sum(amount) <> 0
        ) c USING (tenant_id, asset, transaction_id)
        WHERE coalesce(f.amount, 0) <> coalesce(c.amount, 0)
        ORDER BY 1, 2, 3""",  # noqa: S608  # constants of this module
    )


@_check
async def balances_are_sums(connection: Connection) -> Check:
    """The view of balances, checkpoints and all, says what adding up all entries says."""
    return await _ask(
        connection,
        balances_are_sums,
        "accounts",
        "SELECT count(*) FROM ledger.balances",
        """SELECT tenant_id, account_id, b.posted, s.posted AS summed, b.pending, s.pending AS summed_pending
        FROM ledger.balances b
        FULL JOIN (
            SELECT tenant_id, account_id,
                coalesce(sum(amount * sign) FILTER (WHERE layer <> 'pending_in'), 0) AS posted,
                coalesce(sum(amount * sign) FILTER (WHERE layer = 'pending_in'), 0) AS pending,
                coalesce(sum(amount * sign) FILTER (WHERE layer = 'available'), 0) AS available
            FROM (
                SELECT *, CASE ledger.normal_side(account_id) WHEN 'D' THEN 1 ELSE -1 END AS sign FROM ledger.entries
            ) e
            GROUP BY 1, 2
        ) s USING (tenant_id, account_id)
        WHERE (coalesce(s.posted, 0) = b.posted AND coalesce(s.pending, 0) = b.pending
            AND coalesce(s.available, 0) = b.available) IS NOT TRUE
        ORDER BY 1, 2""",
    )


@_check
async def checkpoints_true(connection: Connection) -> Check:
    """Every checkpoint continues the one before it and holds what its entries add up to."""
    return await _ask(
        connection,
        checkpoints_true,
        "checkpoints",
        "SELECT count(*) FROM ledger.balance_checkpoints",
        """SELECT c.tenant_id, c.account_id, c.partition, c.journal_after, c.journal_through
        FROM (
            SELECT b.*, lag(journal_through, 1, partition::bigint << 48) OVER w AS before,
                entry_count - lag(entry_count, 1, 0::bigint) OVER w AS block_count,
                available - lag(available, 1, 0::numeric) OVER w AS block_available,
                held - lag(held, 1, 0::numeric) OVER w AS block_held,
                pending_in - lag(pending_in, 1, 0::numeric) OVER w AS block_pending_in
            FROM ledger.balance_checkpoints b
            WINDOW w AS (PARTITION BY tenant_id, account_id, partition ORDER BY journal_through)
        ) c
        CROSS JOIN LATERAL (
            SELECT count(*) AS entries, coalesce(sum(amount) FILTER (WHERE layer = 'available'), 0) AS available,
                coalesce(sum(amount) FILTER (WHERE layer = 'held'), 0) AS held,
                coalesce(sum(amount) FILTER (WHERE layer = 'pending_in'), 0) AS pending_in,
                min(effective_at) AS effective_min, max(effective_at) AS effective_max
            FROM ledger.entries e
            WHERE e.tenant_id = c.tenant_id AND e.account_id = c.account_id
                AND e.journal_id > c.journal_after AND e.journal_id <= c.journal_through
        ) e
        WHERE (c.journal_after = c.before AND e.entries = c.block_count AND e.available = c.block_available
            AND e.held = c.block_held AND e.pending_in = c.block_pending_in
            AND e.effective_min = c.effective_min AND e.effective_max <= c.effective_max) IS NOT TRUE
        ORDER BY 1, 2, 3, 5""",
    )


@_check
async def chain_holds(connection: Connection) -> Check:
    """The rows of every unit have the hash of its block, each following the one before; none is missing or added."""
    partitions = await chain_walk.partitions_of(connection)
    walks = [await chain_walk.walk(connection, partition) for partition in partitions]
    offender = next((walk.offender for walk in walks if walk.offender), None)
    return Check(
        chain_holds.__name__,
        _holds(chain_holds),
        sum(walk.units for walk in walks),
        "units",
        offender or await chain_walk.stray(connection, partitions),
    )


async def _ask(connection: Connection, check: CheckFunction, things: str, count: str, offenders: str) -> Check:
    checked = await connection.fetchval(count)
    most = OFFENDERS_MAX if check.__name__ in _SETTLES else 1
    rows = [dict(row) for row in await connection.fetch(f"{offenders} LIMIT {most}")]
    return Check(check.__name__, _holds(check), checked, things, rows[0] if rows else None, tuple(rows[1:]))


def _holds(check: CheckFunction) -> str:
    return (check.__doc__ or "").strip().splitlines()[0]
