"""Deposits by bank, withdrawals, approvals and pauses through HTTP, on the real ledger; a test plays bank and chain."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agents.deep import deep
from agents.rebuild import rebuild
from aura_stream.domain.lane_requests import Instruct, Mint
from aura_stream.ledger.connection import READER, WRITER, connect
from aura_stream.ledger.verify import verify
from aura_stream.reconcile.run import Wanted, reconcile
from tests.web.conftest import Api, Backend
from tests.web.lanes import Lanes

PAYER = {"name": "Alice", "account": "021000021/123456789"}
IBAN = "DE89370400440532013000"


@pytest.fixture
async def lanes(backend: Backend) -> AsyncIterator[Lanes]:
    async with Lanes(backend.settings) as lanes:
        yield lanes


async def shown(api: Api, id_: str, state: str, **also: str) -> dict[str, Any]:
    """The transaction once it is in a state (and `also` other members are so)."""

    async def found() -> dict[str, Any] | None:
        status, transaction, _ = await api.get(f"/v1/transactions/{id_}")
        is_there = status == 200 and transaction["state"] == state
        return transaction if is_there and all(transaction[name] == value for name, value in also.items()) else None

    transaction: dict[str, Any] = await until(found)
    return transaction


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What `condition` gives as soon as it gives something."""
    async with asyncio.timeout(20):
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(0.02)


async def balances(api: Api, account: str) -> dict[str, Any]:
    status, found, _ = await api.get(f"/v1/accounts/{account}/balances")
    assert status == 200, found
    return found


async def by_ach(api: Api, customer: str, amount: str = "100.00", **more: Any) -> dict[str, Any]:
    """A deposit by ACH with accounts for it."""
    for asset in ("USD", "AUSD"):
        await api.post("/v1/accounts", {"customer": customer, "asset": asset})
    body = {"account_id": f"{customer}:USD", "amount": amount, "rail": "ach", "payer": PAYER} | more
    status, deposit, headers = await api.post("/v1/deposits", body)
    assert status == 201, deposit
    assert headers["Location"] == f"/v1/transactions/{deposit['id']}"
    return deposit


async def minted(api: Api, lanes: Lanes, deposit: dict[str, Any], amount: int) -> dict[str, Any]:
    """The deposit, settled and minted."""
    await lanes.bank(deposit, "accepted", bank_reference="A00000000000017")
    await lanes.bank(deposit, "settled", amount=amount)
    await lanes.chain(deposit, "broadcast", hash="0xab")
    await lanes.chain(deposit, "mined", hash="0xab")
    await lanes.chain(deposit, "confirmed", hash="0xab", gas=21_000)
    return await shown(api, deposit["id"], "completed")


@pytest.mark.row("A01", "A04", "A05", "A07", "A08", "A10", "A11", "A20", "A21")
async def test_a04_a05_a08_a_debit_becomes_tokens_and_its_status_says_what_it_waits_for(
    api: Api, lanes: Lanes, customer: str
) -> None:
    deposit = await by_ach(api, customer, mint_to=f"{customer}:AUSD")
    assert (deposit["status"], deposit["state"]) == ("processing", "submitting")
    assert deposit["waits_for"]["who"] == "bank"
    assert deposit["waits_for"]["until"] and deposit["waits_for"]["then"] == "requires_attention"
    assert deposit["settlement"]["rail"] == "ach" and deposit["settlement"]["bank"] == "bank-a"
    assert deposit["settlement"]["mint_to"] == f"{customer}:AUSD"

    (asked,) = await lanes.until_asked(1, deposit["id"])
    assert isinstance(asked, Instruct)
    assert asked.reference == deposit["settlement"]["reference"]
    await lanes.bank(deposit, "accepted", bank_reference="A00000000000017")
    submitted = await shown(api, deposit["id"], "submitted")
    assert submitted["settlement"]["bank_reference"] == "A00000000000017"
    assert (await balances(api, f"{customer}:USD"))["pending"] == "100.00"
    await lanes.bank(deposit, "settled", amount=10_000)
    queued = await shown(api, deposit["id"], "mint_queued")
    assert queued["waits_for"]["who"] == "chain"
    _, mint = await lanes.until_asked(2, deposit["id"])
    assert isinstance(mint, Mint) and mint.amount == 100_000_000
    await lanes.chain(deposit, "broadcast", hash="0xab")
    assert (await shown(api, deposit["id"], "mint_broadcast"))["settlement"]["hash"] == "0xab"
    await lanes.chain(deposit, "confirmed", hash="0xab")

    done = await shown(api, deposit["id"], "completed")
    assert done["waits_for"] is None
    totals: dict[str, int] = {}
    for entry in done["entries"]:
        cents = int(entry["amount"].replace(".", ""))
        totals[entry["asset"]] = totals.get(entry["asset"], 0) + cents
    assert totals == {"USD": 0, "AUSD": 0}
    assert (await balances(api, f"{customer}:AUSD"))["available"] == "100.000000"
    assert (await balances(api, f"{customer}:USD"))["posted"] == "0.00"
    _, listed, _ = await api.get(f"/v1/transactions?customer={customer}&type=deposit")
    assert listed["items"][0]["settlement"]["hash"] == "0xab"
    assert listed["items"][0]["waits_for"] is None


