"""Money comes in through real processes and becomes tokens on a real chain, and back."""

from __future__ import annotations

import pytest

from aura_stream.domain.ids import bank_reference
from tests.connectors.town import Town, soon

pytestmark = pytest.mark.timeout(400)  # starting a town is a part of its first test

RECEIVER = {"name": "Bob Example", "account": "021000021/123456789"}
DAY = 24 * 60 * 60


@pytest.mark.row("A04", "A07", "A13")
async def test_a07_a_push_by_sepa_is_matched_and_credited(town: Town) -> None:
    await town.customer("anna", "EUR")

    id_ = await town.send(
        "deposit.submit", "anna", {"account_id": "anna:EUR", "amount": "12.50", "rail": "sepa_instant"}
    )
    await town.reaches(id_, "awaiting_funds")
    await town.push(bank_reference(id_, "deposit"), "12.50")

    await town.reaches(id_, "completed")
    assert await town.balance("anna:EUR") == 1250


@pytest.mark.row("A04", "A07", "A25")
async def test_a04_a07_a_push_by_sepa_becomes_tokens_on_the_chain(town: Town) -> None:
    await town.customer("bert", "EUR", "AEUR")

    submitted = {"account_id": "bert:EUR", "amount": "20.00", "rail": "sepa_instant", "mint_to": "bert:AEUR"}
    id_ = await town.send("deposit.submit", "bert", submitted)
    await town.reaches(id_, "awaiting_funds")
    await town.push(bank_reference(id_, "deposit"), "20.00")

    await town.reaches(id_, "completed")
    assert await town.balance("bert:AEUR") == 20_000_000
    assert await town.supply("AEUR") == 20_000_000
    (attempt,) = await town.attempts(id_)
    assert (attempt["kind"], attempt["answer"], attempt["lane"]) == ("broadcast", "taken", "chain:local:AEUR")


@pytest.mark.row("A04", "A07", "A15")
async def test_a04_a07_a_pull_by_ach_becomes_tokens_on_the_chain(town: Town) -> None:
    await town.customer("carl", "USD", "AUSD")

    submitted = {"account_id": "carl:USD", "amount": "30.00", "rail": "ach", "mint_to": "carl:AUSD", "payer": RECEIVER}
    id_ = await town.send("deposit.submit", "carl", submitted)
    await town.reaches(id_, "submitted")
    await town.pass_time(5 * DAY)

    await town.reaches(id_, "completed")
    assert await town.balance("carl:AUSD") == 30_000_000
    assert await town.supply("AUSD") == 30_000_000
    submit, broadcast = await town.attempts(id_)
    assert (submit["kind"], submit["answer"], submit["status"]) == ("submit", "accepted", 201)
    assert (broadcast["kind"], broadcast["answer"]) == ("broadcast", "taken")
    assert (await town.at_bank("bank-a", submit["reference"]))["acted"] == 1


@pytest.mark.row("A15")
async def test_a15_every_attempt_outside_is_shown_with_its_transaction_on_bank_and_chain(town: Town) -> None:
    await town.customer("fred", "USD", "AUSD")
    submitted = {"account_id": "fred:USD", "amount": "30.88", "rail": "ach", "mint_to": "fred:AUSD", "payer": RECEIVER}
    id_ = await town.send("deposit.submit", "fred", submitted)  # .88: 503 twice, then it works
    await town.reaches(id_, "submitted")
    await town.pass_time(5 * DAY)
    await town.reaches(id_, "completed")

    shown = await town.http("GET", f"/v1/transactions/{id_}")

    tried = [(one["lane"], one["step"], one["kind"], one["number"], one["answer"]) for one in shown["attempts"]]
    assert tried == [
        ("bank:bank-a", "debit", "submit", 1, "not_processed"),
        ("bank:bank-a", "debit", "submit", 2, "not_processed"),
        ("bank:bank-a", "debit", "submit", 3, "accepted"),
        ("chain:local:AUSD", "mint", "broadcast", 1, "taken"),
    ]
    first, _, third, broadcast = shown["attempts"]
    assert (first["http_status"], first["breaker"], third["http_status"]) == (503, "closed", 201)
    assert all(one["started_at"] <= one["ended_at"] for one in shown["attempts"])
    assert broadcast["reference"] == shown["settlement"]["hash"]
    assert first["reference"] == third["reference"] and (await town.at_bank("bank-a", third["reference"]))["acted"] == 1

    lanes = {one["lane"]: one for one in (await town.http("GET", "/v1/lanes"))["items"]}
    assert lanes["bank:bank-a"]["breaker"] == "closed" and lanes["chain:local:AUSD"]["stopped"] is None
    told = await town.aura("tx", "show", id_, COLUMNS="250")
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("not_processed (HTTP 503") == 2 and broadcast["reference"] in told.stdout


