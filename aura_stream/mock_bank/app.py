"""The HTTP door of the mock bank: requests by the contract, answers as the faults let them out."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web

from aura_stream.mock_bank import banking, data, simulate
from aura_stream.mock_bank.bank import Bank
from aura_stream.mock_bank.call import Call, Handler
from aura_stream.mock_bank.contract import Operation, load_contract
from aura_stream.mock_bank.hostile import HTML, kind_of, spoiled
from aura_stream.mock_bank.oauth import OAuthError, bearer
from aura_stream.mock_bank.payments import HANGS, Reply
from aura_stream.mock_bank.problems import Problem
from aura_stream.mock_bank.world import Config, World

log = logging.getLogger(__name__)

BODY_MAX: Final = 2_000_000
_JOURNALED: Final = {"submitAchTransfer", "submitSepaTransfer", "submitInternalTransfer", "uploadAchFile", "inquire"}
"""Operations that write the journal of calls themselves, in one transaction with what they do."""
_FORM: Final = "application/x-www-form-urlencoded"

HANDLERS: Final[dict[str, Handler]] = banking.HANDLERS | data.HANDLERS | simulate.HANDLERS


@dataclass(slots=True)
class _Pace:
    """The calls of the last second of the machine, per bank."""

    recent: deque[float]

    def is_too_fast(self, per_s: int) -> bool:
        """Counts a call; whether it is one too many."""
        now = time.monotonic()
        while self.recent and self.recent[0] <= now - 1:
            self.recent.popleft()
        if per_s and len(self.recent) >= per_s:
            return True
        self.recent.append(now)
        return False


def create_app(world: World) -> web.Application:
    """The application; it runs the world's clock and webhooks while it runs."""
    contract = load_contract()
    if HANDLERS.keys() != contract.operations.keys():
        raise RuntimeError(f"openapi.yaml and the handlers differ: {HANDLERS.keys() ^ contract.operations.keys()}")
    app = web.Application(middlewares=[_failures], client_max_size=BODY_MAX)
    door = _Door(world)
    for operation in contract.operations.values():
        route = door.route(operation, HANDLERS[operation.id])
        if operation.method == "GET":
            app.router.add_get(operation.path, route, allow_head=False)
        else:
            app.router.add_route(operation.method, operation.path, route)

    async def alive(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(world.run())
        task.add_done_callback(world.ended)
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    app.cleanup_ctx.append(alive)
    return app


async def serve(config: Config, *, ready: Callable[[str], None] = lambda _: None) -> None:
    """Serves until SIGTERM or SIGINT. Raises :class:`CannotStart`, :class:`OSError` when it cannot listen."""
    world = World(config)
    runner = web.AppRunner(
        create_app(world), access_log=None, handle_signals=False, shutdown_timeout=0.5, handler_cancellation=True
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, config.host, config.port, backlog=1024)
        await site.start()
        port = runner.addresses[0][1]
        world.write_credentials(port)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, world.stopped.set)
        if config.ready_file is not None:
            config.ready_file.parent.mkdir(parents=True, exist_ok=True)
            config.ready_file.write_text(json.dumps({"url": f"http://{config.host}:{port}"}))
        ready(f"http://{config.host}:{port}")
        await world.stopped.wait()
        if world.failure is not None:
            raise world.failure
    finally:
        if config.ready_file is not None:
            config.ready_file.unlink(missing_ok=True)
        await runner.cleanup()
        world.close()


class _Door:
    """From a request to its answer."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._paces = {name: _Pace(deque()) for name in world.banks}

    def route(self, operation: Operation, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The aiohttp handler of an operation."""

        async def handle(request: web.Request) -> web.StreamResponse:
            reply, bank = await self._reply(operation, handler, request)
            return await _send(request, reply, bank)

        return handle

    async def _reply(self, operation: Operation, handler: Handler, request: web.Request) -> tuple[Reply, Bank | None]:
        world = self.world
        raw = await request.read()
        world.catch_up()
        bank = None
        if "bank" in request.match_info:
            bank = world.banks.get(request.match_info["bank"])
            if bank is None:
                raise Problem(404, "bank_not_found", f"There is no bank {request.match_info['bank'][:40]!r}.")
        at = world.clock.now()
        call = Call(world=world, at=at, request=request, path=dict(request.match_info), query={}, body=None, bank_=bank)
        if bank is None or not operation.is_the_banks:
            self._authorize(operation, call)
            _read(operation, call, raw)
            return await handler(call), None
        reply = await self._banks_reply(operation, handler, call, raw, bank)
        if operation.id not in _JOURNALED or reply.fault == "too_fast":
            status = 0 if reply.fault in HANGS else reply.status
            bank.journal(at, operation.method, request.path, "", "", reply.fault, False, status)
        return reply, bank

    async def _banks_reply(self, operation: Operation, handler: Handler, call: Call, raw: bytes, bank: Bank) -> Reply:
        if self._paces[bank.name].is_too_fast(bank.profile.calls_per_s):
            return Reply(429, Problem(429, "rate_limited", "Too many calls.").document(), "too_fast")
        out_of_order = {"down": "error_before", "hanging": "hanging"}.get(bank.profile.name, "")
        if out_of_order and operation.id not in _JOURNALED:
            return Reply(0, None, out_of_order)
        try:
            self._authorize(operation, call)
            _read(operation, call, raw)
            return await handler(call)
        except OAuthError as error:
            return Reply(error.status, {"error": error.error, "error_description": error.detail})
        except Problem as problem:
            if operation.id in _JOURNALED:
                bank.journal(call.at, operation.method, call.request.path, "", "", "", False, problem.status)
            return Reply(problem.status, problem.document())

    def _authorize(self, operation: Operation, call: Call) -> None:
        header = call.request.headers.get("Authorization", "")
        if operation.caller == "operator":
            if not compare_digest(header.encode(), f"Bearer {self.world.operator_token}".encode()):
                raise Problem(401, "invalid_token", "The operator's token is missing or wrong; see credentials.json.")
        elif operation.caller:
            call.token = bearer(call.bank, header, operation.scope, call.at)


