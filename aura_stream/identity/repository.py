"""All SQL of identity. Each function works in the transaction it is given, which sees one tenant (`database`)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import asyncpg

from aura_stream.domain.reasons import Refused
from aura_stream.ledger.listing import SEALED, Column, Listing, Page, filtered, select

if TYPE_CHECKING:
    from aura_stream.identity.limits import Bucket
    from aura_stream.ledger.connection import Connection

Row = asyncpg.Record

_USER = """user_id, tenant_id, customer_id, email_sealed, full_name_sealed, roles, status, verified_at, created_at,
updated_at, (SELECT k.key_sealed FROM identity.subject_keys k WHERE k.user_id = users.user_id) AS key_sealed"""
_API_KEY = """key_id, tenant_id, customer_id, user_id, name, scopes, created_by, created_at, expires_at, revoked_at"""
_TENANT = """tenant_id, name, status, needs_verified_email, rate_limit, rate_window_s, command_limit, created_at,
    deactivated_at, ledger_opened_at"""


# --- tenants ------------------------------------------------------------------------------------------------------


async def ensure_tenant(connection: Connection, tenant: str, *, is_of_settings: bool) -> None:
    """Makes a tenant, if it is not there; the ledger knows those of the settings from the start."""
    await connection.execute(
        "INSERT INTO identity.tenants (tenant_id, name) VALUES ($1, $1) ON CONFLICT DO NOTHING", tenant
    )
    if is_of_settings:
        await set_opened(connection, tenant)


async def set_opened(connection: Connection, tenant: str) -> None:
    """Notes that all partitions of the ledger take commands of a tenant."""
    await connection.execute(
        """UPDATE identity.tenants SET ledger_opened_at = clock_timestamp()
        WHERE tenant_id = $1 AND ledger_opened_at IS NULL""",
        tenant,
    )


async def unopened_tenants(connection: Connection, count_max: int) -> list[str]:
    """Tenants that the ledger may not know yet."""
    rows = await connection.fetch(
        "SELECT tenant_id FROM identity.tenants WHERE ledger_opened_at IS NULL ORDER BY created_at, tenant_id LIMIT $1",
        count_max,
    )
    return [row["tenant_id"] for row in rows]


async def opened_tenants(connection: Connection) -> list[str]:
    """Tenants that the ledger knows."""
    rows = await connection.fetch("SELECT tenant_id FROM identity.tenants WHERE ledger_opened_at IS NOT NULL")
    return [row["tenant_id"] for row in rows]


async def insert_tenant(connection: Connection, tenant: str, name: str, needs_verified_email: bool) -> Row:
    """A new tenant. Raises :class:`Refused` ``tenant_already_exists``."""
    row = await connection.fetchrow(
        f"""INSERT INTO identity.tenants (tenant_id, name, needs_verified_email) VALUES ($1, $2, $3)
        ON CONFLICT DO NOTHING RETURNING {_TENANT}""",  # noqa: S608 - constants
        tenant,
        name,
        needs_verified_email,
    )
    if row is None:
        raise Refused("tenant_already_exists", f"there is a tenant {tenant}")
    return row


async def tenant(connection: Connection, tenant_id: str) -> Row | None:
    """A tenant, as far as the transaction sees it."""
    return await connection.fetchrow(
        f"SELECT {_TENANT} FROM identity.tenants WHERE tenant_id = $1",  # noqa: S608 - constants
        tenant_id,
    )


async def tenants(connection: Connection, after: str, limit: int) -> Sequence[Row]:
    """Tenants by id."""
    return await connection.fetch(
        f"SELECT {_TENANT} FROM identity.tenants WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2",  # noqa: S608 - constants
        after,
        limit,
    )


async def set_tenant_status(connection: Connection, tenant_id: str, status: str) -> Row | None:
    """Activates or deactivates; None when there is no such tenant."""
    return await connection.fetchrow(
        f"""UPDATE identity.tenants SET status = $2,
            deactivated_at = CASE WHEN $2 = 'inactive' THEN coalesce(deactivated_at, clock_timestamp()) END
        WHERE tenant_id = $1 RETURNING {_TENANT}""",  # noqa: S608 - constants
        tenant_id,
        status,
    )


async def set_tenant_limits(connection: Connection, tenant_id: str, changes: Mapping[str, int | None]) -> Row | None:
    """Sets `rate_limit`, `rate_window_s`, `command_limit`, all of them; None when there is no such tenant."""
    return await connection.fetchrow(
        f"""UPDATE identity.tenants SET rate_limit = $2, rate_window_s = $3, command_limit = $4
        WHERE tenant_id = $1 RETURNING {_TENANT}""",  # noqa: S608 - constants
        tenant_id,
        changes.get("rate_limit"),
        changes.get("rate_window_s"),
        changes.get("command_limit"),
    )


# --- users --------------------------------------------------------------------------------------------------------


async def insert_user(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new user from `user_id, tenant_id, customer_id, email_hash, email_sealed, full_name_sealed, key_sealed,
    generation, password_hash, roles`.

    Raises :class:`Refused` ``email_already_exists``.
    """
    await connection.execute(
        "INSERT INTO identity.subject_keys (user_id, tenant_id, key_sealed, generation) VALUES ($1, $2, $3, $4)",
        values["user_id"],
        values["tenant_id"],
        values["key_sealed"],
        values["generation"],
    )
    row = await connection.fetchrow(
        f"""INSERT INTO identity.users
            (user_id, tenant_id, customer_id, email_hash, email_sealed, full_name_sealed, password_hash, roles,
            password_changed_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp())
        ON CONFLICT (tenant_id, email_hash) DO NOTHING RETURNING {_USER}""",  # noqa: S608 - constants
        values["user_id"],
        values["tenant_id"],
        values["customer_id"],
        values["email_hash"],
        values["email_sealed"],
        values["full_name_sealed"],
        values["password_hash"],
        list(values["roles"]),
    )
    if row is None:
        raise Refused("email_already_exists", "the e-mail address has a user in this tenant")
    return row


