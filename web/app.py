"""The aiohttp application: handlers by operationId, one middleware that gives every failure its problem document."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from aura_stream.domain.reasons import REASONS
from aura_stream.logs import ACCESS, AccessRecord
from aura_stream.settings import Settings
from web import (
    accounts,
    assets,
    bank_webhooks,
    batch,
    clock,
    dead_letters,
    deposit_addresses,
    deposits,
    documentation,
    events,
    events_stream,
    holds,
    lanes,
    pauses,
    reconciliation,
    settlements,
    system,
    transactions,
    transfers,
    webhooks,
)
from web.aliases.serve import BY_ID
from web.call import (
    BATCH_BODY_MAX,
    Handler,
    dispatch,
    dispatch_alias,
    request_id_of,
)
from web.connections import Watch, answer_alike
from web.contract import load_contract
from web.cors import cors_headers, preflight
from web.identity import admin, auth, lists, privacy
from web.limits import limit_headers
from web.problems import Problem
from web.seen import SEEN, Seen
from web.services import SERVICES, Services, make_services

log = logging.getLogger(__name__)
_access = logging.getLogger(ACCESS)

SHUTDOWN_S = 10.0
LINGER_S = 10.0
"""How long requests under way may take to end after SIGTERM."""

HANDLERS: dict[str, Handler] = {
    "openAccount": accounts.open_account,
    "listAccounts": accounts.list_accounts,
    "getAccount": accounts.get_account,
    "listAssets": assets.list_assets,
    "getAsset": assets.get_asset,
    "getAccountBalances": accounts.get_account_balances,
    "listAccountEntries": accounts.list_account_entries,
    "freezeAccount": accounts.freeze_account,
    "unfreezeAccount": accounts.unfreeze_account,
    "closeAccount": accounts.close_account,
    "submitDeposit": deposits.submit_deposit,
    "confirmDeposit": deposits.confirm_deposit,
    "rejectDeposit": deposits.reject_deposit,
    "retryDeposit": settlements.retry_deposit,
    "submitWithdrawal": settlements.submit_withdrawal,
    "retryWithdrawal": settlements.retry_withdrawal,
    "remintWithdrawal": settlements.remint_withdrawal,
    "approveTransaction": settlements.approve_transaction,
    "rejectTransaction": settlements.reject_transaction,
    "resolveTransaction": settlements.resolve_transaction,
    "setPause": pauses.set_pause,
    "listPauses": pauses.list_pauses,
    "getPause": pauses.get_pause,
    "liftPause": pauses.lift_pause,
    "getClock": clock.get_clock,
    "advanceClock": clock.advance_clock,
    "submitTransfer": transfers.submit_transfer,
    "placeHold": holds.place_hold,
    "captureHold": holds.capture_hold,
    "releaseHold": holds.release_hold,
    "listTransactions": transactions.list_transactions,
    "getTransaction": transactions.get_transaction,
    "cancelTransaction": transactions.cancel_transaction,
    "sendCommands": batch.send_commands,
    "register": auth.register,
    "login": auth.login,
    "refreshTokens": auth.refresh,
    "logout": auth.logout,
    "changePassword": auth.change_password,
    "verifyEmail": auth.verify_email,
    "resendVerification": auth.resend_verification,
    "forgotPassword": auth.forgot_password,
    "resetPassword": auth.reset_password,
    "getAuthMe": auth.get_me,
    "getMe": auth.get_me,
    "updateMe": auth.update_me,
    "listMySessions": auth.list_my_sessions,
    "endMySession": auth.end_my_session,
    "getMyMailbox": auth.get_my_mailbox,
    "listMailbox": auth.list_mailbox,
    "getJwks": auth.get_jwks,
    "listUserSessions": lists.list_user_sessions,
    "endUserSession": lists.end_user_session,
    "listAuditLog": lists.list_audit_log,
    "getIdempotencyKey": lists.get_idempotency_key,
    "exportPrivacy": privacy.export,
    "requestErasure": privacy.request_erasure,
    "listErasures": privacy.list_erasures,
    "getErasure": privacy.get_erasure,
    "approveErasure": privacy.approve_erasure,
    "rejectErasure": privacy.reject_erasure,
    "listDeadLetters": dead_letters.list_dead_letters,
    "getDeadLetter": dead_letters.get_dead_letter,
    "requestRequeue": dead_letters.request_requeue,
    "approveRequeue": dead_letters.approve_requeue,
    "rejectRequeue": dead_letters.reject_requeue,
    "getTenant": admin.get_tenant,
    "createUser": admin.create_user,
    "listUsers": admin.list_users,
    "countUsers": admin.count_users,
    "getUser": admin.get_user,
    "updateUser": admin.update_user,
    "deleteUser": admin.delete_user,
    "listTenants": admin.list_tenants,
    "createTenant": admin.create_tenant,
    "deactivateTenant": admin.deactivate_tenant,
    "setTenantLimits": admin.set_tenant_limits,
    "activateTenant": admin.activate_tenant,
    "listApiKeys": admin.list_api_keys,
    "createApiKey": admin.create_api_key,
    "revokeApiKey": admin.revoke_api_key,
    "rotateSigningKey": admin.rotate_signing_key,
    "revokeSigningKey": admin.revoke_signing_key,
    "listEvents": events.list_events,
    "getEvent": events.get_event,
    "streamEvents": events_stream.stream_events,
    "openEventSocket": events_stream.open_event_socket,
    "createStreamTicket": events_stream.create_ticket,
    "listWebhookEndpoints": webhooks.list_endpoints,
    "createWebhookEndpoint": webhooks.create_endpoint,
    "getWebhookEndpoint": webhooks.get_endpoint,
    "updateWebhookEndpoint": webhooks.update_endpoint,
    "deleteWebhookEndpoint": webhooks.delete_endpoint,
    "rotateWebhookSecret": webhooks.rotate_secret,
    "testWebhookEndpoint": webhooks.test_endpoint,
    "replayWebhookEndpoint": webhooks.replay_endpoint,
    "listWebhookDeliveries": webhooks.list_deliveries,
    "getWebhookDelivery": webhooks.get_delivery,
    "retryWebhookDelivery": webhooks.retry_delivery,
    "getReserves": reconciliation.get_reserves,
    "listBreaks": reconciliation.list_breaks,
    "getBreak": reconciliation.get_break,
    "assignBreak": reconciliation.assign_break,
    "resolveBreak": reconciliation.resolve_break,
    "listLanes": lanes.list_lanes,
    "getLane": lanes.get_lane,
    "releaseLane": lanes.release_lane,
    "cancelNonce": lanes.cancel_nonce,
    "getDepositAddress": deposit_addresses.get_deposit_address,
    "askDepositAddress": deposit_addresses.ask_deposit_address,
    "receiveBankWebhook": bank_webhooks.receive,
    "getHealth": system.get_health,
    "getDetailedHealth": system.get_detailed_health,
    "getReadiness": system.get_readiness,
    "getLiveness": system.get_liveness,
    "getContract": system.get_contract,
    "getDocs": documentation.get_page,
    "getSwagger": documentation.get_page,
    "getDocsFile": documentation.get_page_file,
    "listProblems": documentation.list_problems,
    "getProblem": documentation.get_problem,
}
"""One handler per operation of the contract; a difference stops the start."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-XSS-Protection": "1; mode=block",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""On every answer; a page that needs more sets its own policy."""
HSTS = "max-age=31536000; includeSubDomains"
_UNKEPT = {"Cache-Control": "no-store"}

OPERATIONS: web.AppKey[dict[Any, str]] = web.AppKey("operations", dict)
"""Of the routes' handlers to their operations."""
_Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
_NAME_OF_STATUS = {
    408: "request_timeout",
    404: "route_not_found",
    405: "method_not_allowed",
    413: "message_too_large",
    415: "unsupported_media_type",
}


