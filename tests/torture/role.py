"""A role of the product with a fault inside: ``python -m tests.torture.role worker ledger``, told by AURA_TORTURE.

AURA_TORTURE is a list, parted by commas, of

- ``die@POINT:N``: the process ends with exit code 137 when it is at that point for the N-th time, as kill -9 would;
- ``block@POINT:N:SECONDS``: the event loop stands still there, once;
- ``late@SECONDS``: every commit of the ledger takes so much longer, while the loop goes on;
- ``crash@MARK``: deciding a command whose bytes hold MARK raises;
- ``clock@FILE``: the wall clock is off by what stands in FILE, in seconds; it is read again and again;
- ``bug@NAME``: one of the bugs of `tests/simulation/planted.py`, for good.

The faults are wrapped around the product's own functions when the process starts, so that the product needs no hooks
and pays nothing. What is not told stays as it is.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aura_stream.engine.producer import Batches

LEDGER_POINTS = (
    "decided",  # a command is decided, its tables are set in memory
    "built",  # a unit is computed, nothing of it is sent
    "sent",  # all of a unit is sent, its transaction is open
    "committed",  # a unit is committed, the local store knows nothing of it
    "adopted",  # the local store has it
)
SINK_POINTS = (
    "copied",  # the sink has sent all rows, its transaction is open
    "stored",  # the sink's transaction is committed, the sink does not know
)
KILLED = 137
PLANTED = "deciding this command crashes"
CLOCK_READ_S = 0.1


def main() -> None:
    """Plants what is told, then is `aura`."""
    for told in filter(None, os.environ.get("AURA_TORTURE", "").split(",")):
        kind, _, rest = told.partition("@")
        if kind == "die":
            point, count = rest.split(":")
            _at(point, int(count), lambda: os._exit(KILLED))
        elif kind == "block":
            point, count, seconds = rest.split(":")
            _at(point, int(count), functools.partial(time.sleep, float(seconds)))
        elif kind == "late":
            _late(float(rest))
        elif kind == "crash":
            crash(rest.encode())
        elif kind == "clock":
            _shift_clock(Path(rest))
        elif kind == "bug":
            from tests.simulation.planted import PLANTED as BUGS

            BUGS[rest][0]().__enter__()
        else:
            raise SystemExit(f"AURA_TORTURE: {told!r} is none of die, block, late, crash, clock, bug")
    from aura_stream.cli import main as aura

    aura()


def _at(point: str, count: int, act: Callable[[], object]) -> None:
    from agents.ledger import Ledger
    from aura_stream.engine.producer import TransactionalProducer
    from aura_stream.engine.shard import Shard

    left = count

    def here() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            act()

    if point == "decided":
        _after(Ledger, "command", here)
    elif point == "built":
        _after(TransactionalProducer, "build", here)
    elif point == "adopted":
        _after(Shard, "_adopt", here)
    elif point in ("sent", "committed"):
        from aura_stream.engine.transactions import TransactionClient

        _around(TransactionClient, "end", here, before=point == "sent", when=lambda *_: True)
    elif point in ("copied", "stored"):
        from asyncpg import Connection

        _around(Connection, "execute", here, before=point == "copied", when=lambda query, *_: query == "COMMIT")
    else:
        raise SystemExit(f"AURA_TORTURE: {point!r} is none of {', '.join(LEDGER_POINTS + SINK_POINTS)}")


def _after(owner: Any, name: str, here: Callable[[], None]) -> None:
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        found = plain(*arguments, **named)
        here()
        return found

    setattr(owner, name, wrapped)


def _around(owner: Any, name: str, here: Callable[[], None], *, before: bool, when: Callable[..., bool]) -> None:
    plain = getattr(owner, name)

    @functools.wraps(plain)
    async def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        if before and when(*arguments):
            here()
        found = await plain(self, *arguments, **named)
        if not before and when(*arguments):
            here()
        return found

    setattr(owner, name, wrapped)


def _late(seconds: float) -> None:
    from aura_stream.engine.producer import TransactionalProducer

    plain = TransactionalProducer.commit

    async def commit(self: TransactionalProducer, batches: Batches) -> dict[tuple[str, int], int]:
        await asyncio.sleep(seconds)
        return await plain(self, batches)

    TransactionalProducer.commit = commit  # type: ignore[method-assign]


def crash(mark: bytes) -> None:
    """Deciding a command that holds `mark` raises, from now on, in this process."""
    from agents.ledger import Ledger

    plain = Ledger.command

    def command(self: Ledger, unit: Any, record: Any) -> None:
        plain(self, unit, record)
        if mark in (record.value or b""):
            raise RuntimeError(PLANTED)

    Ledger.command = command  # type: ignore[method-assign]


def _shift_clock(file: Path) -> None:
    true_ns, monotonic = time.time_ns, time.monotonic
    offset_ns, read_at = 0, -1.0

    def time_ns() -> int:
        nonlocal offset_ns, read_at
        now = monotonic()
        if now - read_at > CLOCK_READ_S:
            read_at = now
            offset_ns = int(float(file.read_text() or 0) * 1e9)
        return true_ns() + offset_ns

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if __name__ == "__main__":
    main()
