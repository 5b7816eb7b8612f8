"""The command line: help, exit codes, errors without traceback, and a full up, status, down."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aura_stream.cli import COMMANDS, account, has_command, main, tx
from aura_stream.embedded.processes import free_port, start_ticks
from aura_stream.settings import read_env_file


class Aura:
    """Runs the command line as its user does, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
        self.env |= {"AURA_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "100"}

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aura_stream.cli", *arguments],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=100,
        )


@pytest.fixture
def aura(tmp_path: Path) -> Aura:
    return Aura(tmp_path / "home")


def test_help_lists_the_commands_quickly_and_without_importing_them(aura: Aura) -> None:
    before = os.times()
    result = aura("--help")
    after = os.times()  # CPU time: how long it takes by the clock is a matter of who else is at work
    assert after.children_user + after.children_system - before.children_user - before.children_system < 3
    assert result.returncode == 0 and "\033" not in result.stdout
    for name in filter(has_command, COMMANDS):
        assert f" {name} " in result.stdout
    code = "import sys, contextlib, aura_stream.cli as c\nwith contextlib.suppress(SystemExit): c.main(['--help'])\n"
    code += "assert not {'faust', 'aiokafka', 'asyncpg', 'aura_stream.cli.services'} & set(sys.modules), 'imported'"
    assert subprocess.run([sys.executable, "-c", code], env=aura.env, capture_output=True).returncode == 0


