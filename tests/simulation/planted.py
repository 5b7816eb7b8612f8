"""Bugs that the simulator must find: each is put into the product for a while, and taken out again.

A checker that passes with one of them planted is itself broken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from unittest import mock

from agents import ledger
from agents.sink import SinkPartition
from agents.worker import NAMES
from aura_stream.domain import assets, ids, requests
from aura_stream.domain.signals import Credit
from aura_stream.engine import feed, shard
from aura_stream.engine.errors import Fenced
from aura_stream.engine.partition import Fetched, Partition
from aura_stream.engine.producer import TransactionalProducer
from aura_stream.engine.shard import Shard
from aura_stream.engine.transport import Consumer
from aura_stream.engine.unit import Memory, Record, Unit
from aura_stream.ledger import writer
from aura_stream.ledger.writer import LedgerWriter, Unavailable
from tests.simulation.loop import PROCESS

Patch = contextlib.AbstractContextManager[Any]
FENCE: Final = " AND o.next_offset = w.next_offset AND o.epoch = w.epoch AND o.last_seq = w.last_seq"


def _applied_twice() -> Patch:
    """What is applied is not skipped when it is delivered again."""
    take = Memory._take

    def taking(self: Memory, unit: Unit, record: Record, fire: bool) -> bool:
        self.applied.pop("commands" if record.topic == NAMES.commands else "signals", None)
        return take(self, unit, record, fire)

    return mock.patch.object(Memory, "_take", taking)


def _store_before_commit() -> Patch:
    """The state is adopted and the store written before the transaction commits."""
    messages = Shard._messages

    def adopting(self: Shard, finished: Any) -> Any:
        sent = messages(self, finished)
        self._adopt(finished, {})
        return sent

    return mock.patch.object(Shard, "_messages", adopting)


def _acknowledged_when_fetched() -> Patch:
    """Progress is what was taken from the inbox, not what is committed."""
    take, applied = Partition.take, Shard.applied

    def taking(self: Partition) -> list[Record]:
        batch = take(self)
        taken: dict[str, int] = self.__dict__.setdefault("taken", {})
        for record in batch:
            taken[record.topic] = record.offset
        return batch

    def acknowledged(self: Shard, topic: str) -> int:
        taken: dict[str, int] = self.__dict__.get("taken", {})
        return max(applied(self, topic), taken.get(topic, -1))

    async def reopened(self: Shard) -> None:
        """The batch in hand is not run again either: it counts as done."""
        await reopen(self)
        memory: Any = self._memory
        for topic, offset in self.__dict__.get("taken", {}).items():
            source = "commands" if topic == NAMES.commands else "signals"
            memory.state.applied[source] = max(memory.state.applied.get(source, -1), offset)

    reopen = Shard._reopen
    return _all(
        mock.patch.object(Partition, "take", taking),
        mock.patch.object(Shard, "applied", acknowledged),
        mock.patch.object(Shard, "_reopen", reopened),
    )


def _fenced_is_success() -> Patch:
    """Who is fenced goes on as if its unit were committed."""
    commit = TransactionalProducer.commit

    async def committing(self: TransactionalProducer, batches: Any) -> dict[tuple[str, int], int]:
        try:
            return await commit(self, batches)
        except Fenced:
            return {}

    return mock.patch.object(TransactionalProducer, "commit", committing)


def _no_taint() -> Patch:
    """A producer that saw a failed request is kept."""
    never = property(lambda _: False, lambda _, __: None)
    return mock.patch.object(TransactionalProducer, "tainted", never, create=True)


def _tenant_left_out() -> Patch:
    """An idempotency key counts for all tenants."""
    derived_id = ids.derived_id
    return mock.patch.object(ledger, "derived_id", lambda _, customer, key: derived_id("default", customer, key))


def _float_amounts() -> Patch:
    """Amounts go through binary floating point."""

    def parse(text: str, asset: str) -> int:
        assets.parse_amount(text, asset)
        return int(float(text) * 10 ** assets.SCALES[asset])

    return mock.patch.object(requests, "parse_amount", parse)


def _lost_credit() -> Patch:
    """One credit in eight is never sent."""
    signal = Unit.signal

    def sending(self: Unit, key: bytes, value: Any) -> None:
        if not (isinstance(value, Credit) and value.transaction_id[0] in "07"):
            signal(self, key, value)

    return mock.patch.object(Unit, "signal", sending)


def _journal_outside() -> Patch:
    """The journal is written beside the transaction, before it commits."""
    messages = Shard._messages

    def writing(self: Shard, finished: Any) -> Any:
        kafka: Any = self.setup.kafka
        kept = []
        for message in messages(self, finished):
            if message[0] == NAMES.journal:
                kafka._broker.write((message[0], message[1]), [(message[2], message[3], ())])
            else:
                kept.append(message)
        return kept

    return mock.patch.object(Shard, "_messages", writing)


def _gaps_accepted() -> Patch:
    """Nobody looks whether a list follows the one before."""
    put = Partition.put

    def putting(self: Partition, fetched: Fetched, generation: int) -> int | None:
        self._reached[fetched.records[0].topic] = -1
        return put(self, fetched._replace(begin=-1), generation)

    return mock.patch.object(Partition, "put", putting)


def _dropped_when_paused() -> Patch:
    """What was fetched of a partition that is paused meanwhile is dropped."""
    lists = Consumer._lists

    def listing(self: Any, records: Any) -> Any:
        return [(tp, fetched) for tp, fetched in lists(self, records) if tp in self._active]

    return mock.patch.object(Consumer, "_lists", listing)


def _and_gaps(plant: Callable[[], Patch]) -> Callable[[], Patch]:
    """A bug that the partition would notice, and mend, if it looked."""

    @contextlib.contextmanager
    def both() -> Iterator[None]:
        with _gaps_accepted(), plant():
            yield

    return both


def _no_seek() -> Patch:
    """Nobody seeks to what is applied: neither after a rebalance nor after opening."""

    async def perform(self: Any) -> None:
        """The group's offsets will do."""

    async def start(self: feed.Feed, owner: Partition) -> None:
        self._resume(owner.number)

    return _all(mock.patch.object(Consumer, "perform_seek", perform), mock.patch.object(feed.Feed, "_start", start))


