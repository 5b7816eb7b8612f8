"""``aura worker``: one worker process of a role. Start more of them to scale; they share the work out."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

import topics
from agents.worker import run
from aura_stream.cli.topics import kafka_errors
from aura_stream.embedded.processes import require_port
from aura_stream.engine.topics import check_topics
from aura_stream.settings import load_settings
from aura_stream.webhooks.process import run as send_webhooks

Role = Literal["ledger", "sink", "events", "webhooks", "bank", "chain"]


def worker(
    role: Annotated[
        Role,
        typer.Argument(
            help="ledger: decides commands; sink: writes the ledger to Postgres; events: keeps the log of events; "
            "webhooks: sends them out; bank: speaks with the banks; chain: mints and burns."
        ),
    ],
) -> None:
    """Run one worker process until it is stopped (SIGTERM or Ctrl-C finishes the running batch)."""
    settings = load_settings()
    if role == "webhooks":
        send_webhooks(settings)
        return
    with kafka_errors(settings):
        asyncio.run(
            check_topics(settings.kafka, topics.every(bare=settings.bare_event_topics), partitions=settings.partitions)
        )
    require_port(settings.faust_web_port, f"The worker's status page ({role})", "AURA_FAUST_WEB_PORT")
    run(role, settings)
