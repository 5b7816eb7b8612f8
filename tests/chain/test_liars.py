"""Nodes that forget, contradict themselves, or answer too late: nothing is concluded that would cost money."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from agents.chain_calls import looked
from agents.chain_lanes import Look, Watch
from aura_stream.chain.rpc import BadAnswer, ChainError, Kind, Refused, Unanswered
from aura_stream.chain.signer import Fees, bumped, sender_of
from aura_stream.chain.watch import State, look
from aura_stream.domain.lane_news import DECODE_CHAIN, ENCODE, Looked
from aura_stream.domain.lanes.minter import Job, Limits
from aura_stream.embedded.anvil import AnvilServer
from tests.chain.proxy import Answer, Cut, Request, lying_node
from tests.chain.world import FEES, World

RECEIPT, TRANSACTION, LOGS = "eth_getTransactionReceipt", "eth_getTransactionByHash", "eth_getLogs"


@pytest.mark.parametrize(
    ("forgotten", "complaint"),
    [
        ((RECEIPT,), "in a block, but not its receipt"),
        ((RECEIPT, TRANSACTION), "the log of a transaction, but not its receipt"),
        ((RECEIPT, TRANSACTION, LOGS), "disagree on whether a reference is used"),
    ],
    ids=["receipts", "transactions", "logs"],
)
async def test_n32_sec34_a_mint_that_the_node_has_forgotten_is_not_taken_for_a_foreign_transaction(
    anvil: AnvilServer, world: World, forgotten: tuple[str, ...], complaint: str
) -> None:
    mint = world.mint()
    await mint.send()
    await world.chaos.mine(5)

    def forget(request: Request, answer: Answer) -> Answer:
        if request["method"] in forgotten:
            return answer | {"result": [] if request["method"] == LOGS else None}
        return answer

    async with lying_node(anvil.rpc_url, forget) as node:
        with pytest.raises(Unanswered, match=complaint):
            await look(node, [mint.watched], confirmations=3)
    assert (await mint.look()).final


async def test_n32_sec34_a_receipt_of_a_block_that_is_no_more_does_not_count(anvil: AnvilServer, world: World) -> None:
    mint = world.mint()
    await mint.send()
    await world.chaos.mine()
    stale: Any = await world.node.call(RECEIPT, mint.signed[0].tx_hash)
    await world.chaos.reorg(1)
    await world.node.send(world.sign(b"", to=world.treasury, nonce=mint.watched.nonce))
    await world.chaos.mine(3)

    def remember(request: Request, answer: Answer) -> Answer:
        return answer | {"result": stale} if request["method"] == RECEIPT else answer

    async with lying_node(anvil.rpc_url, remember) as node:
        (seen,) = await look(node, [mint.watched], confirmations=3)
    assert (seen.state, seen.final) == (State.REPLACED, True)


async def test_n32_sec34_the_log_of_another_contract_is_not_taken_for_ours(anvil: AnvilServer, world: World) -> None:
    other = World(world.node, world.chaos)
    await other.begin()
    theirs = other.mint()
    await theirs.send()
    await world.chaos.mine()
    head = (await world.node.head()).number
    query = {"address": other.token, "fromBlock": "0x0", "toBlock": hex(head)}
    logs = await world.node.call(LOGS, query)
    assert logs

    def mixed(request: Request, answer: Answer) -> Answer:
        return answer | {"result": logs} if request["method"] == LOGS else answer

    async with lying_node(anvil.rpc_url, mixed) as node:
        assert await node.events(world.token, 0, head) == []
        assert [event.tx_hash for event in await node.events(other.token, 0, head)] == [theirs.signed[0].tx_hash]


async def test_n32_sec34_two_receipts_of_one_nonce_or_a_foreign_one_are_not_believed(
    anvil: AnvilServer, world: World
) -> None:
    mint, other = world.mint(), world.mint()
    await mint.send()
    await other.send()
    await world.chaos.mine()
    mint.sign(bumped(FEES))
    second = mint.signed[1].tx_hash

    def twice(request: Request, answer: Answer) -> Answer:
        if request == request | {"method": RECEIPT, "params": [second]}:
            return answer | {"result": real | {"transactionHash": second}}
        return answer

    def foreign(request: Request, answer: Answer) -> Answer:
        return answer | {"result": real} if request["method"] == RECEIPT else answer

    real: Any = await world.node.call(RECEIPT, mint.signed[0].tx_hash)
    async with lying_node(anvil.rpc_url, twice) as node:
        with pytest.raises(BadAnswer, match="two transactions of one nonce"):
            await look(node, [mint.watched], confirmations=3)
    async with lying_node(anvil.rpc_url, foreign) as node:
        with pytest.raises(BadAnswer, match="another transaction"):
            await look(node, [other.watched], confirmations=3)


async def test_n32_an_answer_that_is_lost_after_the_node_has_acted_mints_once(anvil: AnvilServer, world: World) -> None:
    mint = world.mint()

    def cut(request: Request, answer: Answer) -> Answer:
        if request["method"] == "eth_sendRawTransaction":
            raise Cut
        return answer

    async with lying_node(anvil.rpc_url, cut) as node:
        for _ in range(2):
            with pytest.raises(Unanswered):
                await node.send(mint.signed[0])
        (seen,) = await look(node, [mint.watched], confirmations=3)
        assert seen.state is State.PENDING
    await mint.send()
    await world.chaos.mine()
    assert (await mint.look()).state is State.MINED
    assert await world.supply() == mint.effect.amount


async def test_n32_our_bump_satisfies_a_node_that_wants_ten_per_cent_more(anvil: AnvilServer, world: World) -> None:
    """anvil itself takes any replacement; public nodes do not."""
    pool: dict[str, Fees] = {}
    mint = world.mint()

    def as_geth(request: Request) -> str | None:
        if request["method"] != "eth_sendRawTransaction":
            return None
        assert sender_of(bytes.fromhex(request["params"][0][2:])) == world.key.address
        old, new = pool.get("fees"), mint.fees
        if old and not (10 * new.max_fee >= 11 * old.max_fee and 10 * new.tip >= 11 * old.tip):
            return "replacement transaction underpriced"
        pool["fees"] = new
        return None

    async with lying_node(anvil.rpc_url, lambda _, answer: answer, as_geth) as node:
        await node.send(mint.signed[0])
        with pytest.raises(Refused) as caught:
            await node.send(mint.sign(Fees(FEES.max_fee + 1, FEES.tip + 1)))
        assert caught.value.kind is Kind.UNDERPRICED
        assert caught.value.definite
        mint.fees = FEES
        await node.send(mint.sign(bumped(FEES)))
    await world.chaos.mine()
    assert (await mint.look()).state is State.MINED


HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**70, "", "0x", "0x0", "-0x1", "0x" + "f" * 16, "0x" + "f" * 64, "0x" + "f" * 65),
    *("0x" + "0" * 63 + "1", "<html>", "0x" + "zz" * 32, [], [[]], {}, {"id": []}, [None], ["0x1"] * 1000, "0" * 10**6),
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in an answer, itself too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, one in inner for place in places(one, (*way, key)))]


def put(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    changed = copy.copy(value)
    changed[way[0]] = put(value[way[0]], way[1:], new)
    return changed


async def test_sec34_whatever_stands_anywhere_in_an_answer_a_look_sees_or_says_that_it_does_not(
    anvil: AnvilServer, world: World
) -> None:
    """One value of one answer is another one. What is seen of it can be written down and read again, and no number of
    it is one that a chain cannot have: nothing of that may be an error of our own code."""
    mint, gone = world.mint(), world.mint()
    await mint.send()
    await world.chaos.mine(9)
    chain_id, genesis = await world.node.identity()
    jobs = []
    for one in (mint, gone):
        effect = one.effect
        who = ("t", "default", "alice", "mint", effect.reference.hex(), effect.amount, world.treasury)
        job = Job(*who, state="signed", nonce=one.watched.nonce, hashes=one.watched.hashes)
        jobs.append(Watch(job, 0))
    wanted = Look("local:AUSD", "AUSD", 1, tuple(jobs), 1)
    seed = random.SystemRandom().randrange(1 << 31)
    chance = random.Random(seed)
    asked: list[str] = []
    damage: dict[str, Any] = {"at": -1}

    def change(request: Request, answer: Answer) -> Answer:
        asked.append(request["method"])
        if len(asked) - 1 != damage["at"]:
            return answer
        way = chance.choice(places(answer))
        new = put(answer, way, chance.choice(HOSTILE))
        damage["what"] = f"{request['method']} {way} = {json.dumps(new)[:300]}"
        return new if isinstance(new, dict) else {"x": new}

    async def see() -> str:
        asked.clear()
        async with lying_node(anvil.rpc_url, change) as node:
            try:
                found = await looked(node, world.key, wanted, f"{chain_id}:{genesis}", Limits(confirmations=3))
            except ChainError:
                return "error"
        assert DECODE_CHAIN(ENCODE(found)) == found
        if isinstance(found, Looked):
            assert max(found.height, found.final, found.nonce, found.final_nonce) < 2**63
            assert 0 <= found.tip <= found.fee
            return "seen"
        return "behind"

    assert await see() == "seen"
    requests, outcomes = len(asked), []
    for number in range(300):
        damage["at"] = number % requests
        try:
            outcomes.append(await see())
        except Exception as error:
            raise AssertionError(f"seed {seed}: {damage['what']}") from error
    assert outcomes.count("error") > 100 and "seen" in outcomes, outcomes
