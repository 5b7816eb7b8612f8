"""Every topic of the product, one file each: name, key, settings, schema. `aura topics apply` creates them."""

from __future__ import annotations

from topics.chain_heads import CHAIN_HEADS
from topics.changelog import CHANGELOG
from topics.commands import COMMANDS
from topics.dead_letters import DEAD_LETTERS
from topics.journal import JOURNAL
from topics.signals import SIGNALS
from topics.transaction_events import TRANSACTION_EVENTS

ALL = (COMMANDS, SIGNALS, JOURNAL, TRANSACTION_EVENTS, DEAD_LETTERS, CHANGELOG, CHAIN_HEADS)

__all__ = ["ALL", "CHAIN_HEADS", "CHANGELOG", "COMMANDS", "DEAD_LETTERS", "JOURNAL", "SIGNALS", "TRANSACTION_EVENTS"]
