"""The contract behind the deposit addresses, on a real chain: where they lie, who may sweep them, and where to."""

from __future__ import annotations

import pytest
from eth_utils.crypto import keccak

from aura_stream.chain import forwarder, rpc, token
from aura_stream.chain.rpc import ChainNode, Kind, Refused
from aura_stream.chain.signer import SigningKey, Transaction, contract_address, sign
from aura_stream.embedded.anvil import CHAIN_ID
from tests.chain.world import FEES, World, new_key, new_reference

GAS = 1_000_000
ALICE, BOB = forwarder.salt("default", "alice:AUSD"), forwarder.salt("default", "bob:AUSD")


async def mined(world: World, key: SigningKey, to: str | None, data: bytes) -> rpc.Receipt:
    """A transaction in a block of its own."""
    nonce = await world.node.nonce(key.address)
    signed = sign(Transaction(CHAIN_ID, nonce, to, data, GAS, FEES), key)
    await world.node.send(signed)
    await world.chaos.mine()
    return rpc.receipt(await world.node.call("eth_getTransactionReceipt", signed.tx_hash))


async def refused(node: ChainNode, to: str, data: bytes, sender: str) -> str:
    with pytest.raises(Refused) as caught:
        await node.simulate(Transaction(CHAIN_ID, 0, to, data, GAS, FEES), sender)
    assert caught.value.kind is Kind.REVERTED
    return caught.value.reason


@pytest.mark.row("SEC26", "A04")
async def test_sec26_only_the_custody_address_sweeps_and_only_to_itself(world: World) -> None:
    custody, stranger = world.key, new_key()
    nonce = await world.node.nonce(custody.address)
    assert (await mined(world, custody, None, forwarder.creation(world.token))).succeeded
    contract = contract_address(custody.address, nonce)
    alice, bob = forwarder.address(contract, ALICE), forwarder.address(contract, BOB)
    for to, amount in ((alice, 50), (bob, 7)):
        assert (await mined(world, custody, world.token, token.mint(to, amount, new_reference()))).succeeded
    assert rpc.data(await world.node.call("eth_getCode", alice, "latest")) == b"", "nothing is there yet"

    sweep = forwarder.sweep(ALICE, 50)
    assert await refused(world.node, contract, sweep, stranger.address) == "not custody"
    assert await refused(world.node, contract, forwarder.sweep(ALICE, 51), custody.address) == "insufficient balance"
    for amount in (20, 30):
        receipt = await mined(world, custody, contract, forwarder.sweep(ALICE, amount))
        assert receipt.succeeded and receipt.gas_used < 200_000
        (event,) = receipt.events
        assert (event.kind, event.account, event.amount) == ("transferred", alice, amount)
        assert event.reference == token.padded(custody.address)

    forward = keccak(text="forward(uint256)")[:4]
    for caller in (stranger, custody):
        assert await refused(world.node, alice, forward + bytes(31) + b"\1", caller.address) == "not maker"
    balances = [await world.node.balance_of(world.token, one, "latest") for one in (custody.address, alice, bob)]
    assert balances == [50, 0, 7], "another account's tokens stay where they are"
    head = (await world.node.head()).number
    moved = [(one.account, one.amount) for one in await world.node.transfers(world.token, 0, head)]
    assert moved == [(token.ZERO_ADDRESS, 50), (token.ZERO_ADDRESS, 7), (alice, 20), (alice, 30)]


def test_a04_addresses_differ_by_tenant_account_and_contract() -> None:
    one, other = "0x" + "11" * 20, "0x" + "22" * 20
    salts = [
        forwarder.salt(*who) for who in (("default", "alice:AUSD"), ("demo", "alice:AUSD"), ("default", "bob:AUSD"))
    ]
    assert len({forwarder.address(contract, salt) for contract in (one, other) for salt in salts}) == 6
