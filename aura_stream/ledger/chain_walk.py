"""Walking along the hash chain (`chain.py`): checking it from the rows, sealing old units, naming what was changed."""

from __future__ import annotations

import struct
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain as chained
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aura_stream.journal import JOURNALS_PER_PARTITION
from aura_stream.ledger import copy
from aura_stream.ledger.chain import COUNTERS, GENESIS, Head, seal, unit_line
from aura_stream.ledger.rows import COPY_COLUMNS, Batch

if TYPE_CHECKING:
    import asyncpg

    from aura_stream.ledger.connection import Connection

CHUNK_UNITS: Final = 1000
CHUNK_ENTRIES: Final = 20_000
"""Units, and about how many of their entries, that are looked at together: bounds the memory of a walk."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """A row of ledger.units as the chain sees it. `line` is empty when the row makes no sense any more."""

    seq: int
    hash: bytes | None  # of its block, if it has one
    line: bytes
    journals: range  # the ids that its counters name


def _unit(row: asyncpg.Record) -> _Unit:
    try:
        counters = msgspec.json.decode(row["counters"])
        inputs = msgspec.json.encode(msgspec.json.decode(row["inputs"])).decode()
        base = row["partition"] * JOURNALS_PER_PARTITION
        ids = range(base + counters["first_journal"], base + counters["last_journal"] + 1)
        at, rest = divmod(row["at"], 1000)  # the journal knows whole milliseconds
        line = b"" if rest else unit_line(row["partition"], row["seq"], at, row["last"], inputs, _ordered(counters))
    except (KeyError, TypeError, ValueError):
        return _Unit(row["seq"], row["hash"], b"", range(0))
    return _Unit(row["seq"], row["hash"], line, ids)


@dataclass(slots=True)
class Walk:
    """What a walk along the chain of one partition has seen: counts, where it stands, what broke it if anything did."""

    partition: int
    units: int = 0
    journals: int = 0
    entries: int = 0
    head: Head | None = None
    offender: dict[str, Any] | None = None


async def walk(connection: Connection, partition: int) -> Walk:
    """Computes the chain of a partition anew from its rows and compares it with the blocks; ends at the first fault.

    To be called inside one snapshot.
    """
    found = Walk(partition)
    head, seq = GENESIS, 0
    end = partition * JOURNALS_PER_PARTITION  # the last journal so far

    def broken(what: str, **more: Any) -> Walk:
        found.offender = {"partition": partition, "seq": seq + 1, "what": what, **more}
        return found

    async for units in _chunks(connection, partition):
        until = max(end, *[unit.journals.stop - 1 for unit in units])
        journals, entries = await _rows_of(connection, end + 1, until)
        for unit in units:
            if unit.seq != seq + 1:
                return broken("the unit is not there")
            if not unit.line:
                return broken("the unit's row was changed")
            its_journals, its_entries = journals.until(unit.journals.stop), entries.until(unit.journals.stop)
            computed = seal(head, unit.line, its_journals, its_entries)
            if computed != unit.hash:
                return broken(
                    "the unit's rows were changed" if unit.hash else "the unit has no block",
                    journals=[unit.journals.start, unit.journals.stop - 1],
                    journals_here=len(its_journals),
                    hash=computed.hex(),
                    block=unit.hash.hex() if unit.hash else None,
                )
            head, seq = computed, unit.seq
            found.units += 1
            found.journals += len(its_journals)
            found.entries += len(its_entries)
            found.head = Head(partition, seq, head)
        end = max(end, units[-1].journals.stop - 1)
    last = await connection.fetchval(
        """SELECT greatest((SELECT max(seq) FROM ledger.chain_blocks WHERE partition = $1),
            (SELECT last_seq FROM ledger.sink_offsets WHERE partition = $1), 0)""",
        partition,
    )
    if last != seq:
        return broken(f"units up to {last} were written and are not there")
    if (row := await connection.fetchrow(_BEYOND, end, partition)) is not None:
        return broken("rows that no unit has booked", **dict(row))
    return found


_BEYOND: Final = """
SELECT journal_id, NULL::smallint AS leg FROM ledger.journals
WHERE journal_id > $1 AND journal_id < ($2::bigint + 1) << 48
UNION ALL
SELECT journal_id, leg FROM ledger.entries WHERE journal_id > $1 AND journal_id < ($2::bigint + 1) << 48
ORDER BY 1, 2 NULLS FIRST LIMIT 1
"""


async def stray(connection: Connection, partitions: Sequence[int]) -> dict[str, Any] | None:
    """The first journal or entry whose id belongs to none of the partitions that have a chain."""
    row = await connection.fetchrow(
        """SELECT journal_id, 'journals' AS "table" FROM ledger.journals WHERE NOT (journal_id >> 48 = ANY ($1))
        UNION ALL SELECT journal_id, 'entries' FROM ledger.entries WHERE NOT (journal_id >> 48 = ANY ($1))
        ORDER BY 1 LIMIT 1""",
        list(partitions),
    )
    return None if row is None else {"what": "rows of a partition that has no units", **dict(row)}


async def partitions_of(connection: Connection) -> list[int]:
    """Partitions that have units or blocks."""
    rows = await connection.fetch(
        """SELECT partition FROM ledger.sink_offsets UNION SELECT DISTINCT partition FROM ledger.units
        UNION SELECT DISTINCT partition FROM ledger.chain_blocks ORDER BY 1"""
    )
    return [row["partition"] for row in rows]


async def heads(connection: Connection, partition: int | None = None) -> list[Head]:
    """The last block of every partition, or of one."""
    rows = await connection.fetch(
        """SELECT DISTINCT ON (partition) partition, seq, hash FROM ledger.chain_blocks
        WHERE partition = coalesce($1, partition) ORDER BY partition, seq DESC""",
        partition,
    )
    return [Head(*row) for row in rows]


async def hash_at(connection: Connection, partition: int, seq: int) -> bytes | None:
    """The hash of a unit's block, if it is there."""
    found: bytes | None = await connection.fetchval(
        "SELECT hash FROM ledger.chain_blocks WHERE partition = $1 AND seq = $2", partition, seq
    )
    return found


