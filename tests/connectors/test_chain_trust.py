"""A node that goes away, lies or shows another chain, and people who have our key: the lane mints nothing twice, signs
nothing on a false view, says what is the case, and has a way out."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aura_stream.chain import token as contract
from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainNode, Kind, Refused
from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import Fees, SigningKey, Transaction, derived, load_key, sign
from aura_stream.chain.token import Role
from aura_stream.domain.ids import bank_reference, chain_reference
from aura_stream.embedded.anvil import AnvilServer
from tests.chain.proxy import Answer, Request, lying_url
from tests.connectors.test_chain import attention, chaos, minted, minting, stuck
from tests.connectors.test_lanes import LANE, ask, is_stopped, lane
from tests.connectors.town import Town, soon

__all__ = ["chaos"]

pytestmark = pytest.mark.timeout(500)  # starting a town is a part of its first test


def minter(town: Town) -> SigningKey:
    return derived(load_key(town.settings), "AEUR")


async def asks(town: Town, url: str) -> None:
    """The connector asks another node from now on, and does not wait long when that fails."""
    if town.processes["chain-0"].alive:
        await town.terminate("chain-0")
    await town.start("chain", AURA_CHAIN_RPC_URL=url, AURA_CHAIN_LIMITS='{"backoff_ms": 200}')


async def release(town: Town, stopped: str, name: str = LANE) -> None:
    body = {"stopped": stopped, "note": "ada has looked"}
    status, found = await ask(town, "POST", f"/v1/lanes/{name}/release", body)
    assert status in (200, 202), found


async def transact(town: Town, key: SigningKey, data: bytes, hurry: int = 2) -> None:
    """Somebody gives a transaction to the token, behind the product's back."""
    async with ChainNode(town.anvil.rpc_url) as node:
        chain_id, _ = await node.identity()
        market = await node.market()
        fees = Fees(market.max_fee * hurry, market.tip * hurry)
        nonce = await node.nonce(key.address)
        signed = sign(Transaction(chain_id, nonce, token_address(minter(town)), data, 200_000, fees), key)
        await node.send(signed)


@pytest.fixture
async def own_node(town: Town) -> AsyncIterator[None]:
    """In the end the connector asks the chain's own node again."""
    yield
    town.anvil.process.thaw()
    await town.call(town.anvil.start)
    await asks(town, town.anvil.rpc_url)


