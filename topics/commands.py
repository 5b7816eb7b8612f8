"""The public door: any Kafka producer may write commands here."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

COMMANDS = Topic(
    "aura.commands.v1",
    key="<tenant>/<customer>, UTF-8",
    value="one command, JSON",
    schema="command.json",
    # The broker's time decides deadlines, not the sender's.
    config=KEEP | {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(1024 * 1024)},
)