def _read(operation: Operation, call: Call, raw: bytes) -> None:
    """Checks query and body by the contract and puts them into the call. Raises :class:`Problem`."""
    request = call.request
    query = dict(request.query)
    if len(query) != len(request.query):
        raise Problem(400, "invalid_request", "A query parameter stands there twice.")
    call.query = operation.query.check_text(query)
    if operation.body is None:
        return
    if request.content_type != operation.media_type:
        raise Problem(415, "unsupported_media_type", f"The body must be {operation.media_type}.")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, "invalid_request", "The body is not UTF-8.") from error
    if operation.media_type == _FORM:
        pairs = parse_qsl(text, keep_blank_values=True)
        form = dict(pairs)
        if len(form) != len(pairs):
            raise Problem(400, "invalid_request", "A form field stands there twice.")
        call.body = operation.body.check(_with_basic(form, request.headers.get("Authorization", "")))
    elif operation.media_type == "application/json":
        try:
            value = json.loads(text, parse_float=_no_fraction, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise Problem(400, "invalid_json", f"The body is not JSON: {error}"[:300]) from error
        call.body = operation.body.check(value)
    else:
        call.body = text


def _no_fraction(text: str) -> Any:
    raise ValueError(f"{text}: fractions are written as texts, never as numbers")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _with_basic(form: dict[str, str], header: str) -> dict[str, str]:
    """The client's name and secret may come as HTTP Basic (RFC 6749, 2.3.1)."""
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return form
    try:
        name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return form
    return form | {"client_id": name, "client_secret": secret}


# --- answers ---------------------------------------------------------------------------------------------------------


async def _send(request: web.Request, reply: Reply, bank: Bank | None) -> web.StreamResponse:
    """Lets an answer out: late, spoiled or not at all, as its fault says."""
    if bank is not None and reply.slow_ms:
        await asyncio.sleep(reply.slow_ms / 1000)
    if reply.fault in HANGS and bank is not None:
        return await _hang(request, bank)
    if reply.fault in ("error_before", "inquiry_error", "events_error"):
        return _json(503, Problem(503, "unavailable", "Try again.").document())
    if reply.fault == "error_after":
        return _json(500, Problem(500, "internal_error", "Something went wrong.").document())
    if reply.fault in ("rate_limited", "too_fast"):
        return _json(429, Problem(429, "rate_limited", "Too many calls.").document(), {"Retry-After": "1"})
    if reply.fault in ("html", "inquiry_html", "events_html"):
        return web.Response(status=502 if reply.fault == "html" else 200, body=HTML, content_type="text/html")
    if reply.fault == "cut_answer":
        return await _cut(request, reply)
    if isinstance(reply.body, bytes):
        type_ = dict(reply.headers).get("Content-Type", "application/xml")
        headers = {name: value for name, value in reply.headers.items() if name != "Content-Type"}
        return web.Response(status=reply.status, body=reply.body, content_type=type_, headers=headers)
    if reply.body is None:
        return web.Response(status=reply.status, headers=dict(reply.headers))
    body = spoiled(kind_of(reply.fault), reply.body) if reply.fault else reply.body
    return _json(reply.status, body, dict(reply.headers))


def _json(status: int, body: Any, headers: dict[str, str] | None = None) -> web.Response:
    type_ = "application/problem+json" if status >= 400 and "title" in body else "application/json"
    text = json.dumps(body, separators=(",", ":"), sort_keys=True)
    return web.Response(status=status, text=text, content_type=type_, headers=headers)


async def _hang(request: web.Request, bank: Bank) -> web.StreamResponse:
    """No answer: the connection stays open for the profile's time, then ends without a word."""
    await asyncio.sleep(bank.profile.hang_ms / 1000)
    return _drop(request)


def _drop(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=504)


async def _cut(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Half of the answer, then the end of the connection."""
    text = json.dumps(reply.body, separators=(",", ":"), sort_keys=True).encode()
    response = web.StreamResponse(status=reply.status, headers={"Content-Type": "application/json"})
    response.content_length = len(text)
    await response.prepare(request)
    await response.write(text[: len(text) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


@web.middleware
async def _failures(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return _json(problem.status, problem.document())
    except web.HTTPException as error:
        code = {404: "route_not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(
            error.status, "invalid_request"
        )
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _json(error.status, Problem(error.status, code, error.reason).document(), headers)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _json(500, Problem(500, "internal_error", "See the log.").document())
