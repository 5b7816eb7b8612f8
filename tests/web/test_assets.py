"""Assets, and what is minted and burnt told as orders, as stablecoin platforms tell it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aura_stream.domain.assets import SCALES
from aura_stream.identity.permissions import OPEN_SANDBOX, Reach
from tests.web.conftest import Api, Backend
from tests.web.lanes import Lanes
from tests.web.test_settlement import by_ach, minted
from web.aliases.given import Given
from web.aliases.shapes import give_order

ORDERS = "/api/stablecoin/v1/orders"


@pytest.fixture
async def lanes(backend: Backend) -> AsyncIterator[Lanes]:
    async with Lanes(backend.settings) as lanes:
        yield lanes


async def test_a16_every_asset_is_told_with_its_scale_and_what_it_can_become(api: Api) -> None:
    status, listed, headers = await api.get("/v1/assets")
    found = {one["id"]: one for one in listed["items"]}
    assert status == 200 and {asset: one["scale"] for asset, one in found.items()} == SCALES
    assert (found["AUSD"]["kind"], found["AUSD"]["backed_by"]) == ("token", "USD")
    assert found["USD"]["rails"] == [{"rail": "ach", "token": "AUSD", "direction": "pull"}]
    assert {one["rail"] for one in found["EUR"]["rails"]} == {"sepa", "sepa_instant"}
    assert headers["Cache-Control"] == "public, max-age=3600"
    assert (await api.get("/v1/assets/EUR"))[1] == found["EUR"]
    status, problem, _ = await api.get("/v1/assets/XXX")
    assert (status, problem["code"]) == (400, "unsupported_asset")


async def test_a16_a_deposit_that_is_minted_is_an_order_from_fiat_to_token(
    api: Api, lanes: Lanes, customer: str
) -> None:
    deposit = await by_ach(api, customer, "100.00", mint_to=f"{customer}:AUSD")
    status, order, _ = await api.get(f"{ORDERS}/{deposit['id']}")
    assert (status, order["type"], order["status"]) == (200, "mint", "pending")
    assert (order["fromAsset"], order["fromAmount"], order["toAsset"]) == ("USD", "10000", "AUSD")
    await minted(api, lanes, deposit, 100_00)
    _, order, _ = await api.get(f"{ORDERS}/{deposit['id']}")
    assert (order["status"], order["transactionHash"]) == ("completed", "0xab")
    # In base units: cents on one side, millionths on the other, and no fee unless one is set.
    assert (order["toAmount"], order["feeAmount"]) == ("100000000", "0")


async def test_a16_orders_have_their_states_and_nothing_else_is_one(api: Api, customer: str) -> None:
    account = await api.account(customer, "EUR", "5.00")
    other = await api.account(f"{customer}x", "EUR")
    body = {"account_id": account, "amount": "7.00", "rail": "sepa"}
    status, waiting, _ = await api.post("/v1/deposits", body)
    assert status == 201
    _, order, _ = await api.get(f"{ORDERS}/{waiting['id']}")
    assert (order["type"], order["status"], order["toAmount"]) == ("deposit", "pending_funding", "700")
    assert (await api.post(f"/v1/transactions/{waiting['id']}/cancel"))[0] == 200
    assert (await api.get(f"{ORDERS}/{waiting['id']}"))[1]["status"] == "canceled"
    body = {"from_account_id": account, "to_account_id": other, "amount": "1.00"}
    status, transfer, _ = await api.post("/v1/transfers", body)
    assert status == 201 and (await api.get(f"{ORDERS}/{transfer['id']}"))[0] == 404
    _, page, _ = await api.get(f"{ORDERS}?limit=200")
    ids = {one["id"] for one in page["items"]}
    assert waiting["id"] in ids and transfer["id"] not in ids


def test_a16_a_withdrawal_of_tokens_is_an_order_to_burn() -> None:
    given = Given(principal=OPEN_SANDBOX, reach=Reach.PLATFORM, tenant="default", path={}, query={}, body={})
    body = {
        "id": "84c9fc99-878f-52e2-8f57-bcf9dcd0d8b7",
        "type": "withdrawal",
        "status": "processing",
        "state": "burn_confirming",
        "asset": "AUSD",
        "amount": "12.500000",
        "settlement": {"rail": "ach", "fee": "0.50", "hash": "0x1"},
        "created_at": "2026-11-20T10:00:00.000Z",
        "updated_at": "2026-11-20T10:00:01.000Z",
    }
    order = give_order(body, given)
    assert (order["type"], order["status"]) == ("burn", "pending")
    assert (order["fromAsset"], order["fromAmount"]) == ("AUSD", "12500000")
    assert (order["toAsset"], order["toAmount"], order["feeAmount"]) == ("USD", "1200", "50")
    assert give_order(body | {"status": "requires_attention"}, given)["status"] == "pending"
    assert give_order(body | {"status": "returned"}, given)["status"] == "returned"
