"""``aura trigger chain``: blocks, forks, drops and reverts of the local chain on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from aura_stream import SetupError
from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainError, ChainNode
from aura_stream.chain.setup import ensure_token, token_address
from aura_stream.chain.signer import GWEI, derived, load_key
from aura_stream.cli import emit
from aura_stream.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True)

TokenOption = Annotated[str, typer.Option("--token", help="Address of the token; default: that of the signing key.")]


def _do(action: Callable[[Chaos, ChainNode, Settings], Awaitable[dict[str, Any]]]) -> None:
    """Carry it out and print what the chain looks like then."""

    async def run() -> dict[str, Any]:
        settings = load_settings()
        async with ChainNode(settings.chain_rpc_url) as node:
            try:
                result = await action(Chaos(node, settings), node, settings)
                head = await node.head()
            except ChainError as error:
                raise SetupError(
                    "The chain did not do it.",
                    where=node.shown,
                    why=str(error),
                    fix="start it, or name it: AURA_CHAIN_RPC_URL=http://host:port",
                ) from error
            return {**result, "height": head.number, "block": head.hash, "base_fee_wei": head.base_fee}

    emit(asyncio.run(run()))


@app.command()
def mine(blocks: Annotated[int, typer.Argument(min=1, max=10_000, help="How many.")] = 1) -> None:
    """Mine blocks at once, also while mining is stopped."""

    async def action(chaos: Chaos, _node: ChainNode, _settings: Settings) -> dict[str, Any]:
        await chaos.mine(blocks)
        return {"mined": blocks}

    _do(action)


@app.command("stop-mining")
def stop_mining() -> None:
    """Stop making blocks: what is sent waits."""

    async def action(chaos: Chaos, _node: ChainNode, _settings: Settings) -> dict[str, Any]:
        await chaos.stop_mining()
        return {"mining": False}

    _do(action)


@app.command("resume-mining")
def resume_mining(
    block_time: Annotated[int, typer.Option("--block-time", min=1, max=600, help="Seconds between blocks.")] = 1,
) -> None:
    """Make blocks again."""

    async def action(chaos: Chaos, _node: ChainNode, _settings: Settings) -> dict[str, Any]:
        await chaos.resume_mining(block_time)
        return {"mining": True, "block_time_s": block_time}

    _do(action)


@app.command()
def drop(
    tx_hash: Annotated[str, typer.Argument(help="Hash of a transaction that waits; none: all that wait.")] = "",
) -> None:
    """Forget transactions that wait, as a node does that restarts."""

    async def action(chaos: Chaos, _node: ChainNode, _settings: Settings) -> dict[str, Any]:
        if not tx_hash:
            await chaos.drop_all()
            return {"dropped": "all"}
        return {"dropped": tx_hash if await chaos.drop(tx_hash) else None}

    _do(action)


@app.command()
def reorg(depth: Annotated[int, typer.Argument(min=1, max=30, help="How many blocks are replaced.")] = 1) -> None:
    """Replace the youngest blocks by empty ones; their transactions are gone."""

    async def action(chaos: Chaos, _node: ChainNode, _settings: Settings) -> dict[str, Any]:
        await chaos.reorg(depth)
        return {"replaced": depth}

    _do(action)


@app.command()
def rewind(blocks: Annotated[int, typer.Argument(min=1, max=30, help="How many blocks are taken away.")] = 1) -> None:
    """Take the youngest blocks away: the node is behind what was seen before."""

    async def action(chaos: Chaos, _node: ChainNode, _settings: Settings) -> dict[str, Any]:
        await chaos.rewind(blocks)
        return {"taken_away": blocks}

    _do(action)


@app.command("base-fee")
def base_fee(gwei: Annotated[int, typer.Argument(min=1, max=1_000_000, help="Base fee of the next block.")]) -> None:
    """Raise (or lower) the base fee: what pays less has to wait."""

    async def action(chaos: Chaos, _node: ChainNode, _settings: Settings) -> dict[str, Any]:
        await chaos.base_fee(gwei * GWEI)
        return {"next_base_fee_wei": gwei * GWEI}

    _do(action)


@app.command("revert-next")
def revert_next(
    token: TokenOption = "",
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for one.")] = 30.0,
) -> None:
    """Let the token's next mints or burns revert, until a block has one."""

    async def action(chaos: Chaos, _node: ChainNode, settings: Settings) -> dict[str, Any]:
        return {
            "reverted": await chaos.revert_next(token or token_address(derived(load_key(settings), "AUSD")), timeout_s)
        }

    _do(action)


@app.command()
def deploy() -> None:
    """Give the signing key money for gas, and put the token on the chain if it is not there."""

    async def action(chaos: Chaos, node: ChainNode, settings: Settings) -> dict[str, Any]:
        key = derived(load_key(settings), "AUSD")
        await chaos.fund(key.address)
        return {"signer": key.address, "token": await ensure_token(node, key, "AUSD")}

    _do(action)
