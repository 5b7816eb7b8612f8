"""What the journal said lately: outcomes for those who wait, and what Postgres does not have yet.

Pure bookkeeping without Kafka: the tail feeds it, requests read it. Everything is bounded. For each partition it is
complete from `complete_from` on; what lies before must come from Postgres.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aura_stream.domain.requests import MAKES
from aura_stream.journal import (
    AccountLine,
    AnswerLine,
    ChangeLine,
    ClockLine,
    PauseLine,
    ReceivedLine,
    TransactionLine,
    UnitRecord,
)
from web.clock_view import ClockView

Outcome = TransactionLine | ChangeLine | AccountLine | AnswerLine | PauseLine | ClockLine
"""A line that answers a command."""

_PAUSES_MAX = 1000
_REFUSED_MAX = 10_000


@dataclass(slots=True)
class PartitionProgress:
    """How far one partition of the journal was read, and what its units had read."""

    complete_from: int = 0
    """Journal offset from which on the lines are kept here."""
    position: int = 0
    """Next journal offset to read, past the markers of transactions."""
    last_seq: int = 0
    """`seq` of the last record read; 0 before the first."""
    commands_next: int = 0
    """First offset of the commands that is not known to be decided."""


@dataclass(slots=True)
class RecentTransaction:
    """The lines about one transaction that Postgres may not have yet, with the partition and offset of each."""

    lines: list[tuple[int, int, TransactionLine | ChangeLine | ReceivedLine]] = field(default_factory=list)

    @property
    def first(self) -> TransactionLine | None:
        """The line with which it began, if that is among them."""
        return next((line for _, _, line in self.lines if isinstance(line, TransactionLine)), None)

    @property
    def changes(self) -> list[ChangeLine]:
        """How it moved on, in order."""
        found = [line for _, _, line in self.lines if isinstance(line, ChangeLine)]
        return sorted(found, key=lambda line: line.seq)

    @property
    def received(self) -> list[ReceivedLine]:
        """The receiver's half."""
        return [line for _, _, line in self.lines if isinstance(line, ReceivedLine)]


