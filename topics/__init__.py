"""Every topic of the product, one file each: name, key, settings, schema. `aura topics apply` creates them."""

from __future__ import annotations

from topics.bank_requests import BANK_REQUESTS
from topics.chain_heads import CHAIN_HEADS
from topics.chain_requests import CHAIN_REQUESTS
from topics.changelog import CHANGELOG
from topics.commands import COMMANDS
from topics.dead_letters import DEAD_LETTERS
from topics.journal import JOURNAL
from topics.signals import SIGNALS
from topics.transaction_events import TRANSACTION_EVENTS

ALL = (
    COMMANDS,
    SIGNALS,
    JOURNAL,
    TRANSACTION_EVENTS,
    BANK_REQUESTS,
    CHAIN_REQUESTS,
    DEAD_LETTERS,
    CHANGELOG,
    CHAIN_HEADS,
)

__all__ = [
    "ALL",
    "BANK_REQUESTS",
    "CHAIN_HEADS",
    "CHAIN_REQUESTS",
    "CHANGELOG",
    "COMMANDS",
    "DEAD_LETTERS",
    "JOURNAL",
    "SIGNALS",
    "TRANSACTION_EVENTS",
]
