"""Nodes that forget, contradict themselves, or answer too late: nothing is concluded that would cost money."""

from __future__ import annotations

from typing import Any

import pytest

from aura_stream.chain.rpc import BadAnswer, Kind, Refused, Unanswered
from aura_stream.chain.signer import Fees, bumped, sender_of
from aura_stream.chain.watch import State, look
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