@pytest.mark.row("A14", "N32", "L49")
async def test_a14_n32_the_chains_breaker_opens_lets_one_call_through_and_closes_when_the_node_is_back(
    town: Town, own_node: None
) -> None:
    asked: list[str] = []
    lanes = (LANE, "chain:local:AUSD")

    def heard(request: Request) -> None:
        asked.append(request["method"])

    async def half_opens() -> int:
        return sum([(await town.told_of(one)).count("lane.breaker_half_open") for one in lanes])

    async def stands(breaker: str, figure: int, *which: str) -> None:
        async def otherwise() -> str:
            for one in which or (LANE,):
                shown = (await ask(town, "GET", f"/v1/lanes/{one}"))[1].get("breaker")
                measured = (await town.metrics("chain-0")).get(("aura_lane_breaker", one))
                if (shown, measured) != (breaker, figure):
                    return f"{one}: the API says {shown}, the metric {measured}"
            return ""

        await soon(otherwise, f"API and metric say {breaker}", town, within_s=120)

    async with lying_url(town.anvil.rpc_url, refuse=heard) as url:
        await asks(town, url)
        await town.reaches(await minting(town, "breaker-0"), "completed")
        await town.customer("breaker-0", "AUSD")
        await town.customer("breaker-2", "EUR", "AEUR")
        asked_for = {"account_id": "breaker-2:EUR", "amount": "10.00", "rail": "sepa_instant"}
        second = await town.send("deposit.submit", "breaker-2", asked_for | {"mint_to": "breaker-2:AEUR"})
        await town.reaches(second, "awaiting_funds")
        await stands("closed", 0)
        before = len(await town.told_of(LANE))

        await town.call(town.anvil.stop)
        first = await minting(town, "breaker-1")
        await ask(town, "POST", "/v1/accounts/breaker-0:AUSD/deposit-address", {})  # so that the other lane looks too
        await stands("open", 2, *lanes)
        assert (await town.transaction(first))[1] == "mint_queued"

        # It is there again and does not answer. A call that is let through hangs, so that it can be seen.
        await town.call(town.anvil.start)
        town.anvil.process.freeze()
        earlier = -1
        while asked or earlier != await half_opens():
            earlier = await half_opens()
            asked.clear()
            await asyncio.sleep(0.5)

        async def otherwise() -> str:
            # An event is seen later than its call: of each lane one from before may be among those that are new.
            more = await half_opens() - earlier
            is_alone = set(asked) == {"eth_chainId"} and 0 <= more - len(asked) <= len(lanes)
            return "" if is_alone and len(asked) >= 2 * len(lanes) else f"{asked}, and {more} times half-open"

        await stands("half_open", 1)
        await town.push(bank_reference(second, "deposit"), "10.00")  # which asks the lane to look again
        await town.reaches(second, "mint_queued")
        await soon(otherwise, "half-open lets one call through", town)
        town.anvil.process.thaw()

        await stands("closed", 0)
        for id_ in (first, second):
            await town.reaches(id_, "completed")
            assert await minted(town, id_) == [10_000_000, 0, 0]
    told = (await town.told_of(LANE))[before:]
    assert (told[0], told[-1]) == ("lane.breaker_opened", "lane.breaker_closed")
    assert told[1::2] == ["lane.breaker_half_open"] * len(told[1::2])


LIES: dict[str, Any] = {
    "eth_chainId": "0x" + "f" * 60,
    "eth_feeHistory": {"baseFeePerGas": ["0x" + "f" * 64]},
    "eth_getTransactionCount": "0x" + "f" * 64,
    "eth_getBlockByNumber": "<html>sign in</html>",
    "eth_call": "0x",
    "eth_getBalance": -1,
}


@pytest.mark.row("SEC34", "N32")
async def test_sec34_a_node_that_answers_what_no_node_answers_opens_the_breaker_and_changes_nothing(
    town: Town, own_node: None
) -> None:
    told_lies: set[str] = set()
    lying = True

    def change(request: Request, answer: Answer) -> Answer:
        method = request["method"]
        if lying and method in LIES and (method not in told_lies or told_lies == set(LIES)):
            told_lies.add(method)
            return answer | {"result": LIES[method]}
        return answer

    supply, before = await town.supply("AEUR"), len(await town.told_of(LANE))
    async with lying_url(town.anvil.rpc_url, change) as url:
        await asks(town, url)
        id_ = await minting(town, "lied-to")

        async def otherwise() -> str:
            missing, told = set(LIES) - told_lies, (await town.told_of(LANE))[before:]
            return "" if not missing and "lane.breaker_opened" in told else f"{missing}, {told}"

        await soon(otherwise, "all lies are told, and the breaker is open", town, within_s=150)
        found = await lane(town)
        assert (found["stopped"], found["figures"]["seen_nonce"]) == (None, "0"), "no lie is taken for a foreign nonce"
        assert await town.supply("AEUR") == supply
        assert (await town.transaction(id_))[1] == "mint_queued"
        lying = False

        await town.reaches(id_, "completed", within_s=120)
        assert await minted(town, id_) == [10_000_000, 0, 0]


