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


class Sealer:
    """Seals and opens; what was sealed for one place cannot be opened at another."""

    def __init__(self, secret: str) -> None:
        self._cipher = AESGCM(_derive(secret, b"aura identity sealing 1"))
        self._names = _derive(secret, b"aura identity names 1")

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

    def pseudonym(self, text: str) -> str:
        """A name for something personal: the same for the same text, of no use without the secret."""
        return hmac.new(self._names, text.lower().encode(), sha256).hexdigest()[:32]


def _derive(secret: str, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret.encode())
