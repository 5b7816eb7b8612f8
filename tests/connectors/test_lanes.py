"""A minter's lane that has stopped: it says why, a person lets it go on through the API or the CLI, and all of it is
recorded, so that the lanes can be computed anew."""

from __future__ import annotations

import json
import uuid
from typing import Any

import aiohttp
import asyncpg
import pytest

from aura_stream.chain.rpc import ChainNode
from aura_stream.chain.signer import Fees, Transaction, derived, load_key, sign
from tests.connectors.test_chain import minting
from tests.connectors.town import Town, soon

pytestmark = pytest.mark.timeout(400)  # starting a town is a part of its first test

LANE = "chain:local:AEUR"


async def foreign_transaction(town: Town) -> None:
    """Somebody else who has the key of AEUR uses up its next nonce."""
    key = derived(load_key(town.settings), "AEUR")
    async with ChainNode(town.anvil.rpc_url) as node:
        market = await node.market()
        chain_id, _ = await node.identity()
        nonce = await node.nonce(key.address, (await node.head()).number)
        fees = Fees(market.max_fee * 2, market.tip)
        signed = sign(Transaction(chain_id, nonce, key.address, b"", 50_000, fees), key)
        assert await node.send_all([signed]) == [None]


async def ask(town: Town, method: str, path: str, body: Any = None, key: str = "") -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {town.environment['AURA_API_KEY']}"}
    if method == "POST":
        headers["Idempotency-Key"] = key or str(uuid.uuid4())
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, town.settings.api_url + path, json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def lane(town: Town, name: str = LANE) -> dict[str, Any]:
    status, found = await ask(town, "GET", f"/v1/lanes/{name}")
    return found if status == 200 else {"stopped": None, "held_back": None}


async def is_stopped(town: Town, why: str, name: str = LANE) -> None:
    async def missing() -> str:
        found = await lane(town, name)
        return "" if found["stopped"] == why else f"it is {found}"

    await soon(missing, f"the lane is stopped for {why}", town)


@pytest.mark.row("N32", "A04")
async def test_n32_a_lane_stopped_by_a_foreign_nonce_is_released_by_a_recorded_command(town: Town) -> None:
    await foreign_transaction(town)
    await is_stopped(town, "foreign_nonce")
    before = await town.supply("AEUR")
    id_ = await minting(town, "stopped")
    await town.reaches(id_, "mint_queued")

    path = f"/v1/lanes/{LANE}/release"
    for wrong, status in (
        ({"stopped": "another_chain", "note": "a guess"}, 409),
        ({"stopped": "foreign_nonce"}, 400),
        ({"stopped": "no reason of ours", "note": "x"}, 400),
    ):
        assert (await ask(town, "POST", path, wrong))[0] == status, wrong
    unknown = "/v1/lanes/chain:local:AXYZ/release"
    assert (await ask(town, "POST", unknown, {"stopped": "foreign_nonce", "note": "x"}))[0] == 404
    shown = await town.aura("lanes", "show", LANE)
    assert shown.returncode == 0, shown.stderr
    assert "somebody else has the key" in shown.stdout and "It goes on behind the nonces" in shown.stdout
    assert (await town.aura("lanes", "list")).returncode == 1
    assert (await town.transaction(id_))[1] == "mint_queued"
    assert await town.supply("AEUR") == before

    key, body = str(uuid.uuid4()), {"stopped": "foreign_nonce", "note": "ada has canceled nonce 2 by hand"}
    status, released = await ask(town, "POST", path, body, key)

    assert (status, released["stopped"]) == (200, None), released
    assert [one["outcome"] for one in released["releases"]] == ["released"]
    assert (await ask(town, "POST", path, body, key))[1]["release_id"] == released["release_id"]
    await town.reaches(id_, "completed")
    assert await town.supply("AEUR") == before + 10_000_000
    (audited,) = await town.fetch("SELECT actor, subject FROM identity.audit_log WHERE action = 'lane.release'")
    assert "ada has canceled nonce 2" in audited["subject"] and LANE in audited["subject"]
    status, problem = await ask(town, "POST", path, body)
    assert (status, problem["code"]) == (409, "invalid_state_transition")

    await foreign_transaction(town)  # whoever has the key still has it
    await is_stopped(town, "foreign_nonce")
    again = ("lanes", "release", LANE, "--stopped", "foreign_nonce", "--note", "by the CLI")
    done = await town.aura(*again)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stopped"] is None
    assert (await town.aura(*again)).returncode == 1
    second = await minting(town, "stopped-again")
    await town.reaches(second, "completed")
    assert (await town.aura("lanes", "list")).returncode == 0


@pytest.mark.row("S17")
async def test_i9_lanes_are_computed_anew_byte_for_byte_and_what_they_know_is_what_postgres_has(town: Town) -> None:
    for name in ("anew-1", "anew-2"):
        id_ = await minting(town, name)
        await town.reaches(id_, "completed")
    payer = {"name": "Alice", "account": "021000021/123456789"}
    await town.customer("anew-3", "USD")
    asked = {"account_id": "anew-3:USD", "amount": "10.00", "rail": "ach", "payer": payer}
    debit = await town.send("deposit.submit", "anew-3", asked)
    await town.reaches(debit, "submitted")

    done = await town.aura("rebuild", "--json", **town.env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"] and found["lane_units"] > 10 and found["lane_keys"] > 10 and not found["passed_over"]

    async def checks() -> dict[str, Any]:
        done = await town.aura("ledger", "verify", "--deep", "--json", **town.env)
        assert done.stdout, done.stderr
        return {one["name"]: one for one in json.loads(done.stdout)}

    good = await checks()
    assert {name: one["offender"] for name, one in good.items() if one["offender"]} == {}
    for name in ("lane_tables_are_changelog", "lane_jobs_are_attempts", "nonces_are_the_lanes"):
        assert good[name]["checked"] > 0, name

    # An attempt that somebody has removed, and one that nobody has made.
    (row,) = await town.fetch("SELECT * FROM settlement.attempts WHERE transaction_id = $1 LIMIT 1", debit)
    connection = await asyncpg.connect(town.environment["AURA_POSTGRES_DSN"])
    try:
        await connection.execute(
            "CREATE TABLE kept AS SELECT * FROM settlement.attempts WHERE transaction_id = $1", debit
        )
        await connection.execute("DELETE FROM settlement.attempts WHERE transaction_id = $1", debit)
        gone = (await checks())["lane_jobs_are_attempts"]["offender"]
        await connection.execute("INSERT INTO settlement.attempts SELECT * FROM kept")
        await connection.execute(
            "INSERT INTO settlement.attempts SELECT lane, 'made up', 1, kind, transaction_id, tenant_id, step, "
            "breaker, started_at FROM kept LIMIT 1"
        )
        made_up = (await checks())["lane_jobs_are_attempts"]["offender"]
        await connection.execute("DELETE FROM settlement.attempts WHERE reference = 'made up'")
    finally:
        await connection.execute("DROP TABLE kept")
        await connection.close()
    assert (gone["reference"], gone["transaction"], gone["attempts"]) == (row["reference"], debit, None)
    assert (made_up["reference"], made_up["what"]) == ("made up", "an attempt of no job")
