"""Registration, login, refresh, logout, passwords, verification of e-mail addresses: the life of a session."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg
import msgspec

from aura_stream.domain.reasons import Refused
from aura_stream.identity import repository
from aura_stream.identity.audit import AuditLog, Origin
from aura_stream.identity.authentication import new_customer_id
from aura_stream.identity.database import Database, IdentityUnavailable
from aura_stream.identity.feed import Feed
from aura_stream.identity.mails import Mail
from aura_stream.identity.passwords import Passwords, check_password
from aura_stream.identity.permissions import Principal
from aura_stream.identity.sealing import Sealer
from aura_stream.identity.subjects import Subjects, User, opened, sealed
from aura_stream.identity.tokens import Claims, Tokens, is_uuid

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

log = logging.getLogger(__name__)

Row = repository.Row

VERIFICATION_S: Final = 86_400
RESET_S: Final = 3600
REUSE_GRACE_S: Final = 10.0
"""A second use so soon after the first may be a client that lost the answer: it is refused, but not called theft."""


class Registration(NamedTuple):
    """Who wants to be a user."""

    tenant: str
    email: str
    password: str
    full_name: str | None
    roles: tuple[str, ...] = ("user",)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a login or a refresh gives. Lives in seconds."""

    access_token: str
    access_s: int
    refresh_token: str
    refresh_s: int
    user: User


@dataclass(frozen=True, slots=True)
class ChooseTenant:
    """The password fits in several tenants: which one is meant?"""

    tenants: tuple[tuple[str, str], ...]
    """(tenant, its name)."""


class Logins:
    """The use cases; each is one transaction, and a revocation is answered when every API process knows it."""

    def __init__(
        self,
        database: Database,
        tokens: Tokens,
        passwords: Passwords,
        feed: Feed,
        audit: AuditLog,
        sealer: Sealer,
        subjects: Subjects,
        *,
        session_s: int,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._passwords = passwords
        self._feed = feed
        self._audit = audit
        self._sealer = sealer
        self._subjects = subjects
        self._session_s = session_s
        self._later: set[asyncio.Task[None]] = set()

    # --- registration ----------------------------------------------------------------------------------------------

    async def register(self, wanted: Registration, origin: Origin) -> User:
        """A new user, with the work that opens the wallet and mails the verification.

        Raises :class:`Refused` (``invalid_password_format``, ``tenant_not_found``, ``tenant_inactive``,
        ``email_already_exists``), :class:`Busy`.
        """
        check_password(wanted.password, wanted.roles)
        # Hashed first: it takes the same time whether or not the address has a user.
        hashed = await self._passwords.hash(wanted.password)
        async with self._database.tenant(wanted.tenant) as connection:
            tenant = await repository.tenant(connection, wanted.tenant)
            if tenant is None:
                raise Refused("tenant_not_found", f"there is no tenant {wanted.tenant}")
            if tenant["status"] != "active":
                raise Refused("tenant_inactive", f"the tenant {wanted.tenant} is deactivated")
            user = await self.insert_user(connection, wanted, hashed)
            actor = f"user:{user['user_id']}"
            await self._audit.done(connection, wanted.tenant, actor, "user.register", str(user["user_id"]), origin)
        return user

    def address_hash(self, email: str) -> bytes:
        """What an address is found by."""
        return self._subjects.address_hash(email)

    async def insert_user(self, connection: Connection, wanted: Registration, hashed: str) -> User:
        """The user's row and what has to happen outside because of it, in one transaction."""
        user = await self._subjects.insert(
            connection,
            {
                "user_id": uuid.uuid4(),
                "tenant_id": wanted.tenant,
                "customer_id": new_customer_id(),
                "email": wanted.email,
                "full_name": wanted.full_name,
                "password_hash": hashed,
                "roles": wanted.roles,
            },
        )
        await repository.insert_outbox(connection, wanted.tenant, "wallet", user["user_id"], b"")
        await self._mail_verification(connection, user)
        return user

    async def _mail_verification(self, connection: Connection, user: User) -> None:
        await self._mail_token(connection, user, "verify", VERIFICATION_S, "verify_email")

    async def _mail_token(self, connection: Connection, user: User, purpose: str, life_s: int, template: str) -> None:
        token = secrets.token_urlsafe(32)
        tenant, user_id, email = user["tenant_id"], user["user_id"], user["email"]
        cipher = self._subjects.cipher(user)
        assert cipher is not None  # has an address, so has a key
        address = self._subjects.address_hash(email)
        await repository.insert_email_token(connection, _hash(token), tenant, user_id, address, life_s, purpose)
        mail = msgspec.json.encode(Mail(email, template, token))
        await repository.insert_outbox(connection, tenant, "mail", user_id, cipher.seal(mail, f"mail/{user_id}"))

    async def resend_verification(self, principal: Principal, origin: Origin) -> None:
        """Mails another verification token. Raises :class:`Refused` ``already_processed`` when it is verified."""
        async with self._database.tenant(principal.tenant) as connection:
            user = await self._subjects.get(connection, principal.user_id)
            if user is None or user["email"] is None:
                raise Refused("user_not_found", "there is no e-mail address to verify")
            if user["verified_at"] is not None:
                raise Refused("already_processed", "the e-mail address is verified")
            await self._mail_verification(connection, user)
            await self._audit.done(
                connection, principal.tenant, principal.actor, "email.resend", principal.user_id, origin
            )

    async def verify_email(self, token: str, origin: Origin) -> User:
        """The user whose address is verified now. Raises :class:`Refused` ``token_not_found``."""
        token_hash = _hash(token)
        async with self._database.nobody() as connection:
            tenant = await repository.email_token_tenant(connection, token_hash)
        if tenant is not None:
            async with self._database.tenant(tenant) as connection:
                user = self._subjects.shown(await repository.use_email_token(connection, token_hash))
                if user is not None:
                    actor = f"user:{user['user_id']}"
                    await self._audit.done(connection, tenant, actor, "email.verify", str(user["user_id"]), origin)
                    return user
        raise Refused("token_not_found", "no such token, or it was used or has expired")

    # --- a password that was forgotten -----------------------------------------------------------------------------

    def forgot_password(self, email: str, tenant: str | None, origin: Origin) -> None:
        """Mails a token to whoever has this address; behind the answer, which says nothing of whether somebody has."""
        task = asyncio.create_task(self._mail_reset(email, tenant, origin), name="forgot password")
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _mail_reset(self, email: str, tenant: str | None, origin: Origin) -> None:
        try:
            async with self._database.nobody() as connection:
                found = await repository.logins(connection, self._subjects.address_hash(email), tenant)
            for one in found:
                if one["status"] != "ACTIVE" or one["tenant_status"] != "active":
                    continue
                async with self._database.tenant(one["tenant_id"]) as connection:
                    user = await self._subjects.get(connection, str(one["user_id"]))
                    if user is None or user["email"] is None:
                        continue
                    await self._mail_token(connection, user, "reset", RESET_S, "reset_password")
                    await self._audit.done(
                        connection, one["tenant_id"], "anonymous", "password.forgot", str(one["user_id"]), origin
                    )
        except (IdentityUnavailable, asyncpg.PostgresError) as error:
            log.warning("identity: a mail for a new password could not be written: %s", error)

    async def reset_password(self, token: str, new: str, origin: Origin) -> None:
        """Sets the password of whoever was mailed this token, once; ends their logins, and their address is verified.

        Raises :class:`Refused` (``token_not_found``, ``invalid_password_format``), :class:`Busy`.
        """
        token_hash = _hash(token)
        async with self._database.nobody() as connection:
            tenant = await repository.email_token_tenant(connection, token_hash)
        seq = None
        if tenant is not None:
            async with self._database.tenant(tenant) as connection:
                roles = await repository.reset_roles(connection, token_hash)
            if roles is not None:
                check_password(new, tuple(roles))
                hashed = await self._passwords.hash(new)
                async with self._database.tenant(tenant) as connection:
                    user_id = await repository.use_reset_token(connection, token_hash, hashed)
                    if user_id is not None:
                        await repository.end_sessions(connection, user_id, "password_changed")
                        await self._audit.done(connection, tenant, f"user:{user_id}", "password.reset", user_id, origin)
                        seq = await repository.revoke(connection, "user", user_id, tenant)
        if seq is None:
            raise Refused("token_not_found", "no such token, or it was used or has expired")
        await self._feed.confirmed(seq)

    async def stop(self) -> None:
        """Waits for what answers have left to be done."""
        await asyncio.gather(*self._later, return_exceptions=True)

    # --- the mailbox of the sandbox --------------------------------------------------------------------------------

    async def mailbox(self, tenant: str, count_max: int) -> list[tuple[Mail, Row]]:
        """The newest mails of a tenant, with their rows (sandbox only). Those to who is forgotten are left out."""
        async with self._database.tenant(tenant) as connection:
            rows = await repository.mails(connection, count_max)
            found = []
            for row in rows:
                key = await repository.subject_key(connection, str(row["user_id"]))
                if key is not None:
                    cipher = self._sealer.subject(str(row["user_id"]), key)
                    raw = cipher.open(row["payload_sealed"], f"mail/{row['user_id']}")
                    found.append((msgspec.json.decode(raw, type=Mail), row))
        return found

    async def mails(self, principal: Principal) -> list[tuple[Mail, Row]]:
        """The mails to a user, newest first, with their rows (sandbox only: there they can be read here)."""
        async with self._database.tenant(principal.tenant) as connection:
            user = await repository.user(connection, principal.user_id)
            cipher = self._subjects.cipher(user) if user is not None else None
            if cipher is None:
                return []
            rows = await repository.mails_of(connection, principal.user_id)
        place = f"mail/{principal.user_id}"
        return [(msgspec.json.decode(cipher.open(row["payload_sealed"], place), type=Mail), row) for row in rows]

    # --- login -----------------------------------------------------------------------------------------------------

    async def login(self, email: str, password: str, tenant: str | None, origin: Origin) -> Grant | ChooseTenant:
        """Tokens, or the tenants to choose from.

        A password is verified for nobody as for somebody, and what is wrong is only said to who knows the password.
        Raises :class:`Refused` (``invalid_credentials``, ``account_suspended``, ``tenant_inactive``,
        ``email_not_verified``), :class:`Busy`.
        """
        async with self._database.nobody() as connection:
            candidates = await repository.logins(connection, self._subjects.address_hash(email), tenant)
        fitting = [
            one
            for one in candidates
            if await self._passwords.verify(password, one["password_hash"]) and one["status"] != "DELETED"
        ]
        if not candidates:
            await self._passwords.verify(password, None)
        if not fitting:
            named = candidates[0]["tenant_id"] if len(candidates) == 1 else ""
            self._refuse_login(named, email, "invalid_credentials", origin)
        active = [one for one in fitting if one["tenant_status"] == "active"] or fitting
        if len(active) > 1:
            return ChooseTenant(tuple((one["tenant_id"], one["tenant_name"]) for one in active))
        who = active[0]
        if who["tenant_status"] != "active":
            self._refuse_login(who["tenant_id"], email, "tenant_inactive", origin)
        if who["status"] != "ACTIVE":
            self._refuse_login(who["tenant_id"], email, "account_suspended", origin)
        if who["needs_verified_email"] and not who["is_verified"]:
            self._refuse_login(who["tenant_id"], email, "email_not_verified", origin)
        hashed = None
        if self._passwords.is_old(who["password_hash"]):
            hashed = await self._passwords.hash(password)
        return await self._begin(who, hashed, origin)

    async def _begin(self, who: Row, hashed: str | None, origin: Origin) -> Grant:
        tenant, user_id = who["tenant_id"], str(who["user_id"])
        session_id = str(uuid.uuid4())
        async with self._database.tenant(tenant) as connection:
            # Locked and compared: a login with a password that was changed meanwhile must not begin.
            if await repository.password_hash(connection, user_id) != who["password_hash"]:
                raise Refused("invalid_credentials")
            if hashed is not None:
                await repository.set_password(connection, user_id, hashed, who["password_hash"])
            user = await self._subjects.get(connection, user_id)
            if user is None or user["status"] != "ACTIVE":
                raise Refused("invalid_credentials")
            client = sealed(self._subjects.cipher(user), origin.client[:200], f"sessions/{session_id}")
            ends = await repository.insert_session(connection, session_id, tenant, user_id, client, self._session_s)
            assert ends is not None  # a fresh id
            grant = await self._grant(connection, user, session_id, str(uuid.uuid4()), ends.timestamp())
            await self._audit.done(connection, tenant, f"user:{user_id}", "session.login", session_id, origin)
        return grant

    async def _grant(self, connection: Connection, user: User, session_id: str, jti: str, ends: float) -> Grant:
        """Tokens of a session; the refresh token has the id `jti`."""
        now = time.time()
        named = {"tenant": user["tenant_id"], "user_id": str(user["user_id"]), "session_id": session_id}
        access, access_s = self._tokens.make("access", **named, jti=str(uuid.uuid4()), now=now, end=ends)
        refresh, refresh_s = self._tokens.make("refresh", **named, jti=jti, now=now, end=ends)
        await repository.insert_refresh_token(connection, jti, user["tenant_id"], session_id, refresh_s)
        return Grant(access, access_s, refresh, refresh_s, user)

    def _refuse_login(self, tenant: str, email: str, reason: str, origin: Origin) -> None:
        self._audit.refused(tenant, "anonymous", "session.login", reason, self._sealer.pseudonym(email), origin)
        raise Refused(reason)

    # --- refresh and logout ----------------------------------------------------------------------------------------

    async def refresh(self, token: str, origin: Origin) -> Grant:
        """New tokens for a refresh token, which is used up by this.

        Raises :class:`Refused`: ``invalid_token``, ``invalid_token_type``, ``token_expired``, ``token_revoked``,
        ``tenant_inactive``.
        """
        claims = self._read_refresh(token)
        successor = str(uuid.uuid4())
        async with self._database.tenant(claims.tenant) as connection:
            session = await repository.live_session(connection, claims.session_id)
            if session is None or session["ended_at"] is not None or session["status"] != "ACTIVE":
                reason = "token_revoked"
            elif session["tenant_status"] != "active":
                reason = "tenant_inactive"
            elif await repository.use_refresh_token(connection, claims.jti, claims.session_id, successor):
                user = await self._subjects.get(connection, claims.user_id)
                assert user is not None  # the session's
                return await self._grant(
                    connection, user, claims.session_id, successor, session["expires_at"].timestamp()
                )
            else:
                reason = "token_revoked"
        if reason == "token_revoked" and session is not None and session["ended_at"] is None:
            await self._reused(claims, origin)
        self._audit.refused(
            claims.tenant, f"user:{claims.user_id}", "session.refresh", reason, claims.session_id, origin
        )
        raise Refused(reason)

    async def _reused(self, claims: Claims, origin: Origin) -> None:
        """A token came a second time: whoever has its successor, or comes late, shows that two have had it."""
        seq = None
        async with self._database.tenant(claims.tenant) as connection:
            used = await repository.used_refresh_token(connection, claims.jti)
            if used is None or not (used["successor_used"] or used["used_s"] > REUSE_GRACE_S):
                return
            if await repository.end_session(connection, claims.session_id, "token_reused"):
                actor = f"user:{claims.user_id}"
                await self._audit.done(connection, claims.tenant, actor, "session.reuse", claims.session_id, origin)
                seq = await repository.revoke(connection, "session", claims.session_id, claims.tenant)
        if seq is not None:
            await self._feed.confirmed(seq)

    async def logout(self, principal: Principal, *, everywhere: bool, origin: Origin) -> None:
        """Ends the principal's session, or all sessions of the user."""
        if everywhere:
            await self._end_all(principal.tenant, principal.user_id, "logout_all", principal.actor, origin)
        else:
            await self.end_session(principal, principal.session_id, "logout", origin)

    async def logout_by_refresh_token(self, token: str, *, everywhere: bool, origin: Origin) -> None:
        """Ends the session of a refresh token. Raises :class:`Refused` when it is no good refresh token."""
        claims = self._read_refresh(token)
        principal = Principal(
            kind="user",
            tenant=claims.tenant,
            roles=(),
            user_id=claims.user_id,
            session_id=claims.session_id,
        )
        async with self._database.tenant(claims.tenant) as connection:
            session = await repository.live_session(connection, claims.session_id)
        if session is None or session["ended_at"] is not None or str(session["user_id"]) != claims.user_id:
            raise Refused("token_revoked")
        await self.logout(principal, everywhere=everywhere, origin=origin)

    async def end_session(self, principal: Principal, session_id: str, reason: str, origin: Origin) -> None:
        """Ends one session of the principal. Raises :class:`Refused` ``session_not_found``."""
        await self.end_session_of(principal, principal.tenant, principal.user_id, session_id, reason, origin)

    async def end_session_of(
        self, principal: Principal, tenant: str, user_id: str, session_id: str, reason: str, origin: Origin
    ) -> None:
        """Ends one session of a user. Raises :class:`Refused` ``session_not_found``."""
        async with self._database.tenant(tenant) as connection:
            if not await repository.end_session(connection, session_id, reason, user_id):
                raise Refused("session_not_found", "there is no such session, or it has ended")
            await self._audit.done(connection, tenant, principal.actor, "session.end", session_id, origin)
            seq = await repository.revoke(connection, "session", session_id, tenant)
        await self._feed.confirmed(seq)

    async def sessions(self, tenant: str, user_id: str) -> list[dict[str, Any]]:
        """The sessions of a user that go on, newest first. Raises :class:`Refused` ``user_not_found``."""
        async with self._database.tenant(tenant) as connection:
            user = await repository.user(connection, user_id)
            if user is None:
                raise Refused("user_not_found", "there is no such user")
            rows = await repository.sessions_of(connection, user_id)
        cipher = self._subjects.cipher(user)
        return [
            dict(row) | {"client": opened(cipher, row["client_sealed"], f"sessions/{row['session_id']}")}
            for row in rows
        ]

    async def _end_all(self, tenant: str, user_id: str, reason: str, actor: str, origin: Origin) -> None:
        async with self._database.tenant(tenant) as connection:
            await repository.end_sessions(connection, user_id, reason)
            await self._audit.done(connection, tenant, actor, "session.end_all", user_id, origin)
            seq = await repository.revoke(connection, "user", user_id, tenant)
        await self._feed.confirmed(seq)

    # --- password --------------------------------------------------------------------------------------------------

    async def change_password(self, principal: Principal, current: str, new: str, origin: Origin) -> None:
        """Changes the password and ends every session of the user, this one too.

        Raises :class:`Refused` (``invalid_password``, ``invalid_password_format``), :class:`Busy`.
        """
        check_password(new, principal.roles)
        async with self._database.tenant(principal.tenant) as connection:
            stored = await repository.password_hash(connection, principal.user_id)
        if not await self._passwords.verify(current, stored):
            self._audit.refused(
                principal.tenant, principal.actor, "password.change", "invalid_password", principal.user_id, origin
            )
            raise Refused("invalid_password", "current_password is wrong")
        hashed = await self._passwords.hash(new)
        async with self._database.tenant(principal.tenant) as connection:
            if not await repository.set_password(connection, principal.user_id, hashed, stored):
                raise Refused("invalid_password", "the password was changed meanwhile")
            await repository.end_sessions(connection, principal.user_id, "password_changed")
            await self._audit.done(
                connection, principal.tenant, principal.actor, "password.change", principal.user_id, origin
            )
            seq = await repository.revoke(connection, "user", principal.user_id, principal.tenant)
        await self._feed.confirmed(seq)

    def _read_refresh(self, token: str) -> Claims:
        claims = self._tokens.read(token, "refresh")
        if not (is_uuid(claims.jti) and is_uuid(claims.session_id) and is_uuid(claims.user_id)):
            raise Refused("invalid_token", "a claim has the wrong form")
        return claims


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()
