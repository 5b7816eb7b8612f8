"""Three sets of books of the same money, each read from where its owner keeps it: the ledger's Postgres, the banks' own
SQLite files, the chain's own logs and balances. What they must say of one another is `wrong`, a pure function, which
takes no word of the product's lanes for granted: what a bank or the chain has done is read from them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aura_stream.chain.rpc import ChainNode
from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import SigningKey
from aura_stream.domain.ids import bank_reference, chain_reference
from aura_stream.domain.settlement import NATIVE
from tests.settlements.plan import UNITS

Row = dict[str, Any]
ROUNDS = 5
"""Of a mint that was asked for again by an operator; nobody asks more often here."""
ENDED = frozenset({"completed", "failed", "canceled", "returned"})
AT_THE_DOOR = (401, 403, 429)
"""Answers of a bank before it has read what for: it notes no reference then."""
IN_ONE_STEP = ("deposit.returning", "deposit.returned", "deposit.settled_late", "withdrawal.settled_late")
"""What came and went back is booked in one step when the return was heard before the mint was deep enough, or before
the settlement."""
AGAIN = ("deposit.mint_reorged", "deposit.mint_reconfirmed")
"""Journals that a chain may cause any number of times; each undoes the one before."""


@dataclass
class Chain:
    """A token as the chain itself has it."""

    supply: int = 0
    custody: int = 0  # balance of the minter's own address
    minted: dict[str, list[int]] = field(default_factory=dict)  # by reference: the amount of every log
    burnt: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class Books:
    """What all of them say, at rest."""

    transactions: dict[str, Row]
    balances: dict[tuple[str, str], int]  # by account and layer; debits are positive
    journals: dict[str, Counter[str]]  # kind and asset, by transaction
    attempts: list[Row]
    transfers: dict[str, list[Row]]  # by bank
    calls: dict[str, list[Row]]
    bank_balances: dict[tuple[str, str], int]  # by bank and account, cents
    unbalanced: dict[str, int]
    tokens: dict[str, Chain]


async def read(connection: Any, banks: Mapping[str, Path], node_url: str, keys: Mapping[str, SigningKey]) -> Books:
    """Reads all of them, one after another: the same thing only when everything is at rest."""
    rows = await connection.fetch(
        "SELECT transaction_id::text AS id, type, status, state, coalesce(reason, '') AS reason, asset, amount::bigint,"
        " customer_id, from_account_id, to_account_id, history FROM ledger.transactions"
        " WHERE type IN ('deposit', 'withdrawal', 'suspense')"
    )
    balances = await connection.fetch(
        "SELECT account_id, layer, sum(amount)::bigint AS amount FROM ledger.entries WHERE asset <> $1"
        " GROUP BY account_id, layer",
        NATIVE,  # wei: more than fits, and no bank has any
    )
    kinds = await connection.fetch(
        "SELECT transaction_id::text AS id, kind || ' ' || asset AS kind, count(*) AS n FROM ledger.journals"
        " GROUP BY transaction_id, kind, asset"
    )
    journals: dict[str, Counter[str]] = defaultdict(Counter)
    for row in kinds:
        journals[row["id"]][row["kind"]] = row["n"]
    attempts = await connection.fetch(
        "SELECT *, transaction_id::text AS id FROM settlement.attempts ORDER BY lane, reference, number"
    )
    files = {bank: dict(at_bank(path)) for bank, path in banks.items()}
    return Books(
        {row["id"]: dict(row) for row in rows},
        {(row["account_id"], row["layer"]): row["amount"] for row in balances},
        journals,
        [dict(row) for row in attempts],
        {bank: found["transfers"] for bank, found in files.items()},
        {bank: found["calls"] for bank, found in files.items()},
        {(bank, row["account_id"]): row["cents"] for bank, found in files.items() for row in found["balances"]},
        {bank: len(found["unbalanced"]) for bank, found in files.items()},
        {token: await on_chain(node_url, key) for token, key in keys.items()},
    )


def at_bank(path: Path) -> Iterator[tuple[str, list[Row]]]:
    """A bank's own tables, by name."""
    db = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30)  # a killed bank leaves a log to be folded in
    db.execute("PRAGMA query_only = 1")
    db.row_factory = sqlite3.Row
    try:
        for name, sql in {
            "transfers": "SELECT * FROM transfers ORDER BY n",
            "calls": "SELECT * FROM calls WHERE reference <> '' ORDER BY n",
            "balances": "SELECT account_id, sum(cents) AS cents FROM entries GROUP BY account_id",
            "unbalanced": "SELECT journal FROM entries GROUP BY journal HAVING sum(cents) <> 0",
        }.items():
            yield name, [dict(row) for row in db.execute(sql)]
    finally:
        db.close()