async def user(connection: Connection, user_id: str) -> Row | None:
    """A user of the transaction's tenant."""
    return await connection.fetchrow(
        f"SELECT {_USER} FROM identity.users WHERE user_id = $1",  # noqa: S608 - constants
        uuid.UUID(user_id),
    )


async def subject_key(connection: Connection, user_id: str) -> bytes | None:
    """The sealed key of a person of any tenant; None when it is destroyed."""
    key: bytes | None = await connection.fetchval("SELECT identity.subject_key($1)", uuid.UUID(user_id))
    return key


USERS = Listing(
    columns={
        "created_at": Column("created_at", "created_at", "time"),
        "updated_at": Column("updated_at", "updated_at", "time"),
        "email": Column("sort_email", SEALED, "text"),
        "full_name": Column("sort_name", SEALED, "text"),
        "status": Column("status", "status", "text"),
        "id": Column("user_id", "user_id", "uuid"),
    },
    key=("id",),
    filters={
        "status": "status = {}",
        "role": "{} = ANY(roles)",
        "email": "email_hash = {}",
        "from": "created_at >= {}",
        "to": "created_at < {}",
    },
    default="created_at:asc",
)
"""Users of one tenant. An e-mail address is looked for by its keyed hash."""


async def users(connection: Connection, page: Page) -> Sequence[Row]:
    """A page of users (:data:`USERS`)."""
    query = f"SELECT {_USER} FROM identity.users WHERE true"  # noqa: S608 - constants
    text, arguments = select(USERS, query, page)
    return await connection.fetch(text, *arguments)


async def all_users(connection: Connection, page: Page) -> Sequence[Row]:
    """All users that the filters of a page leave, in no order."""
    query = f"SELECT {_USER} FROM identity.users WHERE true"  # noqa: S608 - constants
    text, arguments = filtered(USERS, query, page)
    return await connection.fetch(text, *arguments)


async def count_users(connection: Connection, page: Page) -> int:
    """How many those are."""
    text, arguments = filtered(USERS, "SELECT count(*) FROM identity.users WHERE true", page)
    count: int = await connection.fetchval(text, *arguments)
    return count


async def user_counts(connection: Connection) -> Row:
    """How many users there are, and of which kind."""
    return cast(
        "Row",
        await connection.fetchrow(
            """SELECT count(*) AS total_users, count(*) FILTER (WHERE status = 'ACTIVE') AS active_users,
                count(*) FILTER (WHERE 'admin' = ANY(roles) AND status <> 'DELETED') AS admin_users,
                count(*) FILTER (WHERE status = 'SUSPENDED') AS suspended_users
            FROM identity.users"""
        ),
    )


async def password_hash(connection: Connection, user_id: str) -> str | None:
    """The stored hash; the row stays locked, so that two changes of a password cannot both be right."""
    found: str | None = await connection.fetchval(
        "SELECT password_hash FROM identity.users WHERE user_id = $1 FOR UPDATE", uuid.UUID(user_id)
    )
    return found


async def set_password(connection: Connection, user_id: str, new: str, old: str | None) -> bool:
    """Stores a hash in place of `old`; False when that is no longer the stored one."""
    done: str = await connection.execute(
        """UPDATE identity.users SET password_hash = $2, password_changed_at = clock_timestamp(),
            updated_at = clock_timestamp()
        WHERE user_id = $1 AND password_hash IS NOT DISTINCT FROM $3""",
        uuid.UUID(user_id),
        new,
        old,
    )
    return done == "UPDATE 1"


