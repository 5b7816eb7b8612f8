"""`aura trigger chain` and the token's way onto a chain, on a real node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aura_stream import SetupError
from aura_stream.chain import token
from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainNode
from aura_stream.chain.setup import ensure_token, token_address
from aura_stream.chain.signer import GWEI, load_key
from aura_stream.chain.watch import State
from aura_stream.cli import COULD_NOT, GOOD, USAGE, main
from aura_stream.embedded.anvil import AnvilServer
from aura_stream.settings import load_settings
from tests.chain.world import World, new_key, sandbox


class Trigger:
    """Runs the command and reads what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = GOOD) -> Any:
        with pytest.raises(SystemExit) as caught:
            main(["trigger", "chain", *arguments])
        output = self._capsys.readouterr()
        assert caught.value.code == code, output.err
        return json.loads(output.out) if code == GOOD else output.err


@pytest.fixture
def trigger(anvil: AnvilServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Trigger:
    monkeypatch.setenv("AURA_CHAIN_RPC_URL", anvil.rpc_url)
    return Trigger(capsys)


def test_n32_every_verb_moves_the_chain(trigger: Trigger) -> None:
    before = trigger("mine", "5")
    assert (before["mined"], before["height"]) == (5, 5)
    forked = trigger("reorg", "2")
    assert forked["height"] == 5
    assert forked["block"] != before["block"]
    assert trigger("rewind", "2")["height"] == 3
    assert trigger("base-fee", "70")["next_base_fee_wei"] == 70 * GWEI
    assert trigger("mine")["base_fee_wei"] == 70 * GWEI
    assert trigger("drop")["dropped"] == "all"
    assert trigger("drop", "0x" + "1" * 64)["dropped"] is None
    assert trigger("resume-mining", "--block-time", "2")["mining"] is True
    assert trigger("stop-mining")["mining"] is False


def test_outside_the_sandbox_nothing_is_moved(trigger: Trigger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURA_MODE", "live")
    monkeypatch.setenv("AURA_API_KEY", bytes(range(16)).hex())
    monkeypatch.setenv("AURA_IDENTITY_SECRET", bytes(range(32)).hex())
    assert "sandbox only" in trigger("mine", code=USAGE)
    monkeypatch.delenv("AURA_MODE")
    assert trigger("mine")["height"] == 1


def test_a_chain_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AURA_CHAIN_RPC_URL", "http://127.0.0.1:1/secret-path")
    text = Trigger(capsys)("mine", code=COULD_NOT)
    assert "127.0.0.1:1" in text
    assert "secret-path" not in text


async def test_n32_reverts_are_made_until_one_has_happened_and_then_no_more(world: World) -> None:
    mint, later = world.mint(), world.mint()
    await mint.send()

    async def mine() -> None:
        await asyncio.sleep(0.2)
        await world.chaos.mine()

    reverted, _ = await asyncio.gather(world.chaos.revert_next(world.token), mine())
    assert reverted == 1
    seen = await mint.look()
    assert seen.state is State.REVERTED
    await later.send()
    await world.chaos.mine()
    assert (await later.look()).state is State.MINED
    with pytest.raises(SetupError, match="could revert"):
        await world.chaos.revert_next(world.token, timeout_s=0.2)


async def test_a19_the_token_is_put_on_the_chain_once(anvil: AnvilServer, node: ChainNode, tmp_path: Path) -> None:
    key = load_key(load_settings(home=tmp_path))
    chaos = Chaos(node, sandbox())
    await chaos.fund(key.address)
    with pytest.raises(SetupError, match="not in a block"):
        await ensure_token(node, key, "AUSD", timeout_s=0.2)  # interrupted: nothing is mined
    await chaos.base_fee(500_000_000)  # other fees, so other bytes; the first ones still wait
    with pytest.raises(SetupError, match="not in a block"):
        await ensure_token(node, key, "AUSD", timeout_s=0.2)
    await chaos.mine()
    assert await ensure_token(node, key, "AUSD") == await ensure_token(node, key, "AUSD") == token_address(key)
    assert await node.nonce(key.address) == 2
    assert token.Role(await node.read(token_address(key), "roles", key.address)) == token.Role(7)


@pytest.mark.parametrize(("symbol", "name"), [("AUSD", "Aura Dollar"), ("AEUR", "Aura Euro")])
async def test_a04_each_token_says_on_the_chain_what_it_is(world: World, symbol: str, name: str) -> None:
    key = new_key()
    await world.chaos.fund(key.address)
    await world.chaos.resume_mining()
    address = await ensure_token(world.node, key, symbol)
    assert [await world.node.read(address, one) for one in ("symbol", "name")] == [symbol, name]


async def test_a_key_that_was_used_for_something_else_is_refused(world: World) -> None:
    stranger = World(world.node, world.chaos)
    await world.chaos.fund(stranger.key.address)
    await stranger.mined(*(stranger.sign(b"", to=world.treasury) for _ in range(2)))
    with pytest.raises(SetupError, match="something else"):
        await ensure_token(world.node, stranger.key, "AUSD")
