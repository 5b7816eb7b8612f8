"""``aura worker ledger|sink``: one worker process. Start more of them to scale; Kafka shares the partitions out."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

import topics
from agents.worker import run
from aura_stream.cli.topics import kafka_errors
from aura_stream.engine.topics import check_topics
from aura_stream.settings import load_settings

Role = Literal["ledger", "sink"]


def worker(
    role: Annotated[Role, typer.Argument(help="ledger: decides commands; sink: writes the ledger to Postgres.")],
) -> None:
    """Run one worker process until it is stopped (SIGTERM or Ctrl-C finishes the running batch)."""
    settings = load_settings()
    with kafka_errors(settings):
        asyncio.run(check_topics(settings.kafka_bootstrap, topics.ALL, partitions=settings.partitions))
    run(role, settings)
