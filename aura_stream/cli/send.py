"""``aura send``: one command straight to Kafka, as any producer would send it; checked first."""

from __future__ import annotations

import asyncio
import json as json_module
import logging
import time
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from aura_stream.brokers import client_options
from aura_stream.cli import CHECK_FAILED, USAGE, emit, say
from aura_stream.domain.commands import COMMAND_TYPES, Command, parse_command
from aura_stream.domain.ids import record_key
from aura_stream.domain.reasons import REASONS, Invalid
from aura_stream.engine.partitioner import Partitioner
from aura_stream.journal import DECODE, AccountLine, AnswerLine, ChangeLine, ClockLine, PauseLine, TransactionLine
from aura_stream.settings import Settings, SetupError, load_settings

TIMEOUT_S = 10.0


def send(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help=f"One of: {', '.join(COMMAND_TYPES)}.")],
    customer: Annotated[str, typer.Option("--customer", "-c", help="The customer whose command it is.")],
    data: Annotated[str, typer.Option("--data", "-d", help="The command's data as JSON.")],
    tenant: Annotated[str, typer.Option(help="The tenant.")] = "default",
    key: Annotated[str, typer.Option(help="Idempotency key; default: a new UUID.")] = "",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the outcome; 0: only until Kafka has it.")] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send one command to Kafka. Exit code: 0 done or durable, 1 refused, 2 no command, 3 Kafka away or no outcome."""
    from web.commands import check, subject_of

    envelope = {
        "id": str(uuid.uuid4()),
        "type": type_,
        "tenant": tenant,
        "customer": customer,
        "idempotency_key": key or str(uuid.uuid4()),
        "issued_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": _data(data),
    }
    value = orjson.dumps(envelope)
    try:
        command = parse_command(value)
        check(command, time.time_ns() // 1_000_000)
    except Invalid as error:
        say(f"error: This is not a command: {error.reason}.")
        say(f"  where: {error.pointer or 'the whole message'}")
        say(f"  why: {error.detail}")
        say(f"  fix: {REASONS[error.reason].hint}")
        raise typer.Exit(USAGE) from None
    settings = load_settings()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it says of a broker that is away, we say better
    sent, outcome = asyncio.run(_send(settings, command, value, wait))
    kind = command.type.partition(".")[0]
    subject = {"account": "account_id", "pause": "pause_id", "clock": "clock"}.get(kind, "transaction_id")
    result = {"command_id": command.id, "idempotency_key": command.idempotency_key, subject: subject_of(command)} | sent
    if outcome is not None:
        result["outcome"] = outcome
    if json:
        emit(result)
    else:
        for name, shown in result.items():
            print(f"{name:<16} {shown if not isinstance(shown, dict) else json_module.dumps(shown)}")
    if outcome is None and wait:
        see = f" See: aura tx watch {subject_of(command)}" if subject == "transaction_id" else ""
        say(f"There was no outcome within {wait:g} s; the command is durable.{see}")
        raise typer.Exit(3)
    if outcome is not None and (outcome["status"] == "failed" or outcome["answer"] in ("refused", "dead_letter")):
        raise typer.Exit(CHECK_FAILED)


def _data(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"--data is not JSON: {error}") from None


async def _send(
    settings: Settings, command: Command, value: bytes, wait_s: float
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    key = record_key(command.tenant, command.customer)
    partition = Partitioner(settings.partitions)(key)
    try:
        async with asyncio.timeout(TIMEOUT_S + wait_s):
            listener = await _listener(settings, partition) if wait_s else None
            try:
                producer = AIOKafkaProducer(**client_options(settings.kafka), acks="all", enable_idempotence=True)
                try:
                    await producer.start()
                    metadata = await producer.send_and_wait(_topic("commands"), value, key)
                finally:
                    await producer.stop()
                sent = {"partition": metadata.partition, "offset": metadata.offset}
                outcome = await _outcome(listener, command.id, wait_s) if listener is not None else None
                return sent, outcome
            finally:
                if listener is not None:
                    await listener.stop()
    except (KafkaError, OSError, TimeoutError) as error:
        raise SetupError(
            "The command was not acknowledged.",
            where=f"Kafka at {settings.kafka_bootstrap}",
            why=str(error) or type(error).__name__,
            fix=f"start Kafka (`aura up`), then send again with --key {command.idempotency_key} (safe to repeat)",
        ) from error


def _topic(kind: str) -> str:
    import topics

    return topics.COMMANDS.name if kind == "commands" else topics.JOURNAL.name


async def _listener(settings: Settings, partition: int) -> AIOKafkaConsumer:
    """A reader of the partition's journal from its present end: begun before the command is sent."""
    consumer = AIOKafkaConsumer(
        **client_options(settings.kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
    )
    try:
        await consumer.start()
    except BaseException:
        await consumer.stop()
        raise
    place = TopicPartition(_topic("journal"), partition)
    consumer.assign([place])
    consumer.seek(place, (await consumer.end_offsets([place]))[place])
    return consumer


async def _outcome(listener: AIOKafkaConsumer, command_id: str, wait_s: float) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(wait_s):
            async for record in listener:
                for line in DECODE(record.value).lines:
                    if getattr(line, "command_id", "") == command_id:
                        return _shown(line)
    except TimeoutError:
        pass
    return None


def _shown(line: Any) -> dict[str, Any]:
    shown = {"answer": "new", "status": line.status}
    if isinstance(line, AnswerLine):
        shown = {"answer": line.kind, "status": line.status}
    if isinstance(line, TransactionLine | ChangeLine | AnswerLine) and line.state:
        shown["state"] = line.state
    if not isinstance(line, AccountLine | PauseLine | ClockLine) and line.reason:
        shown["reason"] = line.reason
    if isinstance(line, AnswerLine) and line.detail:
        shown["detail"] = line.detail
    return shown