async def update_user(connection: Connection, user_id: str, changes: Mapping[str, Any]) -> Row | None:
    """Changes `full_name_sealed`, `status`, `roles`, where they are given; None when there is no such user."""
    return await connection.fetchrow(
        f"""UPDATE identity.users SET full_name_sealed = coalesce($2, full_name_sealed), status = coalesce($3, status),
            roles = coalesce($4, roles), updated_at = clock_timestamp()
        WHERE user_id = $1 AND status <> 'DELETED' RETURNING {_USER}""",  # noqa: S608 - constants
        uuid.UUID(user_id),
        changes.get("full_name_sealed"),
        changes.get("status"),
        list(changes["roles"]) if "roles" in changes else None,
    )


async def external_user(connection: Connection, issuer: str, subject: str) -> Row | None:
    """Who a subject of an external issuer is here."""
    return await connection.fetchrow(
        f"""SELECT {_USER} FROM identity.users WHERE (tenant_id, user_id) = (
            SELECT e.tenant_id, e.user_id FROM identity.external_identities e
            WHERE e.issuer = $1 AND e.subject = $2)""",  # noqa: S608 - constants
        issuer,
        subject,
    )


async def external_logins(connection: Connection, user_id: str) -> list[Row]:
    """Under which names external issuers know a user."""
    return await connection.fetch(
        "SELECT issuer, subject FROM identity.external_identities WHERE user_id = $1 ORDER BY issuer, subject",
        uuid.UUID(user_id),
    )


async def link_external_user(
    connection: Connection, issuer: str, subject: str, tenant: str, user_id: uuid.UUID
) -> bool:
    """Says who a subject is; False when somebody else just did."""
    done: str = await connection.execute(
        """INSERT INTO identity.external_identities (issuer, subject, tenant_id, user_id) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING""",
        issuer,
        subject,
        tenant,
        user_id,
    )
    return done == "INSERT 0 1"


async def logins(connection: Connection, email_hash: bytes, tenant: str | None) -> Sequence[Row]:
    """Who an e-mail address could mean, in all tenants or in one."""
    return await connection.fetch("SELECT * FROM identity.logins($1, $2)", email_hash, tenant)


# --- sessions and their tokens ------------------------------------------------------------------------------------


async def insert_session(
    connection: Connection, session_id: str, tenant: str, user_id: str, client_sealed: bytes | None, life_s: int
) -> datetime | None:
    """A new session; when it ends at the latest. None when it is there already: that one stays as it is."""
    ends: datetime | None = await connection.fetchval(
        """INSERT INTO identity.sessions (session_id, tenant_id, user_id, client_sealed, expires_at)
        VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5))
        ON CONFLICT (session_id) DO NOTHING RETURNING expires_at""",
        uuid.UUID(session_id),
        tenant,
        uuid.UUID(user_id),
        client_sealed,
        life_s,
    )
    return ends


async def live_session(connection: Connection, session_id: str) -> Row | None:
    """A session with what decides whether its tokens are good: user and tenant as they are now."""
    return await connection.fetchrow(
        """SELECT s.session_id, s.expires_at, s.ended_at, u.user_id, u.customer_id, u.roles, u.status, u.tenant_id,
            t.status AS tenant_status
        FROM identity.sessions s JOIN identity.users u USING (tenant_id, user_id)
            JOIN identity.tenants t USING (tenant_id)
        WHERE s.session_id = $1""",
        uuid.UUID(session_id),
    )


async def sessions_of(connection: Connection, user_id: str) -> Sequence[Row]:
    """The sessions of a user that have not ended, newest first."""
    return await connection.fetch(
        """SELECT session_id, client_sealed, created_at, expires_at FROM identity.sessions
        WHERE user_id = $1 AND ended_at IS NULL AND expires_at > clock_timestamp()
        ORDER BY created_at DESC, session_id""",
        uuid.UUID(user_id),
    )


async def end_session(connection: Connection, session_id: str, reason: str, user_id: str | None = None) -> bool:
    """Ends a session (of that user, if one is named); False when there is none that goes on."""
    done: str = await connection.execute(
        """UPDATE identity.sessions SET ended_at = clock_timestamp(), end_reason = $2
        WHERE session_id = $1 AND ended_at IS NULL AND ($3::uuid IS NULL OR user_id = $3)""",
        uuid.UUID(session_id),
        reason,
        uuid.UUID(user_id) if user_id else None,
    )
    return done == "UPDATE 1"


async def end_sessions(connection: Connection, user_id: str, reason: str) -> None:
    """Ends all sessions of a user."""
    await connection.execute(
        """UPDATE identity.sessions SET ended_at = clock_timestamp(), end_reason = $2
        WHERE user_id = $1 AND ended_at IS NULL""",
        uuid.UUID(user_id),
        reason,
    )


