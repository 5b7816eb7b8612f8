"""What must hold of the program's text: no attack is run here, the door for it is looked for."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from web.contract import load_contract

ROOT = Path(__file__).parents[2]
PACKAGES = ("aura_stream", "agents", "tables", "topics", "web")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _sources(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages or PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def _imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_sec35_sec55_the_linter_knows_the_rules_for_sql_pickle_shell_and_passwords() -> None:
    chosen = set(PROJECT["tool"]["ruff"]["lint"]["select"])
    assert chosen >= {"S102", "S105", "S106", "S301", "S307", "S506", "S602", "S608"}
    done = subprocess.run(
        [
            ROOT / ".venv/bin/ruff",
            "check",
            "--quiet",
            "--select",
            ",".join(sorted(chosen & {"S301", "S608", "S602"})),
            ".",
        ],
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0


def test_sec52_nothing_is_read_that_could_run() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
    for path, tree in _sources():
        assert not {name.partition(".")[0] for name in _imports(tree)} & forbidden, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml":
                assert node.attr in {"safe_load", "safe_dump", "YAMLError", "CSafeLoader", "SafeLoader", "load"}, path


def test_sec59_l12_secrets_are_compared_in_constant_time() -> None:
    telling = re.compile(r"secret|password|digest|hmac|signature|api_key|token_hash|secret_hash")
    harmless = re.compile(r"_sealed|_at$|_id$|fault|kind|reason|event")
    found = []
    for path, tree in _sources("aura_stream/identity", "aura_stream/webhooks", "web"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
                continue
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Constant) for side in sides):
                continue
            names = [one.attr if isinstance(one, ast.Attribute) else one.id for side in sides for one in _named(side)]
            if any(telling.search(name) and not harmless.search(name) for name in names):
                found.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    # A confirmation is compared with what the same person typed beside it: nobody learns anything from its time.
    assert [one for one in found if "password_confirmation" not in one] == []
    assert "compare_digest" in (ROOT / "aura_stream/identity/authentication.py").read_text()


def _named(node: ast.expr) -> list[ast.Name | ast.Attribute]:
    return [node] if isinstance(node, ast.Name | ast.Attribute) else []


_SECRETS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}\b"),
    re.compile(r"\bxox[abpr]-[A-Za-z0-9-]{10,}"),
    re.compile(r"\bsk_live_[A-Za-z0-9]{16,}"),
    re.compile(r"\bSG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"),
    re.compile(
        r"(?im)^\s*(?:AURA_)?(?:\w*_)?(?:SECRET|API_KEY|PASSWORD)\s*[=:]\s*['\"]?(?=[0-9A-Fa-f]{32,})[0-9A-Fa-f]{32,}"
    ),
)


def secrets_in(text: str) -> list[str]:
    """What looks like a secret."""
    return [match[0] for form in _SECRETS for match in form.finditer(text)]


@pytest.mark.parametrize(
    "planted",
    [
        "-----BEGIN RSA PRIVATE KEY-----",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a" * 36,
        "AURA_IDENTITY_SECRET=" + "0123456789abcdef" * 2,
        "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 30,
    ],
)
def test_sec45_l112_the_scan_finds_what_is_planted(planted: str) -> None:
    assert secrets_in(f"x\n{planted}\n")


def test_sec45_l112_no_secret_is_in_the_repository() -> None:
    found = {}
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        # Keys that tests make to attack with have no meaning elsewhere.
        if path.is_relative_to(ROOT / "tests"):
            continue
        if secrets := secrets_in(text):
            found[str(path.relative_to(ROOT))] = secrets
    assert found == {}


def test_sec54_every_package_is_locked_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"(?m)^(?=[a-z0-9])", lock)
    pinned = [entry for entry in entries if re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==", entry)]
    assert len(pinned) > 40
    assert [entry.partition(" ")[0] for entry in pinned if "--hash=sha256:" not in entry] == []
    assert "--require-hashes" in (ROOT / "Makefile").read_text()


def test_x58_l117_handlers_have_no_sql_and_services_no_http() -> None:
    statement = re.compile(r"\b(SELECT .* FROM|INSERT INTO|UPDATE \w+\.\w+ SET|DELETE FROM)\b", re.DOTALL)
    for path, tree in _sources("web"):
        assert "asyncpg" not in _imports(tree) - {"asyncpg"} or path.name == "openings.py", path
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not statement.search(node.value), f"{path}:{node.lineno}"
    for path, tree in _sources("aura_stream/identity", "aura_stream/ledger", "aura_stream/domain"):
        serving = {name for name in _imports(tree) if name.startswith(("aiohttp.web", "web."))}
        assert not serving, path
    for path, tree in _sources("aura_stream/identity"):
        if path.name == "repository.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not statement.search(node.value) or path.name in _OWN_SQL, f"{path}:{node.lineno}"


_OWN_SQL = {"feed.py", "database.py"}
"""What keeps the connection itself: settings of a transaction, and listening."""


def test_l117_policies_and_the_forms_of_requests_are_pure() -> None:
    io = {
        "asyncio",
        "asyncpg",
        "aiohttp",
        "aiokafka",
        "os",
        "socket",
        "subprocess",
        "time",
        "random",
        "secrets",
        "pathlib",
    }
    for name in ("aura_stream/identity/permissions.py", "web/aliases/shapes.py", "web/aliases/given.py"):
        tree = ast.parse((ROOT / name).read_text())
        assert not {one.partition(".")[0] for one in _imports(tree)} & io, name
        assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree)), name


def test_l111_no_route_sets_a_cookie_and_none_is_asked_for_one() -> None:
    for path, tree in _sources("web"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"set_cookie", "cookies"}, f"{path}:{node.lineno}"
    schemes = load_contract().document["components"]["securitySchemes"].values()
    assert {one["type"] for one in schemes} == {"http"}


def test_l102_guide_for_contributors_changelog_and_licence_are_there() -> None:
    assert "MIT License" in (ROOT / "LICENSE").read_text() and PROJECT["project"]["license"] == "MIT"
    assert "## [" in (ROOT / "CHANGELOG.md").read_text() or "## " in (ROOT / "CHANGELOG.md").read_text()
    assert "make check" in (ROOT / "CONTRIBUTING.md").read_text()


def test_l103_warnings_are_errors_and_the_suite_is_wide() -> None:
    assert PROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"
    functions = sum(
        node.name.startswith("test_")
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert functions > 800  # most of them run more than once, with parameters
    assert "make test" in (ROOT / ".ci/run").read_text()
