"""The unit of work without Kafka: what is kept, what is thrown away, what is recorded."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_stream.engine import unit as unit_module
from aura_stream.engine.driver import Driver
from aura_stream.engine.errors import EngineError, OutsideUnit, SignalGap, SignalUndecodable
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.table import Table
from aura_stream.engine.unit import Memory, Names, Record, Unit
from tests.engine.tally import TALLIES, Gift, TallyActor


class Note(msgspec.Struct, frozen=True, array_like=True):
    text: str
    until: int = 0


NOTES = Table("notes", Note, prefix=b"N", expires=lambda note: note.until)
NAMES = Names("commands", "signals", "journal", "dead-letters", "changelog")


class Script(TallyActor):
    """An actor whose behaviour a test writes: each command's value names a function."""

    def __init__(self, **functions: Any) -> None:
        self.functions = functions
        self.refused: list[Any] = []

    def command(self, unit: Unit, record: Record) -> None:
        name, _, argument = (record.value or b"").decode().partition(" ")
        self.functions[name](unit, argument)

    def refuse(self, unit: Unit, signal: Gift, reason: str, detail: str) -> None:
        if self.functions.get("refuse") == "raise":
            raise ValueError("not even this")
        self.refused.append((signal.id, reason))


def journal(driver: Driver) -> list[dict[str, Any]]:
    return [orjson.loads(value) for value in driver.values("journal")]


def one(driver: Driver, *values: bytes, at: int = 1000) -> None:
    for value in values:
        driver.send(b"key", value, at)
    driver.run()


def test_a_table_outside_a_unit_of_work_raises() -> None:
    for use in (lambda: TALLIES.get(b"k"), lambda: TALLIES.delete(b"k"), lambda: list(TALLIES.range())):
        with pytest.raises(OutsideUnit):
            use()


def test_two_tables_cannot_share_a_prefix() -> None:
    with pytest.raises(ValueError, match="no other table"):
        Table("other", Note, prefix=b"N")


def test_a_record_is_all_or_nothing() -> None:
    def half(unit: Unit, _: str) -> None:
        NOTES.set(b"a", Note("changed"))
        NOTES.set(b"new", Note("never"))
        NOTES.delete(b"b")
        unit.line(Note("never"))
        unit.send("elsewhere", b"k", b"never")
        unit.signal(b"key", Gift("never", "key", 1))
        unit.deadline(b"never", 2000)
        unit.next_number("counter")
        raise ValueError("in the middle")

    def before(unit: Unit, _: str) -> None:
        NOTES.set(b"a", Note("kept"))
        NOTES.set(b"b", Note("kept too"))
        assert unit.next_number("counter") == 1

    def after(unit: Unit, _: str) -> None:
        assert NOTES.get(b"a") == Note("kept")
        assert NOTES.get(b"b") == Note("kept too")
        assert NOTES.get(b"new") is None
        assert [key for key, _ in NOTES.range()] == [b"a", b"b"]
        assert unit.next_number("counter") == 2
        unit.line(Note("after"))

    driver = Driver(Script(half=half, before=before, after=after), NAMES)
    one(driver, b"before", b"half", b"after")

    (unit,) = journal(driver)
    assert [line[0] for line in unit["lines"]] == ["dead", "after"]
    assert driver.values("elsewhere") == []
    assert driver.values("signals") == []
    assert driver.values("dead-letters") == [b"half"]
    driver.run(clock=9999)
    assert len(journal(driver)) == 1, "no deadline was left behind"


def test_dead_letters_carry_bytes_key_and_reason() -> None:
    driver = Driver(TallyActor(), NAMES)
    record = driver.send(b"key", b"\xff\x00 nonsense", 1000)
    driver.run()
    (dead,) = driver.topics["dead-letters"][record.partition]
    assert (dead.key, dead.value) == (b"key", b"\xff\x00 nonsense")
    assert dict(dead.headers) == {
        "aura-reason": b"unknown",
        "aura-detail": b"neither add nor give",
        "aura-topic": b"commands",
        "aura-partition": b"%d" % record.partition,
        "aura-offset": b"0",
    }


def test_oversize_values_are_dead_letters_and_not_an_endless_reopen() -> None:
    big = "x" * (600 * 1024)
    driver = Driver(
        Script(
            table=lambda unit, _: NOTES.set(b"big", Note(big)),
            line=lambda unit, _: unit.line(Note(big)),
            send=lambda unit, _: unit.send("elsewhere", b"k", big.encode() * 2),
            signal=lambda unit, _: unit.signal(b"k", Gift(big, "k", 1)),
        ),
        NAMES,
    )
    one(driver, b"table", b"line", b"send", b"signal")
    assert driver.values("dead-letters") == [b"table", b"line", b"send", b"signal"]
    reasons = [dict(r.headers)["aura-reason"] for r in driver.topics["dead-letters"][driver.partitioner(b"key")]]
    assert reasons == [b"message_too_large"] * 4