async def insert_refresh_token(connection: Connection, jti: str, tenant: str, session_id: str, life_s: int) -> None:
    """Notes that a refresh token was made."""
    await connection.execute(
        """INSERT INTO identity.refresh_tokens (jti, tenant_id, session_id, expires_at)
        VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))""",
        uuid.UUID(jti),
        tenant,
        uuid.UUID(session_id),
        life_s,
    )


async def use_refresh_token(connection: Connection, jti: str, session_id: str, successor: str) -> bool:
    """Uses a refresh token, once: of any number at the same time one gets True."""
    done: str = await connection.execute(
        """UPDATE identity.refresh_tokens SET used_at = clock_timestamp(), successor = $3
        WHERE jti = $1 AND session_id = $2 AND used_at IS NULL AND expires_at > clock_timestamp()""",
        uuid.UUID(jti),
        uuid.UUID(session_id),
        uuid.UUID(successor),
    )
    return done == "UPDATE 1"


async def used_refresh_token(connection: Connection, jti: str) -> Row | None:
    """A token that was used: how long ago (seconds), and whether its successor was used too."""
    return await connection.fetchrow(
        """SELECT extract(epoch FROM clock_timestamp() - r.used_at)::float8 AS used_s,
            s.used_at IS NOT NULL AS successor_used
        FROM identity.refresh_tokens r LEFT JOIN identity.refresh_tokens s ON s.jti = r.successor
        WHERE r.jti = $1 AND r.used_at IS NOT NULL""",
        uuid.UUID(jti),
    )


# --- e-mail addresses, work to be done outside --------------------------------------------------------------------


async def insert_email_token(
    connection: Connection,
    token_hash: bytes,
    tenant: str,
    user_id: uuid.UUID,
    email_hash: bytes,
    life_s: int,
    purpose: str,
) -> None:
    """Notes that a token was mailed to an address: to `verify` it, or to `reset` the password."""
    await connection.execute(
        """INSERT INTO identity.email_tokens (token_hash, tenant_id, user_id, email_hash, expires_at, purpose)
        VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5), $6)""",
        token_hash,
        tenant,
        user_id,
        email_hash,
        life_s,
        purpose,
    )


async def reset_roles(connection: Connection, token_hash: bytes) -> Sequence[str] | None:
    """The roles of who may set a new password by a token; None when nobody may."""
    found: Sequence[str] | None = await connection.fetchval(
        """SELECT u.roles FROM identity.email_tokens e JOIN identity.users u USING (user_id)
        WHERE e.token_hash = $1 AND e.purpose = 'reset' AND e.used_at IS NULL AND e.expires_at > clock_timestamp()
            AND u.email_hash = e.email_hash AND u.status = 'ACTIVE'""",
        token_hash,
    )
    return found


async def use_reset_token(connection: Connection, token_hash: bytes, password_hash: str) -> str | None:
    """Uses a token for a new password once, and all others of its user with it; whose it was.

    Who has the mail has the address: it is verified by this.
    """
    used = await connection.fetchrow(
        """UPDATE identity.email_tokens SET used_at = clock_timestamp()
        WHERE token_hash = $1 AND purpose = 'reset' AND used_at IS NULL AND expires_at > clock_timestamp()
        RETURNING user_id, email_hash""",
        token_hash,
    )
    if used is None:
        return None
    user_id: uuid.UUID | None = await connection.fetchval(
        """UPDATE identity.users SET password_hash = $3, password_changed_at = clock_timestamp(),
            verified_at = coalesce(verified_at, clock_timestamp()), updated_at = clock_timestamp()
        WHERE user_id = $1 AND email_hash = $2 AND status = 'ACTIVE' RETURNING user_id""",
        used["user_id"],
        used["email_hash"],
        password_hash,
    )
    if user_id is None:
        return None
    await connection.execute(
        """UPDATE identity.email_tokens SET used_at = clock_timestamp()
        WHERE user_id = $1 AND purpose = 'reset' AND used_at IS NULL""",
        user_id,
    )
    return str(user_id)


async def email_token_tenant(connection: Connection, token_hash: bytes) -> str | None:
    """The tenant of a verification token."""
    found: str | None = await connection.fetchval("SELECT identity.email_token_tenant($1)", token_hash)
    return found


async def use_email_token(connection: Connection, token_hash: bytes) -> Row | None:
    """Uses a verification token once and verifies its user, if the address is still the user's."""
    used = await connection.fetchrow(
        """UPDATE identity.email_tokens SET used_at = clock_timestamp()
        WHERE token_hash = $1 AND purpose = 'verify' AND used_at IS NULL AND expires_at > clock_timestamp()
        RETURNING user_id, email_hash""",
        token_hash,
    )
    if used is None:
        return None
    return await connection.fetchrow(
        f"""UPDATE identity.users SET verified_at = coalesce(verified_at, clock_timestamp()),
            updated_at = clock_timestamp()
        WHERE user_id = $1 AND email_hash = $2 AND status <> 'DELETED' RETURNING {_USER}""",  # noqa: S608 - constants
        used["user_id"],
        used["email_hash"],
    )


