"""Topics are declared once; this creates them, and refuses to work with others than the declared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from aura_stream.brokers import Brokers, client_options

DAY_MS = 24 * 60 * 60 * 1000
KEEP = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""What carries money or the memory of it is kept without limit."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: name, what its key is, its settings, and the JSON Schema of its values (a file in `topics/schemas/`).

    All topics have the same number of partitions, the cluster's: what belongs to a customer has one partition number
    everywhere.
    """

    name: str
    key: str
    value: str
    schema: str = ""
    config: Mapping[str, str] = field(default_factory=lambda: dict(KEEP))


class TopicMismatch(Exception):
    """Topics are missing or have a wrong number of partitions. The message names them, `fix` is what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class TopicsMissing(TopicMismatch):
    """Topics are not there, or not known to every broker yet."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "aura topics apply")


async def apply_topics(
    bootstrap: Brokers | str, topics: Iterable[Topic], *, partitions: int, replication: int
) -> list[str]:
    """Creates the topics that are missing and returns their names. Raises :class:`TopicMismatch`."""
    topics = list(topics)
    admin = AIOKafkaAdminClient(**client_options(bootstrap), request_timeout_ms=30_000)
    await admin.start()
    try:
        present = set(await admin.list_topics())
        missing = [topic for topic in topics if topic.name not in present]
        if missing:
            config = {"min.insync.replicas": str(min(2, replication))}
            answer = await admin.create_topics(
                [
                    NewTopic(topic.name, partitions, replication, topic_configs=config | dict(topic.config))
                    for topic in missing
                ],
                timeout_ms=30_000,
            )
            for name, code, *message in answer.topic_errors:
                if code and for_code(code).__name__ != "TopicAlreadyExistsError":
                    raise TopicMismatch(
                        f"Kafka at {bootstrap} does not create {name}: {for_code(code).__name__} {message}",
                        "mend what Kafka says, then aura topics apply",
                    )
    finally:
        await admin.close()
    await _settled(bootstrap, topics, partitions)
    return [topic.name for topic in missing]


async def _settled(bootstrap: Brokers | str, topics: list[Topic], partitions: int) -> None:
    """A broker knows a new topic a moment after it has been created."""
    give_up = time.monotonic() + 15
    while True:
        try:
            return await check_topics(bootstrap, topics, partitions=partitions)
        except TopicsMissing:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.05)


async def check_topics(bootstrap: Brokers | str, topics: Iterable[Topic], *, partitions: int) -> None:
    """Raises :class:`TopicMismatch` unless every topic is there with just `partitions` partitions."""
    names = [topic.name for topic in topics]
    admin = AIOKafkaAdminClient(**client_options(bootstrap), request_timeout_ms=30_000)
    await admin.start()
    try:
        present = set(await admin.list_topics())
        missing = [name for name in names if name not in present]
        if missing:
            raise TopicsMissing(f"Kafka at {bootstrap} lacks {', '.join(missing)}.")
        for found in await admin.describe_topics(names):
            count = len(found["partitions"])
            if found["error_code"] or not count:
                raise TopicsMissing(f"Kafka at {bootstrap} does not yet know {found['topic']}.")
            if count != partitions:
                raise TopicMismatch(
                    f"Kafka at {bootstrap} has {found['topic']} with {count} partitions, {partitions} are configured. "
                    "The number is fixed when a cluster is set up.",
                    f"set AURA_PARTITIONS={count}, or use a new cluster",
                )
    finally:
        await admin.close()