@pytest.mark.parametrize("name", ["up", "down", "status", "doctor"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f" {name} " in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "code"), [
    (["--version"], 0),
    (["no-such-command"], 2),
    (["status", "--no-such-option"], 2),
    (["status"], 1),
])  # fmt: skip
def test_exit_codes(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code


def test_an_expected_error_has_no_traceback_and_leaves_stdout_empty(aura: Aura) -> None:
    bad = aura("status", AURA_PARTITIONS="many")
    assert bad.returncode == 2
    assert "AURA_PARTITIONS in the environment" in bad.stderr and "Traceback" not in bad.stderr
    assert bad.stdout == ""


def test_a_command_that_kafka_does_not_take_is_one_error_with_the_key_to_repeat_it(aura: Aura) -> None:
    arguments = ("account.open", "-c", "alice", "-d", '{"asset": "EUR"}', "--key", "mine")
    for wait in ((), ("--wait", "1")):
        failed = aura("send", *arguments, *wait, AURA_KAFKA_PORT=str(free_port()))
        assert failed.returncode == 3
        assert failed.stderr.startswith("error: ") and len(failed.stderr.splitlines()) == 4, failed.stderr
        assert "send again with --key mine" in failed.stderr


@pytest.mark.parametrize("arguments", [("topics", "apply"), ("worker", "ledger"), ("ledger", "verify")])
def test_a_service_that_is_away_is_one_error_with_what_to_do(arguments: tuple[str, ...], aura: Aura) -> None:
    away = {f"AURA_{name}_PORT": str(free_port()) for name in ("KAFKA", "POSTGRES")}
    failed = aura(*arguments, **away)
    assert failed.returncode == 3 and failed.stdout == ""
    what, *rest = failed.stderr.splitlines()
    assert what.startswith("error: ") and [line.split(":")[0].strip() for line in rest] == ["where", "why", "fix"]
    assert "aura up" in rest[-1]


@pytest.mark.parametrize("width", [80, 120])
def test_no_table_cuts_off_an_id(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    transaction_id = "aec54451-49df-57b5-ab08-8d24ffda18ad"
    at = {"posted_at": "2026-11-21T06:57:38.385Z", "occurred_at": "2026-11-21T06:57:38.385Z"}
    entry = {"layer": "available", "amount": "-12.50", "direction": "credit", "transaction_id": transaction_id}
    event = {"seq": 1, "type": "transfer.failed", "status": "failed", "state": "refused"}
    tried: dict[str, Any] = {"lane": "chain:local:AUSD", "reference": "0x" + transaction_id[:32] * 2, "number": 1}
    tried |= {"kind": "broadcast", "step": "mint", "started_at": at["posted_at"], "ended_at": None, "took_ms": 0}
    tried |= {"answer": "lost", "code": None, "http_status": 503, "detail": "no answer", "breaker": "half_open"}
    tables = account._table([{**entry, **at, "kind": "transfer.received"}], False), tx._events([event | at])
    for found in (*tables, tx._attempts([tried])):
        Console(width=width).print(found)
    shown = capsys.readouterr().out
    assert transaction_id in shown and "…" not in shown and tried["reference"] in shown
    assert max(map(len, shown.splitlines())) <= width


def test_wipe_is_refused_in_live_mode(aura: Aura) -> None:
    result = aura(
        "down", "--wipe", AURA_MODE="live", AURA_API_KEY=os.urandom(16).hex(), AURA_IDENTITY_SECRET=os.urandom(32).hex()
    )
    assert result.returncode == 2
    assert "not wiped" in result.stderr


def test_doctor_says_what_it_could_not_check(aura: Aura) -> None:
    ports = {f"AURA_{name}_PORT": str(free_port()) for name in ("KAFKA", "POSTGRES", "API")}
    result = aura("doctor", "--json", **ports)
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    for name in ("kafka", "postgres", "api"):
        assert f"127.0.0.1:{ports[f'AURA_{name.upper()}_PORT']}" in checks[name]["detail"]
    assert checks["kafka"]["state"] == checks["postgres"]["state"] == checks["api"]["state"] == "unknown"
    assert checks["kafka"]["fix"] == "aura up"
    assert checks["python"]["state"] == checks["java runtime"]["state"] == checks["postgres program"]["state"] == "ok"
    assert result.returncode == 3
    assert aura("doctor", **ports).stdout == ""


def test_a_used_port_stops_up_with_its_owner(aura: Aura) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = aura("up", AURA_KAFKA_PORT=str(port))
    assert result.returncode == 3
    assert f"port {port} is in use" in result.stderr and f"process {os.getpid()} " in result.stderr
    assert "AURA_KAFKA_PORT=" in result.stderr and "Traceback" not in result.stderr
    aura("down")


@pytest.mark.parametrize(("command", "setting"), [("api", "AURA_API_PORT"), ("mock-bank", "AURA_MOCK_BANK_PORT")])
def test_a_server_whose_port_is_used_names_the_owner(command: str, setting: str, aura: Aura) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = aura(command, **{setting: str(listener.getsockname()[1])})
    assert result.returncode == 3
    assert f"process {os.getpid()} listens there" in result.stderr and f"{setting}=" in result.stderr
    assert "Traceback" not in result.stderr


def test_services_up_twice_status_down_and_wipe(aura: Aura) -> None:
    """Only the services: the roles have their own end-to-end tests."""
    names = ("KAFKA", "POSTGRES", "API", "MOCK_BANK", "CHAIN")
    ports = {f"AURA_{name}_PORT": str(free_port()) for name in names}
    only_services = (
        "import sys, aura_stream.cli as c, aura_stream.cli.services as s\n"
        "s.has_command = lambda name: False\n"
        "c.main(sys.argv[1:])\n"
    )

    def up(**env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", only_services, "up"],
            env={**aura.env, **env},
            capture_output=True,
            text=True,
            timeout=100,
        )

    try:
        first = up(**ports)
        assert first.returncode == 0, first.stderr
        env_file = aura.home / "env"
        assert env_file.stat().st_mode & 0o777 == 0o600
        values = read_env_file(env_file)
        wanted = {"KAFKA_BOOTSTRAP", "POSTGRES_DSN", "POSTGRES_WRITE_DSN", "POSTGRES_READ_DSN", "API_URL", "API_KEY"}
        assert {f"AURA_{name}" for name in wanted | {"PARTITIONS"}} <= set(values)
        assert values["AURA_KAFKA_BOOTSTRAP"] == f"127.0.0.1:{ports['AURA_KAFKA_PORT']}"

        # Again, in a shell that has read the env file: still ours, already running.
        second = up(**values)
        assert second.returncode == 0 and second.stderr.count("already running") == 2, second.stderr

        moved = up(AURA_POSTGRES_PORT=str(free_port()))
        assert (
            moved.returncode == 3 and f"started with AURA_POSTGRES_PORT={ports['AURA_POSTGRES_PORT']}" in moved.stderr
        )
        assert read_env_file(env_file) == values

        status = aura("status", "--json")
        report = json.loads(status.stdout)
        assert status.returncode == 0 and report["ready"]
        pids = {row["name"]: row["pid"] for row in report["processes"]}
        assert set(pids) == {"kafka", "postgres", "mock-bank", "anvil"}

        down = aura("down")
        assert down.returncode == 0, down.stderr
        assert all(start_ticks(pid) is None for pid in pids.values())
        assert not env_file.exists() and (aura.home / "postgres" / "data").exists()
        again = aura("down", "--wipe")
        assert "Nothing was running" in again.stderr
        assert {path.name for path in aura.home.iterdir()} <= {"up.lock"}
    finally:
        aura("down")