async def insert_outbox(connection: Connection, tenant: str, kind: str, user_id: uuid.UUID, sealed: bytes) -> None:
    """Work for outside the database, in the transaction that makes it necessary."""
    await connection.execute(
        "INSERT INTO identity.outbox (tenant_id, kind, user_id, payload_sealed) VALUES ($1, $2, $3, $4)",
        tenant,
        kind,
        user_id,
        sealed,
    )


async def open_outbox(connection: Connection, kind: str, tenants: Sequence[str], count_max: int) -> Sequence[Row]:
    """Work that is left, of these tenants, locked until the transaction ends."""
    return await connection.fetch("SELECT * FROM identity.open_outbox($1, $2, $3)", kind, list(tenants), count_max)


async def finish_outbox(connection: Connection, outbox_id: int) -> None:
    """This work is done."""
    await connection.execute("SELECT identity.finish_outbox($1)", outbox_id)


async def mails_of(connection: Connection, user_id: str) -> Sequence[Row]:
    """The mails to a user, newest first."""
    return await connection.fetch(
        """SELECT outbox_id, payload_sealed, created_at, done_at FROM identity.outbox
        WHERE user_id = $1 AND kind = 'mail' ORDER BY outbox_id DESC LIMIT 50""",
        uuid.UUID(user_id),
    )


async def take_mail(connection: Connection) -> Row | None:
    """A mail that is due, of any tenant, locked until the transaction ends."""
    return await connection.fetchrow("SELECT * FROM identity.take_mail()")


async def mail_tried(connection: Connection, outbox_id: int, again_s: float | None, failure: str | None) -> None:
    """Notes a try: the next one is in `again_s` seconds, None: there is none."""
    await connection.execute("SELECT identity.mail_tried($1, $2, $3)", outbox_id, again_s, failure)


async def mails(connection: Connection, count_max: int) -> Sequence[Row]:
    """The newest mails of the transaction's tenant."""
    return await connection.fetch(
        """SELECT outbox_id, user_id, payload_sealed, created_at, done_at FROM identity.outbox
        WHERE kind = 'mail' ORDER BY outbox_id DESC LIMIT $1""",
        count_max,
    )


# --- the platform's keys ------------------------------------------------------------------------------------------


async def platform_keys(connection: Connection) -> Row | None:
    """Generation and wrapped keys; None: there are none yet."""
    return await connection.fetchrow("SELECT generation, keys_sealed FROM identity.platform_keys()")


async def put_platform_keys(connection: Connection, fresh: bytes, before: bytes) -> None:
    """Makes the first keys: `fresh` ones, or those of `before` where something is sealed already."""
    await connection.execute("SELECT identity.put_platform_keys($1, $2)", fresh, before)


async def lock_platform_keys(connection: Connection) -> Row | None:
    """The same, until the transaction ends for nobody else: no person is made meanwhile. As the owner."""
    return await connection.fetchrow("SELECT generation, keys_sealed FROM identity.platform_keys FOR UPDATE")


async def replace_platform_keys(connection: Connection, generation: int, keys_sealed: bytes) -> None:
    """Another generation of keys. As the owner."""
    await connection.execute(
        "UPDATE identity.platform_keys SET generation = $1, keys_sealed = $2, made_at = clock_timestamp()",
        generation,
        keys_sealed,
    )


async def subject_keys_before(connection: Connection, generation: int, count_max: int) -> Sequence[Row]:
    """Persons' keys that an earlier generation seals, locked. As the owner."""
    return await connection.fetch(
        """SELECT user_id, key_sealed FROM identity.subject_keys
        WHERE key_sealed IS NOT NULL AND generation < $1 LIMIT $2 FOR UPDATE""",
        generation,
        count_max,
    )


async def replace_subject_keys(
    connection: Connection, generation: int, user_ids: Sequence[uuid.UUID], keys_sealed: Sequence[bytes]
) -> None:
    """Persons' keys, sealed by a later generation. As the owner."""
    await connection.execute(
        """UPDATE identity.subject_keys k SET key_sealed = n.key_sealed, generation = $1
        FROM unnest($2::uuid[], $3::bytea[]) AS n (user_id, key_sealed) WHERE k.user_id = n.user_id""",
        generation,
        list(user_ids),
        list(keys_sealed),
    )


# --- API keys -----------------------------------------------------------------------------------------------------


async def insert_api_key(connection: Connection, values: Mapping[str, Any]) -> Row:
    """A new API key."""
    row = await connection.fetchrow(
        f"""INSERT INTO identity.api_keys
            (key_id, tenant_id, customer_id, user_id, name, secret_hash, scopes, created_by, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING {_API_KEY}""",  # noqa: S608 - constants
        values["key_id"],
        values["tenant_id"],
        values["customer_id"],
        values["user_id"],
        values["name"],
        values["secret_hash"],
        list(values["scopes"]),
        values["created_by"],
        values["expires_at"],
    )
    assert row is not None
    return row