@pytest.mark.row("A02", "A03")
async def test_a02_the_same_key_at_once_asks_for_one_debit_and_one_mint(api: Api, lanes: Lanes, customer: str) -> None:
    for asset in ("USD", "AUSD"):
        await api.post("/v1/accounts", {"customer": customer, "asset": asset})
    body = {"account_id": f"{customer}:USD", "amount": "5.00", "rail": "ach", "payer": PAYER}
    body |= {"mint_to": f"{customer}:AUSD"}
    key = str(uuid.uuid4())

    answers = await asyncio.gather(*(api.post("/v1/deposits", body, key=key) for _ in range(10)))

    assert {status for status, _, _ in answers} <= {201, 409}
    (id_,) = {answer["id"] for status, answer, _ in answers if status == 201}
    status, again, headers = await api.post("/v1/deposits", body, key=key)
    assert (status, again["id"], headers["Idempotent-Replayed"]) == (201, id_, "true")
    await minted(api, lanes, again, 500)
    status, late, headers = await api.post("/v1/deposits", body, key=key)
    assert (status, late["state"], headers["Idempotent-Replayed"]) == (201, "submitting", "true")
    assert late["settlement"].get("hash") is None
    assert Counter(type(one) for one in lanes.about(id_)) == {Instruct: 1, Mint: 1}, "two topics: read in any order"
    assert (await balances(api, f"{customer}:AUSD"))["available"] == "5.000000"


@pytest.mark.row("A02", "A03")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/withdrawals", {"account_id": "c:USD", "amount": "1.00", "rail": "ach", "beneficiary": PAYER}),
        ("/v1/deposits/{id}/retry", {}),
        ("/v1/withdrawals/{id}/retry", {"beneficiary": PAYER}),
        ("/v1/withdrawals/{id}/remint", {}),
        ("/v1/transactions/{id}/approve", {"operator": "olga"}),
        ("/v1/transactions/{id}/reject", {"operator": "olga"}),
        ("/v1/transactions/{id}/resolve", {"operator": "olga", "outcome": "inquire"}),
        ("/v1/pauses", {"operator": "olga", "scope": {"tenant": "demo"}}),
        ("/v1/pauses/{id}/lift", {"operator": "olga"}),
        ("/v1/admin/pauses", {"operator": "olga", "scope": {"tenant": "demo"}}),
    ],
)
@pytest.mark.parametrize("key", ["", "buy-1", "0"])
async def test_a02_a03_every_write_of_settlement_asks_for_a_uuid(
    api: Api, lanes: Lanes, path: str, body: dict[str, Any], key: str
) -> None:
    headers = {"Idempotency-Key": key} if key else {}
    async with api.client.post(path.replace("{id}", str(uuid.uuid4())), json=body, headers=headers) as answer:
        problem = await answer.json(content_type=None)
    assert answer.status == 400
    assert problem["code"] == ("idempotency_key_invalid" if key else "idempotency_key_missing")
    assert not lanes.requests


@pytest.mark.row("A07")
async def test_a07_a_sepa_deposit_tells_the_payer_its_reference_and_when_it_expires(
    api: Api, lanes: Lanes, customer: str
) -> None:
    await api.account(customer)
    body = {"account_id": f"{customer}:EUR", "amount": "20.00", "rail": "sepa", "payer": {"name": "Alice"}}
    status, deposit, _ = await api.post("/v1/deposits", body)
    assert (status, deposit["state"]) == (201, "awaiting_funds")
    assert len(deposit["settlement"]["reference"]) == 32
    assert deposit["waits_for"] == deposit["waits_for"] | {"who": "payer", "then": "expires"}
    assert deposit["waits_for"]["until"] == deposit["expires_at"]

    await lanes.bank(deposit, "settled", amount=2000)

    assert (await shown(api, deposit["id"], "completed"))["status"] == "completed"
    assert (await balances(api, f"{customer}:EUR"))["available"] == "20.00"


async def test_a_deposit_that_makes_no_sense_is_refused_with_its_place(api: Api, customer: str) -> None:
    await api.account(customer)
    base = {"account_id": f"{customer}:EUR", "amount": "20.00"}
    for more, code, pointer in (
        ({"rail": "ach"}, "missing_fields", "/payer/account"),
        ({"rail": "sepa", "payer": PAYER}, "unknown_field", "/payer/account"),
        ({"mint_to": f"{customer}:AEUR"}, "unknown_field", "/mint_to"),
        ({"rail": "pigeon"}, "invalid_field", "/rail"),
        ({"rail": "sepa", "mint_to": "0x12"}, "invalid_field", "/mint_to"),
        ({"rail": "sepa", "effective_at": "2026-01-01T00:00:00Z"}, "unknown_field", "/effective_at"),
    ):
        status, problem, _ = await api.post("/v1/deposits", base | more)
        assert (status, problem["code"], problem["errors"][0]["pointer"]) == (400, code, pointer), more
    payer = {"rail": "ach", "payer": PAYER}
    status, problem, _ = await api.post("/v1/deposits", base | payer)
    assert (status, problem["code"]) == (422, "currency_mismatch")
    status, problem, _ = await api.post("/v1/deposits", base | {"rail": "sepa", "payer": {"name": "Denied"}})
    assert (status, problem["code"]) == (422, "screening_blocked")


