"""``aura topics``: the declared topics, and making Kafka have them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from aiokafka.errors import KafkaError

import topics
from aura_stream.cli.tables import console, table
from aura_stream.engine import acls
from aura_stream.engine.topics import TopicMismatch, apply_topics
from aura_stream.settings import Settings, SetupError, load_settings
from topics import access

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


@app.command()
def allow(
    role: Annotated[str, typer.Argument(help="A role, or `all`.")],
    principal: Annotated[
        str, typer.Option(help="Who it is at the brokers; `{role}` stands for the role.")
    ] = "User:aura-{role}",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be allowed.")] = False,
) -> None:
    """Let a principal read and write the topics of a role, and no others; the brokers need an authorizer."""
    settings = load_settings()
    known = {one.name: one for one in access.roles(bare=settings.bare_event_topics)}
    if role not in (*known, "all"):
        raise typer.BadParameter(f"known are {', '.join(known)} and all", param_hint="ROLE")
    chosen = list(known.values()) if role == "all" else [known[role]]
    rules = [
        rule
        for one in chosen
        for rule in access.rules(
            one, principal.replace("{role}", one.name), settings.app_id, bare=settings.bare_event_topics
        )
    ]
    if not dry_run:
        with kafka_errors(settings):
            asyncio.run(acls.allow(settings.kafka, rules))
    for rule in rules:
        if rule.operation != "describe":
            typer.echo(f"{rule.principal}\t{rule.operation}\t{rule.kind}\t{rule.name}")


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
            "The topics are not as declared.", where=settings.kafka_bootstrap, why=str(error), fix=error.fix
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