async def compare_heads(connection: Connection, published: Iterable[Head]) -> tuple[int, dict[str, Any] | None]:
    """Holds heads that were kept outside against the blocks here: how many, and the first that differs.

    The offender says between which two heads of its partition the chain was rewritten.
    """
    kept = sorted(set(published))
    agreed: dict[int, int] = {}
    for head in kept:
        here = await hash_at(connection, head.partition, head.seq)
        if here != head.hash:
            return len(kept), {
                "partition": head.partition,
                "seq": head.seq,
                "what": "the block is not there" if here is None else "the chain was rewritten",
                "rewritten_after_seq": agreed.get(head.partition, 0),
                "published": head.hash.hex(),
                "here": here.hex() if here else None,
            }
        agreed[head.partition] = head.seq
    return len(kept), None


# --- sealing what an older program has written -----------------------------------------------------------------------

_SEAL: Final = """
INSERT INTO ledger.chain_blocks (partition, seq, hash)
SELECT $1, b.seq, b.hash FROM unnest($3::bigint[], $4::bytea[]) AS b (seq, hash)
WHERE EXISTS (SELECT FROM ledger.sink_offsets o WHERE o.partition = $1 AND o.epoch = $2 FOR SHARE)
"""


async def seal_missing(connection: Connection, partition: int, epoch: int, head: Head | None) -> Head | None:
    """Seals, from their rows, the units that have no block because an older program wrote them; the new head.

    `epoch` is that of the claim: another owner's later claim lets nothing be written any more.
    """
    hash_, seq = (head.hash, head.seq) if head else (GENESIS, 0)
    async for units in _chunks(connection, partition, seq):
        journals, entries = await _rows_of(connection, units[0].journals.start, units[-1].journals.stop - 1)
        hashes: list[bytes] = []
        for unit in units:
            stop = unit.journals.stop
            hash_ = seal(hash_, unit.line, journals.until(stop), entries.until(stop))
            hashes.append(hash_)
        await connection.execute(_SEAL, partition, epoch, [unit.seq for unit in units], hashes)
        head = Head(partition, units[-1].seq, hash_)
    return head


_Keyed = dict[tuple[bytes, ...], bytes]

# --- naming the row --------------------------------------------------------------------------------------------------


async def compare_unit(connection: Connection, batch: Batch) -> dict[str, Any] | None:
    """The first difference between one unit's rows and those that its journal record makes (`batch`), or None.

    Names table, key, what happened (altered, missing, added, reordered) and, where it was altered, each column with
    its value here and in the journal.
    """
    seq, partition = batch.last_seq, batch.partition
    where = {"partition": partition, "seq": seq}
    row = await connection.fetchrow(f"{_UNITS} AND u.seq = $2", partition, seq)
    if row is None:
        return where | {"table": "units", "what": "missing"}
    unit, wanted = _unit(row), batch.unit_lines[-1]
    if unit.line != wanted:
        here = unit.line.decode() or f"{row['inputs']} {row['counters']}"
        return where | {"table": "units", "what": "altered", "here": here, "in_the_journal": wanted.decode()}
    bounds = unit.journals.start, unit.journals.stop - 1
    for table, expected, keys in (("journals", batch.journals, 1), ("entries", batch.entries, 2)):
        there = {_key(made, keys): made for made in expected}
        copied = await _copied(connection, table, *bounds)
        found_rows = {_key(raw, keys): raw for raw in _rows(copied)}
        if found_rows == there:
            continue
        return where | {"table": table} | _first_difference(COPY_COLUMNS[table], found_rows, there)
    return None


