"""SEPA: the day's cycle, ten seconds, returns and recalls."""

from __future__ import annotations

import pytest

from tests.mock_bank.conftest import CREDITOR, Client

HOUR = 3_600


async def balance(client: Client) -> str:
    """What is booked on the trust account."""
    booked: str = (await client.books())["balances"]["trust-eur"]
    return booked


async def test_a04_credit_transfer_settles_by_the_days_cycle(client: Client) -> None:
    await client.fund("100.00")
    sent = await client.sepa("e2e-1", "40.00")
    assert (sent.status, sent.body["status"], sent.body["iso_status"]) == (201, "sent", "ACTC")
    assert sent.body["settles_at"] == "2026-11-20T16:00:00.000Z"
    assert (await client.bank("GET", "/accounts/trust-eur")).body["available"] == "60.00"
    assert await balance(client) == "100.00"

    await client.pass_time(2 * HOUR)

    found = await client.status("e2e-1")
    assert (found["status"], found["iso_status"]) == ("settled", "ACSC")
    assert await balance(client) == "60.00"


async def test_a04_instant_settles_within_five_seconds_on_any_day(client: Client) -> None:
    await client.fund("100.00")
    await client.pass_time(days=1)  # a Saturday
    for number in range(20):
        assert (await client.sepa(f"e2e-{number}", "1.00", instant=True)).body["iso_status"] == "ACTC"
    await client.pass_time(5)

    assert {(await client.status(f"e2e-{number}"))["iso_status"] for number in range(20)} == {"ACSC"}
    assert await balance(client) == "80.00"


async def test_a04_instant_time_out_is_a_rejection_at_seven_seconds(client: Client) -> None:
    await client.fund("100.00")
    await client.operator("PUT", "/profile", {"rates": {"instant_timeout": 10_000}})
    await client.sepa("e2e-1", "1.00", instant=True)
    await client.pass_time(6)
    assert (await client.status("e2e-1"))["iso_status"] == "ACTC"
    await client.pass_time(1)

    found = await client.status("e2e-1")
    assert (found["iso_status"], found["code"]) == ("RJCT", "AB05")
    assert await balance(client) == "100.00"


@pytest.mark.parametrize(
    ("amount", "name", "status", "code"),
    [
        ("10.11", "Bob", "rejected", "MS03"),
        ("10.33", "Bob", "rejected", "AC01"),
        ("10.00", "REJECT AC06", "rejected", "AC06"),
        ("10.22", "Bob", "returned", "AC04"),
        ("10.00", "Return MD07", "returned", "MD07"),
    ],
)
async def test_a04_rejections_and_returns(client: Client, amount: str, name: str, status: str, code: str) -> None:
    await client.fund("100.00")
    await client.sepa("e2e-1", amount, creditor=CREDITOR | {"name": name})
    await client.pass_time(days=7)

    found = await client.status_by_id("e2e-1")
    assert (found["status"], found["code"]) == (status, code) and found["reason"]
    assert await balance(client) == "100.00"
    assert ("settled_at" in found) == (status == "returned")


async def test_a04_wrong_iban_and_missing_cover_are_refused_at_once(client: Client) -> None:
    wrong = await client.sepa("e2e-1", "10.00", creditor=CREDITOR | {"iban": "DE89370400440532013001"})
    assert (wrong.body["status"], wrong.body["code"]) == ("rejected", "AM04")
    await client.fund("10.00")
    wrong = await client.sepa("e2e-2", "10.00", creditor=CREDITOR | {"iban": "DE89370400440532013001"})
    assert (wrong.body["status"], wrong.body["code"]) == ("rejected", "AC01")
    assert (await client.sepa("e2e-3", "10.00")).body["status"] == "sent"
    assert (await client.sepa("e2e-4", "0.01")).body["code"] == "AM04"


async def test_a04_recall_of_what_was_sent_is_answered_and_has_a_last_day(client: Client) -> None:
    await client.fund("1000.00")
    for number in range(12):
        await client.sepa(f"e2e-{number}", "10.00")
    early = await client.bank("POST", "/sepa/recalls", {"transfer_id": "tr_bank-a_00000002", "reason": "DUPL"})
    assert (early.status, early.body["code"]) == (409, "not_recallable")
    await client.pass_time(days=1)
    asked = {}
    for number in range(10):
        id_ = (await client.status_by_id(f"e2e-{number}"))["id"]
        recall = await client.bank("POST", "/sepa/recalls", {"transfer_id": id_, "reason": "DUPL"})
        again = await client.bank("POST", "/sepa/recalls", {"transfer_id": id_, "reason": "DUPL"})
        assert (recall.status, again.status) == (201, 200) and recall.body == again.body
        asked[number] = recall.body["id"]
    await client.pass_time(HOUR)

    answers = {(await client.bank("GET", f"/sepa/recalls/{id_}")).body["status"] for id_ in asked.values()}
    assert answers == {"accepted", "refused"}
    for number, id_ in asked.items():
        accepted = (await client.bank("GET", f"/sepa/recalls/{id_}")).body["status"] == "accepted"
        assert (await client.status_by_id(f"e2e-{number}"))["status"] == ("returned" if accepted else "settled")
    assert (await client.books())["balanced"]

    await client.pass_time(days=20)
    id_ = (await client.status_by_id("e2e-10"))["id"]
    late = await client.bank("POST", "/sepa/recalls", {"transfer_id": id_, "reason": "TECH"})
    assert (late.status, late.body["code"]) == (422, "recall_window_passed")
    fraud = await client.bank("POST", "/sepa/recalls", {"transfer_id": id_, "reason": "FRAD"})
    assert fraud.status == 201


async def test_a04_recall_of_what_was_received_waits_for_our_answer(client: Client) -> None:
    first, second, third = [await client.fund("10.00", reference=f"in-{number}") for number in range(3)]
    recalls = [
        (await client.operator("POST", "/recalls", {"transfer_id": one["id"], "reason": "DUPL"}))["id"]
        for one in (first, second, third)
    ]
    events = (await client.bank("GET", "/events")).body["events"]
    assert [event["type"] for event in events] == ["transfer.received"] * 3 + ["recall.requested"] * 3
    assert events[3]["data"]["recall"]["id"] == recalls[0]

    yes = await client.bank("POST", f"/sepa/recalls/{recalls[0]}/answer", {"accept": True})
    no = await client.bank("POST", f"/sepa/recalls/{recalls[1]}/answer", {"accept": False})
    assert (yes.body["status"], no.body["status"]) == ("accepted", "refused")
    twice = await client.bank("POST", f"/sepa/recalls/{recalls[1]}/answer", {"accept": True})
    assert twice.body["status"] == "refused"
    assert await balance(client) == "20.00"

    await client.pass_time(days=20)
    silent = (await client.bank("GET", f"/sepa/recalls/{recalls[2]}")).body
    assert (silent["status"], silent["code"]) == ("refused", "NOAS")
    assert await balance(client) == "20.00"


async def test_a04_magic_amount_is_recalled_by_force_after_three_days(client: Client) -> None:
    await client.fund("10.44", reference="in-1")
    await client.pass_time(days=2)
    assert await balance(client) == "10.44"
    await client.pass_time(days=2)

    assert await balance(client) == "0.00"
    events = (await client.bank("GET", "/events")).body["events"]
    assert [event["type"] for event in events] == ["transfer.received", "transfer.returned", "recall.answered"]
    assert events[1]["data"]["transfer"]["code"] == "FOCR" and events[2]["data"]["recall"]["reason"] == "FRAD"
