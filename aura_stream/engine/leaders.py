"""Only leaders are asked for records. Imported by whatever reads topics.

Since version 11 of Fetch any replica answers a consumer, also one that has just come back and is behind: it says
OffsetOutOfRange about offsets that its leader has. To us that means that Kafka has lost data, and a worker would stop.
aiokafka (as pinned) always takes the highest version that it knows; up to version 10 whoever does not lead says so, and
the client looks for the leader.
"""

from __future__ import annotations

from aiokafka.protocol.fetch import FetchRequest

FETCH_VERSION_MAX = 10

FetchRequest._CLASSES = tuple(one for one in FetchRequest._CLASSES if one.API_VERSION <= FETCH_VERSION_MAX)
