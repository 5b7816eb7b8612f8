"""What could not be handled: key and value are the original bytes, the headers say why and where from."""

from __future__ import annotations

from aura_stream.engine.topics import KEEP, Topic

DEAD_LETTERS = Topic(
    "aura.dead-letters.v1",
    key="as it came",
    value="as it came; headers aura-reason, aura-detail, aura-topic, aura-partition, aura-offset",
    config=KEEP | {"max.message.bytes": str(2 * 1024 * 1024)},
)
