"""What happened to accounts: opened, frozen, unfrozen, closed, and commands about them that were refused."""

from __future__ import annotations

from aura_stream.engine.topics import Topic

ACCOUNT_EVENTS = Topic(
    "aura.account-events.v1", key="<tenant>/<customer>, UTF-8", value="one event, JSON", schema="account-event.json"
)