@pytest.mark.row("A04", "A07")
async def test_a04_a07_a_withdrawal_burns_and_pays_out(town: Town) -> None:
    await town.customer("dora", "EUR", "AEUR")
    submitted = {"account_id": "dora:EUR", "amount": "40.00", "rail": "sepa_instant", "mint_to": "dora:AEUR"}
    deposit = await town.send("deposit.submit", "dora", submitted)
    await town.reaches(deposit, "awaiting_funds")
    await town.push(bank_reference(deposit, "deposit"), "40.00")
    await town.reaches(deposit, "completed")
    supply = await town.supply("AEUR")

    beneficiary = {"name": "Dora Example", "account": "DE89370400440532013000"}
    asked = {"account_id": "dora:AEUR", "amount": "15.00", "rail": "sepa_instant", "beneficiary": beneficiary}
    id_ = await town.send("withdrawal.submit", "dora", asked)

    await town.reaches(id_, "completed")
    assert await town.balance("dora:AEUR") == 25_000_000
    assert await town.supply("AEUR") == supply - 15_000_000
    kinds = [attempt["kind"] for attempt in await town.attempts(id_)]
    assert kinds == ["broadcast", "submit"]


@pytest.mark.row("A25", "A17", "A11", "A05")
async def test_a25_a_deposit_of_the_contract_becomes_entries_tokens_and_a_status(town: Town) -> None:
    """The whole way by public doors: HTTP, the payer's bank, HTTP again, and the chain's own word."""
    supply = await town.supply("AEUR")
    for asset in ("EUR", "AEUR"):
        await town.http("POST", "/v1/accounts", {"customer": "emil", "asset": asset})
    asked = {"account_id": "emil:EUR", "amount": "25.00", "rail": "sepa_instant", "mint_to": "emil:AEUR"}
    deposit = await town.http("POST", "/v1/deposits", asked)
    assert (deposit["status"], deposit["waits_for"]["who"]) == ("processing", "payer")

    await town.push(deposit["settlement"]["reference"], "25.00")

    shown = deposit

    async def missing() -> str:
        nonlocal shown
        shown = await town.http("GET", f"/v1/transactions/{deposit['id']}")
        return "" if shown["status"] == "completed" else f"{shown['status']}/{shown['state']}"

    await soon(missing, "the status endpoint says that it is completed", town)
    assert await town.supply("AEUR") == supply + 25_000_000
    assert shown["settlement"]["hash"].startswith("0x") and shown["waits_for"] is None
    booked = {(entry["account_id"], entry["asset"]) for entry in shown["entries"]}
    expected = {
        *(("@bank:bank-b:trust:EUR", "EUR"), ("emil:EUR", "EUR"), ("@reserve:AEUR:EUR", "EUR")),
        *(("@custody:chain:local:AEUR", "AEUR"), ("emil:AEUR", "AEUR")),
    }
    assert expected <= booked
    states = [event["state"] for event in shown["events"]]
    assert states == [
        "awaiting_funds",
        "funds_settled",
        "mint_queued",
        "mint_broadcast",
        "mint_confirming",
        "completed",
    ]


@pytest.mark.row("A18", "A08")
async def test_a08_what_connectors_told_is_computed_anew_with_all_else(town: Town) -> None:
    for command in (("ledger", "verify", "--deep"), ("rebuild",)):
        result = await town.aura(*command)
        assert result.returncode == 0, result.stdout + result.stderr
