"""`aura api` as a process: it starts without its services, and SIGTERM lets requests under way end."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

import aiohttp

from aura_stream.embedded import Process
from aura_stream.embedded.local import http_ok
from aura_stream.embedded.processes import free_port
from tests.web.conftest import Api, Backend, environment, metrics_of
from tests.web.test_reading import frozen


async def test_a20_sec41_sigterm_lets_requests_under_way_end(
    backend: Backend, api: Api, customer: str, tmp_path: Path
) -> None:
    account_id = await api.account(customer)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = Process(
        "api-term",
        [sys.executable, "-m", "aura_stream.cli", "api"],
        run_dir=tmp_path,
        log_dir=tmp_path,
        env=environment("api", backend.settings) | {"AURA_API_PORT": str(port)},
        tied=True,
        ready=lambda: http_ok(f"{url}/health/ready"),
    )
    process.start()
    await asyncio.to_thread(process.wait_ready, 30)

    async def deposit() -> tuple[int, str]:
        headers = {"Idempotency-Key": str(uuid.uuid4()), "Prefer": "wait=4"}
        body = {"account_id": account_id, "amount": "5.00"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/deposits", json=body, headers=headers) as answer,
        ):
            return answer.status, (await answer.json())["id"]

    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        assert answer.status == 404  # SEC41: not where the public is

    with frozen(backend.processes["ledger-0"]):
        under_way = asyncio.create_task(deposit())
        async with asyncio.timeout(10), aiohttp.ClientSession() as session:
            accepted = ""
            while "aura_http_waiting_requests 2.0" not in accepted:
                async with session.get(f"{metrics_of(url)}/metrics") as answer:
                    accepted = await answer.text()
        in_order = asyncio.create_task(asyncio.to_thread(process.stop, 20))
        status, transaction_id = await under_way
        assert (status, await in_order) == (202, True)

    assert (await api.get(f"/v1/transactions/{transaction_id}"))[1]["state"] == "awaiting_funds"
    assert "Traceback" not in process.log_path.read_text()
