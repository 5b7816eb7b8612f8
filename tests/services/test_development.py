"""What developers run: one step from nothing, migrations there and back, routes, suites by one command each, CI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
import yaml

from aura_stream.cli import main
from aura_stream.embedded.processes import free_port
from aura_stream.ledger import migrations
from aura_stream.settings import read_env_file
from tests.services.test_cli import Aura, aura  # noqa: F401 - a fixture
from web.contract import load_contract

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
CI = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())


def recipe(target: str) -> str:
    """What `make target` would run."""
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", ".venv/.installed", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_l100_one_step_from_nothing_wipes_starts_migrates_and_seeds(aura: Aura) -> None:  # noqa: F811 - the fixture
    ports = {f"AURA_{name}_PORT": str(free_port()) for name in ("KAFKA", "POSTGRES", "API", "METRICS")}
    environment = ports | {"AURA_SETTLEMENT": "false", "AURA_PARTITIONS": "2"}

    def call(method: str, path: str, body: object = None) -> dict[str, object]:
        code = (
            "import json, sys, urllib.request\n"
            "url, method, body = sys.argv[1:]\n"
            "request = urllib.request.Request(url, body.encode() or None, method=method,"
            " headers={'Content-Type': 'application/json'})\n"
            "print(urllib.request.urlopen(request).read().decode())"
        )
        text = "" if body is None else json.dumps(body)
        url = f"http://127.0.0.1:{ports['AURA_API_PORT']}{path}"
        done = subprocess.run([sys.executable, "-c", code, url, method, text], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    # What was there before: a database that is none any more, and local stores of another ledger.
    for left in ("postgres/data/PG_VERSION", "kafka/data/meta.properties", "state/ledger-0/aura-ledger-0/CURRENT"):
        (aura.home / left).parent.mkdir(parents=True)
        (aura.home / left).write_text("from before\n")
    assert aura("up", **environment).returncode != 0
    try:
        done = aura("reset", "--yes", **environment)
        assert done.returncode == 0, done.stderr
        login = {"email": "alice@example.com", "password": "password123!"}
        assert call("POST", "/v1/auth/login", login)["token_type"] == "Bearer"
        made = {"email": "new@example.com", "password": "a long enough password"}
        assert call("POST", "/v1/auth/register", made)["email"] == made["email"]
        assert read_env_file(aura.home / "env")["AURA_API_PORT"] == ports["AURA_API_PORT"]
    finally:
        aura("down", "--wipe", **environment)

    live = {"AURA_MODE": "live", "AURA_API_KEY": os.urandom(16).hex(), "AURA_IDENTITY_SECRET": os.urandom(32).hex()}
    refused = aura("reset", "--yes", **live)
    assert refused.returncode == 2 and "not reset" in refused.stderr
    assert [word in recipe(word) for word in ("reset", "migrate", "rollback")] == [True] * 3


async def test_l100_l116_a_new_migration_goes_there_and_back(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(migrations.MIGRATIONS, folder)
    before = sorted(path.stem for path in folder.glob("*.sql"))
    path = migrations.new_migration("Notes on transfers!", folder)
    assert path.stem == f"{int(before[-1][:4]) + 1:04d}_notes_on_transfers"
    assert f"-- depends: {before[-1]}\n" in path.read_text()
    there, back = "CREATE TABLE ledger.notes (note text);", "DROP TABLE ledger.notes;"
    begin, _, end = path.read_text().partition("-- migrate: rollback")
    with_table = begin.replace("aura_owner;\n", f"aura_owner;\n{there}\n") + "-- migrate: rollback"
    path.write_text(with_table + end.replace("aura_owner;\n", f"aura_owner;\n{back}\n"))
    monkeypatch.setattr(migrations, "MIGRATIONS", folder)

    async def has_notes() -> bool:
        connection = await asyncpg.connect(database)
        try:
            found: bool = await connection.fetchval("SELECT to_regclass('ledger.notes') IS NOT NULL")
            return found
        finally:
            await connection.close()

    assert (await migrations.migrate(database))[-1] == path.stem and await has_notes()
    assert await migrations.rollback(database) == path.stem and not await has_notes()
    assert [one.name for one in await migrations.status(database) if not one.applied] == [path.stem]
    assert await migrations.migrate(database) == [path.stem] and await has_notes()


def test_l100_what_would_lose_something_is_not_taken_back(aura: Aura, database: str) -> None:  # noqa: F811 - the fixture
    assert aura("db", "migrate", "--dsn", database).returncode == 0
    for _ in range(30):  # what can be taken back, the newest first
        refused = aura("db", "rollback", "--yes", "--dsn", database)
        if refused.returncode:
            break
    assert refused.returncode == 3 and "cannot be taken back" in refused.stderr
    assert "mend it by a new migration" in refused.stderr
    assert aura("db", "migrate", "--dsn", database).returncode == 0
    assert aura("db", "status", "--dsn", database).returncode == 0
    nothing = aura("db", "new", "???")
    assert nothing.returncode == 2 and "no letter or digit" in nothing.stderr


def test_l116_the_routes_are_listed_with_their_permissions(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["routes", *arguments])
        assert caught.value.code in (0, None)
        return capsys.readouterr().out

    assert {(one["method"], one["path"]) for one in json.loads(said("--json"))} == {
        (one.method, one.path) for one in load_contract().operations.values()
    }
    shown = said("pauses")
    assert "/v1/pauses/{pause_id}/lift" in shown and "operations.check" in shown and "/v1/transfers" not in shown
    assert "= setPause" in shown


def test_l116_developers_have_a_command_for_each_step() -> None:
    for target, words in {
        "format": ["ruff format", "ruff check --fix"],
        "check": ["ruff format --check", "ruff check", "mypy", "lint-imports"],
        "routes": ["aura routes"],
        "migration": ["aura db new"],
        "audit": ["pip-audit", "--strict", "--require-hashes"],
        "coverage": ["--cov"],
    }.items():
        found = recipe(target)
        assert [word for word in words if word not in found] == [], target
        assert re.search(rf"(?m)^{target}:.*## \w", MAKEFILE), target


def _collected(mark: str, *paths: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", mark, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "AURA"))},
    )
    return {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}


def test_x74_x64_unit_and_integration_tests_are_one_command_each() -> None:
    assert '-m "not integration and not long"' in recipe("unit")
    assert '-m "integration and not long"' in recipe("integration")
    suites = {
        "tests/identity/test_tokens.py": "JWT",
        "tests/identity/test_permissions.py": "who may what",
        "tests/identity/test_logins.py": "auth",
        "tests/identity/test_admin.py": "admin",
        "tests/identity/test_privacy.py": "privacy",
        "tests/identity/test_tenancy.py": "tenant isolation",
        "tests/domain/test_transfers.py": "wallets",
    }
    assert [path for path in suites if not (ROOT / path).exists()] == []
    unit = _collected("not integration", *suites)
    assert {"tests/domain/test_transfers.py", "tests/identity/test_permissions.py"} <= unit
    assert "tests/identity/test_privacy.py" not in unit


def _steps(job: str) -> str:
    return "\n".join(str(step.get("run", step.get("uses", ""))) for step in CI["jobs"][job]["steps"])


def test_l113_ci_checks_migrates_an_old_postgres_tests_and_builds_the_image() -> None:
    postgres = CI["jobs"]["postgres-16"]
    assert postgres["services"]["postgres"]["image"] == "postgres:16"
    assert _steps("postgres-16").index("make migrate") < _steps("postgres-16").index("make integration")
    assert "make check" in _steps("check") and "make audit" in _steps("check")
    assert ".ci/run" in _steps("suite") and "docker build" in _steps("image")
    for job in ("check", "postgres-16", "suite"):
        setup = next(step for step in CI["jobs"][job]["steps"] if "setup-python" in step.get("uses", ""))
        assert (setup["with"]["cache"], setup["with"]["cache-dependency-path"]) == ("pip", "requirements.lock")
    targets = set(re.findall(r"make ([a-z]+)", "\n".join(map(_steps, CI["jobs"]))))
    assert targets <= set(re.findall(r"(?m)^([a-z]+):", MAKEFILE))
    # Nothing of a run is a person's secret, and nothing is written anywhere.
    assert CI["permissions"] == {"contents": "read"} and "secrets." not in json.dumps(CI)
