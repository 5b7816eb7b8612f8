"""From what a request carries to who asks: verified once, remembered until it ends or is revoked."""

from __future__ import annotations

import hmac
import re
import secrets
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from aura_stream.cache import TtlCache
from aura_stream.domain.reasons import Refused
from aura_stream.identity import repository
from aura_stream.identity.database import Database, IdentityUnavailable
from aura_stream.identity.feed import Feed, Revocation
from aura_stream.identity.oidc import External, ExternalClaims
from aura_stream.identity.permissions import SERVICE, Principal
from aura_stream.identity.subjects import Subjects, User, sealed
from aura_stream.identity.tokens import LENGTH_MAX, Tokens, is_uuid, issuer_of
from aura_stream.settings import Settings

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

API_KEY_PREFIX: Final = "ak_"
_API_KEY = re.compile(r"ak_([a-z0-9_-]{1,64})\.([a-z0-9]{16})\.([A-Za-z0-9_-]{43})")
_REMEMBERED_MAX: Final = 20_000
_KEY_REMEMBERED_S: Final = 900.0
"""An API key without an end is looked at again after this time."""
_SESSIONS: Final = uuid.UUID("3b0c2a53-6f2d-5d19-8d6e-0a6a1e7f2c41")
"""Namespace of the ids of sessions that external tokens make."""


