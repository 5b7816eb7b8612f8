"""Hand-made journal records, as the shards write them."""

from __future__ import annotations

import uuid
from typing import Any

from aura_stream import journal
from aura_stream.domain.ids import derived_id, id_text
from aura_stream.journal import AccountLine, AnswerLine, ChangeLine, Entry, Journal, Line, ReceivedLine, TransactionLine

T0 = 1_763_596_800_000
"""2025-11-20T00:00:00Z in milliseconds."""

BANK = "@bank:sandbox:trust:EUR"
CLEARING = "@clearing:EUR"


class Shard:
    """One partition's journal: counts numbers, seqs and offsets as a shard does, and keeps what it wrote."""

    def __init__(self, partition: int = 0, tenant: str = "default") -> None:
        self.partition = partition
        self.tenant = tenant
        self.number = 0
        self.seq = 0
        self.at = T0
        self.offset = 0
        self.commands = 0
        self.transactions: dict[str, int] = {}
        self.records: list[tuple[int, bytes]] = []

    def journal(
        self,
        transaction_id: str,
        *entries: tuple[str, str, int],
        kind: str = "transfer.completed",
        effective_at: int | None = None,
        tenant: str | None = None,
        asset: str = "EUR",
    ) -> Journal:
        """The next journal of the partition; entries are (account, layer, signed amount)."""
        self.number += 1
        return Journal(
            number=self.number,
            transaction_id=transaction_id,
            kind=kind,
            tenant=tenant or self.tenant,
            asset=asset,
            effective_at=self.at if effective_at is None else effective_at,
            posted_at=self.at,
            entries=[Entry(account, layer, str(amount)) for account, layer, amount in entries],
        )

    def account(self, account: str, event: str = "account.opened", **values: Any) -> AccountLine:
        """An account line; the status follows from the event."""
        customer, asset, *name = account.split(":")
        status = {"opened": "open", "frozen": "frozen", "unfrozen": "open", "closed": "closed"}[event.split(".")[1]]
        return AccountLine(
            tenant=self.tenant,
            customer=customer,
            account_id=account,
            asset=asset,
            event=event,
            status=status,
            at=self.at,
            command_id=str(uuid.UUID(int=self.at)),
            idempotency_key=values.pop("key", f"{event}-{account}"),
            name=name[0] if name else "",
        )

    def transaction(
        self,
        customer: str,
        key: str,
        *journals: Journal,
        event: str = "transfer.completed",
        status: str = "completed",
        state: str = "completed",
        amount: int | str = 100,
        **values: Any,
    ) -> TransactionLine:
        """A transaction that begins; its id is derived from tenant, customer and key."""
        found = transaction_id(customer, key, self.tenant)
        self.transactions[found] = 1
        return TransactionLine(
            id=found,
            command_id=values.pop("command_id", str(uuid.uuid5(uuid.NAMESPACE_URL, key))),
            tenant=self.tenant,
            customer=customer,
            type=event.split(".")[0],
            event=event,
            status=status,
            state=state,
            asset=values.pop("asset", "EUR"),
            amount=str(amount),
            idempotency_key=key,
            at=self.at,
            journals=list(journals),
            **values,
        )

    def change(
        self, customer: str, key: str, *journals: Journal, event: str, status: str, state: str, **values: Any
    ) -> ChangeLine:
        """The next event of a transaction that began earlier."""
        found = transaction_id(customer, key, self.tenant)
        seq = values.pop("seq", self.transactions.get(found, 0) + 1)
        self.transactions[found] = seq
        return ChangeLine(
            id=found,
            tenant=self.tenant,
            customer=customer,
            type=event.split(".")[0],
            seq=seq,
            event=event,
            status=status,
            state=state,
            at=self.at,
            journals=list(journals),
            **values,
        )

    def received(self, sender: str, key: str, account: str, *journals: Journal, **values: Any) -> ReceivedLine:
        """The receiver's half of a transfer."""
        return ReceivedLine(
            id=transaction_id(sender, key, self.tenant),
            tenant=self.tenant,
            customer=account.split(":")[0],
            account_id=account,
            asset="EUR",
            amount=values.pop("amount", "100"),
            event=values.pop("event", "transfer.received"),
            at=self.at,
            journals=list(journals),
            **values,
        )

    def refused(self, customer: str, key: str, reason: str = "account_not_found", **values: Any) -> AnswerLine:
        """A command refused by business."""
        return AnswerLine(
            kind="refused",
            at=self.at,
            command_id=str(uuid.uuid5(uuid.NAMESPACE_URL, key)),
            command_type=values.pop("command_type", "account.close"),
            tenant=self.tenant,
            customer=customer,
            idempotency_key=key,
            reason=reason,
            **values,
        )

    def unit(self, *lines: Line, commands: int = 1, last: bool = True, **values: Any) -> tuple[int, bytes]:
        """The next journal record, as (Kafka offset, bytes). Offsets have holes, as those of transactions do."""
        self.seq += 1
        inputs: list[list[str | int]] = values.pop("inputs", [])
        if last and not inputs and commands:
            inputs = [["commands", self.commands, self.commands + commands - 1]]
            self.commands += commands
        record = journal.UnitRecord(
            partition=self.partition, seq=self.seq, at=self.at, lines=list(lines), inputs=inputs, last=last, **values
        )
        self.records.append((self.offset, journal.ENCODE(record)))
        self.offset += 2
        self.at += 10
        return self.records[-1]


def transaction_id(customer: str, key: str, tenant: str = "default") -> str:
    """The id that a shard derives."""
    return id_text(derived_id(tenant, customer, key))


