"""Where the hash chain of each partition stood, told by the sink after its commit: out of the database's reach."""

from __future__ import annotations

from aura_stream.engine.topics import DAY_MS, Topic

CHAIN_HEADS = Topic(
    "aura.chain-heads.v1",
    key="number of the partition",
    value="one head, JSON",
    schema="chain-head.json",
    config={
        "cleanup.policy": "compact",
        # The heads of a day stay, so that a rewritten chain can be told from a whole one to within a second.
        "min.compaction.lag.ms": str(DAY_MS),
        "segment.ms": str(DAY_MS),
    },
)