def create_app(settings: Settings, services: Services | None = None) -> web.Application:
    """The application. Raises :class:`ContractMismatch` when contract and handlers differ."""
    load_contract().compare(HANDLERS)
    contract = load_contract(settings.profile)
    services = services or make_services(settings)
    names: dict[Any, str] = {}
    app = web.Application(middlewares=[_answering(services, names)], client_max_size=BATCH_BODY_MAX)
    app[SERVICES], app[OPERATIONS] = services, names
    paths = {operation.path for operation in contract.operations.values()}
    for operation in contract.operations.values():
        if operation.alias_of:
            handle = dispatch_alias(services, BY_ID[operation.id], operation, contract.operations, HANDLERS)
        else:
            handle = dispatch(services, operation, HANDLERS[operation.id])
        if operation.method == "GET":
            # No HEAD beside GET: the contract has none, and a 405 must say so.
            app.router.add_get(_route(operation.path, paths), handle, allow_head=False)
        else:
            app.router.add_route(operation.method, _route(operation.path, paths), handle)
        names[handle] = operation.id
    app.cleanup_ctx.append(_run_services)
    app.on_shutdown.append(_end_streams)
    app.on_response_prepare.append(_common_headers(settings))
    return app


def _route(path: str, paths: set[str]) -> str:
    """The path for the router: a parameter does not stand for a word that another path has in its place."""
    before, brace, after = path.partition("{")
    words = {one.removeprefix(before).partition("/")[0] for one in paths if one.startswith(before)} - {""}
    words = {word for word in words if "{" not in word}
    if not brace or not words:
        return path
    name, _, rest = after.partition("}")
    return f"{before}{{{name}:(?!(?:{'|'.join(sorted(words))})(?:/|$))[^{{}}/]+}}{rest}"


