"""`POST /v1/commands:batch`: many commands in one request, one line each, durable before the answer.

Nothing here waits for outcomes; the work per line is one decoding, one hash and one append to a partition's batch.
"""

from __future__ import annotations

import asyncio
import re

import orjson
from aiohttp import web

from aura_stream.domain.commands import Command, parse_command
from aura_stream.domain.ids import record_key
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.identity.permissions import COMMAND_ACTIONS, Reach, reach
from web.accepted import AcceptedCommand
from web.call import BATCH_BODY_MAX, Call, read_body, require_media_type
from web.command_log import VALUE_BYTES_MAX
from web.commands import SUBMITS, check, subject_of
from web.limits import spend_commands
from web.operators import check_names
from web.problems import Problem, from_domain

_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_LINES_PER_TURN = 200
"""Lines handled before other requests get a turn: about 5 ms."""


async def send_commands(call: Call) -> web.Response:
    """POST /v1/commands:batch."""
    require_media_type(call.request, call.operation.media_type)
    body = await read_body(call.request, BATCH_BODY_MAX)
    results: list[bytes] = []
    records: list[tuple[int, bytes, bytes]] = []
    submits: list[tuple[str, Command, int]] = []
    partition_of = call.services.commands.partition_of
    now_ms = call.services.tail.recent.clock.now_ms
    for number, raw in enumerate(body.split(b"\n"), 1):
        if number % _LINES_PER_TURN == 0:
            await asyncio.sleep(0)
        line = raw.strip()
        if not line:
            continue
        command_id = None
        try:
            command = _command(line, call.tenant)
            _allowed(call, command)
            command_id = command.id
            check(command, now_ms)
        except Problem as problem:
            results.append(_refused(call, number, command.id, problem))
            continue
        except (Invalid, Refused) as error:
            results.append(_refused(call, number, command_id, from_domain(error)))
            continue
        key = record_key(command.tenant, command.customer)
        partition = partition_of(key)
        records.append((partition, key, line))
        results.append(_accepted(number, command, partition, submits))
    if not results:
        raise Problem("missing_fields", "The body has no command.")
    if records:
        await spend_commands(call.request, call.services, call.principal, len(records), call.origin)
        ends = await call.services.commands.append_many(
            records, [("aura-request-id", call.request_id.encode()), ("aura-source", b"http")]
        )
        for subject, command, partition in submits:
            about = AcceptedCommand(
                command.tenant, command.customer, SUBMITS[command.type], command.id, partition, ends[partition]
            )
            call.services.accepted.add(subject, about)
        call.services.metrics.accepted.add("batch", count=len(records))
    return web.Response(body=b"\n".join(results) + b"\n", content_type="application/x-ndjson")


def _command(line: bytes, tenant: str) -> Command:
    if len(line) > VALUE_BYTES_MAX:
        raise Invalid("message_too_large", f"{len(line)} bytes")
    command = parse_command(line)
    if command.tenant != tenant:
        raise Invalid("invalid_field", f"tenant is {command.tenant}, the request's Aura-Tenant is {tenant}", "/tenant")
    if not _UUID.fullmatch(command.idempotency_key):
        raise Invalid("idempotency_key_invalid", "a UUID is demanded over HTTP", "/idempotency_key")
    return command


def _allowed(call: Call, command: Command) -> None:
    """Raises :class:`Problem` unless the sender may send this command for this customer."""
    furthest = reach(call.principal, COMMAND_ACTIONS[command.type])
    if furthest == Reach.NONE or (furthest == Reach.OWN and command.customer != call.principal.customer):
        raise Problem("insufficient_permissions", f"{command.type} for {command.customer} is not yours to send.")
    check_names(call, command, furthest)


def _accepted(number: int, command: Command, partition: int, submits: list[tuple[str, Command, int]]) -> bytes:
    subject = subject_of(command)
    if command.type in SUBMITS:
        submits.append((subject, command, partition))
    elif command.type.startswith("account.") or command.type == "clock.advance":
        return b'{"line":%d,"command_id":"%s","transaction_id":null,"status":"accepted"}' % (
            number,
            command.id.encode(),
        )
    return b'{"line":%d,"command_id":"%s","transaction_id":"%s","status":"accepted"}' % (
        number,
        command.id.encode(),
        subject.encode(),
    )


def _refused(call: Call, number: int, command_id: str | None, problem: Problem) -> bytes:
    document = problem.document(instance=call.request.path, request_id=call.request_id)
    return orjson.dumps(
        {"line": number, "command_id": command_id, "transaction_id": None, "status": "refused", "problem": document}
    )
