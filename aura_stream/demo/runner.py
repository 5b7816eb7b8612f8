"""Plays the plan: opens the accounts, keeps the rate, lets everything come to rest, and judges."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from aura_stream.demo.book import Book
from aura_stream.demo.doors import HttpDoor, KafkaDoor
from aura_stream.demo.figures import Latencies
from aura_stream.demo.outside import Address, Outside
from aura_stream.demo.plan import Plan
from aura_stream.demo.settled import Evidence
from aura_stream.demo.settling import Settling
from aura_stream.demo.steps import Step
from aura_stream.demo.verdict import Verdict, judge, read_stored
from aura_stream.demo.watch import Database, Topics
from aura_stream.ledger.connection import READER, connect
from aura_stream.ledger.verify import verify
from aura_stream.settings import SetupError

Phase = Literal["opening accounts", "playing", "coming to rest", "verifying", "done"]

STILL_MAX_S: Final = 30.0
"""How long nothing may move before what is open is taken for lost."""
REST_MAX_S: Final = 300.0
"""How long coming to rest may take at all."""
_TICK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line. `seconds` 0: until :meth:`Runner.end_load`."""

    seconds: float
    rate: float
    http_rate: float
    seed: int


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the product is."""

    kafka: str
    postgres: str
    api: str
    api_key: str
    partitions: int
    outside: Address | None = None
    """The banks and the chain; None: settlement is not played."""


class Runner:
    """One demo. `ended` names those of the `processes` that have stopped by themselves."""

    def __init__(
        self, options: Options, addresses: Addresses, ended: Callable[[], list[str]], processes: int = 0
    ) -> None:
        self.options = options
        self.book = Book()
        self.decided, self.committed, self.answered = Latencies(), Latencies(), Latencies()
        self.topics = Topics(addresses.kafka, addresses.partitions, self.book, self.decided)
        self.database = Database(addresses.postgres, addresses.partitions, self.topics, self.committed)
        self.phase: Phase = "opening accounts"
        self.began_at = self.phase_at = time.monotonic()
        self.load_s = 0.0
        self.problems: list[str] = []
        self._addresses = addresses
        self._ended = ended
        self._processes = processes
        self._plan = Plan(options.seed, options.rate, options.http_rate)
        self.outside = Outside(addresses.outside) if addresses.outside is not None else None
        self.settling = Settling(options.seed, self.book.settled, self.outside) if self.outside is not None else None
        self.evidence: Evidence | None = None
        """What banks and chain have said at the end."""
        self._kafka = KafkaDoor(addresses.kafka, addresses.partitions, self.book, self._sending, self._accepted)
        self._http = HttpDoor(addresses.api, addresses.api_key, self.book, self.answered)
        self._stop = asyncio.Event()
        self._done: dict[int, asyncio.Future[None]] = {}
        self._last: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """Commands that are not at their end."""
        return self.book.settle() + len(self._tasks)

    @property
    def elapsed_s(self) -> float:
        """Seconds of load so far."""
        return time.monotonic() - self.phase_at if self.phase == "playing" else self.load_s

    def end_load(self) -> bool:
        """Ends the load early; what follows goes on. False if that was done before."""
        first = not self._stop.is_set()
        self._stop.set()
        return first

    async def run(self) -> Verdict:
        """Plays and judges. Raises :class:`SetupError` when the accounts cannot even be opened."""
        watchers: list[asyncio.Task[None]] = []
        try:
            await self._kafka.start()
            await self._http.start()
            await self.topics.start()
            works = [self.topics.run(), self.database.run(), self._guard()]
            if self.outside is not None:
                await self.outside.start()
                works.append(self.outside.run())
            watchers = [asyncio.create_task(work) for work in works]
            for watcher in watchers:
                watcher.add_done_callback(self._failed)
            await self._open_accounts()
            await self._play()
            await self._come_to_rest()
            self._enter("verifying")
            await self._end(watchers)
            return await self._judge()
        finally:
            await self._end([*watchers, *self._tasks])
            if self.settling is not None and self.outside is not None:
                await self.settling.stop()
                await self.outside.stop()
            await self._http.stop()
            await self._kafka.stop()
            await self.topics.stop()
            await self.database.close()

    # --- phases ---

    def _enter(self, phase: Phase) -> None:
        if self.phase == "playing":
            self.load_s = self.elapsed_s
        self.phase, self.phase_at = phase, time.monotonic()

    async def _open_accounts(self) -> None:
        for wave in self._plan.opening():
            for step in wave:
                await self._dispatch(step)
            if not await self._is_still(60):
                raise SetupError(
                    "The accounts of the demo could not be opened.",
                    where=self._addresses.kafka,
                    why=f"{self.open} of {len(wave)} commands were not decided within 60 s",
                    fix="aura demo --keep, and read the logs in the directory it names",
                )

    async def _is_still(self, timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        while self.open:
            if time.monotonic() > until:
                return False
            await asyncio.sleep(_TICK_S)
        return True

    async def _play(self) -> None:
        self._enter("playing")
        until = self.phase_at + self.options.seconds if self.options.seconds else float("inf")
        stories = self._tell_stories(until)
        while not self._stop.is_set() and time.monotonic() < until:
            await self._keep_time(self._plan.next(), until)
        # What must still be asked comes at the same rate.
        for step in self._plan.closing():
            await self._keep_time(step, float("inf"))
        await asyncio.wait(stories)

    def _tell_stories(self, until: float) -> list[asyncio.Task[None]]:
        if self.settling is None:
            return [asyncio.create_task(asyncio.sleep(0))]
        playing = self.settling.play(
            self._send, self.book.is_decided, lambda: self._stop.is_set() or time.monotonic() >= until
        )
        task = asyncio.create_task(playing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._failed)
        return [task]

    async def _send(self, step: Step) -> None:
        """Sends a step of a story; it is accepted when this returns."""
        await self._dispatch(step)
        if (done := self._done.get(step.number)) is not None:
            await asyncio.wait([done])

    async def _keep_time(self, step: Step, until: float) -> None:
        wait = self.phase_at + step.at - time.monotonic()
        if wait > 0:
            await asyncio.sleep(min(wait, max(0.0, until - time.monotonic())))
        await self._dispatch(step)

    async def _come_to_rest(self) -> None:
        self._enter("coming to rest")
        if self.settling is not None:
            self.problems += await self.settling.finish()
        figures, rows = self.book.figures, self.database.rows
        seen, moved_at, began = (-1, -1, -1), time.monotonic(), time.monotonic()
        while True:
            still_open = self.open
            if not still_open and not self.database.sink_lag and await self.topics.have_all():
                return
            now = (figures.decided, rows.entries, still_open)
            if now != seen:
                seen, moved_at = now, time.monotonic()
            if time.monotonic() - moved_at > STILL_MAX_S or time.monotonic() - began > REST_MAX_S:
                self.problems.append(
                    f"not at rest after {time.monotonic() - began:.0f} s: {still_open} commands open, "
                    f"{self.database.sink_lag} journal records not in Postgres {self.database.problem}".rstrip()
                )
                return
            await asyncio.sleep(_TICK_S)

    async def _judge(self) -> Verdict:
        self.book.settle()
        if self.outside is not None:
            self.evidence = await self.outside.evidence(self.book.settled)
        connection = await connect(self._addresses.postgres, READER, command_timeout_s=None)
        try:
            checks = await verify(connection)
            stored = await read_stored(connection)
        finally:
            await connection.close(timeout=2)
        self._enter("done")
        return judge(self.book, stored, checks, self._processes, self.problems, self.evidence)

    async def _guard(self) -> None:
        """Looks after the processes: one that ends by itself is told once."""
        while True:
            for text in self._ended():
                if text not in self.problems:
                    self.problems.append(text)
            await asyncio.sleep(1)

    async def _end(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        tasks = list(tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            await asyncio.wait([task])

    # --- sending ---

    async def _dispatch(self, step: Step) -> None:
        """Sends a step, after those that it needs: at once and in order where it can be, else in a task."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done[step.number] = done
        done.add_done_callback(lambda _: self._done.pop(step.number, None))
        owner = f"{step.tenant}/{step.customer}"
        needs = [self._done[step.after]] if step.after in self._done else []
        if step.door == "http":
            # What came before by the other door must be in the log, or it would be decided after.
            needs += [self._last[owner]] if owner in self._last else []
            self._start(needs, step, done)
        elif needs:
            self._start(needs, step, done)
        else:
            self._last[owner] = done
            await self._kafka.send(step, done)

    def _start(self, needs: list[asyncio.Future[None]], step: Step, done: asyncio.Future[None]) -> None:
        async def send() -> None:
            if needs:
                await asyncio.wait(needs)
            door = self._http if step.door == "http" else self._kafka
            await door.send(step, done)

        task = asyncio.create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._failed)

    def _failed(self, task: asyncio.Task[None]) -> None:
        """Notes an error of the demo itself: what it has not seen it cannot judge."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(f"the demo itself failed: {error!r}")

    def _sending(self, step: Step, at: float) -> None:
        if step.raw is None:
            self.topics.sent(step.command_id, at)

    def _accepted(self, partition: int, offset: int, at: float) -> None:
        self.database.sent(partition, offset, at)
