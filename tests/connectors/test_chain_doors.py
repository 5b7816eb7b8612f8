"""The chain's own pause, an operator's cancel of a nonce, and tokens that come back from outside, on a real chain."""

from __future__ import annotations

import json
import secrets

import pytest

from aura_stream.chain import token as contract
from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainNode
from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import SigningKey, Transaction, derived, load_key, sign
from aura_stream.domain.ids import bank_reference
from tests.connectors.test_chain import attention, chaos, house, minted, stuck
from tests.connectors.test_lanes import ask
from tests.connectors.town import Town, soon

__all__ = ["chaos"]

pytestmark = pytest.mark.timeout(400)  # starting a town is a part of its first test
LANE = "chain:local:AEUR"


async def is_paused(town: Town, token: str, acts: int) -> None:
    async def missing() -> str:
        async with ChainNode(town.anvil.rpc_url) as node:
            address = token_address(derived(load_key(town.settings), token))
            found = await node.read(address, "paused")
        return "" if found == acts else f"it refuses {found}"

    await soon(missing, f"the contract of {token} refuses {acts}", town)


@pytest.mark.row("A06")
async def test_a06_a_pause_of_the_chain_is_the_contracts_own_and_lifting_it_drains(town: Town) -> None:
    await town.customer("paused", "EUR", "AEUR")
    asked = {"account_id": "paused:EUR", "amount": "10.00", "rail": "sepa_instant", "mint_to": "paused:AEUR"}
    id_ = await town.send("deposit.submit", "paused", asked)
    await town.reaches(id_, "awaiting_funds")
    scope = {"chain": "local", "asset": "AEUR"}
    pause = await town.send("pause.set", "ops", {"operator": "olga", "scope": scope, "note": "the key is in doubt"})
    await is_paused(town, "AEUR", 7)
    await is_paused(town, "AUSD", 0)
    await town.push(bank_reference(id_, "deposit"), "10.00")
    await town.reaches(id_, "mint_queued")

    async def shown() -> str:
        figures = (await ask(town, "GET", f"/v1/lanes/{LANE}"))[1]["figures"]
        return "" if (figures["acts"], figures["acts_final"]) == ("7", "7") else str(figures)

    await soon(shown, "the lane says so, at finality too", town)
    await town.send("pause.lift", "ops", {"operator": "olga", "pause_id": pause})

    await town.reaches(id_, "completed")
    await is_paused(town, "AEUR", 0)


@pytest.mark.row("N32", "A04")
async def test_n32_an_operator_cancels_a_stuck_nonce_and_the_mint_fails_only_once_that_is_final(
    town: Town, chaos: Chaos
) -> None:
    before = await town.supply("AEUR")
    id_ = await stuck(town, chaos, "canceled")
    (attempt, *_) = await town.attempts(id_)
    nonce = attempt["detail"].removeprefix("nonce ")
    done = await town.aura("lanes", "cancel-nonce", LANE, "--nonce", nonce, "--note", "ada: the customer cannot wait")
    assert done.returncode == 0, done.stderr
    (cancel,) = json.loads(done.stdout)["cancels"]
    assert (cancel["outcome"], cancel["transaction_id"], str(cancel["nonce"])) == ("canceled", id_, nonce)
    await chaos.resume_mining()

    await attention(town, id_, "chain_failed")
    assert await town.supply("AEUR") == before
    told = {one["reference"]: one["answer"] for one in await town.attempts(id_)}
    assert told[cancel["hash"]] == "taken"
    status, _ = await ask(town, "POST", f"/v1/lanes/{LANE}/cancel-nonce", {"nonce": int(nonce), "note": "again"})
    assert status == 409, "nothing waits under it any more"
    (audited,) = await town.fetch("SELECT subject FROM identity.audit_log WHERE action = 'lane.cancel_nonce' LIMIT 1")
    assert LANE in audited["subject"]
    resolve = {"operator": "olga", "transaction_id": id_, "outcome": "mint_again"}
    await town.send("transaction.resolve", "canceled", resolve)
    await town.reaches(id_, "completed")
    assert await town.supply("AEUR") == before + 10_000_000
    assert await minted(town, id_) == [0, 10_000_000, 0]


async def moved(town: Town, node: ChainNode, key: SigningKey, to: str, amount: int) -> None:
    """Somebody outside sends tokens."""
    address = token_address(derived(load_key(town.settings), "AEUR"))
    chain_id, _ = await node.identity()
    nonce = await node.nonce(key.address, "pending")
    call = contract.transfer(to, amount)
    signed = sign(Transaction(chain_id, nonce, address, call, 100_000, await node.market()), key)
    assert await node.send_all([signed]) == [None]


