"""A consumer group's coordinator: members, generations, eager assignment, sessions, committed offsets.

Times are Kafka's: a member that is silent for a session is removed; a rebalance waits for those who have not joined
again, but not for ever.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

from aiokafka.errors import CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from faust.types import TP

from tests.simulation.log import Broker

SESSION_S = 10.0
REBALANCE_S = 20.0
SETTLE_S = 0.05  # members that come together are assigned together
Assigned = tuple[int, list[int]]
"""Generation and partition numbers."""


@dataclass(slots=True)
class Seat:
    """A member as the coordinator knows it."""

    last_seen: float
    numbers: list[int] = field(default_factory=list)
    joining: asyncio.Future[Assigned | None] | None = None


class Group:
    """One group over partition numbers 0 to `partitions` - 1; all topics of a number go to one member."""

    def __init__(self, broker: Broker, random: Random, topics: tuple[str, ...], partitions: int) -> None:
        self.broker, self.random, self.topics, self.partitions = broker, random, topics, partitions
        self.generation = 0
        self.seats: dict[str, Seat] = {}
        self.rebalancing = False
        self.committed: dict[TP, int] = {}
        self._round = 0

    def join(self, member: str) -> asyncio.Future[Assigned | None]:
        """JoinGroup and SyncGroup: the future gives the assignment, None when the member is unknown by then."""
        seat = self.seats.get(member)
        if seat is None:
            seat = self.seats[member] = Seat(self.broker.loop.now)
            self.broker.later(SESSION_S, self._expire, member, seat)
        seat.last_seen = self.broker.loop.now
        if seat.joining is not None and not seat.joining.done():
            seat.joining.set_result(None)
        seat.joining = self.broker.loop.create_future()
        future = seat.joining
        if not self.rebalancing:
            self._begin()
        self.broker.later(SETTLE_S, self._complete_if_all, self._round)
        return future

    def leave(self, member: str) -> None:
        """LeaveGroup."""
        if self.seats.pop(member, None) is not None:
            self._begin()

    def heartbeat(self, member: str, generation: int) -> None:
        """Raises what the member must know."""
        seat = self._seat(member, generation)
        seat.last_seen = self.broker.loop.now
        if self.rebalancing:
            raise RebalanceInProgressError

    def commit(self, member: str, generation: int, offsets: dict[TP, int]) -> None:
        """OffsetCommit. Raises CommitFailedError for stale members."""
        try:
            self._seat(member, generation)
        except (UnknownMemberIdError, IllegalGenerationError) as error:
            raise CommitFailedError(str(error)) from error
        self.committed.update(offsets)

    def _seat(self, member: str, generation: int) -> Seat:
        seat = self.seats.get(member)
        if seat is None:
            raise UnknownMemberIdError
        if generation != self.generation:
            raise IllegalGenerationError
        return seat

    def _begin(self) -> None:
        if not self.rebalancing:
            self.rebalancing = True
            self._round += 1
            self.broker.later(REBALANCE_S, self._complete, self._round)
        self.broker.later(SETTLE_S, self._complete_if_all, self._round)

    def _complete_if_all(self, number: int) -> None:
        if all(seat.joining is not None for seat in self.seats.values()):
            self._complete(number)

    def _complete(self, number: int) -> None:
        if not self.rebalancing or number != self._round:
            return
        self.seats = {name: seat for name, seat in self.seats.items() if seat.joining is not None}
        self.rebalancing = False
        self.generation += 1
        self._assign()
        for seat in self.seats.values():
            seat.last_seen = self.broker.loop.now
            future, seat.joining = seat.joining, None
            if future is not None and not future.done():
                future.set_result((self.generation, seat.numbers))

    def _assign(self) -> None:
        """Sticky where it can be, and sometimes everything moves."""
        seats = list(self.seats.values())
        if not seats:
            return
        if self.random.random() < 0.2:
            for seat in seats:
                seat.numbers = []
        most = -(-self.partitions // len(seats))
        free = dict.fromkeys(range(self.partitions))
        for seat in seats:
            seat.numbers = [number for number in seat.numbers if number in free][:most]
            for number in seat.numbers:
                del free[number]
        for number in free:
            min(seats, key=lambda seat: len(seat.numbers)).numbers.append(number)

    def _expire(self, member: str, seat: Seat) -> None:
        """Removes a member that was silent for a session; a broker that is down has nobody to watch."""
        if self.seats.get(member) is not seat:
            return
        now = self.broker.loop.now
        if self.broker.down:
            seat.last_seen = now
        if seat.joining is None and seat.last_seen + SESSION_S <= now:
            self.leave(member)
            return
        wait = SESSION_S if seat.joining is not None else seat.last_seen + SESSION_S - now
        self.broker.later(wait, self._expire, member, seat)