async def live_api_key(connection: Connection, key_id: str) -> Row | None:
    """An API key with what decides whether it is good: its tenant and its user as they are now."""
    return await connection.fetchrow(
        """SELECT k.key_id, k.tenant_id, k.customer_id, k.user_id, k.secret_hash, k.scopes, k.expires_at, k.revoked_at,
            t.status AS tenant_status, u.status AS user_status
        FROM identity.api_keys k JOIN identity.tenants t USING (tenant_id)
        LEFT JOIN identity.users u ON u.tenant_id = k.tenant_id AND u.user_id = k.user_id
        WHERE k.key_id = $1""",
        key_id,
    )


API_KEYS = Listing(
    columns={
        "created_at": Column("created_at", "created_at", "time"),
        "id": Column("key_id", "key_id", "text"),
    },
    key=("id",),
    filters={},
    default="created_at:desc",
)
"""API keys of one tenant."""


async def api_keys(connection: Connection, user_id: str | None, page: Page) -> Sequence[Row]:
    """A page of API keys (:data:`API_KEYS`): of a user, or all of the tenant."""
    query = f"SELECT {_API_KEY} FROM identity.api_keys WHERE ($1::uuid IS NULL OR user_id = $1)"  # noqa: S608 - constants
    text, arguments = select(API_KEYS, query, page, (uuid.UUID(user_id) if user_id else None,))
    return await connection.fetch(text, *arguments)


async def revoke_api_key(connection: Connection, key_id: str, user_id: str | None) -> bool:
    """Revokes a key (of that user, if one is named); False when there is none that is good."""
    done: str = await connection.execute(
        """UPDATE identity.api_keys SET revoked_at = clock_timestamp()
        WHERE key_id = $1 AND revoked_at IS NULL AND ($2::uuid IS NULL OR user_id = $2)""",
        key_id,
        uuid.UUID(user_id) if user_id else None,
    )
    return done == "UPDATE 1"


# --- signing keys -------------------------------------------------------------------------------------------------


async def signing_keys(connection: Connection, life_s: float) -> Sequence[Row]:
    """The signing keys whose tokens may still be good: not revoked, and not followed by another for that long."""
    return await connection.fetch(
        """SELECT * FROM (
            SELECT k.*, lead(signs_from) OVER (ORDER BY signs_from, kid) AS followed_at
            FROM identity.signing_keys k WHERE revoked_at IS NULL
        ) k WHERE followed_at IS NULL OR followed_at > clock_timestamp() - make_interval(secs => $1)
        ORDER BY signs_from, kid""",
        life_s,
    )


async def lock_signing_keys(connection: Connection) -> None:
    """Lets one process at a time make keys."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('identity.signing_keys', 0))")


async def insert_signing_key(connection: Connection, kid: str, public: bytes, sealed: bytes, signs_in_s: float) -> None:
    """A new key that signs from then on."""
    await connection.execute(
        """INSERT INTO identity.signing_keys (kid, public_key, private_sealed, signs_from)
        VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))""",
        kid,
        public,
        sealed,
        signs_in_s,
    )


async def revoke_signing_key(connection: Connection, kid: str) -> bool:
    """Revokes a key: what it has signed is worth nothing any more. False when there is none."""
    done: str = await connection.execute(
        "UPDATE identity.signing_keys SET revoked_at = clock_timestamp() WHERE kid = $1 AND revoked_at IS NULL", kid
    )
    return done == "UPDATE 1"


# --- revocation, audit, stored answers ----------------------------------------------------------------------------


async def revoke(connection: Connection, kind: str, subject: str, tenant: str | None) -> int:
    """Tells every API process to forget; the number to wait for. The last statement of its transaction."""
    seq: int = await connection.fetchval("SELECT identity.revoke($1, $2, $3)", kind, subject, tenant)
    return seq


async def audit(connection: Connection, tenant: str, values: Sequence[Any]) -> None:
    """Appends `actor, action, outcome, reason, subject, request_id, address_sealed` to the tenant's chain."""
    await connection.execute("SELECT identity.audit($1, $2, $3, $4, $5, $6, $7, $8)", tenant, *values)


