"""Our own tokens: JWTs signed with Ed25519, opaque to clients, and the ring of keys that sign and verify them.

One algorithm, keys by id from the ring only: nothing in a token says how it is to be verified.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aura_stream.domain.reasons import Refused

ALGORITHM: Final = "EdDSA"
LENGTH_MAX: Final = 8192
LEEWAY_S: Final = 5
"""Clocks of nodes may differ by this much."""
AUDIENCE: Final = "aura"
TYPES: Final = {"access": "at+jwt", "refresh": "rt+jwt"}

TokenUse = Literal["access", "refresh"]
_KID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CLAIMS: Final = ("iss", "aud", "sub", "tid", "sid", "jti", "iat", "nbf", "exp")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token of ours says."""

    tenant: str
    user_id: str
    session_id: str
    jti: str
    issued_at: int
    expires_at: int
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key of the ring. `private` is None when it was sealed under another secret: it then only verifies."""

    kid: str
    public: Ed25519PublicKey
    private: Ed25519PrivateKey | None
    signs_from: float
    """Seconds since 1970."""


class KeyRing:
    """The keys that are valid now, as this process knows them."""

    def __init__(self) -> None:
        self._keys: dict[str, SigningKey] = {}

    def replace(self, keys: Iterable[SigningKey]) -> None:
        """Takes these for all keys there are."""
        self._keys = {key.kid: key for key in keys}

    def verifier(self, kid: object) -> Ed25519PublicKey | None:
        """The public key of this id, None when there is none. No look-up beyond the ring."""
        if not isinstance(kid, str) or not _KID.fullmatch(kid):
            return None
        key = self._keys.get(kid)
        return key.public if key else None

    def signer(self, now: float) -> SigningKey | None:
        """The newest key that may sign by now."""
        able = [key for key in self._keys.values() if key.private is not None and key.signs_from <= now]
        return max(able, key=lambda key: key.signs_from, default=None)

    @property
    def newest(self) -> SigningKey | None:
        """The key that signs last, perhaps only in a while."""
        able = [key for key in self._keys.values() if key.private is not None]
        return max(able, key=lambda key: key.signs_from, default=None)

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 7517, RFC 8037)."""
        keys = sorted(self._keys.values(), key=lambda key: (key.signs_from, key.kid))
        return {"keys": [_jwk(key) for key in keys]}


class Tokens:
    """Makes and verifies tokens."""

    def __init__(self, ring: KeyRing, issuer: str, *, access_s: int, refresh_s: int) -> None:
        self._ring = ring
        self._issuer = issuer
        self.life_s = {"access": access_s, "refresh": refresh_s}

    def make(
        self, use: TokenUse, *, tenant: str, user_id: str, session_id: str, jti: str, now: float, end: float
    ) -> tuple[str, int]:
        """A token and its life in seconds; it ends at `end` (seconds since 1970) at the latest.

        Raises :class:`Refused` ``service_unavailable`` while there is no key to sign with.
        """
        key = self._ring.signer(now)
        if key is None or key.private is None:
            raise Refused("service_unavailable", "there is no key to sign tokens with yet")
        issued_at = int(now)
        expires_at = min(issued_at + self.life_s[use], int(end))
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": user_id,
            "tid": tenant,
            "sid": session_id,
            "jti": jti,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": expires_at,
        }
        text = jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"typ": TYPES[use], "kid": key.kid})
        return text, expires_at - issued_at

    def read(self, token: str, use: TokenUse) -> Claims:
        """What a token says, verified.

        Raises :class:`Refused`: ``invalid_token``, ``token_expired``, ``invalid_token_type`` (of the other use).
        """
        header = header_of(token)
        public = self._ring.verifier(header.get("kid"))
        if public is None or header.get("alg") != ALGORITHM:
            raise Refused("invalid_token", "not signed by a key of ours")
        try:
            claims = jwt.decode(
                token,
                public,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=AUDIENCE,
                leeway=LEEWAY_S,
                options={"require": list(_CLAIMS), "strict_aud": True},
            )
        except jwt.ExpiredSignatureError:
            raise Refused("token_expired") from None
        except jwt.PyJWTError as error:
            raise Refused("invalid_token", type(error).__name__) from None
        if header.get("typ") != TYPES[use]:
            raise Refused("invalid_token_type", f"this is no {use} token")
        numbers = (claims["iat"], claims["exp"])
        if not all(type(one) is int for one in numbers) or not all(
            isinstance(claims[one], str) for one in _CLAIMS[2:6]
        ):
            raise Refused("invalid_token", "a claim has the wrong type")
        if claims["exp"] - claims["iat"] > self.life_s[use]:
            raise Refused("invalid_token", "it would live too long")
        return Claims(claims["tid"], claims["sub"], claims["sid"], claims["jti"], claims["iat"], claims["exp"])


def header_of(token: str) -> dict[str, Any]:
    """The unverified header. Raises :class:`Refused` ``invalid_token`` when it is no JWT."""
    if len(token) > LENGTH_MAX:
        raise Refused("invalid_token", "too long")
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError) as error:
        raise Refused("invalid_token", type(error).__name__) from None


def issuer_of(token: str) -> str:
    """The issuer that a token names, unverified: it only chooses who has to verify it."""
    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise Refused("invalid_token", type(error).__name__) from None
    return issuer if isinstance(issuer, str) else ""


def is_uuid(text: str) -> bool:
    """Whether it is a UUID in its usual form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _jwk(key: SigningKey) -> dict[str, str]:
    x = base64.urlsafe_b64encode(key.public.public_bytes_raw()).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM, "kid": key.kid, "x": x}
