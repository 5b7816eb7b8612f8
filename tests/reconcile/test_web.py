"""`/v1/reserves` and `/v1/breaks`: who may see and resolve, and that it is written down."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aura_stream.embedded.local import LocalStack
from aura_stream.embedded.processes import free_port
from aura_stream.reconcile.run import Wanted, reconcile
from aura_stream.settings import load_settings
from tests.identity.conftest import (  # noqa: F401 - fixtures
    OPERATOR,
    Node,
    StartNode,
    node,
    owner,
    register,
    staff,
    start_node,
)
from tests.mock_bank.conftest import Client
from tests.reconcile.test_files import entry, statement
from tests.web.conftest import (
    Backend,
    backend,  # noqa: F401 - a fixture
)

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]


@pytest.fixture
async def a_break(backend: Backend) -> int:  # noqa: F811 - the fixture
    """A line that nobody has booked, at a bank of its own."""
    file = statement(entry("1.00"), closing="1.00")
    wanted = Wanted(files=[(f"b-{uuid.uuid4().hex[:8]}", "trust", file)])
    outcome = await reconcile(backend.settings.postgres_dsn, wanted)
    ((break_id, found),) = outcome.opened
    assert found.kind == "missing_in_ledger"
    return break_id


async def test_a_break_is_assigned_and_resolved_once_by_an_operator_and_audited(
    node: Node,  # noqa: F811 - the fixture
    a_break: int,
    owner: Owner,  # noqa: F811 - the fixture
) -> None:
    ada = await staff(node, "operator")
    path = f"/v1/breaks/{a_break}"
    status, found, _ = await node.call("GET", path, token=ada.access)
    assert (status, found["status"], found["kind"], found["amount"]) == (200, "open", "missing_in_ledger", "1.00")
    assert found["age_s"] >= 0 and [one["action"] for one in found["history"]] == ["opened"]

    status, found, _ = await node.call("POST", f"{path}/assign", {"owner": "ada"}, token=ada.access)
    assert (status, found["owner"], found["status"]) == (200, "ada", "open")
    _, listed, _ = await node.call("GET", "/v1/breaks?status=open&owner=ada", token=ada.access)
    assert a_break in [one["id"] for one in listed["items"]]

    body, key = {"resolution": "explained", "note": "a test payment of the bank"}, str(uuid.uuid4())
    assert await node.code("POST", f"{path}/resolve", {"resolution": "explained"}, token=ada.access) == (
        *(400, "missing_fields"),
    )
    status, found, _ = await node.call("POST", f"{path}/resolve", body, token=ada.access, key=key)
    assert (status, found["status"], found["resolution"], found["note"]) == (200, "resolved", "explained", body["note"])
    assert found["resolved_by"] == f"user:{ada.id}" and found["resolved_at"] is not None
    again, repeated, headers = await node.call("POST", f"{path}/resolve", body, token=ada.access, key=key)
    assert (again, repeated, headers["Idempotent-Replayed"]) == (200, found, "true")
    assert await node.code("POST", f"{path}/resolve", body, token=ada.access) == (409, "already_processed")
    assert await node.code("POST", f"{path}/assign", {"owner": "x"}, token=ada.access) == (409, "already_processed")

    noted = await owner.fetch(
        "SELECT action FROM identity.audit_log WHERE actor = $1 AND subject = $2 AND outcome = 'ok' ORDER BY seq",
        *(f"user:{ada.id}", str(a_break)),
    )
    assert [row["action"] for row in noted] == ["break.assign", "break.resolve"]


async def test_l90_reserves_and_breaks_are_for_operators_and_auditors(
    node: Node,  # noqa: F811 - the fixture
    a_break: int,
) -> None:
    body = {"resolution": "explained", "note": "mine"}
    paths = ("/v1/reserves", "/v1/breaks", f"/v1/breaks/{a_break}")
    people = [await register(node), await staff(node, "support"), await staff(node, "admin")]
    for person in people:
        for path in paths:
            assert (await node.code("GET", path, token=person.access))[0] == 403
    auditor = await staff(node, "auditor")
    for path in paths:
        assert (await node.code("GET", path, token=auditor.access))[0] == 200
    for person in (*people, auditor):
        for action, what in (("assign", {"owner": "me"}), ("resolve", body)):
            path = f"/v1/breaks/{a_break}/{action}"
            assert (await node.code("POST", path, what, token=person.access))[0] == 403
    assert await node.code("GET", "/v1/breaks/9007199254740991", token=auditor.access) == (404, "break_not_found")


async def test_reserves_are_the_newest_report(
    node: Node,  # noqa: F811 - the fixture
    a_break: int,
    backend: Backend,  # noqa: F811 - the fixture
) -> None:
    outcome = await reconcile(backend.settings.postgres_dsn, Wanted())

    status, shown, _ = await node.call("GET", "/v1/reserves", token=OPERATOR)

    ages = [one.pop("age_s") for one in (shown, *shown["accounts"])]
    assert (status, shown) == (200, outcome.report)
    assert 0 <= ages[0] < 60
    ended = [datetime.fromisoformat(f"{one['day']}T00:00:00Z") + timedelta(days=1) for one in shown["accounts"]]
    now = datetime.now(UTC)
    assert ended and all(abs((now - end).total_seconds() - age) < 60 for end, age in zip(ended, ages[1:], strict=True))
    assert {one["token"] for one in shown["tokens"]} == {"AUSD", "AEUR"} and shown["open_breaks"] >= 1


async def test_breaks_come_in_pages_the_oldest_first(
    node: Node,  # noqa: F811 - the fixture
    backend: Backend,  # noqa: F811 - the fixture
) -> None:
    bank = f"b-{uuid.uuid4().hex[:8]}"
    file = statement(*(entry("1.00") for _ in range(5)), closing="5.00")
    outcome = await reconcile(backend.settings.postgres_dsn, Wanted(files=[(bank, "trust", file)]))
    found: list[dict[str, Any]] = []
    query = ""
    while True:
        _, page, _ = await node.call("GET", f"/v1/breaks?bank={bank}&limit=2{query}", token=OPERATOR)
        found += page["items"]
        if not page["has_more"]:
            break
        query = f"&cursor={page['next_cursor']}"
    assert [one["id"] for one in found] == sorted(break_id for break_id, _ in outcome.opened) and len(found) == 5


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    settings = load_settings(home=tmp_path / "home", mock_bank_port=free_port())
    stack = LocalStack(settings, external=frozenset({"kafka", "postgres"}), tied=True)
    yield stack
    stack.roles.stop(5)


async def aura(*arguments: str, **env: str) -> tuple[int, str, str]:
    """The command line as a process: its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aura_stream.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1", **env},
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return int(process.returncode or 0), out.decode(), err.decode()


