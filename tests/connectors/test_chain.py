"""A chain that drops, delays, forks and goes away: each mint happens once, and the ledger says what is the case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainNode
from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import derived, load_key
from aura_stream.chain.token import Act
from aura_stream.domain.ids import bank_reference, chain_reference
from tests.connectors.town import Town, soon

pytestmark = pytest.mark.timeout(400)  # starting a town is a part of its first test


@pytest.fixture
async def chaos(town: Town) -> AsyncIterator[Chaos]:
    """The hand that moves the chain; in the end it mines again."""
    async with ChainNode(town.anvil.rpc_url) as node:
        hand = Chaos(node, town.settings)
        yield hand
        await hand.resume_mining()


async def minting(town: Town, name: str, amount: str = "10.00") -> str:
    """A deposit whose money has come, and whose mint is on its way."""
    await town.customer(name, "EUR", "AEUR")
    asked = {"account_id": f"{name}:EUR", "amount": amount, "rail": "sepa_instant", "mint_to": f"{name}:AEUR"}
    id_ = await town.send("deposit.submit", name, asked)
    await town.reaches(id_, "awaiting_funds")
    await town.push(bank_reference(id_, "deposit"), amount)
    return id_


async def stuck(town: Town, chaos: Chaos, name: str) -> str:
    """A deposit whose mint is sent, on a chain that makes no blocks for now."""
    await chaos.stop_mining()
    id_ = await minting(town, name)
    await town.reaches(id_, "mint_broadcast")
    return id_


async def minted(town: Town, id_: str, rounds: int = 3) -> list[int]:
    """What the chain's own logs have of a deposit: amounts by round of asking, and each may be there once."""
    key = derived(load_key(town.settings), "AEUR")
    references = [bytes.fromhex(chain_reference(id_, f"mint/{number + 1}")) for number in range(rounds)]
    async with ChainNode(town.anvil.rpc_url) as node:
        found = await node.events(token_address(key), 0, (await node.head()).number, references)
    amounts = {reference: [one.amount for one in found if one.reference == reference] for reference in references}
    assert all(len(logs) <= 1 for logs in amounts.values()), amounts
    return [sum(amounts[reference]) for reference in references]


async def attention(town: Town, id_: str, reason: str) -> None:
    async def otherwise() -> str:
        found = await town.transaction(id_)
        return "" if found[::2] == ("requires_attention", reason) else str(found)

    await soon(otherwise, f"{reason} asks for a person", town)


async def states(town: Town, id_: str) -> list[str]:
    """Every state that was told of a transaction, in order."""
    told = [one for one in await town.events() if one["transaction_id"] == id_]
    return [one["state"] for one in sorted(told, key=lambda one: int(one["seq"]))]


async def house(town: Town, account: str) -> int:
    """What stands on a house account."""
    rows = await town.fetch(
        "SELECT coalesce(sum(amount), 0) AS amount FROM ledger.entries WHERE account_id = $1", account
    )
    return int(rows[0]["amount"])


@pytest.mark.row("N32", "A04")
async def test_n32_a_killed_signer_and_a_node_that_forgets_mint_once(town: Town, chaos: Chaos) -> None:
    before = await town.supply("AEUR")
    id_ = await stuck(town, chaos, "killed")

    await town.kill("chain-0")
    await chaos.drop_all()
    await town.start("chain")
    await chaos.resume_mining()

    await town.reaches(id_, "completed")
    assert await town.supply("AEUR") == before + 10_000_000
    found = await town.attempts(id_)
    assert len({one["reference"] for one in found}) == 1, "the same bytes were sent again, none other"
    assert len(found) >= 2
    assert await minted(town, id_) == [10_000_000, 0, 0]

    async def unended() -> str:
        return ", ".join(f"{one['number']}" for one in await town.attempts(id_) if one["ended_at"] is None)

    await soon(unended, "what the crash has cut off is ended by a look", town)


