"""All that can be seen of a ledger at rest: its topics, its rows, and what its clients noted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import asyncpg
import msgspec
import orjson

import topics
from aura_stream.engine.driver import LogRecord
from aura_stream.journal import DECODE, AccountLine, AnswerLine, ChangeLine, Line, TransactionLine, UnitRecord
from tests.e2e.client import Client
from tests.engine.check import read_topic

Log = dict[int, list[LogRecord]]
Row = dict[str, Any]
Answer = TransactionLine | ChangeLine | AccountLine | AnswerLine
TABLES = ("entries", "journals", "transactions", "accounts", "refusals", "units", "sink_offsets")
ORDER = {"entries": "journal_id, leg", "journals": "journal_id", "units": "partition, seq"}


@dataclass
class Snapshot:
    """Topics by partition, rows by table, the state as the changelog has it, and the client's journal."""

    partitions: int
    commands: Log
    signals: Log
    journal: Log
    events: Log
    dead_letters: Log
    state: dict[int, dict[bytes, bytes]]  # the changelog, folded
    tables: dict[str, list[Row]]
    client: Client

    def __getattr__(self, name: str) -> list[Row]:
        # The rows of a table by its name.
        if name in TABLES:
            return self.tables[name]
        raise AttributeError(name)

    @cached_property
    def units(self) -> dict[int, list[UnitRecord]]:
        """The journal's records, decoded."""
        return {p: [DECODE(record.value or b"") for record in log] for p, log in self.journal.items()}

    @cached_property
    def lines(self) -> list[tuple[int, UnitRecord, Line]]:
        """All lines of the journal: partition, record, line."""
        return [(p, unit, line) for p, units in self.units.items() for unit in units for line in unit.lines]

    @cached_property
    def answers(self) -> dict[int, list[Answer]]:
        """The answers to the commands of each partition, in order."""
        found: dict[int, list[Answer]] = {p: [] for p in self.journal}
        for partition, _, line in self.lines:
            if isinstance(line, TransactionLine | ChangeLine) and not line.command_id:
                continue
            if isinstance(line, TransactionLine | ChangeLine | AccountLine | AnswerLine):
                found[partition].append(line)
        return found

    @cached_property
    def transactions(self) -> dict[str, Row]:
        """The rows of `ledger.transactions` by id."""
        return {str(row["transaction_id"]): row for row in self.tables["transactions"]}

    @cached_property
    def of_keys(self) -> set[str]:
        """What the minters' keys got and paid on the chain: told by their lanes, wanted by no client."""
        return {id_ for id_, row in self.transactions.items() if row["type"] == "gas"}


@dataclass
class Remembered:
    """What was there when the ledger was last looked at: it must still be there, unaltered."""

    entries: dict[tuple[int, int], Row] = field(default_factory=dict)
    statuses: dict[str, tuple[int, str]] = field(default_factory=dict)


async def take(
    bootstrap: str, connection: asyncpg.Connection[asyncpg.Record], client: Client, *, partitions: int
) -> Snapshot:
    """Reads everything. The ledger must be at rest, or the parts will not fit together."""
    names = (topics.COMMANDS, topics.SIGNALS, topics.JOURNAL, topics.TRANSACTION_EVENTS, topics.DEAD_LETTERS)
    logs = await asyncio.gather(*(read_topic(bootstrap, topic.name) for topic in (*names, topics.CHANGELOG)))
    commands, signals, journal, events, dead_letters, changelog = (
        {p: [_record(one) for one in records] for p, records in log.items()} for log in logs
    )
    return Snapshot(
        partitions,
        commands,
        signals,
        journal,
        events,
        dead_letters,
        {p: fold(records) for p, records in changelog.items()},
        await rows(connection),
        client,
    )


async def rows(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, list[Row]]:
    """All rows of all tables, on one snapshot of the database."""
    await connection.set_type_codec("jsonb", encoder=_text, decoder=orjson.loads, schema="pg_catalog")
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return {
            table: [
                dict(row)
                for row in await connection.fetch(
                    f"SELECT * FROM ledger.{table} {f'ORDER BY {ORDER[table]}' if table in ORDER else ''}"
                )
            ]
            for table in TABLES
        }


def _text(value: object) -> str:
    return orjson.dumps(value).decode()


def fold(records: list[LogRecord]) -> dict[bytes, bytes]:
    """The last value of every key."""
    state: dict[bytes, bytes] = {}
    for record in records:
        assert record.key is not None
        if record.value is None:
            state.pop(record.key, None)
        else:
            state[record.key] = record.value
    return state


def table_of(state: Mapping[bytes, bytes], prefix: bytes, type_: type[Any]) -> dict[bytes, Any]:
    """One table of the state, decoded."""
    decode = msgspec.json.Decoder(type_).decode
    return {key[1:]: decode(value) for key, value in state.items() if key[:1] == prefix}


def _record(record: Any) -> LogRecord:
    return LogRecord(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple(record.headers),
    )
