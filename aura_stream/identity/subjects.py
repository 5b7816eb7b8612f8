"""Personal data, sealed under a key per person: what is read and written here is in the clear nowhere in Postgres.

An erasure destroys the key. What it sealed stays where it is (rows, the audit log's hashes, copies) and says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aura_stream.identity import repository
from aura_stream.identity.sealing import Cipher, Sealer

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

Row = repository.Row
User = dict[str, Any]
"""A user's row with `email` and `full_name` opened (None when there is none, or none any more)."""


class Subjects:
    """Users with their personal data. Every method raises :class:`Unsealable` under another secret."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def address_hash(self, email: str) -> bytes:
        """What an address is found by."""
        return self._sealer.address_hash(email)

    def cipher(self, user: Row | User) -> Cipher | None:
        """The cipher of a user's row; None after an erasure."""
        sealed = user["key_sealed"]
        return self._sealer.subject(str(user["user_id"]), sealed) if sealed is not None else None

    def shown(self, row: Row | User | None) -> User | None:
        """A user's row, opened."""
        if row is None:
            return None
        cipher = self.cipher(row)
        return dict(row) | {
            "email": opened(cipher, row["email_sealed"], f"users/{row['user_id']}/email"),
            "full_name": opened(cipher, row["full_name_sealed"], f"users/{row['user_id']}/full_name"),
        }

    async def insert(self, connection: Connection, values: Mapping[str, Any]) -> User:
        """A new user from `user_id, tenant_id, customer_id, email, full_name, password_hash, roles`, with a new key.

        Raises :class:`Refused` ``email_already_exists``.
        """
        user_id = values["user_id"]
        cipher, key_sealed = self._sealer.new_subject(str(user_id))
        email, full_name = values["email"], values["full_name"]
        row = await repository.insert_user(
            connection,
            {
                **values,
                "key_sealed": key_sealed,
                "generation": self._sealer.keys.generation,
                "email_hash": self.address_hash(email) if email is not None else None,
                "email_sealed": sealed(cipher, email, f"users/{user_id}/email"),
                "full_name_sealed": sealed(cipher, full_name, f"users/{user_id}/full_name"),
            },
        )
        user = self.shown(row)
        assert user is not None  # just made
        return user

    async def get(self, connection: Connection, user_id: str) -> User | None:
        """A user of the transaction's tenant."""
        return self.shown(await repository.user(connection, user_id))

    async def update(self, connection: Connection, user_id: str, changes: Mapping[str, Any]) -> User | None:
        """Changes `full_name`, `status`, `roles`, where they are given; None when there is no such user."""
        wanted = dict(changes)
        if "full_name" in wanted:
            row = await repository.user(connection, user_id)
            cipher = self.cipher(row) if row is not None else None
            if cipher is None:
                return None
            wanted["full_name_sealed"] = sealed(cipher, wanted.pop("full_name"), f"users/{user_id}/full_name")
        return self.shown(await repository.update_user(connection, user_id, wanted))

    async def seal_for(self, connection: Connection, actor: str, text: str, place: str) -> bytes:
        """`text` about an actor: under the person's key, or the platform's where the actor is no person.

        Nothing when the person's key is destroyed.
        """
        if not text:
            return b""
        kind, _, name = actor.partition(":")
        if kind != "user":
            return self._sealer.seal(text.encode(), place)
        key_sealed = await repository.subject_key(connection, name)
        return self._sealer.subject(name, key_sealed).seal(text.encode(), place) if key_sealed is not None else b""

    async def open_for(self, connection: Connection, actor: str, value: bytes, place: str) -> str | None:
        """What `seal_for` has sealed; None when it was nothing, or the key is destroyed."""
        kind, _, name = actor.partition(":")
        if not value:
            return None
        if kind != "user":
            return self._sealer.open(value, place).decode()
        key_sealed = await repository.subject_key(connection, name)
        return self._sealer.subject(name, key_sealed).open(value, place).decode() if key_sealed is not None else None


def sealed(cipher: Cipher | None, text: str | None, place: str) -> bytes | None:
    """`text` sealed; None when there is none, or no key any more."""
    return cipher.seal(text.encode(), place) if cipher is not None and text is not None else None


def opened(cipher: Cipher | None, value: bytes | None, place: str) -> str | None:
    """What was sealed; None when there is nothing, or no key any more."""
    return cipher.open(value, place).decode() if cipher is not None and value is not None else None
