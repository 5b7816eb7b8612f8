"""What the world outside says to the chain's lanes: what came of calls, looks at the chain."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

CHAIN_INBOX = Topic(
    "aura.chain-inbox.v1",
    key="~chain:<chain>:<token>, UTF-8",
    value="one piece of news, JSON",
    schema="chain-inbox.json",
    # The broker's time decides deadlines, not the sender's.
    config=KEEP | {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(1024 * 1024)},
)
