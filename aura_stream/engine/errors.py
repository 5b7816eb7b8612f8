"""What can go wrong in the engine.

EngineError                 the engine itself failed: the process stops loudly
├── OutsideUnit             a table was touched outside a unit of work (a programmer's error)
├── StoreFailed             the local store cannot be read or written
│   └── StoreLocked         another process has it open
├── SignalGap               a signal is missing between two shards: money under way would be lost
├── SignalUndecodable       a signal cannot be read
└── DataLost                Kafka holds less than was read from it (truncated, recreated, out of range)
CommitFailed                a unit's Kafka transaction has an unknown or bad end: the shard reopens and runs it again
Fenced                      another owner has taken the partition
Poison                      one record cannot be handled: it becomes a dead letter, the rest goes on
└── Oversize                a value is too large for its topic or table
"""

from __future__ import annotations


class EngineError(Exception):
    """The engine itself failed. Nothing may be acknowledged after it; the process ends with exit code 70."""


class OutsideUnit(EngineError):
    """A table was used outside a unit of work; only code that the engine calls with a record may use one."""


class StoreFailed(EngineError):
    """The local store cannot be read or written."""


class StoreLocked(StoreFailed):
    """The local store is open in another process, or in this one."""


class SignalGap(EngineError):
    """The sequence of signals from another shard has a hole."""


class SignalUndecodable(EngineError):
    """A record of the signals topic cannot be read; signals are money under way and never become dead letters."""


class DataLost(EngineError):
    """A topic holds less than was already read from it. Never repaired in silence."""


class CommitFailed(Exception):
    """A Kafka transaction did not end well, or nobody knows how it ended. The log knows: reopen and look."""


class Fenced(CommitFailed):
    """A newer producer has the shard's transactional id."""


class Poison(Exception):
    """A record that cannot be handled. `reason` and `detail` go with it to the dead letters."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Oversize(Poison):
    """A value above the size limit of its topic or table."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__("message_too_large", f"{what} has {size} bytes, {limit} are allowed")
