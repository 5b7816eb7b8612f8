"""The profile `settlement`: banks and chain alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.conftest import Api, Backend, client_of, until_ready
from tests.web.lanes import Lanes
from tests.web.test_settlement import by_ach, minted, shown
from web.contract import load_contract


@pytest.mark.row("A24")
async def test_a24_settlement_runs_without_the_other_systems_routes(backend: Backend, customer: str) -> None:
    client, services = await client_of(backend.settings.model_copy(update={"profile": "settlement"}))
    try:
        await until_ready(client)
        api = Api(client, services)
        async with Lanes(backend.settings) as lanes:
            deposit = await by_ach(api, customer, "30.00", mint_to=f"{customer}:AUSD")
            await minted(api, lanes, deposit, 3000)
            status, again, _ = await api.get(f"/api/stablecoin/v1/orders/{deposit['id']}")
            assert status == 200, again
            body: dict[str, Any] = {"account_id": f"{customer}:AUSD", "amount": "10.00", "rail": "ach"}
            body |= {"beneficiary": {"name": "Alice", "account": "021000021/123456789"}}
            status, withdrawal, _ = await api.post("/v1/withdrawals", body)
            assert status == 201, withdrawal
            await lanes.chain(withdrawal, "confirmed", hash="0xcd")
            await lanes.bank(withdrawal, "settled", amount=1000)
            await shown(api, withdrawal["id"], "completed")

        served = load_contract("settlement")
        others = [one for one in load_contract().operations.values() if one.id not in served.operations]
        systems = {one.path.split("/")[1] for one in others if one.alias_of}
        assert len(others) > 40 and len(systems) > 1
        for one in others:
            path = one.path.replace("{", "").replace("}", "")
            async with client.request(one.method, path, json={}, headers={"Aura-Tenant": "default"}) as answer:
                assert answer.status in (404, 405), one.id
        async with client.post("/v1/bank-webhooks/bank-b", json={}) as answer:
            assert answer.status == 503, "banks are heard; the secrets of none are here"
        _, document, _ = await api.get("/openapi.json")
        assert "/v1/transfers" not in document["paths"] and "/v1/withdrawals" in document["paths"]
    finally:
        await client.close()