class Recent:
    """The index over the journal's tail. One per API process, touched by its event loop only."""

    def __init__(self, partitions: int, lines_max: int = 200_000) -> None:
        self.partitions = [PartitionProgress() for _ in range(partitions)]
        self.units = 0
        self._lines_max = lines_max
        self._transactions: dict[str, RecentTransaction] = {}
        self._order: list[deque[tuple[int, str]]] = [deque() for _ in range(partitions)]
        self._kept = 0
        self._commands: dict[str, asyncio.Future[Outcome]] = {}
        self._watchers: dict[str, list[asyncio.Queue[ChangeLine]]] = defaultdict(list)
        self._progress: asyncio.Future[None] | None = None
        self.pauses: dict[str, list[PauseLine]] = {}
        """What this process has seen of pauses, by their ids; the log of events has what came before."""
        self.clock = ClockView()
        self.refused: dict[str, AnswerLine] = {}
        """Submits that made no transaction, by the ids that it would have had, until Postgres has them too."""

    def __len__(self) -> int:
        return self._kept

    @property
    def waiting(self) -> int:
        """Commands and transactions that someone waits for."""
        return len(self._commands) + len(self._watchers)

    def transaction(self, transaction_id: str) -> RecentTransaction | None:
        """The lines kept about a transaction, as of now.

        A copy: who reads Postgres next must keep what is dropped here meanwhile, since Postgres may have answered
        before it had it.
        """
        recent = self._transactions.get(transaction_id)
        return RecentTransaction(list(recent.lines)) if recent is not None else None

    def begin(self, partition: int, offset: int) -> None:
        """Reading of a partition begins at `offset`; what was kept of it before is dropped."""
        progress = self.partitions[partition]
        self.forget(partition, 1 << 62)
        progress.complete_from = progress.position = offset
        progress.last_seq = 0

    def apply(self, partition: int, offset: int, unit: UnitRecord) -> None:
        """Takes in one record of the journal."""
        progress = self.partitions[partition]
        if progress.last_seq and unit.seq != progress.last_seq + 1:
            # A hole: nothing before it may be taken for complete.
            self.forget(partition, offset)
            progress.complete_from = offset
        progress.last_seq = unit.seq
        progress.position = max(progress.position, offset + 1)
        self.units += 1
        for line in unit.lines:
            match line:
                case TransactionLine():
                    self._keep(partition, offset, line.id, line)
                    self._answer(line.command_id, line)
                case ChangeLine():
                    self._keep(partition, offset, line.id, line)
                    if line.command_id:
                        self._answer(line.command_id, line)
                    if self._watchers:
                        self._tell(line)
                case ReceivedLine():
                    self._keep(partition, offset, line.id, line)
                case AccountLine() | AnswerLine() if line.command_id:
                    if isinstance(line, AnswerLine) and line.kind in ("refused", "dead_letter"):
                        self._keep_refused(line)
                    self._answer(line.command_id, line)
                case PauseLine():
                    self.pauses.setdefault(line.id, []).append(line)
                    while len(self.pauses) > _PAUSES_MAX:
                        del self.pauses[next(iter(self.pauses))]
                    if line.command_id:
                        self._answer(line.command_id, line)
                case ClockLine():
                    self.clock.saw(line.moved_ms, 0 if line.command_id else line.moved_ms)
                    if line.command_id:
                        self._answer(line.command_id, line)
                case _:  # an account that a transaction froze: nobody waits for it here
                    pass
        for kind, *numbers in unit.inputs:
            if kind == "commands":
                progress.commands_next = max(progress.commands_next, int(numbers[1]) + 1)
        # Only whole units may be forgotten, so the bound is applied behind one.
        while self._kept > self._lines_max:
            self._evict()

    def notify(self) -> None:
        """Wakes everyone who waits for progress; called once per batch."""
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)
        self._progress = None

    async def progressed(self, timeout_s: float) -> None:
        """Returns at the next progress, or after `timeout_s`."""
        if self._progress is None:
            self._progress = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._progress], timeout=max(timeout_s, 0.0))

    def forget(self, partition: int, before: int) -> None:
        """Drops the lines of a partition below a journal offset: Postgres has them."""
        order = self._order[partition]
        while order and order[0][0] < before:
            offset, transaction_id = order.popleft()
            self._kept -= 1
            recent = self._transactions.get(transaction_id)
            if recent is None:
                continue  # another line of the same record took this one along
            recent.lines = [one for one in recent.lines if one[0] != partition or one[1] > offset]
            if not recent.lines:
                del self._transactions[transaction_id]
        progress = self.partitions[partition]
        progress.complete_from = max(progress.complete_from, min(before, progress.position))

    @contextmanager
    def waiter(self, command_id: str) -> Iterator[asyncio.Future[Outcome]]:
        """A future of the command's outcome. Ask before producing, or the answer may pass unseen."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._commands[command_id] = future
        try:
            yield future
        finally:
            self._commands.pop(command_id, None)

    @contextmanager
    def watcher(self, transaction_id: str) -> Iterator[asyncio.Queue[ChangeLine]]:
        """A queue of the transaction's further changes."""
        queue: asyncio.Queue[ChangeLine] = asyncio.Queue()
        self._watchers[transaction_id].append(queue)
        try:
            yield queue
        finally:
            self._watchers[transaction_id].remove(queue)
            if not self._watchers[transaction_id]:
                del self._watchers[transaction_id]

    def _keep(
        self, partition: int, offset: int, transaction_id: str, line: TransactionLine | ChangeLine | ReceivedLine
    ) -> None:
        recent = self._transactions.get(transaction_id)
        if recent is None:
            recent = self._transactions[transaction_id] = RecentTransaction()
        recent.lines.append((partition, offset, line))
        self._order[partition].append((offset, transaction_id))
        self._kept += 1

    def _keep_refused(self, line: AnswerLine) -> None:
        if line.transaction_id and line.command_type in MAKES:
            self.refused.pop(line.transaction_id, None)
            self.refused[line.transaction_id] = line
            while len(self.refused) > _REFUSED_MAX:
                del self.refused[next(iter(self.refused))]

    def _evict(self) -> None:
        longest = max(range(len(self._order)), key=lambda one: len(self._order[one]))
        self.forget(longest, self._order[longest][0][0] + 1)

    def _answer(self, command_id: str, line: Outcome) -> None:
        future = self._commands.get(command_id)
        if future is not None and not future.done():
            future.set_result(line)

    def _tell(self, line: ChangeLine) -> None:
        for queue in self._watchers.get(line.id, ()):
            queue.put_nowait(line)
