"""The supervisor: load and faults, healing, quiet, final reads, every checker, and a digest of the books.

Which faults come, in which order and for how long, follows from the seed; what the machine makes of it does not. A run
that fails leaves its directory: every log, and the client's history.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aura_stream import SetupError
from aura_stream.ledger.verify import digest
from tests.e2e.client import Client, History
from tests.e2e.stack import QUIET_S
from tests.invariants.checks import equal
from tests.invariants.coherent import assert_coherent
from tests.torture.faults import FAULTS, OF_BANKS, Fault, Torture
from tests.torture.settling import Settling
from tests.torture.stack import HEALED_S, TortureStack

log = logging.getLogger(__name__)

LOAD_PER_S = 25.0
PAIRED = 0.4
PROGRESS_MAX_S = 120.0
"""When to stop hoping for progress; later than HEALED_S is a violation all the same."""


@dataclass
class Report:
    """What a run did and found."""

    seed: int
    seconds: float
    only: list[str] = field(default_factory=list)  # the rows that were asked for; empty: all
    banks: bool = False
    settlements: dict[str, int] = field(default_factory=dict)
    looks: int = 0  # how often the chain was held against the banks' books while both were written
    rows: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    commands: int = 0
    acknowledged: int = 0
    retries: int = 0
    http_answers: dict[str, int] = field(default_factory=dict)
    recovery_s: list[float] = field(default_factory=list)
    recovery_of: list[str] = field(default_factory=list)
    entries: int = 0
    transactions: int = 0
    violations: list[str] = field(default_factory=list)
    digest: str = ""
    left: str = ""  # the directory of a run that failed

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {**vars(self), "recovery_percentiles_s": self.percentiles()}

    def percentiles(self) -> dict[str, float]:
        """How long it took from a healing to progress in every partition."""
        found = sorted(self.recovery_s)
        if not found:
            return {}
        return {name: round(found[math.ceil(share * len(found)) - 1], 2) for name, share in _SHARES}

    def __str__(self) -> str:
        faults = [f"  {count:4} {name}" for name, count in sorted(self.faults.items())]
        slow = sorted(zip(self.recovery_s, self.recovery_of, strict=True), reverse=True)[:3]
        lines = [
            f"torture: seed {self.seed}, {self.seconds:.0f} s of load and faults",
            f"faults injected: {sum(self.faults.values())}, of {len(self.rows)} rows",
            *faults,
            f"commands wanted {self.commands}, acknowledged {self.acknowledged}, sent again {self.retries}",
            f"HTTP answers: {self.http_answers}",
            f"recovery after healing, s: {self.percentiles()}",
            *[f"  {seconds:6.2f} after {name}" for seconds, name in slow],
            *[f"skipped {row}: {why}" for row, why in sorted(self.skipped.items())],
            f"transactions {self.transactions}, entries {self.entries}",
            *([f"settlements: {self.settlements}, books looked at {self.looks} times meanwhile"] if self.banks else []),
            f"digest {self.digest or '-'}",
            f"violations: {len(self.violations)}",
            *[f"  {violation}" for violation in self.violations],
            *([f"its logs and the client's history are in {self.left}"] if self.left else []),
            self.again(),
        ]
        return "\n".join(lines)

    def again(self) -> str:
        """The command that repeats it."""
        told = ([] if self.banks else ["--no-banks"]) + ([f"--row {','.join(self.only)}"] if self.only else [])
        arguments = f' ARGS="{" ".join(told)}"' if told else ""
        return f"again: make torture SECONDS={self.seconds:.0f} SEED={self.seed}{arguments}"


_SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


def drawn(seed: int, rows: Iterable[str] = (), *, banks: bool = False) -> tuple[list[Fault], dict[str, str]]:
    """The faults that this machine can have, in the seed's order, and why it cannot have the others."""
    wanted = set(rows)
    chosen = [fault for fault in (*FAULTS, *(OF_BANKS if banks else ())) if not wanted or fault.row in wanted]
    reasons = {fault.row: why for fault in chosen if (why := fault.unable())}
    able = [fault for fault in chosen if fault.row not in reasons]
    random.Random(seed).shuffle(able)
    return able, reasons