@pytest.mark.row("N32", "A04")
async def test_n32_above_a_limit_a_mint_is_credited_at_finality_and_below_after_its_confirmations(
    town: Town, chaos: Chaos, own_node: None
) -> None:
    await town.terminate("chain-0")
    await town.start("chain", AURA_CHAIN_LIMITS='{"final_above": 10000000}')
    await chaos.stop_mining()
    below, above = await minting(town, "below"), await minting(town, "above", "10.05")
    for id_ in (below, above):
        await town.reaches(id_, "mint_broadcast")
    await chaos.mine(2)
    await town.reaches(below, "completed")
    # The same look has seen both.
    await town.reaches(above, "mint_confirming")
    assert (await town.transaction(above))[1] == "mint_confirming"
    assert await town.balance("above:AEUR") == 0
    await chaos.mine(12)  # four blocks are an epoch, and two epochs final

    await town.reaches(above, "completed")
    assert [(await minted(town, id_))[0] for id_ in (below, above)] == [10_000_000, 10_050_000]


@pytest.mark.row("N32", "SEC34", "A04")
async def test_n32_sec34_a_node_of_another_chain_stops_the_lane_and_nothing_of_ours_is_put_there(
    town: Town, own_node: None, tmp_path: Path
) -> None:
    other = AnvilServer(tmp_path / "other", chain_id=31338, block_time_s=0.25, tied=True)
    await town.call(other.start)
    try:
        await asks(town, other.rpc_url)
        for name in (LANE, "chain:local:AUSD"):
            await is_stopped(town, "another_chain", name)
        id_ = await minting(town, "elsewhere")
        await town.reaches(id_, "mint_queued")
        async with ChainNode(other.rpc_url) as node:
            key = minter(town).address
            assert (await node.nonce(key), await node.native_of(key)) == (0, 0)
        await asks(town, town.anvil.rpc_url)
        assert (await lane(town))["stopped"] == "another_chain", "a person says that it is right again"
        assert await minted(town, id_) == [0, 0, 0]
        for name in (LANE, "chain:local:AUSD"):
            await release(town, "another_chain", name)

        await town.reaches(id_, "completed")
        assert await minted(town, id_) == [10_000_000, 0, 0]
    finally:
        await town.call(other.stop)


@pytest.mark.row("N32", "SEC34", "A04")
async def test_n32_a_mint_whose_reference_somebody_else_has_used_is_no_mint_of_ours_and_has_a_way_out(
    town: Town, chaos: Chaos
) -> None:
    """Somebody has our key, gives a role away by it, and mints first what we were about to mint, and to himself."""
    thief = SigningKey(secrets.token_bytes(32))
    await chaos.fund(thief.address)
    await transact(town, minter(town), contract.set_roles(thief.address, Role.MINTER))
    await is_stopped(town, "foreign_nonce")
    await release(town, "foreign_nonce")
    await town.reaches(await minting(town, "before-the-thief"), "completed")
    supply = await town.supply("AEUR")
    id_ = await stuck(town, chaos, "robbed")
    reference = bytes.fromhex(chain_reference(id_, "mint/1"))
    await transact(town, thief, contract.mint(thief.address, 77, reference), hurry=20)
    await chaos.resume_mining()

    await is_stopped(town, "reference_used_elsewhere")
    assert await minted(town, id_) == [77, 0, 0], "ours has reverted"
    assert (await town.transaction(id_))[0] == "processing"
    assert await town.balance("robbed:AEUR") == 0
    shown = await town.aura("lanes", "show", LANE)
    assert "asks for a person" in shown.stdout, shown.stdout
    await release(town, "reference_used_elsewhere")
    await attention(town, id_, "chain_failed")
    resolve = {"operator": "olga", "transaction_id": id_, "outcome": "mint_again"}
    await town.send("transaction.resolve", "robbed", resolve)

    await town.reaches(id_, "completed")
    assert await town.balance("robbed:AEUR") == 10_000_000
    assert await minted(town, id_) == [77, 10_000_000, 0]
    assert await town.supply("AEUR") == supply + 77 + 10_000_000


