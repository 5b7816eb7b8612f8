"""Every topic of the product, one file each: name, key, settings, schema. `aura topics apply` creates them."""

from __future__ import annotations

from dataclasses import replace

from aura_stream.engine.topics import Topic
from topics.account_events import ACCOUNT_EVENTS
from topics.auth_events import AUTH_EVENTS
from topics.bank_changelog import BANK_CHANGELOG
from topics.bank_inbox import BANK_INBOX
from topics.bank_journal import BANK_JOURNAL
from topics.bank_requests import BANK_REQUESTS
from topics.chain_changelog import CHAIN_CHANGELOG
from topics.chain_heads import CHAIN_HEADS
from topics.chain_inbox import CHAIN_INBOX
from topics.chain_journal import CHAIN_JOURNAL
from topics.chain_requests import CHAIN_REQUESTS
from topics.changelog import CHANGELOG
from topics.commands import COMMANDS
from topics.dead_letters import DEAD_LETTERS
from topics.journal import JOURNAL
from topics.signals import SIGNALS
from topics.transaction_events import TRANSACTION_EVENTS

EVENTS = (TRANSACTION_EVENTS, ACCOUNT_EVENTS, AUTH_EVENTS)
"""What the log of events is made of."""


def events(*, bare: bool = False) -> tuple[Topic, ...]:
    """The topics of events by the names they have in this cluster (setting `bare_event_topics`)."""
    return tuple(replace(topic, name=_bare(topic.name)) if bare else topic for topic in EVENTS)


def every(*, bare: bool = False) -> tuple[Topic, ...]:
    """Every topic by the name it has in this cluster."""
    return tuple(topic for topic in ALL if topic not in EVENTS) + events(bare=bare)


def _bare(name: str) -> str:
    return name.removeprefix("aura.").removesuffix(".v1")


BANK = (BANK_REQUESTS, BANK_INBOX, BANK_JOURNAL, BANK_CHANGELOG)
CHAIN = (CHAIN_REQUESTS, CHAIN_INBOX, CHAIN_JOURNAL, CHAIN_CHANGELOG)
ALL = (COMMANDS, SIGNALS, JOURNAL, *EVENTS, *BANK, *CHAIN, DEAD_LETTERS, CHANGELOG, CHAIN_HEADS)

__all__ = [
    "ACCOUNT_EVENTS",
    "ALL",
    "AUTH_EVENTS",
    "BANK_CHANGELOG",
    "BANK_INBOX",
    "BANK_JOURNAL",
    "BANK_REQUESTS",
    "CHAIN_CHANGELOG",
    "CHAIN_HEADS",
    "CHAIN_INBOX",
    "CHAIN_JOURNAL",
    "CHAIN_REQUESTS",
    "CHANGELOG",
    "COMMANDS",
    "DEAD_LETTERS",
    "EVENTS",
    "JOURNAL",
    "SIGNALS",
    "TRANSACTION_EVENTS",
    "events",
    "every",
]