@pytest.mark.row("A08", "A15")
async def test_a_withdrawal_burns_pays_and_comes_back_with_its_code(api: Api, lanes: Lanes, customer: str) -> None:
    deposit = await by_ach(api, customer, "30.00", mint_to=f"{customer}:AUSD")
    await minted(api, lanes, deposit, 3000)
    beneficiary = {"name": "Alice", "account": "021000021/987654321"}
    body = {"account_id": f"{customer}:AUSD", "amount": "30.00", "rail": "ach", "beneficiary": beneficiary}
    status, withdrawal, _ = await api.post("/v1/withdrawals", body)
    assert (status, withdrawal["state"], withdrawal["waits_for"]["who"]) == (201, "tokens_held", "chain")
    assert (await balances(api, f"{customer}:AUSD"))["held"] == "30.000000"
    status, problem, _ = await api.post("/v1/withdrawals", body)
    assert (status, problem["code"]) == (422, "insufficient_funds")

    await lanes.chain(withdrawal, "confirmed", hash="0xcd")
    await shown(api, withdrawal["id"], "payout_submitting")
    await lanes.bank(withdrawal, "started")
    await lanes.bank(withdrawal, "unknown")
    unclear = await shown(api, withdrawal["id"], "payout_submitting", reason="unknown_outcome")
    assert unclear["reason_title"] and unclear["reason_hint"]
    await lanes.bank(withdrawal, "rejected", code="R03")
    back = await shown(api, withdrawal["id"], "payout_rejected")
    assert (back["status"], back["reason"]) == ("failed", "bank_rejected")
    assert back["settlement"]["code"] == {
        "code": "R03",
        "meaning": "No account, or unable to locate the account",
        "source": "NACHA",
        "action": "disable",
    }
    assert (await balances(api, f"{customer}:USD"))["available"] == "30.00"

    path, key = f"/v1/withdrawals/{withdrawal['id']}", str(uuid.uuid4())
    body = {"beneficiary": {"name": "Alice", "account": "021000021/555"}}
    status, child, _ = await api.post(f"{path}/retry", body, key=key)
    assert (status, child["state"]) == (201, "payout_submitting")
    assert child["settlement"]["parent_id"] == withdrawal["id"]
    status, again, headers = await api.post(f"{path}/retry", body, key=key)
    assert (status, again["id"], headers["Idempotent-Replayed"]) == (201, child["id"], "true")
    status, problem, _ = await api.post(f"{path}/remint", key=(key := str(uuid.uuid4())))
    assert (status, problem["code"]) == (409, "already_processed")
    status, problem, headers = await api.post(f"{path}/remint", key=key)
    assert (status, problem["code"], headers["Idempotent-Replayed"]) == (409, "already_processed", "true")
    await lanes.bank(child, "settled", amount=3000)
    assert (await shown(api, child["id"], "completed"))["waits_for"] is None
    await lanes.bank(child, "returned", amount=3000, code="R02")
    returned = await shown(api, child["id"], "payout_returned")
    assert returned["status"] == "returned"
    status, mint, _ = await api.post(f"/v1/withdrawals/{child['id']}/remint")
    assert (status, mint["type"], mint["state"]) == (201, "deposit", "mint_queued")
    assert "rail" not in mint["settlement"] and "reference" not in mint["settlement"]


async def test_a_debit_returned_for_want_of_money_is_collected_again(api: Api, lanes: Lanes, customer: str) -> None:
    deposit = await by_ach(api, customer, "10.00")
    await lanes.bank(deposit, "rejected", code="R01")
    assert (await shown(api, deposit["id"], "rejected"))["settlement"]["code"]["action"] == "retry"
    status, child, _ = await api.post(f"/v1/deposits/{deposit['id']}/retry")
    assert (status, child["state"], child["settlement"]["parent_id"]) == (201, "submitting", deposit["id"])
    await lanes.bank(child, "rejected", code="R08")
    await shown(api, child["id"], "rejected")
    status, problem, _ = await api.post(f"/v1/deposits/{child['id']}/retry")
    assert (status, problem["code"]) == (422, "retry_not_allowed")


@pytest.mark.row("A02")
async def test_a02_an_id_that_was_given_for_a_refused_retry_is_never_404(api: Api, lanes: Lanes, customer: str) -> None:
    """However it is refused, whatever node is asked, and when the tail has forgotten it."""
    deposit = await by_ach(api, customer, "10.00")
    freeze = f"/v1/accounts/{customer}:USD/freeze"
    used, unfreeze = str(uuid.uuid4()), freeze.replace("/freeze", "/unfreeze")
    assert (await api.post(freeze, key=used))[0] == 200
    assert (await api.post(unfreeze))[0] == 200
    transfer = {"from_account_id": f"{customer}:USD", "to_account_id": f"{customer}:AUSD", "amount": "1.00"}
    retry = f"/v1/withdrawals/{deposit['id']}/retry"
    for path, body, key, reason, type_ in (
        (f"/v1/deposits/{deposit['id']}/retry", {}, "", "invalid_state_transition", "deposit"),
        (f"/v1/withdrawals/{deposit['id']}/remint", {}, "", "invalid_state_transition", "deposit"),
        (retry, {"beneficiary": PAYER}, "", "invalid_state_transition", "withdrawal"),
        (f"/v1/deposits/{uuid.uuid4()}/retry", {"customer": customer}, "", "transaction_not_found", "deposit"),
        ("/v1/transfers", transfer, used, "idempotency_key_reused", "transfer"),
    ):
        status, receipt, headers = await api.post(path, body, key=key or str(uuid.uuid4()), Prefer="wait=0")
        assert (status, headers["Location"]) == (202, f"/v1/transactions/{receipt['id']}"), receipt

        for _ in ("from the journal's tail", "from Postgres"):
            refused = await shown(api, receipt["id"], "refused")
            assert (refused["status"], refused["reason"], refused["type"]) == ("failed", reason, type_), path
            assert refused["customer"] == customer and refused["command_id"] == receipt["command_id"]
            api.services.tail.recent.refused.clear()
    assert (await api.get(f"/v1/transactions/{uuid.uuid4()}"))[0] == 404


async def test_u26_whole_cents_only_leave(api: Api, customer: str) -> None:
    body = {"account_id": f"{customer}:AUSD", "amount": "1.005", "rail": "ach", "beneficiary": PAYER}
    status, problem, _ = await api.post("/v1/withdrawals", body)
    assert (status, problem["code"], problem["errors"][0]["pointer"]) == (400, "invalid_amount_format", "/amount")
    body = {"account_id": f"{customer}:USD", "amount": "1.00", "rail": "ach"}
    status, problem, _ = await api.post("/v1/withdrawals", body | {"beneficiary": {"name": "A", "account": IBAN}})
    assert (status, problem["errors"][0]["pointer"]) == (400, "/beneficiary/account")