def test_an_engine_error_in_an_agent_is_not_a_dead_letter() -> None:
    def broken(unit: Unit, _: str) -> None:
        raise EngineError("the store is gone")

    driver = Driver(Script(broken=broken), NAMES)
    driver.send(b"key", b"broken", 1000)
    with pytest.raises(EngineError, match="the store is gone"):
        driver.run()
    assert driver.values("dead-letters") == []


def test_n36_want_of_memory_is_not_a_record_s_fault() -> None:
    def broken(unit: Unit, _: str) -> None:
        raise MemoryError

    driver = Driver(Script(broken=broken), NAMES)
    driver.send(b"key", b"broken", 1000)
    with pytest.raises(MemoryError):
        driver.run()
    assert driver.values("dead-letters") == []


def test_values_expire_and_are_deleted() -> None:
    seen: list[Note | None] = []
    driver = Driver(
        Script(
            set=lambda unit, until: NOTES.set(b"n", Note("here", int(until))),
            get=lambda unit, _: seen.append(NOTES.get(b"n")),
        ),
        NAMES,
    )
    driver.send(b"key", b"set 2000", 1000)
    driver.send(b"key", b"get", 1999)
    driver.send(b"key", b"set 3000", 1999)
    driver.send(b"key", b"get", 2500)
    driver.run()
    assert seen == [Note("here", 2000), Note("here", 3000)], "its old deadline does not take a value that lives longer"
    driver.send(b"key", b"get", 3000)
    driver.run()
    assert seen[-1] is None
    store = driver.stores[driver.partitioner(b"key")]
    assert store.get(b"Nn") is None, "it is gone, not only hidden"


def test_deadlines_fire_in_order_before_the_first_record_whose_time_has_reached_them() -> None:
    events: list[tuple[str, int]] = []

    class Timed(Script):
        def deadline(self, unit: Unit, key: bytes) -> None:
            events.append((key.decode(), unit.at))

    driver = Driver(
        Timed(
            at=lambda unit, due: unit.deadline(due.encode(), int(due)),
            clear=lambda unit, due: unit.clear_deadline(due.encode(), int(due)),
            see=lambda unit, name: events.append((name, unit.at)),
        ),
        NAMES,
    )
    for value, at in ((b"at 2000", 1000), (b"at 1500", 1000), (b"at 1700", 1001), (b"clear 1700", 1002)):
        driver.send(b"key", value, at)
    driver.send(b"key", b"see early", 1499)
    driver.send(b"key", b"see late", 2100)
    driver.run()
    assert events == [("early", 1499), ("1500", 2100), ("2000", 2100), ("late", 2100)]
    assert journal(driver)[0]["inputs"][1:] == [["commands", 0, 4], ["clock", 2100], ["commands", 5, 5]]


def test_time_never_goes_back() -> None:
    times: list[int] = []
    driver = Driver(Script(see=lambda unit, _: times.append(unit.at)), NAMES)
    for at in (1000, 900, 1100):
        driver.send(b"key", b"see", at)
    driver.run()
    assert times == [1000, 1000, 1100]


def test_the_clock_speaks_only_when_asked_and_is_recorded() -> None:
    driver = Driver(TallyActor(), NAMES)
    driver.send(b"key", b"1 later 500", 1000)
    driver.run()
    driver.run(clock=1499)
    assert len(journal(driver)) == 1
    driver.run(clock=1500)
    assert journal(driver)[1]["inputs"] == [["clock", 1500]]
    assert journal(driver)[1]["lines"] == [["deadline", "1", "", 0, 1500]]


def test_many_deadlines_at_once_are_spread_over_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_module, "DEADLINES_PER_UNIT", 10)
    driver = Driver(TallyActor(), NAMES)
    for number in range(25):
        driver.send(b"key", b"%d later 10" % number, 1000)
    driver.send(b"key", b"last add 1", 2000)
    driver.run()
    units = journal(driver)
    assert [sum(line[0] == "deadline" for line in unit["lines"]) for unit in units] == [10, 10, 5]
    assert units[-1]["lines"][-1][:2] == ["add", "last"], "all that was due fires before the record that is later"


