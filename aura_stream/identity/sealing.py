"""Sealing of what is secret at rest: AES-256-GCM under keys that are themselves sealed (envelope encryption).

The keys lie in Postgres, wrapped by one made from AURA_IDENTITY_SECRET, which Postgres does not have. So that secret
can be changed without sealing everything anew, and a copy of the database is worth nothing without it.
"""

from __future__ import annotations

import hmac
import os
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aura_stream.identity.database import IdentityUnavailable

_KEY: Final = 32


class Unsealable(Exception):
    """Sealed under another secret, moved to another place, or changed."""


class Cipher:
    """Seals and opens under one key; what was sealed for one place cannot be opened at another."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, value: bytes, place: str) -> bytes:
        """`value`, sealed; `place` says where it is kept, as in "signing_keys/<kid>"."""
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, value, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        """What was sealed for this place. Raises :class:`Unsealable`."""
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise Unsealable(f"{place} cannot be opened: another AURA_IDENTITY_SECRET?") from error


class Keys(NamedTuple):
    """The keys that seal, each of 256 bits, opened. They are kept wrapped: see `Wrapping`."""

    generation: int
    subjects: bytes
    """Seals the key of each person; another one in each generation."""
    platform: bytes
    """Seals what is nobody's in particular: signing keys, answers, secrets of webhooks, addresses of who has no key."""
    names: bytes
    addresses: bytes
    """Of keyed hashes; they stay the same, or nothing would be found again."""


class Wrapping:
    """Wraps keys under the one that `secret` makes: who has the database alone can open nothing in it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._cipher = Cipher(_derive(secret, b"aura key encryption 1"))

    def wrapped(self, keys: Keys) -> bytes:
        """The keys as they may be stored."""
        return self._cipher.seal(b"".join(keys[1:]), _place(keys.generation))

    def opened(self, generation: int, sealed: bytes) -> Keys:
        """Stored keys. Raises :class:`Unsealable` under another secret."""
        raw = self._cipher.open(sealed, _place(generation))
        return Keys(generation, *(raw[start : start + _KEY] for start in range(0, 4 * _KEY, _KEY)))

    def fresh(self) -> Keys:
        """New keys, for a database that has nothing sealed yet."""
        return Keys(1, *(os.urandom(_KEY) for _ in range(4)))

    def before(self) -> Keys:
        """The keys of a database from before they were wrapped: made from the secret itself."""
        sealing = _derive(self._secret, b"aura identity sealing 1")
        names = _derive(self._secret, b"aura identity names 1")
        return Keys(1, sealing, sealing, names, _derive(self._secret, b"aura identity addresses 1"))


class Sealer:
    """Seals for the platform and makes the ciphers of persons, with the keys that it was given last."""

    def __init__(self) -> None:
        self._keys: Keys | None = None

    def take(self, keys: Keys) -> None:
        """Works with these keys from now on."""
        self._keys = keys

    @property
    def keys(self) -> Keys:
        """The keys. Raises :class:`IdentityUnavailable` while there are none."""
        if self._keys is None:
            raise IdentityUnavailable("the keys are not opened yet")
        return self._keys

    def seal(self, value: bytes, place: str) -> bytes:
        """`value`, sealed for a place."""
        return self._of_platform().seal(value, place)

    def open(self, sealed: bytes, place: str) -> bytes:
        """What was sealed for this place. Raises :class:`Unsealable`."""
        return self._of_platform().open(sealed, place)

    def pseudonym(self, text: str) -> str:
        """A name for something personal: the same for the same text, of no use without the secret."""
        return hmac.new(self.keys.names, text.lower().encode(), sha256).hexdigest()[:32]

    def address_hash(self, email: str) -> bytes:
        """What an e-mail address is found by, whatever its case."""
        return hmac.new(self.keys.addresses, email.lower().encode(), sha256).digest()

    def new_subject(self, user_id: str) -> tuple[Cipher, bytes]:
        """The cipher of a new person, and its key as it is stored: sealed."""
        key = os.urandom(_KEY)
        return Cipher(key), self._of_subjects().seal(key, subject_place(user_id))

    def subject(self, user_id: str, key_sealed: bytes) -> Cipher:
        """The cipher of a person. Raises :class:`Unsealable`."""
        return Cipher(self._of_subjects().open(key_sealed, subject_place(user_id)))

    def _of_platform(self) -> Cipher:
        return Cipher(self.keys.platform)

    def _of_subjects(self) -> Cipher:
        return Cipher(self.keys.subjects)


def subject_place(user_id: str) -> str:
    """The place that a person's key is sealed for."""
    return f"subject_keys/{user_id}"


def _place(generation: int) -> str:
    return f"platform_keys/{generation}"


def _derive(secret: str, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=_KEY, salt=None, info=info).derive(secret.encode())
