"""The ledger world with banks and a chain: facts of lanes as signals, requests to lanes, rules of settlement."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from aura_stream.domain.ids import bank_lane_key, bank_reference, chain_reference, derived_id, id_text, record_key
from aura_stream.domain.lane_requests import (
    DECODE_BANK,
    DECODE_CHAIN,
    Burn,
    Expect,
    Inquire,
    Instruct,
    Mint,
    SetClock,
    SetPause,
    Withdraw,
)
from aura_stream.domain.settlement import TOKENS, cents
from aura_stream.domain.signals import Applied, BankFact, ChainFact, ClockTaken, TokensIn, Unmatched
from aura_stream.domain.state import TERMINAL, Rules, Settlement, SettlementRules, Transaction
from aura_stream.engine.driver import Driver
from tables.balances import BALANCES
from tables.settlements import SETTLEMENTS
from tables.transactions import TRANSACTIONS
from tests.domain.world import NAMES, World
from topics.bank_requests import BANK_REQUESTS
from topics.chain_requests import CHAIN_REQUESTS

LANES = 1000
"""The source of the lanes' signals: no partition of the ledger has this number."""


class SettlementWorld(World):
    """Customers with accounts in fiat and tokens; whoever uses it plays the lanes."""

    def __init__(self, mode: str = "sandbox", settlement: SettlementRules | None = None, partitions: int = 4) -> None:
        super().__init__(mode, partitions)
        self.rules = Rules(("default", "demo"), mode, settlement or SettlementRules())
        self.driver = Driver(
            type(self.driver.actor)(self.rules),  # type: ignore[call-arg]  # the ledger, with other rules
            NAMES,
            partitions=partitions,
            rules=msgspec.json.encode(self.rules),
        )
        self.seqs: Counter[int] = Counter()
        self.read: Counter[tuple[str, int]] = Counter()
        self.facts = 0

    # --- the lanes' side -------------------------------------------------------------------------------------------

    def signal(self, partition: int, signal: msgspec.Struct) -> None:
        """A lane's signal; nothing runs yet."""
        self.seqs[partition] += 1
        packed = {"source": LANES, "seq": self.seqs[partition], "at": self.at, "signals": [signal], "v": 1}
        self.driver.append(NAMES.signals, partition, b"1000", msgspec.json.encode(packed), self.at)

    def partition(self, customer: str, tenant: str = "default") -> int:
        """Where a customer lives."""
        return self.driver.partitioner(record_key(tenant, customer))

    def bank(self, transaction_id: str, kind: str, **what: Any) -> None:
        """A bank did something with the transaction's present instruction; runs."""
        t, s = self.transaction(transaction_id), self.settlement(transaction_id)
        step = ("debit" if s.rail == "ach" else "credit") if t.type == "deposit" else "payout"
        reference = bank_reference(transaction_id, "deposit" if t.type == "deposit" else "payout")
        self.facts += 1
        amount = s.amount if t.type == "deposit" else s.amount - s.fee
        if kind in ("settled", "returned"):
            what = {"amount": amount, "asset": s.fiat, "fact_id": f"fact-{self.facts}"} | what
        fact = BankFact(transaction_id, t.tenant, step, kind, reference, **what)
        self.signal(self.partition(t.customer, t.tenant), fact)
        self.driver.run()

    def chain(self, transaction_id: str, kind: str, **what: Any) -> None:
        """Something became of the transaction's present mint or burn; runs."""
        t, s = self.transaction(transaction_id), self.settlement(transaction_id)
        if t.type == "withdrawal":
            step, reference = "burn", chain_reference(transaction_id, "burn")
        elif t.state == "tokens_received":
            step, reference = "sweep", chain_reference(transaction_id, "sweep/1")
        elif t.state == "returning":
            step, reference = "burn", chain_reference(transaction_id, f"return/{s.round}")
        else:
            step, reference = "mint", chain_reference(transaction_id, f"mint/{s.round}")
        what = {"hash": f"0x{kind[:1]}{s.round}"} | what if kind == "broadcast" else what
        self.signal(
            self.partition(t.customer, t.tenant), ChainFact(transaction_id, t.tenant, step, kind, reference, **what)
        )
        self.driver.run()

    def tokens(self, account: str, amount: int) -> str:
        """Tokens come to an account's deposit address; runs. The deposit's id."""
        customer, token, *_ = account.split(":")
        self.facts += 1
        id_ = id_text(derived_id("default", f"~chain:local:{token}", f"0xa/{self.facts}"))
        news = TokensIn(id_, "default", account, "local", token, amount, "0xdeposit", "0xa")
        for _ in range(2):  # the same log twice counts once
            self.signal(self.partition(customer), news)
        self.driver.run()
        return id_

    def unannounced(self, bank: str, amount: int, asset: str) -> str:
        """Money of nobody comes to a bank; runs. The transaction's id."""
        self.facts += 1
        news = Unmatched("default", bank, asset, amount, f"fact-{self.facts}", "for alice?")
        for _ in range(2):  # the same money twice counts once
            self.signal(self.driver.partitioner(bank_lane_key(bank)), news)
        self.driver.run()
        return id_text(derived_id("default", f"~bank:{bank}", news.fact_id))

    def answer_pauses(self) -> None:
        """The lanes apply the pauses, and moves of the clock, that they were told of and have not answered yet."""
        for topic, decode in ((BANK_REQUESTS.name, DECODE_BANK), (CHAIN_REQUESTS.name, DECODE_CHAIN)):
            for partition, log in self.driver.topics[topic].items():
                for record in log[self.read[topic, partition] :]:
                    request = decode(record.value or b"")
                    if isinstance(request, SetPause):
                        self.signal(request.home, Applied(request.pause.id, bool(request.pause.lifted_at)))
                    elif isinstance(request, SetClock):
                        self.signal(request.home, ClockTaken(request.moved_ms))
                self.read[topic, partition] = len(log)
        self.driver.run()

    def requests(self) -> list[Any]:
        """All requests to lanes, bank's first."""
        return [
            *(DECODE_BANK(value) for value in self.driver.values(BANK_REQUESTS.name)),
            *(DECODE_CHAIN(value) for value in self.driver.values(CHAIN_REQUESTS.name)),
        ]

    def settlement(self, transaction_id: str) -> Settlement:
        """The row beside a transaction."""
        found = self.table(SETTLEMENTS.prefix, SETTLEMENTS.decode)[bytes.fromhex(transaction_id.replace("-", ""))]
        assert isinstance(found, Settlement)
        return found

    # --- invariants ------------------------------------------------------------------------------------------------

    def _check_tables(
        self,
        layers: Counter[tuple[str, str, str]],
        counts: Counter[tuple[str, str]],
        states: dict[str, tuple[int, str, str]],
        statuses: dict[tuple[str, str], str],
        received: dict[str, Any],
        booked: set[int],
    ) -> None:
        transactions: dict[bytes, Transaction] = self.table(TRANSACTIONS.prefix, TRANSACTIONS.decode)
        rows: dict[bytes, Settlement] = self.table(SETTLEMENTS.prefix, SETTLEMENTS.decode)
        assert {id_text(key): (t.seq, t.status, t.state) for key, t in transactions.items()} == states
        items: Counter[tuple[str, str]] = Counter()
        for key, t in transactions.items():
            row = rows.get(key)
            under_way = t.status not in TERMINAL or t.state == "returning"
            if row is None:
                if t.state in ("awaiting_funds", "sent"):
                    items[t.tenant, t.to_account if t.type == "deposit" else t.from_account] += 1
                continue
            if t.type == "suspense":
                continue
            if under_way:
                items[t.tenant, row.account] += 1
                if row.token_account:
                    items[t.tenant, row.token_account] += 1
            # Every path ends in a terminal status, or waits: for a time, a person, or a pause.
            waits = t.deadline > 0 or bool(row.parked_by) or t.status == "requires_attention" or t.state == "returning"
            assert waits or t.status in TERMINAL, (t.status, t.state)
            assert not (t.deadline and row.parked_by)
        accounts = self.table(BALANCES.prefix, BALANCES.decode)
        assert {tuple(key.decode().split("/")): a.status for key, a in accounts.items()} == statuses
        for key, account in accounts.items():
            where: Any = tuple(key.decode().split("/"))
            assert account.available == layers[*where, "available"]
            assert account.held == layers[*where, "held"]
            assert account.pending_in == layers[*where, "pending_in"]
            assert account.entries == counts[where]
            assert account.open_items == items[where], (where, account.open_items, items[where])
        self._check_held(layers, transactions, rows)
        self._check_reserves(layers, transactions, rows)
        self._check_requests(transactions, rows)

    def _check_held(
        self,
        layers: Counter[tuple[str, str, str]],
        transactions: dict[bytes, Transaction],
        rows: dict[bytes, Settlement],
    ) -> None:
        """What is held or pending is exactly what transactions under way say that they hold."""
        expected: Counter[tuple[str, str, str]] = Counter()
        for key, s in rows.items():
            t = transactions[key]
            if t.type == "deposit":
                if t.state in ("funds_settled", "mint_queued", "withdrawing", "mint_broadcast", "mint_confirming"):
                    expected[t.tenant, s.account, "held"] += s.amount
                if s.booked:
                    expected[t.tenant, s.account, "pending_in"] += s.amount
                if t.state == "returning":
                    expected[t.tenant, s.token_account, "held"] += s.clawed
            elif t.type == "withdrawal" and t.status not in TERMINAL:
                if t.state in ("requires_approval", "tokens_held", "burn_broadcast", "burn_confirming"):
                    expected[t.tenant, t.from_account, "held"] += t.amount
                elif not s.booked:
                    expected[t.tenant, s.account, "held"] += s.amount
                else:
                    expected[t.tenant, f"@rail:{s.rail}:outgoing:{s.fiat}", "available"] += s.amount
        said = {k: n for k, n in expected.items() if n}
        is_kept = {k: n for k, n in layers.items() if n and (k[2] != "available" or ":outgoing:" in k[1])}
        assert is_kept == said

    def _check_reserves(
        self,
        layers: Counter[tuple[str, str, str]],
        transactions: dict[bytes, Transaction],
        rows: dict[bytes, Settlement],
    ) -> None:
        """Trust and open returns cover what is owed; tokens are as many as their reserve says."""
        total: Counter[str] = Counter()
        for (_, account, layer), amount in layers.items():
            asset = account.split(":")[1] if account[0] != "@" else account.rsplit(":", 1)[1]
            if account[0] != "@":
                total[f"{layer}:{asset}"] += amount
            else:
                kind = ":trust" if ":trust:" in account else ""
                total[f"{account.split(':')[0]}{kind}:{asset}"] += amount
                if ":outgoing:" in account:
                    total[f"outgoing:{asset}"] += amount
        for token, fiat in TOKENS.items():
            open_returns = sum(
                s.clawed // cents(token, fiat)
                for key, s in rows.items()
                if s.token == token and transactions[key].state == "returning"
            )
            trust = -total[f"@bank:trust:{fiat}"]
            reserve, suspense = total[f"@reserve:{fiat}"], total[f"@suspense:{fiat}"]
            owed = reserve + total[f"available:{fiat}"] + total[f"held:{fiat}"] + total[f"outgoing:{fiat}"] + suspense
            assert trust + open_returns >= owed, "trust does not cover what is owed"

    def _check_requests(self, transactions: dict[bytes, Transaction], rows: dict[bytes, Settlement]) -> None:
        """Nothing is asked for twice; tokens only for fiat that has settled, and never above it."""
        asked: Counter[str] = Counter()
        for request in self.requests():
            if isinstance(request, Instruct | Expect | Mint | Burn):
                asked[request.reference] += 1
            if isinstance(request, Inquire | Withdraw | SetPause | SetClock):
                continue
            key = bytes.fromhex(request.transaction_id.replace("-", ""))
            s, t = rows[key], transactions[key]
            assert (request.tenant, request.customer) == (t.tenant, t.customer)
            if isinstance(request, Mint):
                assert s.settled_by or not s.rail, "a mint without settled fiat"
                asked_for = (s.amount - s.fee) * cents(s.token, s.fiat)
                # What a customer has spent of a lost mint is asked for once more.
                assert request.amount in ((asked_for, s.back) if s.back else (asked_for,))
            if isinstance(request, Burn) and request.is_return:
                assert s.returned_by and request.amount == s.clawed
        assert not [reference for reference, times in asked.items() if times > 1], "asked for twice"
