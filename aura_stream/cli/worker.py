"""``aura worker ledger|sink``: one worker process. Start more of them to scale; Kafka shares the partitions out."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from aura_stream.settings import SetupError, load_settings

Role = Literal["ledger", "sink"]


def worker(
    role: Annotated[Role, typer.Argument(help="ledger: decides commands; sink: writes the ledger to Postgres.")],
) -> None:
    """Run one worker process until it is stopped (SIGTERM or Ctrl-C finishes the running batch)."""
    from agents.worker import run
    from aura_stream.engine.topics import TopicMismatch

    settings = load_settings()
    try:
        run(role, settings)
    except TopicMismatch as error:
        raise SetupError(
            "The topics are not as declared.", where=settings.kafka_bootstrap, why=str(error), fix="aura topics apply"
        ) from None