async def on_chain(url: str, key: SigningKey) -> Chain:
    """A token, asked of a node at its head."""
    async with ChainNode(url) as node:
        address, head = token_address(key), (await node.head()).number
        found = Chain(
            await node.total_supply(address, head), int(await node.read(address, "balanceOf", key.address, at=head))
        )
        for event in await node.events(address, 0, head):
            logs = found.minted if event.kind == "minted" else found.burnt
            logs.setdefault(event.reference.hex(), []).append(event.amount)
        return found


# --- what they must say of one another -------------------------------------------------------------------------------


def wrong(found: Books) -> list[str]:
    """Everything that is not as it must be; empty when all books are of the same money."""
    return [
        *_each(found),
        *_nothing_twice(found),
        *_sums(found),
        *_calls_explained(found),
    ]


def unbacked(
    tokens: Mapping[str, Chain], transfers: Mapping[str, list[Row]], pushes: Mapping[str, str]
) -> Iterator[str]:
    """What is on the chain and was not paid for: wrong at any moment, where the chain was read before the banks.

    `pushes`: deposits whose reference at the bank is the one that we ask the payer for, and their bank. What a lane has
    collected under a number of its own is in the sums only.
    """
    came = {bank: {one["reference"]: one["settled_cents"] or 0 for one in rows} for bank, rows in transfers.items()}
    for token, chain in tokens.items():
        minted = {reference: sum(amounts) for reference, amounts in chain.minted.items()}
        settled = sum(
            one["settled_cents"] or 0
            for rows in transfers.values()
            for one in rows
            if one["currency"] == token[1:] and one["direction"] in ("incoming", "debit")
        )
        if sum(minted.values()) > settled * UNITS:
            yield f"B3 {token}: {sum(minted.values())} units were minted when {settled} cents had settled"
        for id_, bank in pushes.items():
            units = sum(minted.get(chain_reference(id_, f"mint/{round_}"), 0) for round_ in range(1, ROUNDS + 1))
            has = came[bank].get(bank_reference(id_, "deposit"), 0)
            if units > has * UNITS:
                yield f"B3, I11 {token}: {units} units of {id_} were minted when {has} cents of it had come"


def _each(found: Books) -> Iterator[str]:
    """Every settlement has ended as its bank's books and the chain's say."""
    by_reference = {bank: _grouped(rows) for bank, rows in found.transfers.items()}
    short = {row["id"]: row["reference"] for row in found.attempts if row["kind"] != "broadcast"}
    for id_, row in found.transactions.items():
        if row["type"] == "suspense":
            yield f"{id_}: {row['amount']} {row['asset']} lie in suspense, and nobody sent money without a reference"
            continue
        rail, bank = _rail(row)
        if not rail:
            continue
        step = "payout" if row["type"] == "withdrawal" else "deposit"
        reference = bank_reference(id_, step)
        names = {reference, short.get(id_, reference)}
        mine = [one for name in names for one in by_reference[bank].get(name, [])]
        yield from (f"{id_} ({row['type']}, {rail}): {what}" for what in _one(found, row, rail, mine))


def _one(found: Books, row: Row, rail: str, mine: list[Row]) -> Iterator[str]:
    cents = _cents(row)
    told = f"{row['status']}/{row['state']}:{row['reason']}"
    if row["status"] not in ENDED:
        yield f"it is left {told}"
        return
    acted = [one for one in mine if one["accepted"]]
    if len(acted) > 1:
        yield f"the bank has acted {len(acted)} times: {[one['id'] for one in acted]}"
        return
    bank = acted[0] if acted else None
    now = bank["status"] if bank is not None else "rejected" if mine else "never taken"
    paid = bank["settled_cents"] if bank is not None else None
    if bank is not None and bank["cents"] != cents:
        yield f"the bank was asked for {bank['cents']} cents, the customer asked for {cents}"
    minted, burnt, clawed = (_logs(found, row, kind) for kind in ("mint", "burn", "return"))
    units = cents * UNITS
    has_token = bool(row["history"] and _by_bank(row).get("mint_to")) or row["asset"] in found.tokens
    if row["type"] == "deposit":
        may = _deposit(now, paid, cents, rail)
        if minted and (len(minted) > 1 or minted[0] != units):
            yield f"minted {minted}, for {units} units"
        if row["state"] == "completed" and has_token and not minted:
            yield "completed, and the chain has no mint of it"
        if row["status"] != "completed" and sum(minted) - sum(clawed) > 0 and row["status"] != "returned":
            yield f"{told}, and {sum(minted) - sum(clawed)} units of it are on the chain"
        if now == "returned" and paid == cents and sum(minted) < sum(clawed):
            yield f"minted {minted}, and burnt {clawed} for its return"
    else:
        may = _withdrawal(now, paid, cents)
        if has_token and burnt != [units]:
            yield f"{told}, and burnt {burnt} instead of {units} units"
        if minted:
            yield f"a withdrawal has minted {minted}"
    if told not in may:
        yield f"it is {told}, and the bank's books say {now} ({paid} of {cents} cents): {sorted(may)}"


