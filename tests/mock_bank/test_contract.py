"""The contract: valid, complete, and kept; nonsense is refused, never an error of the server."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import validate

from aura_stream.mock_bank.contract import load_contract
from aura_stream.mock_bank.faults import ALL
from tests.mock_bank.conftest import Client

NONSENSE: list[Any] = [
    None,
    [],
    "text",
    {},
    {"reference": "x" * 5000},
    {"reference": "R", "amount": -1},
    {"amount": "1e5"},
    {"reference": None, "direction": [], "account_id": {}, "amount": 1.5, "counterparty": "x"},
]


def test_contract_is_valid_openapi() -> None:
    validate(load_contract().document)


async def test_transfers_have_the_form_of_the_contract(client: Client) -> None:
    document = load_contract().document
    schema = {"$ref": "#/components/schemas/Transfer", "components": document["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema)
    await client.fund("100.00")
    await client.ach("REF-1", "10.22")
    await client.sepa("REF-2", "10.22")
    await client.sepa("REF-3", "10.11", instant=True)
    await client.pass_time(days=8)

    events = (await client.bank("GET", "/events")).body["events"]
    assert len(events) == 8
    for event in events:
        validator.validate(event["data"]["transfer"])


async def test_sec34_nonsense_is_refused_and_changes_nothing(client: Client) -> None:
    broken = [b"{", b"\xff\xfe", b'{"a":NaN}', b"[" * 5000, b""]
    for operation in load_contract().operations.values():
        if operation.body is None:
            continue
        url = client.all["url"] + operation.path.replace("{bank}", "bank-a").replace("{recall_id}", "none")
        token = client.all["operator_token"] if operation.caller == "operator" else client.token
        # An empty profile changes nothing and is no nonsense.
        bodies = [json.dumps(value).encode() for value in NONSENSE if value != {} or operation.id != "setProfile"]
        for body in bodies + broken:
            headers = {"Content-Type": operation.media_type}
            answer = await client.call(operation.method, url, token=token, data=body, headers=headers)
            assert 400 <= answer.status < 500, (operation.id, body[:50], answer)
        headers = {"Content-Type": "text/css"}
        assert (await client.call(operation.method, url, token=token, data=b"{}", headers=headers)).status == 415

    assert (await client.books())["transfers"] == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("amount", amount) for amount in ("0", "0.00", "-1.00", "1.005", "1,00", "01.00", "99999999999.00", 1, 1.5)),
        *(("reference", name) for name in ("", "x" * 16, "with space", "ü", "a/b")),
        *(("direction", "both"), ("account_id", "trust-eur"), ("account_id", "network:USD"), ("extra", 1)),
    ],
)
async def test_sec34_wrong_order_is_refused(client: Client, field: str, value: Any) -> None:
    counterparty = {"name": "B", "routing_number": "021000021", "account_number": "1"}
    right = {"reference": "REF-1", "direction": "debit", "account_id": "trust-usd", "amount": "1.00"}
    answer = await client.bank("POST", "/ach/transfers", right | {"counterparty": counterparty} | {field: value})

    assert answer.status in (400, 404), answer
    assert (await client.books())["transfers"] == {}


async def test_sec26_nothing_opens_without_the_right_token(client: Client) -> None:
    names = {"bank": "bank-a", "account_id": "trust-eur"} | dict.fromkeys(
        ("file_id", "transfer_id", "recall_id", "consent_id"), "x"
    )
    guarded = [operation for operation in load_contract().operations.values() if operation.caller]
    assert len(guarded) > 35
    for operation in guarded:
        url = client.all["url"] + operation.path.format(**names)
        for token in ("", "wrong", client.token if operation.caller == "operator" else client.all["operator_token"]):
            answer = await client.call(operation.method, url, token=token)
            assert answer.status == 401, (operation.id, token)


async def test_sec26_operator_cannot_go_back_in_time(client: Client) -> None:
    url = f"{client.all['url']}/v1/simulate/clock"
    for body, status in (
        ({"to": "2026-11-19T00:00:00Z"}, 409),
        ({"advance_s": -1}, 400),
        ({"to": "2026-11-21T00:00:00"}, 400),
        ({"to": "soon"}, 400),
        ({"to": "2026-11-21T00:00:00Z"}, 200),
    ):
        answer = await client.call("POST", url, token=client.all["operator_token"], json=body)
        assert answer.status == status, (body, answer)
    shown = await client.call("GET", url, token=client.all["operator_token"])
    assert shown.body == {"now": "2026-11-21T00:00:00.000Z", "kind": "manual"}


async def test_every_fault_can_be_asked_for_by_rate_and_unknown_ones_not(client: Client) -> None:
    rates = dict.fromkeys(ALL, 1)
    shown = await client.operator("PUT", "/profile", {"name": "calm", "rates": rates})
    assert shown["rates"] == rates
    wrong = await client.try_operator("PUT", "/profile", {"rates": {"typo": 1}})
    assert (wrong.status, wrong.body["code"]) == (400, "unknown_fault")
