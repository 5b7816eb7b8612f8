"""Who approves, resolves and pauses: by login, so that nobody does it under another name, or to what is their own."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.identity.conftest import OPERATOR, Node, Person, register, staff
from tests.web.lanes import Lanes

PAYER = {"name": "Alice Review", "account": "021000021/123456789"}


async def to_approve(node: Node, who: Person, **more: str) -> dict[str, Any]:
    """A deposit of `who` that a second person must approve."""
    await node.call("POST", "/v1/accounts", {"asset": "USD"}, token=who.access)
    body = {"account_id": f"{who.customer}:USD", "amount": "5.00", "rail": "ach", "payer": PAYER} | more
    status, deposit, _ = await node.call("POST", "/v1/deposits", body, token=who.access)
    assert (status, deposit["state"]) == (201, "requires_approval"), deposit
    return deposit


@pytest.mark.row("SEC26")
async def test_sec26_only_an_operator_approves_and_never_what_is_their_own(node: Node) -> None:
    ada, admin, olga = await register(node), await staff(node, "admin"), await staff(node, "operator")
    deposit = await to_approve(node, ada)
    path = f"/v1/transactions/{deposit['id']}/approve"
    for who in (ada, admin, await staff(node, "support"), await staff(node, "auditor")):
        assert await node.code("POST", path, {}, token=who.access) == (403, "insufficient_permissions")
    for other in (ada.customer, admin.customer, "otto"):
        assert await node.code("POST", path, {"operator": other}, token=olga.access) == (403, "forbidden")
    status, approved, _ = await node.call("POST", path, {}, token=olga.access)
    assert (status, approved["settlement"]["approved_by"]) == (200, olga.customer)

    own = await to_approve(node, olga)
    path = f"/v1/transactions/{own['id']}/approve"
    assert await node.code("POST", path, {}, token=olga.access) == (403, "four_eyes")
    assert (await node.code("POST", path, {}, token=(await staff(node, "operator")).access))[0] == 200

    # Nor is a way out for one's own money found by oneself, or nobody's money matched to oneself.
    path, inquire = f"/v1/transactions/{own['id']}/resolve", {"outcome": "inquire"}
    assert await node.code("POST", path, inquire, token=olga.access) == (403, "four_eyes")
    otto = await staff(node, "operator")
    assert await node.code("POST", path, inquire, token=otto.access) == (409, "invalid_state_transition")
    async with Lanes(node.services.settings) as lanes:
        found = await lanes.unannounced("bank-a", "USD", 4711)
    path, match = f"/v1/transactions/{found}/resolve", {"outcome": "match", "account_id": f"{olga.customer}:USD"}
    async with asyncio.timeout(20):
        while True:
            answer = await node.code("POST", path, match, token=olga.access)
            if answer[0] != 404:
                break
            await asyncio.sleep(0.02)
    assert answer == (403, "four_eyes")
    status, matched, _ = await node.call("POST", path, match, token=otto.access)
    assert (status, matched["state"]) == (200, "matched"), matched


@pytest.mark.row("SEC26")
async def test_sec26_in_live_mode_not_even_the_first_operators_key_names_somebody(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await register(node)
    deposit = await to_approve(node, ada)
    monkeypatch.setitem(node.services.settings.__dict__, "mode", "live")
    path = f"/v1/transactions/{deposit['id']}/approve"
    assert await node.code("POST", path, {"operator": "olga"}, token=OPERATOR) == (403, "forbidden")
    body = {"scope": {"tenant": "demo"}, "operator": "olga"}
    assert await node.code("POST", "/v1/pauses", body, token=OPERATOR) == (403, "forbidden")
    status, approved, _ = await node.call("POST", path, {}, token=OPERATOR)
    assert (status, approved["settlement"]["approved_by"]) == (200, "AURA_API_KEY")


async def test_sec26_a_batch_names_nobody_else_either(node: Node) -> None:
    ada, olga, admin = await register(node), await staff(node, "operator"), await staff(node, "admin")
    deposit = await to_approve(node, ada)
    approve = {"transaction_id": deposit["id"]}
    sent = (
        (olga, "transaction.approve", ada.customer, approve | {"operator": "otto"}, "forbidden"),
        (ada, "transaction.approve", ada.customer, approve | {"operator": ada.customer}, "insufficient_permissions"),
        (admin, "transaction.approve", ada.customer, approve | {"operator": "otto"}, "insufficient_permissions"),
        (admin, "pause.set", admin.customer, {"operator": admin.customer, "scope": {}}, "insufficient_permissions"),
        (admin, "pause.set", admin.customer, {"operator": "otto", "scope": {"tenant": "default"}}, "forbidden"),
        (admin, "clock.advance", "clock", {"operator": admin.customer, "advance_s": 60}, "insufficient_permissions"),
        (olga, "clock.advance", "clock", {"operator": "otto", "advance_s": 60}, "forbidden"),
    )
    for who, type_, customer, data, code in sent:
        line = {"id": str(uuid.uuid4()), "type": type_, "tenant": "default", "customer": customer, "data": data}
        line |= {"idempotency_key": str(uuid.uuid4()), "issued_at": datetime.now(UTC).isoformat()}
        headers = {"Authorization": f"Bearer {who.access}", "Content-Type": "application/x-ndjson"}
        async with node.client.post("/v1/commands:batch", data=json.dumps(line), headers=headers) as answer:
            result = json.loads(await answer.text())
        assert (result["status"], result["problem"]["code"]) == ("refused", code), (type_, data)


@pytest.mark.row("SEC26")
async def test_sec26_the_clock_is_moved_by_operators_and_in_the_sandbox_only(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, body = "/v1/simulate/clock", {"advance_s": 60}
    people = [await register(node), *[await staff(node, role) for role in ("support", "admin")]]
    for who in people:
        assert await node.code("POST", path, body, token=who.access) == (403, "insufficient_permissions")
        assert (await node.call("GET", path, token=who.access))[1]["moved_s"] == 0
    assert await node.code("POST", path, body | {"operator": "otto"}, token=(await staff(node, "operator")).access) == (
        403,
        "forbidden",
    )
    for wrong in ({"advance_s": 0}, {"advance_s": -60}, {"advance_s": "60"}, {"to": "2027-01-01T00:00:00Z"}, {}):
        assert (await node.code("POST", path, wrong, token=OPERATOR))[0] == 400, wrong
    monkeypatch.setitem(node.services.settings.__dict__, "mode", "live")
    assert await node.code("POST", path, body, token=OPERATOR) == (403, "sandbox_only")
    assert await node.code("GET", path, token=OPERATOR) == (403, "sandbox_only")


async def test_a_person_asks_in_no_other_name(node: Node) -> None:
    ada = await register(node)
    await node.call("POST", "/v1/accounts", {"asset": "USD"}, token=ada.access)
    body = {"account_id": f"{ada.customer}:USD", "amount": "5.00", "rail": "ach", "payer": PAYER}
    other = body | {"requested_by": "otto"}
    assert await node.code("POST", "/v1/deposits", other, token=ada.access) == (403, "forbidden")
    assert (await node.code("POST", "/v1/deposits", body | {"requested_by": ada.customer}, token=ada.access))[0] == 201


@pytest.mark.row("A06")
async def test_a06_an_admin_pauses_their_tenant_and_an_operator_lifts(node: Node) -> None:
    admin, olga, support = await staff(node, "admin"), await staff(node, "operator"), await staff(node, "support")
    stranger, ada = await staff(node, "admin", tenant="demo"), await register(node)
    async with Lanes(node.services.settings):
        for scope in ({"tenant": "demo"}, {"tenant": "demo", "rail": "ach"}):
            answer = await node.code("POST", "/v1/pauses", {"scope": scope}, token=admin.access)
            assert answer == (403, "insufficient_permissions")
        body = {"scope": {"account": f"{ada.customer}:EUR"}}
        status, pause, _ = await node.call("POST", "/v1/pauses", body, token=admin.access)
        assert (status, pause["set_by"], pause["scope"]["tenant"]) == (201, admin.customer, "default")
        body = {"scope": {"asset": "XAU", "type": "hold"}}
        status, wide, _ = await node.call("POST", "/v1/pauses", body, token=admin.access)
        assert (status, wide["scope"]) == (201, {"tenant": "default", "asset": "XAU", "type": "hold"})
        work = {"account_id": f"{ada.customer}:EUR", "amount": "1.00"}
        assert await node.code("POST", "/v1/deposits", work, token=ada.access) == (503, "paused")
        for who, expected in ((support, 200), (admin, 200), (stranger, 404), (ada, 403), (olga, 200)):
            assert (await node.code("GET", f"/v1/pauses/{pause['id']}", token=who.access))[0] == expected
        for one in (pause, wide):
            path = f"/v1/pauses/{one['id']}/lift"
            for who in (admin, support, ada):
                assert await node.code("POST", path, {}, token=who.access) == (403, "insufficient_permissions")
            status, lifted, _ = await node.call("POST", path, {}, token=olga.access)
            assert (status, lifted["lifted_by"]) == (200, olga.customer)
        assert (await node.code("POST", "/v1/deposits", work, token=ada.access))[0] == 201
    assert (await node.code("GET", "/v1/pauses", token=OPERATOR))[0] == 200


@pytest.mark.row("SEC26")
async def test_sec26_who_writes_off_and_why_is_for_operators_and_not_for_whom_it_is_about(node: Node) -> None:
    ada, olga, otto = await register(node), await staff(node, "operator"), await staff(node, "operator")
    deposit = await to_approve(node, ada)
    path, secret = f"/v1/transactions/{deposit['id']}", "the bank says that she is a money mule"

    async def read(who: Person, event: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                status, found, _ = await node.call("GET", path, token=who.access)
                if status == 200 and event in [one["type"] for one in found["events"]]:
                    return dict(found)
                await asyncio.sleep(0.02)

    async with Lanes(node.services.settings) as lanes:
        assert (await node.call("POST", f"{path}/approve", {}, token=olga.access))[0] == 200
        await lanes.bank(deposit, "settled", amount=500)
        for code in ("R01", "R02"):
            await lanes.bank(deposit, "returned", amount=500, code=code)
        await read(ada, "deposit.break_opened")
        body = {"outcome": "write_off", "note": secret}
        assert (await node.call("POST", f"{path}/resolve", body, token=olga.access))[0] == 200

        asked = await read(otto, "deposit.write_off_asked")
        assert (asked["settlement"]["note"], asked["settlement"]["write_off_by"]) == (secret, olga.customer)
        own = await read(ada, "deposit.write_off_asked")
        assert own["settlement"]["suspense"] == "-5.00" and own["waits_for"] is None
        assert (await node.call("POST", f"{path}/approve", {}, token=otto.access))[0] == 200
        own = await read(ada, "deposit.written_off")
        _, listed, _ = await node.call("GET", "/v1/transactions?type=deposit", token=ada.access)
        assert deposit["id"] in [one["id"] for one in listed["items"]]
    for told in (own, listed):
        text = json.dumps(told)
        assert secret not in text and olga.customer not in text.replace(f'"approved_by": "{olga.customer}"', "")
        assert "write_off_by" not in text and '"note"' not in text
