"""``aura ledger``: prove the ledger, print its digest and the heads of its chain, write its checkpoints."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

import topics
from aura_stream.cli import CHECK_FAILED, emit, paint, say
from aura_stream.cli.db import run
from aura_stream.cli.topics import kafka_errors
from aura_stream.engine.kafka import RealKafka
from aura_stream.ledger import chain_walk, checkpoints
from aura_stream.ledger.chain import Head, decode_head, encode_head
from aura_stream.ledger.connection import READER, WRITER, connect
from aura_stream.ledger.migrations import check_assets
from aura_stream.ledger.verify import Check, command_holes
from aura_stream.ledger.verify import digest as digest_of
from aura_stream.ledger.verify import verify as checks_of
from aura_stream.settings import Settings, SetupError, load_settings

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
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Compare local tables, changelog, journal and Postgres too; traffic may go on."),
    ] = False,
    heads: Annotated[
        str,
        typer.Option(
            "--heads", help="Compare the chain with heads kept outside: a file of `aura ledger heads`, or `topic`."
        ),
    ] = "",
) -> None:
    """Check everything that must never be true. Exit code 0: all good, 1: a check failed, 3: could not check."""
    settings = load_settings()
    dsn = dsn or settings.postgres_read_dsn
    kept = _read_heads(heads, settings) if heads else []
    results = run(_verify(dsn, settle, settings), "The ledger cannot be checked.")
    if heads:
        results.append(run(_compare_heads(dsn, kept, heads), "The ledger cannot be checked."))
    if deep:
        results += _deep(settings.model_copy(update={"postgres_read_dsn": dsn}), settle)
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


@app.command("heads")
def heads_(
    dsn: DsnOption = "",
    database: Annotated[
        bool, typer.Option("--database", help="Where the chain stands in Postgres now, instead of what was published.")
    ] = False,
) -> None:
    """Print the heads of the hash chain, one JSON object per line: append them to a file that you keep elsewhere.

    Without --database they are those that the sinks have published in Kafka.
    """
    settings = load_settings()
    found = (
        run(_database_heads(dsn or settings.postgres_read_dsn), "The ledger cannot be read.")
        if database
        else _read_heads("topic", settings)
    )
    for head in found:
        print(encode_head(head).decode())


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
        chain = next(check for check in results if check.name == "chain_holds")
        if chain.offender is not None and "seq" in chain.offender:
            row = await _row_of(chain.offender, connection, settings)
            named = replace(chain, offender={**chain.offender, "row": row})
            results = [named if check is chain else check for check in results]
    finally:
        await connection.close(timeout=5)
    if holes:
        results.append(await _holes_are_empty(holes, settings))
    return results


async def _row_of(offender: dict[str, Any], connection: Any, settings: Settings) -> Any:
    """The very row that breaks the chain, by comparison with the journal record in Kafka."""
    from agents.deep import name_row

    kafka = RealKafka(settings.kafka)
    try:
        await kafka.start()
        return await name_row(kafka, connection, offender["partition"], offender["seq"])
    except KafkaError as error:
        return {"could_not_ask_kafka": repr(error)}
    finally:
        await kafka.stop()


def _deep(settings: Settings, settle_s: float) -> list[Check]:
    from agents.deep import Behind, deep

    try:
        with kafka_errors(settings):
            return run(deep(settings, settle_s), "The ledger cannot be checked.")
    except Behind as error:
        raise SetupError(
            "The ledger cannot be compared at the same unit.",
            where="aura ledger verify --deep",
            why=str(error),
            fix="start a sink: aura worker sink; or give it longer: --settle",
        ) from None


def _read_heads(source: str, settings: Settings) -> list[Head]:
    """Heads from a file or, for `topic`, from Kafka."""
    try:
        if source == "topic":
            with kafka_errors(settings):
                return asyncio.run(_topic_heads(settings))
        lines = Path(source).read_text(encoding="utf-8").splitlines()
        return [decode_head(line) for line in lines if line.strip()]
    except (FileNotFoundError, IsADirectoryError, PermissionError, ValueError) as error:
        raise typer.BadParameter(f"{source} is no file of heads: {error}", param_hint="--heads") from None


async def _topic_heads(settings: Settings) -> list[Head]:
    from agents.deep import published_heads

    kafka = RealKafka(settings.kafka)
    try:
        await kafka.start()
        return await published_heads(kafka, settings.partitions)
    finally:
        await kafka.stop()


async def _database_heads(dsn: str) -> list[Head]:
    connection = await connect(dsn, READER, command_timeout_s=None)
    try:
        return await chain_walk.heads(connection)
    finally:
        await connection.close(timeout=5)


async def _compare_heads(dsn: str, kept: list[Head], source: str) -> Check:
    connection = await connect(dsn, READER, command_timeout_s=None)
    try:
        count, offender = await chain_walk.compare_heads(connection, kept)
    finally:
        await connection.close(timeout=5)
    return Check("heads_hold", f"The chain has every head kept in {source}.", count, "heads", offender)


async def _holes_are_empty(holes: list[tuple[int, int, int]], settings: Settings) -> Check:
    """Asks Kafka about the offsets of commands that no unit has read: there must be no record at any of them."""
    kafka = RealKafka(settings.kafka)
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
