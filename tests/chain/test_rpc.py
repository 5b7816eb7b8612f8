"""Asking a node: what a refusal means, what is unknown after a failure, and what is not believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from aura_stream.chain import rpc, token
from aura_stream.chain.rpc import BadAnswer, ChainNode, Kind, NotTaken, Refused, Unanswered, final_block, kind_of
from aura_stream.chain.signer import GWEI, Fees, Signed, Transaction, sign
from aura_stream.embedded.anvil import CHAIN_ID, AnvilServer
from aura_stream.embedded.processes import free_port
from tests.chain.world import FEES, GAS, World, new_key, new_reference


@pytest.fixture
def anvil(shared_anvil: AnvilServer) -> AnvilServer:
    """Each test has a token of its own, so they can share the chain."""
    return shared_anvil


# --- What a real node refuses ---


async def refusal(world: World, signed: Signed) -> Refused:
    with pytest.raises(Refused) as caught:
        await world.node.send(signed)
    return caught.value


async def test_n32_a_real_node_tells_why_it_refuses_a_transaction(world: World) -> None:
    data = token.mint(world.treasury, 1, new_reference())
    used = await refusal(world, world.sign(data, nonce=0))
    poor = await refusal(world, sign(Transaction(CHAIN_ID, 0, world.token, data, GAS, FEES), new_key()))
    other_chain = await refusal(world, sign(Transaction(1, world.nonce, world.token, data, GAS, FEES), world.key))
    garbage = await refusal(world, Signed(b"\2garbage", "0x" + "0" * 64))
    kinds = [one.kind for one in (used, poor, other_chain, garbage)]
    assert kinds == [Kind.NONCE_TOO_LOW, Kind.NO_FUNDS, Kind.MALFORMED, Kind.MALFORMED]
    assert all(one.definite for one in (used, poor, other_chain, garbage))


async def test_n32_the_same_bytes_twice_are_known_and_a_cheaper_replacement_is_underpriced(world: World) -> None:
    signed = world.sign(token.mint(world.treasury, 1, new_reference()))
    assert await world.node.send_all([signed, signed]) == [None, None]
    with pytest.raises(Refused) as known:
        await world.node.call("eth_sendRawTransaction", "0x" + signed.raw.hex())
    assert known.value.kind is Kind.ALREADY_KNOWN
    cheaper = world.sign(b"", nonce=world.nonce - 1, fees=Fees(FEES.max_fee - 1, FEES.tip - 1))
    assert (await refusal(world, cheaper)).kind is Kind.UNDERPRICED
    await world.chaos.mine()
    assert await world.supply() == 1


async def test_a_call_that_reverts_tells_the_contracts_words(world: World) -> None:
    with pytest.raises(Refused) as caught:
        await world.node.read(world.token, "mint", world.treasury, 1, new_reference())
    assert (caught.value.kind, caught.value.reason) == (Kind.REVERTED, "not minter")


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (-32000, "nonce too low: next nonce 5, tx nonce 4", Kind.NONCE_TOO_LOW),
        (-32010, "OldNonce", Kind.NONCE_TOO_LOW),
        (-32000, "already known", Kind.ALREADY_KNOWN),
        (-32010, "AlreadyKnown", Kind.ALREADY_KNOWN),
        (-32000, "ALREADY_EXISTS: already known", Kind.ALREADY_KNOWN),
        (-32000, "Known transaction", Kind.ALREADY_KNOWN),
        (-32000, "replacement transaction underpriced", Kind.UNDERPRICED),
        (-32010, "ReplacementNotAllowed", Kind.UNDERPRICED),
        (-32000, "transaction underpriced", Kind.FEE_TOO_LOW),
        (-32000, "max fee per gas less than block base fee: address 0x1", Kind.FEE_TOO_LOW),
        (-32010, "FeeTooLow, MaxFeePerGas too low", Kind.FEE_TOO_LOW),
        (-32000, "insufficient funds for gas * price + value", Kind.NO_FUNDS),
        (-32004, "Upfront cost exceeds account balance", Kind.NO_FUNDS),
        (-32000, "nonce too high", Kind.NONCE_TOO_HIGH),
        (3, "execution reverted: duplicate ref", Kind.REVERTED),
        (3, "", Kind.REVERTED),
        (-32000, "intrinsic gas too low: gas 0, minimum needed 21000", Kind.MALFORMED),
        (-32000, "rlp: expected input list for types.LegacyTx", Kind.MALFORMED),
        (-32601, "the method does not exist/is not available", Kind.MALFORMED),
        (-32603, "Internal error", Kind.OTHER),
        (-32005, "limit exceeded", Kind.OTHER),
        (-32000, "", Kind.OTHER),
    ],
)
def test_n32_what_other_nodes_mean_by_their_words(code: int, text: str, kind: Kind) -> None:
    assert kind_of(code, text) is kind
    assert Refused(code, text).definite is (kind not in (Kind.OTHER, Kind.ALREADY_KNOWN))


# --- Reading ---


async def test_the_supply_and_a_nonce_as_of_any_block(world: World) -> None:
    heights, supply = [], 0
    for amount in (1, 10, 100):
        await world.mined(world.sign(token.mint(world.treasury, amount, new_reference())))
        supply += amount
        heights.append(((await world.node.head()), supply, world.nonce))
    for head, supply, nonce in heights:
        assert await world.node.total_supply(world.token, head.number) == supply
        assert await world.node.total_supply(world.token, head.hash) == supply
        assert await world.node.nonce(world.key.address, head.number) == nonce
        assert await world.node.block(head.number) == head
    assert await world.node.block(head.number + 1) is None
    assert [final_block(head.number, count) for count in (1, 3)] == [head.number, head.number - 2]


async def test_logs_are_found_by_reference_and_range_across_several_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "LOG_SPAN", 2)
    other = World(world.node, world.chaos)
    await other.begin()
    references = [new_reference() for _ in range(5)]
    for amount, ref in enumerate(references, 1):
        await world.mined(world.sign(token.mint(world.treasury, amount, ref)))
        await other.mined(other.sign(token.mint(world.treasury, amount, ref)))
    head = (await world.node.head()).number
    everything = await world.node.events(world.token, 0, head)
    assert [(event.amount, event.reference) for event in everything] == list(enumerate(references, 1))
    some = await world.node.events(world.token, 0, head, [references[3], references[1]])
    assert [event.amount for event in some] == [2, 4]
    first, last = everything[1].block_number, everything[3].block_number
    assert [event.amount for event in await world.node.events(world.token, first, last)] == [2, 3, 4]
    assert await world.node.events(world.token, 0, head, [new_reference()]) == []


async def test_a_batch_keeps_order_and_tells_refusals_apart(world: World) -> None:
    calls = [("eth_getTransactionCount", world.key.address, hex(number % 2)) for number in range(rpc.BATCH)]
    answers = await world.node.batch([*calls, ("no_such_method",), ("eth_chainId",)])
    assert answers[: rpc.BATCH] == [answers[0], answers[1]] * (rpc.BATCH // 2)
    assert isinstance(answers[rpc.BATCH], Refused)
    assert answers[rpc.BATCH].kind is Kind.MALFORMED
    assert rpc.quantity(answers[-1]) == CHAIN_ID
    assert (await world.node.identity())[0] == CHAIN_ID


async def test_market_fees_follow_the_base_fee(world: World) -> None:
    await world.chaos.base_fee(50 * GWEI)
    await world.chaos.mine()
    base = (await world.node.head()).base_fee
    assert base == 50 * GWEI
    market = await world.node.market()
    assert base < market.max_fee < 3 * base
    assert 0 < market.tip < market.max_fee


async def test_an_address_without_our_token_is_no_token(world: World) -> None:
    with pytest.raises(BadAnswer, match="as our token does"):
        await world.node.total_supply(world.treasury, "latest")


# --- Failures ---

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler, *, timeout_s: float = 5.0, path: str = "/") -> AsyncIterator[ChainNode]:
    """A node that answers as ``handler`` does."""
    application = web.Application(client_max_size=2**26)
    application.router.add_post(path, handler)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with ChainNode(f"http://127.0.0.1:{port}{path}", timeout_s=timeout_s) as node:
            yield node
    finally:
        await runner.cleanup()


async def test_n32_nobody_there_means_that_nothing_was_sent() -> None:
    async with ChainNode(f"http://127.0.0.1:{free_port()}") as node:
        with pytest.raises(NotTaken):
            await node.send(Signed(b"", "0x"))


@pytest.mark.parametrize(
    ("status", "error"), [(429, NotTaken), (403, NotTaken), (500, Unanswered), (502, Unanswered), (408, Unanswered)]
)
async def test_n32_a_refusal_at_the_door_is_told_from_a_failure_behind_it(status: int, error: type[Exception]) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text="secret detail")

    async with server(handler) as node:
        with pytest.raises(error) as caught:
            await node.head()
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)


async def test_n32_no_answer_in_time_or_a_cut_connection_is_an_unknown_outcome() -> None:
    received = []

    async def hang(request: web.Request) -> web.Response:
        received.append(await request.json())
        await asyncio.sleep(30)
        raise AssertionError("unreachable")

    async def cut(request: web.Request) -> web.Response:
        received.append(await request.json())
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    for handler in (hang, cut):
        async with server(handler, timeout_s=0.3) as node:
            with pytest.raises(Unanswered):
                await node.send(Signed(b"\2", "0x"))
    assert [one["method"] for one in received] == ["eth_sendRawTransaction"] * 2


GOOD_BLOCK = {
    "number": "0x1",
    "hash": "0x" + "a" * 64,
    "parentHash": "0x" + "b" * 64,
    "timestamp": "0x1",
    "baseFeePerGas": "0x1",
}


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>sign in</html>",
        b"",
        b"null",
        b"[]",
        b"7",
        b'{"jsonrpc":"2.0","id":999,"result":"0x1"}',
        b'{"jsonrpc":"2.0","id":"1","result":"0x1"}',
        b'[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","id":1,"result":2}]',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":[]}}',
        b'{"jsonrpc":"2.0","id":1,"result":null}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x1"}',
        *(
            json.dumps({"jsonrpc": "2.0", "id": 1, "result": GOOD_BLOCK | damage}).encode()
            for damage in (
                {"number": -1},
                {"number": "-0x1"},
                {"number": "0x"},
                {"number": "0x" + "f" * 65},
                {"number": True},
                {"hash": "0x12"},
                {"hash": None},
                {"baseFeePerGas": 1.5},
                {"parentHash": "0x" + "Z" * 64},
            )
        ),
        b"[" * 100_000,
        b'{"jsonrpc":"2.0","id":1,"result":"' + b"a" * (rpc.MAX_ANSWER_BYTES + 1) + b'"}',
    ],
    ids=lambda answer: answer[:60].decode(),
)
async def test_sec34_what_no_honest_node_answers_is_not_believed(answer: bytes) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=answer, content_type="application/json")

    async with server(handler) as node:
        with pytest.raises(BadAnswer) as caught:
            await node.head()
    assert len(str(caught.value)) < 300


async def test_sec34_another_hash_than_that_of_the_bytes_is_not_believed() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"jsonrpc": "2.0", "id": (await request.json())["id"], "result": "0x" + "0" * 64})

    async with server(handler) as node:
        with pytest.raises(BadAnswer, match="another hash"):
            await node.send(Signed(b"\2", "0x" + "1" * 64))


async def test_sec43_a_key_in_the_nodes_address_is_in_no_text() -> None:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async with server(handler, path="/v2/canary-of-a-key") as node:
        with pytest.raises(Unanswered) as caught:  # a redirection is not followed: it would take the key along
            await node.head()
        assert "canary" not in f"{caught.value} {node.shown} {caught.value.__cause__!r}"
    async with ChainNode(f"http://user:canary@127.0.0.1:{free_port()}/canary") as node:
        with pytest.raises(NotTaken) as away:
            await node.head()
        assert "canary" not in f"{away.value} {node.shown} {away.value.__cause__!r}"
