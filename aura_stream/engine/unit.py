"""The unit of work: what one batch of records changes, gathered in memory and committed as a whole.

Everything in this file is synchronous and pure of IO but for reads of the local store. The same code runs in a worker
(`shard.py`), in a rebuild and in tests (`driver.py`), so that all three decide alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from aura_stream.engine.errors import EngineError, Oversize, Poison, SignalGap, SignalUndecodable
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.store import Store
from aura_stream.engine.table import Table, after, enter

log = logging.getLogger(__name__)

STATE_KEY = b"\xf0state"
DEADLINES = b"\xf2"  # + due (8 bytes) + one of the next two + name
CLOCK = "clock_ms"
"""By how much the shard's time is moved ahead of the records' and the machine's; among its counters once it is."""
OF_ACTOR, OF_EXPIRY = b"a", b"x"  # the actor's own; a table value that expires, named by its full key

JOURNAL_PART_MAX = 512 * 1024  # bytes; a journal record is split above, between commands
SIGNALS_MAX, SIGNALS_BYTES_MAX = 500, 256 * 1024  # of one packed record
OUTPUT_MAX = 1024 * 1024  # bytes of one value sent
LINE_MAX = OUTPUT_MAX // 2  # bytes of one line of the journal
DEADLINES_PER_UNIT = 1000
AHEAD = 250  # commands read before their turn: few enough that they are still at hand when it comes
CACHE_MAX = 4096  # values per generation of a shard's read cache


class Record(Protocol):
    """What the engine needs of a Kafka record; aiokafka's fit."""

    @property
    def topic(self) -> str:
        """Its topic."""

    @property
    def partition(self) -> int:
        """Its partition."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970; of a command the broker's time."""

    @property
    def key(self) -> bytes | None:
        """Its key."""

    @property
    def value(self) -> bytes | None:
        """Its value."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Its headers; only looked at when it becomes a dead letter."""


REQUEST_ID = "aura-request-id"
"""The header that names the request of a command, at the door and on a dead letter."""
NO_HEADERS: list[tuple[str, bytes]] = []


class Output(NamedTuple):
    """A message to send with the unit."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = NO_HEADERS


class ShardState(msgspec.Struct):
    """The engine's own state of a partition, kept beside the tables: one changelog record per unit."""

    at: int = 0  # the shard's time, ms
    seq: int = 0  # last journal record
    applied: dict[str, int] = {}  # source (commands, signals) -> last offset applied
    counters: dict[str, int] = {}
    sent: dict[int, int] = {}  # target partition -> last packed signal
    received: dict[int, int] = {}  # source partition -> last packed signal
    rules: str = ""


class Packed(msgspec.Struct, frozen=True):
    """One record of the signals topic: what one unit of one partition tells another. `seq` is dense per pair."""

    source: int
    seq: int
    at: int
    signals: msgspec.Raw  # a list; read when it is their turn
    v: int = 1


class Actor(Protocol):
    """What the engine runs: the business of a partition, written as if nothing could fail.

    Each method is called inside a unit of work with tables open; it is synchronous, reads no clock and awaits nothing.
    It may raise :class:`Poison` (or anything): then nothing of this record remains but its dead letter.
    """

    signal_type: Any
    """A msgspec type that all signals are decoded to."""

    def command(self, unit: Unit, record: Record) -> None:
        """Handles one record of the commands topic."""

    def dead_letter(self, unit: Unit, record: Record, reason: str, detail: str) -> None:
        """Answers a command that raised; its bytes are already on their way to the dead letters."""

    def signal(self, unit: Unit, signal: Any) -> None:
        """Handles one signal of another partition, or of this one."""

    def refuse(self, unit: Unit, signal: Any, reason: str, detail: str) -> None:
        """Answers a signal that raised: money under way goes back. If this raises too, the shard stops."""

    def deadline(self, unit: Unit, key: bytes) -> None:
        """A deadline that was set with :meth:`Unit.deadline` has come."""


class Ahead(Protocol):
    """What an actor has read of a command before its turn."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Full keys that it will look up and, most likely, not find."""