@pytest.mark.row("A06")
async def test_sec26_a_second_person_approves_and_nobody_their_own(api: Api, lanes: Lanes, customer: str) -> None:
    name = {"name": "Alice Review"}
    deposit = await by_ach(api, customer, payer=PAYER | name, requested_by="otto")
    assert (deposit["status"], deposit["waits_for"]["who"]) == ("requires_approval", "operator")
    assert deposit["waits_for"]["then"] == "expires"
    path = f"/v1/transactions/{deposit['id']}"
    for operator in ("otto", customer):
        status, problem, _ = await api.post(f"{path}/approve", {"operator": operator})
        assert (status, problem["code"]) == (403, "four_eyes"), operator
    assert not lanes.about(deposit["id"])
    key = str(uuid.uuid4())
    status, approved, _ = await api.post(f"{path}/approve", {"operator": "olga"}, key=key)
    assert (status, approved["state"], approved["settlement"]["approved_by"]) == (200, "submitting", "olga")
    status, again, headers = await api.post(f"{path}/approve", {"operator": "olga"}, key=key)
    assert (status, again["state"], headers["Idempotent-Replayed"]) == (200, "submitting", "true")
    status, problem, _ = await api.post(f"{path}/approve", {"operator": "olga"})
    assert (status, problem["code"]) == (409, "already_processed")

    other = await by_ach(api, customer, payer=PAYER | name)
    status, rejected, _ = await api.post(f"/v1/transactions/{other['id']}/reject", {"operator": "olga"})
    assert (status, rejected["status"], rejected["reason"]) == (200, "failed", "denied")
    third = await by_ach(api, customer, payer=PAYER | name)
    status, canceled, _ = await api.post(f"/v1/transactions/{third['id']}/cancel")
    assert (status, canceled["status"], canceled["waits_for"]) == (200, "canceled", None)


@pytest.mark.row("A15")
async def test_an_operator_ends_what_the_bank_leaves_open(api: Api, lanes: Lanes, customer: str) -> None:
    deposit = await by_ach(api, customer)
    path = f"/v1/transactions/{deposit['id']}/resolve"
    status, problem, _ = await api.post(path, {"operator": "olga", "outcome": "settled"})
    assert (status, problem["code"]) == (409, "invalid_state_transition")
    await lanes.bank(deposit, "undecided")
    stuck = await shown(api, deposit["id"], "submitting", status="requires_attention")
    assert stuck["waits_for"]["who"] == "operator"
    status, asked, _ = await api.post(path, {"operator": "olga", "outcome": "inquire", "note": "not in camt.053"})
    assert (status, asked["status"], asked["waits_for"]["who"]) == (200, "processing", "bank")
    await lanes.bank(deposit, "undecided")
    await shown(api, deposit["id"], "submitting", status="requires_attention")
    key = str(uuid.uuid4())
    status, ended, _ = await api.post(path, {"operator": "olga", "outcome": "rejected"}, key=key)
    assert (status, ended["status"], ended["state"]) == (200, "failed", "rejected")
    status, again, headers = await api.post(path, {"operator": "olga", "outcome": "rejected"}, key=key)
    assert (status, again["status"], headers["Idempotent-Replayed"]) == (200, "failed", "true")
    assert (await balances(api, f"{customer}:USD"))["pending"] == "0.00"


@pytest.mark.row("A01", "A02", "A06")
@pytest.mark.parametrize("root", ["/v1/pauses", "/v1/admin/pauses"])
async def test_a06_a_pause_refuses_what_is_new_and_what_it_parked_goes_on(
    api: Api, lanes: Lanes, customer: str, root: str
) -> None:
    deposit = await by_ach(api, customer, "10.00", mint_to=f"{customer}:AUSD")
    await lanes.bank(deposit, "accepted")
    await shown(api, deposit["id"], "submitted")
    key = str(uuid.uuid4())
    scope = {"account": f"{customer}:USD"}
    body = {"operator": "olga", "scope": scope, "note": "a letter from the bank"}
    status, pause, headers = await api.post(root, body, key=key)
    assert (status, pause["state"], pause["set_by"]) == (201, "applied", "olga"), pause
    assert pause["scope"] == scope | {"tenant": "default"}
    assert headers["Location"] == f"/v1/pauses/{pause['id']}"
    status, again, headers = await api.post(root, body, key=key)
    assert (status, again["id"], headers["Idempotent-Replayed"]) == (201, pause["id"], "true")
    status, read, _ = await api.get(f"{root}/{pause['id']}")
    assert (status, read["note"], read["lifted_at"]) == (200, "a letter from the bank", None)
    _, listed, _ = await api.get(root)
    assert pause["id"] in [one["id"] for one in listed["items"]]

    work = {"account_id": f"{customer}:USD", "amount": "1.00", "rail": "ach", "payer": PAYER}
    refused = str(uuid.uuid4())
    status, problem, headers = await api.post("/v1/deposits", work, key=refused)
    assert (status, problem["code"], problem["retry"]) == (503, "paused", "same_key")
    assert int(headers["Retry-After"]) > 1 and pause["id"] in problem["detail"]
    other = f"o{customer}"
    assert (await by_ach(api, other))["state"] == "submitting"
    await lanes.bank(deposit, "settled", amount=1000)
    parked = await shown(api, deposit["id"], "mint_queued")
    assert parked["settlement"]["parked_by"] == pause["id"]
    assert parked["waits_for"] == parked["waits_for"] | {"who": "operator", "until": None}
    assert [type(one) for one in lanes.about(deposit["id"])] == [Instruct]

    key = str(uuid.uuid4())
    if root == "/v1/pauses":
        status, lifted, _ = await api.post(f"{root}/{pause['id']}/lift", {"operator": "oscar"}, key=key)
    else:
        async with api.client.delete(f"{root}/{pause['id']}", headers={"Idempotency-Key": key}) as answer:
            status, lifted = answer.status, await answer.json()
    assert (status, lifted["state"]) == (200, "cleared"), lifted
    await lanes.until_asked(2, deposit["id"])
    assert (await shown(api, deposit["id"], "mint_queued"))["waits_for"]["who"] == "chain"
    status, accepted, _ = await api.post("/v1/deposits", work, key=refused)
    assert (status, accepted["state"]) == (201, "submitting")
    _, listed, _ = await api.get(root)
    assert pause["id"] not in [one["id"] for one in listed["items"]]
    _, listed, _ = await api.get(f"{root}?standing=false")
    assert pause["id"] in [one["id"] for one in listed["items"]]
    status, problem, _ = await api.post(f"/v1/pauses/{pause['id']}/lift", {"operator": "oscar"})
    assert (status, problem["code"]) == (409, "already_processed")


