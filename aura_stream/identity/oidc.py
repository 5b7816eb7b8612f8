"""Access tokens of external issuers (S09: AWS Cognito and its like): RS256, keys from the issuer's JWKS.

Only issuers of the settings are asked, only at the address that the settings give; nothing in a token leads anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import jwt
import orjson

from aura_stream.domain.reasons import Refused
from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.tokens import LEEWAY_S, header_of
from aura_stream.settings import OidcIssuer

log = logging.getLogger(__name__)

ALGORITHM: Final = "RS256"
LIFE_MAX_S: Final = 86_400
"""An access token that would live longer than a day is not taken."""
_KEYS_S: Final = 300.0
_KEYS_MAX_S: Final = 86_400.0
"""Keys that were good stay good while their issuer does not answer, for a day."""
_AGAIN_S: Final = 10.0
"""Unknown key ids make no more than one request per this time."""
_BODY_MAX: Final = 262_144
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)


@dataclass(frozen=True, slots=True)
class ExternalClaims:
    """What a verified token of an external issuer says."""

    issuer: OidcIssuer
    subject: str
    token_id: str
    """`jti`, or what stands for it: the same for the same token."""
    expires_at: int


class _Keys:
    """The keys of one issuer."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_at = self._got_at = float("-inf")
        self._asking = asyncio.Lock()

    async def get(self, kid: object) -> jwt.PyJWK | None:
        """The key of this id; None when the issuer has none. Raises :class:`IdentityUnavailable`."""
        if not isinstance(kid, str) or len(kid) > 256:
            return None
        if kid not in self._keys or time.monotonic() - self._got_at > _KEYS_S:
            async with self._asking:
                await self._refresh(kid)
        return self._keys.get(kid)

    async def _refresh(self, kid: str) -> None:
        now = time.monotonic()
        is_old = now - self._got_at > _KEYS_S
        is_trusted = now - self._got_at <= _KEYS_MAX_S
        if (kid in self._keys and not is_old) or now - self._asked_at < _AGAIN_S:
            if not is_trusted:
                raise IdentityUnavailable("the keys of the issuer are not known")
            return
        self._asked_at = now
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(self._url, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    raise ValueError(f"status {answer.status}")
                found = _parse(await _whole(answer))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.warning("identity: the keys at %s cannot be read: %s", self._url, error)
            if not is_trusted:
                raise IdentityUnavailable("the keys of the issuer cannot be read") from error
            return
        self._keys, self._got_at = found, now


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    """All of an answer, which may come in pieces. Raises ValueError when it is too large."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > _BODY_MAX:
            raise ValueError("too large")
    return bytes(body)


def _parse(body: bytes) -> dict[str, jwt.PyJWK]:
    """The keys that sign, by id. Raises ValueError when there are none."""
    document = orjson.loads(body)
    listed = document.get("keys") if isinstance(document, dict) else None
    keys = {}
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and one.get("kty") == "RSA" and one.get("use", "sig") == "sig" and one.get("kid"):
            # One that cannot be read takes nothing from the others.
            with suppress(jwt.PyJWTError, ValueError, TypeError):
                keys[str(one["kid"])] = jwt.PyJWK(one, algorithm=ALGORITHM)
    if not keys:
        raise ValueError("it holds no RSA key that signs")
    return keys


class External:
    """Verifies tokens of the issuers that the settings name."""

    def __init__(self, issuers: tuple[OidcIssuer, ...]) -> None:
        self._issuers = {one.issuer: one for one in issuers}
        self._keys = {one.issuer: _Keys(one.jwks_url) for one in issuers}

    def knows(self, issuer: str) -> bool:
        """Whether tokens of this issuer are taken."""
        return issuer in self._issuers

    async def read(self, token: str, issuer_name: str) -> ExternalClaims:
        """What a token says, verified.

        Raises :class:`Refused` ``invalid_token``, ``token_expired``, ``invalid_token_type``;
        :class:`IdentityUnavailable` while the issuer's keys cannot be had.
        """
        issuer = self._issuers[issuer_name]
        header = header_of(token)
        if header.get("alg") != ALGORITHM:
            raise Refused("invalid_token", f"the algorithm must be {ALGORITHM}")
        key = await self._keys[issuer_name].get(header.get("kid"))
        if key is None:
            raise Refused("invalid_token", "not signed by a key of its issuer")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[ALGORITHM],
                issuer=issuer.issuer,
                leeway=LEEWAY_S,
                options={"require": ["iss", "sub", "iat", "exp"], "verify_aud": False},
            )
        except jwt.ExpiredSignatureError:
            raise Refused("token_expired") from None
        except jwt.PyJWTError as error:
            raise Refused("invalid_token", type(error).__name__) from None
        return _checked(claims, header, issuer)


def _checked(claims: dict[str, Any], header: dict[str, Any], issuer: OidcIssuer) -> ExternalClaims:
    # Cognito's access tokens have no aud but client_id; ID tokens have aud and say token_use=id.
    audience = claims.get("aud", claims.get("client_id"))
    if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
        raise Refused("invalid_token", "it is for somebody else")
    use, kind = claims.get("token_use", "access"), str(header.get("typ", "JWT")).lower()
    if (
        use != "access"
        or kind not in ("jwt", "at+jwt", "application/at+jwt")
        or "nonce" in claims
        or "at_hash" in claims
    ):
        raise Refused("invalid_token_type", "this is no access token")
    subject, issued_at, expires_at = claims["sub"], claims["iat"], claims["exp"]
    if (
        not isinstance(subject, str)
        or not 0 < len(subject) <= 255
        or type(issued_at) is not int
        or type(expires_at) is not int
    ):
        raise Refused("invalid_token", "a claim has the wrong type")
    if expires_at - issued_at > LIFE_MAX_S:
        raise Refused("invalid_token", "it would live too long")
    token_id = claims.get("jti")
    return ExternalClaims(issuer, subject, token_id if isinstance(token_id, str) else f"{issued_at}", expires_at)
