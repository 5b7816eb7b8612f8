"""`/v1/dead-letters`: what could not be handled, and the way back for it, which takes two persons."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import heapq
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from aura_stream.brokers import client_options
from aura_stream.domain.reasons import Refused
from aura_stream.identity import repository
from aura_stream.identity.audit import NO_TENANT
from aura_stream.identity.permissions import Reach, check_checker
from topics.commands import COMMANDS
from topics.dead_letters import DEAD_LETTERS
from web.answers import json_response
from web.call import Call
from web.identity.once import once
from web.problems import FieldError, Problem
from web.views import instant, moment

_READ_S: Final = 10.0
_QUIET_POLLS: Final = 3
"""Empty answers in a row after which the rest of a range is markers of transactions."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One record of the topic."""

    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes
    headers: dict[str, str]

    @property
    def id(self) -> str:
        """`<partition>-<offset>`."""
        return f"{self.partition}-{self.offset}"

    @property
    def tenant(self) -> str:
        """Whose it is, as its key says; the platform's when the key says nothing."""
        name, slash, _ = (self.key or b"").decode("utf-8", "replace").partition("/")
        return name if slash else NO_TENANT


async def list_dead_letters(call: Call) -> web.Response:
    """GET /v1/dead-letters, newest first."""
    limit = call.query.get("limit", 50)
    count = call.services.settings.partitions
    before = _read_cursor(call.query["cursor"], count) if "cursor" in call.query else None
    async with _reading(call) as log:
        letters, before = await log.page(before, limit)
    visible = [_shown(one) for one in letters if _may_see(call, one)]
    cursor = base64.urlsafe_b64encode(orjson.dumps(before)).rstrip(b"=").decode() if any(before) else None
    return json_response({"items": visible, "has_more": cursor is not None, "next_cursor": cursor})


async def get_dead_letter(call: Call) -> web.Response:
    """GET /v1/dead-letters/{letter_id}: with key and value, byte for byte in base64."""
    letter = await _letter(call)
    encoded = {
        "key_base64": base64.b64encode(letter.key).decode() if letter.key is not None else None,
        "value_base64": base64.b64encode(letter.value).decode(),
    }
    return json_response(_shown(letter) | encoded)


async def request_requeue(call: Call) -> web.Response:
    """POST /v1/dead-letters/{letter_id}/requeue: asks for it; somebody else approves."""

    async def make() -> tuple[int, dict[str, object]]:
        letter = await _letter(call)
        identity, actor = call.services.identity, call.principal.actor
        async with identity.database.tenant(letter.tenant) as connection:
            row = await repository.insert_requeue(connection, letter.tenant, letter.partition, letter.offset, actor)
            if row is None:
                raise Refused("already_processed", "it was sent again, or there is a request for it")
            await identity.audit.done(
                connection, letter.tenant, actor, "dead_letter.requeue_request", letter.id, call.origin
            )
        return 202, _requeue(row)

    return await once(call, make)


async def approve_requeue(call: Call) -> web.Response:
    """POST /v1/dead-letters/{letter_id}/requeue/approve: sends the original bytes again."""
    return await _decide(call, "requeued")


async def reject_requeue(call: Call) -> web.Response:
    """POST /v1/dead-letters/{letter_id}/requeue/reject."""
    return await _decide(call, "rejected")


async def _decide(call: Call, status: str) -> web.Response:
    async def make() -> tuple[int, dict[str, object]]:
        letter = await _letter(call)
        identity, commands = call.services.identity, call.services.commands
        async with identity.database.tenant(letter.tenant) as connection:
            row = await repository.open_requeue(connection, letter.partition, letter.offset)
            if row is None:
                raise Refused("invalid_state_transition", "nobody asks for this letter to be sent again")
            check_checker(row["maker"], call.principal)
            row = await repository.decide_requeue(connection, row["requeue_id"], status, call.principal.actor)
            what = "dead_letter.requeue" if status == "requeued" else "dead_letter.requeue_reject"
            await identity.audit.done(connection, letter.tenant, call.principal.actor, what, letter.id, call.origin)
            if status == "requeued":
                # Before the commit: should that fail, it is sent once more, and has the same idempotency key.
                key = letter.key or b""
                place = commands.partition_of(key) if key else int(letter.headers.get("aura-partition", "0"))
                await commands.append_many([(place, key, letter.value)], [("aura-source", b"requeue")])
        return 200, _requeue(row)

    return await once(call, make)