def _deposit(now: str, paid: int | None, cents: int, rail: str) -> set[str]:
    """How a deposit may end, by what its bank has done."""
    if now in ("rejected", "never taken"):
        return {"failed/rejected:bank_rejected"} if rail == "ach" else set()
    if paid is not None and paid != cents:
        return {"failed/refunded:amount_mismatch"}
    if now == "settled":
        return {"completed/completed:"}
    if now == "returned":
        return {"returned/returned:bank_returned", "failed/returned:bank_returned", "failed/rejected:bank_rejected"}
    return set()


def _withdrawal(now: str, paid: int | None, cents: int) -> set[str]:
    if now in ("rejected", "never taken"):
        return {"failed/payout_rejected:bank_rejected"}
    if now == "settled":
        return {"completed/completed:"}
    if now == "returned":
        return {"returned/payout_returned:bank_returned", "failed/payout_rejected:bank_rejected"}
    return set()


def _logs(found: Books, row: Row, kind: str) -> list[int]:
    """The amounts of all logs that bear a reference of a transaction, whatever the token."""
    names = ["burn"] if kind == "burn" else [f"{kind}/{round_}" for round_ in range(1, ROUNDS + 1)]
    references = {chain_reference(row["id"], name) for name in names}
    return [
        amount
        for chain in found.tokens.values()
        for reference, amounts in (chain.minted if kind == "mint" else chain.burnt).items()
        if reference in references
        for amount in amounts
    ]


def _nothing_twice(found: Books) -> Iterator[str]:
    """I11: no reference has had its effect twice, and nobody has had one without a transaction of ours."""
    for bank, transfers in found.transfers.items():
        acted = Counter(one["reference"] for one in transfers if one["accepted"] and one["direction"] != "incoming")
        yield from (f"{bank} has acted {n} times on {ref}" for ref, n in acted.items() if n > 1)
        known = {bank_reference(id_, "payout") for id_ in found.transactions}
        known |= {bank_reference(id_, "deposit") for id_ in found.transactions}
        known |= {row["reference"] for row in found.attempts}
        yield from (f"{bank} was asked for {ref}, and by none of our transactions" for ref in acted if ref not in known)
    names = ["burn", *(f"{kind}/{round_}" for kind in ("mint", "return") for round_ in range(1, ROUNDS + 1))]
    ours = {chain_reference(id_, name) for id_ in found.transactions for name in names}
    for token, chain in found.tokens.items():
        for kind, logs in (("minted", chain.minted), ("burnt", chain.burnt)):
            yield from (
                f"{token}: {kind} {len(amounts)} times by {ref}" for ref, amounts in logs.items() if len(amounts) > 1
            )
            yield from (f"{token}: {kind} by the unknown reference {ref}" for ref in logs if ref not in ours)
    for id_, kinds in found.journals.items():
        for kind, count in kinds.items():
            most = 2 if kind.startswith(IN_ONE_STEP) else 1
            if id_ in found.transactions and count > most and not kind.startswith(AGAIN):
                yield f"{id_}: {count} journals of {kind}"