def test_deadlines_that_did_not_fit_into_a_unit_fire_though_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unit_module, "DEADLINES_PER_UNIT", 10)
    driver = Driver(TallyActor(), NAMES)
    for number in range(15):
        driver.send(b"key", b"%d later 10" % number, 1000)
    driver.run()
    partition = driver.partitioner(b"key")
    assert driver.step(partition, clock=5000)
    driver.run(clock=3000)
    units = journal(driver)[1:]
    assert [(unit["at"], len(unit["lines"]), unit["inputs"]) for unit in units] == [
        (5000, 10, [["clock", 5000]]),
        (5000, 5, [["clock", 5000]]),
    ]


def test_a_unit_full_of_deadlines_does_not_take_the_time_of_a_record_that_it_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its inputs would not tell that time, so no replay could find it."""
    monkeypatch.setattr(unit_module, "DEADLINES_PER_UNIT", 10)
    driver = Driver(TallyActor(), NAMES)
    for number in range(10):
        driver.send(b"key", b"%d later 10" % number, 1000)
    driver.send(b"key", b"next later 500", 1500)
    driver.send(b"key", b"last add 1", 9000)
    driver.run()
    assert [(unit["at"], unit["inputs"][-1]) for unit in journal(driver)] == [
        (1500, ["commands", 10, 10]),
        (9000, ["commands", 11, 11]),
    ]


def test_a_large_unit_is_split_between_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_module, "JOURNAL_PART_MAX", 200)
    driver = Driver(TallyActor(), NAMES)
    for number in range(30):
        driver.send(b"key", b"%d add 1" % number, 1000)
    driver.run()
    units = journal(driver)
    assert [unit["seq"] for unit in units] == list(range(1, len(units) + 1))
    assert len(units) > 2
    assert [unit.get("last", True) for unit in units] == [False] * (len(units) - 1) + [True]
    assert all("inputs" not in unit for unit in units[:-1])
    assert [line[1] for unit in units for line in unit["lines"]] == [str(n) for n in range(30)]


def test_signals_are_packed_split_and_numbered_per_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_module, "SIGNALS_MAX", 4)
    driver = Driver(TallyActor(), NAMES, partitions=2)
    for number in range(10):
        driver.send(b"key", b"%d give 1 other-%d" % (number, number), 1000)
    driver.step(driver.partitioner(b"key"))
    for partition in range(2):
        packed = [orjson.loads(r.value or b"") for r in driver.topics["signals"][partition]]
        assert [p["seq"] for p in packed] == list(range(1, len(packed) + 1))
        assert all(0 < len(p["signals"]) <= 4 for p in packed)
    driver.run()
    arrived = [line for unit in journal(driver) for line in unit["lines"] if line[0] == "got"]
    assert sorted(int(line[1]) for line in arrived) == list(range(10))


def signal_record(driver: Driver, seq: int, value: bytes | None = None) -> None:
    raw = (
        value
        if value is not None
        else b'{"source":3,"seq":%d,"at":5,"signals":[["gift","g%d","k",1]],"v":1}' % (seq, seq)
    )
    driver.append("signals", 0, b"3", raw, 1000)


def test_a_repeated_signal_is_skipped_and_a_gap_stops_the_shard() -> None:
    driver = Driver(TallyActor(), NAMES)
    for seq in (1, 2, 2, 1, 3):
        signal_record(driver, seq)
    driver.run()
    assert [line[1] for unit in journal(driver) for line in unit["lines"]] == ["g1", "g2", "g3"]
    signal_record(driver, 5)
    with pytest.raises(SignalGap, match="signal 5 of partition 3 follows 3"):
        driver.run()


@pytest.mark.parametrize("value", [b"", b"nonsense", b'{"source":3,"seq":1,"at":5,"signals":[["gift"]],"v":1}'])
def test_a_signal_that_cannot_be_read_stops_the_shard(value: bytes) -> None:
    driver = Driver(TallyActor(), NAMES)
    signal_record(driver, 1, value)
    with pytest.raises(SignalUndecodable):
        driver.run()
    assert driver.values("dead-letters") == []


def test_a_signal_that_raises_is_refused_with_a_copy_for_the_operator() -> None:
    class Unwilling(Script):
        def signal(self, unit: Unit, signal: Gift) -> None:
            NOTES.set(b"half", Note("never"))
            raise ValueError("no")

    actor = Unwilling()
    driver = Driver(actor, NAMES)
    signal_record(driver, 1)
    driver.run()
    assert actor.refused == [("g1", "internal_error")]
    assert driver.values("dead-letters") == [b'["gift","g1","k",1]']
    assert driver.stores[0].get(b"Nhalf") is None

    actor = Unwilling(refuse="raise")
    driver = Driver(actor, NAMES)
    signal_record(driver, 1)
    with pytest.raises(EngineError, match="neither handled nor refused"):
        driver.run()


def test_new_rules_are_recorded_in_the_unit_that_begins_to_use_them() -> None:
    driver = Driver(TallyActor(), NAMES, partitions=1, rules=b'{"mode":"a"}')
    driver.send(b"key", b"1 add 1", 1000)
    driver.run()
    driver.send(b"key", b"2 add 1", 1000)
    driver.run()
    driver.rules = b'{"mode":"b"}'
    driver.reopen(0)
    driver.send(b"key", b"3 add 1", 1000)
    driver.run()
    units = journal(driver)
    assert [unit.get("rules") for unit in units] == ['{"mode":"a"}', None, '{"mode":"b"}']
    assert [[kind for kind, *_ in unit["inputs"]] for unit in units] == [
        ["rules", "commands"],
        ["commands"],
        ["rules", "commands"],
    ]


commands = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.one_of(
            st.builds(lambda n: f"add {n}", st.integers(1, 9)),
            st.builds(lambda n, k: f"give {n} k{k}", st.integers(1, 9), st.integers(0, 5)),
            st.builds(lambda d: f"later {d}", st.integers(0, 3000)),
            st.just("rubbish"),
        ),
        st.integers(0, 900),
    ),
    max_size=40,
)
schedule = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 7), st.sampled_from(["ok", "lost", "crash"])), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(commands=commands, schedule=schedule)
def test_any_schedule_of_units_losses_and_crashes_has_every_effect_once(
    commands: list[tuple[int, str, int]], schedule: list[tuple[int, int, str]]
) -> None:
    driver = Driver(TallyActor(), NAMES, partitions=3)
    at, queue = 1000, list(enumerate(commands))
    for partition, size, end in schedule:
        for number, (key, command, pause) in queue[:2]:
            at += pause
            driver.send(b"k%d" % key, f"{number} {command}".encode(), at)
        del queue[:2]
        driver.step(partition, limit=size, commit=end != "lost")
        if end == "crash":
            driver.reopen(partition)
    for number, (key, command, pause) in queue:
        at += pause
        driver.send(b"k%d" % key, f"{number} {command}".encode(), at)
    driver.run()
    driver.run(clock=at + 10_000)

    lines = [line for unit in journal(driver) for line in unit["lines"]]
    expected: dict[str, int] = {}
    want: list[tuple[str, str]] = []
    for number, (key, command, _) in enumerate(commands):
        match command.split():
            case ["add", n]:
                expected[f"k{key}"] = expected.get(f"k{key}", 0) + int(n)
                want.append(("add", str(number)))
            case ["give", n, other]:
                expected[f"k{key}"] = expected.get(f"k{key}", 0) - int(n)
                expected[other] = expected.get(other, 0) + int(n)
                want += [("give", str(number)), ("got", str(number))]
            case ["later", _]:
                want.append(("deadline", str(number)))
    assert sorted((line[0], line[1]) for line in lines if line[0] != "dead") == sorted(want)
    assert sum(line[0] == "dead" for line in lines) == sum(command == "rubbish" for _, command, _ in commands)
    totals = {
        key[1:].decode(): orjson.loads(value)[1] for store in driver.stores for key, value in store.scan(b"T", b"U")
    }
    assert totals == expected

    for partition in range(3):  # the recorded inputs lead to the same bytes again
        assert replayed(driver, partition) == [r.value for r in driver.topics["journal"][partition]]


def replayed(driver: Driver, partition: int) -> list[bytes | None]:
    """The journal of a partition, computed anew from the inputs that its records name."""
    memory = Memory(
        partition,
        actor=driver.actor,
        names=NAMES,
        store=MemoryStore(),
        partitioner=Partitioner(driver.partitions),
        rules=driver.rules,
        rules_hash=driver.shards[partition].rules_hash,
    )
    values: list[bytes | None] = []
    logs = {source: driver.topics[source][partition] for source in ("commands", "signals")}
    for record in driver.topics["journal"][partition]:
        unit = orjson.loads(record.value or b"")
        if not unit.get("last", True):
            continue
        batch: list[Record] = []
        for kind, *where in unit["inputs"]:
            if kind in logs:
                batch.extend(logs[kind][where[0] : where[1] + 1])
        computed, taken = memory.run(batch, recorded=unit["inputs"])
        assert taken == len(batch)
        finished = computed.finish()
        values.extend(o.value for o in finished.outputs if o.topic == "journal")
        memory.adopt(finished)
    return values