@runtime_checkable
class ReadsAhead(Protocol):
    """An actor that can tell something of commands before their turn.

    A step that is taken for many commands in a row costs half of the same step taken between others, whose code and
    data push each other out of the processor's caches; so do look-ups in the store.
    """

    def read_ahead(self, unit: Unit, records: Sequence[Record]) -> Sequence[Ahead | None]:
        """What each record alone says; None where it is better read in its turn. Reads no table.

        The actor finds it as `unit.ahead` when it is called for the record. It may be None even so (in a replay).
        """


class Names(NamedTuple):
    """Topics of an engine: what it reads and writes."""

    commands: str
    signals: str
    journal: str
    dead_letters: str
    changelog: str


class Unit:
    """One unit of work: overlay over the store, lines for the journal, outputs, signals, and the state they lead to."""

    def __init__(self, shard: Memory) -> None:
        state = shard.state
        self._shard = shard
        self.partition = shard.partition
        self.at = state.at
        self.seq = state.seq + 1
        self.dirty: dict[bytes, bytes | None] = {}
        self.outputs: list[Output] = []
        self.inputs: list[list[str | int]] = []
        self.records = 0
        self.fired = 0
        self.dead = 0
        self.parts: list[tuple[int, list[bytes]]] = []
        self.counters = state.counters.copy()
        self.moved_ms = shard.moved_ms
        self._lines: list[bytes] = []
        self._size = 0
        self._outgoing: list[tuple[int, bytes]] = []
        self.young = shard.young  # values as they are now, as far as they were looked at
        self._undo: list[tuple[bytes, Any, Any]] = []  # key; its value and its bytes before, or _UNKNOWN
        self.line_number = 0
        self.wishes: list[Any] = []
        self.ahead: Any = None  # what the actor has read of this record before its turn
        self.absent: set[bytes] = set()  # full keys that the store was asked for and does not have

    # --- for agents ------------------------------------------------------------------------------------------------

    def line(self, line: msgspec.Struct) -> None:
        """Adds a line to the journal message: something that was decided. Raises :class:`Oversize`."""
        encoded = _encode(line)
        size = len(encoded)
        if size > LINE_MAX:
            raise Oversize("a journal line", size, LINE_MAX)
        self._lines.append(encoded)
        self._size += size
        self.line_number += 1

    def send(self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]] = NO_HEADERS) -> None:
        """Sends a message to the shard's own partition of a topic, with the unit. Raises :class:`Oversize`."""
        if len(value) > OUTPUT_MAX:
            raise Oversize(f"a message to {topic}", len(value), OUTPUT_MAX)
        self.outputs.append(Output(topic, self.partition, key, value, headers))

    def ask(self, topic: str, key: bytes, value: bytes) -> None:
        """Sends a message to the partition of `key` of a topic, with the unit. Raises :class:`Oversize`."""
        if len(value) > OUTPUT_MAX:
            raise Oversize(f"a message to {topic}", len(value), OUTPUT_MAX)
        self.outputs.append(Output(topic, self._shard.partitioner(key), key, value))

    def signal(self, key: bytes, signal: msgspec.Struct) -> None:
        """Sends a signal to the shard of `key`; it is handled there once and in order. Raises :class:`Oversize`."""
        encoded = _encode(signal)
        if len(encoded) > SIGNALS_BYTES_MAX:
            raise Oversize("a signal", len(encoded), SIGNALS_BYTES_MAX)
        self._outgoing.append((self._shard.partitioner(key), encoded))

    def signal_partition(self, partition: int, signal: msgspec.Struct) -> None:
        """Sends a signal to the shard of a partition, this one's too, like :meth:`signal`."""
        self._outgoing.append((partition, _encode(signal)))

    def wish(self, wish: Any) -> None:
        """Asks for something outside once the unit is committed (`Setup.committed`). A crash in between loses it: what
        must not be lost is also written, with a deadline by which its absence is noticed."""
        self.wishes.append(wish)

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return self._shard.partitioner.partitions

    def deadline(self, key: bytes, due: int) -> None:
        """Asks for a call of the actor's `deadline` with `key` once the shard's time has reached `due` (ms)."""
        self._set_deadline(OF_ACTOR + key, due)

    def clear_deadline(self, key: bytes, due: int) -> None:
        """Takes a deadline back; `due` must be the time it was set for."""
        self._mark(DEADLINES + due.to_bytes(8, "big") + OF_ACTOR + key, None)

    def move_clock(self, moved_ms: int) -> None:
        """Has the shard's time be so far ahead of the records' own, from the next record on; it never goes back."""
        if moved_ms > self.moved_ms:
            self.moved_ms = self.counters[CLOCK] = moved_ms

    def partition_of(self, key: bytes) -> int:
        """The partition that a record key belongs to."""
        return self._shard.partitioner(key)

    def next_number(self, counter: str) -> int:
        """The next number of a dense count of this partition, from 1."""
        number = self.counters[counter] = self.counters.get(counter, 0) + 1
        return number

    # --- for tables ------------------------------------------------------------------------------------------------

    def read(self, table: Table[Any], full: bytes) -> Any:
        """The present value of a full key, decoded."""
        young, shard = self.young, self._shard
        if full in young:
            return young[full]
        value = shard.old.get(full, _UNKNOWN)
        if value is _UNKNOWN:
            if full in self.absent:
                return None
            encoded = shard.store.get(full)
            if encoded is None:
                return None
            value = table.decode(encoded)
        young[full] = value
        return value

    def write(self, full: bytes, value: Any, encoded: bytes | None) -> None:
        """Puts a value (None deletes) and remembers what was there, until the record is done."""
        young, dirty = self.young, self.dirty
        self._undo.append((full, young.get(full, _UNKNOWN), dirty.get(full, _UNKNOWN)))
        young[full] = value
        dirty[full] = encoded

    def _mark(self, full: bytes, encoded: bytes | None) -> None:
        dirty = self.dirty
        self._undo.append((full, _UNKNOWN, dirty.get(full, _UNKNOWN)))
        dirty[full] = encoded

    def expire(self, full: bytes, due: int) -> None:
        """Has the engine delete a value at `due`, unless it was changed to live longer."""
        self._set_deadline(OF_EXPIRY + full, due)

    def _set_deadline(self, name: bytes, due: int) -> None:
        self._mark(DEADLINES + due.to_bytes(8, "big") + name, b"")
        if due < self._shard.next_due:
            self._shard.next_due = due

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Store and overlay together, in order. Changes during the scan are not seen."""
        overlay = sorted((k, v) for k, v in self.dirty.items() if start <= k < stop)
        at = 0
        for key, value in self._shard.store.scan(start, stop):
            while at < len(overlay) and overlay[at][0] < key:
                new_key, new_value = overlay[at]
                at += 1
                if new_value is not None:
                    yield new_key, new_value
            if at < len(overlay) and overlay[at][0] == key:
                changed = overlay[at][1]
                at += 1
                if changed is not None:
                    yield key, changed
            else:
                yield key, value
        for new_key, new_value in overlay[at:]:
            if new_value is not None:
                yield new_key, new_value

    # --- for the engine --------------------------------------------------------------------------------------------

    def attempt(self, work: Callable[..., None], *arguments: Any) -> Exception | None:
        """Runs `work`; if it raises, nothing of it remains (a record is all or nothing) and the error is returned."""
        if self._size > JOURNAL_PART_MAX:
            self._begin_part()
        lines, outputs, outgoing, wishes = self._lines, self.outputs, self._outgoing, self.wishes
        marks = (len(lines), len(outputs), len(outgoing), len(wishes))
        size, line_number, counters = self._size, self.line_number, self.counters.copy()
        self._undo.clear()
        try:
            work(self, *arguments)
        except (EngineError, MemoryError):
            raise  # want of memory says nothing about the record
        except Exception as error:  # noqa: BLE001 - any error of an agent is this record's, never the unit's
            for full, value, encoded in reversed(self._undo):
                _put_back(self.young, full, value)
                _put_back(self.dirty, full, encoded)
            del lines[marks[0] :], outputs[marks[1] :], outgoing[marks[2] :], wishes[marks[3] :]
            self._size, self.line_number, self.counters = size, line_number, counters
            self.moved_ms = counters.get(CLOCK, 0)
            return error
        return None

    def _begin_part(self) -> None:
        self.parts.append((self.seq, self._lines))
        self._lines, self._size, self.line_number = [], 0, 0
        self.seq += 1

    def finish(self) -> Finished:
        """Closes the unit: the changelog records, the messages, and the state of the shard after it."""
        shard, before = self._shard, self._shard.state
        applied, received = shard.applied, shard.received
        sent = before.sent.copy()
        outputs, own = self.outputs, b"%d" % self.partition
        for target, values in _pack(self._outgoing):
            sent[target] = seq = sent.get(target, 0) + 1
            value = b'{"source":%d,"seq":%d,"at":%d,"signals":[%b],"v":1}' % (
                shard.first_source + self.partition,
                seq,
                self.at,
                b",".join(values),
            )
            outputs.append(Output(shard.names.signals, target, own, value))
        self.parts.append((self.seq, self._lines))
        rules = b""
        if before.rules != shard.rules_hash:
            self.inputs.insert(0, ["rules", shard.rules_hash])
            rules = b',"rules":' + _encode(shard.rules.decode())
        last = len(self.parts) - 1
        for number, (seq, lines) in enumerate(self.parts):
            end = b',"inputs":%b%b' % (_encode(self.inputs), rules) if number == last else b',"last":false'
            value = b'{"partition":%d,"seq":%d,"at":%d,"lines":[%b]%b,"v":1}' % (
                self.partition,
                seq,
                self.at,
                b",".join(lines),
                end,
            )
            outputs.append(Output(shard.names.journal, self.partition, own, value))
        state = ShardState(self.at, self.seq, applied, self.counters, sent, received, shard.rules_hash)
        self.dirty[STATE_KEY] = _encode(state)
        return Finished(self.dirty, outputs, state)


class Finished(NamedTuple):
    """What a unit of work leaves: to be written in one Kafka transaction, and then to the store."""

    changes: dict[bytes, bytes | None]
    outputs: list[Output]
    state: ShardState


class Memory:
    """What a shard knows between units: its state, a read cache over its store, and the actor that it runs.

    `run` computes a unit from records; `adopt` takes it over once it is committed. After a failed commit the memory is
    thrown away and made anew from the restored store.
    """

    def __init__(
        self,
        partition: int,
        *,
        actor: Actor,
        names: Names,
        store: Store,
        partitioner: Partitioner,
        rules: bytes,
        rules_hash: str,
        inbox: str = "",
        first_source: int = 0,
    ) -> None:
        self.partition, self.actor, self.names, self.store = partition, actor, names, store
        self.inbox, self.first_source = inbox, first_source
        self.partitioner, self.rules, self.rules_hash = partitioner, rules, rules_hash
        kept = store.get(STATE_KEY)
        self.state = msgspec.json.decode(kept, type=ShardState) if kept is not None else ShardState()
        self.applied = self.state.applied.copy()  # while a unit is computed: what it will have applied
        self.received = self.state.received.copy()
        self.young: dict[bytes, Any] = {}
        self.old: dict[bytes, Any] = {}
        self.next_due = next((_due(key) for key, _ in store.scan(DEADLINES, after(DEADLINES))), NEVER)
        self._packed = msgspec.json.Decoder(Packed)
        signals: Any = list[actor.signal_type]  # type: ignore[name-defined]  # it is a value to mypy
        self._signals = msgspec.json.Decoder(signals)

    @property
    def moved_ms(self) -> int:
        """By how much the shard's time is ahead of the machine's."""
        return self.state.counters.get(CLOCK, 0)

    def run(
        self, batch: Sequence[Record], *, clock: int = 0, recorded: Sequence[Sequence[str | int]] | None = None
    ) -> tuple[Unit, int]:
        """Computes one unit from records in their order; returns it and how many records it took.

        `clock` (the machine's), which goes with an empty batch, moves the shard's time when no command does, and never
        back; what was due by then and did not fit into the last unit fires even if the clock has been set back.
        `recorded` are the inputs of a unit that ran before: then deadlines fire exactly where they fired then (a
        rebuild).
        """
        self.applied, self.received = self.state.applied.copy(), self.state.received.copy()
        unit = Unit(self)
        enter(unit)
        try:
            if recorded is not None:
                return unit, self._replay(unit, batch, recorded)
            if clock and not self._tick(unit, clock + unit.moved_ms):
                return unit, 0
            for start in range(0, len(batch), AHEAD):
                piece = batch[start : start + AHEAD]
                for taken, (record, ahead) in enumerate(zip(piece, self._read_ahead(unit, piece), strict=True), start):
                    unit.ahead = ahead
                    if not self._take(unit, record, True):
                        return unit, taken
            return unit, len(batch)
        finally:
            enter(None)

    def adopt(self, finished: Finished) -> None:
        """Takes over the state of a unit that is committed."""
        self.store.write(finished.changes.items())
        self.state = finished.state
        if len(self.young) > CACHE_MAX:
            self.old, self.young = self.young, {}

    def _read_ahead(self, unit: Unit, records: Sequence[Record]) -> Sequence[Ahead | None]:
        actor, commands = self.actor, self.names.commands
        if not isinstance(actor, ReadsAhead):
            return [None] * len(records)
        enter(None)
        try:
            read = iter(actor.read_ahead(unit, [record for record in records if record.topic == commands]))
        except Exception:  # whatever it is, it comes again in its record's turn, and is that one's own
            log.exception("%s[%s] offset %s and what follows cannot be read ahead", *_place(records[0]))
            return [None] * len(records)
        finally:
            enter(unit)
        ahead = [next(read) if record.topic == commands else None for record in records]
        keys = [key for one in ahead if one is not None for key in one.keys]
        unit.absent = self.store.absent(keys) if keys else set()
        return ahead

    def _take(self, unit: Unit, record: Record, fire: bool) -> bool:
        """Handles one record, after the deadlines that its time has reached; False when they fill the unit."""
        topic, offset = record.topic, record.offset
        source = "commands" if topic == self.names.commands else source_of(topic, "", self.inbox)
        if offset <= self.applied.get(source, -1):
            return True
        if source == "signals":
            packed = self._unpack(record)
            if fire and packed.at >= self.next_due and not self._tick(unit, packed.at):
                return False
            if packed.at > unit.at:
                unit.at = packed.at
            self._signal(unit, record, packed)
        else:
            at = record.timestamp + unit.moved_ms
            if fire and at >= self.next_due and not self._tick(unit, at):
                return False
            if at > unit.at:
                unit.at = at
            error = unit.attempt(self.actor.command, record)
            if error is not None:
                self._bury(unit, record, error)
        self.applied[source] = offset
        unit.records += 1
        # A range of commands has no holes: each offset in it was a command, and what lies between two ranges was none
        # (the mark of a producer's transaction). Signals always have holes: the marks of our own transactions.
        last = unit.inputs[-1] if unit.inputs else None
        if last is not None and last[0] == source and (last[2] == offset - 1 or source == "signals"):
            last[2] = offset
        else:
            unit.inputs.append([source, offset, offset])
        return True

    def _unpack(self, record: Record) -> Packed:
        try:
            return self._packed.decode(record.value or b"")
        except msgspec.MsgspecError as error:
            raise SignalUndecodable(f"{record.topic}[{record.partition}] offset {record.offset}: {error}") from error

    def _signal(self, unit: Unit, record: Record, packed: Packed) -> None:
        last = self.received.get(packed.source, 0)
        if packed.seq <= last:
            return
        if packed.seq != last + 1:
            raise SignalGap(
                f"{record.topic}[{record.partition}] offset {record.offset}: signal {packed.seq} of partition "
                f"{packed.source} follows {last}; what lies between is lost. Keep the topic and rebuild the partition."
            )
        self.received[packed.source] = packed.seq
        try:
            signals = self._signals.decode(packed.signals)
        except msgspec.MsgspecError as error:
            raise SignalUndecodable(f"{record.topic}[{record.partition}] offset {record.offset}: {error}") from error
        handle = self.actor.signal
        for number, signal in enumerate(signals):
            error_ = unit.attempt(handle, signal)
            if error_ is not None:
                reason, detail = _reason(error_)
                log.error("signal refused: %s", detail, exc_info=error_)
                refusing = unit.attempt(self.actor.refuse, signal, reason, detail)
                if refusing is not None:
                    raise EngineError(f"a signal could be neither handled nor refused: {refusing!r}") from refusing
                value = bytes(_raws(packed.signals)[number])
                self._copy_to_dead_letters(unit, record, value, reason, detail)

    def _bury(self, unit: Unit, record: Record, error: Exception) -> None:
        reason, detail = _reason(error)
        if reason == "internal_error":
            request = next(
                (value.decode(errors="replace")[:128] for name, value in record.headers if name == REQUEST_ID), "-"
            )
            log.error("%s[%s] offset %s (request %s): %s", *_place(record), request, detail, exc_info=error)
        self._copy_to_dead_letters(unit, record, record.value, reason, detail)
        answering = unit.attempt(self.actor.dead_letter, record, reason, detail)
        if answering is not None:
            raise EngineError(f"a dead letter could not be answered: {answering!r}") from answering

    def _copy_to_dead_letters(self, unit: Unit, record: Record, value: bytes | None, reason: str, detail: str) -> None:
        headers = [
            ("aura-reason", reason.encode()),
            ("aura-detail", detail[:1000].encode(errors="replace")),
            ("aura-topic", record.topic.encode()),
            ("aura-partition", b"%d" % record.partition),
            ("aura-offset", b"%d" % record.offset),
            *_request_id(record),
        ]
        unit.dead += 1
        unit.outputs.append(Output(self.names.dead_letters, unit.partition, record.key, value, headers))

    def _tick(self, unit: Unit, now: int) -> bool:
        """Moves the time to `now` and fires what is due, in order; False when the unit is full and more is due."""
        now = max(unit.at, now)
        room = DEADLINES_PER_UNIT - unit.fired
        due: list[bytes] = []
        self.next_due = NEVER
        for key, _ in unit.scan(DEADLINES, after(DEADLINES)):
            if len(due) == room or _due(key) > now:
                self.next_due = _due(key)
                break
            due.append(key)
        if due:
            unit.at = now
            unit.inputs.append(["clock", now])
        for key in due:
            unit.fired += 1
            unit._mark(key, None)
            kind, name = key[len(DEADLINES) + 8 :][:1], key[len(DEADLINES) + 9 :]
            error = unit.attempt(self._expire if kind == OF_EXPIRY else self.actor.deadline, name)
            if error is not None:
                raise EngineError(f"the deadline of {name!r} raised {error!r}") from error
        return self.next_due > now

    def _expire(self, unit: Unit, full: bytes) -> None:
        table = Table.by_prefix[full[:1]]
        value = unit.read(table, full)
        # A value that was set again to live longer has a later deadline of its own.
        if value is not None and table.expires is not None and table.expires(value) <= unit.at:
            unit.write(full, None, None)

    def _replay(self, unit: Unit, batch: Sequence[Record], recorded: Sequence[Sequence[str | int]]) -> int:
        taken = 0
        for kind, *where in recorded:
            if kind == "clock":
                self._tick(unit, int(where[0]))
            elif kind != "rules":
                while (
                    taken < len(batch)
                    and batch[taken].offset <= int(where[1])
                    and source_of(batch[taken].topic, self.names.commands, self.inbox) == kind
                ):
                    self._take(unit, batch[taken], False)
                    taken += 1
        return taken


def source_of(topic: str, commands: str, inbox: str) -> str:
    """By which name the progress in a topic is kept."""
    return "commands" if topic == commands else "inbox" if topic == inbox else "signals"


NEVER = (1 << 63) - 1
_UNKNOWN = object()
_encode = msgspec.json.Encoder().encode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _put_back(values: dict[bytes, Any], full: bytes, value: Any) -> None:
    if value is _UNKNOWN:
        values.pop(full, None)
    else:
        values[full] = value


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _request_id(record: Record) -> list[tuple[str, bytes]]:
    """The header that names the request which a record came with, of a length that a request id may have."""
    return [(name, value[:128]) for name, value in record.headers if name == REQUEST_ID][:1]


def _due(key: bytes) -> int:
    return int.from_bytes(key[len(DEADLINES) : len(DEADLINES) + 8], "big")


def _reason(error: Exception) -> tuple[str, str]:
    if isinstance(error, Poison):
        return error.reason, error.detail
    return "internal_error", f"{type(error).__name__}: {error}"


def _pack(outgoing: list[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    """Signals by target in their order, split where a record would grow too large."""
    targets: dict[int, list[bytes]] = {}
    sizes: dict[int, int] = {}
    for target, value in outgoing:
        waiting = targets.get(target)
        if waiting is not None and (len(waiting) == SIGNALS_MAX or sizes[target] + len(value) > SIGNALS_BYTES_MAX):
            yield target, waiting
            waiting = None
        if waiting is None:
            waiting = targets[target] = []
            sizes[target] = 0
        waiting.append(value)
        sizes[target] += len(value)
    yield from targets.items()