def _any_generation() -> Patch:
    """Lists that were fetched before a rebalance are handled after it."""
    put = Partition.put
    return mock.patch.object(Partition, "put", lambda self, fetched, _: put(self, fetched, self.generation))


def _without(condition: str) -> Callable[[], Patch]:
    def plant() -> Patch:
        assert condition in writer._FENCE
        return mock.patch.object(writer, "_FENCE", writer._FENCE.replace(condition, ""))

    return plant


def _sink_guesses(committed: bool) -> Callable[[], Patch]:
    """After a commit without an answer the sink takes it for done, or for not done, and does not look."""

    def plant() -> Patch:
        write = LedgerWriter.write
        unfenced = _without(FENCE)() if not committed else contextlib.nullcontext()  # with it nothing comes of this one

        async def writing(self: LedgerWriter, partition: int, records: Sequence[tuple[int, bytes]]) -> None:
            position = self._positions.get(partition)
            try:
                await write(self, partition, records)
            except Unavailable:
                if position is None:
                    raise
                self._positions[partition] = position
                if committed:
                    position.next_offset = records[-1][0] + 1
                    position.last_seq += len(records)
                    return
                await write(self, partition, records)

        return _all(unfenced, mock.patch.object(LedgerWriter, "write", writing))

    return plant


def _own_clock() -> Patch:
    """Decisions read the worker's clock."""
    run = Memory.run

    def running(self: Memory, batch: Sequence[Record], **rest: Any) -> tuple[Unit, int]:
        process = PROCESS.get()
        if process is not None and batch:
            self.state.at = max(self.state.at, process.clock())
        return run(self, batch, **rest)

    return mock.patch.object(Memory, "run", running)


def _sleeps_through_jumps() -> Patch:
    """A deadline is waited for on the monotonic clock alone."""
    return mock.patch.object(shard, "CLOCK_LOOK_S", 3600.0)


def _sink_starts_anywhere() -> Patch:
    """The sink goes on where its consumer happens to be, not where Postgres says."""
    return mock.patch.object(SinkPartition, "applied", lambda self, _: self._next_offset)


DRAWN: Final = ""  # each seed's own climate
CLOCKS: Final = "N24 clocks"
ZOMBIES: Final = "N04 zombies"
REBALANCES: Final = "N05 rebalances"
ANSWERS: Final = "N07 late and lost answers of brokers"
PLANTED: Final[Mapping[str, tuple[Callable[[], Patch], str]]] = {
    "applied twice on replay": (_applied_twice, DRAWN),
    "store written before the commit": (_store_before_commit, DRAWN),
    "acknowledged before the commit": (_acknowledged_when_fetched, DRAWN),
    "fenced taken for success": (_fenced_is_success, DRAWN),
    "taint rule ignored": (_no_taint, ANSWERS),
    "tenant left out of the idempotency key": (_tenant_left_out, DRAWN),
    "float amounts": (_float_amounts, DRAWN),
    "a credit in clearing is lost": (_lost_credit, DRAWN),
    "journal outside the transaction": (_journal_outside, DRAWN),
    "fetched, paused and dropped": (_and_gaps(_dropped_when_paused), DRAWN),
    "no seek after reopening": (_and_gaps(_no_seek), DRAWN),
    "lists of an older generation are handled": (_and_gaps(_any_generation), REBALANCES),
    "sink without a fence": (_without(FENCE), ZOMBIES),
    "lost commit taken for done": (_sink_guesses(committed=True), DRAWN),
    "lost answer taken for not done": (_sink_guesses(committed=False), DRAWN),
    "decisions read the worker's clock": (_own_clock, DRAWN),
    "deadlines sleep through a jump of the clock": (_sleeps_through_jumps, CLOCKS),
    "sink skips a record": (_sink_starts_anywhere, DRAWN),
}
"""What is planted, how, and the climate in which it is looked for."""


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """The product with a bug."""
    with PLANTED[name][0]():
        yield


@contextlib.contextmanager
def _all(*patches: Patch) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield
