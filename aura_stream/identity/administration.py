"""What admins and operators do: users, tenants, API keys, signing keys. Who may is decided before (`permissions`)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.identity import repository
from aura_stream.identity.audit import NO_TENANT, AuditLog, Origin
from aura_stream.identity.authentication import make_api_key
from aura_stream.identity.database import Database
from aura_stream.identity.feed import Feed
from aura_stream.identity.logins import Logins, Registration
from aura_stream.identity.passwords import Passwords, check_password
from aura_stream.identity.permissions import Principal, Reach, check_grant, reach
from aura_stream.identity.sealing import Sealer, Unsealable
from aura_stream.identity.service import Service
from aura_stream.identity.subjects import Subjects, User
from aura_stream.identity.tokens import KeyRing, SigningKey
from aura_stream.ledger.listing import Page, arranged, is_sealed, order_of

log = logging.getLogger(__name__)
Row = repository.Row
_Found = TypeVar("_Found")

PUBLISHED_S: Final = 600.0
"""A new signing key is in the key set this long before it signs."""
SORTED_MAX: Final = 10_000
"""Users that are opened to sort them by what is sealed; more would hold up the process."""
_KEYS_MAX: Final = 10_000
_DAY_S: Final = 86_400.0


class Users(Service):
    """Users, as admins see and change them."""

    service_name = "users"

    def __init__(
        self,
        database: Database,
        logins: Logins,
        passwords: Passwords,
        feed: Feed,
        audit: AuditLog,
        subjects: Subjects,
    ) -> None:
        self._database = database
        self._logins = logins
        self._passwords = passwords
        self._feed = feed
        self._audit = audit
        self._subjects = subjects

    async def get(self, tenant: str, user_id: str) -> User:
        """A user. Raises :class:`Refused` ``user_not_found``."""
        async with self._database.tenant(tenant) as connection:
            row = await self._subjects.get(connection, user_id)
        return _found(row)

    async def list(self, tenant: str, page: Page, *, counted: bool) -> tuple[list[User], int]:
        """A page of a tenant's users, and how many there are if they are to be counted.

        The filter `email` is an address. Names and addresses are sealed: for a sort by them all users that the filters
        leave are opened here, so many at most. Raises :class:`Invalid` when there are more.
        """
        filters = dict(page.filters)
        if "email" in filters:
            filters["email"] = self._subjects.address_hash(filters["email"])
        page = replace(page, filters=filters)
        sealed = is_sealed(repository.USERS, page.order)
        async with self._database.tenant(tenant) as connection:
            total = await repository.count_users(connection, page) if counted or sealed else 0
            if sealed and total > SORTED_MAX:
                detail = f"by email and full_name {SORTED_MAX} users at most are sorted, not {total}; use filters"
                raise Invalid("invalid_field", detail, "sort")
            rows = await (repository.all_users if sealed else repository.users)(connection, page)
        users = [user for row in rows if (user := self._subjects.shown(row)) is not None]
        return arranged(repository.USERS, page, map(_sortable, users)) if sealed else users, total

    async def counts(self, tenant: str) -> Row:
        """How many users a tenant has, and of which kind."""
        async with self._database.tenant(tenant) as connection:
            return await repository.user_counts(connection)

    async def create(self, principal: Principal, wanted: Registration, origin: Origin) -> User:
        """A user with any roles that the principal may give. Raises :class:`Refused`, :class:`Busy`."""
        check_grant(principal, wanted.roles)
        check_password(wanted.password, wanted.roles)
        hashed = await self._passwords.hash(wanted.password)
        async with self._database.tenant(wanted.tenant) as connection:
            if await repository.tenant(connection, wanted.tenant) is None:
                raise Refused("tenant_not_found", f"there is no tenant {wanted.tenant}")
            row = await self._logins.insert_user(connection, wanted, hashed)
            await self._audit.done(
                connection, wanted.tenant, principal.actor, "user.create", str(row["user_id"]), origin
            )
        return row

    async def rename(self, principal: Principal, full_name: str, origin: Origin) -> User:
        """Changes one's own profile."""
        async with self._database.tenant(principal.tenant) as connection:
            row = _found(await self._subjects.update(connection, principal.user_id, {"full_name": full_name}))
            await self._audit.done(
                connection, principal.tenant, principal.actor, "user.rename", principal.user_id, origin
            )
        return row

    async def update(
        self, principal: Principal, tenant: str, user_id: str, changes: Mapping[str, Any], origin: Origin
    ) -> User:
        """Changes name, status or roles; answered when every API process knows. Status DELETED is for good.

        Raises :class:`Refused`: ``user_not_found``, ``insufficient_permissions``.
        """
        async with self._database.tenant(tenant) as connection:
            before = _found(await self._subjects.get(connection, user_id))
            # Whoever may not make an operator may not unmake or rename one either.
            check_grant(principal, tuple(before["roles"]) + tuple(changes.get("roles", ())))
            if principal.user_id == user_id and {"status", "roles"} & set(changes):
                raise Refused("insufficient_permissions", "nobody changes their own roles or status")
            row = _found(await self._subjects.update(connection, user_id, changes))
            what = "user.delete" if changes.get("status") == "DELETED" else "user.update"
            if row["status"] != "ACTIVE":
                await repository.end_sessions(connection, user_id, "user_disabled")
            await self._audit.done(connection, tenant, principal.actor, what, user_id, origin)
            seq = await repository.revoke(connection, "user", user_id, tenant)
        await self._feed.confirmed(seq)
        return row

    async def delete(self, principal: Principal, tenant: str, user_id: str, origin: Origin) -> User:
        """Ends a user for good; the row stays, since the ledger and the audit log name it. Raises as `update` does."""
        return await self.update(principal, tenant, user_id, {"status": "DELETED"}, origin)


class Tenants:
    """Tenants, as operators see and change them: in the role that crosses tenants."""

    def __init__(self, database: Database, feed: Feed, audit: AuditLog) -> None:
        self._database = database
        self._feed = feed
        self._audit = audit

    async def list(self, principal: Principal, after: str, limit: int, origin: Origin) -> Sequence[Row]:
        """Tenants by id. Reading across tenants is written down as well."""
        async with self._database.platform() as connection:
            await self._audit.done(connection, NO_TENANT, principal.actor, "tenant.list", "", origin)
            return await repository.tenants(connection, after, limit)

    async def create(
        self, principal: Principal, tenant: str, name: str, needs_verified_email: bool, origin: Origin
    ) -> Row:
        """A new tenant. Raises :class:`Refused` ``tenant_already_exists``."""
        async with self._database.platform() as connection:
            row = await repository.insert_tenant(connection, tenant, name, needs_verified_email)
            await self._audit.done(connection, NO_TENANT, principal.actor, "tenant.create", tenant, origin)
        return row

    async def get(self, principal: Principal, tenant: str, origin: Origin) -> Row:
        """A tenant. Raises :class:`Refused` ``tenant_not_found``."""
        async with self._database.platform() as connection:
            row = await repository.tenant(connection, tenant)
            if row is None:
                raise Refused("tenant_not_found", f"there is no tenant {tenant}")
            await self._audit.done(connection, NO_TENANT, principal.actor, "tenant.get", tenant, origin)
        return row

    async def now(self, tenant: str) -> Row:
        """A tenant that was just made or changed, as it is by now."""
        async with self._database.platform() as connection:
            row = await repository.tenant(connection, tenant)
        assert row is not None  # tenants are never removed
        return row

    async def set_status(self, principal: Principal, tenant: str, status: str, origin: Origin) -> Row:
        """Activates or deactivates; a deactivation is answered when nobody of the tenant is let in any more.

        Raises :class:`Refused` ``tenant_not_found``.
        """
        async with self._database.platform() as connection:
            row = await repository.set_tenant_status(connection, tenant, status)
            if row is None:
                raise Refused("tenant_not_found", f"there is no tenant {tenant}")
            await self._audit.done(connection, NO_TENANT, principal.actor, f"tenant.{status}", tenant, origin)
            seq = await repository.revoke(connection, "tenant", tenant, tenant)
        await self._feed.confirmed(seq)
        return row

    async def set_limits(
        self, principal: Principal, tenant: str, changes: Mapping[str, int | None], origin: Origin
    ) -> Row:
        """Gives a tenant limits of its own. Raises :class:`Refused` ``tenant_not_found``."""
        async with self._database.platform() as connection:
            row = await repository.set_tenant_limits(connection, tenant, changes)
            if row is None:
                raise Refused("tenant_not_found", f"there is no tenant {tenant}")
            await self._audit.done(connection, NO_TENANT, principal.actor, "tenant.limits", tenant, origin)
        return row


class ApiKeys:
    """Keys for servers."""

    def __init__(self, database: Database, feed: Feed, audit: AuditLog) -> None:
        self._database = database
        self._feed = feed
        self._audit = audit

    async def create(
        self,
        principal: Principal,
        tenant: str,
        wanted: Mapping[str, Any],
        origin: Origin,
    ) -> tuple[str, Row]:
        """A new key (shown this once) and its row. `wanted`: name, scopes, expires_at, user_id (None: the tenant's).

        Nobody makes a key that may do more than they. Raises :class:`Refused`.
        """
        user_id = wanted.get("user_id")
        if reach(principal, "api_keys.manage") <= Reach.OWN and user_id != principal.user_id:
            raise Refused("insufficient_permissions", "a key of the tenant is made by an admin")
        expires_at = wanted.get("expires_at")
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise Refused("invalid_field", "expires_at has passed")
        key_id, key, secret_hash = make_api_key(tenant)
        async with self._database.tenant(tenant) as connection:
            owner = None
            if await repository.tenant(connection, tenant) is None:
                raise Refused("tenant_not_found", f"there is no tenant {tenant}")
            if user_id is not None:
                owner = _found(await repository.user(connection, user_id))
            row = await repository.insert_api_key(
                connection,
                {
                    "key_id": key_id,
                    "tenant_id": tenant,
                    "customer_id": owner["customer_id"] if owner else None,
                    "user_id": owner["user_id"] if owner else None,
                    "name": wanted["name"],
                    "secret_hash": secret_hash,
                    "scopes": sorted(set(wanted["scopes"])),
                    "created_by": principal.actor,
                    "expires_at": expires_at,
                },
            )
            await self._audit.done(connection, tenant, principal.actor, "api_key.create", key_id, origin)
        return key, row

    async def list(self, principal: Principal, tenant: str, page: Page) -> Sequence[Row]:
        """A page of keys: one's own, or with the reach for it all of the tenant."""
        async with self._database.tenant(tenant) as connection:
            return await repository.api_keys(connection, self._owner(principal), page)

    async def of_user(self, tenant: str, user_id: str) -> Sequence[Row]:
        """A user's keys, newest first."""
        page = Page(filters={}, order=order_of(repository.API_KEYS, ""), limit=_KEYS_MAX)
        async with self._database.tenant(tenant) as connection:
            return await repository.api_keys(connection, user_id, page)

    async def revoke(self, principal: Principal, tenant: str, key_id: str, origin: Origin) -> None:
        """Revokes a key; answered when every API process knows. Raises :class:`Refused` ``api_key_not_found``."""
        async with self._database.tenant(tenant) as connection:
            if not await repository.revoke_api_key(connection, key_id, self._owner(principal)):
                raise Refused("api_key_not_found", "there is no such key, or it is revoked")
            await self._audit.done(connection, tenant, principal.actor, "api_key.revoke", key_id, origin)
            seq = await repository.revoke(connection, "api_key", key_id, tenant)
        await self._feed.confirmed(seq)

    @staticmethod
    def _owner(principal: Principal) -> str | None:
        return principal.user_id if reach(principal, "api_keys.manage") <= Reach.OWN else None


class SigningKeys:
    """The keys that sign our tokens: made here, sealed in Postgres, the same on all API processes."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        audit: AuditLog,
        sealer: Sealer,
        ring: KeyRing,
        *,
        life_s: float,
        days: int,
    ) -> None:
        self._database = database
        self._feed = feed
        self._audit = audit
        self._sealer = sealer
        self._ring = ring
        self._life_s = life_s
        self._renew_s = days * _DAY_S

    async def load(self, now: float) -> None:
        """Takes the keys there are for the ring; makes the first one, or the next when the last is old."""
        async with self._database.nobody() as connection:
            self._ring.replace(self._key(row) for row in await repository.signing_keys(connection, self._life_s))
        newest = self._ring.newest
        if newest is not None and newest.signs_from > now - self._renew_s:
            return
        async with self._database.nobody() as connection:
            await repository.lock_signing_keys(connection)
            keys = [self._key(row) for row in await repository.signing_keys(connection, self._life_s)]
            # Another process may have made it while this one waited for the lock.
            if not any(key.private is not None and key.signs_from > now - self._renew_s for key in keys):
                signs_in_s = PUBLISHED_S if any(key.private is not None for key in keys) else 0.0
                await self._insert(connection, signs_in_s)
                await repository.revoke(connection, "signing_keys", "", None)
                keys = [self._key(row) for row in await repository.signing_keys(connection, self._life_s)]
        self._ring.replace(keys)

    async def rotate(self, principal: Principal, *, at_once: bool, origin: Origin) -> str:
        """Makes the next key; what the keys before have signed stays good. Its id."""
        async with self._database.nobody() as connection:
            await repository.lock_signing_keys(connection)
            kid = await self._insert(connection, 0.0 if at_once else PUBLISHED_S)
            await self._audit.done(connection, NO_TENANT, principal.actor, "signing_key.rotate", kid, origin)
            seq = await repository.revoke(connection, "signing_keys", kid, None)
        await self._feed.confirmed(seq)
        return kid

    async def revoke(self, principal: Principal, kid: str, origin: Origin) -> None:
        """Revokes a key: what it has signed is refused everywhere when this is answered. Another one signs at once.

        Raises :class:`Refused` ``signing_key_not_found``.
        """
        async with self._database.nobody() as connection:
            await repository.lock_signing_keys(connection)
            if not await repository.revoke_signing_key(connection, kid):
                raise Refused("signing_key_not_found", "there is no such key, or it is revoked")
            left = [self._key(row) for row in await repository.signing_keys(connection, self._life_s)]
            if not any(key.private is not None and key.signs_from <= datetime.now(UTC).timestamp() for key in left):
                await self._insert(connection, 0.0)
            await self._audit.done(connection, NO_TENANT, principal.actor, "signing_key.revoke", kid, origin)
            seq = await repository.revoke(connection, "signing_keys", kid, None)
        await self._feed.confirmed(seq)

    async def _insert(self, connection: Any, signs_in_s: float) -> str:
        private = Ed25519PrivateKey.generate()
        kid = secrets.token_hex(8)
        sealed = self._sealer.seal(private.private_bytes_raw(), f"signing_keys/{kid}")
        await repository.insert_signing_key(
            connection, kid, private.public_key().public_bytes_raw(), sealed, signs_in_s
        )
        return kid

    def _key(self, row: Row) -> SigningKey:
        try:
            sealed = self._sealer.open(row["private_sealed"], f"signing_keys/{row['kid']}")
            private = Ed25519PrivateKey.from_private_bytes(sealed)
        except Unsealable as error:
            log.warning("identity: %s; this key only verifies", error)
            private = None
        public = Ed25519PublicKey.from_public_bytes(row["public_key"])
        return SigningKey(row["kid"], public, private, row["signs_from"].timestamp())


def _found(row: _Found | None) -> _Found:
    if row is None:
        raise Refused("user_not_found", "there is no such user")
    return row


def _sortable(user: User) -> User:
    """With what a page by name or address goes by; who has none comes first."""
    return user | {"sort_email": (user["email"] or "").lower(), "sort_name": (user["full_name"] or "").lower()}