async def test_a13_a17_the_command_line_watches_a_real_bank_and_an_operator_resolves(
    stack: LocalStack,
    start_node: StartNode,  # noqa: F811 - the fixture
    backend: Backend,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    stack.start_mock_bank("--clock", "manual", "--start", "2026-11-20T09:00:00-05:00")
    credentials = json.loads((stack.home / "mock-bank" / "credentials.json").read_text())
    one_node = await start_node()
    env = {"AURA_HOME": str(stack.home), "AURA_POSTGRES_DSN": backend.settings.postgres_dsn}
    url = str(one_node.client.make_url("/")).rstrip("/")
    env |= {"AURA_API_URL": url, "AURA_API_KEY": OPERATOR}
    port = free_port()
    async with aiohttp.ClientSession() as session:
        bank = await Client(session, credentials, "bank-b").login()
        watching = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aura_stream.cli", "reconcile", "--watch", "--every", "0.2"),
            *("--bank", "bank-b", "--since", "2026-11-20", "--metrics-port", str(port)),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NO_COLOR": "1", **env},
        )
        assert watching.stderr is not None
        try:
            await bank.fund("12.34", reference="nobody-knows-this")
            await bank.pass_time(days=2)
            line = ""
            async with asyncio.timeout(60):
                while "missing_in_ledger" not in (line := (await watching.stderr.readline()).decode()):
                    assert line
            metrics = ""
            async with asyncio.timeout(30):  # the run that has found it ends a moment later
                count = 'aura_reconcile_open_breaks{kind="missing_in_ledger"}'
                while count not in metrics or f"{count} 0.0" in metrics:
                    async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                        metrics = await answer.text()
                    await asyncio.sleep(0.1)
            samples = [one for family in text_string_to_metric_families(metrics) for one in family.samples]
            reserve = [one for one in samples if one.name == "aura_reserve_amount"]
            parts = {one.labels["part"]: one.value for one in reserve if one.labels["currency"] == "EUR"}
            owed = sum(parts[name] for name in ("reserve", "customers", "outgoing", "suspense"))
            assert parts["surplus"] == pytest.approx(parts["trust"] + parts["open_returns"] - owed)
            assert {"aura_reserve_amount", "aura_reconcile_seen", "aura_reconcile_settlements"} < {
                one.name for one in samples
            }
            assert {"requires_attention", "parked"} < {one.labels.get("waiting") for one in samples}
        finally:
            watching.terminate()
            await watching.communicate()
    break_id = line.split(":")[0].split()[-1]

    code, out, _ = await aura("reconcile", "breaks", "--json", **env)
    (found,) = [one for one in json.loads(out) if str(one["id"]) == break_id]
    assert (code, found["amount"], found["reference"], found["owner"]) == (1, "12.34", "nobody-knows-this", None)
    assert (await aura("reconcile", "assign", break_id, "ada", **env))[0] == 0
    code, out, _ = await aura("reconcile", "resolve", break_id, "--note", "a test", "--as", "written_off", **env)
    assert (code, json.loads(out)["resolution"]) == (0, "written_off")
    code, out, _ = await aura("reconcile", "show", break_id, **env)
    assert (code, [one["action"] for one in json.loads(out)["history"]]) == (0, ["opened", "assigned", "resolved"])
    code, _, err = await aura("reconcile", "resolve", break_id, "--note", "again", **env)
    assert (code == 1 and "Already" in err) or "already" in err

    # The same line again, from a file: no other break; a file that is none is one.
    bad = tmp_path / "bad.xml"
    bad.write_text("<x/>")
    code, out, _ = await aura("reconcile", "--statement", str(bad), "--bank", "bank-b", **env)
    assert code == 1 and "statement_unreadable" in out
    code, _, err = await aura("reconcile", "--statement", str(bad), **env)
    assert code == 2 and "--bank" in err
    code, _, err = await aura("reconcile", **env | {"AURA_HOME": str(tmp_path / "empty")})
    assert code == 3 and "aura mock-bank" in err


