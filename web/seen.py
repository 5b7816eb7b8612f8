"""What becomes known of a request on its way through the door: for its log line and the headers of its answer."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from aura_stream.events.tickets import Adopted
from aura_stream.identity.limits import Standing
from aura_stream.identity.permissions import Principal


@dataclass(slots=True)
class Seen:
    """One per request, made before anything else. It has an attribute per thing, for each is asked for every time."""

    request_id: str
    principal: Principal | None = None
    """Who asks, once that is known."""
    command_id: str = ""
    """The command that it has sent: the id that the journal, the tables and dead letters have."""
    refused_by: str = ""
    """The service whose rule refused it."""
    adopted: Adopted | None = None
    """Whose it is when it is a stream that came without a header."""
    standing: Standing | None = None
    """Where the tightest limit stands that it has spent of."""


SEEN: web.RequestKey[Seen] = web.RequestKey("seen", Seen)
