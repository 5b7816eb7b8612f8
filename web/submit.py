"""The way of a write: one key at a time, produced, acknowledged, waited for, answered."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from aura_stream.domain.ids import derived_id, id_text, record_key
from aura_stream.journal import AccountLine, AnswerLine, ChangeLine, ClockLine
from aura_stream.ledger.reads import ReadsUnavailable
from web.accepted import AcceptedCommand
from web.answers import postgres_away
from web.call import Call, Wait
from web.commands import SUBMITS, Prepared, prepare
from web.outcomes import (
    REPLAYED,
    Answer,
    Step,
    accepted,
    answer_account,
    answer_pause,
    answer_transaction,
    end_of,
    is_replayed,
    location,
    made_by,
    refusal,
)
from web.pause_views import views_of
from web.problems import Problem
from web.recent import Outcome
from web.seen import SEEN
from web.views import TransactionView, newest

RETRY_AFTER_S = 1
_SOURCE = ("aura-source", b"http")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What a request listens to while it waits."""

    outcome: asyncio.Future[Outcome]
    changes: asyncio.Queue[ChangeLine]
    deadline: float


async def submit(
    call: Call, type_: str, customer: str, data: dict[str, Any], *, tenant: str | None = None
) -> web.Response:
    """Makes the command, produces it, waits for its outcome as long as the request wants, and answers.

    `tenant` is the call's, unless the command goes the way of another one. Raises :class:`Problem`.
    """
    prepared = prepare(
        type_,
        tenant=call.tenant if tenant is None else tenant,
        customer=customer,
        idempotency_key=call.idempotency_key,
        data=data,
        moved_ms=call.services.tail.recent.clock.moved_ms,
    )
    command, services, wait = prepared.command, call.services, call.wait
    call.request[SEEN].command_id = command.id
    key = (command.tenant, command.customer, command.idempotency_key)
    services.accepted.begin(key)
    try:
        if wait.seconds:
            answer = await _wait(call, prepared, wait)
        else:
            await _produce(call, prepared)
            answer = accepted(prepared)
    finally:
        services.accepted.end(key)
    services.metrics.outcomes.add(command.type, str(answer.status))
    return _response(prepared, answer, wait)


async def _produce(call: Call, prepared: Prepared) -> None:
    """Writes the command to Kafka. Raises :class:`Problem` when Kafka does not acknowledge it."""
    command, services = prepared.command, call.services
    headers = [("aura-request-id", call.request_id.encode()), _SOURCE]
    key = record_key(command.tenant, command.customer)
    partition, offset = await services.commands.append(key, prepared.value, headers)
    services.metrics.accepted.add(command.type)
    if prepared.is_submit:
        about = AcceptedCommand(command.tenant, command.customer, SUBMITS[command.type], command.id, partition, offset)
        services.accepted.add(prepared.subject, about)


async def _wait(call: Call, prepared: Prepared, wait: Wait) -> Answer:
    """Writes the command and waits for what becomes of it: who listens later may miss it."""
    command, services = prepared.command, call.services
    recent = services.tail.recent
    with recent.waiter(command.id) as outcome, recent.watcher(prepared.subject) as changes:
        await _produce(call, prepared)
        waiting = _Waiting(outcome, changes, asyncio.get_running_loop().time() + wait.seconds)
        try:
            return await _answer(call, prepared, waiting)
        except Problem as problem:
            services.metrics.outcomes.add(command.type, problem.code)
            if wait.applied:
                problem.headers["Preference-Applied"] = wait.applied
            raise


async def _answer(call: Call, prepared: Prepared, waiting: _Waiting) -> Answer:
    try:
        async with asyncio.timeout_at(waiting.deadline):
            outcome = await waiting.outcome
    except TimeoutError:
        return accepted(prepared)
    problem = refusal(prepared, outcome)
    if problem is not None:
        if problem.code == "idempotency_key_reused":
            await _name_original(call, prepared, problem)
        raise problem
    if prepared.is_about_pause:
        return await _pause_answer(call, prepared, outcome, waiting)
    if prepared.is_about_clock:
        return await _clock_answer(call, prepared, outcome, waiting)
    if isinstance(outcome, AccountLine) or prepared.is_about_account:
        return answer_account(prepared, outcome)
    view = await _view(call, prepared)
    end = end_of(made_by(prepared, outcome, view), view)
    if not end.is_settled:
        end = await _settled(end, waiting)
        view = await _view(call, prepared)
        end = end_of(end, view)
    return answer_transaction(prepared, end, view, replayed=is_replayed(outcome))


async def _pause_answer(call: Call, prepared: Prepared, outcome: Outcome, waiting: _Waiting) -> Answer:
    """The pause once every partition and lane has it, or a receipt when the time is up: it acts already."""
    services, id_ = call.services, prepared.subject
    bodies = await services.events.reads.pauses() if isinstance(outcome, AnswerLine) else ()
    while True:
        answer = answer_pause(prepared, outcome, views_of(bodies, services.tail.recent.pauses.get(id_, ())).get(id_))
        left = waiting.deadline - asyncio.get_running_loop().time()
        if answer.status != 202 or left <= 0:
            return answer
        await services.tail.recent.progressed(left)


async def _clock_answer(call: Call, prepared: Prepared, outcome: Outcome, waiting: _Waiting) -> Answer:
    """The time once every partition and lane has it, or as `moving` when the wait is over: it acts already."""
    tail = call.services.tail
    if isinstance(outcome, AnswerLine):
        try:
            await tail.look_at_clock()
        except ReadsUnavailable as error:
            raise postgres_away(error) from None
    clock = tail.recent.clock
    wanted = outcome.moved_ms if isinstance(outcome, ClockLine) else clock.moved_ms
    while clock.taken_ms < wanted and (left := waiting.deadline - asyncio.get_running_loop().time()) > 0:
        await tail.recent.progressed(left)
    return Answer(200, clock.resource | {"command_id": prepared.command.id}, is_replayed(outcome))


async def _settled(step: Step, waiting: _Waiting) -> Step:
    """The first further change that ends the wait, or the last one when the time is up."""
    try:
        async with asyncio.timeout_at(waiting.deadline):
            while not step.is_settled:
                change = await waiting.changes.get()
                if change.seq > step.seq:
                    step = Step(change.seq, change.status, change.state, change.reason)
    except TimeoutError:
        pass
    return step


async def _view(call: Call, prepared: Prepared) -> TransactionView | None:
    """The transaction as the tail knows it; Postgres is asked only when it began before the tail's memory."""
    recent = call.services.tail.recent.transaction(prepared.subject)
    view = newest(None, recent) if recent is not None else None
    return view or await call.services.lookup.known(prepared.command.tenant, prepared.subject)


async def _name_original(call: Call, prepared: Prepared, problem: Problem) -> None:
    """Adds the id of the transaction to which the key belongs, if it belongs to one."""
    command = prepared.command
    original = id_text(derived_id(command.tenant, command.customer, command.idempotency_key))
    if await call.services.lookup.known(command.tenant, original) is not None:
        problem.members["transaction_id"] = original


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