@pytest.mark.row("A06")
async def test_a06_a_pause_that_a_lane_has_not_answered_acts_already(backend: Backend, api: Api, customer: str) -> None:
    async with Lanes(backend.settings, answers_pauses=False) as lanes:
        await api.account(customer)
        body = {"operator": "olga", "scope": {"account": f"{customer}:EUR"}}
        status, receipt, _ = await api.post("/v1/pauses", body, Prefer="wait=1")
        assert (status, receipt["state"], receipt["id"]) == (202, "set", receipt["pause_id"])

        async def is_told() -> bool:
            return bool(lanes.requests)

        await until(is_told)
        work = {"account_id": f"{customer}:EUR", "amount": "1.00"}
        status, problem, _ = await api.post("/v1/deposits", work)
        assert (status, problem["code"]) == (503, "paused")
        status, accepted, _ = await api.post("/v1/deposits", work, key=(key := str(uuid.uuid4())), Prefer="wait=0")
        assert status == 202

        async def is_decided() -> bool:
            return (await api.get(f"/v1/transactions/{accepted['id']}"))[0] != 200

        await until(is_decided)
        status, problem, _ = await api.get(f"/v1/transactions/{accepted['id']}")
        assert (status, problem["code"], problem["retry"]) == (503, "paused", "same_key")  # given, so never a 404
        assert problem["transaction_id"] == accepted["id"]
        status, read, _ = await api.get(f"/v1/pauses/{receipt['id']}")
        assert (status, read["state"], read["applied_at"]) == (200, "set", None)
    path = f"/v1/pauses/{receipt['id']}/lift"
    status, _, _ = await api.post(path, {"operator": "olga"}, Prefer="wait=0")
    assert status == 202

    async def is_taken() -> bool:
        return (await api.post("/v1/deposits", work, key=key))[0] == 201

    await until(is_taken)
    assert (await api.get(f"/v1/transactions/{accepted['id']}"))[0] == 200


async def test_a_pause_that_is_not_there_is_404(api: Api) -> None:
    missing = str(uuid.uuid4())
    status, problem, _ = await api.get(f"/v1/pauses/{missing}")
    assert (status, problem["code"], problem["pause_id"]) == (404, "pause_not_found", missing)
    key = str(uuid.uuid4())
    for _ in range(2):
        status, problem, _ = await api.post(f"/v1/pauses/{missing}/lift", {"operator": "olga"}, key=key)
        assert (status, problem["code"]) == (404, "pause_not_found")


@pytest.mark.row("A09", "A10", "A11", "S17")
async def test_b3_i9_i10_the_ledger_verifies_and_is_rebuilt_with_settlements_in_it(
    backend: Backend, api: Api, lanes: Lanes, customer: str
) -> None:
    deposit = await by_ach(api, customer, "30.00", mint_to=f"{customer}:AUSD")
    await minted(api, lanes, deposit, 3000)
    await lanes.bank(deposit, "returned", amount=3000, code="R01")
    await shown(api, deposit["id"], "returning")
    under_way = await by_ach(api, customer, "7.00")
    await lanes.bank(under_way, "accepted")
    await shown(api, under_way["id"], "submitted")

    connection = await connect(backend.settings.postgres_read_dsn, READER)
    try:
        checks = await verify(connection, settle_s=20)
    finally:
        await connection.close()
    checks += await deep(backend.settings, settle_s=20)
    assert {check.name: check.offender for check in checks if not check.good} == {}
    looked_at = {check.name: check.checked for check in checks}
    for name in ("tokens_have_their_reserve", "trust_covers_what_is_owed", "in_transit_is_pending"):
        assert looked_at[name], name
    assert looked_at["nothing_settled_twice"] >= 2

    assert (await rebuild(backend.settings)).same


async def breaks_of(backend: Backend, transaction_id: str) -> list[dict[str, Any]]:
    """The open breaks of a transaction after a run without banks and chain."""
    await reconcile(backend.settings.postgres_dsn, Wanted())
    connection = await connect(backend.settings.postgres_read_dsn, READER)
    try:
        rows = await connection.fetch(
            """SELECT break_id, kind, amount, detail, owner FROM reconciliation.break_states
            WHERE transaction_id = $1 AND status = 'open' ORDER BY break_id""",
            transaction_id,
        )
    finally:
        await connection.close()
    return [dict(row) for row in rows]


@pytest.mark.row("A13")
async def test_a13_l49_a_second_return_lies_in_suspense_and_is_a_break_until_the_bank_gives_it_back(
    backend: Backend, api: Api, lanes: Lanes, customer: str
) -> None:
    deposit = await by_ach(api, customer, "40.00")
    await lanes.bank(deposit, "settled", amount=4000)
    await shown(api, deposit["id"], "completed")
    await lanes.bank(deposit, "returned", amount=4000, code="R01")
    await shown(api, deposit["id"], "returned")
    assert await breaks_of(backend, deposit["id"]) == []

    await lanes.bank(deposit, "returned", amount=4000, code="R02")
    twice = await until_event(api, deposit["id"], "deposit.break_opened")
    assert (twice["status"], twice["settlement"]["suspense"]) == ("returned", "-40.00")
    (found,) = await breaks_of(backend, deposit["id"])
    assert (found["kind"], found["amount"], found["owner"]) == ("in_suspense", -4000, None)
    assert await breaks_of(backend, deposit["id"]) == [found]  # found again, it is the same one
    assert (await balances(api, f"{customer}:USD"))["posted"] == "0.00"

    await lanes.bank(deposit, "settled", amount=4000)
    await until_event(api, deposit["id"], "deposit.unmatched")
    assert await breaks_of(backend, deposit["id"]) == []


