"""An event loop without a world: time is a number that jumps to the next timer, and nothing else can happen.

The real code sleeps and times out on it without knowing. Processes of the simulated cluster share the loop; a frozen
one's callbacks and timers are parked until it thaws, as SIGSTOP and SIGCONT would have it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, Protocol, TypeVarTuple

Ts = TypeVarTuple("Ts")
STEPS_MAX = 2_000_000


class Host(Protocol):
    """A process as the loop sees it."""

    frozen: bool
    parked: list[tuple[Host | None, asyncio.Handle]]
    tasks: dict[asyncio.Task[Any], None]


PROCESS: ContextVar[Any] = ContextVar("process", default=None)
"""The simulated process that the running code belongs to; None is the world around: brokers, database, clients."""


class Stuck(Exception):
    """Nothing can ever happen again, or something happens for ever."""


class Loop(asyncio.BaseEventLoop):
    """Runs callbacks in the order of their time, then of their registration."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.steps = 0
        self.broken: list[dict[str, Any]] = []  # what nobody handled
        self._queue: deque[tuple[Any, asyncio.Handle]] = deque()
        self._timers: list[tuple[float, int, Any, asyncio.TimerHandle]] = []
        self._count = 0
        self.set_task_factory(_make_task)
        self.set_exception_handler(lambda _, context: self.broken.append(context))

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self.now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Puts a callback at the end of the queue."""
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append((PROCESS.get() if context is None else context.get(PROCESS), handle))
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Calls at a time; of the same time in order of registration."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        host = PROCESS.get() if context is None else context.get(PROCESS)
        heapq.heappush(self._timers, (when, self._count, host, handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Calls after a delay."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def unpark(self, parked: list[tuple[Any, asyncio.Handle]]) -> None:
        """Queues what a frozen process could not run."""
        self._queue.extend(parked)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when their time comes."""

    def _run_once(self) -> None:
        queue, timers = self._queue, self._timers
        if not queue:
            while timers and timers[0][3].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise Stuck("nothing is left that could happen")
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            _, _, host, timer = heapq.heappop(timers)
            if not timer.cancelled():
                queue.append((host, timer))
        for _ in range(len(queue)):
            host, handle = queue.popleft()
            if handle.cancelled():
                continue
            if host is not None and host.frozen:
                host.parked.append((host, handle))
                continue
            self.steps += 1
            handle._run()
        if self.steps > STEPS_MAX:
            raise Stuck(f"{STEPS_MAX} steps were not enough")

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no events from outside."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None) -> asyncio.Task[Any]:
    """A task that its process knows, so that it can die with it."""
    host = PROCESS.get() if context is None else context.get(PROCESS)
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
    if host is not None:
        host.tasks[task] = None
        task.add_done_callback(lambda done: host.tasks.pop(done, None) and None)
    return task
