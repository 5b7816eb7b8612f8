"""Puts our token on a chain, once: by the signing key's first two transactions, so that its address is known before."""

from __future__ import annotations

import asyncio
from typing import Final

from aura_stream import SetupError
from aura_stream.chain import rpc, token
from aura_stream.chain.rpc import ChainNode, Kind, Refused
from aura_stream.chain.signer import Fees, Signed, SigningKey, Transaction, contract_address, sign
from aura_stream.chain.token import Role

FIRST_NONCE: Final = 2
"""The lane's own: the transactions before it put the token on the chain."""
_POLL_S: Final = 0.1


def token_address(key: SigningKey) -> str:
    """Where the token lies that ``key`` has put on the chain."""
    return contract_address(key.address, 0)


async def ensure_token(node: ChainNode, key: SigningKey, symbol: str, *, timeout_s: float = 30.0) -> str:
    """Address of the token; it is put on the chain, and the key given all its roles, if that was not done before.

    May be interrupted and repeated: whatever is sent again has the same nonces. Returns when both transactions are in a
    block. Raises :class:`SetupError` when the key has been used for something else or no block comes within
    ``timeout_s`` seconds, and :class:`~aura_stream.chain.rpc.ChainError`.
    """
    address = token_address(key)
    chain_id, _ = await node.identity()
    used = await node.nonce(key.address)
    if used < FIRST_NONCE:
        for error in await node.send_all(_transactions(key, symbol, address, chain_id, await node.market())[used:]):
            # UNDERPRICED: what was sent before an interruption still waits, and does the same.
            if error is not None and not (isinstance(error, Refused) and error.kind is Kind.UNDERPRICED):
                raise error
        await _mined(node, key.address, timeout_s)
    code = rpc.data(await node.call("eth_getCode", address, "latest"))
    if code != token.RUNTIME or not await node.read(address, "roles", key.address):
        raise SetupError(
            "Our token is not on this chain, and its key has been used for something else.",
            where=f"{node.shown}, {address}",
            why=f"the first two transactions of {key.address} make the token",
            fix="use another key: AURA_CHAIN_KEY_FILE, or the chain that belongs to this one: AURA_CHAIN_RPC_URL",
        )
    return address


def _transactions(key: SigningKey, symbol: str, address: str, chain_id: int, fees: Fees) -> list[Signed]:
    everything = Role.MINTER | Role.BURNER | Role.PAUSER
    return [
        sign(Transaction(chain_id, 0, None, token.creation(symbol), 3_000_000, fees), key),
        sign(Transaction(chain_id, 1, address, token.set_roles(key.address, everything), 200_000, fees), key),
    ]


async def _mined(node: ChainNode, address: str, timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while await node.nonce(address) < FIRST_NONCE:
        if asyncio.get_running_loop().time() >= deadline:
            raise SetupError(
                "The token is not in a block yet.",
                where=node.shown,
                why=f"no block had it within {timeout_s:g} s",
                fix="let the chain mine (aura trigger chain resume-mining), then run the same command again",
            )
        await asyncio.sleep(_POLL_S)
