"""One request, checked against the contract: what a handler gets instead of raw text and bytes."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

import msgspec
import orjson
from aiohttp import web

from aura_stream.domain.reasons import Refused
from aura_stream.domain.strict_json import is_once, refuse_twice
from aura_stream.identity.audit import Origin
from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.feed import Unconfirmed
from aura_stream.identity.passwords import Busy
from aura_stream.identity.permissions import OPEN_SANDBOX, Principal, Reach
from web.aliases import serve
from web.aliases.given import Given
from web.aliases.table import Alias
from web.authenticate import (
    CHALLENGE,
    adopt,
    authenticate,
    authorize,
    identity_away,
    origin_of,
    tenant_named,
    tenant_of,
)
from web.contract import Operation
from web.limits import spend_failure, spend_request
from web.problems import FieldError, Problem
from web.seen import SEEN
from web.services import SERVICES, Services

JSON_BODY_MAX = 1024 * 1024
BATCH_BODY_MAX = 32 * 1024 * 1024
WAIT_MAX_S = 30.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}.*")
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The first digit of a UUID's fourth group: two bits are fixed (RFC 9562, section 4.1)."""
_WAIT = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)


class Wait(msgspec.Struct, frozen=True):
    """How long a request waits for its outcome; `applied` goes into `Preference-Applied` when it was asked for."""

    seconds: float
    applied: str = ""


_ASYNC = Wait(0.0, "respond-async")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A checked request. `body` is the parsed JSON body ({} when there is none)."""

    services: Services
    request: web.Request
    operation: Operation
    request_id: str
    origin: Origin
    principal: Principal
    reach: Reach
    """How far the principal may go with what the route does."""
    tenant: str
    path: dict[str, Any]
    query: dict[str, Any]
    header: dict[str, Any]
    body: dict[str, Any]

    @property
    def place(self) -> str:
        """Method and path of the operation, by whatever alias it was reached: what a repeat must have the same."""
        return f"{self.operation.method} {self.operation.path.format_map(self.path)}"

    @property
    def idempotency_key(self) -> str:
        """The key of a write: a UUID in lower case, so that one UUID is one key however it is written."""
        return str(self.header["idempotency-key"]).strip('"').lower()

    def may_touch(self, customer: str) -> bool:
        """Whether what belongs to `customer` (of the call's tenant) is within reach. If not, it answers as missing."""
        return self.reach > Reach.OWN or (bool(customer) and customer == self.principal.customer)

    @property
    def only_customer(self) -> str | None:
        """The one customer that this call can see; None: any of the tenant."""
        return self.principal.customer if self.reach == Reach.OWN else None

    @property
    def wait(self) -> Wait:
        """The wait that was asked for, or the default."""
        prefer = self.header.get("prefer")
        return (_preferred(prefer) if prefer else None) or Wait(self.services.settings.api_wait_s)


@lru_cache(maxsize=64)
def _preferred(prefer: str) -> Wait | None:
    """The wait that a `Prefer` asks for. Preferences that are not known are ignored (RFC 7240)."""
    for preference in prefer.split(","):
        token = preference.partition(";")[0].strip()
        if token.lower() == "respond-async":
            return _ASYNC
        if match := _WAIT.fullmatch(token):
            seconds = min(float(match[1]), WAIT_MAX_S)
            return Wait(seconds, f"wait={int(seconds)}")
    return None


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


def request_id_of(request: web.Request) -> str:
    """The sender's id of the request if it has a usable form, else the id of its trace (W3C), else a new one."""
    given = request.headers.get("X-Request-Id", "")
    if _REQUEST_ID.fullmatch(given):
        return given
    trace = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    return trace[1] if trace else new_id()


def new_id() -> str:
    """A random UUID (version 4) as text: what `uuid.uuid4` gives, without its object, since every write takes two."""
    h = os.urandom(16).hex()
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}"


