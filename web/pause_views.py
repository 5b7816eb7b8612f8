"""Pauses as clients see them: made of what the journal's tail and the log of events say about each. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from aura_stream.domain.commands import format_time
from aura_stream.journal import PauseLine

Json = dict[str, Any]

STATES: Final = ("set", "applied", "lifted", "cleared")
"""In their order. `applied` and `cleared`: every partition and lane has it."""


@dataclass(slots=True)
class PauseView:
    """One pause: what it is about, and when each of its states was reached."""

    id: str
    tenant: str
    """Of the command that set it, as `customer`: a command that lifts it goes the same way."""
    customer: str
    scope: dict[str, str] = field(default_factory=dict)
    note: str = ""
    at: dict[str, str] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """The furthest that is known. News of it may come out of order, from several partitions."""
        return max(self.at, key=STATES.index)

    @property
    def stands(self) -> bool:
        """Whether it still holds work back."""
        return not self.has_reached("lifted")

    def has_reached(self, state: str) -> bool:
        """Whether it is in a state, or beyond it."""
        return STATES.index(self.state) >= STATES.index(state)

    def concerns(self, tenant: str) -> bool:
        """Whether it can hold back work of a tenant."""
        return self.scope.get("tenant", tenant) == tenant

    @property
    def resource(self) -> Json:
        """What is shown."""
        made: Json = {
            "id": self.id,
            "state": self.state,
            "scope": self.scope,
            "set_by": self.by.get("set", ""),
            "note": self.note or None,
        }
        made |= {f"{state}_at": self.at.get(state) for state in STATES}
        return made | {"lifted_by": self.by.get("lifted")}


def views_of(bodies: Iterable[str], lines: Iterable[PauseLine]) -> dict[str, PauseView]:
    """All pauses that events (their bodies in the log) and lines of the journal tell of, the last set one first."""
    found: dict[str, PauseView] = {}
    for body in bodies:
        event = orjson.loads(body)
        pause = event["data"]["pause"]
        view = found.setdefault(pause["id"], PauseView(pause["id"], event["tenant_id"], event["customer_id"]))
        _tell(view, event["type"], event["occurred_at"], pause["by"], pause.get("note", ""), pause.get("scope", {}))
    for line in lines:
        view = found.setdefault(line.id, PauseView(line.id, line.tenant, line.customer))
        _tell(view, line.event, format_time(line.at), line.by, line.note, line.scope)
    newest_first = sorted(found.values(), key=lambda view: (max(view.at.values()), view.id), reverse=True)
    return {view.id: view for view in newest_first}


def _tell(view: PauseView, event: str, at: str, by: str, note: str, scope: dict[str, str]) -> None:
    state = event.removeprefix("pause.")
    view.at[state], view.by[state] = at, by
    view.note, view.scope = note, scope
