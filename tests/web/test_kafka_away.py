"""Kafka stands still: no false 202, an honest 503 in time, and the same key is safe afterwards."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest

from tests.web.conftest import Api, Backend, until_ready


@pytest.mark.timeout(300)
async def test_a20_unacknowledged_command_is_503_and_the_same_key_settles_it(
    backend: Backend, api: Api, customer: str
) -> None:
    account_id = await api.account(customer)
    key, body = str(uuid.uuid4()), {"account_id": account_id, "amount": "5.00"}

    backend.kafka.process.freeze()
    try:
        began = time.monotonic()
        status, problem, headers = await api.post("/v1/deposits", body, key)
        assert time.monotonic() - began < 15
        assert (status, problem["code"]) == (503, "service_unavailable")
        assert "unknown" in problem["detail"]
        assert int(headers["Retry-After"]) > 0

        began = time.monotonic()
        status, problem, _ = await api.post("/v1/deposits", body)
        assert (status, time.monotonic() - began < 3) == (503, True), "it does not wait for what is known to be away"
        assert "nothing was sent" in problem["detail"]
        assert (await api.get(f"/v1/transactions/{uuid.uuid4()}"))[0] == 503
    finally:
        backend.kafka.process.thaw()

    async with asyncio.timeout(40):
        await until_ready(api.client, 40)
        while (answer := await api.post("/v1/deposits", body, key, Prefer="wait=10"))[0] in (202, 503):
            pass
    assert (answer[0], answer[1]["state"]) == (201, "awaiting_funds")
    async with asyncio.timeout(20):
        while (listed := await api.get(f"/v1/transactions?customer={customer}"))[0] == 503:
            pass
    assert [item["idempotency_key"] for item in listed[1]["items"]] == [key]
