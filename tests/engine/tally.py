"""A worker that knows nothing of money: it tallies numbers per key and passes some on. To test the engine alone.

A command is `<id> add <n>` or `<id> give <n> <key>`; other bytes are poison. Run as a process:
``python -m tests.engine.tally`` with TALLY_* in the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from aura_stream.engine.errors import Poison
from aura_stream.engine.kafka import RealKafka
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.shard import Setup, Shard
from aura_stream.engine.store import RocksStores
from aura_stream.engine.table import Table
from aura_stream.engine.topics import Topic
from aura_stream.engine.unit import Names, Record, Unit


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """How often a key was written, and its sum."""

    count: int
    total: int


class Gift(msgspec.Struct, frozen=True, array_like=True, tag="gift"):
    """A number on its way to another key."""

    id: str
    key: str
    n: int


class Done(msgspec.Struct, frozen=True, array_like=True):
    """A journal line: what was done, to which key, and its sum after it."""

    what: str
    id: str
    key: str
    n: int
    total: int


TALLIES = Table("tallies", Tally, prefix=b"T")


class TallyActor:
    """Adds, gives, and remembers."""

    signal_type = Gift

    def _add(self, unit: Unit, what: str, id_: str, key: bytes, n: int) -> None:
        tally = TALLIES.get(key) or Tally(0, 0)
        tally = Tally(tally.count + 1, tally.total + n)
        TALLIES.set(key, tally)
        unit.line(Done(what, id_, key.decode(), n, tally.total))

    def command(self, unit: Unit, record: Record) -> None:
        """One command."""
        assert record.key is not None
        match (record.value or b"").decode(errors="replace").split():
            case [id_, "add", n]:
                self._add(unit, "add", id_, record.key, int(n))
            case [id_, "give", n, other]:
                self._add(unit, "give", id_, record.key, -int(n))
                unit.signal(other.encode(), Gift(id_, other, int(n)))
            case [id_, "later", delay]:
                unit.deadline(id_.encode(), unit.at + int(delay))
            case _:
                self._add(unit, "never", "?", record.key, 1)
                raise Poison("unknown", "neither add nor give")

    def dead_letter(self, unit: Unit, record: Record, reason: str, detail: str) -> None:
        """A command that was not understood."""
        unit.line(Done("dead", str(record.offset), reason, 0, 0))

    def signal(self, unit: Unit, signal: Gift) -> None:
        """A gift arrives."""
        self._add(unit, "got", signal.id, signal.key.encode(), signal.n)

    def refuse(self, unit: Unit, signal: Gift, reason: str, detail: str) -> None:
        """Never needed."""
        raise AssertionError(reason)

    def deadline(self, unit: Unit, key: bytes) -> None:
        """The time of `later` has come."""
        unit.line(Done("deadline", key.decode(), "", 0, unit.at))


def names(prefix: str) -> Names:
    """Topics of one run."""
    return Names(*(f"{prefix}-{name}" for name in ("commands", "signals", "journal", "dead-letters", "changelog")))


def declared(prefix: str) -> list[Topic]:
    """Their declarations."""
    compact = {"cleanup.policy": "compact", "delete.retention.ms": str(7 * 24 * 3600 * 1000)}
    stamped = {"message.timestamp.type": "LogAppendTime"}
    config: dict[str, dict[str, str]] = {"changelog": compact, "commands": stamped}
    return [Topic(name, "", "", config=config.get(kind, {})) for kind, name in names(prefix)._asdict().items()]


def make_setup(bootstrap: str, prefix: str, partitions: int, state_dir: Path) -> Setup:
    """What the shards of a run share."""
    return Setup(
        app_id=prefix,
        kafka=RealKafka(bootstrap),
        names=names(prefix),
        outputs=(),
        actor=TallyActor(),
        rules=b"{}",
        rules_hash="none",
        stores=RocksStores(state_dir),
        partitioner=Partitioner(partitions),
    )


def main() -> None:
    """A worker process."""
    import faust

    from aura_stream.engine.feed import Feed
    from aura_stream.engine.transport import make_app

    env = os.environ
    home = Path(env["TALLY_HOME"])
    setup = make_setup(env["TALLY_BOOTSTRAP"], env["TALLY_PREFIX"], int(env["TALLY_PARTITIONS"]), home / "state")
    app = make_app(
        env["TALLY_PREFIX"],
        bootstrap=env["TALLY_BOOTSTRAP"],
        datadir=str(home / "faust"),
        web_port=int(env["TALLY_WEB_PORT"]),
        session_timeout_s=float(env.get("TALLY_SESSION_S", "10")),
    )

    def make(number: int, fetch: Any, generation: int) -> Shard:
        return Shard(number, setup, fetch, generation)

    Feed(
        app,
        (setup.names.commands, setup.names.signals),
        make,
        on_ready=lambda: (home / "ready").touch(),
        on_closed=setup.kafka.stop,
    )
    faust.Worker(app, loglevel="INFO", redirect_stdouts=False, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main()
