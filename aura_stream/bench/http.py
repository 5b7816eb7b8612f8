"""What one API process accepts, beside a bare aiohttp handler that parses the same bytes and answers 202.

Ledger and sink are stopped meanwhile: how much one process can accept is asked, not how two cores are shared out.
Accepted means acknowledged by Kafka. Afterwards ledger and sink start, and every accepted command must be completed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from aura_stream import SetupError
from aura_stream.bench.http_client import Done, Plan
from aura_stream.bench.machine import cpu_s
from aura_stream.embedded.processes import free_port

if TYPE_CHECKING:
    from aura_stream.bench.run import Bench

CONNECTIONS = 64
BATCH_CONNECTIONS = 4
BATCH_LINES = 1_000
WARM_UP_SHARE = 5


async def measure(bench: Bench) -> dict[str, Any]:
    """Both servers in turns, then the batch intake; the medians."""
    options = bench.options
    for role in ("ledger", "sink"):
        bench.stop(role)
    await bench.start("api", 1)
    bare_port = free_port()
    bare = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aura_stream.bench.http_bare", str(bare_port)), stdout=asyncio.subprocess.PIPE
    )
    await bench.observer.mark()
    accepted = 0
    runs: dict[str, list[dict[str, Any]]] = {"api": [], "bare": [], "batch": []}
    try:
        assert bare.stdout is not None
        if (await bare.stdout.readline()).strip() != b"ready":
            raise _failed("the bare handler did not start")
        (api,) = bench.roles["api"]
        servers = {
            "api": (bench.settings.api_port, api.pid),
            "bare": (bare_port, bare.pid),
            "batch": (bench.settings.api_port, api.pid),
        }
        key = bench.stack.environment()["AURA_API_KEY"]

        async def turn(kind: str, count: int) -> dict[str, Any]:
            nonlocal accepted
            port, pid = servers[kind]
            of_batch = kind == "batch"
            plan = Plan(
                port,
                (key,),
                next(bench.sections),
                count,
                BATCH_CONNECTIONS if of_batch else CONNECTIONS,
                min(BATCH_LINES, count) if of_batch else 0,
            )
            found = await run_client(plan, pid)
            accepted += count if kind != "bare" else 0
            return found

        for kind in runs:
            await turn(
                kind, max(100, (options.batch_commands if kind == "batch" else options.requests) // WARM_UP_SHARE)
            )
        for number in range(max(1, options.rounds)):
            for kind in ("bare", "api") if number % 2 else ("api", "bare"):
                runs[kind].append(await turn(kind, options.requests))
            runs["batch"].append(await turn("batch", options.batch_commands))
        if options.profile:
            for kind, count in (("api", options.requests), ("batch", options.batch_commands)):

                async def work(kind: str = kind, count: int = count) -> dict[str, Any]:
                    found = await turn(kind, count)
                    return {"cpu": {"api": found["server_cpu_us"] * count / 1e6}}

                await bench.profiled(f"http-{kind}", f"HTTP, {kind}", count, work, ("api",))
    finally:
        bare.kill()
        await bare.wait()
        bench.stop("api")
    await asyncio.gather(bench.start("ledger", options.ledgers), bench.start("sink", options.sinks))
    await bench.observer.watch(
        lambda totals: totals.transactions >= accepted, what=f"{accepted} commands that HTTP accepted", add_every_s=0.5
    )
    bench.transfers += accepted
    found: dict[str, Any] = {
        "requests": options.requests,
        "batch_commands": options.batch_commands,
        "connections": CONNECTIONS,
        "batch_lines": BATCH_LINES,
        "accepted": accepted,
        "runs": runs,
        **{kind: middle(runs[kind]) for kind in runs},
    }
    found["ratio"] = found["api"]["per_second"] / found["bare"]["per_second"]
    found["cpu_ratio"] = found["bare"]["server_cpu_us"] / found["api"]["server_cpu_us"]
    bench.say(
        f"HTTP: {found['api']['per_second']:,.0f} commands/s of {found['bare']['per_second']:,.0f} bare ones "
        f"({found['ratio']:.2f}, by CPU {found['cpu_ratio']:.2f}), in batches {found['batch']['per_second']:,.0f}"
    )
    return found


async def run_client(plan: Plan, pid: int | None) -> dict[str, Any]:
    """One run of the client. Raises :class:`SetupError` when not every command was accepted."""
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aura_stream.bench.http_client"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert client.stdin is not None and client.stdout is not None
    try:
        client.stdin.write(msgspec.json.encode(plan) + b"\n")
        if (await client.stdout.readline()).strip() != b"ready":
            raise _failed("the client did not start; see its message above")
        before, began = cpu_s(pid), time.monotonic()
        client.stdin.write(b"\n")
        line = await client.stdout.readline()
        server_cpu_s, seconds = cpu_s(pid) - before, time.monotonic() - began
        if not line:
            raise _failed("the client ended without a word; see its message above")
        done = msgspec.json.decode(line, type=Done)
        await client.wait()
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
    if done.accepted != plan.count:
        raise _failed(f"{done.accepted} of {plan.count} commands accepted, {done.statuses}: {done.surprise}")
    return {
        "per_second": plan.count / done.seconds,
        "seconds": done.seconds,
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "server_cpu_us": server_cpu_s / plan.count * 1e6,
        "server_cores": server_cpu_s / seconds,
        "client_cpu_us": done.cpu_s / plan.count * 1e6,
    }


def middle(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each number."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def _failed(why: str) -> SetupError:
    return SetupError(
        "The HTTP door could not be measured.",
        where="aura api",
        why=why,
        fix="read api.log in the directory of the run (--keep)",
    )
