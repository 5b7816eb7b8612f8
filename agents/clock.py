"""The ledger's part for the clock: tells all partitions and lanes how far it is moved (`domain/clock.py`).

The engine adds it to the time of what comes next (`Unit.move_clock`); it is part of the shard's state.
"""

from __future__ import annotations

from typing import Final

from agents.settlements import lanes
from agents.writing import refuse, send_event
from aura_stream.domain.clock import Moving, advanced, taken
from aura_stream.domain.commands import ClockAdvance
from aura_stream.domain.events import ClockData, EventData
from aura_stream.domain.lane_requests import ENCODE as ENCODE_REQUEST
from aura_stream.domain.lane_requests import SetClock
from aura_stream.domain.reasons import Refused
from aura_stream.domain.signals import ClockMoved, ClockTaken
from aura_stream.domain.state import IdempotencyKey, Rules
from aura_stream.engine.unit import Unit
from aura_stream.journal import ClockLine
from tables.clock import CLOCK, MOVING
from tables.idempotency_keys import IDEMPOTENCY_KEYS

COMMANDS: Final = frozenset({"clock.advance"})


def advance(unit: Unit, command: ClockAdvance, key: bytes, content: str, rules: Rules) -> None:
    """`clock.advance`. Raises nothing: a refusal is an answer."""
    data = command.data
    try:
        moved_ms = advanced(rules.mode, unit.moved_ms, data.advance_s)
    except Refused as refusal:
        refuse(unit, command, key, content, refusal)
        return
    told = lanes(rules)
    moving = Moving(moved_ms, unit.partitions + len(told), command.tenant, command.customer, data.operator)
    CLOCK.set(MOVING, moving)
    for partition in range(unit.partitions):
        unit.signal_partition(partition, ClockMoved(moved_ms, unit.partition))
    for topic, lane in told:
        unit.ask(topic, lane, ENCODE_REQUEST(SetClock(moved_ms, unit.partition)))
    # Without an end: the clock itself would bring it, and the same command sent again would move it once more.
    IDEMPOTENCY_KEYS.set(key, IdempotencyKey(content, "done", status="moving"))
    _tell(unit, moving, "clock.advanced", command.id, command.idempotency_key)
    # Here it acts at once: a second command in the same unit counts from it.
    unit.move_clock(moved_ms)


def moved(unit: Unit, news: ClockMoved) -> None:
    """The clock was moved somewhere."""
    unit.move_clock(news.moved_ms)
    unit.signal_partition(news.home, ClockTaken(news.moved_ms))


def taken_by_one_more(unit: Unit, news: ClockTaken) -> None:
    """A partition or lane has answered."""
    moving = taken(CLOCK.get(MOVING), news.moved_ms)
    if moving is not None:
        CLOCK.set(MOVING, moving)
        if not moving.missing:
            _tell(unit, moving, "clock.moved")


def _tell(unit: Unit, moving: Moving, event: str, command_id: str = "", idempotency_key: str = "") -> None:
    status = "moving" if command_id else "moved"
    who = (moving.tenant, moving.customer)
    data = EventData(clock=ClockData(moving.moved_ms, moving.by))
    send_event(unit, event, *who, "", 0, status, "", "", command_id, data)
    unit.line(ClockLine(*who, event, status, unit.at, moving.by, moving.moved_ms, command_id, idempotency_key))
