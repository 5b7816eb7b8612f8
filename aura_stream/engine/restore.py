"""Bringing a local store up to the end of its changelog, or refusing to when the end cannot be trusted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from aiokafka import TopicPartition

from aura_stream.engine.errors import DataLost
from aura_stream.engine.kafka import Kafka
from aura_stream.engine.store import Store
from aura_stream.engine.transactions import TRANSACTION_TIMEOUT_MS
from aura_stream.engine.unit import STATE_KEY, ShardState

POSITION_KEY = b"\xff"  # local only: where in the changelog this store stands
HANGING_S = TRANSACTION_TIMEOUT_MS / 1000 + 15
_TAIL = 8  # offsets at the end of the journal that are looked at first; more, when all are marks of transactions


class Position(msgspec.Struct, frozen=True):
    """Where a store stands: the next changelog offset to read, and when it was last written (ms since 1970)."""

    offset: int
    written_at: int


class _Numbered(msgspec.Struct, frozen=True):
    seq: int


_numbered = msgspec.json.Decoder(_Numbered).decode


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def encode_position(offset: int, now_ms: int) -> bytes:
    """The record kept under POSITION_KEY, written in the same batch as the data it speaks of."""
    return msgspec.json.encode(Position(offset, now_ms))


def read_position(store: Store) -> Position:
    """Where the store stands; a new one at offset 0."""
    kept = store.get(POSITION_KEY)
    return msgspec.json.decode(kept, type=Position) if kept is not None else Position(0, 0)


async def settled_end(kafka: Kafka, partition: TopicPartition) -> int:
    """The end of a partition in which no transaction is open.

    An open transaction of a stranger hides committed records behind it; a restore that ended there would forget
    them. Waits for it to end, and raises :class:`DataLost` when it does not. Transactions that come and go are those of
    another owner: then ours is over, and the group will say so.
    """
    now = asyncio.get_running_loop().time
    open_at, since = -1, 0.0
    while True:
        committed = (await kafka.committed_ends([partition]))[partition]
        end = (await kafka.ends([partition]))[partition]
        if committed == end:
            return end
        if committed != open_at:
            open_at, since = committed, now()
        elif now() - since > HANGING_S:
            raise DataLost(
                f"{partition.topic}[{partition.partition}]: a transaction has been open at offset {committed} for "
                f"over {HANGING_S:.0f} s and hides {end - committed} records. "
                "Find it with: kafka-transactions.sh find-hanging"
            )
        await asyncio.sleep(0.05)


async def restore(store: Store, changelog: TopicPartition, kafka: Kafka, now_ms: Callable[[], int] = wall_clock) -> int:
    """Reads the changelog from the store's position to its settled end; returns how many records that were.

    Must be called after the owner's producer has fenced all others. Raises :class:`DataLost` when the changelog does
    not reach the store's position, or holds an older state than the store.
    """
    position = read_position(store)
    end = await settled_end(kafka, changelog)
    start = (await kafka.starts([changelog]))[changelog]
    if position.offset > end:
        raise DataLost(
            f"{changelog.topic}[{changelog.partition}] ends at {end}, but the local store has read it up to "
            f"{position.offset}: the topic was truncated or recreated. If it is the right one, delete the local store; "
            "it is restored from the topic."
        )
    at = position.offset
    if start > at:
        raise DataLost(
            f"{changelog.topic}[{changelog.partition}] begins at {start}, but this store has read it only up to {at}: "
            "records were deleted. Stop all workers, empty it and write it anew: aura rebuild changelog."
        )
    if at == end:
        return 0
    before = _seq(store)
    count = 0
    async for records in kafka.read(changelog, at, end):
        changes = [(record.key or b"", record.value) for record in records]
        if changes:
            store.write([*changes, (POSITION_KEY, encode_position(records[-1].offset + 1, now_ms()))])
        count += len(records)
    store.write([(POSITION_KEY, encode_position(end, now_ms()))])
    if _seq(store) < before:
        raise DataLost(
            f"{changelog.topic}[{changelog.partition}] holds an older state (seq {_seq(store)}) than the local store "
            f"had ({before}): it is another topic of the same name."
        )
    return count


async def journal_seq(journal: TopicPartition, kafka: Kafka) -> int:
    """The seq of the last committed record of a partition's journal; 0 of an empty one."""
    start = (await kafka.starts([journal]))[journal]
    end = (await kafka.committed_ends([journal]))[journal]
    back = _TAIL
    while True:
        last = 0
        async for records in kafka.read(journal, max(start, end - back), end):
            if records:
                last = _numbered(records[-1].value or b"").seq
        if last or end - back <= start:
            return last
        back *= 8


async def check_journal(store: Store, before: int, journal: TopicPartition, kafka: Kafka) -> None:
    """The restored state must be that of the journal's last record: one transaction writes both.

    A changelog that was lost, or has lost its end, would let decided commands be decided anew. `before` is
    :func:`journal_seq` from before the restore: what was in the journal then must be in the state, and what is in the
    state must be in the journal now, whatever another owner has written meanwhile. Raises :class:`DataLost`.
    """
    restored = _seq(store)
    if restored < before:
        raise DataLost(
            f"{journal.topic}[{journal.partition}] has a record with seq {before}, but the state restored from the "
            f"changelog is that of seq {restored}: the changelog was lost, or has lost its end. Stop all workers, "
            "empty it and write it anew: aura rebuild changelog."
        )
    if restored > before:
        await settled_end(kafka, journal)
        now = await journal_seq(journal, kafka)
        if restored > now:
            raise DataLost(
                f"{journal.topic}[{journal.partition}] ends with seq {now}, but the state restored from the changelog "
                f"is that of seq {restored}: the journal was lost, or has lost its end. Bring it back."
            )


def _seq(store: Store) -> int:
    kept = store.get(STATE_KEY)
    return msgspec.json.decode(kept, type=ShardState).seq if kept is not None else 0