async def test_metrics_tell_of_breaks_runs_statements_and_reserves(
    node: Node,  # noqa: F811 - the fixture
    a_break: int,
) -> None:
    lines = (await node.services.metrics.text()).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")
    text = {name: float(value) for name, value in pairs}

    assert text["aura_reconcile_seen"] == 1
    assert text['aura_reconcile_open_breaks{kind="missing_in_ledger"}'] >= 1
    assert text['aura_reconcile_open_breaks{kind="custody_differs"}'] == 0
    assert text['aura_reconcile_oldest_break_age_seconds{kind="missing_in_ledger"}'] > 0
    assert 0 <= text["aura_reconcile_last_run_age_seconds"] < 600
    assert any(name.startswith("aura_reconcile_statement_age_seconds{account=") for name in text)
    assert 'aura_reserve_coverage_ratio{currency="EUR"}' in text
    assert text["aura_reconcile_problems"] == 0
    # No amount of what is held or owed: whoever reads metrics has no login.
    assert not [name for name in text if "trust" in name.partition("{")[0] or "surplus" in name]


async def test_lanes_are_read_by_operators_and_auditors_and_released_by_operators_where_they_are_stopped(
    node: Node,  # noqa: F811 - the fixture
    owner: Owner,  # noqa: F811 - the fixture
) -> None:
    operator, auditor, user = await staff(node, "operator"), await staff(node, "auditor"), await register(node)
    name, figures = f"chain:t{uuid.uuid4().hex[:8]}:AUSD", '{"next_nonce": 7, "seen_nonce": 9, "mintable": 1500000}'
    await owner.execute(
        """INSERT INTO settlement.lanes (lane, breaker, failures, stopped, changed_at, held_back, figures)
        VALUES ($1, 'closed', 0, 'foreign_nonce', now(), '', $2), ($3, 'open', 5, '', now(), '', '{}')""",
        *(name, figures, bank := f"bank:b-{uuid.uuid4().hex[:8]}"),
    )

    for one in (operator, auditor):
        status, shown, _ = await node.call("GET", f"/v1/lanes/{name}", token=one.access)
        assert (status, shown["stopped"], shown["releases"]) == (200, "foreign_nonce", [])
        assert "somebody else has the key" in shown["why"] and shown["release"]
        assert shown["figures"] == {"next_nonce": "7", "seen_nonce": "9", "mintable": "1.500000"}
        _, listed, _ = await node.call("GET", "/v1/lanes", token=one.access)
        assert {name, bank} <= {lane["lane"] for lane in listed["items"]}
    assert (await node.call("GET", "/v1/lanes", token=user.access))[0] == 403

    body = {"stopped": "another_chain", "note": "a guess"}
    for one, lane, answer in (
        (auditor, name, 403),
        (user, name, 403),
        (operator, name, 409),  # it is stopped for something else
        (operator, bank, 409),
        (operator, "chain:nowhere:AUSD", 404),
    ):
        assert (await node.call("POST", f"/v1/lanes/{lane}/release", body, token=one.access))[0] == answer, lane
