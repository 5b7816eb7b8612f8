"""Sealing of what is secret at rest: AES-256-GCM under a key derived from a setting that the database does not have."""

from __future__ import annotations

import hmac
import os
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


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


class Sealer(Cipher):
    """The cipher of the platform's own secret, and what else is derived from it."""

    def __init__(self, secret: str) -> None:
        super().__init__(_derive(secret, b"aura identity sealing 1"))
        self._names = _derive(secret, b"aura identity names 1")
        self._addresses = _derive(secret, b"aura identity addresses 1")

    def pseudonym(self, text: str) -> str:
        """A name for something personal: the same for the same text, of no use without the secret."""
        return hmac.new(self._names, text.lower().encode(), sha256).hexdigest()[:32]

    def address_hash(self, email: str) -> bytes:
        """What an e-mail address is found by, whatever its case."""
        return hmac.new(self._addresses, email.lower().encode(), sha256).digest()

    def new_subject(self, user_id: str) -> tuple[Cipher, bytes]:
        """The cipher of a new person, and its key as it is stored: sealed."""
        key = os.urandom(32)
        return Cipher(key), self.seal(key, f"subject_keys/{user_id}")

    def subject(self, user_id: str, key_sealed: bytes) -> Cipher:
        """The cipher of a person. Raises :class:`Unsealable`."""
        return Cipher(self.open(key_sealed, f"subject_keys/{user_id}"))


def _derive(secret: str, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret.encode())