def a_deposit(shard: Shard, account: str, amount: int, key: str, effective_at: int | None = None) -> TransactionLine:
    """A confirmed deposit, begun and ended by one line: money from the bank to the account."""
    customer = account.split(":")[0]
    booked = shard.journal(
        transaction_id(customer, key, shard.tenant),
        (BANK, "available", amount),
        (account, "available", -amount),
        kind="deposit.completed",
        effective_at=effective_at,
    )
    return shard.transaction(customer, key, booked, event="deposit.completed", amount=amount, to_account_id=account)


def a_transfer(shard: Shard, source: str, target: str, amount: int, key: str) -> TransactionLine:
    """A one-hop transfer between two accounts of one customer."""
    customer = source.split(":")[0]
    booked = shard.journal(
        transaction_id(customer, key, shard.tenant), (source, "available", amount), (target, "available", -amount)
    )
    return shard.transaction(customer, key, booked, amount=amount, from_account_id=source, to_account_id=target)


def a_town() -> tuple[Shard, Shard]:
    """Two partitions at rest and in flight: deposits, transfers, holds, refusals, of every end the machines know.

    Alice lives in partition 0, bob in 1. One transfer of 7 and one capture of 4 are still under way.
    """
    a, b = Shard(0), Shard(1)
    alice, savings, bob = "alice:EUR", "alice:EUR:savings", "bob:EUR"

    def ident(key: str, customer: str = "alice") -> str:
        return transaction_id(customer, key)

    def sent(key: str, amount: int) -> TransactionLine:
        booked = a.journal(
            ident(key), (alice, "available", amount), (CLEARING, "available", -amount), kind="transfer.sent"
        )
        return a.transaction(
            "alice",
            key,
            booked,
            event="transfer.sent",
            status="processing",
            state="sent",
            amount=amount,
            from_account_id=alice,
            to_account_id=bob,
        )

    def placed(key: str, amount: int, target: str) -> TransactionLine:
        booked = a.journal(ident(key), (alice, "available", amount), (alice, "held", -amount), kind="hold.placed")
        return a.transaction(
            "alice",
            key,
            booked,
            event="hold.placed",
            status="processing",
            state="held",
            amount=amount,
            from_account_id=alice,
            to_account_id=target,
            expires_at=T0 + 86_400_000,
        )

    def credited(key: str, amount: int) -> ReceivedLine:
        booked = b.journal(
            ident(key), (CLEARING, "available", amount), (bob, "available", -amount), kind="transfer.received"
        )
        return b.received("alice", key, bob, booked, amount=str(amount))

    a.unit(a.account(alice), a.account(savings), a_deposit(a, alice, 1000, "d1"), commands=3)
    b.unit(b.account(bob), a_deposit(b, bob, 50, "d1"), commands=2)
    a.unit(sent("t1", 100), sent("t2", 30), sent("t3", 7), commands=3)
    b.unit(
        credited("t1", 100),
        b.received("alice", "t2", bob, event="transfer.refused", reason="account_frozen"),
        inputs=[["signals", 0, 1]],
    )
    t1_half = (1 << 48) + b.number
    a.unit(
        a.change(
            "alice", "t1", event="transfer.completed", status="completed", state="completed", also_journal=t1_half
        ),
        a.change(
            "alice",
            "t2",
            a.journal(ident("t2"), (CLEARING, "available", 30), (alice, "available", -30), kind="transfer.returned"),
            event="transfer.returned",
            status="failed",
            state="returned",
            reason="account_frozen",
        ),
        inputs=[["signals", 1, 2]],
    )
    holds = [
        placed("h1", 40, savings),
        placed("h2", 20, bob),
        placed("h3", 10, bob),
        placed("h4", 5, bob),
        placed("h5", 4, bob),
    ]
    a.unit(*holds, commands=5)
    a.unit(
        a.change(
            "alice",
            "h1",
            a.journal(ident("h1"), (alice, "held", 40), (savings, "available", -25), (alice, "available", -15)),
            event="hold.captured",
            status="completed",
            state="captured",
            captured="25",
            command_id="c1",
        ),
        a.change(
            "alice",
            "h2",
            a.journal(ident("h2"), (alice, "held", 20), (alice, "available", -20)),
            event="hold.released",
            status="canceled",
            state="released",
            command_id="c2",
        ),
        a.change(
            "alice",
            "h3",
            a.journal(ident("h3"), (alice, "held", 10), (CLEARING, "available", -10)),
            event="hold.capturing",
            status="processing",
            state="capturing",
            captured="10",
            command_id="c3",
        ),
        a.change(
            "alice",
            "h5",
            a.journal(ident("h5"), (alice, "held", 4), (CLEARING, "available", -4)),
            event="hold.capturing",
            status="processing",
            state="capturing",
            captured="4",
            command_id="c5",
        ),
        commands=4,
    )
    b.unit(credited("h3", 10), inputs=[["signals", 3, 3]])
    a.unit(
        a.change(
            "alice",
            "h3",
            event="hold.captured",
            status="completed",
            state="captured",
            captured="10",
            also_journal=(1 << 48) + b.number,
        ),
        inputs=[["signals", 5, 5], ["clock", T0 + 5]],
    )
    a.unit(
        a_transfer(a, alice, savings, 200, "t4"),
        a.transaction(
            "alice",
            "t5",
            event="transfer.failed",
            status="failed",
            state="refused",
            reason="negative_amount",
            amount=-5,
        ),
        a.refused("alice", "r1"),
        AnswerLine(kind="repeat", at=a.at, tenant="default", customer="alice", idempotency_key="t4"),
        AnswerLine(kind="dead_letter", at=a.at, reason="invalid_json", topic="aura.commands.v1", offset=17),
        commands=5,
    )
    return a, b