@pytest.mark.row("N32", "A04")
async def test_n32_a_mint_whose_nonce_somebody_else_has_used_stops_the_lane_and_has_a_way_out(
    town: Town, chaos: Chaos
) -> None:
    id_ = await stuck(town, chaos, "outbid")
    await transact(town, minter(town), contract.set_paused(contract.Act.NONE), hurry=3)
    await chaos.resume_mining()

    await is_stopped(town, "foreign_nonce")
    await attention(town, id_, "chain_failed")
    await release(town, "foreign_nonce")
    resolve = {"operator": "olga", "transaction_id": id_, "outcome": "mint_again"}
    await town.send("transaction.resolve", "outbid", resolve)
    await town.reaches(id_, "completed")
    assert await minted(town, id_) == [0, 10_000_000, 0]


@pytest.mark.row("N32", "SEC34", "A06")
async def test_n32_a_token_is_taken_away_from_a_thief_by_the_steps_of_the_guide(town: Town, chaos: Chaos) -> None:
    """docs/guide/settlement.md, "When somebody else has the key", to the letter."""
    old, thief = minter(town), SigningKey(secrets.token_bytes(32))
    await chaos.fund(thief.address)
    await transact(town, old, contract.set_roles(thief.address, Role.MINTER | Role.PAUSER))
    await is_stopped(town, "foreign_nonce")
    await release(town, "foreign_nonce")
    await town.reaches(await minting(town, "before-the-rescue"), "completed")
    id_ = await stuck(town, chaos, "rescued")
    supply = await town.supply("AEUR")

    scope = {"asset": "AEUR"}
    note = {"operator": "olga", "scope": scope, "note": "somebody has the key"}
    await town.send("pause.set", "ops", note)
    await chaos.resume_mining()
    successor = town.local.home / "successor.key"
    done = await town.aura("lanes", "take-over", "AEUR", "--new-key-file", str(successor))
    assert done.returncode == 0, done.stderr
    again = await town.aura("lanes", "take-over", "AEUR", "--new-key-file", str(successor))
    assert again.returncode == 0, again.stderr
    assert '"hash"' in done.stdout and '"hash"' not in again.stdout, "nothing is left to do"

    new = derived(load_key(town.settings.model_copy(update={"chain_key_file": successor})), "AEUR")
    token = token_address(old)
    assert json.loads(again.stdout)["admin"] == new.address
    async with ChainNode(town.anvil.rpc_url) as node:

        async def holds(name: str, *arguments: Any) -> Any:
            return await node.read(token, name, *arguments)

        assert (await holds("admin")).lower() == new.address.lower()
        assert [await holds("roles", one.address) for one in (old, thief, new)] == [0, 0, 7]
        assert await holds("paused") == 7
        fees = await node.market()
        for key in (old, thief):
            for call, why in (
                (contract.mint(key.address, 5, secrets.token_bytes(32)), "not minter"),
                (contract.set_paused(contract.Act.NONE), "not pauser"),
                (contract.set_roles(key.address, Role.MINTER), "not admin"),
                (contract.call_data("offerAdmin", key.address), "not admin"),
                (contract.call_data("acceptAdmin"), "not offered"),
            ):
                with pytest.raises(Refused) as refused:
                    await node.simulate(Transaction(town.anvil.chain_id, 0, token, call, 0, fees), key.address)
                assert (refused.value.kind, refused.value.reason) == (Kind.REVERTED, why)
        # Custody is in reach of whoever has the old key, so that transfers are paused: for all.
        with pytest.raises(Refused, match="transfer paused"):
            call = contract.transfer(thief.address, 1)
            await node.simulate(Transaction(town.anvil.chain_id, 0, token, call, 0, fees), old.address)

    # What was signed and has not landed never will, and the customer's money goes back.
    await is_stopped(town, "foreign_nonce")
    landed = await minted(town, id_)
    if landed == [0, 0, 0]:
        await attention(town, id_, "chain_failed")
        resolve = {"operator": "olga", "transaction_id": id_, "outcome": "refund"}
        await town.send("transaction.resolve", "rescued", resolve)

        async def unpaid() -> str:
            found = await town.balance("rescued:EUR")
            return "" if found == 1000 else f"{found} given back"

        await soon(unpaid, "the money is given back", town)
    assert await town.supply("AEUR") == supply + sum(landed)