def make_api_key(tenant: str) -> tuple[str, str, bytes]:
    """A new API key: its id, the key itself (shown once), and the hash that is stored."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    return key_id, f"{API_KEY_PREFIX}{tenant}.{key_id}.{secret}", sha256(secret.encode()).digest()


class Memory:
    """Verified tokens and keys of this process. What is revoked is forgotten by what it concerns."""

    def __init__(self, count_max: int = _REMEMBERED_MAX) -> None:
        self._known: TtlCache[str, Principal] = TtlCache(count_max, dropped=self._dropped)
        self._concerned: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def get(self, credential: str) -> Principal | None:
        """Whom a credential is known to be, while it is good."""
        return self._known.get(credential)

    def put(self, credential: str, principal: Principal, ends_at: float) -> None:
        """Remembers; the oldest goes when there are too many."""
        self._known.put(credential, principal, ends_at)
        for concern in _concerns(principal):
            self._concerned[concern].add(credential)

    def forget(self, kind: str, subject: str) -> None:
        """Forgets all that concerns a session, user, tenant or API key."""
        for credential in list(self._concerned.get((kind, subject), ())):
            self._known.drop(credential)

    def clear(self) -> None:
        """Forgets all."""
        self._known.clear()
        self._concerned.clear()

    def __len__(self) -> int:
        return len(self._known)

    def _dropped(self, credential: str, principal: Principal) -> None:
        for concern in _concerns(principal):
            mine = self._concerned[concern]
            mine.discard(credential)
            if not mine:
                del self._concerned[concern]


def _concerns(principal: Principal) -> Sequence[tuple[str, str]]:
    named = (
        ("session", principal.session_id),
        ("user", principal.user_id),
        ("api_key", principal.key_id),
        ("tenant", principal.tenant),
    )
    return [one for one in named if one[1]]


class Authentication:
    """Says who someone is. Fails closed: what cannot be checked is not let in."""

    def __init__(self, settings: Settings, database: Database, tokens: Tokens, subjects: Subjects) -> None:
        self._session_s = settings.session_s
        self._database = database
        self._tokens = tokens
        self._subjects = subjects
        self._external = External(settings.oidc_issuers)
        self._memory = Memory()
        self._feed: Feed | None = None

    def trust(self, feed: Feed) -> None:
        """The feed that says what to forget."""
        self._feed = feed

    @property
    def remembered(self) -> int:
        """Verified credentials that this process remembers."""
        return len(self._memory)

    def forget(self, revocation: Revocation) -> None:
        """Forgets what was revoked."""
        if revocation.kind == "signing_keys":
            self._memory.clear()
        else:
            self._memory.forget(revocation.kind, revocation.subject)

    async def principal(self, credential: str) -> Principal:
        """Who has this access token or API key.

        Raises :class:`Refused`: ``invalid_token``, ``token_expired``, ``token_revoked``, ``invalid_token_type``,
        ``api_key_invalid``, ``tenant_inactive``; :class:`IdentityUnavailable`.
        """
        if not credential.startswith(API_KEY_PREFIX) and credential.count(".") != 2:
            raise Refused("invalid_token", "neither an access token nor an API key")
        feed = self._feed
        if feed is None or not feed.is_fresh:
            raise IdentityUnavailable("this node does not hear what is revoked")
        known = self._memory.get(credential)
        if known is not None:
            return known
        if len(credential) > LENGTH_MAX:
            raise Refused("invalid_token", "too long")
        heard = feed.position
        principal, ends_at = await self._verified(credential)
        if feed.position == heard:
            # What was revoked while this was looked up may not be in what was read: then it is asked again next time.
            self._memory.put(credential, principal, ends_at)
        return principal

    async def _verified(self, credential: str) -> tuple[Principal, float]:
        if credential.startswith(API_KEY_PREFIX):
            return await self._api_key(credential)
        issuer = issuer_of(credential)
        if self._external.knows(issuer):
            return await self._external_token(await self._external.read(credential, issuer))
        claims = self._tokens.read(credential, "access")
        principal, ends_at = await self._session(claims.tenant, claims.session_id)
        if principal.user_id != claims.user_id:
            raise Refused("invalid_token", "the session is somebody else's")
        return principal, min(ends_at, claims.expires_at)

    async def _session(self, tenant: str, session_id: str) -> tuple[Principal, float]:
        if not is_uuid(session_id):
            raise Refused("invalid_token", "a claim has the wrong form")
        async with self._database.tenant(tenant) as connection:
            row = await repository.live_session(connection, session_id)
        if row is None or row["ended_at"] is not None or row["status"] != "ACTIVE":
            raise Refused("token_revoked")
        if row["tenant_status"] != "active":
            raise Refused("tenant_inactive", f"the tenant {tenant} is deactivated")
        ends_at = row["expires_at"].timestamp()
        if ends_at <= time.time():
            raise Refused("token_expired")
        principal = Principal(
            kind="user",
            tenant=row["tenant_id"],
            roles=tuple(row["roles"]),
            user_id=str(row["user_id"]),
            customer=row["customer_id"],
            session_id=session_id,
        )
        return principal, ends_at

    async def _api_key(self, credential: str) -> tuple[Principal, float]:
        match = _API_KEY.fullmatch(credential)
        if match is None:
            raise Refused("api_key_invalid")
        tenant, key_id, secret = match.groups()
        async with self._database.tenant(tenant) as connection:
            row = await repository.live_api_key(connection, key_id)
        given = sha256(secret.encode()).digest()
        # Compared whether or not there is such a key: the answer takes the same time.
        is_right = hmac.compare_digest(given, row["secret_hash"] if row else bytes(32))
        if row is None or not is_right or row["revoked_at"] is not None or row["user_status"] not in (None, "ACTIVE"):
            raise Refused("api_key_invalid")
        if row["tenant_status"] != "active":
            raise Refused("tenant_inactive", f"the tenant {tenant} is deactivated")
        now = time.time()
        ends_at = row["expires_at"].timestamp() if row["expires_at"] else now + _KEY_REMEMBERED_S
        if ends_at <= now:
            raise Refused("api_key_invalid", "it has expired")
        principal = Principal(
            kind="api_key",
            tenant=tenant,
            roles=("user",) if row["customer_id"] else (SERVICE,),
            user_id=str(row["user_id"] or ""),
            customer=row["customer_id"] or "",
            key_id=key_id,
            scopes=frozenset(row["scopes"]),
        )
        return principal, ends_at

    async def _external_token(self, claims: ExternalClaims) -> tuple[Principal, float]:
        """The session of an external token, made at its first use, so that it ends like any other."""
        tenant, issuer = claims.issuer.tenant, claims.issuer.issuer
        session_id = str(uuid.uuid5(_SESSIONS, f"{issuer}\n{claims.subject}\n{claims.token_id}"))
        async with self._database.tenant(tenant) as connection:
            user = self._subjects.shown(await repository.external_user(connection, issuer, claims.subject))
            if user is None:
                user = await self._new_external_user(connection, claims)
            life_s = min(max(1, claims.expires_at - int(time.time())), self._session_s)
            client = sealed(self._subjects.cipher(user), issuer, f"sessions/{session_id}")
            await repository.insert_session(connection, session_id, tenant, str(user["user_id"]), client, life_s)
        principal, ends_at = await self._session(tenant, session_id)
        return principal, min(ends_at, claims.expires_at)

    async def _new_external_user(self, connection: Connection, claims: ExternalClaims) -> User:
        tenant, issuer = claims.issuer.tenant, claims.issuer.issuer
        user_id = uuid.uuid4()
        row = await self._subjects.insert(
            connection,
            {
                "user_id": user_id,
                "tenant_id": tenant,
                "customer_id": new_customer_id(),
                "email": None,
                "full_name": None,
                "password_hash": None,
                "roles": ("user",),
            },
        )
        if await repository.link_external_user(connection, issuer, claims.subject, tenant, user_id):
            await repository.insert_outbox(connection, tenant, "wallet", user_id, b"")
            return row
        # Another request of the same person was first; ours is undone with its transaction.
        raise IdentityUnavailable("this person is being made known by another request")


def new_customer_id() -> str:
    """A customer id that says nothing and cannot be guessed."""
    return "c" + secrets.token_hex(12)


def same_text(given: str, expected: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell how far they agree."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
