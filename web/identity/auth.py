"""`/v1/auth`, `/v1/users/me` and `/.well-known/jwks.json`: what a person does with their own login."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from aura_stream.domain.reasons import Refused
from aura_stream.identity.logins import ChooseTenant, Registration
from aura_stream.identity.mails import Mail
from aura_stream.identity.repository import Row
from web.answers import json_response
from web.authenticate import DEFAULT_TENANT, authenticate, credential_of
from web.call import Call
from web.identity.views import grant, registered, session_of_row, user_of_row
from web.limits import guessing, spend_mail
from web.problems import FieldError, Problem
from web.views import instant


async def register(call: Call) -> web.Response:
    """POST /v1/auth/register: a user and their wallet; waits until the wallet can be used."""
    body = call.body
    _confirmed(call, "password")
    services = call.services
    if not services.commands.is_up:
        raise Problem("service_unavailable", "Kafka does not answer, so no wallet could be opened; nothing was made.")
    wanted = Registration(
        body.get("tenant_code", DEFAULT_TENANT), body["email"], body["password"], body.get("full_name")
    )
    user = await services.identity.logins.register(wanted, call.origin)
    await services.wallets.opened(user, call.wait.seconds)
    return json_response(registered(user), 201)


async def login(call: Call) -> web.Response:
    """POST /v1/auth/login: tokens, or 409 with the tenants to choose from."""
    body = call.body
    async with guessing(call.request, call.services, body["email"], call.origin):
        result = await call.services.identity.logins.login(
            body["email"], body["password"], body.get("tenant_code"), call.origin
        )
    if isinstance(result, ChooseTenant):
        tenants = [{"tenant_code": tenant, "name": name} for tenant, name in result.tenants]
        raise Problem("tenant_selection_required", members={"tenants": tenants})
    return json_response(grant(result))


async def refresh(call: Call) -> web.Response:
    """POST /v1/auth/refresh."""
    return json_response(grant(await call.services.identity.logins.refresh(call.body["refresh_token"], call.origin)))


async def logout(call: Call) -> web.Response:
    """POST /v1/auth/logout: by the access token, or by the refresh token in the body (then it may have expired)."""
    logins = call.services.identity.logins
    everywhere = call.body.get("everywhere", False)
    if "refresh_token" in call.body:
        await logins.logout_by_refresh_token(call.body["refresh_token"], everywhere=everywhere, origin=call.origin)
        return json_response({"logged_out": True})
    if credential_of(call.request) is None:
        raise Refused("invalid_token", "send the access token, or the refresh token in the body")
    principal = await authenticate(call.request, call.services, call.origin, "session.end")
    if not principal.session_id:
        raise Refused("insufficient_permissions", "only a login has a session to end")
    await logins.logout(principal, everywhere=everywhere, origin=call.origin)
    return json_response({"logged_out": True})


async def change_password(call: Call) -> web.Response:
    """POST /v1/auth/change-password: ends every session, this one too."""
    _person(call)
    _confirmed(call, "new_password")
    body = call.body
    await call.services.identity.logins.change_password(
        call.principal, body["current_password"], body["new_password"], call.origin
    )
    return json_response({"changed": True})


async def verify_email(call: Call) -> web.Response:
    """POST /v1/auth/verify-email."""
    return json_response(user_of_row(await call.services.identity.logins.verify_email(call.body["token"], call.origin)))


async def resend_verification(call: Call) -> web.Response:
    """POST /v1/auth/verify-email/resend."""
    _person(call)
    await call.services.identity.logins.resend_verification(call.principal, call.origin)
    return json_response({"sent": True}, 202)


async def forgot_password(call: Call) -> web.Response:
    """POST /v1/auth/forgot-password: the same answer whether or not somebody has the address."""
    await spend_mail(call.request, call.services, call.body["email"], call.origin)
    call.services.identity.logins.forgot_password(call.body["email"], call.body.get("tenant_code"), call.origin)
    return json_response({"sent": True}, 202)


async def reset_password(call: Call) -> web.Response:
    """POST /v1/auth/reset-password: by the token of a mail; ends every session."""
    _confirmed(call, "new_password")
    await call.services.identity.logins.reset_password(call.body["token"], call.body["new_password"], call.origin)
    return json_response({"changed": True})


async def get_me(call: Call) -> web.Response:
    """GET /v1/users/me and GET /v1/auth/me."""
    _person(call)
    row = await call.services.identity.users.get(call.principal.tenant, call.principal.user_id)
    return json_response(user_of_row(row))


async def update_me(call: Call) -> web.Response:
    """PUT /v1/users/me."""
    _person(call)
    row = await call.services.identity.users.rename(call.principal, call.body["full_name"], call.origin)
    return json_response(user_of_row(row))


async def list_my_sessions(call: Call) -> web.Response:
    """GET /v1/users/me/sessions."""
    _person(call)
    rows = await call.services.identity.logins.sessions(call.principal.tenant, call.principal.user_id)
    return json_response({"items": [session_of_row(row, call.principal.session_id) for row in rows]})


async def end_my_session(call: Call) -> web.Response:
    """DELETE /v1/users/me/sessions/{session_id}."""
    _person(call)
    session_id = call.path["session_id"].lower()
    await call.services.identity.logins.end_session(call.principal, session_id, "revoked", call.origin)
    return json_response({"ended": True})


async def get_my_mailbox(call: Call) -> web.Response:
    """GET /v1/users/me/mailbox: the mails to oneself, in the sandbox, where none are sent."""
    if call.services.settings.mode != "sandbox":
        raise Problem("route_not_found", "There is a mailbox in the sandbox only.")
    _person(call)
    return _mailbox(await call.services.identity.logins.mails(call.principal))


async def list_mailbox(call: Call) -> web.Response:
    """GET /v1/mailbox: the mails to everybody in the tenant, in the sandbox, for who develops and tests."""
    if call.services.settings.mode != "sandbox":
        raise Problem("route_not_found", "There is a mailbox in the sandbox only.")
    return _mailbox(await call.services.identity.logins.mailbox(call.tenant, call.query.get("limit", 50)))


def _mailbox(mails: Sequence[tuple[Mail, Row]]) -> web.Response:
    items = [
        {
            "id": str(row["outbox_id"]),
            "to": mail.to,
            "template": mail.template,
            "token": mail.token,
            "created_at": instant(row["created_at"]),
        }
        for mail, row in mails
    ]
    return json_response({"items": items})


async def get_jwks(call: Call) -> web.Response:
    """GET /.well-known/jwks.json: the keys that verify our tokens."""
    response = json_response(call.services.identity.ring.jwks())
    response.headers["Cache-Control"] = "public, max-age=300"
    return response


def _person(call: Call) -> None:
    """Raises :class:`Refused` unless a person asks, by a login: keys and the first operator have no profile."""
    if not call.principal.user_id or call.principal.kind != "user":
        raise Refused("insufficient_permissions", "this is for people who are logged in")


def _confirmed(call: Call, name: str) -> None:
    """Raises :class:`Problem` when the confirmation is given and differs."""
    if call.body.get("password_confirmation", call.body[name]) != call.body[name]:
        detail = "password_confirmation differs"
        place = FieldError(in_="body", pointer="/password_confirmation", code="invalid_password_format", detail=detail)
        raise Problem("invalid_password_format", detail, errors=[place])