@pytest.mark.row("N32")
async def test_n32_a_fork_as_deep_as_one_block_before_the_credit_is_mined_again_and_credited_once(
    town: Town, chaos: Chaos
) -> None:
    before = await town.supply("AEUR")
    id_ = await stuck(town, chaos, "forked-1")
    await chaos.mine(1)
    await town.reaches(id_, "mint_confirming")
    assert await minted(town, id_) == [10_000_000, 0, 0]

    await chaos.reorg(1)
    assert await minted(town, id_) == [0, 0, 0]
    assert await town.balance("forked-1:AEUR") == 0
    await chaos.resume_mining()

    await town.reaches(id_, "completed")
    assert await town.supply("AEUR") == before + 10_000_000
    assert await minted(town, id_) == [10_000_000, 0, 0]
    assert await town.balance("forked-1:AEUR") == 10_000_000
    assert len({one["reference"] for one in await town.attempts(id_)}) == 1, "the same bytes, none other"


@pytest.mark.row("N32")
@pytest.mark.parametrize("depth", [2, 3])
async def test_n32_a_block_lost_after_the_credit_is_mined_again_and_no_status_goes_back(
    town: Town, chaos: Chaos, depth: int
) -> None:
    """As deep as confirmations are asked for (2), and one deeper."""
    before, name = await town.supply("AEUR"), f"forked-{depth}"
    id_ = await stuck(town, chaos, name)
    await chaos.mine(1)
    await town.reaches(id_, "mint_confirming")
    await chaos.mine(depth - 1)
    await town.reaches(id_, "completed")
    assert await town.balance(f"{name}:AEUR") == 10_000_000
    told = await states(town, id_)

    await chaos.reorg(depth)
    assert await town.supply("AEUR") == before
    assert await minted(town, id_) == [0, 0, 0]

    async def unconfirmed() -> str:
        found = await house(town, "@custody:chain:local:unconfirmed:AEUR")
        return "" if found == 10_000_000 else f"{found} unconfirmed"

    await soon(unconfirmed, "the ledger knows that the block is lost", town)
    assert (await town.transaction(id_))[:2] == ("completed", "completed")
    await chaos.resume_mining()

    async def confirmed() -> str:
        found = await house(town, "@custody:chain:local:unconfirmed:AEUR")
        return "" if found == 0 else f"{found} unconfirmed"

    await soon(confirmed, "it is in a block again", town)
    assert await town.supply("AEUR") == before + 10_000_000
    assert await minted(town, id_) == [10_000_000, 0, 0]
    assert await town.balance(f"{name}:AEUR") == 10_000_000
    assert told[-1] == "completed" and set((await states(town, id_))[len(told) :]) == {"completed"}


@pytest.mark.row("N32", "A04")
async def test_n32_a_burn_whose_block_is_lost_pays_nothing_out_until_it_is_final_and_burns_once(
    town: Town, chaos: Chaos
) -> None:
    await town.reaches(await minting(town, "burning"), "completed")
    before = await town.supply("AEUR")
    await chaos.stop_mining()
    beneficiary = {"name": "Bob", "account": "DE89370400440532013000"}
    asked = {"account_id": "burning:AEUR", "amount": "10.00", "rail": "sepa_instant", "beneficiary": beneficiary}
    id_ = await town.send("withdrawal.submit", "burning", asked)
    await town.reaches(id_, "burn_broadcast")
    await chaos.mine(3)  # one more than what confirms a mint; a burn waits for finality
    await town.reaches(id_, "burn_confirming")

    await chaos.reorg(3)
    assert await town.supply("AEUR") == before
    assert [one["kind"] for one in await town.attempts(id_)] == ["broadcast"], "nothing is paid out"
    await chaos.resume_mining()

    await town.reaches(id_, "completed")
    assert await town.supply("AEUR") == before - 10_000_000
    key, reference = derived(load_key(town.settings), "AEUR"), bytes.fromhex(chain_reference(id_, "burn"))
    async with ChainNode(town.anvil.rpc_url) as node:
        logs = await node.events(token_address(key), 0, (await node.head()).number, [reference])
    assert [(one.kind, one.amount) for one in logs] == [("burned", 10_000_000)]
    assert len({one["reference"] for one in await town.attempts(id_) if one["kind"] == "broadcast"}) == 1


