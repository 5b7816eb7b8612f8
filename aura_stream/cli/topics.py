"""``aura topics``: the declared topics, and making Kafka have them."""

from __future__ import annotations

import asyncio

import typer
from rich.console import Console
from rich.table import Table

from aura_stream.settings import SetupError, load_settings

app = typer.Typer(no_args_is_help=True)


@app.command()
def apply() -> None:
    """Create the topics that are missing; refuse if one has another number of partitions than AURA_PARTITIONS."""
    import topics
    from aura_stream.engine.topics import TopicMismatch, apply_topics

    settings = load_settings()
    try:
        created = asyncio.run(
            apply_topics(
                settings.kafka_bootstrap,
                topics.ALL,
                partitions=settings.partitions,
                replication=settings.replication_factor,
            )
        )
    except TopicMismatch as error:
        raise SetupError(
            "The topics are not as declared.", where=settings.kafka_bootstrap, why=str(error), fix="see above"
        ) from None
    except OSError as error:
        raise _away(settings.kafka_bootstrap, error) from None
    except Exception as error:
        from aiokafka.errors import KafkaError

        if isinstance(error, KafkaError):
            raise _away(settings.kafka_bootstrap, error) from None
        raise
    typer.echo(f"created {', '.join(created)}" if created else f"all {len(topics.ALL)} topics are there")


@app.command("list")
def list_() -> None:
    """Show the declared topics: key, value, schema."""
    import topics

    table = Table("topic", "key", "value", "schema", title="declared topics")
    for topic in topics.ALL:
        table.add_row(topic.name, topic.key, topic.value, topic.schema or "-")
    Console().print(table)


def _away(bootstrap: str, error: Exception) -> SetupError:
    return SetupError(
        "Kafka does not answer.",
        where=bootstrap,
        why=str(error) or repr(error),
        fix="aura up, or set AURA_KAFKA_BOOTSTRAP",
    )
