"""What a person may ask of us: everything we know of them, and to be forgotten.

Forgetting destroys the person's key (`subjects`). Money is not touched: entries name a customer id that says nothing.
Somebody else's request for it needs a second person; while money or work of the person is left, it waits.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from aura_stream.domain.reasons import Refused
from aura_stream.identity import repository
from aura_stream.identity.audit import PLACE, AuditLog, Origin
from aura_stream.identity.database import Database
from aura_stream.identity.feed import Feed
from aura_stream.identity.permissions import Principal, check_checker, check_grant
from aura_stream.identity.subjects import Subjects, User
from aura_stream.ledger.listing import Page

Row = repository.Row


class Privacy:
    """Export and erasure. Who may ask is decided before (`permissions`)."""

    def __init__(self, database: Database, feed: Feed, audit: AuditLog, subjects: Subjects) -> None:
        self._database = database
        self._feed = feed
        self._audit = audit
        self._subjects = subjects

    async def audit_rows(self, tenant: str, page: Page, *, across: bool = False) -> list[dict[str, Any]]:
        """A page of the audit log, with the addresses that can still be opened."""
        place = self._database.platform() if across else self._database.tenant(tenant)
        async with place as connection:
            return [
                dict(row)
                | {"address": await self._subjects.open_for(connection, row["actor"], row["address_sealed"], PLACE)}
                for row in await repository.audit_rows(connection, tenant, page)
            ]

    async def exported(self, principal: Principal, tenant: str, user: User, origin: Origin) -> None:
        """Writes down that somebody took a person's data with them."""
        async with self._database.tenant(tenant) as connection:
            await self._audit.done(connection, tenant, principal.actor, "privacy.export", str(user["user_id"]), origin)

    async def external_logins(self, tenant: str, user_id: str) -> Sequence[Row]:
        """Under which names external issuers know a person."""
        async with self._database.tenant(tenant) as connection:
            return await repository.external_logins(connection, user_id)

    async def request(self, principal: Principal, tenant: str, user_id: str, origin: Origin) -> Row:
        """A new request. One's own ends one's logins at once; for somebody else a second person has to agree.

        Raises :class:`Refused`: ``user_not_found``, ``already_processed``, ``insufficient_permissions``.
        """
        is_own = principal.user_id == user_id and principal.tenant == tenant
        seq = None
        async with self._database.tenant(tenant) as connection:
            user = await repository.user(connection, user_id)
            if user is None:
                raise Refused("user_not_found", "there is no such user")
            if not is_own:
                check_grant(principal, tuple(user["roles"]))
            if user["key_sealed"] is None:
                raise Refused("already_processed", "this person is forgotten")
            status = "pending" if is_own else "requires_approval"
            row = await repository.insert_erasure(connection, uuid.uuid4(), tenant, user_id, status, principal.actor)
            if row is None:
                raise Refused("already_processed", "there is an open request for this person")
            await self._audit.done(connection, tenant, principal.actor, "erasure.request", user_id, origin)
            if is_own:
                seq = await self._end_logins(connection, tenant, user_id)
        if seq is not None:
            await self._feed.confirmed(seq)
        return row

    async def get(self, tenant: str, request_id: str, user_id: str | None) -> Row:
        """A request (of that person, if one is named). Raises :class:`Refused` ``erasure_request_not_found``."""
        async with self._database.tenant(tenant) as connection:
            return _found(await repository.erasure(connection, request_id), user_id)

    async def list(self, tenant: str, page: Page) -> Sequence[Row]:
        """A page of requests."""
        async with self._database.tenant(tenant) as connection:
            return await repository.erasures(connection, page)

    async def approve(self, principal: Principal, tenant: str, request_id: str, origin: Origin) -> Row:
        """Agrees to what somebody else asked for; the person's logins end now.

        Raises :class:`Refused`: ``erasure_request_not_found``, ``invalid_state_transition``, ``maker_is_checker``.
        """
        async with self._database.tenant(tenant) as connection:
            row = _open(await repository.erasure(connection, request_id, lock=True))
            check_checker(row["maker"], principal)
            row = await repository.set_erasure(connection, request_id, "pending", checker=principal.actor)
            await self._audit.done(connection, tenant, principal.actor, "erasure.approve", request_id, origin)
            seq = await self._end_logins(connection, tenant, str(row["user_id"]))
        await self._feed.confirmed(seq)
        return row

    async def reject(self, principal: Principal, tenant: str, request_id: str, origin: Origin) -> Row:
        """Refuses what somebody else asked for. Raises as `approve` does."""
        async with self._database.tenant(tenant) as connection:
            row = _open(await repository.erasure(connection, request_id, lock=True))
            check_checker(row["maker"], principal)
            row = await repository.set_erasure(connection, request_id, "rejected", checker=principal.actor)
            await self._audit.done(connection, tenant, principal.actor, "erasure.reject", request_id, origin)
        return row

    async def finish(self, tenant: str, request_id: str, waits_for: Sequence[str]) -> Row:
        """Forgets the person of a pending request, or notes what it waits for."""
        async with self._database.tenant(tenant) as connection:
            row = _found(await repository.erasure(connection, request_id, lock=True), None)
            if row["status"] != "pending":
                return row
            if waits_for:
                return await repository.set_erasure(connection, request_id, "pending", waits_for=waits_for)
            user_id = str(row["user_id"])
            await repository.erase(connection, user_id)
            row = await repository.set_erasure(connection, request_id, "completed")
            await self._audit.done(connection, tenant, "system:erasure", "user.erase", user_id, Origin())
        return row

    async def _end_logins(self, connection: Any, tenant: str, user_id: str) -> int:
        await repository.update_user(connection, user_id, {"status": "SUSPENDED"})
        await repository.end_sessions(connection, user_id, "user_disabled")
        return await repository.revoke(connection, "user", user_id, tenant)


def _found(row: Row | None, user_id: str | None) -> Row:
    if row is None or (user_id is not None and str(row["user_id"]) != user_id):
        raise Refused("erasure_request_not_found", "there is no such request")
    return row


def _open(row: Row | None) -> Row:
    row = _found(row, None)
    if row["status"] != "requires_approval":
        raise Refused("invalid_state_transition", f"the request is {row['status']}")
    return row
