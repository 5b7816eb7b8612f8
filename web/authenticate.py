"""Who asks, and whether they may: the one place that every route passes before its handler.

The tenant is that of the login or key. Only who belongs to the platform, or may cross tenants with what the route asks
for, names one (`Aura-Tenant`); from anybody else another one is refused, never trusted.
"""

from __future__ import annotations

from aiohttp import web

from aura_stream.domain.reasons import Refused
from aura_stream.events.tickets import Adopted
from aura_stream.identity.audit import Origin
from aura_stream.identity.authentication import same_text
from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.permissions import FIRST_OPERATOR, OPEN_SANDBOX, Principal, Reach, reach
from web.contract import Operation
from web.limits import address_of
from web.problems import Problem
from web.seen import SEEN
from web.services import Networks, Services

DEFAULT_TENANT = "default"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="aura"'}
_BEARER_PROTOCOL = "bearer."


async def adopt(request: web.Request, services: Services) -> None:
    """Finds whose a stream is that can carry no header: by a ticket, or by a subprotocol of a WebSocket.

    Raises :class:`Problem`: 401 for a ticket that cannot be used, 503.
    """
    if "Authorization" in request.headers:
        return
    if "ticket" in request.query:
        try:
            adopted = await services.events.tickets.redeem(request.query["ticket"])
        except IdentityUnavailable as error:
            raise identity_away(error) from None
        if adopted is None:
            raise Problem("invalid_token", "The ticket was used, or has lapsed.", headers=CHALLENGE)
        request[SEEN].adopted = adopted
        return
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if protocol.strip().startswith(_BEARER_PROTOCOL):
            request[SEEN].adopted = Adopted(protocol.strip().removeprefix(_BEARER_PROTOCOL), None)


def tenant_named(request: web.Request) -> str | None:
    """The tenant that a request names, if it does."""
    adopted = request[SEEN].adopted
    return adopted.tenant if adopted is not None else request.headers.get("Aura-Tenant")


def credential_of(request: web.Request) -> str | None:
    """What stands after `Authorization: Bearer`, or what a stream was adopted with; None when there is neither."""
    adopted = request[SEEN].adopted
    if adopted is not None:
        return adopted.credential
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, credential = header.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


def origin_of(request: web.Request, trusted: Networks, request_id: str) -> Origin:
    """Where a request comes from. A proxy's header is believed only of those that the settings name."""
    remote = request.remote or ""
    if trusted:
        remote = address_of(remote, ",".join(request.headers.getall("X-Forwarded-For", ())), trusted)
    return Origin(request_id, remote, request.headers.get("User-Agent", "")[:200])


async def authenticate(request: web.Request, services: Services, origin: Origin, action: str) -> Principal:
    """Who asks. Raises :class:`Problem` 401, 403 ``tenant_inactive``, 503."""
    credential = credential_of(request)
    key = services.settings.api_key
    if credential is None and key is None and services.settings.mode == "sandbox":
        return OPEN_SANDBOX
    try:
        if not credential:
            raise Refused("invalid_token", "there is no Authorization: Bearer")
        if key is not None and same_text(credential, key.get_secret_value()):
            return FIRST_OPERATOR
        return await services.identity.authentication.principal(credential)
    except Refused as refused:
        services.identity.audit.refused("", "anonymous", action, refused.reason, "", origin)
        headers = CHALLENGE if refused.reason != "tenant_inactive" else {}
        raise Problem(refused.reason, refused.detail, headers=headers) from None
    except IdentityUnavailable as error:
        raise identity_away(error) from None


def authorize(principal: Principal, operation: Operation, services: Services, origin: Origin) -> Reach:
    """How far the principal may go on this route. Raises :class:`Problem` ``insufficient_permissions``."""
    furthest = reach(principal, operation.permission)
    if furthest == Reach.NONE:
        services.identity.audit.refused(
            principal.tenant, principal.actor, operation.permission, "insufficient_permissions", "", origin
        )
        raise Problem("insufficient_permissions", f"This route asks for {operation.permission}.")
    return furthest


def tenant_of(principal: Principal, furthest: Reach, named: str | None) -> str:
    """The tenant that a request is about. Raises :class:`Problem` ``tenant_mismatch``."""
    if principal.tenant in ("", named) or named is None:
        return principal.tenant or named or DEFAULT_TENANT
    if furthest < Reach.PLATFORM:
        raise Problem("tenant_mismatch", f"Your tenant is {principal.tenant}.")
    return named


def identity_away(error: IdentityUnavailable) -> Problem:
    """The 503 while nobody can be let in: an unknown login is never taken for a good one."""
    return Problem(
        "service_unavailable", f"Logins cannot be checked ({str(error).partition(':')[0]}).", retry_after_s=2
    )
