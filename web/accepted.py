"""Ids this node has accepted and nobody has decided yet, and keys whose first request is not answered yet."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from web.problems import Problem
from web.recent import Recent

Key = tuple[str, str, str]
"""Tenant, customer, idempotency key."""


class AcceptedCommand(NamedTuple):
    """A submit that Kafka has: where it stands and what it makes."""

    tenant: str
    customer: str
    type: str  # deposit | transfer | hold
    command_id: str
    partition: int
    offset: int


class Accepted:
    """Bounded memory of accepted submits by transaction id, and of requests under way by idempotency key."""

    def __init__(self, recent: Recent, count_max: int = 200_000) -> None:
        self._recent = recent
        self._count_max = count_max
        self._commands: OrderedDict[str, AcceptedCommand] = OrderedDict()
        self._under_way: set[Key] = set()

    def add(self, transaction_id: str, command: AcceptedCommand) -> None:
        """Remembers an acknowledged submit."""
        self._commands[transaction_id] = command
        # Oldest first; what is decided is known better elsewhere.
        while self._commands:
            oldest = next(iter(self._commands))
            if len(self._commands) <= self._count_max and not self._is_decided(self._commands[oldest]):
                break
            del self._commands[oldest]

    def undecided(self, tenant: str, transaction_id: str) -> AcceptedCommand | None:
        """The accepted submit of this id while it is not decided."""
        command = self._commands.get(transaction_id)
        if command is None or command.tenant != tenant or self._is_decided(command):
            return None
        return command

    def begin(self, key: Key) -> None:
        """Holds a key until :meth:`end`, while its request is under way; another raises ``idempotency_in_progress``."""
        if key in self._under_way:
            raise Problem("idempotency_in_progress", retry_after_s=1)
        self._under_way.add(key)

    def end(self, key: Key) -> None:
        """The request that has begun is answered."""
        self._under_way.discard(key)

    def _is_decided(self, command: AcceptedCommand) -> bool:
        return self._recent.partitions[command.partition].commands_next > command.offset
