"""The tables' changelog: the last value of every key of a shard's state. Only the engine writes here."""

from __future__ import annotations

from aura_stream.engine.topics import DAY_MS, Topic

CHANGELOG = Topic(
    "aura.ledger-changelog.v1",
    key="table prefix and key",
    value="the value, JSON; a tombstone deletes",
    config={
        "cleanup.policy": "compact",
        # A local store that was away longer than half of this is restored from zero: it might miss a tombstone.
        "delete.retention.ms": str(7 * DAY_MS),
        "min.cleanable.dirty.ratio": "0.3",
        "segment.ms": str(60 * 60 * 1000),
        "max.message.bytes": str(2 * 1024 * 1024),
    },
)
