"""``aura topics``: the declared topics, and making Kafka have them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from aiokafka.errors import KafkaError

import topics
from aura_stream.cli.tables import console, table
from aura_stream.engine.topics import TopicMismatch, apply_topics
from aura_stream.settings import Settings, SetupError, load_settings

app = typer.Typer(no_args_is_help=True)


@app.command()
def apply() -> None:
    """Create the topics that are missing; refuse if one has another number of partitions than AURA_PARTITIONS."""
    settings = load_settings()
    with kafka_errors(settings):
        created = asyncio.run(
            apply_topics(
                settings.kafka,
                topics.every(bare=settings.bare_event_topics),
                partitions=settings.partitions,
                replication=settings.replication_factor,
            )
        )
    typer.echo(f"created {', '.join(created)}" if created else f"all {len(topics.ALL)} topics are there")


@app.command("list")
def list_() -> None:
    """Show the declared topics: key, value, schema."""
    found = table("declared topics", "topic", "key", "value", "schema", whole=("topic",))
    for topic in topics.ALL:
        found.add_row(topic.name, topic.key, topic.value, topic.schema or "-")
    console().print(found)


@contextmanager
def kafka_errors(settings: Settings) -> Iterator[None]:
    """Says of a Kafka that is away, or has other topics, what to do about it."""
    library = logging.getLogger("aiokafka")
    level = library.level
    library.setLevel(logging.CRITICAL)  # what it says of a broker that is away, we say better
    try:
        yield
    except TopicMismatch as error:
        raise SetupError(
            "The topics are not as declared.", where=settings.kafka_bootstrap, why=str(error), fix="aura topics apply"
        ) from None
    except (KafkaError, OSError) as error:
        raise SetupError(
            "Kafka does not answer.",
            where=settings.kafka_bootstrap,
            why=str(error) or repr(error),
            fix="aura up, or set AURA_KAFKA_BOOTSTRAP",
        ) from None
    finally:
        library.setLevel(level)