class _NotHttp(logging.Filter):
    """Bytes that are no HTTP are the sender's fault: one line, no trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            # Not what it says: that is a piece of the request.
            record.msg, record.args = f"refused what is no HTTP: {type(record.exc_info[1]).__name__}", None
            record.exc_info = None
        return True


async def serve(
    settings: Settings, services: Services | None = None, *, ready: Callable[[], None] = lambda: None
) -> None:
    """Serves until SIGTERM or SIGINT, then lets requests under way end."""
    app = create_app(settings, services)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=75,
        # After an early answer, as 408 and 413, what is still on its way is read, so that the client gets to see the
        # answer; but for no longer than a body may take.
        lingering_time=min(LINGER_S, settings.body_timeout_s),
    )
    await runner.setup()
    assert runner.server is not None
    answer_alike(runner.server, _always(settings) | SECURITY_HEADERS | _UNKEPT)
    watch = Watch(runner.server, settings.header_timeout_s, settings.stall_timeout_s)
    watch.start()
    logging.getLogger("aiohttp.server").addFilter(_NotHttp())
    metrics = web.AppRunner(metrics_app(app[SERVICES]), access_log=None, handle_signals=False)
    await metrics.setup()
    try:
        await web.TCPSite(runner, settings.api_host, settings.api_port, backlog=1024).start()
        await _open_metrics(metrics, settings)
        ready()
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        await stopped.wait()
    finally:
        await watch.stop()
        await metrics.cleanup()
        await runner.cleanup()


def metrics_app(services: Services) -> web.Application:
    """`GET /metrics`, for a port that the public does not reach (SEC41)."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(
            body=await services.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.router.add_get("/metrics", show)
    return app


async def _open_metrics(runner: web.AppRunner, settings: Settings) -> None:
    """Who cannot be measured serves all the same."""
    try:
        await web.TCPSite(runner, settings.metrics_host, settings.metrics_port).start()
    except OSError as error:
        where = f"http://{settings.metrics_host}:{settings.metrics_port}/metrics"
        log.error("no metrics at %s (%s): choose another AURA_METRICS_PORT", where, error)


async def _run_services(app: web.Application) -> AsyncIterator[None]:
    await app[SERVICES].start()
    yield
    await app[SERVICES].stop()


async def _end_streams(app: web.Application) -> None:
    """Streams never end by themselves; their clients come again, here or elsewhere."""
    app[SERVICES].events.tail.close()


def _answering(services: Services, names: Mapping[Any, str]) -> Middleware:
    """Gives every request its id and every failure its problem document; counts and times both."""
    metrics = services.metrics

    def answered(problem: Problem, request: web.Request) -> web.Response:
        metrics.errors.add(REASONS[problem.code].category, problem.code)
        return problem.response(instance=request.path, request_id=request[SEEN].request_id)

    @web.middleware
    async def answer(request: web.Request, handler: _Handle) -> web.StreamResponse:
        began = time.perf_counter()
        request_id = request_id_of(request)
        seen = request[SEEN] = Seen(request_id)
        try:
            response = preflight(request) or await handler(request)
        except Problem as problem:
            response = answered(problem, request)
        except web.HTTPException as error:
            response = answered(_from_aiohttp(error), request)
        except web.RequestPayloadError as error:
            response = answered(Problem("invalid_json", f"The body is broken: {error}"), request)
        except Exception:
            # The last line: a client never sees a trace; the log has it with the request's id.
            log.exception("request %s: %s %s failed", request_id, request.method, request.path)
            response = answered(Problem("internal_server_error", "See the logs."), request)
        response.headers["X-Request-Id"] = request_id
        name = names.get(request.match_info.handler, "none")
        metrics.requests.add(name, request.method, str(response.status))
        seconds = time.perf_counter() - began
        metrics.seconds.add(name, seconds)
        if _access.isEnabledFor(logging.INFO):
            line = _access_line(seen, name, request.method, response.status, seconds)
            _access.handle(AccessRecord(line))
        return response

    return answer


def _access_line(seen: Seen, operation: str, method: str, status: int, seconds: float) -> dict[str, Any]:
    """What is logged of a request: ids and numbers, nothing that it carries: no path, query, body or address."""
    line: dict[str, Any] = {
        "request_id": seen.request_id,
        "operation": operation,
        "method": method,
        "status": status,
        "ms": round(seconds * 1000, 1),
    }
    if seen.principal is not None:
        line["tenant"], line["actor"] = seen.principal.tenant, seen.principal.actor
    if seen.command_id:
        line["command_id"] = seen.command_id
    if seen.refused_by:
        line["refused_by"] = seen.refused_by
    return line


def _from_aiohttp(error: web.HTTPException) -> Problem:
    code = _NAME_OF_STATUS.get(error.status, "internal_server_error" if error.status >= 500 else "invalid_field")
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(code, status=error.status, headers=headers)


def _always(settings: Settings) -> dict[str, str]:
    return {"Server": "aura"} | ({"Strict-Transport-Security": HSTS} if settings.mode == "live" else {})


def _common_headers(settings: Settings) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """What every answer has, a stream's too."""
    always = _always(settings)
    unless_set = SECURITY_HEADERS | _UNKEPT

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.update(always)
        for name, value in unless_set.items():
            headers.setdefault(name, value)
        if standing := limit_headers(request):
            headers.update(standing)
        if settings.cors_origins:
            headers.update(cors_headers(request, settings.cors_origins))

    return add