def run(
    home: Path,
    *,
    seconds: float,
    seed: int,
    rows: Sequence[str] = (),
    session_s: float = 10.0,
    banks: bool = False,
) -> Report:
    """Tortures a whole system of its own below `home` for so many seconds, and says what became of it.

    `banks`: with settlements through banks and a chain, and the faults of both.
    """
    stack = TortureStack(home, session_s=session_s, seed=seed, banks=banks)
    report = Report(seed, seconds, list(rows), banks)
    history = None
    try:
        stack.start_services()
        stack.start_roles()
        history = History(home / "history.jsonl")
        key = stack.environment["AURA_API_KEY"]
        client = Client(stack.bootstrap, stack.settings.api_url, key, seed=seed, history=history)
        asyncio.run(_torture(stack, client, report, rows))
    except* (AssertionError, SetupError) as group:
        report.violations += [str(error) for error in leaves(group)]
    finally:
        stack.close()
        if history is not None:
            history.close()
    if report.violations:
        report.left = str(home)
    else:
        shutil.rmtree(home, ignore_errors=True)
    return report


async def _torture(stack: TortureStack, client: Client, report: Report, rows: Sequence[str]) -> None:
    faults, report.skipped = drawn(report.seed, rows, banks=report.banks)
    assert faults, f"no fault of {', '.join(rows)} can be had here: {report.skipped}"
    await client.prepare()
    await stack.quiet()
    chances = random.Random(report.seed)
    try:
        async with AsyncExitStack() as context:
            await context.enter_async_context(client.connected())
            settling = None
            if report.banks:
                settling = Settling(stack, client, seed=report.seed)
                await context.enter_async_context(settling.with_operator())
                await settling.prepare()
            await _hurt(Torture(stack, client, chances, settling), faults, report)
            if settling is not None:
                await settling.come_to_rest()
                report.settlements, report.looks = await settling.outcomes(), settling.looks
                await settling.must_agree()
    finally:
        count(client, report)
    found = await assert_coherent(stack, client, within_s=2 * QUIET_S)
    report.entries, report.transactions = len(found.entries), len(found.transactions)
    connection = await stack.connect()
    try:
        report.digest = await digest(connection)
    finally:
        await connection.close()
    recalled = Client("", "", "", seed=0)
    assert client.history is not None
    recalled.recall(client.history.path)
    equal("intents in the history on disk", recalled.intents, client.intents)
    equal("bytes in the history on disk", recalled.malformed, client.malformed)
    equal("reads in the history on disk", recalled.reads, client.reads)


async def _hurt(torture: Torture, faults: Sequence[Fault], report: Report) -> None:
    """Load, settlements if there are banks, and faults, for as long as the run is told to take."""
    chances, client, settling = torture.random, torture.client, torture.settling
    give_up = time.monotonic() + report.seconds
    async with AsyncExitStack() as context:
        if settling is not None:
            await context.enter_async_context(settling.time_passes())
            await context.enter_async_context(settling.settling())
        async with client.loading(per_second=LOAD_PER_S):
            waiting: list[Fault] = []
            while time.monotonic() < give_up:
                if not waiting:
                    waiting = [*faults]
                    chances.shuffle(waiting)
                chosen = [waiting.pop()]
                # Bad luck does not come alone: often a second fault, of another part of the system, beside the first.
                other = next((fault for fault in reversed(waiting) if fault.place != chosen[0].place), None)
                if other is not None and chances.random() < PAIRED:
                    waiting.remove(other)
                    chosen.append(other)
                await suffer(torture, chosen, report)


async def suffer(torture: Torture, faults: Sequence[Fault], report: Report) -> None:
    """Faults, side by side; their healing, and progress after it."""

    async def one(fault: Fault) -> None:
        async with fault.inject(torture):
            report.faults[f"{fault.row} {fault.name}"] += 1
            report.rows[fault.row] += 1

    name = " and ".join(f"{fault.row} {fault.name}" for fault in faults)
    log.info("%s ...", name)
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            group.create_task(one(fault))
    starting = await torture.stack.heal()
    # Services are up and roles are launched: what they take to start, to join and to restore belongs to the recovery.
    seconds = await torture.stack.progress(torture.client, PROGRESS_MAX_S)
    report.recovery_s.append(round(seconds, 3))
    report.recovery_of.append(name)
    log.info("%s: progress is back after %.1f s", name, seconds)
    if seconds > HEALED_S:
        report.violations.append(f"{name}: progress was back after {seconds:.1f} s only")
    await torture.stack.ready(starting)


def leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    """The errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def count(client: Client, report: Report) -> None:
    """What the client did."""
    attempts = [attempt for intent in client.intents for attempt in intent.attempts]
    report.commands = len(client.intents)
    report.acknowledged = client.acknowledged
    report.retries = len(attempts) - len(client.intents)
    report.http_answers = {str(status or "none"): n for status, n in sorted(client.answers.items())}
