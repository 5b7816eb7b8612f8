"""What the routes of events, streams and webhooks work with: made once per process, with connections of their own."""

from __future__ import annotations

from aura_stream.events.reads import EventReads
from aura_stream.events.tail import EventTail
from aura_stream.events.tickets import Tickets
from aura_stream.identity.database import Database
from aura_stream.identity.identity import Identity
from aura_stream.settings import Settings
from aura_stream.webhooks.endpoints import Endpoints
from aura_stream.webhooks.guard import Guard


class EventParts:
    """The log of events and its readers. A busy log takes no connection from logins."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.database = Database(settings.postgres_identity_dsn, settings.pool_size)
        self.reads = EventReads(self.database)
        self.tail = EventTail(settings.postgres_read_dsn, self.reads)
        self.tickets = Tickets(self.database, identity.sealer)
        self.endpoints = Endpoints(self.database, identity.sealer, Guard(settings.webhook_allow))

    def start(self) -> None:
        """Begins to read."""
        self.tail.start()

    async def stop(self) -> None:
        """Ends streams and connections."""
        await self.tail.stop()
        await self.database.close()
