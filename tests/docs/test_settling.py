"""`aura up --profile settlement` as a reader starts it, and what the guide to banks and chain tells him to type."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_stream.embedded.processes import free_port, start_ticks
from aura_stream.settings import read_env_file
from tests.docs.pages import ROOT
from tests.docs.test_running import typed
from tests.reconcile.test_files import entry, statement

pytestmark = pytest.mark.timeout(240)


def aura(place: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, as one types it there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    return subprocess.run(
        [".venv/bin/aura", *arguments],
        cwd=place,
        env=clean | {"NO_COLOR": "1", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that looks like the repository, with nothing running but settlement."""
    found = tmp_path_factory.mktemp("settling")
    (found / ".venv").symlink_to(ROOT / ".venv")
    names = ("KAFKA", "POSTGRES", "API", "FAUST_WEB", "MOCK_BANK", "CHAIN")
    ports = {f"AURA_{name}_PORT": str(free_port()) for name in names}
    try:
        started = aura(found, "up", "--profile", "settlement", AURA_PARTITIONS="2", **ports)
        assert started.returncode == 0, started.stderr
        yield found
    finally:
        aura(found, "down")


@pytest.fixture(scope="module")
def printed(place: Path) -> str:
    """What the guide's commands print there."""
    return typed(place, "docs/guide/settlement.md")


@pytest.mark.row("A24", "A25", "A19")
def test_a24_a25_settlement_alone_does_what_its_guide_says(place: Path, printed: str) -> None:
    assert printed.count("✔ completed") >= 2, printed
    balance = aura(place, "account", "show", "mina:AEUR")
    assert balance.returncode == 0 and "7.500000" in balance.stdout, balance.stdout
    assert "broadcast" in printed and "bank:bank-b" in printed and "@reserve:AEUR:EUR" in printed
    books = aura(place, "trigger", "books", "--bank", "bank-b")
    assert books.returncode == 0, books.stdout
    checked = aura(place, "ledger", "verify")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.row("A24", "A17")
def test_a24_nothing_of_the_other_systems_runs_or_answers(place: Path) -> None:
    status = json.loads(aura(place, "status", "--json").stdout)
    names = {one["name"] for one in status["processes"]}
    assert status["ready"]
    assert names == {
        *("kafka", "postgres", "mock-bank", "anvil", "ledger-0", "sink-0", "events-0", "bank-0", "chain-0", "api"),
        "reconcile",
    }
    for path in ("/v1/transfers", "/v1/webhooks", "/v1/holds"):
        assert answer(place, path) == 404, path
    unsigned = ("-H", "Content-Type: application/json", "-d", "{}")
    assert answer(place, "/v1/bank-webhooks/bank-b", *unsigned) == 401
    assert answer(place, "/v1/lanes") == 200 and answer(place, "/v1/breaks") == 200


@pytest.mark.row("A13", "A17")
def test_a13_a_statement_at_hand_is_imported_and_what_nothing_explains_is_a_break_until_somebody_says_what_it_was(
    place: Path, printed: str, tmp_path: Path
) -> None:
    file = tmp_path / "day.xml"
    file.write_bytes(statement(entry("9.99"), closing="9.99"))
    imported = aura(place, "reconcile", "--statement", str(file), "--bank", "bank-c", "--json")
    assert imported.returncode == 1, imported.stderr
    report = json.loads(imported.stdout)
    (account,) = [one for one in report["accounts"] if one["bank"] == "bank-c"]
    assert (account["closing_balance"], account["explained"]["missing_in_ledger"]) == ("9.99", "9.99")
    # A file says nothing of the chain, and the report does all the same.
    supplies = {one["token"]: (one["supply"], one["unexplained"]) for one in report["tokens"]}
    assert supplies == {"AEUR": ("7.500000", "0.000000"), "AUSD": ("0.000000", "0.000000")}

    listed = aura(place, "reconcile", "breaks", "--json")
    (found,) = [one for one in json.loads(listed.stdout) if one["bank"] == "bank-c"]
    assert (listed.returncode, found["kind"], found["owner"], found["status"]) == (1, "missing_in_ledger", None, "open")
    assert aura(place, "reconcile", "assign", str(found["id"]), "ada").returncode == 0
    resolved = aura(place, "reconcile", "resolve", str(found["id"]), "--as", "explained", "--note", "a test's")
    shown = json.loads(resolved.stdout)
    assert (shown["owner"], shown["resolution"], shown["status"]) == ("ada", "explained", "resolved")
    again = aura(place, "reconcile")
    assert again.returncode == 0 and "0 open" in again.stdout, again.stdout + again.stderr


def answer(place: Path, path: str, *more: str) -> int:
    """The status of a request by the first operator, a GET unless curl is told otherwise."""
    env = read_env_file(place / ".aura" / "env")
    key = f"Authorization: Bearer {env['AURA_API_KEY']}"
    done = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", key, *more, env["AURA_API_URL"] + path],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return int(done.stdout)


def test_it_is_ended_by_down(place: Path) -> None:
    pids = [one["pid"] for one in json.loads(aura(place, "status", "--json").stdout)["processes"]]
    assert aura(place, "down").returncode == 0
    assert pids and all(start_ticks(pid) is None for pid in pids)
