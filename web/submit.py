"""The way of a write: one key at a time, produced, acknowledged, waited for, answered."""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from aura_stream.domain.ids import record_key
from aura_stream.domain.state import TERMINAL
from aura_stream.journal import ChangeLine
from web.accepted import AcceptedCommand
from web.call import Call, Wait
from web.commands import SUBMITS, Prepared
from web.outcomes import (
    REPLAYED,
    Answer,
    accepted,
    answer_account,
    answer_transaction,
    is_replayed,
    location,
    may_move_on,
    refusal,
)
from web.recent import Outcome
from web.views import TransactionView, is_settled, newest

RETRY_AFTER_S = 1


async def submit(call: Call, prepared: Prepared) -> web.Response:
    """Produces the command, waits for its outcome as long as the request wants, and answers. Raises Problem."""
    command, services, wait = prepared.command, call.services, call.wait
    recent = services.tail.recent
    with (
        services.accepted.first(command.tenant, command.customer, command.idempotency_key),
        recent.waiter(command.id) as outcome_future,
        recent.watcher(prepared.subject) as changes,
    ):
        headers = [("aura-request-id", call.request_id.encode()), ("aura-source", b"http")]
        partition, offset = await services.commands.append(
            record_key(command.tenant, command.customer), prepared.value, headers
        )
        deadline = asyncio.get_running_loop().time() + wait.seconds
        services.metrics.accepted.labels(command.type).inc()
        if command.type in SUBMITS:
            about = AcceptedCommand(
                command.tenant, command.customer, SUBMITS[command.type], command.id, partition, offset
            )
            services.accepted.add(prepared.subject, about)
        outcome = await _outcome(outcome_future, deadline)
        later = await _settled(outcome, changes, deadline) if outcome is not None and may_move_on(outcome) else None
    answer = await _answer(call, prepared, outcome, later)
    services.metrics.outcomes.labels(command.type, str(answer.status)).inc()
    return _response(prepared, answer, wait)


async def _outcome(future: asyncio.Future[Outcome], deadline: float) -> Outcome | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await future
    except TimeoutError:
        return None


async def _settled(outcome: Outcome, changes: asyncio.Queue[ChangeLine], deadline: float) -> ChangeLine | None:
    """The last change seen until the transaction is settled or the time is up; None when there was none."""
    last: ChangeLine | None = outcome if isinstance(outcome, ChangeLine) else None
    try:
        async with asyncio.timeout_at(deadline):
            while last is None or not is_settled(last.status, last.state):
                change = await changes.get()
                if last is None or change.seq > last.seq:
                    last = change
    except TimeoutError:
        pass
    return last


async def _answer(call: Call, prepared: Prepared, outcome: Outcome | None, later: ChangeLine | None) -> Answer:
    if outcome is None:
        return accepted(prepared)
    problem = refusal(prepared, outcome, later)
    if problem is not None:
        call.services.metrics.outcomes.labels(prepared.command.type, problem.code).inc()
        if call.wait.applied:
            problem.headers["Preference-Applied"] = call.wait.applied
        raise problem
    if prepared.command.type.startswith("account."):
        return answer_account(prepared, outcome)
    return answer_transaction(prepared, outcome, later, await _view(call, prepared, outcome))


async def _view(call: Call, prepared: Prepared, outcome: Outcome) -> TransactionView | None:
    """The transaction as the tail knows it, from Postgres only when it began before the tail's memory."""
    recent = call.services.tail.recent.transaction(prepared.subject)
    view = newest(None, recent) if recent is not None else None
    if view is None or (is_replayed(outcome) and view.resource["status"] not in TERMINAL):
        view = await call.services.lookup.known(prepared.command.tenant, prepared.subject) or view
    return view


def _response(prepared: Prepared, answer: Answer, wait: Wait) -> web.Response:
    headers: dict[str, str] = {}
    if answer.status in (201, 202):
        headers["Location"] = location(prepared)
    if answer.status == 202:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if answer.is_replayed:
        headers |= REPLAYED
    if wait.applied:
        headers["Preference-Applied"] = wait.applied
    return web.Response(
        status=answer.status, body=orjson.dumps(answer.body), content_type="application/json", headers=headers
    )