@pytest.mark.row("N32")
async def test_n32_a_mint_that_reverts_has_minted_nothing_and_asked_for_again_mints_once(
    town: Town, chaos: Chaos
) -> None:
    """The contract is paused behind everyone's back."""
    before = await town.supply("AEUR")
    id_ = await stuck(town, chaos, "reverted")
    async with chaos.paused(token_address(derived(load_key(town.settings), "AEUR")), Act.MINT):
        await chaos.mine(1)
    assert await minted(town, id_) == [0, 0, 0]
    await chaos.resume_mining()

    await attention(town, id_, "chain_failed")
    assert await town.balance("reverted:AEUR") == 0
    resolve = {"operator": "olga", "transaction_id": id_, "outcome": "mint_again"}
    await town.send("transaction.resolve", "reverted", resolve)
    await town.reaches(id_, "completed")
    assert await minted(town, id_) == [0, 10_000_000, 0]
    assert await town.supply("AEUR") == before + 10_000_000


@pytest.mark.row("N32")
async def test_n32_a_slow_chain_is_waited_for_with_one_transaction(town: Town, chaos: Chaos) -> None:
    await chaos.resume_mining(3)
    id_ = await minting(town, "slow")
    await town.reaches(id_, "completed")

    assert await minted(town, id_) == [10_000_000, 0, 0]
    assert len(await town.attempts(id_)) == 1


@pytest.mark.row("N32")
async def test_n32_a_stuck_mint_pays_more_under_the_same_nonce(town: Town, chaos: Chaos) -> None:
    before = await town.supply("AEUR")
    id_ = await stuck(town, chaos, "stuck")

    async def raised() -> str:
        await chaos.base_fee(10**15)
        await chaos.mine(1)
        hashes = {one["reference"] for one in await town.attempts(id_)}
        return "" if len(hashes) >= 2 else f"{len(hashes)} hashes"

    await soon(raised, "its fee is raised", town)
    await chaos.base_fee(10**9)
    await chaos.resume_mining()
    await town.reaches(id_, "completed")
    assert await town.supply("AEUR") == before + 10_000_000
    assert await minted(town, id_) == [10_000_000, 0, 0]


@pytest.mark.row("N32", "A14")
async def test_n32_a_node_that_hangs_holds_up_mints_only(town: Town) -> None:
    town.anvil.process.freeze()
    try:
        id_ = await minting(town, "frozen")
        await town.reaches(id_, "mint_queued")
    finally:
        town.anvil.process.thaw()
    await town.reaches(id_, "completed", within_s=90)
    assert await town.balance("frozen:AEUR") == 10_000_000
    shown = await town.metrics("chain-0")
    assert shown["aura_lane_breaker", "chain:local:AEUR"] == shown["aura_lane_stopped", "chain:local:AEUR"] == 0
    assert shown["aura_lane_mintable_units", "chain:local:AEUR"] == 0
    assert shown["aura_lane_statement_timestamp_seconds", "chain:local:AEUR"] > 0


@pytest.mark.row("A06")
async def test_a06_every_lane_answers_a_pause(town: Town) -> None:
    scope: dict[str, Any] = {"rail": "ach"}
    await town.send("pause.set", "ops", {"operator": "olga", "scope": scope, "note": "bank-a is away"})

    async def applied() -> str:
        told = [event["type"] for event in await town.events() if event["type"].startswith("pause.")]
        return "" if "pause.applied" in told else f"told: {told}"

    await soon(applied, "all partitions and lanes have it", town)
