"""The baseline: a plain SQL ledger on the same Postgres server, driven by that Postgres' own `pgbench`."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aura_stream import SetupError
from aura_stream.bench.loads import BETWEEN, CUSTOMERS, HOT, ONE_HOP
from aura_stream.embedded.postgres import PostgresServer

DATABASE = "baseline"
CONNECTIONS = (8, 20)
THREADS = 2
_SQL = Path(__file__).with_name("baseline.sql")

# The same choices as in loads.py. One-hop: the two accounts of one customer, in either direction.
SCRIPTS = {
    ONE_HOP: f"""\\set customer random(1, {CUSTOMERS})
\\set swap random(0, 1)
\\set source :customer * 2 - :swap
\\set target :customer * 2 - 1 + :swap
SELECT transfer(:source, :target, 1);
""",
    BETWEEN: f"""\\set sender random(0, {CUSTOMERS - 1})
\\set further random(1, {CUSTOMERS - 1})
\\set source :sender + 1
\\set target (:sender + :further) % {CUSTOMERS} + 1
SELECT transfer(:source, :target, 1);
""",
    HOT: f"""\\set source random(2, {CUSTOMERS})
SELECT transfer(:source, 1, 1);
""",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pgbench."""

    connections: int
    transfers: int
    per_second: float
    latency_ms: float


class Baseline:
    """The other ledger, in a database of its own."""

    def __init__(self, postgres: PostgresServer, scripts_dir: Path) -> None:
        self._postgres = postgres
        self._dir = scripts_dir

    def prepare(self) -> None:
        """Makes the database, its tables, its function and 2,000 accounts."""
        self._postgres.execute(f"CREATE DATABASE {DATABASE}", "postgres")
        self._postgres.execute(_SQL.read_text(encoding="utf-8"), DATABASE)
        self._dir.mkdir(parents=True, exist_ok=True)
        for load, script in SCRIPTS.items():
            (self._dir / f"{load}.sql").write_text(script, encoding="utf-8")

    async def run(self, load: str, connections: int, seconds: float) -> Run:
        """Transfers for some seconds over some connections, each call prepared. Raises :class:`SetupError`."""
        target = urlsplit(self._postgres.dsn(database=DATABASE))
        arguments = [
            *("--host", str(target.hostname), "--port", str(target.port), "--username", str(target.username)),
            *("--no-vacuum", "--protocol", "prepared", "--file", str(self._dir / f"{load}.sql")),
            *("--client", str(connections), "--jobs", str(min(THREADS, connections))),
            *("--time", str(max(1, round(seconds))), DATABASE),
        ]
        process = await asyncio.create_subprocess_exec(
            str(self._postgres._program("pgbench")),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PGPASSWORD": unquote(target.password or "")},
        )
        try:
            output, _ = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        return parse(output.decode(errors="replace"), connections)

    def check(self) -> str:
        """What is wrong in its books; empty when nothing is."""
        wrong = self._postgres.execute(
            "SELECT (SELECT sum(amount) FROM entries) <> 0, (SELECT count(*) FROM entries) <> 2 * (SELECT count(*) "
            "FROM transfers), (SELECT sum(balance) FROM accounts) <> 2000 * 1000000000000::numeric",
            DATABASE,
        )
        return "" if wrong == "f|f|f" else f"sum, count or balances of the baseline are wrong: {wrong}"


def parse(output: str, connections: int) -> Run:
    """Reads pgbench's report. Raises :class:`SetupError` when a transfer failed or there is no report."""
    found = {
        name: re.search(pattern, output)
        for name, pattern in {
            "transfers": r"number of transactions actually processed: (\d+)",
            "failed": r"number of failed transactions: (\d+)",
            "latency": r"latency average = ([\d.]+) ms",
            "tps": r"tps = ([\d.]+) \(without initial connection time\)",
        }.items()
    }
    values = {name: float(match[1]) for name, match in found.items() if match}
    if len(values) < len(found) or values["failed"] or "aborted" in output:
        raise SetupError(
            "The baseline could not be measured.",
            where="pgbench",
            why=output.strip()[-2000:],
            fix="read the log of Postgres in the directory of the run (--keep)",
        )
    return Run(connections, int(values["transfers"]), values["tps"], values["latency"])
