"""What the world outside says to the bank's lanes: what came of calls, webhooks, events that were asked for."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

BANK_INBOX = Topic(
    "aura.bank-inbox.v1",
    key="~bank:<bank>, UTF-8",
    value="one piece of news, JSON",
    schema="bank-inbox.json",
    # The broker's time decides deadlines, not the sender's.
    config=KEEP | {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(1024 * 1024)},
)