async def claim_answer(connection: Connection, tenant: str, actor: str, key: str, fingerprint: bytes) -> Row | None:
    """Claims an idempotency key: None when it was free, else the row that has it. A claim whose process died lapses."""
    done: str = await connection.execute(
        """INSERT INTO identity.stored_answers AS a (tenant_id, actor, idempotency_key, fingerprint)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant_id, actor, idempotency_key) DO UPDATE SET created_at = clock_timestamp()
        WHERE a.status IS NULL AND a.fingerprint = $4 AND a.created_at < clock_timestamp() - interval '60 seconds'""",
        tenant,
        actor,
        key,
        fingerprint,
    )
    if done == "INSERT 0 1":
        return None
    return await connection.fetchrow(
        """SELECT fingerprint, status, body_sealed FROM identity.stored_answers
        WHERE tenant_id = $1 AND actor = $2 AND idempotency_key = $3""",
        tenant,
        actor,
        key,
    )


async def store_answer(
    connection: Connection, tenant: str, actor: str, key: str, status: int, body_sealed: bytes
) -> None:
    """Keeps the answer of a claimed key."""
    await connection.execute(
        """UPDATE identity.stored_answers SET status = $4, body_sealed = $5
        WHERE tenant_id = $1 AND actor = $2 AND idempotency_key = $3""",
        tenant,
        actor,
        key,
        status,
        body_sealed,
    )


async def free_answer(connection: Connection, tenant: str, actor: str, key: str) -> None:
    """Gives a claimed key back: its request had no effect."""
    await connection.execute(
        """DELETE FROM identity.stored_answers
        WHERE tenant_id = $1 AND actor = $2 AND idempotency_key = $3 AND status IS NULL""",
        tenant,
        actor,
        key,
    )


# --- lists for admins ---------------------------------------------------------------------------------------------

AUDIT = Listing(
    columns={"seq": Column("seq", "seq", "integer")},
    key=("seq",),
    filters={
        "actor": "actor = {}",
        "action": "action = {}",
        "outcome": "outcome = {}",
        "subject": "subject = {}",
        "from": "at >= {}",
        "to": "at < {}",
        "about": "(actor = 'user:' || {0} OR subject = {0})",
    },
    default="seq:desc",
)
"""Rows of one chain of the audit log. `about`: a user's id, as actor or subject."""


async def audit_rows(connection: Connection, tenant: str, page: Page) -> Sequence[Row]:
    """A page of the audit log (:data:`AUDIT`)."""
    query = """SELECT tenant_id, seq, at, actor, action, outcome, reason, subject, request_id, address_sealed
        FROM identity.audit_log WHERE tenant_id = $1"""
    text, arguments = select(AUDIT, query, page, (tenant,))
    return await connection.fetch(text, *arguments)


async def answers_of_key(connection: Connection, key: str) -> Sequence[Row]:
    """Who used an idempotency key for a write that moves no money, and whether it was answered."""
    return await connection.fetch(
        """SELECT actor, status, created_at FROM identity.stored_answers
        WHERE idempotency_key = $1 ORDER BY created_at, actor LIMIT 100""",
        key,
    )


# --- erasure ------------------------------------------------------------------------------------------------------

_ERASURE = """request_id, tenant_id, user_id, status, waits_for, maker, checker, created_at, updated_at, completed_at"""


async def insert_erasure(
    connection: Connection, request_id: uuid.UUID, tenant: str, user_id: str, status: str, maker: str
) -> Row | None:
    """A new request to forget a person; None when one is open."""
    return await connection.fetchrow(
        f"""INSERT INTO identity.erasure_requests (request_id, tenant_id, user_id, status, maker)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (user_id) WHERE status IN ('requires_approval', 'pending') DO NOTHING
        RETURNING {_ERASURE}""",  # noqa: S608 - constants
        request_id,
        tenant,
        uuid.UUID(user_id),
        status,
        maker,
    )


async def erasure(connection: Connection, request_id: str, *, lock: bool = False) -> Row | None:
    """A request; `lock` keeps others from deciding it."""
    return await connection.fetchrow(
        f"SELECT {_ERASURE} FROM identity.erasure_requests WHERE request_id = $1"  # noqa: S608 - constants
        + (" FOR UPDATE" if lock else ""),
        uuid.UUID(request_id),
    )


ERASURES = Listing(
    columns={
        "created_at": Column("created_at", "created_at", "time"),
        "updated_at": Column("updated_at", "updated_at", "time"),
        "status": Column("status", "status", "text"),
        "id": Column("request_id", "request_id", "uuid"),
    },
    key=("id",),
    filters={"status": "status = {}", "user_id": "user_id = {}::uuid"},
    default="created_at:desc",
)
"""Requests to be forgotten, of one tenant."""


async def erasures(connection: Connection, page: Page) -> Sequence[Row]:
    """A page of requests (:data:`ERASURES`)."""
    query = f"SELECT {_ERASURE} FROM identity.erasure_requests WHERE true"  # noqa: S608 - constants
    text, arguments = select(ERASURES, query, page)
    return await connection.fetch(text, *arguments)


