"""`/v1/users`, `/v1/tenants`, `/v1/api-keys`, `/v1/signing-keys`: what admins and operators do."""

from __future__ import annotations

from aiohttp import web

from aura_stream.domain.reasons import Invalid
from aura_stream.identity import repository
from aura_stream.identity.logins import Registration
from aura_stream.identity.permissions import Reach
from web.answers import json_response
from web.call import Call
from web.identity.once import once
from web.identity.views import api_key_of_row, tenant_of_row, user_of_row
from web.pages import asked, time_of, times_of
from web.problems import from_domain


async def create_user(call: Call) -> web.Response:
    """POST /v1/users/admin: a user with the roles that are asked for."""
    body = call.body
    wanted = Registration(
        call.tenant, body["email"], body["password"], body.get("full_name"), tuple(dict.fromkeys(body["roles"]))
    )

    async def make() -> tuple[int, dict[str, object]]:
        row = await call.services.identity.users.create(call.principal, wanted, call.origin)
        return 201, user_of_row(row)

    return await once(call, make)


async def list_users(call: Call) -> web.Response:
    """GET /v1/users: those of the tenant."""
    wanted = asked(call.query, repository.USERS, times_of(call.query))
    try:
        rows, total = await call.services.identity.users.list(call.tenant, wanted.page, counted=wanted.is_numbered)
    except Invalid as error:
        raise from_domain(error, where="query") from None
    return json_response(wanted.answer(rows, total, user_of_row))


async def count_users(call: Call) -> web.Response:
    """GET /v1/users/stats."""
    return json_response(dict(await call.services.identity.users.counts(call.tenant)))


async def get_user(call: Call) -> web.Response:
    """GET /v1/users/{user_id}."""
    return json_response(user_of_row(await call.services.identity.users.get(call.tenant, call.path["user_id"])))


async def update_user(call: Call) -> web.Response:
    """PUT /v1/users/{user_id}."""

    async def make() -> tuple[int, dict[str, object]]:
        changes = dict(call.body)
        if "roles" in changes:
            changes["roles"] = tuple(dict.fromkeys(changes["roles"]))
        users = call.services.identity.users
        return 200, user_of_row(
            await users.update(call.principal, call.tenant, call.path["user_id"], changes, call.origin)
        )

    return await once(call, make)


async def delete_user(call: Call) -> web.Response:
    """DELETE /v1/users/{user_id}: for good; the row stays, the sessions end."""

    async def make() -> tuple[int, dict[str, object]]:
        users = call.services.identity.users
        return 200, user_of_row(await users.delete(call.principal, call.tenant, call.path["user_id"], call.origin))

    return await once(call, make)


async def list_tenants(call: Call) -> web.Response:
    """GET /v1/tenants, by id."""
    limit = call.query.get("limit", 50)
    after = call.query.get("after", "")
    rows = await call.services.identity.tenants.list(call.principal, after, limit + 1, call.origin)
    page, has_more = rows[:limit], len(rows) > limit
    cursor = page[-1]["tenant_id"] if has_more else None
    return json_response({"items": [tenant_of_row(row) for row in page], "has_more": has_more, "next_cursor": cursor})


async def create_tenant(call: Call) -> web.Response:
    """POST /v1/tenants."""

    async def make() -> tuple[int, dict[str, object]]:
        body = call.body
        row = await call.services.identity.tenants.create(
            call.principal,
            body["id"],
            body.get("name", body["id"]),
            body.get("needs_verified_email", False),
            call.origin,
        )
        await call.services.openings.opened(row["tenant_id"], call.services.settings.api_wait_s)
        return 201, tenant_of_row(await call.services.identity.tenants.now(row["tenant_id"]))

    return await once(call, make)


async def get_tenant(call: Call) -> web.Response:
    """GET /v1/tenants/{tenant_id}."""
    tenants = call.services.identity.tenants
    return json_response(tenant_of_row(await tenants.get(call.principal, call.path["tenant_id"], call.origin)))


async def deactivate_tenant(call: Call) -> web.Response:
    """POST /v1/tenants/{tenant_id}/deactivate: nobody of it is let in any more; its data stays."""
    return await _set_status(call, "inactive")


async def set_tenant_limits(call: Call) -> web.Response:
    """PUT /v1/tenants/{tenant_id}/limits: limits of rates of its own; what is left out is the setting's."""

    async def make() -> tuple[int, dict[str, object]]:
        tenants = call.services.identity.tenants
        return 200, tenant_of_row(
            await tenants.set_limits(call.principal, call.path["tenant_id"], call.body, call.origin)
        )

    return await once(call, make)


async def activate_tenant(call: Call) -> web.Response:
    """POST /v1/tenants/{tenant_id}/activate."""
    return await _set_status(call, "active")


async def _set_status(call: Call, status: str) -> web.Response:
    async def make() -> tuple[int, dict[str, object]]:
        tenants = call.services.identity.tenants
        return 200, tenant_of_row(await tenants.set_status(call.principal, call.path["tenant_id"], status, call.origin))

    return await once(call, make)


async def create_api_key(call: Call) -> web.Response:
    """POST /v1/api-keys: the answer shows the key, this once."""
    wanted = dict(call.body)
    if "expires_at" in wanted:
        wanted["expires_at"] = time_of("expires_at", wanted["expires_at"], where="body")
    if call.reach == Reach.OWN:
        wanted.setdefault("user_id", call.principal.user_id)

    async def make() -> tuple[int, dict[str, object]]:
        key, row = await call.services.identity.api_keys.create(call.principal, call.tenant, wanted, call.origin)
        return 201, api_key_of_row(row) | {"key": key}

    return await once(call, make)


async def list_api_keys(call: Call) -> web.Response:
    """GET /v1/api-keys, newest first."""
    wanted = asked(call.query, repository.API_KEYS)
    rows = await call.services.identity.api_keys.list(call.principal, call.tenant, wanted.page)
    return json_response(wanted.answer(rows, 0, api_key_of_row))


async def revoke_api_key(call: Call) -> web.Response:
    """DELETE /v1/api-keys/{key_id}."""

    async def make() -> tuple[int, dict[str, object]]:
        await call.services.identity.api_keys.revoke(call.principal, call.tenant, call.path["key_id"], call.origin)
        return 200, {"id": call.path["key_id"], "revoked": True}

    return await once(call, make)


async def rotate_signing_key(call: Call) -> web.Response:
    """POST /v1/signing-keys: the next key; the ones before verify until their last token has ended."""

    async def make() -> tuple[int, dict[str, object]]:
        at_once = call.body.get("at_once", False)
        kid = await call.services.identity.signing_keys.rotate(call.principal, at_once=at_once, origin=call.origin)
        return 201, {"kid": kid}

    return await once(call, make)


async def revoke_signing_key(call: Call) -> web.Response:
    """DELETE /v1/signing-keys/{kid}: what it has signed is refused at once."""

    async def make() -> tuple[int, dict[str, object]]:
        await call.services.identity.signing_keys.revoke(call.principal, call.path["kid"], call.origin)
        return 200, {"kid": call.path["kid"], "revoked": True}

    return await once(call, make)