class _Log:
    """The topic, read backwards."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: int) -> None:
        self._consumer = consumer
        self._places = [TopicPartition(DEAD_LETTERS.name, one) for one in range(partitions)]

    async def page(self, before: list[int] | None, limit: int) -> tuple[list[Letter], list[int]]:
        """The newest letters below the offsets `before` (None: the end), and below which the next page begins.

        An offset of 0 says that nothing is left of a partition.
        """
        begins = await self._consumer.beginning_offsets(self._places)
        ends = await self._consumer.end_offsets(self._places)
        below = [
            max(begins[one], ends[one] if before is None else min(ends[one], before[one.partition]))
            for one in self._places
        ]
        spans: list[list[Letter]] = []
        for place, end in zip(self._places, below, strict=True):
            start, found = end, list[Letter]()
            while len(found) < limit and start > begins[place]:
                # Markers of transactions take offsets too: further back until there is enough.
                upper, start = start, max(begins[place], start - 2 * limit)
                found = await self._range(place, start, upper) + found
            spans.append(found)
        newest = heapq.merge(*(reversed(one) for one in spans), key=lambda one: -one.at_ms)
        letters = [one for one, _ in zip(newest, range(limit), strict=False)]
        for place, found in zip(self._places, spans, strict=True):
            taken = [one.offset for one in letters if one.partition == place.partition]
            is_more = len(taken) < len(found) or bool(taken and len(found) >= limit)
            below[place.partition] = (min(taken) if taken else below[place.partition]) if is_more else 0
        return letters, below

    async def one(self, partition: int, offset: int) -> Letter | None:
        """The letter at a place."""
        place = self._places[partition]
        begins, ends = (
            await self._consumer.beginning_offsets([place]),
            await self._consumer.end_offsets([place]),
        )
        if not begins[place] <= offset < ends[place]:
            return None
        return next(iter(await self._range(place, offset, offset + 1)), None)

    async def _range(self, place: TopicPartition, start: int, end: int) -> list[Letter]:
        self._consumer.assign([place])
        self._consumer.seek(place, start)
        found: list[Letter] = []
        quiet = 0
        while quiet < _QUIET_POLLS:
            batch = (await self._consumer.getmany(place, timeout_ms=200)).get(place, [])
            quiet = 0 if batch else quiet + 1
            for record in batch:
                if record.offset >= end:
                    return found
                headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
                found.append(
                    Letter(record.partition, record.offset, record.timestamp, record.key, record.value or b"", headers)
                )
            if batch and batch[-1].offset + 1 >= end:
                return found
        return found


@contextlib.asynccontextmanager
async def _reading(call: Call) -> AsyncIterator[_Log]:
    """The topic for one request. Raises :class:`Problem` ``service_unavailable`` while Kafka does not answer."""
    settings = call.services.settings
    consumer = AIOKafkaConsumer(
        **client_options(settings.kafka),
        client_id="aura-api-dead-letters",
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=3_000,
    )
    try:
        async with asyncio.timeout(_READ_S):
            await consumer.start()
            yield _Log(consumer, settings.partitions)
    except (KafkaError, OSError, TimeoutError) as error:
        raise Problem(
            "service_unavailable", f"Kafka does not give the dead letters ({type(error).__name__}).", retry_after_s=2
        ) from None
    finally:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout(2):
                await consumer.stop()


async def _letter(call: Call) -> Letter:
    """The letter that the path names. Raises :class:`Problem` ``dead_letter_not_found``."""
    partition, _, offset = call.path["letter_id"].partition("-")
    letter = None
    if int(partition) < call.services.settings.partitions:
        async with _reading(call) as log:
            letter = await log.one(int(partition), int(offset))
    if letter is None or not _may_see(call, letter):
        raise Problem("dead_letter_not_found", "There is no such dead letter.")
    return letter


def _may_see(call: Call, letter: Letter) -> bool:
    return call.reach == Reach.PLATFORM or letter.tenant == call.tenant


def _shown(letter: Letter) -> dict[str, Any]:
    headers = letter.headers
    return {
        "id": letter.id,
        "tenant": letter.tenant if letter.tenant != NO_TENANT else None,
        "at": moment(letter.at_ms),
        "reason": headers.get("aura-reason", ""),
        "detail": headers.get("aura-detail", ""),
        "topic": headers.get("aura-topic", COMMANDS.name),
        "partition": int(headers.get("aura-partition", "0")),
        "offset": int(headers.get("aura-offset", "0")),
        "size": len(letter.value),
    }


def _requeue(row: repository.Row) -> dict[str, Any]:
    return {
        "letter_id": f"{row['partition']}-{row['offset_']}",
        "status": row["status"],
        "maker": row["maker"],
        "checker": row["checker"],
        "created_at": instant(row["created_at"]),
        "decided_at": instant(row["decided_at"]) if row["decided_at"] else None,
    }


def _read_cursor(text: str, partitions: int) -> list[int]:
    try:
        value = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not (isinstance(value, list) and len(value) == partitions and all(_is_offset(one) for one in value)):
            raise ValueError(value)
        return value
    except ValueError:
        place = FieldError(in_="query", pointer="cursor", code="invalid_field", detail="not a cursor of this listing")
        raise Problem("invalid_field", "cursor: not a cursor of this listing", errors=[place]) from None


def _is_offset(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
