"""``aura ledger``: prove the ledger, print its digest, write its checkpoints."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

import topics
from aura_stream.cli import CHECK_FAILED, emit, paint, say
from aura_stream.cli.db import run
from aura_stream.engine.kafka import RealKafka
from aura_stream.ledger import checkpoints
from aura_stream.ledger.connection import READER, WRITER, connect
from aura_stream.ledger.migrations import check_assets
from aura_stream.ledger.verify import Check, command_holes
from aura_stream.ledger.verify import digest as digest_of
from aura_stream.ledger.verify import verify as checks_of
from aura_stream.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True)

DsnOption = Annotated[str, typer.Option("--dsn", help="Postgres; default: the setting of the role that is needed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def verify(
    dsn: DsnOption = "",
    json: JsonOption = False,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds in which partitions that are being written may come to agree.")
    ] = 10.0,
) -> None:
    """Check everything that must never be true. Exit code 0: all good, 1: a check failed, 3: could not check."""
    settings = load_settings()
    results = run(_verify(dsn or settings.postgres_read_dsn, settle, settings), "The ledger cannot be checked.")
    if json:
        emit([_as_json(check) for check in results])
    else:
        for check in results:
            word = paint("good", "green") if check.good else paint("BAD ", "red")
            print(f"{word}  {check.holds}  ({check.checked} {check.things})")
            if not check.good:
                print(f"      {check.name}: first offending row: {check.offender}")
    if not all(check.good for check in results):
        raise typer.Exit(CHECK_FAILED)


@app.command()
def digest(dsn: DsnOption = "") -> None:
    """Print the sha256 of all entries by partition, journal and leg."""
    print(run(_digest(dsn or load_settings().postgres_read_dsn), "The ledger cannot be read."))


@app.command()
def checkpoint(
    dsn: DsnOption = "",
    entries: Annotated[int, typer.Option(min=1, help="Entries per checkpoint.")] = checkpoints.ENTRIES,
) -> None:
    """Write the balance checkpoints that are due. They only save reading; the sink writes them as it goes."""
    written = run(_checkpoint(dsn or load_settings().postgres_write_dsn, entries), "No checkpoints can be written.")
    say(f"{written} checkpoints written")


async def _verify(dsn: str, settle_s: float, settings: Settings) -> list[Check]:
    connection = await connect(dsn, READER, command_timeout_s=None)
    try:
        await check_assets(connection)
        results = await checks_of(connection, settle_s)
        holes = await command_holes(connection)
    finally:
        await connection.close(timeout=5)
    if holes:
        results.append(await _holes_are_empty(holes, settings))
    return results


async def _holes_are_empty(holes: list[tuple[int, int, int]], settings: Settings) -> Check:
    """Asks Kafka about the offsets of commands that no unit has read: there must be no record at any of them."""
    kafka = RealKafka(settings.kafka_bootstrap)
    offender: dict[str, Any] | None = None
    try:
        await kafka.start()
        for partition, first, last in holes:
            topic = TopicPartition(topics.COMMANDS.name, partition)
            async for records in kafka.read(topic, first, last + 1):
                for record in records:
                    offender = offender or {"partition": partition, "offset": record.offset, "key": record.key}
    except KafkaError as error:
        offender = {"kafka": settings.kafka_bootstrap, "could_not_check": repr(error)}
    finally:
        await kafka.stop()
    count = sum(last - first + 1 for _, first, last in holes)
    return Check("holes_are_empty", "Offsets that no unit has read hold no command.", count, "offsets", offender)


async def _digest(dsn: str) -> str:
    connection = await connect(dsn, READER, command_timeout_s=None)
    try:
        return await digest_of(connection)
    finally:
        await connection.close(timeout=5)


async def _checkpoint(dsn: str, entries: int) -> int:
    connection = await connect(dsn, WRITER, command_timeout_s=None)
    try:
        return await checkpoints.write_due(connection, entries)
    finally:
        await connection.close(timeout=5)


def _as_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "good": check.good,
        "holds": check.holds,
        "checked": check.checked,
        "things": check.things,
        "offender": check.offender,
    }