@pytest.mark.row("A04", "N32")
async def test_a04_n32_tokens_held_outside_come_back_to_the_deposit_address_once(town: Town, chaos: Chaos) -> None:
    outside = SigningKey(secrets.token_bytes(32))
    await chaos.fund(outside.address)
    await town.customer("back", "EUR", "AEUR")
    asked = {"account_id": "back:EUR", "amount": "10.00", "rail": "sepa_instant", "mint_to": outside.address}
    id_ = await town.send("deposit.submit", "back", asked)
    await town.reaches(id_, "awaiting_funds")
    await town.push(bank_reference(id_, "deposit"), "10.00")
    await town.reaches(id_, "completed")
    supply = await town.supply("AEUR")

    status, refused = await ask(town, "POST", "/v1/accounts/back:EUR/deposit-address", {})
    assert (status, refused["code"]) == (400, "unsupported_asset")
    assert (await ask(town, "POST", "/v1/accounts/nobody:AEUR/deposit-address", {}))[0] == 404
    status, first = await ask(town, "POST", "/v1/accounts/back:AEUR/deposit-address", {})
    assert status in (200, 202), first

    async def missing() -> str:
        _, found = await ask(town, "GET", "/v1/accounts/back:AEUR/deposit-address")
        return "" if found["address"] else str(found)

    await soon(missing, "it has an address", town)
    _, given = await ask(town, "GET", "/v1/accounts/back:AEUR/deposit-address")
    again = await town.aura("account", "deposit-address", "back:AEUR")
    assert json.loads(again.stdout)["address"] == given["address"]

    custody = await house(town, "@custody:chain:local:AEUR")
    async with ChainNode(town.anvil.rpc_url) as node:
        # Its block is lost before it is final: nothing has come.
        await chaos.stop_mining()
        await moved(town, node, outside, given["address"], 1_000_000)
        await chaos.mine(1)
        await chaos.reorg(1)
        await chaos.drop_all()
        await chaos.resume_mining()
        await moved(town, node, outside, given["address"], 4_000_001)
        await moved(town, node, outside, given["address"], 2_500_000)

        async def uncredited() -> str:
            found = await town.balance("back:AEUR")
            return "" if found == 6_500_001 else f"{found} credited"

        await soon(uncredited, "both are credited", town)
        held = await node.balance_of(
            token_address(derived(load_key(town.settings), "AEUR")),
            derived(load_key(town.settings), "AEUR").address,
            "latest",
        )
    assert await house(town, "@custody:chain:local:AEUR") == custody + 6_500_001 == held
    assert await town.supply("AEUR") == supply
    rows = await town.fetch(
        "SELECT status, amount FROM ledger.transactions WHERE to_account_id = 'back:AEUR' AND state = 'completed' "
        "AND asset = 'AEUR' ORDER BY amount"
    )
    assert [(row["status"], int(row["amount"])) for row in rows] == [("completed", 2_500_000), ("completed", 4_000_001)]

    # What came back is burnt and paid out like any other.
    iban = {"name": "Back", "account": "DE89370400440532013000"}
    paid = {"account_id": "back:AEUR", "amount": "6.50", "rail": "sepa_instant", "beneficiary": iban}
    out = await town.send("withdrawal.submit", "back", paid)
    await town.reaches(out, "completed", within_s=120)
    assert await town.supply("AEUR") == supply - 6_500_000

    # Dust waits at the address, outside, and is credited with what makes it enough.
    assert given["least"] == "1.000000"

    async def waiting(amount: str) -> None:
        async def otherwise() -> str:
            found: str = (await ask(town, "GET", f"/v1/lanes/{LANE}"))[1]["figures"]["waiting"]
            return "" if found == amount else f"{found} waits"

        await soon(otherwise, f"{amount} waits", town)

    async with ChainNode(town.anvil.rpc_url) as node:
        await moved(town, node, outside, given["address"], 300_000)
        await waiting("0.300000")
        assert await town.balance("back:AEUR") == 1
        await moved(town, node, outside, given["address"], 700_000)
        await waiting("0.000000")

        async def short() -> str:
            found = await town.balance("back:AEUR")
            return "" if found == 1_000_001 else f"{found} credited"

        await soon(short, "both are credited at once", town)

    done = await town.aura("rebuild", "--json", **town.env)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["same"] and not found["passed_over"]
    deep = await town.aura("ledger", "verify", "--deep", "--json", **town.env)
    assert [one for one in json.loads(deep.stdout) if one["offender"]] == []


@pytest.mark.row("A04", "A17")
async def test_b5_native_money_in_custody_is_what_the_chain_says_that_our_keys_have(town: Town, chaos: Chaos) -> None:
    """After pauses, a cancelled nonce, the forwarder's contract, mints, burns and sweeps; and a top-up by hand."""
    keys = [derived(load_key(town.settings), token) for token in ("AUSD", "AEUR")]
    async with ChainNode(town.anvil.rpc_url) as node:

        async def has() -> int:
            return sum([await node.native_of(key.address, "finalized") for key in keys])

        async def differing() -> str:
            booked, there = await house(town, "@custody:chain:local:ETH"), await has()
            return "" if booked == there else f"{booked} booked, {there} there"

        await soon(differing, "custody is what the keys have", town, within_s=120)
        before = await has()
        rich = SigningKey(secrets.token_bytes(32))
        await chaos.fund(rich.address)
        chain_id, _ = await node.identity()
        more = 3 * 10**17
        top_up = Transaction(chain_id, 0, keys[1].address, b"", 21_000, await node.market(), value=more)
        assert await node.send_all([sign(top_up, rich)]) == [None]

        async def missing() -> str:
            there = await has()
            return "" if there == before + more else f"{there - before} more"

        await soon(missing, "it is final", town)
        await soon(differing, "it is booked", town, within_s=120)
    rows = await town.fetch(
        "SELECT history -> 0 -> 'by_bank' ->> 'note' AS step FROM ledger.transactions WHERE type = 'gas'"
    )
    assert {row["step"] for row in rows} == {"received", "pause", "cancel", "deploy"}
    assert await house(town, "@expense:gas:ETH") > 0