def dispatch(
    services: Services, operation: Operation, handler: Handler
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of an operation: authenticates, checks every part against the contract, calls `handler`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await _run(await _checked(services, request, operation), handler)

    return handle


def dispatch_alias(
    services: Services,
    alias: Alias,
    route: Operation,
    operations: Mapping[str, Operation],
    handlers: Mapping[str, Handler],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of an alias: checks the request in the alias' shape, then calls the operation's handler."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            call = await _checked(services, request, route, alias.numbers)
            given = Given(
                principal=call.principal,
                reach=call.reach,
                tenant=call.tenant,
                path=call.path,
                query=call.query,
                body=call.body,
            )
            made = serve.taken(alias, given)
            target = operations[made.operation or alias.operation]
            header = dict(call.header)
            if "idempotency-key" in target.header.names:
                header["idempotency-key"] = serve.key_of(made, header)
            target.query.check(made.query)
            if target.body is not None:
                target.body.check(made.body)
            ours = msgspec.structs.replace(
                call, operation=target, path=made.path, query=made.query, header=header, body=made.body
            )
            return serve.answer(alias, given, await _run(ours, handlers[target.id]))
        except Problem as problem:
            raise serve.problem(alias, problem) from None

    return handle


async def _checked(
    services: Services, request: web.Request, operation: Operation, numbers: frozenset[str] = frozenset()
) -> Call:
    """The request as a call: who asks, and every part as the contract has it. Raises :class:`Problem`."""
    seen = request[SEEN]
    origin = origin_of(request, services.proxies, seen.request_id)
    principal, furthest = OPEN_SANDBOX, Reach.NONE
    if "ticket" in operation.query.names:
        await adopt(request, services)
    try:
        if operation.is_public:
            await spend_request(request, services, None, operation, origin)
        else:
            try:
                principal = await authenticate(request, services, origin, operation.permission)
            except Problem as problem:
                if problem.status == 401:
                    await spend_failure(request, services, origin)
                raise
            seen.principal = principal
            await spend_request(request, services, principal, operation, origin)
            furthest = authorize(principal, operation, services, origin)
    except IdentityUnavailable as error:
        raise identity_away(error) from None
    path = operation.path_part.check_text(request.match_info)
    query = operation.query.check_text(_single(request.query.items(), "query") if request.query_string else {})
    headers = request.headers
    known = [(name, value) for name in operation.header.names for value in headers.getall(name, ())]
    header = operation.header.check_text(_single(known, "header"))
    named = tenant_named(request) if not operation.is_public else None
    tenant = tenant_of(principal, furthest, named)
    if named is not None and tenant != principal.tenant and principal.tenant:
        services.identity.audit.crossed(tenant, principal.actor, operation.permission, origin)
    if operation.is_of_the_ledger and not services.openings.knows(tenant):
        await _open_to_the_ledger(services, tenant)
    body = await _json_body(request, operation, numbers) if operation.body is not None else {}
    return Call(
        services=services,
        request=request,
        operation=operation,
        request_id=seen.request_id,
        origin=origin,
        principal=principal,
        reach=furthest,
        tenant=tenant,
        path=path,
        query=query,
        header=header,
        body=body,
    )


async def _open_to_the_ledger(services: Services, tenant: str) -> None:
    """Raises :class:`Problem` while the ledger does not take commands of the tenant."""
    try:
        if not await services.openings.is_open(tenant):
            raise Problem("ledger_behind", f"The ledger does not know the tenant {tenant} yet.", retry_after_s=1)
    except IdentityUnavailable as error:
        raise identity_away(error) from None


async def _run(call: Call, handler: Handler) -> web.StreamResponse:
    """What the handler answers, or the :class:`Problem` that its failure is."""
    try:
        return await handler(call)
    except Refused as refused:
        if refused.context:
            call.request[SEEN].refused_by = refused.context
        raise refused_problem(refused) from None
    except IdentityUnavailable as error:
        raise identity_away(error) from None
    except Unconfirmed as error:
        raise Problem("revocation_unconfirmed", str(error), retry_after_s=5) from None
    except Busy as busy:
        raise Problem("service_unavailable", f"Too many logins at once: {busy}.", retry_after_s=1) from None


def refused_problem(refused: Refused) -> Problem:
    """What a rule refused, as a problem; a 401 says how to come in."""
    problem = Problem(refused.reason, refused.detail)
    if problem.status == 401:
        problem.headers |= CHALLENGE
    return problem


def _single(items: Iterable[tuple[str, str]], where: str) -> dict[str, str]:
    """The items as a mapping. A name given twice has no one meaning, and text must be UTF-8."""
    found: dict[str, str] = {}
    for name, value in items:
        code = "idempotency_key_invalid" if name == "idempotency-key" else "invalid_field"
        if name in found:
            error = FieldError(in_=where, pointer=_printable(name), code=code, detail="given more than once")
            raise Problem(code, f"{_printable(name)} is given more than once", errors=[error])
        if not (name.isascii() and value.isascii()) and not (_is_text(name) and _is_text(value)):
            error = FieldError(in_=where, pointer=_printable(name), code=code, detail="not UTF-8")
            raise Problem(code, f"{_printable(name)} is not UTF-8", errors=[error])
        found[name] = value
    return found


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(value: str) -> str:
    return value.encode("utf-8", "replace").decode()[:80]


async def _json_body(request: web.Request, operation: Operation, numbers: frozenset[str]) -> dict[str, Any]:
    assert operation.body is not None
    raw = await read_body(request, JSON_BODY_MAX)
    if not raw and not operation.body_is_required:
        return {}
    require_media_type(request, operation.media_type)
    if not raw:
        raise Problem("invalid_json", "The body is empty.")
    try:
        value = orjson.loads(raw)
        if not (isinstance(value, dict) and is_once(raw, value)):
            refuse_twice(raw)
        if numbers and isinstance(value, dict):
            value |= _exact(raw, numbers)
    except (ValueError, RecursionError) as error:
        raise Problem("invalid_json", str(error)) from None
    operation.body.check(value)
    return cast(dict[str, Any], value)


def _exact(raw: bytes, names: frozenset[str]) -> dict[str, str]:
    """Members that are JSON numbers, as decimal text: digit by digit, never through a binary fraction (S07)."""
    read = json.loads(raw, parse_float=Decimal, parse_int=Decimal)
    exact = {name: read[name] for name in names if isinstance(read.get(name), Decimal)}
    # What is far beyond any amount stays in its short form, and is refused for it.
    return {name: f"{one:f}" if abs(one.adjusted()) < 40 else str(one) for name, one in exact.items()}


def require_media_type(request: web.Request, media_type: str) -> None:
    """Raises :class:`Problem` ``unsupported_media_type`` for another content type."""
    # Nearly always it is written just so; what is written otherwise is taken apart.
    if request.headers.get("Content-Type") != media_type and request.content_type != media_type:
        raise Problem("unsupported_media_type", f"This route takes {media_type}.", headers={"Accept": media_type})


async def read_body(request: web.Request, size_max: int) -> bytes:
    """The whole body. Raises :class:`Problem`: 413 above `size_max`, 408 when it does not come in time."""
    if (request.content_length or 0) > size_max:
        raise _too_large(size_max)
    content = request.content
    if content.is_eof():  # all of it is here: nothing is waited for
        whole = content.read_nowait()
        if len(whole) > size_max:
            raise _too_large(size_max)
        return whole
    timeout_s = request.app[SERVICES].settings.body_timeout_s
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in content.iter_any():
                body += chunk
                if len(body) > size_max:
                    raise _too_large(size_max)
    except TimeoutError:
        # What may still come of it is nothing that anybody waits for.
        raise Problem(
            "request_timeout", f"The body did not arrive within {timeout_s:g} s.", headers={"Connection": "close"}
        ) from None
    return bytes(body)


def _too_large(size_max: int) -> Problem:
    return Problem("message_too_large", f"The body is larger than {size_max} bytes.")