def _sums(found: Books) -> Iterator[str]:
    """B3, B4, B5, I10: supply, custody and money at the banks are what the ledger says."""
    for token, chain in found.tokens.items():
        made = sum(sum(amounts) for amounts in chain.minted.values())
        gone = sum(sum(amounts) for amounts in chain.burnt.values())
        if chain.supply != made - gone:
            yield f"{token}: the supply is {chain.supply}, minted and not burnt are {made - gone}"
        fiat = token[1:]
        owed = -_layers(found, f"@reserve:{token}:{fiat}") * UNITS
        if chain.supply != owed:
            yield f"B3, I10 {token}: the supply is {chain.supply}, the ledger owes {owed}"
        held = sum(_layers(found, f"@custody:chain:local:{part}{token}") for part in ("", "unconfirmed:"))
        if chain.custody != held:
            yield f"B5 {token}: our address has {chain.custody}, the ledger says {held}"
        if left := _layers(found, f"@custody:chain:local:unconfirmed:{token}"):
            yield f"{token}: {left} units are credited and in no block"
        customers = -sum(
            n for (account, _), n in found.balances.items() if account.endswith(f":{token}") and account[0] != "@"
        )
        if held != customers:
            yield f"{token}: our address holds {held} and customers have {customers}"
        yield from _money(found, fiat, owed // UNITS)
    yield from (
        f"{bank}: {count} of its own journals do not add up" for bank, count in found.unbalanced.items() if count
    )


def _money(found: Books, fiat: str, reserved: int) -> Iterator[str]:
    trusts = {
        account for account, _ in found.balances if account.startswith("@bank:") and account.endswith(f":trust:{fiat}")
    }
    trust = 0
    for account in sorted(trusts):
        bank = account.split(":")[1]
        if (bank, f"trust-{fiat.lower()}") not in found.bank_balances:
            continue  # the one of deposits by hand is no bank
        booked = _layers(found, account) + _layers(found, f"@bank:{bank}:operating:{fiat}")
        has = sum(found.bank_balances.get((bank, f"{kind}-{fiat.lower()}"), 0) for kind in ("trust", "operating"))
        if booked != has:
            # A shortfall of a claw-back is made good from our own account: that transfer is a person's to make, so
            # only both accounts together are the same money.
            yield f"B4 {bank} {fiat}: the bank has {has} cents of ours, the ledger says {booked}"
        trust += _layers(found, account)
    by_hand = _layers(found, f"@bank:sandbox:trust:{fiat}")
    customers = (
        -sum(
            amount
            for (account, _), amount in found.balances.items()
            if account.endswith(f":{fiat}") and account[0] != "@"
        )
        - by_hand
    )
    outgoing = -sum(
        n
        for (account, _), n in found.balances.items()
        if account.startswith("@rail:") and account.endswith(f":outgoing:{fiat}")
    )
    suspense = -_layers(found, f"@suspense:unmatched:{fiat}")
    returns = _layers(found, f"@receivable:returns:{fiat}")
    transit = sum(
        n
        for (account, _), n in found.balances.items()
        if account.startswith("@rail:") and account.endswith(f":in_transit:{fiat}")
    )
    if trust + returns + transit < reserved + customers + outgoing + suspense:
        yield (
            f"B3 {fiat}: {trust} in trust, {transit} in transit and {returns} to come back are less than"
            f" {reserved} reserved, {customers} of customers, {outgoing} on their way out and {suspense} in suspense"
        )


def _calls_explained(found: Books) -> Iterator[str]:
    """Every call that a bank has noted is an attempt of ours, with its answer; and every call to a bank has an end."""
    noted: Counter[tuple[str, str, str]] = Counter()
    for bank, calls in found.calls.items():
        for call in calls:
            if call["method"] in ("POST", "GET"):
                noted[bank, call["reference"], "submit" if call["method"] == "POST" else "inquire"] += 1
    tried: Counter[tuple[str, str, str]] = Counter()
    for row in found.attempts:
        where = f"attempt {row['number']} of {row['reference']} at {row['lane']}"
        if row["id"] not in found.transactions:
            yield f"{where} is of the unknown transaction {row['id']}"
        if row["ended_at"] is None:
            # A broadcast that a crash has cut off stays without an end: what became of it is what the chain has.
            if row["kind"] != "broadcast" or found.transactions.get(row["id"], {}).get("status") not in ENDED:
                yield f"{where} has no end"
        elif not row["answer"]:
            yield f"{where} has an end and no answer"
        if row["breaker"] not in ("closed", "open", "half_open"):
            yield f"{where} was made while the breaker was {row['breaker']!r}"
        kind, _, name = row["lane"].partition(":")
        if kind == "bank":
            tried[name, row["reference"], row["kind"]] += 1
    for key, count in noted.items():
        if tried[key] < count:
            yield f"{key[0]} was called {count} times to {key[2]} {key[1]}, of which {tried[key]} were attempts of ours"
    definite = Counter(
        (row["lane"].partition(":")[2], row["reference"], row["kind"])
        for row in found.attempts
        if row["lane"].startswith("bank:") and row["status"] not in (0, *AT_THE_DOOR)
    )
    for key, count in definite.items():
        if noted[key] < count:
            yield f"{count} answers of {key[0]} to {key[2]} {key[1]}, which knows of {noted[key]} calls"


# --- reading ---------------------------------------------------------------------------------------------------------


def _by_bank(row: Row) -> Row:
    return next((event["by_bank"] for event in row["history"] if event.get("by_bank")), {})


def _rail(row: Row) -> tuple[str, str]:
    by = _by_bank(row)
    return by.get("rail", ""), by.get("bank", "")


def _cents(row: Row) -> int:
    amount = int(row["amount"])
    return amount // UNITS if row["asset"].startswith("A") else amount


def _layers(found: Books, account: str) -> int:
    return sum(amount for (name, _), amount in found.balances.items() if name == account)


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["reference"]].append(row)
    return grouped
