"""Which partition a key belongs to: the rule of Kafka's Java client, so that any ordinary producer agrees with us."""

from __future__ import annotations

from aiokafka.partitioner import murmur2

_CACHE_MAX = 1 << 17


class Partitioner:
    """murmur2(key) mod partitions, remembered per key: the hash in Python costs as much as a small command."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._known: dict[bytes, int] = {}

    def __call__(self, key: bytes) -> int:
        """The partition of a key."""
        partition = self._known.get(key)
        if partition is None:
            if len(self._known) >= _CACHE_MAX:
                self._known.clear()
            partition = self._known[key] = (murmur2(key) & 0x7FFFFFFF) % self.partitions
        return partition