@pytest.mark.row("A13")
async def test_a13_sec26_what_is_lost_for_good_is_written_off_by_two_persons_and_its_break_says_so(
    backend: Backend, api: Api, lanes: Lanes, customer: str
) -> None:
    deposit = await by_ach(api, customer, "40.00")
    await lanes.bank(deposit, "settled", amount=4000)
    for code in ("R01", "R02"):
        await lanes.bank(deposit, "returned", amount=4000, code=code)
    await until_event(api, deposit["id"], "deposit.break_opened")
    (found,) = await breaks_of(backend, deposit["id"])
    path, why = f"/v1/transactions/{deposit['id']}", "taken twice; the bank's case 4711 is closed"
    before = await usd_of(backend)

    status, problem, _ = await api.post(f"{path}/resolve", {"operator": "olga", "outcome": "write_off"})
    assert (status, problem["code"]) == (400, "missing_fields")
    body = {"operator": "olga", "outcome": "write_off", "note": why}
    status, asked, _ = await api.post(f"{path}/resolve", body)
    assert (status, asked["status"]) == (200, "returned"), asked
    _, shown_, _ = await api.get(path)
    assert (shown_["settlement"]["write_off"], shown_["settlement"]["write_off_by"]) == ("-40.00", "olga")
    assert "olga" in shown_["waits_for"]["what"]
    for operator in ("olga", customer):
        status, problem, _ = await api.post(f"{path}/approve", {"operator": operator})
        assert (status, problem["code"]) == (403, "four_eyes")
    assert await usd_of(backend) == before
    assert [one["break_id"] for one in await breaks_of(backend, deposit["id"])] == [found["break_id"]]

    status, _, _ = await api.post(f"{path}/approve", {"operator": "otto"})
    assert status == 200
    done = await until_event(api, deposit["id"], "deposit.written_off")
    assert (done["status"], done["settlement"].get("suspense"), done["waits_for"]) == ("returned", None, None)
    assert done["settlement"]["note"] == why
    assert await breaks_of(backend, deposit["id"]) == []
    status, ended, _ = await api.get(f"/v1/breaks/{found['break_id']}")
    assert (ended["resolution"], ended["resolved_by"]) == ("written_off", "reconciliation")
    assert ended["note"] == f"olga asked for it, otto has approved it: {why}"
    after = await usd_of(backend)
    moved = {name: after.get(name, 0) - before.get(name, 0) for name in before | after}
    assert {name: amount for name, amount in moved.items() if amount} == {
        "@suspense:unmatched:USD": 4000,  # in the sign of its side: it was 40 below zero
        "@expense:losses:USD": 4000,
        "@bank:bank-a:trust:USD": 4000,
        "@bank:bank-a:operating:USD": -4000,
    }

    # The same amount once more is another matter.
    await lanes.bank(deposit, "returned", amount=4000, code="R02")
    await until_event(api, deposit["id"], "deposit.break_opened")
    (again,) = await breaks_of(backend, deposit["id"])
    assert again["break_id"] != found["break_id"]
    await api.post(f"{path}/resolve", body)
    status, _, _ = await api.post(f"{path}/reject", {"operator": "otto"})
    assert status == 200
    assert [one["break_id"] for one in await breaks_of(backend, deposit["id"])] == [again["break_id"]]
    await verified(backend)


@pytest.mark.row("A04", "A13")
async def test_a04_money_that_nobody_announced_is_sent_back_or_written_off(
    backend: Backend, api: Api, lanes: Lanes
) -> None:
    ids = [await lanes.unannounced("bank-b", "EUR", amount) for amount in (7700, 1234)]
    back, kept = [await shown(api, id_, "unmatched") for id_ in ids]
    assert (back["customer"], back["waits_for"]["who"]) == ("~bank:bank-b", "operator")

    body = {"operator": "olga", "outcome": "sent_back", "note": "pacs.004 of today"}
    status, done, _ = await api.post(f"/v1/transactions/{back['id']}/resolve", body)
    assert (status, done["status"], done["state"]) == (200, "completed", "sent_back"), done
    body = {"operator": "olga", "outcome": "write_off", "note": "nobody has asked for it in five years"}
    status, asked, _ = await api.post(f"/v1/transactions/{kept['id']}/resolve", body)
    assert (status, asked["status"]) == (200, "requires_attention"), asked
    status, done, _ = await api.post(f"/v1/transactions/{kept['id']}/approve", {"operator": "otto"})
    assert (status, done["status"], done["state"]) == (200, "completed", "written_off"), done
    await shown(api, kept["id"], "written_off")
    assert await breaks_of(backend, kept["id"]) == [] == await breaks_of(backend, back["id"])
    await verified(backend)


