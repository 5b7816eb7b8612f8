"""What API and worker log: one line per request, one id from request to record to dead letter, and no secret."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

import topics
from aura_stream.logs import ACCESS, AccessFormatter, AccessHandler, AccessRecord
from tests.web.conftest import PARTITIONS, Api, Backend, api_process

CANARY = "canary-5b1f0c9de77a"


def _lines(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [one for one in found if isinstance(one, dict)]


async def test_sec43_l87_a_secret_that_goes_through_every_door_is_in_no_log(
    backend: Backend, customer: str, tmp_path: Path
) -> None:
    process, url = api_process(backend, tmp_path, AURA_API_KEY=f"{CANARY}-operator", AURA_LOG_LEVEL="DEBUG")
    process.start()
    try:
        await asyncio.to_thread(process.wait_ready, 30)
        async with aiohttp.ClientSession(url) as session:

            async def send(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                named.setdefault("Idempotency-Key", str(uuid.uuid4()))
                async with session.request(method, path, json=body, headers=named) as answer:
                    return answer.status, await answer.json(content_type=None)

            email = f"{customer}@example.com"
            login = {"email": email, "password": f"{CANARY} password"}
            assert (await send("POST", "/v1/auth/register", login | {"full_name": CANARY}))[0] == 201
            status, grant = await send("POST", "/v1/auth/login", login, User_Agent=CANARY)
            assert status == 200
            bearer = f"Bearer {grant['access_token']}"
            assert (await send("POST", "/v1/auth/login", login | {"password": f"wrong {CANARY}"}))[0] == 401
            change = {"current_password": f"{CANARY} wrong", "new_password": f"{CANARY} new one"}
            assert (await send("POST", "/v1/auth/change-password", change, Authorization=bearer))[0] == 401
            assert (await send("POST", "/v1/auth/refresh", {"refresh_token": CANARY}))[0] == 401
            assert (await send("POST", "/v1/auth/verify-email", {"token": CANARY * 2}))[0] in (400, 404)
            assert (await send("GET", f"/v1/users/me?token={CANARY}", Authorization=bearer))[0] == 400
            assert (await send("GET", f"/reset/{CANARY}?password={CANARY}"))[0] == 404
            assert (await send("GET", "/v1/tenants", Authorization=f"Bearer {CANARY}"))[0] == 401
            assert (await send("GET", "/v1/tenants", Authorization=f"Bearer {CANARY}-operator"))[0] == 200
            wanted = {"name": CANARY, "scopes": ["money.read"]}
            status, made = await send("POST", "/v1/api-keys", wanted, Authorization=bearer)
            assert status == 201
            assert (await send("GET", "/v1/transactions", Authorization=f"Bearer {made['key']}"))[0] == 200
            assert (await send("GET", "/v1/transactions", Authorization=f"Bearer {made['key'][:-4]}AAAA"))[0] == 401
            assert (await send("POST", "/v1/transfers", {"memo": CANARY}, Authorization=bearer))[0] == 400
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization\x00: Bearer {CANARY}\r\n\r\n".encode())
        assert b"400" in await reader.read(200)
        writer.close()
        producer = AIOKafkaProducer(bootstrap_servers=backend.settings.kafka_bootstrap)
        await producer.start()
        headers = [("authorization", CANARY.encode()), ("aura-request-id", b"canary-run")]
        await producer.send_and_wait(topics.COMMANDS.name, CANARY.encode(), CANARY.encode(), headers=headers)
        await producer.stop()
    finally:
        await asyncio.to_thread(process.stop, 20)

    api_log = process.log_path.read_text()
    assert CANARY not in api_log
    sealing = backend.settings.identity_secret.get_secret_value()
    for secret in (grant["access_token"], grant["refresh_token"], made["key"], email, sealing):
        assert secret not in api_log
    assert "refused what is no HTTP" in api_log and "refused: session.login" in api_log
    for name in ("ledger-0", "sink-0"):
        assert CANARY not in (backend.settings.home / "log" / f"{name}.log").read_text()
    accesses = [line for line in _lines(api_log) if line.get("logger") == "aura.access"]
    assert {"register", "login", "listTenants", "none"} <= {line["operation"] for line in accesses}
    assert all({"request_id", "status", "ms", "timestamp"} <= line.keys() for line in accesses)


async def test_l53_lines_of_requests_that_are_answered_together_are_written_together_and_none_is_lost() -> None:
    class Writes(io.StringIO):
        count = 0

        def write(self, text: str) -> int:
            self.count += 1
            return super().write(text)

    stream = Writes()
    handler = AccessHandler(stream)
    handler.setFormatter(AccessFormatter(is_text=False))
    for number in range(5):
        handler.handle(AccessRecord({"request_id": f"first-{number}", "status": 200}))
    await asyncio.sleep(0)
    assert stream.count == 1
    handler.handle(AccessRecord({"request_id": "last", "status": 200}))
    handler.flush()  # as `logging` does when the process ends
    await asyncio.to_thread(handler.handle, AccessRecord({"request_id": "no loop", "status": 200}))

    lines = _lines(stream.getvalue())
    assert [line["request_id"] for line in lines] == [*(f"first-{number}" for number in range(5)), "last", "no loop"]
    assert all(datetime.fromisoformat(line["timestamp"]).tzinfo is UTC for line in lines)
    assert {(line["event"], line["logger"], line["level"]) for line in lines} == {("request", ACCESS, "info")}


async def test_l53_one_id_from_the_request_to_the_record_the_command_and_the_line(
    backend: Backend, api: Api, customer: str, caplog: Any
) -> None:
    account = await api.account(customer)
    request_id = f"trace-{customer}"

    with caplog.at_level("INFO", logger="aura.access"):
        status, made, headers = await api.post(
            "/v1/deposits", {"account_id": account, "amount": "1.00"}, X_Request_Id=request_id
        )

    assert (status, headers["X-Request-Id"]) == (201, request_id)
    lines = [one.args for one in caplog.records if isinstance(one.args, dict)]
    (line,) = [one for one in lines if one.get("request_id") == request_id]
    record = await _find(backend, topics.COMMANDS.name, request_id)
    command = json.loads(record.value)
    assert line["command_id"] == command["id"] == made["command_id"]
    assert (line["operation"], line["status"], line["actor"]) == ("submitDeposit", 201, "system:sandbox")


async def test_l53_a_trace_of_another_system_goes_on(api: Api) -> None:
    trace = uuid.uuid4().hex
    good, bad = f"00-{trace}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01"

    assert (await api.get("/health/live", traceparent=good))[2]["X-Request-Id"] == trace
    assert (await api.get("/health/live", traceparent=good, X_Request_Id="mine"))[2]["X-Request-Id"] == "mine"
    assert (await api.get("/health/live", traceparent=bad))[2]["X-Request-Id"] != "0" * 32


async def test_l53_a_dead_letter_names_the_request(backend: Backend, customer: str) -> None:
    request_id = f"dead-{customer}"
    producer = AIOKafkaProducer(bootstrap_servers=backend.settings.kafka_bootstrap)
    await producer.start()
    headers = [("aura-request-id", request_id.encode()), ("other", b"x")]
    await producer.send_and_wait(topics.COMMANDS.name, b"{", customer.encode(), headers=headers)
    await producer.stop()

    letter = await _find(backend, topics.DEAD_LETTERS.name, request_id)
    assert letter.value == b"{" and "other" not in dict(letter.headers)


async def _find(backend: Backend, topic: str, request_id: str) -> Any:
    """The record with this request's id."""
    consumer = AIOKafkaConsumer(bootstrap_servers=backend.settings.kafka_bootstrap, isolation_level="read_committed")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        async with asyncio.timeout(30):
            async for record in consumer:
                if ("aura-request-id", request_id.encode()) in tuple(record.headers):
                    return record
    finally:
        await consumer.stop()
