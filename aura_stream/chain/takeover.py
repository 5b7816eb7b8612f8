"""Takes the token out of the reach of a key that somebody else has: a successor becomes its admin, nobody else keeps a
role, and all acts are paused.

Whoever has the key can do the same, and is raced: each step is asked of the contract first and paid for well, so that
it may be interrupted and repeated until nothing is left to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from aura_stream import SetupError
from aura_stream.chain import rpc, token
from aura_stream.chain.rpc import BadAnswer, ChainNode, Kind, Refused, Unanswered
from aura_stream.chain.signer import Fees, SigningKey, Transaction, bumped, sign
from aura_stream.chain.token import Act, Role

_ROLES_SET: Final = "0x" + keccak(text="RolesSet(address,uint256)").hex()
_ALL_ROLES: Final = Role.MINTER | Role.BURNER | Role.PAUSER
_ALL_ACTS: Final = Act.MINT | Act.BURN | Act.TRANSFER
_GAS: Final = 100_000
_STEPS: Final = 10
"""That the successor's money for gas is reckoned for."""
_HURRY: Final = 4
"""Times the market's fees."""
_RAISES: Final = 40
_POLL_S: Final = 0.2


class Done(NamedTuple):
    """One transaction that is in a block."""

    what: str
    tx_hash: str


class _Step(NamedTuple):
    what: str
    key: SigningKey
    to: str
    data: bytes
    value: int = 0


async def take_over(
    node: ChainNode, contract: str, old: SigningKey, new: SigningKey, *, since: int = 0, timeout_s: float = 300.0
) -> AsyncIterator[Done]:
    """Does what is missing and tells each step; nothing when nothing is.

    ``since`` is a block before which nobody was given roles whom we do not know. Raises :class:`SetupError` when the
    admin's place is a third one's already, when there is no money for gas, or after ``timeout_s`` seconds, and
    :class:`~aura_stream.chain.rpc.ChainError`; then it is asked again from the start.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    # Once: where little else is mined, the market follows what is paid here.
    market = await node.market()
    fees = Fees(market.max_fee * _HURRY, market.tip * _HURRY)
    while (step := await _missing(node, contract, old, new, since, fees)) is not None:
        if asyncio.get_running_loop().time() > deadline:
            raise SetupError(
                f"The token is not taken over yet: {step.what}.",
                where=f"{node.shown}, {contract}",
                why=f"it was not in a block within {timeout_s:g} s",
                fix="run the same command again",
            )
        tx_hash = await _mined(node, step, fees, deadline)
        if tx_hash:  # else somebody else was quicker with that nonce
            yield Done(step.what, tx_hash)


async def _missing(
    node: ChainNode, contract: str, old: SigningKey, new: SigningKey, since: int, fees: Fees
) -> _Step | None:
    admin = await node.read(contract, "admin")
    if admin.lower() not in (old.address.lower(), new.address.lower()):
        raise SetupError(
            "The token cannot be taken over: its admin is somebody else.",
            where=f"{node.shown}, {contract}",
            why=f"the admin is {admin}",
            fix="tell holders and exchanges that the token is lost; nothing can be done on the chain",
        )
    if admin.lower() == old.address.lower():
        needed = _STEPS * _GAS * fees.max_fee
        if await node.native_of(new.address) < needed // 2:
            if await node.native_of(old.address) < needed * 2:
                raise SetupError(
                    "There is no money for gas.",
                    where=f"{node.shown}, {new.address}",
                    why=f"it needs {needed} wei",
                    fix="send it there, then run the same command again",
                )
            return _Step(f"money for gas to {new.address}", old, new.address, b"", needed)
        offered = await node.read(contract, "offered")
        if offered.lower() != new.address.lower():
            return _Step(
                f"admin's place offered to {new.address}", old, contract, token.call_data("offerAdmin", new.address)
            )
        return _Step("admin's place accepted", new, contract, token.call_data("acceptAdmin"))
    for account in [old.address, *await _given(node, contract, since)]:
        if account.lower() != new.address.lower() and await node.read(contract, "roles", account):
            return _Step(f"all roles taken from {account}", new, contract, token.set_roles(account, Role.NONE))
    if await node.read(contract, "roles", new.address) != _ALL_ROLES:
        return _Step("all roles for the successor", new, contract, token.set_roles(new.address, _ALL_ROLES))
    if await node.read(contract, "paused") != _ALL_ACTS:
        return _Step("mints, burns and transfers paused", new, contract, token.set_paused(_ALL_ACTS))
    return None


async def _given(node: ChainNode, contract: str, since: int) -> list[str]:
    """Everybody whose roles were ever set, each once."""
    found, head = dict[str, None](), (await node.head()).number
    for first in range(since, head + 1, rpc.LOG_SPAN):
        last = min(first + rpc.LOG_SPAN - 1, head)
        query = {"address": contract, "fromBlock": hex(first), "toBlock": hex(last), "topics": [_ROLES_SET]}
        logs = await node.call("eth_getLogs", query)
        try:
            found |= {to_checksum_address(bytes.fromhex(log["topics"][1][2:])[-20:]): None for log in logs}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BadAnswer(f"{node.shown} answered logs of roles that are none") from error
    return list(found)


async def _mined(node: ChainNode, step: _Step, fees: Fees, deadline: float) -> str:
    """Hash of the step in a block; "" when its nonce was used by something else. Whatever waits under that nonce, of
    ours or not, is replaced."""
    chain_id, _ = await node.identity()
    nonce = await node.nonce(step.key.address)
    for _ in range(_RAISES):
        signed = sign(Transaction(chain_id, nonce, step.to, step.data, _GAS, fees, step.value), step.key)
        try:
            await node.send(signed)
            break
        except Refused as error:
            if error.kind is Kind.NONCE_TOO_LOW:
                return ""
            if error.kind is not Kind.UNDERPRICED:
                raise
            fees = bumped(fees)
    while asyncio.get_running_loop().time() < deadline:
        found = await node.call("eth_getTransactionReceipt", signed.tx_hash)
        if found is not None:
            return signed.tx_hash if rpc.receipt(found).succeeded else ""
        if await node.nonce(step.key.address) > nonce and not await node.call(
            "eth_getTransactionReceipt", signed.tx_hash
        ):
            return ""
        await asyncio.sleep(_POLL_S)
    raise Unanswered(f"{step.what}: {signed.tx_hash} was in no block in time")
