"""What only the ledger can refuse: amounts that are none, assets that differ, transfers to oneself."""

from __future__ import annotations

import pytest

from tests.web.conftest import Api, api, backend, customer  # noqa: F401 - fixtures


@pytest.mark.parametrize("amount", ["-1.00", "0", "0.00"])
async def test_sec22_l48_zero_and_less_are_refused_by_business_and_move_nothing(
    api: Api,  # noqa: F811 - the fixture
    customer: str,  # noqa: F811 - the fixture
    amount: str,
) -> None:
    source = await api.account(customer, "EUR", "10.00")
    target = await api.account(f"{customer}x", "EUR")
    body = {"from_account_id": source, "to_account_id": target, "amount": amount}
    status, problem, _ = await api.post("/v1/transfers", body)
    assert (status, problem["code"]) == (422, "negative_amount")
    _, balances, _ = await api.get(f"/v1/accounts/{source}/balances")
    assert balances["available"] == "10.00"


async def test_sec23_assets_that_differ_and_oneself_are_refused(
    api: Api,  # noqa: F811 - the fixture
    customer: str,  # noqa: F811 - the fixture
) -> None:
    euros, dollars = await api.account(customer, "EUR", "10.00"), await api.account(customer, "USD")
    for target, code in ((dollars, "currency_mismatch"), (euros, "self_transfer")):
        body = {"from_account_id": euros, "to_account_id": target, "amount": "1.00"}
        status, problem, _ = await api.post("/v1/transfers", body)
        assert (status, problem["code"]) == (422, code)
