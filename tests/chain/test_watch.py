"""What is said of a transaction on a real chain that drops, delays, reverts, replaces and reorganises."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_stream.chain import token
from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import Block, ChainError, ChainNode, Receipt, Unanswered
from aura_stream.chain.signer import GWEI, Fees, bumped, cancellation, fees_for
from aura_stream.chain.signer import Transaction as Tx
from aura_stream.chain.token import Act, TokenEvent
from aura_stream.chain.watch import Effect, Facts, Inclusion, Sighting, State, Watched, decide, look
from aura_stream.embedded.anvil import CHAIN_ID, AnvilServer
from tests.chain.world import GAS, Mint, World, sandbox

CONFIRMATIONS = 3


async def test_n32_from_nothing_to_final(world: World) -> None:
    mint = world.mint()
    assert (await mint.look()).state is State.UNKNOWN
    await mint.send()
    waiting = await mint.look()
    assert (waiting.state, waiting.waiting) == (State.PENDING, (mint.signed[0].tx_hash,))
    for confirmations in range(1, CONFIRMATIONS + 2):
        await world.chaos.mine()
        seen = await mint.look()
        assert (seen.state, seen.confirmations, seen.lost) == (State.MINED, confirmations, False)
        assert seen.final is (confirmations >= CONFIRMATIONS)
    assert seen.event is not None
    assert (seen.event.amount, seen.event.account) == (mint.effect.amount, world.treasury)
    assert seen.gas_wei > 0
    assert await world.supply() == mint.effect.amount


async def test_n32_stuck_without_blocks_then_replaced_by_our_own_higher_fee(world: World) -> None:
    mint = world.mint()
    await mint.send()
    first = mint.signed[0]
    mint.sign(bumped(mint.fees))
    await mint.send()
    waiting = await mint.look()
    assert waiting.state is State.PENDING
    await world.chaos.mine(CONFIRMATIONS)
    seen = await mint.look()
    assert (seen.state, seen.final) == (State.MINED, True)
    assert seen.inclusion is not None
    assert seen.inclusion.tx_hash == mint.signed[1].tx_hash != first.tx_hash
    assert await world.supply() == mint.effect.amount


async def test_n32_too_cheap_for_the_base_fee_waits_until_it_is_bumped_to_the_market(world: World) -> None:
    mint = world.mint()
    await world.chaos.base_fee(100 * GWEI)
    await world.chaos.mine()
    await world.chaos.base_fee(100 * GWEI)
    try:
        await mint.send()
    except ChainError:
        pass  # some nodes take it into the pool, some refuse it: either way it is not mined
    await world.chaos.mine()
    assert (await mint.look()).state in (State.UNKNOWN, State.PENDING)
    market = await world.node.market()
    assert market.max_fee > mint.fees.max_fee
    mint.sign(bumped(mint.fees, market))
    await mint.send()
    await world.chaos.mine()
    assert (await mint.look()).state is State.MINED
    assert await world.supply() == mint.effect.amount


async def test_n32_dropped_from_the_pool_is_sent_again_with_the_same_bytes(world: World) -> None:
    mint = world.mint()
    await mint.send()
    assert await world.chaos.drop(mint.signed[0].tx_hash)
    assert (await mint.look()).state is State.UNKNOWN
    await mint.send()
    await mint.send()  # known already: no error
    await world.chaos.mine()
    assert (await mint.look()).state is State.MINED
    assert await world.supply() == mint.effect.amount


@pytest.mark.parametrize("depth", range(1, CONFIRMATIONS + 2))
async def test_n32_reorganised_at_each_depth_is_lost_sent_again_and_mined_once(world: World, depth: int) -> None:
    mint = world.mint()
    await mint.send()
    await world.chaos.mine(depth)
    before = await mint.look(confirmations=CONFIRMATIONS)
    mint.saw(before)
    assert before.final is (depth >= CONFIRMATIONS)
    await world.chaos.reorg(depth)
    gone = await mint.look(seen_head=before.head.number)
    assert (gone.state, gone.lost) == (State.REORGANISED, True)
    assert await world.supply() == 0
    await mint.send()
    assert (await mint.look()).waiting == (mint.signed[0].tx_hash,)
    await world.chaos.mine()
    again = await mint.look()
    assert (again.state, again.lost, again.confirmations) == (State.MINED, True, 1)
    mint.saw(again)
    await world.chaos.mine(CONFIRMATIONS)
    assert (await mint.look()).final
    assert await world.supply() == mint.effect.amount


async def test_n32_reorganised_while_the_blocks_below_stay(world: World) -> None:
    deep, shallow = world.mint(), world.mint()
    await deep.send()
    await world.chaos.mine(2)
    await shallow.send()
    await world.chaos.mine()
    for mint in (deep, shallow):
        mint.saw(await mint.look())
    await world.chaos.reorg(1)
    sightings = await look(world.node, [deep.watched, shallow.watched], confirmations=CONFIRMATIONS)
    assert [one.state for one in sightings] == [State.MINED, State.REORGANISED]
    assert [one.lost for one in sightings] == [False, True]


async def test_n32_reverted_by_the_pause_says_so_and_had_no_effect(world: World) -> None:
    mint = world.mint()
    await mint.send()
    async with world.chaos.paused(world.token, Act.MINT):
        await world.chaos.mine()
        seen = await mint.look()
    assert (seen.state, seen.reason, seen.event) == (State.REVERTED, "mint paused", None)
    assert not seen.final
    assert seen.gas_wei > 0
    await world.chaos.mine(CONFIRMATIONS)
    assert (await mint.look()).final
    assert await world.supply() == 0


async def test_a02_n32_a_reference_used_before_reverts_and_the_effect_is_found(world: World) -> None:
    first = world.mint()
    second = world.mint(ref=first.effect.reference)
    await first.send()
    await second.send()
    await world.chaos.mine()
    seen = await second.look()
    assert (seen.state, seen.reason) == (State.REVERTED, "duplicate ref")
    assert seen.event is not None
    assert seen.event.tx_hash == first.signed[0].tx_hash
    assert await world.supply() == first.effect.amount


async def test_n32_a_foreign_transaction_with_our_nonce(world: World) -> None:
    mint = world.mint()
    await mint.send()
    other = world.sign(b"", to=world.treasury, nonce=mint.watched.nonce, fees=bumped(mint.fees))
    await world.node.send(other)
    await world.chaos.mine()
    seen = await mint.look()
    assert (seen.state, seen.final, seen.event) == (State.REPLACED, False, None)
    await world.chaos.mine(CONFIRMATIONS - 1)
    assert (await mint.look()).final
    assert await world.supply() == 0


async def test_n32_a_foreign_transaction_after_a_reorganisation_took_ours_away(world: World) -> None:
    mint = world.mint()
    await mint.send()
    await world.chaos.mine()
    mint.saw(await mint.look())
    await world.chaos.reorg(1)
    other = world.sign(b"", to=world.treasury, nonce=mint.watched.nonce)
    await world.node.send(other)
    await world.chaos.mine()
    seen = await mint.look()
    assert (seen.state, seen.lost) == (State.REPLACED, True)


async def test_n32_a_foreign_transaction_that_did_the_same_is_found_by_its_reference(world: World) -> None:
    mint = world.mint()
    data = token.mint(world.treasury, 7, mint.effect.reference)
    other = world.sign(data, nonce=mint.watched.nonce)
    await world.node.send(other)
    await world.chaos.mine()
    seen = await mint.look(confirmations=1)
    assert seen.state is State.REPLACED
    assert seen.event is not None
    assert (seen.event.amount, seen.event.tx_hash) == (7, other.tx_hash)


async def test_n32_an_operators_cancellation_is_one_of_ours_and_has_no_effect(world: World) -> None:
    mint = world.mint()
    await mint.send()
    original = Tx(CHAIN_ID, mint.watched.nonce, world.token, b"", GAS, mint.fees)
    cancel = cancellation(original, world.key.address, bumped(mint.fees))
    mint.add(world.sign(cancel.data, to=cancel.to, nonce=cancel.nonce, fees=cancel.fees, gas=cancel.gas))
    await mint.send()
    await world.chaos.mine()
    seen = await mint.look(confirmations=1)
    assert (seen.state, seen.reason, seen.final) == (State.REVERTED, "no effect", True)
    assert await world.supply() == 0


async def test_n32_success_at_an_address_without_a_contract_is_no_mint(world: World) -> None:
    world.token = world.treasury
    mint = world.mint()
    await mint.send()
    await world.chaos.mine()
    with pytest.raises(ChainError):  # nor can the token be asked whether the reference is used
        await mint.look()


async def test_n32_a_node_that_is_behind_decides_nothing(world: World) -> None:
    mint = world.mint()
    await mint.send()
    await world.chaos.mine(2)
    seen = await mint.look()
    mint.saw(seen)
    await world.chaos.rewind(2)
    assert (await mint.look()).state is State.BEHIND
    await world.chaos.mine()
    assert (await mint.look(seen_head=seen.head.number)).state is State.BEHIND
    await world.chaos.mine()
    assert (await mint.look(seen_head=seen.head.number)).state is State.REORGANISED


async def test_n32_a_node_that_restarts_has_lost_its_pool_but_not_its_chain(anvil: AnvilServer, world: World) -> None:
    done, waiting = world.mint(), world.mint()
    await done.send()
    await world.chaos.mine()
    done.saw(await done.look())
    await waiting.send()
    anvil.restart()
    async with ChainNode(anvil.rpc_url) as world.node:
        sightings = await look(world.node, [done.watched, waiting.watched], confirmations=CONFIRMATIONS)
        assert [one.state for one in sightings] == [State.MINED, State.UNKNOWN]
        assert not sightings[0].lost
        assert await world.node.total_supply(world.token, sightings[0].head.number - 1) == 0


async def test_n32_a_node_that_was_killed_is_behind_and_what_it_lost_is_sent_again(
    anvil: AnvilServer, world: World
) -> None:
    anvil.restart()  # what is there now is on disk
    async with ChainNode(anvil.rpc_url) as world.node:
        world.chaos = Chaos(world.node, sandbox())
        mint = world.mint()
        await mint.send()
        await world.chaos.mine(2)
        seen = await mint.look()
        mint.saw(seen)
        anvil.kill()
    anvil.start()
    async with ChainNode(anvil.rpc_url) as world.node:
        world.chaos = Chaos(world.node, sandbox())
        found = await mint.look(seen_head=seen.head.number)
        assert found.state in (State.BEHIND, State.MINED)  # MINED if it was written down in time
        if found.state is State.BEHIND:
            await mint.send()
        await world.chaos.mine(3)
        assert (await mint.look(seen_head=seen.head.number)).state is State.MINED
        assert await world.supply() == mint.effect.amount


async def test_n32_a_chain_that_keeps_changing_during_the_look_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mint = world.mint()
    await mint.send()
    await world.chaos.mine(4)
    asked = world.node.block

    async def changing(number: int) -> Block | None:
        await world.chaos.reorg(1)
        return await asked(number)

    monkeypatch.setattr(world.node, "block", changing)
    with pytest.raises(Unanswered, match="changed during"):
        await mint.look()


@pytest.mark.parametrize("seed", range(12))
async def test_n32_a19_whatever_the_chain_does_each_mint_happens_once(world: World, seed: int) -> None:
    """A lane in a nutshell: sends what is unknown or lost, bumps what waits, and is done when all is final."""
    chance = random.Random(seed)
    mints = [world.mint(amount) for amount in range(1, 9)]
    seen_head = await world.chaos.mine(CONFIRMATIONS + 1)  # the token itself is out of reach
    for step in range(60):
        calm = step > 25
        fault = "mine" if calm else chance.choice(["mine", "mine", "drop", "drop all", "reorg", "fee", "none"])
        if fault == "mine":
            await world.chaos.mine(chance.randint(1, 2))
        elif fault == "drop":
            await world.chaos.drop(chance.choice(chance.choice(mints).signed).tx_hash)
        elif fault == "drop all":
            await world.chaos.drop_all()
        elif fault == "reorg":
            await world.chaos.reorg(chance.randint(1, CONFIRMATIONS + 1))
        elif fault == "fee":
            await world.chaos.base_fee(chance.randint(1, 60) * GWEI)
        sightings = await look(
            world.node, [mint.watched for mint in mints], confirmations=CONFIRMATIONS, seen_head=seen_head
        )
        seen_head = max(seen_head, sightings[0].head.number)
        await _act(mints, sightings, await world.node.market(), chance)
        if calm and all(one.state is State.MINED and one.final for one in sightings):
            break
    assert [(one.state, one.final) for one in sightings] == [(State.MINED, True)] * len(mints)
    assert await world.supply() == sum(mint.effect.amount for mint in mints)
    logged = await world.node.events(world.token, 0, seen_head)
    assert sorted(event.reference for event in logged) == sorted(mint.effect.reference for mint in mints)
    assert await world.node.nonce(world.key.address) == world.nonce


async def _act(mints: list[Mint], sightings: list[Sighting], market: Fees, chance: random.Random) -> None:
    for mint, seen in zip(mints, sightings, strict=True):
        assert seen.state not in (State.REVERTED, State.REPLACED), seen
        if seen.state is State.MINED:
            mint.saw(seen)
            continue
        if seen.state is State.BEHIND:
            continue
        if seen.state is State.PENDING and (mint.fees.max_fee < market.max_fee or chance.random() < 0.2):
            mint.sign(bumped(mint.fees, market))
        for signed in mint.signed:
            try:
                await mint.world.node.send(signed)
            except ChainError:
                pass  # too cheap beside its replacement, or below the base fee: the next look tells


# --- The decision alone ---

HASHES = tuple("0x" + letter * 64 for letter in "abc")
EFFECT = Effect("minted", "0x" + "1" * 40, "0x" + "2" * 40, 5, b"\1" * 32)


def _event(tx_hash: str, number: int, amount: int = 5) -> TokenEvent:
    return TokenEvent("minted", EFFECT.token, EFFECT.account, EFFECT.reference, amount, tx_hash, number, _hash(number))


def _hash(number: int) -> str:
    return f"0x{number:064x}"


@st.composite
def situations(draw: st.DrawFn) -> tuple[Watched, Facts]:
    head = draw(st.integers(0, 8))
    used = draw(st.integers(0, 2))
    nonce = draw(st.sampled_from([0, 0, 1, 2]))
    receipt = None
    others: tuple[TokenEvent, ...] = ()
    waiting: tuple[str, ...] = ()
    if nonce < used:
        number = draw(st.integers(0, head))
        tx_hash = draw(st.sampled_from(HASHES[:2]))
        good = draw(st.booleans())
        logs = (_event(tx_hash, number, draw(st.sampled_from([5, 6]))),) if good and draw(st.booleans()) else ()
        if draw(st.booleans()):
            receipt = Receipt(tx_hash, number, _hash(number), good, 50_000, GWEI, logs)
        if receipt is None or not logs:
            others = draw(st.sampled_from([(), (_event(HASHES[2], draw(st.integers(0, head))),)]))
    else:
        waiting = tuple(draw(st.lists(st.sampled_from(HASHES[:2]), unique=True)))
    seen = draw(
        st.none() | st.builds(lambda n, s: Inclusion(HASHES[0], n, _hash(n + s)), st.integers(0, 8), st.integers(0, 1))
    )
    block = Block(head, _hash(head), _hash(head - 1) if head else _hash(0), 0, GWEI)
    facts = Facts(block, used, draw(st.integers(0, used)), receipt, "", waiting, others)
    return Watched("0x" + "3" * 40, nonce, HASHES[:2], EFFECT, 0, seen), facts


@settings(max_examples=1500, deadline=None)
@given(situations(), st.integers(1, 4), st.sampled_from([0, 0, 0, 5]))
def test_n32_laws_of_the_decision(situation: tuple[Watched, Facts], confirmations: int, seen_head: int) -> None:
    watched, facts = situation
    seen = decide(watched, facts, confirmations=confirmations, seen_head=seen_head)
    assert seen == decide(watched, facts, confirmations=confirmations, seen_head=seen_head)
    used = watched.nonce < facts.used
    if seen.state is State.BEHIND:
        assert facts.head.number < max(seen_head, watched.seen.block_number if watched.seen else 0)
        return
    assert used is (seen.state in (State.MINED, State.REVERTED, State.REPLACED))
    if seen.final:
        # Nothing is final on fewer confirmations than were asked for, neither ours nor whoever used the reference.
        assert seen.state is State.REPLACED or seen.confirmations >= confirmations
        assert seen.state is not State.REPLACED or facts.used_final > watched.nonce
        assert seen.event is None or facts.head.number - seen.event.block_number + 1 >= confirmations
    if seen.state is State.MINED:
        assert seen.event is not None
        assert EFFECT.is_in(seen.event)
    if watched.seen is not None and seen.inclusion != watched.seen:
        assert seen.lost
    if seen.lost:
        assert watched.seen is not None
        assert seen.inclusion != watched.seen


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_fees_for_any_base_fee_survive_five_full_blocks(base_fee: int, tip: int) -> None:
    fee = base_fee
    for _ in range(5):
        fee += fee // 8
    assert fees_for(base_fee, tip).max_fee >= fee
