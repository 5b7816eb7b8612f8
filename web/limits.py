"""Limits of rates at the door: whose bucket a request spends, and what the client is told about it.

Who is logged in, or has a key, spends their own bucket; who is not, the bucket of their address. The first operator has
no limit, and what machines ask for health has none. Of logins only failures count.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address, ip_network
from typing import Final

from aiohttp import web

from aura_stream.domain.reasons import Refused
from aura_stream.identity import repository
from aura_stream.identity.audit import Origin
from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.limits import Bucket, Standing
from aura_stream.identity.permissions import Principal
from web.contract import Operation
from web.problems import Problem
from web.seen import SEEN
from web.services import Networks, Services

UNLIMITED: Final = frozenset(
    {
        *("getHealth", "getDetailedHealth", "getReadiness", "getLiveness", "getContract", "getJwks"),
        *("getDocs", "getSwagger", "getDocsFile", "listProblems", "getProblem"),
    }
)
"""Open routes without a limit, by any name: they cost little, say what is wrong while Postgres is away, and a load
balancer that is refused takes the process away."""
ONLY_FAILURES: Final = frozenset({"login", "receiveBankWebhook"})
"""Open routes that count for themselves (:func:`guessing`)."""


def address_of(remote: str, forwarded: str, trusted: Networks) -> str:
    """Where a request comes from: what the last proxy that is not ours has seen. Others' headers are not believed."""
    address = remote
    hops = [one.strip() for one in forwarded.split(",") if one.strip()]
    while hops and _is_in(address, trusted):
        address = hops.pop()
    return address


def _is_in(address: str, networks: Networks) -> bool:
    try:
        known = ip_address(address)
    except ValueError:
        return False
    return any(known in network for network in networks)


def _place(address: str) -> str:
    """What an address is counted as: of IPv6 the network, for that is what one customer has."""
    try:
        known = ip_address(address)
    except ValueError:
        return address[:64]
    return str(ip_network(f"{known}/64", strict=False)) if known.version == 6 else str(known)


async def spend_request(
    request: web.Request, services: Services, principal: Principal | None, operation: Operation, origin: Origin
) -> None:
    """Spends one request of the caller's. Raises :class:`Problem` ``rate_limited``."""
    settings = services.settings
    if principal is None:
        if (operation.alias_of or operation.id) in UNLIMITED | ONLY_FAILURES:
            return
        bucket = _address_bucket(services, origin)
    elif principal.kind == "system":
        return
    else:
        bucket = Bucket("requests", principal.actor, principal.tenant, settings.rate_limit, settings.rate_window_s)
    await _spend(request, services, bucket, 1, principal, origin)


async def spend_failure(request: web.Request, services: Services, origin: Origin) -> None:
    """Spends of an address that came with a bad token or key. Raises :class:`Problem` ``rate_limited``."""
    # Who is not let in anyway is told why, counted or not.
    with suppress(IdentityUnavailable):
        await _spend(request, services, _address_bucket(services, origin), 1, None, origin)


async def spend_commands(
    request: web.Request, services: Services, principal: Principal, count: int, origin: Origin
) -> None:
    """Spends the commands of a batch, all or none. Raises :class:`Problem` ``rate_limited``."""
    if principal.kind == "system" or not count:
        return
    settings = services.settings
    bucket = Bucket("commands", principal.actor, principal.tenant, settings.command_limit, settings.rate_window_s)
    await _spend(request, services, bucket, count, principal, origin)


@asynccontextmanager
async def guessing(request: web.Request, services: Services, email: str, origin: Origin) -> AsyncIterator[None]:
    """Around a login: a failure spends of the address that is meant and of the place that it comes from.

    Where somebody has logged in as this address before, the two have a bucket of their own, so that nobody else's
    failures lock the owner out. Raises :class:`Problem` ``rate_limited``.
    """
    identity, settings = services.identity, services.settings
    target, place = identity.sealer.pseudonym(email), identity.sealer.pseudonym(_place(origin.address))
    async with identity.database.nobody() as connection:
        is_known = await repository.is_login_place(connection, target, place)
    limit, window_s = settings.login_limit, settings.login_window_s
    if is_known:
        buckets = [Bucket("login_known", f"{target}/{place}", "", limit, window_s)]
    else:
        of_place = Bucket("login_address", place, "", settings.rate_limit, settings.rate_window_s)
        buckets = [Bucket("login", target, "", limit, window_s), of_place]
    spent: list[Bucket] = []
    try:
        for bucket in buckets:
            await _spend(request, services, bucket, 1, None, origin, subject=target)
            spent.append(bucket)
        yield
    except BaseException as error:
        if not (isinstance(error, Refused) and error.reason == "invalid_credentials"):
            _give_back(request, services, spent)
        raise
    _give_back(request, services, spent)
    async with identity.database.nobody() as connection:
        await repository.remember_login_place(connection, target, place)


async def spend_mail(request: web.Request, services: Services, email: str, origin: Origin) -> None:
    """Spends of an address that a mail is asked for. Raises :class:`Problem` ``rate_limited``."""
    settings, target = services.settings, services.identity.sealer.pseudonym(email)
    bucket = Bucket("mails", target, "", settings.login_limit, settings.login_window_s)
    await _spend(request, services, bucket, 1, None, origin, subject=target)


def _give_back(request: web.Request, services: Services, spent: list[Bucket]) -> None:
    for bucket in spent:
        services.identity.limits.give_back(bucket)
    seen = request[SEEN]
    if seen.standing is not None and seen.standing.is_allowed:
        seen.standing = seen.standing._replace(remaining=seen.standing.remaining + 1)


def limit_headers(request: web.Request) -> dict[str, str]:
    """What a client is told about its tightest limit, in both spellings (draft-ietf-httpapi-ratelimit-headers)."""
    seen = request.get(SEEN)
    if seen is None or (standing := seen.standing) is None:
        return {}
    reset_s = math.ceil(standing.reset_s)
    return {
        "X-RateLimit-Limit": str(standing.limit),
        "X-RateLimit-Remaining": str(standing.remaining),
        "X-RateLimit-Reset": str(math.ceil(time.time() + standing.reset_s)),
        "RateLimit-Policy": f'"{standing.kind}";q={standing.limit};w={standing.window_s}',
        "RateLimit": f'"{standing.kind}";r={standing.remaining};t={reset_s}',
    }


def _address_bucket(services: Services, origin: Origin) -> Bucket:
    settings = services.settings
    return Bucket("address", _place(origin.address), "", settings.rate_limit, settings.rate_window_s)


async def _spend(
    request: web.Request,
    services: Services,
    bucket: Bucket,
    count: int,
    principal: Principal | None,
    origin: Origin,
    subject: str = "",
) -> None:
    standing = await services.identity.limits.spend(bucket, count)
    seen = request[SEEN]
    if seen.standing is None or _tightness(standing) <= _tightness(seen.standing):
        seen.standing = standing
    if standing.is_allowed:
        return
    services.metrics.limited.add(bucket.kind)
    if standing.is_first_refusal:
        # Once per bucket, window and process: who is refused a million times must not write a million rows.
        tenant, actor = (principal.tenant, principal.actor) if principal else ("", "anonymous")
        services.identity.audit.refused(tenant, actor, f"limit.{bucket.kind}", "rate_limited", subject, origin)
    detail = f"The limit of {bucket.kind} is {standing.limit} in {standing.window_s} s."
    raise Problem("rate_limited", detail, retry_after_s=max(1, math.ceil(standing.reset_s)))


def _tightness(standing: Standing) -> tuple[bool, float]:
    return standing.is_allowed, standing.remaining / standing.limit
