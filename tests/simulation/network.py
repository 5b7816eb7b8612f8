"""The way between a process and a server: where requests are lost, answers are lost, and some come too late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from aiokafka.errors import KafkaConnectionError, KafkaError, NotEnoughReplicasAfterAppendError, RequestTimedOutError

if TYPE_CHECKING:
    from tests.simulation.cluster import Process
    from tests.simulation.log import Broker

T = TypeVar("T")
REQUEST_TIMEOUT_S = 3.0


class Network:
    """Requests to the brokers."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def reachable(self, process: Process) -> bool:
        """Whether a process and the brokers hear each other."""
        return not self.broker.down and not process.isolated

    async def request(
        self, process: Process, what: str, act: Callable[[], T], *, writes: bool = False, ends: str = ""
    ) -> T:
        """One request and its answer. Raises Kafka's errors: broken connections, time-outs, and what `act` raises.

        `writes` may be refused by the broker; `ends` names the producer whose transaction the request ends.
        """
        await process.step(what)
        faults = process.faults
        if not self.reachable(process):
            await self._unanswered(process, what)
        fate = faults.request()
        if writes and fate == "ok" and faults.happens(faults.profile.refused):
            fate = "refused"
        if ends and faults.happens(faults.profile.late_end):
            process.trace(f"{what}: held back")
            faults.counts["ends held back"] += 1
            self.broker.hold(ends, lambda: self._late(process, what, act))
            return await self._unanswered(process, what)
        if fate == "ok":
            answer = act()
            await process.step(f"{what} answered")
            return answer
        process.trace(f"{what}: {fate}")
        if fate == "reply lost" or (fate == "refused" and faults.random.random() < 0.5):
            act()
        elif fate == "late":
            self.broker.later(faults.lateness(), self._late, process, what, act)
        if fate == "refused":
            raise NotEnoughReplicasAfterAppendError
        return await self._unanswered(process, what)

    async def _unanswered(self, process: Process, what: str) -> T:
        if process.faults.silence():
            await asyncio.sleep(REQUEST_TIMEOUT_S)
            await process.step(f"{what} timed out")
            raise RequestTimedOutError
        await asyncio.sleep(0.001)
        raise KafkaConnectionError(f"{what}: connection lost")

    def _late(self, process: Process, what: str, act: Callable[[], object]) -> None:
        if not self.broker.down:
            process.trace(f"{what}: arrives late")
            with contextlib.suppress(KafkaError):
                act()
