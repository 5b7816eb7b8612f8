"""The audit log: every admin's action is in it, and a command proves that nobody changed it."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from aura_stream.settings import Settings
from tests.identity.conftest import OPERATOR, PASSWORD, Node, address, register
from tests.web.conftest import Backend

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]


def _aura(settings: Settings, *arguments: str) -> tuple[int, str]:
    env = {"AURA_POSTGRES_DSN": settings.postgres_dsn, "AURA_HOME": str(settings.home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-m", "aura_stream.cli", "audit", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=env,
    )
    return done.returncode, done.stdout


def _verified(settings: Settings, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out = _aura(settings, "verify", "--json", *arguments)
    return code, {one["tenant"]: one for one in json.loads(out)}


async def _tenant(node: Node) -> str:
    """A tenant with some rows of its own in the audit log."""
    tenant = f"t{uuid.uuid4().hex[:8]}"
    assert (await node.call("POST", "/v1/tenants", {"id": tenant}, token=OPERATOR))[0] == 201
    for role in ("user", "support", "admin"):
        body = {"email": address(), "password": PASSWORD, "roles": [role]}
        status, _, _ = await node.call("POST", "/v1/users/admin", body, token=OPERATOR, Aura_Tenant=tenant)
        assert status == 201
    await node.services.identity.audit.written()
    return tenant


async def _as_owner(owner: Owner, sql: str, *values: Any) -> None:
    """What somebody with the whole database in hand can do."""
    async with owner.transaction():
        await owner.execute("ALTER TABLE identity.audit_log DISABLE TRIGGER ALL")
        await owner.execute(sql, *values)
        await owner.execute(
            "ALTER TABLE identity.audit_log ENABLE ALWAYS TRIGGER immutable, ENABLE ALWAYS TRIGGER immutable_whole"
        )


@pytest.mark.parametrize(
    ("how", "sql", "broken_at"),
    [
        ("altered", "UPDATE identity.audit_log SET actor = 'somebody' WHERE tenant_id = $1 AND seq = 2", 2),
        ("deleted", "DELETE FROM identity.audit_log WHERE tenant_id = $1 AND seq = 2", 2),
        ("reordered", "UPDATE identity.audit_log SET seq = seq + 1000 WHERE tenant_id = $1 AND seq = 1", 1),
        (
            "inserted",
            """INSERT INTO identity.audit_log SELECT tenant_id, seq + 1, at, actor, action, outcome, reason, subject,
            request_id, address_sealed, hash, hash FROM identity.audit_log WHERE tenant_id = $1
            ORDER BY seq DESC LIMIT 1""",
            -1,
        ),
    ],
)
async def test_sec46_the_command_names_the_first_bad_row(
    node: Node, backend: Backend, owner: Owner, how: str, sql: str, broken_at: int
) -> None:
    tenant = await _tenant(node)
    code, before = _verified(backend.settings)
    assert before[tenant]["good"], before[tenant]
    rows = await owner.fetchval("SELECT count(*) FROM identity.audit_log WHERE tenant_id = $1", tenant)
    kept = await owner.fetch("SELECT * FROM identity.audit_log WHERE tenant_id = $1 ORDER BY seq", tenant)

    await _as_owner(owner, sql, tenant)

    code, after = _verified(backend.settings)
    assert (code, after[tenant]["good"]) == (1, False)
    assert after[tenant]["broken_at"] == (broken_at if broken_at > 0 else rows + 1), how
    await _as_owner(owner, "DELETE FROM identity.audit_log WHERE tenant_id = $1", tenant)
    await owner.copy_records_to_table("audit_log", schema_name="identity", records=[tuple(row) for row in kept])
    assert _verified(backend.settings)[1][tenant]["good"]


async def test_sec46_heads_kept_elsewhere_show_a_chain_cut_or_written_anew(
    node: Node, backend: Backend, owner: Owner, tmp_path: Path
) -> None:
    tenant = await _tenant(node)
    file = tmp_path / "heads"
    code, out = _aura(backend.settings, "heads")
    assert code == 0
    file.write_text("\n".join(line for line in out.splitlines() if json.loads(line)["tenant"] == tenant))
    assert _verified(backend.settings, "--heads", str(file))[1][tenant]["good"]
    kept = await owner.fetch("SELECT * FROM identity.audit_log WHERE tenant_id = $1 ORDER BY seq", tenant)

    await _as_owner(owner, "DELETE FROM identity.audit_log WHERE tenant_id = $1 AND seq = $2", tenant, len(kept))
    assert _verified(backend.settings)[1][tenant]["good"]  # by itself a cut end does not show
    code, cut = _verified(backend.settings, "--heads", str(file))
    assert (code, cut[tenant]["good"]) == (1, False) and "is gone" in cut[tenant]["why"]

    last = dict(kept[-1])
    values = [last[name] for name in ("actor", "action", "outcome", "reason", "subject", "request_id")]
    await owner.fetchval(
        "SELECT identity.audit($1, $2, $3, $4, $5, $6, $7, $8)", tenant, "forged", *values[1:], last["address_sealed"]
    )
    assert _verified(backend.settings)[1][tenant]["good"]
    code, anew = _verified(backend.settings, "--heads", str(file))
    assert (code, anew[tenant]["good"]) == (1, False) and "is not the one" in anew[tenant]["why"]


async def test_l85_every_action_of_an_admin_is_written_down(node: Node, owner: Owner) -> None:
    tenant, ada = f"t{uuid.uuid4().hex[:8]}", await register(node)
    request = f"admin-{uuid.uuid4().hex[:8]}"

    async def act(action: str, method: str, path: str, body: Any = None, **named: str) -> dict[str, Any]:
        id_ = f"{request}-{action}"
        status, answer, _ = await node.call(method, path, body, token=OPERATOR, X_Request_Id=id_, **named)
        assert status in (200, 201), (action, answer)
        return answer

    user = {"email": address(), "password": PASSWORD, "roles": ["user"]}
    made = await act("user.create", "POST", "/v1/users/admin", user)
    await act("user.update", "PUT", f"/v1/users/{made['id']}", {"status": "SUSPENDED"})
    await act("user.delete", "DELETE", f"/v1/users/{made['id']}")
    await act("tenant.create", "POST", "/v1/tenants", {"id": tenant})
    await act("tenant.limits", "PUT", f"/v1/tenants/{tenant}/limits", {"rate_limit": 5})
    await act("tenant.inactive", "POST", f"/v1/tenants/{tenant}/deactivate")
    await act("tenant.active", "POST", f"/v1/tenants/{tenant}/activate")
    await act("tenant.list", "GET", "/v1/tenants")
    wanted = {"name": "server", "scopes": ["money.read"], "user_id": ada.id}
    key = await act("api_key.create", "POST", "/v1/api-keys", wanted)
    await act("api_key.revoke", "DELETE", f"/v1/api-keys/{key['id']}")
    await act("signing_key.rotate", "POST", "/v1/signing-keys", {})
    await node.services.identity.audit.written()

    rows = await owner.fetch(
        "SELECT request_id, action, actor FROM identity.audit_log WHERE request_id LIKE $1 AND outcome = 'ok'",
        f"{request}-%",
    )
    found = {row["request_id"].removeprefix(f"{request}-"): row for row in rows}
    assert len(found) == 11 and {row["actor"] for row in rows} == {"system:AURA_API_KEY"}
    assert {name for name, row in found.items() if row["action"] == name} >= {"tenant.limits", "tenant.create"}
