"""Two things of aiokafka (as pinned) put right. `transactions.py` imports it, and all that reads topics imports that.

Only leaders are asked for records. Since version 11 of Fetch any replica answers a consumer, also one that has just
come back and is behind: it says OffsetOutOfRange about offsets that its leader has. To us that means that Kafka has
lost data, and a worker would stop. aiokafka always takes the highest version that it knows; up to version 10 whoever
does not lead says so, and the client looks for the leader.

A cluster may have no broker to show: its controller takes one whose heartbeats are late, be it for a slow disk, out of
the metadata for a moment. A client that starts just then asserts that there is one, where everybody waits who began
before: a worker would stop.
"""

from __future__ import annotations

from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import CoordinatorNotAvailableError
from aiokafka.protocol.fetch import FetchRequest

FETCH_VERSION_MAX = 10

FetchRequest._CLASSES = tuple(one for one in FetchRequest._CLASSES if one.API_VERSION <= FETCH_VERSION_MAX)

_lookup = AIOKafkaClient.coordinator_lookup


async def _coordinator_lookup(client: AIOKafkaClient, kind: Any, key: Any) -> Any:
    if client.get_random_node() is None:
        raise CoordinatorNotAvailableError("no broker is known yet")
    return await _lookup(client, kind, key)


AIOKafkaClient.coordinator_lookup = _coordinator_lookup