async def set_erasure(
    connection: Connection, request_id: str, status: str, *, checker: str | None = None, waits_for: Sequence[str] = ()
) -> Row:
    """Moves a request on."""
    row = await connection.fetchrow(
        f"""UPDATE identity.erasure_requests SET status = $2, checker = coalesce($3, checker), waits_for = $4,
            updated_at = clock_timestamp(), completed_at = CASE WHEN $2 = 'completed' THEN clock_timestamp() END
        WHERE request_id = $1 RETURNING {_ERASURE}""",  # noqa: S608 - constants
        uuid.UUID(request_id),
        status,
        checker,
        list(waits_for),
    )
    assert row is not None  # locked by the caller
    return row


async def pending_erasures(connection: Connection, limit: int) -> Sequence[Row]:
    """Pending requests of all tenants, those first that were looked at the longest ago."""
    return await connection.fetch(
        f"""SELECT {_ERASURE} FROM identity.erasure_requests WHERE status = 'pending'
        ORDER BY updated_at LIMIT $1""",  # noqa: S608 - constants
        limit,
    )


async def erase(connection: Connection, user_id: str) -> None:
    """Destroys the person's key and what finds the person. The ledger's rows are not touched."""
    await connection.execute("SELECT identity.erase($1)", uuid.UUID(user_id))


# --- dead letters -------------------------------------------------------------------------------------------------

_REQUEUE = """requeue_id, tenant_id, partition, offset_, status, maker, checker, created_at, decided_at"""


async def insert_requeue(connection: Connection, tenant: str, partition: int, offset: int, maker: str) -> Row | None:
    """A request to send a dead letter again; None when there is one, or it was sent."""
    return await connection.fetchrow(
        f"""INSERT INTO identity.requeues (requeue_id, tenant_id, partition, offset_, maker)
        VALUES (gen_random_uuid(), $1, $2, $3, $4)
        ON CONFLICT (partition, offset_) WHERE status <> 'rejected' DO NOTHING
        RETURNING {_REQUEUE}""",  # noqa: S608 - constants
        tenant,
        partition,
        offset,
        maker,
    )


async def open_requeue(connection: Connection, partition: int, offset: int) -> Row | None:
    """The request that waits for approval, locked."""
    return await connection.fetchrow(
        f"""SELECT {_REQUEUE} FROM identity.requeues
        WHERE partition = $1 AND offset_ = $2 AND status = 'requires_approval' FOR UPDATE""",  # noqa: S608 - constants
        partition,
        offset,
    )


async def decide_requeue(connection: Connection, requeue_id: uuid.UUID, status: str, checker: str) -> Row:
    """Approves or rejects a request that `open_requeue` has locked."""
    row = await connection.fetchrow(
        f"""UPDATE identity.requeues SET status = $2, checker = $3, decided_at = clock_timestamp()
        WHERE requeue_id = $1 RETURNING {_REQUEUE}""",  # noqa: S608 - constants
        requeue_id,
        status,
        checker,
    )
    assert row is not None  # locked by the caller
    return row


# --- limits, and what has served its time -------------------------------------------------------------------------


async def lease(connection: Connection, bucket: Bucket, name: str, wanted: int, at_least: int) -> Row:
    """Takes up to `wanted` from a bucket: `granted, left_over, allowed, window_s, left_s`."""
    row = await connection.fetchrow(
        "SELECT * FROM identity.lease($1, $2, $3, $4, $5, $6, $7)",
        name,
        bucket.kind,
        bucket.tenant,
        wanted,
        at_least,
        bucket.limit,
        bucket.window_s,
    )
    assert row is not None
    return row


async def is_login_place(connection: Connection, target: str, place: str) -> bool:
    """Whether somebody has logged in as `target` from there before."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM identity.login_places WHERE target = $1 AND place = $2)", target, place
    )
    return found


async def remember_login_place(connection: Connection, target: str, place: str) -> None:
    """Notes that `target` was logged in as from there."""
    await connection.execute(
        """INSERT INTO identity.login_places (target, place) VALUES ($1, $2)
        ON CONFLICT (target, place) DO UPDATE SET seen_at = clock_timestamp()""",
        target,
        place,
    )


async def clean(connection: Connection, answers_s: float, ended_s: float, count_max: int) -> dict[str, int]:
    """Removes what is older than that, so many rows of each kind at most; how many were removed, by kind.

    Nothing while another process does it.
    """
    if not await connection.fetchval("SELECT pg_try_advisory_xact_lock(hashtextextended('identity.clean', 0))"):
        return {}
    rows = await connection.fetch("SELECT * FROM identity.clean($1, $2, $3)", answers_s, ended_s, count_max)
    return {row["kind"]: row["removed"] for row in rows}


async def audit_heads(connection: Connection) -> Sequence[Row]:
    """The last link of every tenant's audit chain: `tenant_id, seq, hash`."""
    return await connection.fetch("SELECT * FROM identity.audit_heads()")
