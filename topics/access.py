"""Which role reads and writes which topic: the rights at the brokers (`aura topics allow`), and nothing beyond them.

What is inside is believed because nobody else can write it: a forged signal, journal record or event is refused by the
broker, before anybody reads it (SEC50, SEC51).
"""

from __future__ import annotations

from dataclasses import dataclass

import topics
from aura_stream.engine.acls import Rule
from aura_stream.engine.topics import Topic


@dataclass(frozen=True)
class Role:
    """What one kind of process does with topics."""

    name: str
    reads: tuple[Topic, ...]
    writes: tuple[Topic, ...]
    is_group: bool = True
    """Whether it shares partitions with others of its kind, in a consumer group."""
    has_transactions: bool = False


def roles(*, bare: bool = False) -> tuple[Role, ...]:
    """All roles, with topics by the names they have in this cluster."""
    transaction_events, account_events, auth_events = topics.events(bare=bare)
    return (
        Role(
            "api",
            (topics.COMMANDS, topics.JOURNAL, topics.DEAD_LETTERS),
            (topics.COMMANDS, topics.BANK_INBOX),
            is_group=False,
        ),
        Role(
            "ledger",
            (topics.COMMANDS, topics.SIGNALS, topics.JOURNAL, topics.CHANGELOG),
            (
                *(topics.SIGNALS, topics.JOURNAL, topics.CHANGELOG, transaction_events, account_events),
                *(topics.BANK_REQUESTS, topics.CHAIN_REQUESTS, topics.DEAD_LETTERS),
            ),
            has_transactions=True,
        ),
        Role("sink", (topics.JOURNAL,), (topics.CHAIN_HEADS,)),
        Role("events", (transaction_events, account_events, auth_events), (account_events, auth_events)),
        Role(
            "bank",
            topics.BANK,
            (*topics.BANK[1:], topics.SIGNALS, topics.CHAIN_REQUESTS, topics.DEAD_LETTERS),
            has_transactions=True,
        ),
        Role(
            "chain",
            topics.CHAIN,
            (*topics.CHAIN, topics.SIGNALS, topics.DEAD_LETTERS),
            has_transactions=True,
        ),
    )


def rules(role: Role, principal: str, app_id: str, *, bare: bool = False) -> list[Rule]:
    """What a principal of the brokers is allowed so that it can be this role."""
    group = f"{app_id}-{role.name}"
    found = [Rule(principal, "topic", topic.name, "describe") for topic in topics.every(bare=bare)]
    found += [Rule(principal, "topic", topic.name, "read") for topic in role.reads]
    found += [Rule(principal, "topic", topic.name, "write") for topic in role.writes]
    if role.is_group:
        found += [Rule(principal, "group", group, "read")]
    if role.has_transactions:
        found += [Rule(principal, "transactions", f"{group}-", "write")]
    return found