def _first_difference(columns: Sequence[str], here: _Keyed, there: _Keyed) -> dict[str, Any]:
    key = min(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    found = {name: _value(raw, name) for name, raw in zip(columns, key, strict=False)}
    if key not in here:
        return found | {"what": "missing"}
    if key not in there:
        return found | {"what": "added"}
    same_rows = sorted(_fields(raw)[1:] for raw in here.values()) == sorted(_fields(raw)[1:] for raw in there.values())
    pairs = zip(columns, _fields(here[key]), _fields(there[key]), strict=True)
    changed = {
        name: {"here": _value(is_, name), "in_the_journal": _value(was, name)} for name, is_, was in pairs if is_ != was
    }
    return found | {"what": "reordered" if same_rows else "altered", "columns": changed}


# --- rows as COPY gives them -----------------------------------------------------------------------------------------

_UNITS: Final = """
SELECT u.partition, u.seq, (extract(epoch FROM u.at) * 1000000)::bigint AS at, u.last, u.inputs::text AS inputs,
    u.counters::text AS counters, b.hash
FROM ledger.units u LEFT JOIN ledger.chain_blocks b ON b.partition = u.partition AND b.seq = u.seq
WHERE u.partition = $1
"""
_COPY: Final = """
SELECT {columns} FROM ledger.{table} WHERE journal_id BETWEEN {first} AND {last} ORDER BY {order}
"""
_ORDER: Final = {"journals": "journal_id", "entries": "journal_id, leg"}
_int2 = struct.Struct(">h").unpack_from
_int4 = struct.Struct(">i").unpack_from
_int8 = struct.Struct(">q").unpack_from


async def _chunks(connection: Connection, partition: int, after: int = 0) -> AsyncIterator[list[_Unit]]:
    while True:
        rows = await connection.fetch(f"{_UNITS} AND u.seq > $2 ORDER BY u.seq LIMIT {CHUNK_UNITS}", partition, after)
        if not rows:
            return
        chunk: list[_Unit] = []
        size = 0
        for unit in map(_unit, rows):
            chunk.append(unit)
            size += len(unit.journals) * 2
            if size >= CHUNK_ENTRIES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk
        after = rows[-1]["seq"]


async def _rows_of(connection: Connection, first: int, last: int) -> tuple[_Rows, _Rows]:
    """Journals and entries with these ids."""
    return (
        _Rows(await _copied(connection, "journals", first, last)),
        _Rows(await _copied(connection, "entries", first, last)),
    )


async def _copied(connection: Connection, table: str, first: int, last: int) -> bytes:
    """The rows of a table with these journal ids, in COPY's binary format, without its frame."""
    chunks: list[bytes] = []

    async def feed(chunk: bytes) -> None:
        chunks.append(chunk)

    query = _COPY.format(
        columns=", ".join(COPY_COLUMNS[table]), table=table, first=first, last=last, order=_ORDER[table]
    )
    await connection.copy_from_query(query, output=feed, format="binary")
    return b"".join(chunks)[len(copy.HEADER) : -len(copy.TRAILER)]


def _rows(data: bytes) -> Iterator[bytes]:
    """The rows of :func:`_copied`, one by one."""
    at, end = 0, len(data)
    while at < end:
        start = at
        (count,) = _int2(data, at)
        at += 2
        for _ in range(count):
            (length,) = _int4(data, at)
            at += 4 + length if length > 0 else 4
        yield data[start:at]


class _Rows:
    """Rows in the order of their journal ids, taken unit by unit."""

    def __init__(self, data: bytes) -> None:
        self._rows = _rows(data)
        self._ahead: bytes | None = next(self._rows, None)

    def until(self, stop: int) -> list[bytes]:
        """The next rows whose journal id is below `stop`."""
        taken: list[bytes] = []
        while self._ahead is not None and _int8(self._ahead, 6)[0] < stop:
            taken.append(self._ahead)
            self._ahead = next(self._rows, None)
        return taken


def _fields(row: bytes) -> tuple[bytes, ...]:
    found: list[bytes] = []
    at = 2
    while at < len(row):
        (length,) = _int4(row, at)
        at += 4
        found.append(row[at : at + max(length, 0)])
        at += max(length, 0)
    return tuple(found)


def _key(row: bytes, count: int) -> tuple[bytes, ...]:
    return _fields(row)[:count]


_NUMBERS: Final = frozenset({"journal_id", "partition", "leg", "leg_count", "journal_seq"})
_TIMES: Final = frozenset({"effective_at", "posted_at"})


def _value(raw: bytes, column: str) -> Any:
    """A field for people."""
    if column in _NUMBERS:
        return int.from_bytes(raw, "big", signed=True)
    if column in _TIMES:
        return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=int.from_bytes(raw, "big", signed=True))
    if column == "transaction_id":
        return str(uuid.UUID(bytes=raw))
    if column == "amount":
        count, weight, sign, _ = struct.unpack_from(">HhHH", raw)
        groups = struct.unpack_from(f">{count}H", raw, 8)
        value = sum(group * 10_000 ** (weight - place) for place, group in enumerate(groups))
        return str(-value if sign else value)
    return raw.decode(errors="replace")


def _ordered(counters: Mapping[str, Any]) -> str:
    """Counters in the order of the writer; what else is in them, or missing, makes another text."""
    names = chained((name for name in COUNTERS if name in counters), sorted(counters.keys() - set(COUNTERS)))
    return msgspec.json.encode({name: counters[name] for name in names}).decode()
