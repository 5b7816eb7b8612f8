"""Makes a local chain misbehave, for tests and for `aura trigger chain`: anvil's own methods, in the sandbox only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aura_stream import SetupError
from aura_stream.chain import rpc, token
from aura_stream.chain.rpc import ChainNode, Kind, Refused
from aura_stream.chain.token import Act
from aura_stream.settings import Settings

ETHER: Final = 10**18
_POLL_S: Final = 0.05


class Chaos:
    """The hand that moves a local chain. Raises :class:`SettingsError` outside the sandbox, and
    :class:`SetupError` when the node is not one that can be moved."""

    def __init__(self, node: ChainNode, settings: Settings) -> None:
        settings.require_sandbox(
            "A chain is made to misbehave in the sandbox only.",
            why="this would touch real money",
            fix="AURA_MODE=sandbox, with a chain of its own",
        )
        self._node = node

    async def mine(self, blocks: int = 1) -> int:
        """Mine so many blocks at once; returns the height reached. Works while mining is stopped, too."""
        await self._do("anvil_mine", hex(blocks))
        return (await self._node.head()).number

    async def stop_mining(self) -> None:
        """No further block until :meth:`mine` or :meth:`resume_mining`: what is sent waits in the pool."""
        await self._do("evm_setAutomine", False)
        await self._do("evm_setIntervalMining", 0)

    async def resume_mining(self, block_time_s: int = 1) -> None:
        """A block every ``block_time_s`` seconds."""
        await self._do("evm_setIntervalMining", block_time_s)

    async def drop(self, tx_hash: str) -> bool:
        """Forget a transaction that waits in the pool; whether it was there."""
        return await self._do("anvil_dropTransaction", tx_hash) is not None

    async def drop_all(self) -> None:
        """Forget everything that waits in the pool, as a node does that restarts."""
        await self._do("anvil_dropAllTransactions")

    async def reorg(self, depth: int) -> None:
        """Replace the youngest ``depth`` blocks by empty ones. Their transactions are gone, from the pool too."""
        await self._do("anvil_reorg", depth, [])

    async def rewind(self, blocks: int) -> None:
        """Take the youngest blocks away without replacing them: a node that is behind."""
        await self._do("anvil_rollback", blocks)

    async def base_fee(self, wei: int) -> None:
        """The base fee of the next block: what pays less has to wait."""
        await self._do("anvil_setNextBlockBaseFeePerGas", hex(wei))

    async def fund(self, address: str, wei: int = 1000 * ETHER) -> None:
        """Give an account money for gas."""
        await self._do("anvil_setBalance", address, hex(wei))

    async def revert_next(self, contract: str, timeout_s: float = 30.0) -> int:
        """Let the token's next mints and burns revert, until a block has one; returns how many reverted.

        It lies to the contract about its pause, so no transaction is needed and no nonce used. Raises
        :class:`SetupError` when nothing came within ``timeout_s`` seconds.
        """
        async with self.paused(contract, Act.MINT | Act.BURN):
            seen, deadline = (await self._node.head()).number, asyncio.get_running_loop().time() + timeout_s
            while asyncio.get_running_loop().time() < deadline:
                head = (await self._node.head()).number
                for number in range(seen + 1, head + 1):
                    if reverted := await self._reverted(contract, number):
                        return reverted
                seen = head
                await asyncio.sleep(_POLL_S)
        raise SetupError(
            "Nothing came that could revert.",
            where=self._node.shown,
            why=f"no mint or burn was mined within {timeout_s:g} s",
            fix="send one, or mine: aura trigger chain mine",
        )

    @asynccontextmanager
    async def paused(self, contract: str, acts: Act) -> AsyncIterator[None]:
        """Pause the token behind the back of everyone, and put back what was there."""
        slot = hex(token.STORAGE["paused"])
        before = await self._do("eth_getStorageAt", contract, slot, "latest")
        await self._do("anvil_setStorageAt", contract, slot, f"0x{int(acts):064x}")
        try:
            yield
        finally:
            await self._do("anvil_setStorageAt", contract, slot, before)

    async def _reverted(self, contract: str, number: int) -> int:
        receipts: Any = await self._do("eth_getBlockReceipts", hex(number))
        ours = [item for item in receipts if (item.get("to") or "").lower() == contract.lower()]
        return sum(not rpc.receipt(item).succeeded for item in ours)

    async def _do(self, method: str, *params: object) -> Any:
        try:
            return await self._node.call(method, *params)
        except Refused as error:
            if error.kind is not Kind.MALFORMED or error.code != -32601:
                raise
            raise SetupError(
                "This chain cannot be made to misbehave.",
                where=self._node.shown,
                why=f"the node does not know {method}: it is not anvil",
                fix="use the embedded chain: unset AURA_CHAIN_RPC_URL",
            ) from error