@pytest.mark.row("A04", "A13")
async def test_a04_money_without_a_reference_is_matched_to_an_account_or_to_the_deposit_that_waits_for_it(
    backend: Backend, api: Api, lanes: Lanes, customer: str
) -> None:
    for asset in ("EUR", "AEUR"):
        await api.post("/v1/accounts", {"customer": customer, "asset": asset})
    body = {"account_id": f"{customer}:EUR", "amount": "50.00", "rail": "sepa", "mint_to": f"{customer}:AEUR"}
    _, deposit, _ = await api.post("/v1/deposits", body)
    waited, plain = [await lanes.unannounced("bank-b", "EUR", amount) for amount in (5000, 1234)]
    for id_ in (waited, plain):
        await shown(api, id_, "unmatched")
        assert [one["kind"] for one in await breaks_of(backend, id_)] == ["in_suspense"]

    async def match(id_: str, **to: str) -> tuple[int, dict[str, Any]]:
        status, found, _ = await api.post(
            f"/v1/transactions/{id_}/resolve", {"operator": "olga", "outcome": "match"} | to
        )
        return status, found

    for to, wrong in (
        ({}, (400, "missing_fields")),
        ({"deposit_id": deposit["id"]}, (400, "missing_fields")),
        ({"account_id": f"{customer}:AEUR"}, (422, "currency_mismatch")),
        ({"account_id": "no account"}, (400, "invalid_account_id")),
    ):
        status, problem = await match(plain, **to)
        assert (status, problem["code"]) == wrong, to
    status, problem, _ = await api.post(
        f"/v1/transactions/{deposit['id']}/resolve",
        {"operator": "olga", "outcome": "match", "account_id": f"{customer}:EUR"},
    )
    assert (status, problem["code"]) == (400, "unknown_field")

    # It cannot be credited: it is in suspense again, and says why.
    await match(plain, account_id=f"{customer}:EUR", deposit_id=deposit["id"])
    again = await shown(api, plain, "unmatched", reason="amount_mismatch")
    assert again["settlement"]["suspense"] == "12.34"
    assert (await balances(api, f"{customer}:EUR"))["posted"] == "0.00"

    status, matched = await match(plain, account_id=f"{customer}:EUR")
    assert (status, matched["status"], matched["state"]) == (200, "completed", "matched"), matched
    await match(waited, account_id=f"{customer}:EUR", deposit_id=deposit["id"])
    await shown(api, waited, "matched")
    await shown(api, deposit["id"], "mint_queued")
    for kind in ("broadcast", "mined", "confirmed"):
        await lanes.chain(deposit, kind, hash="0xab")
    await shown(api, deposit["id"], "completed")
    assert (await balances(api, f"{customer}:EUR"))["posted"] == "12.34"
    assert (await balances(api, f"{customer}:AEUR"))["available"] == "50.000000"
    _, listed, _ = await api.get(f"/v1/accounts/{customer}:EUR/entries")
    assert waited in {one["transaction_id"] for one in listed["items"]}
    assert await breaks_of(backend, plain) == [] == await breaks_of(backend, waited)
    await verified(backend)


async def usd_of(backend: Backend) -> dict[str, int]:
    """The house accounts in USD, each in the sign of its side."""
    connection = await connect(backend.settings.postgres_read_dsn, READER)
    try:
        rows = await connection.fetch(
            """SELECT account_id, sum(posted) AS posted FROM ledger.balances
            WHERE account_id LIKE '@%:USD' GROUP BY account_id"""
        )
    finally:
        await connection.close()
    return {row["account_id"]: int(row["posted"]) for row in rows}


async def verified(backend: Backend) -> None:
    """Every check of `aura ledger verify` holds."""
    connection = await connect(backend.settings.postgres_read_dsn, READER)
    try:
        checks = await verify(connection, settle_s=20)
    finally:
        await connection.close()
    assert {check.name: check.offender for check in checks if not check.good} == {}


@pytest.mark.row("A08")
async def test_a08_a_return_whose_code_nobody_knows_is_booked_and_calls_a_person(
    backend: Backend, api: Api, lanes: Lanes, customer: str
) -> None:
    deposits = [await by_ach(api, customer, "40.00") for _ in range(3)]
    for deposit, code in zip(deposits, ("Z99", "R24", "R02"), strict=True):
        await lanes.bank(deposit, "settled", amount=4000)
        await lanes.bank(deposit, "returned", amount=4000, code=code)
    unknown, double, plain = [await shown(api, deposit["id"], "returned") for deposit in deposits]

    assert [one["reason"] for one in (unknown, double, plain)] == ["unknown_code", "books_disagree", "bank_returned"]
    assert unknown["settlement"]["code"]["action"] == "requires_attention"
    assert (await balances(api, f"{customer}:USD"))["posted"] == "0.00"
    (found,) = await breaks_of(backend, unknown["id"])
    assert (found["kind"], found["amount"]) == ("needs_a_person", 0) and "Z99" in found["detail"]
    (found,) = await breaks_of(backend, double["id"])
    assert found["kind"] == "needs_a_person" and "R24: Duplicate entry" in found["detail"]
    assert await breaks_of(backend, plain["id"]) == []


@pytest.mark.row("A08", "A13")
async def test_a08_a13_a_bank_account_that_a_bank_calls_closed_is_not_used_again_by_this_customer(
    api: Api, lanes: Lanes, customer: str
) -> None:
    first = await by_ach(api, customer, "40.00")
    await lanes.bank(first, "rejected", code="R02")
    await shown(api, first["id"], "rejected")
    body = {"account_id": f"{customer}:USD", "amount": "40.00", "rail": "ach", "payer": PAYER}
    status, problem, _ = await api.post("/v1/deposits", body)
    assert (status, problem["code"]) == (422, "bank_account_disabled")
    another = PAYER | {"account": "021000021/987654321"}
    status, _, _ = await api.post("/v1/deposits", body | {"payer": another})
    assert status == 201
    stranger = f"{customer}-other"
    await by_ach(api, stranger, "40.00")  # nothing is known about anybody else

    enable = {"operator": "olga", "outcome": "enable_account", "note": "the bank was wrong"}
    status, _, _ = await api.post(f"/v1/transactions/{first['id']}/resolve", enable)
    assert status == 200
    status, problem, _ = await api.post(f"/v1/transactions/{first['id']}/resolve", enable)
    assert (status, problem["code"]) == (409, "invalid_state_transition")
    status, _, _ = await api.post("/v1/deposits", body)
    assert status == 201


