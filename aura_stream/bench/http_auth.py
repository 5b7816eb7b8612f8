"""What it costs that somebody is logged in: the API beside the same application that takes everybody for one server.

Both are whole processes of the product with their limits raised, so that what differs is the login only: in one every
request has a person's access token, of as many people as there are connections; in the other no token is looked at.
Ledger and sink are stopped meanwhile, as in `http.py`; afterwards every accepted command must be completed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import uuid
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from aura_stream import SetupError
from aura_stream.bench.http import CONNECTIONS, WARM_UP_SHARE, middle, run_client
from aura_stream.bench.http_client import Plan
from aura_stream.bench.loads import TENANT
from aura_stream.embedded.processes import free_port

if TYPE_CHECKING:
    from aura_stream.bench.run import Bench

RAISED: Final = {"AURA_RATE_LIMIT": "1000000000", "AURA_ACCESS_TOKEN_S": "3600"}
_STOP_S: Final = 15.0


async def measure(bench: Bench) -> dict[str, Any]:
    """Both in turns; the medians and their ratio."""
    options = bench.options
    await bench.start("api", 1, env=RAISED)
    (api,) = bench.roles["api"]
    environment = bench.stack.environment()
    people = await _people(bench.settings.api_port)
    for role in ("ledger", "sink"):
        bench.stop(role)
    port = free_port()
    fixed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aura_stream.bench.http_fixed", TENANT),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | environment | RAISED | {"AURA_API_PORT": str(port), "AURA_LOG_LEVEL": "WARNING"},
    )
    servers = {"logged_in": (bench.settings.api_port, api.pid), "fixed": (port, fixed.pid)}
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in servers}
    await bench.observer.mark()
    accepted = 0

    async def turn(kind: str, count: int) -> dict[str, Any]:
        nonlocal accepted
        to, pid = servers[kind]
        accepted += count
        customers, tokens = zip(*people, strict=True)
        return await run_client(Plan(to, tokens, next(bench.sections), count, CONNECTIONS, customers=customers), pid)

    try:
        assert fixed.stdout is not None
        if (await fixed.stdout.readline()).strip() != b"ready":
            raise _failed("the application without logins did not start; see its message above")
        await asyncio.gather(_until_ready(port), _until_ready(bench.settings.api_port))
        for kind in servers:
            await turn(kind, max(100, options.requests // WARM_UP_SHARE))
        for number in range(max(1, options.rounds)):
            for kind in ("fixed", "logged_in") if number % 2 else ("logged_in", "fixed"):
                runs[kind].append(await turn(kind, options.requests))
    finally:
        fixed.terminate()
        try:
            await asyncio.wait_for(fixed.wait(), _STOP_S)
        except TimeoutError:
            fixed.kill()
            await fixed.wait()
        bench.stop("api")
    await asyncio.gather(bench.start("ledger", options.ledgers), bench.start("sink", options.sinks))
    await bench.observer.watch(
        lambda totals: totals.transactions >= accepted, what=f"{accepted} commands of logins", add_every_s=0.5
    )
    bench.transfers += accepted
    found: dict[str, Any] = {
        "requests": options.requests,
        "connections": CONNECTIONS,
        "logins": len(people),
        "accepted": accepted,
        "runs": runs,
        **{kind: middle(runs[kind]) for kind in runs},
    }
    found["ratio"] = found["logged_in"]["per_second"] / found["fixed"]["per_second"]
    found["cpu_ratio"] = found["fixed"]["server_cpu_us"] / found["logged_in"]["server_cpu_us"]
    bench.say(
        f"logged in: {found['logged_in']['per_second']:,.0f} commands/s of {found['fixed']['per_second']:,.0f} with a "
        f"fixed principal ({found['ratio']:.2f}, by CPU {found['cpu_ratio']:.2f})"
    )
    return found


async def _people(port: int) -> list[tuple[str, str]]:
    """A person for each connection, with two accounts in the ledger: customer and access token."""
    await _until_ready(port)
    people = []
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def post(path: str, body: dict[str, str], expected: int, token: str = "") -> Any:
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid.uuid4())} if token else {}
            headers["Prefer"] = "wait=30"
            async with session.post(path, json=body, headers=headers) as answer:
                if answer.status != expected:
                    raise _failed(f"{path} answered {answer.status}: {(await answer.text())[:300]}")
                return await answer.json()

        for _ in range(CONNECTIONS):
            login = {"email": f"bench-{uuid.uuid4().hex[:12]}@example.com", "password": secrets.token_urlsafe(16)}
            login["tenant_code"] = TENANT
            customer = (await post("/v1/auth/register", login, 201))["wallet_id"]
            token = (await post("/v1/auth/login", login, 200))["access_token"]
            await post("/v1/accounts", {"asset": "EUR", "name": "savings"}, 201, token)
            # It answers when all of theirs is in Postgres: then it is no part of what is counted.
            async with session.get("/v1/transactions", headers={"Authorization": f"Bearer {token}"}) as answer:
                if [one["status"] for one in (await answer.json())["items"]] != ["completed"]:
                    raise _failed(f"the wallet of {customer} has no money")
            people.append((customer, token))
    return people


async def _until_ready(port: int, timeout_s: float = 60.0) -> None:
    """Until people are let in: identity has its keys and hears what is revoked."""
    probe = {"email": "nobody@example.com", "password": "x" * 20, "tenant_code": TENANT}
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        while True:
            async with session.post("/v1/auth/login", json=probe) as answer:
                if answer.status == 401:
                    return
            await asyncio.sleep(0.1)


def _failed(why: str) -> SetupError:
    return SetupError(
        "The benchmark of logins failed.", where="aura bench", why=why, fix="run it again with --keep and look there"
    )
