"""A chain of a test's own, with a token on it and someone who mints."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

from aura_stream.chain import rpc, token
from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainNode, Receipt
from aura_stream.chain.signer import GWEI, Fees, Signed, SigningKey, Transaction, contract_address, fees_for, sign
from aura_stream.chain.token import Role
from aura_stream.chain.watch import Effect, Sighting, Watched, look
from aura_stream.embedded.anvil import CHAIN_ID
from aura_stream.settings import Settings

GAS = 200_000
FEES = fees_for(10 * GWEI, GWEI)


def new_key() -> SigningKey:
    return SigningKey(secrets.token_bytes(32))


@dataclass
class World:
    """One signer, who is admin and has every role; ``nonce`` is its next one, as a lane would count."""

    node: ChainNode
    chaos: Chaos
    key: SigningKey = field(default_factory=new_key)
    nonce: int = 0
    token: str = ""
    treasury: str = field(default_factory=lambda: new_key().address)

    async def begin(self) -> None:
        await self.chaos.fund(self.key.address)
        await self.chaos.base_fee(GWEI)  # whatever a test before has made of it
        self.token = contract_address(self.key.address, 0)
        deploy = self.sign(token.creation("AUSD"), to=None, gas=3_000_000)
        roles = self.sign(token.set_roles(self.key.address, Role.MINTER | Role.BURNER | Role.PAUSER))
        for receipt in await self.mined(deploy, roles):
            assert receipt.succeeded

    def sign(
        self, data: bytes, *, to: str | None = "", nonce: int | None = None, fees: Fees = FEES, gas: int = GAS
    ) -> Signed:
        """Sign for the next nonce, or for a given one."""
        if nonce is None:
            nonce, self.nonce = self.nonce, self.nonce + 1
        target = self.token if to == "" else to
        return sign(Transaction(CHAIN_ID, nonce, target, data, gas, fees), self.key)

    async def mined(self, *signed: Signed) -> list[Receipt]:
        """Send, mine a block, and return the receipts."""
        assert await self.node.send_all(signed) == [None] * len(signed)
        await self.chaos.mine()
        return [await self.receipt(one.tx_hash) for one in signed]

    async def receipt(self, tx_hash: str) -> Receipt:
        return rpc.receipt(await self.node.call("eth_getTransactionReceipt", tx_hash))

    def mint(self, amount: int = 5_000_000, ref: bytes | None = None) -> Mint:
        """A signed mint to the treasury that is not sent yet."""
        return Mint(self, self.nonce, Effect("minted", self.token, self.treasury, amount, ref or new_reference()))

    async def supply(self) -> int:
        return await self.node.total_supply(self.token, "latest")


class Mint:
    """What a lane stores of one mint: its nonce, everything signed with it, and where it was seen."""

    def __init__(self, world: World, nonce: int, effect: Effect) -> None:
        self.world = world
        self.effect = effect
        self.fees = FEES
        self.signed: list[Signed] = []
        self.watched = Watched(world.key.address, nonce, (), effect)
        world.nonce = nonce + 1
        self.sign(FEES)

    def sign(self, fees: Fees) -> Signed:
        """Sign the same mint with other fees; the first time, with any."""
        data = token.mint(self.effect.account, self.effect.amount, self.effect.reference)
        self.fees = fees
        return self.add(self.world.sign(data, nonce=self.watched.nonce, fees=fees))

    def add(self, signed: Signed) -> Signed:
        self.signed.append(signed)
        self._store(hashes=(*self.watched.hashes, signed.tx_hash))
        return signed

    async def send(self) -> None:
        await self.world.node.send(self.signed[-1])

    async def look(self, *, confirmations: int = 3, seen_head: int = 0) -> Sighting:
        (sighting,) = await look(self.world.node, [self.watched], confirmations=confirmations, seen_head=seen_head)
        return sighting

    def saw(self, sighting: Sighting) -> None:
        """Store where it is, as a lane does that has acted on the sighting."""
        self._store(seen=sighting.inclusion)

    def _store(self, **changes: object) -> None:
        self.watched = replace(self.watched, **changes)  # type: ignore[arg-type]  # its own fields


def new_reference() -> bytes:
    return secrets.token_bytes(32)


def sandbox() -> Settings:
    return Settings(mode="sandbox")  # type: ignore[call-arg]  # the rest has defaults