@pytest.mark.row("A08", "A13")
async def test_a08_a13_a_code_that_asks_for_a_person_is_a_break_until_somebody_ends_it(
    backend: Backend, api: Api, lanes: Lanes, customer: str
) -> None:
    back, refused, late = [await by_ach(api, customer, "40.00") for _ in range(3)]
    for deposit in (back, late):
        await lanes.bank(deposit, "settled", amount=4000)
    await lanes.bank(back, "returned", amount=4000, code="R16")
    await lanes.bank(refused, "rejected", code="R85")
    for code in ("R01", "R16"):  # of a second return, whose money is in suspense
        await lanes.bank(late, "returned", amount=4000, code=code)
    await shown(api, back["id"], "returned")
    await shown(api, refused["id"], "rejected")
    await until_event(api, late["id"], "deposit.break_opened")

    breaks = {one["id"]: await breaks_of(backend, one["id"]) for one in (back, refused, late)}
    assert [(one["kind"], one["owner"]) for one in breaks[back["id"]]] == [("needs_a_person", "compliance")]
    assert [(one["kind"], one["owner"]) for one in breaks[refused["id"]]] == [("needs_a_person", "compliance")]
    assert {(one["kind"], one["owner"]) for one in breaks[late["id"]]} == {
        *(("in_suspense", None), ("needs_a_person", "compliance")),
    }
    (case,) = breaks[back["id"]]
    assert case["detail"] == "R16: Account frozen, or returned on OFAC's instruction (compliance)"
    status, listed, _ = await api.get("/v1/breaks?owner=compliance&status=open&limit=200")
    assert status == 200 and case["break_id"] in {one["id"] for one in listed["items"]}

    # A code that freezes is a case of any operator.
    frozen = await by_ach(api, customer, "40.00")
    await lanes.bank(frozen, "settled", amount=4000)
    await lanes.bank(frozen, "returned", amount=4000, code="R10")
    await shown(api, frozen["id"], "returned")
    (found,) = await breaks_of(backend, frozen["id"])
    assert (found["kind"], found["owner"], found["amount"]) == ("needs_a_person", None, 0)
    assert found["detail"].startswith("R10: ") and found["detail"].endswith("(freeze)")
    _, account, _ = await api.get(f"/v1/accounts/{customer}:USD")
    assert account["status"] == "frozen"

    # It is theirs until somebody says what came of it, and then stays ended.
    assert await breaks_of(backend, back["id"]) == [case]
    path = f"/v1/breaks/{case['break_id']}"
    status, _, _ = await api.post(f"{path}/resolve", {"resolution": "explained", "note": "case 4711 closed"})
    assert status == 200
    assert await breaks_of(backend, back["id"]) == []
    _, ended, _ = await api.get(path)
    assert [one["action"] for one in ended["history"]] == ["opened", "assigned", "resolved"]


@pytest.mark.row("A15")
async def test_a15_sec26_attempts_are_shown_in_their_order_without_secrets_and_to_nobody_else(
    backend: Backend, api: Api, customer: str
) -> None:
    deposit = await by_ach(api, customer, "40.00")
    told = "the bank says: Authorization: Bearer eyJabcdefgh.ijklmnop.qrstuvwx and https://ada:hunter22@bank.test/v1"
    await attempted(backend, deposit["id"], 2, "inquire", "rejected", code="R03", status=200)
    await attempted(backend, deposit["id"], 1, "submit", "lost", detail=told)
    await attempted(backend, deposit["id"], 3, "submit", "")
    await attempted(backend, deposit["id"], 4, "submit", "accepted", tenant="demo")

    _, read, _ = await api.get(f"/v1/transactions/{deposit['id']}")

    lost, rejected, under_way = read["attempts"]
    assert (lost["lane"], lost["step"], lost["kind"], lost["number"]) == ("bank:bank-a", "debit", "submit", 1)
    assert (lost["answer"], lost["http_status"], lost["breaker"], lost["took_ms"]) == ("lost", None, "closed", 7)
    assert "hunter22" not in lost["detail"] and "eyJ" not in lost["detail"] and "the bank says" in lost["detail"]
    assert (rejected["answer"], rejected["http_status"]) == ("rejected", 200)
    assert rejected["code"]["meaning"] == "No account, or unable to locate the account"
    assert (under_way["answer"], under_way["ended_at"]) == (None, None)
    manual = await api.post("/v1/deposits", {"account_id": f"{customer}:USD", "amount": "1.00"})
    _, read, _ = await api.get(f"/v1/transactions/{manual[1]['id']}")
    assert "attempts" not in read


async def attempted(
    backend: Backend,
    transaction_id: str,
    number: int,
    kind: str,
    answer: str,
    *,
    tenant: str = "default",
    code: str = "",
    status: int = 0,
    detail: str = "",
) -> None:
    """A row as the connectors' sink writes it."""
    connection = await connect(backend.settings.postgres_write_dsn, WRITER)
    try:
        await connection.execute(
            """INSERT INTO settlement.attempts (lane, reference, number, kind, transaction_id, tenant_id, step, breaker,
                started_at, ended_at, answer, code, status, detail, took_ms)
            VALUES ('bank:bank-a', $1::text, $2::integer, $3, $1::text::uuid, $4, 'debit', 'closed',
                to_timestamp($2::integer + 1763600000),
                CASE WHEN $5 <> '' THEN to_timestamp($2::integer + 1763600001) END, $5::text, $6, $7, $8, 7)""",
            *(transaction_id, number, kind, tenant, answer, code, status, detail),
        )
    finally:
        await connection.close()


async def until_event(api: Api, id_: str, type_: str) -> dict[str, Any]:
    """The transaction once an event of this type is its last."""

    async def found() -> dict[str, Any] | None:
        _, transaction, _ = await api.get(f"/v1/transactions/{id_}")
        return transaction if transaction["events"][-1]["type"] == type_ else None

    transaction: dict[str, Any] = await until(found)
    return transaction
