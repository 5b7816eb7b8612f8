"""The platform's keys in Postgres: opened at the start, made when there are none, and changed by `aura keys rotate`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import asyncpg

from aura_stream.identity import repository
from aura_stream.identity.database import Database, IdentityUnavailable
from aura_stream.identity.sealing import Cipher, Keys, Sealer, Unsealable, Wrapping, subject_place
from aura_stream.ledger.connection import OWNER
from aura_stream.settings import Settings

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

log = logging.getLogger(__name__)

_BATCH: Final = 2000


def wrappings(settings: Settings) -> list[Wrapping]:
    """What the keys may be wrapped by: the secret, and the next one while it is being changed."""
    secrets = [settings.identity_secret, settings.identity_secret_next]
    return [Wrapping(one.get_secret_value()) for one in secrets if one is not None]


def opened(ways: Sequence[Wrapping], generation: int, sealed: bytes) -> Keys:
    """Stored keys by one of several secrets. Raises :class:`Unsealable`."""
    for way in ways[:-1]:
        try:
            return way.opened(generation, sealed)
        except Unsealable:
            continue
    return ways[-1].opened(generation, sealed)


async def keys_of(connection: Connection, ways: Sequence[Wrapping]) -> Keys:
    """The keys of the database, made here when there are none. Raises :class:`IdentityUnavailable`."""
    row = await repository.platform_keys(connection)
    if row is None:
        first = ways[0]
        await repository.put_platform_keys(connection, first.wrapped(first.fresh()), first.wrapped(first.before()))
        row = await repository.platform_keys(connection)
    assert row is not None  # just made, here or elsewhere
    try:
        return opened(ways, row["generation"], row["keys_sealed"])
    except Unsealable as error:
        raise IdentityUnavailable(str(error)) from error


class Keychain:
    """Gives the sealer of this process its keys."""

    def __init__(self, settings: Settings, database: Database, sealer: Sealer) -> None:
        self._ways = wrappings(settings)
        self._database = database
        self._sealer = sealer

    async def load(self) -> None:
        """Opens the keys. Raises :class:`IdentityUnavailable`, also under another secret."""
        async with self._database.nobody() as connection:
            self._sealer.take(await keys_of(connection, self._ways))


async def rotate(connection: asyncpg.Connection[asyncpg.Record], settings: Settings) -> tuple[int, int]:
    """Wraps the keys by the next secret and seals every person's key under a new one. Generation, number of persons.

    `connection` is one as the owner. All of it is one transaction; no process seals under the old key after it.
    Raises :class:`Unsealable` when neither secret opens the keys, :class:`LookupError` when there are none, or no next
    secret.
    """
    if settings.identity_secret_next is None:
        raise LookupError("there is no next secret: set AURA_IDENTITY_SECRET_NEXT here and on all processes")
    ways = wrappings(settings)
    async with connection.transaction():
        await connection.execute("SELECT set_config('role', $1, true)", OWNER)
        row = await repository.lock_platform_keys(connection)
        if row is None:
            raise LookupError("there are no keys yet: start the API once")
        old = opened(ways, row["generation"], row["keys_sealed"])
        new = old._replace(generation=old.generation + 1, subjects=os.urandom(32))
        persons = await _reseal(connection, new.generation, Cipher(old.subjects), Cipher(new.subjects))
        await repository.replace_platform_keys(connection, new.generation, ways[-1].wrapped(new))
        # Processes that live open the new keys when they hear this, as when they start.
        await repository.revoke(connection, "signing_keys", "", None)
    return new.generation, persons


async def _reseal(connection: Connection, generation: int, old: Cipher, new: Cipher) -> int:
    """Seals the keys of all persons again, in batches; how many. What an erasure has destroyed stays destroyed."""
    count = 0
    while True:
        rows = await repository.subject_keys_before(connection, generation, _BATCH)
        if not rows:
            return count
        places = [subject_place(str(row["user_id"])) for row in rows]
        sealed = [new.seal(old.open(row["key_sealed"], place), place) for row, place in zip(rows, places, strict=True)]
        await repository.replace_subject_keys(connection, generation, [row["user_id"] for row in rows], sealed)
        count += len(rows)
