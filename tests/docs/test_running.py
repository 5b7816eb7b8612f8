"""What the pages tell a reader to type is typed here, against the real product."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aura_stream.embedded.local import ROLE_TIMEOUT_S, LocalStack
from aura_stream.embedded.processes import free_port
from aura_stream.ledger.connection import READER, connect
from aura_stream.settings import load_settings
from tests.docs.pages import ROOT, to_run

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="the pages use bash and curl"),
]


@dataclass(frozen=True)
class Reader:
    """Someone who has cloned the repository, started the product in it, and types what a page says."""

    place: Path
    stack: LocalStack

    def types(self, page: str) -> str:
        """What the page's blocks print."""
        return typed(self.place, page)


def typed(place: Path, page: str) -> str:
    """Runs a page's blocks as one script and returns what it prints. Fails when a command of it fails."""
    script = "set -euo pipefail\n" + "\n".join(to_run(page, "sh"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        env=clean | {"NO_COLOR": "1", "COLUMNS": "160"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{page}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The product in `.aura` of a directory that looks like the repository."""
    place = tmp_path_factory.mktemp("reader")
    for name in (".venv", "examples"):
        (place / name).symlink_to(ROOT / name)
    ports = {
        f"{service}_port": free_port() for service in ("kafka", "postgres", "api", "faust_web", "mock_bank", "chain")
    }
    stack = LocalStack(load_settings(home=place / ".aura", partitions=2, **ports), tied=True)
    try:
        stack.kafka.launch()
        stack.postgres.start()
        stack.write_env_file()
        stack.run_once("db", "migrate")
        stack.kafka.wait_ready()
        stack.run_once("topics", "apply")
        stack.start_settlement()
        roles = ("ledger", "sink", "events", "webhooks", "bank", "chain", "api")
        for process in [stack.launch_role(role) for role in roles]:
            process.wait_ready(ROLE_TIMEOUT_S)
        yield Reader(place, stack)
    finally:
        stack.stop()
        for process in stack.known_processes():
            process.stop()  # a page's `aura up` has started what was not there


def test_the_readme_moves_money_with_curl_and_with_a_plain_kafka_client(reader: Reader) -> None:
    printed = reader.types("README.md")

    assert "Ready in" in printed
    assert '"posted":"12.50","available":"12.50"' in printed
    assert "transfer.completed" in printed
    assert "BAD" not in printed
    assert printed.count("good  ") >= 20


def test_the_http_guide_works(reader: Reader) -> None:
    printed = reader.types("docs/guide/http.md")

    assert "idempotent-replayed: true" in printed.lower()
    assert '"code":"insufficient_funds"' in printed
    assert '"status":"accepted"' in printed


def test_the_identity_guide_works(reader: Reader) -> None:
    printed = reader.types("docs/guide/identity.md")

    assert '"posted":"10000.00","available":"10000.00"' in printed
    assert '"code":"token_revoked"' in printed
    assert '"roles":["admin"]' in printed


def test_the_events_guide_works(reader: Reader) -> None:
    printed = reader.types("docs/guide/events.md")

    assert '"type":"deposit.credited"' in printed and '"type":"account.opened"' in printed
    assert "\nid: " in printed and "\ndata: {" in printed


async def test_the_queries_of_the_sql_guide_work(reader: Reader) -> None:
    queries = to_run("docs/guide/sql.md", "sql")
    assert len(queries) >= 8
    connection = await connect(reader.stack.postgres.dsn("aura_read"), READER)
    try:
        for query in queries:
            await connection.fetch(query)
    finally:
        await connection.close()


def test_the_kafka_guide_works(reader: Reader) -> None:
    printed = reader.types("docs/guide/kafka-door.md")

    assert "completed" in printed


def test_the_runbook_works(reader: Reader) -> None:
    printed = reader.types("docs/operating/runbook.md")

    assert "sink-0" in printed
