"""What happened to transactions, for anyone who wants to know."""

from __future__ import annotations

from aura_stream.engine.topics import Topic

TRANSACTION_EVENTS = Topic(
    "aura.transaction-events.v1",
    key="<tenant>/<customer>, UTF-8",
    value="one event, JSON",
    schema="transaction-event.json",
)
