"""Tickets: a login for one stream, for browsers, whose streams can carry no header. Used once, within half a minute."""

from __future__ import annotations

import secrets
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from aura_stream.identity.database import Database
from aura_stream.identity.sealing import Sealer, Unsealable

LIFE_S: Final = 30
LENGTH: Final = 43
"""Characters of a ticket: 256 random bits."""


class Adopted(NamedTuple):
    """Whose a stream is."""

    credential: str | None
    tenant: str | None
    """The tenant that was named; None: that of the login."""


class Tickets:
    """Every method raises IdentityUnavailable while Postgres is away."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def make(self, owner: Adopted) -> tuple[str, datetime]:
        """A ticket, and until when it can be used."""
        ticket = secrets.token_urlsafe(32)
        digest = sha256(ticket.encode()).digest()
        sealed = self._sealer.seal(orjson.dumps(list(owner)), _place(digest))
        async with self._database.nobody() as connection:
            end: datetime = await connection.fetchval("SELECT events.add_ticket($1, $2, $3)", digest, sealed, LIFE_S)
        return ticket, end

    async def redeem(self, ticket: str) -> Adopted | None:
        """Whose a ticket is, this once; None when it was used, has lapsed, or never was."""
        digest = sha256(ticket.encode()).digest()
        async with self._database.nobody() as connection:
            sealed = await connection.fetchval("SELECT events.redeem_ticket($1)", digest)
        if sealed is None:
            return None
        try:
            return Adopted(*orjson.loads(self._sealer.open(sealed, _place(digest))))
        except Unsealable:
            return None


def _place(digest: bytes) -> str:
    return f"tickets/{digest.hex()}"
