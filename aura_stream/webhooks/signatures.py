"""Signatures of the Standard Webhooks specification: HMAC-SHA256 over `<id>.<timestamp>.<body>`, the bytes as sent."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

PREFIX: Final = "whsec_"
TOLERANCE_S: Final = 300
"""How far the time of a signature may lie from the receiver's clock."""


def make_secret() -> str:
    """A new secret: 256 random bits."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secrets_: Iterable[str], webhook_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature per secret, so that a receiver may know either of two."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.new(_key(secret), signed, sha256).digest()).decode() for secret in secrets_
    )


def verify(secret: str, webhook_id: str, timestamp: str, signature: str, body: bytes, now: float) -> bool:
    """Whether one of the signatures is right and not old: what a receiver does."""
    if not timestamp.isdigit() or abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    expected = sign([secret], webhook_id, int(timestamp), body)
    return any(hmac.compare_digest(expected.encode(), one.encode()) for one in signature.split())


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a secret is whsec_ and base64") from error
