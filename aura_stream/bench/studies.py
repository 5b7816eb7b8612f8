"""How things grow: with processes and partitions, with entries, with open transactions, with accounts.

Each study begins with a fresh ledger, so that one can be run without the others.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from aura_stream.bench import loads
from aura_stream.bench.kafka import produce
from aura_stream.bench.loads import HOT, ONE_HOP, Command, by_partition, current, customer
from aura_stream.bench.machine import memory_mb, proportional_mb
from aura_stream.ledger.connection import READER, connect

if TYPE_CHECKING:
    from aura_stream.bench.run import Bench

AT_ONCE = 50_000
GROW_AT_ONCE = 250_000
WARM_UP_SHARE = 5
ASKED_ACCOUNTS = 50
_ENTRIES = "SELECT coalesce(sum((counters ->> 'entries')::bigint), 0)::bigint FROM ledger.units"
_SIZE = "SELECT pg_database_size(current_database())"
_BALANCES = {
    "now": "SELECT posted FROM ledger.balance_as_of($1, $2)",
    "effective": "SELECT posted FROM ledger.balance_as_of($1, $2, $3)",
    "known": "SELECT posted FROM ledger.balance_as_of($1, $2, 'infinity', $3)",
}


async def scaling(bench: Bench) -> None:
    """Draining with some ledger processes and numbers of partitions, and which process is the busiest."""
    options = bench.options
    chosen = [load for load in options.loads if load != HOT] or list(options.loads)
    for partitions in options.grid_partitions:
        await bench.fresh(partitions, options.grid_ledgers[0])
        for number, ledgers in enumerate(options.grid_ledgers):
            if number:
                bench.stop("ledger")
                await bench.start("ledger", ledgers)
            for load in chosen:
                await bench.drain(load, max(100, options.commands // WARM_UP_SHARE))
                found = await bench.drain(load, options.commands)
                bench.results.scaling.append({"ledgers": ledgers, "partitions": partitions, "load": load, **found})
                bench.say(
                    f"{ledgers} ledger x {partitions} partitions, {load}: {found['per_second']:,.0f} transfers/s, "
                    f"cores {', '.join(f'{name} {cores:.2f}' for name, cores in found['cores'].items())}"
                )
        await bench.check_books(f"{partitions} partitions")


async def entries(bench: Bench) -> None:
    """One-hop, balances as of, and restore, as the ledger grows through the real pipeline."""
    options = bench.options
    await bench.fresh(options.partitions)
    reader = await connect(bench.stack.environment()["AURA_POSTGRES_READ_DSN"], READER, application_name="aura bench")
    try:
        times: list[tuple[int, datetime]] = []
        for target in options.entries:
            measured = max(100, min(options.commands, target // 8))
            while True:
                now = int(await reader.fetchval(_ENTRIES))
                times.append((now, datetime.now(UTC)))
                missing = (target - now) // 2 - measured
                if missing <= 0:
                    break
                await grow(bench, ONE_HOP, min(missing, GROW_AT_ONCE, max(1, target // 8)))
            drained = await bench.drain(ONE_HOP, measured)
            count = int(await reader.fetchval(_ENTRIES))
            past = next(at for have, at in times if have >= count // 2 or have == times[-1][0])
            found: dict[str, Any] = {
                "entries": count,
                "per_second": drained["per_second"],
                "cpu": drained["cpu"],
                "transfers": measured,
                "balance_ms": await balances(reader, past),
                "database_mb": int(await reader.fetchval(_SIZE)) / 1e6,
                "restore": await bench.restore(),
            }
            bench.results.entries.append(found)
            bench.say(
                f"{count:,} entries: one-hop {drained['per_second']:,.0f} transfers/s, balance_as_of "
                + ", ".join(f"{name} {took['p50']:.2f} ms" for name, took in found["balance_ms"].items())
            )
    finally:
        await reader.close(timeout=5)
    await bench.check_books("growing entries")


async def grow(bench: Bench, load: str, count: int) -> None:
    """More transfers, as fast as the pipeline takes them."""
    section = next(bench.sections)
    await bench.observer.mark()
    await produce(bench.bootstrap, by_partition(loads.transfers(load, section, count), bench.partitions))
    await bench.observer.watch(
        lambda totals: totals.transactions == count, what=f"{count} transfers of {load}", add_every_s=0.5
    )
    bench.transfers += count


async def balances(reader: Any, past: datetime) -> dict[str, dict[str, float]]:
    """How long `balance_as_of` takes for some accounts: now, at a time in the past, and as it was known then."""
    pick = random.Random(ASKED_ACCOUNTS)
    accounts = [current(customer(pick.randrange(loads.CUSTOMERS))) for _ in range(ASKED_ACCOUNTS)]
    found = {}
    for name, query in _BALANCES.items():
        took = []
        for account in accounts:
            arguments = (loads.TENANT, account) if name == "now" else (loads.TENANT, account, past)
            began = time.perf_counter()
            await reader.fetchval(query, *arguments)
            took.append((time.perf_counter() - began) * 1000)
        found[name] = {"p50": median(took), "max": max(took)}
    return found


async def open_transactions(bench: Bench) -> None:
    """One-hop while more and more holds, each with a deadline, wait."""
    options = bench.options
    await bench.fresh(options.partitions)
    await bench.drain(ONE_HOP, max(100, options.commands // WARM_UP_SHARE))
    have = 0
    for target in options.open:
        await _place_holds(bench, target - have)
        have = target
        drained = await bench.drain(ONE_HOP, options.commands)
        found = {
            "open": have,
            "per_second": drained["per_second"],
            "cpu": drained["cpu"],
            "transfers": options.commands,
            "memory": await memory_by_process(bench),
        }
        bench.results.open.append(found)
        bench.say(f"{have:,} open holds: one-hop {found['per_second']:,.0f} transfers/s")
    await bench.check_books("with open holds")


async def _place_holds(bench: Bench, count: int) -> None:
    await _produced(
        bench, loads.holds(next(bench.sections), count), lambda totals: totals.transactions == count, f"{count} holds"
    )


async def memory(bench: Bench) -> None:
    """Opens accounts as customers do, through the whole pipeline, and looks at the memory of each process."""
    options = bench.options
    await bench.fresh(options.partitions)
    before, began = await memory_by_process(bench), time.monotonic()
    await _produced(
        bench,
        loads.accounts(next(bench.sections), options.memory),
        lambda totals: totals.accounts == options.memory,
        f"{options.memory} accounts",
    )
    after = await memory_by_process(bench)
    bench.results.memory = {
        "accounts": options.memory,
        "seconds": time.monotonic() - began,
        "before": before,
        "after": after,
    }
    bench.say(
        f"{options.memory:,} more accounts: "
        + ", ".join(f"{name} {found['rss_mb']:.0f} MB" for name, found in after.items())
    )


async def _produced(bench: Bench, commands: Iterator[Command], done: Any, what: str) -> None:
    """Commands as any client would send them, until all of them are in Postgres."""
    await bench.observer.mark()
    for batch in iter(lambda: list(itertools.islice(commands, AT_ONCE)), []):
        await produce(bench.bootstrap, by_partition(iter(batch), bench.partitions))
    await bench.observer.watch(done, what=what, add_every_s=1.0)


async def memory_by_process(bench: Bench) -> dict[str, dict[str, float]]:
    """MB of every ledger, sink and service: resident, the most it was, its proportional share, and RocksDB's part."""
    found = {}
    rocksdb = dict(zip((process.name for process in bench.roles["ledger"]), await _rocksdb_mb(bench), strict=True))
    for process in [*bench.roles["ledger"], *bench.roles["sink"], bench.stack.kafka.process]:
        now, most = memory_mb(process.pid)
        found[process.name] = {
            "rss_mb": now,
            "most_mb": most,
            "pss_mb": proportional_mb(process.pid),
            "rocksdb_mb": rocksdb.get(process.name, 0.0),
        }
    found["postgres"] = {"pss_mb": proportional_mb(bench.stack.postgres.pid, family=True)}
    found["postgres"]["rss_mb"] = found["postgres"][
        "pss_mb"
    ]  # shared buffers are in the resident size of every backend
    return found


async def _rocksdb_mb(bench: Bench) -> list[float]:
    """Per ledger process: what RocksDB says of its tables in memory, readers, and the one cache of the process."""
    found = []
    for page in bench.status_pages("ledger"):
        text = await asyncio.to_thread(_read, page)
        stores = [row["store_bytes"] for row in json.loads(text)["partitions"] if row["store_bytes"]]
        own = sum(store["memtables"] + store["readers"] for store in stores)
        found.append((own + max((store["cache"] for store in stores), default=0)) / 1e6)
    return found


def _read(page: str) -> bytes:
    with urllib.request.urlopen(page, timeout=30) as response:
        return bytes(response.read())
