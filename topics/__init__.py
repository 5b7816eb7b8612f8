"""Every topic of the product, one file each: name, key, settings, schema. `aura topics apply` creates them."""

from __future__ import annotations

from topics.account_events import ACCOUNT_EVENTS
from topics.auth_events import AUTH_EVENTS
from topics.changelog import CHANGELOG
from topics.commands import COMMANDS
from topics.dead_letters import DEAD_LETTERS
from topics.journal import JOURNAL
from topics.signals import SIGNALS
from topics.transaction_events import TRANSACTION_EVENTS

EVENTS = (TRANSACTION_EVENTS, ACCOUNT_EVENTS, AUTH_EVENTS)
"""What the log of events is made of."""
ALL = (COMMANDS, SIGNALS, JOURNAL, *EVENTS, DEAD_LETTERS, CHANGELOG)

__all__ = [
    "ACCOUNT_EVENTS",
    "ALL",
    "AUTH_EVENTS",
    "CHANGELOG",
    "COMMANDS",
    "DEAD_LETTERS",
    "EVENTS",
    "JOURNAL",
    "SIGNALS",
    "TRANSACTION_EVENTS",
]
