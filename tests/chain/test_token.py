"""The contract: what is deployed is what can be read; roles, references, pause; and everything else by chance."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aura_stream.chain import compile as build
from aura_stream.chain import rpc, token
from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainNode, Kind, Receipt, Refused
from aura_stream.chain.signer import GWEI, Fees, SigningKey, Transaction, contract_address, sign
from aura_stream.chain.token import MAX_AMOUNT, ZERO_ADDRESS, Act, NotOurs, Role, TokenEvent
from aura_stream.embedded.anvil import CHAIN_ID, AnvilServer
from tests.chain.world import FEES, GAS, World, new_key, new_reference, sandbox

REF = b"\7" * 32


@pytest.fixture
def anvil(shared_anvil: AnvilServer) -> AnvilServer:
    """Each test has a token of its own, so they can share the chain."""
    return shared_anvil


@pytest.mark.parametrize("contract", build.CONTRACTS)
def test_the_committed_artefact_is_what_the_source_compiles_to(contract: str) -> None:
    committed = json.loads(build.artefact(contract).read_text(encoding="utf-8"))
    assert build.compiled(contract) == committed, "a contract was changed: python -m aura_stream.chain.compile"


async def test_what_lies_on_the_chain_is_the_committed_code(world: World) -> None:
    assert rpc.data(await world.node.call("eth_getCode", world.token, "latest")) == token.RUNTIME
    for function, expected in {"name": "Aura Dollar", "symbol": "AUSD", "decimals": token.PLACES}.items():
        assert await world.node.read(world.token, function) == expected


async def refusal(world: World, data: bytes, sender: str) -> str:
    """Why the token refuses a call of ``sender``."""
    with pytest.raises(Refused) as caught:
        await world.node.simulate(Transaction(CHAIN_ID, 0, world.token, data, GAS, FEES), sender)
    assert caught.value.kind is Kind.REVERTED
    assert caught.value.definite
    return caught.value.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (token.mint("0x" + "1" * 40, 1, REF), "not minter"),
        (token.burn(1, REF), "not burner"),
        (token.set_paused(Act.MINT), "not pauser"),
        (token.set_roles("0x" + "1" * 40, Role.MINTER), "not admin"),
        (token.call_data("offerAdmin", "0x" + "1" * 40), "not admin"),
        (token.call_data("acceptAdmin"), "not offered"),
        (token.transfer("0x" + "1" * 40, 1), "insufficient balance"),
        (token.call_data("transferFrom", "0x" + "2" * 40, "0x" + "1" * 40, 1), "insufficient allowance"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_sec26_a_stranger_can_do_nothing(world: World, data: bytes, reason: str) -> None:
    assert await refusal(world, data, new_key().address) == reason


async def test_a02_n32_a_reference_mints_once_and_burns_once(world: World) -> None:
    ref, me = new_reference(), world.key.address
    first, again, more = (world.sign(token.mint(me, amount, ref)) for amount in (10, 10, 11))
    assert [one.succeeded for one in await world.mined(first, again, more)] == [True, False, False]
    burn, twice = (world.sign(token.burn(4, ref)) for _ in range(2))
    assert [one.succeeded for one in await world.mined(burn, twice)] == [True, False]
    assert await refusal(world, token.burn(1, ref), me) == "duplicate ref"
    assert [await world.node.read(world.token, name, ref) for name in ("minted", "burned")] == [10, 4]
    assert await world.supply() == 6
    events = await world.node.events(world.token, 0, (await world.node.head()).number, [ref])
    assert [(event.kind, event.amount, event.account) for event in events] == [("minted", 10, me), ("burned", 4, me)]


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        ("mint", ("me", 0, REF), "zero amount"),
        ("mint", ("me", 1, bytes(32)), "empty ref"),
        ("mint", (ZERO_ADDRESS, 1, REF), "bad receiver"),
        ("mint", ("token", 1, REF), "bad receiver"),
        ("burn", (0, REF), "zero amount"),
        ("burn", (1, bytes(32)), "empty ref"),
        ("burn", (1, REF), "insufficient balance"),
        ("transfer", (ZERO_ADDRESS, 0), "bad receiver"),
        ("transfer", ("token", 0), "bad receiver"),
        ("setRoles", (ZERO_ADDRESS, 1), "zero address"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    world: World, function: str, arguments: tuple[object, ...], reason: str
) -> None:
    places = {"me": world.key.address, "token": world.token}
    data = token.call_data(function, *(places.get(str(one), one) for one in arguments))
    assert await refusal(world, data, world.key.address) == reason


async def test_the_supply_cannot_overflow(world: World) -> None:
    most = world.sign(token.mint(world.treasury, MAX_AMOUNT, new_reference()))
    assert [one.succeeded for one in await world.mined(most)] == [True]
    await refusal(world, token.mint(world.treasury, 1, new_reference()), world.key.address)


@pytest.mark.parametrize(
    ("act", "call"),
    [
        (Act.MINT, lambda me: token.mint(me, 1, new_reference())),
        (Act.BURN, lambda _: token.burn(1, new_reference())),
        (Act.TRANSFER, lambda _: token.transfer("0x" + "1" * 40, 1)),
    ],
)
async def test_a06_each_act_is_paused_on_its_own_and_resumed(
    world: World, act: Act, call: Callable[[str], bytes]
) -> None:
    me = world.key.address
    await world.mined(world.sign(token.mint(me, 5, new_reference())), world.sign(token.set_paused(act)))
    assert await refusal(world, call(me), me) == f"{(act.name or '').lower()} paused"
    await world.mined(world.sign(token.set_paused(Act(7) & ~act)))
    assert [one.succeeded for one in await world.mined(world.sign(call(me)))] == [True]


async def test_a06_a_pause_queues_behind_the_mints_that_were_sent_before_it(world: World) -> None:
    before = world.sign(token.mint(world.treasury, 5, new_reference()))
    pause = world.sign(token.set_paused(Act.MINT))
    after = world.sign(token.mint(world.treasury, 5, new_reference()))
    assert [one.succeeded for one in await world.mined(before, pause, after)] == [True, True, False]
    assert await world.supply() == 5


async def test_sec26_the_admin_changes_only_when_the_other_accepts(world: World) -> None:
    heir, me = new_key(), world.key.address
    await world.chaos.fund(heir.address)
    await world.mined(world.sign(token.call_data("offerAdmin", heir.address)))
    assert await world.node.read(world.token, "admin") == me.lower()
    await world.mined(sign(Transaction(CHAIN_ID, 0, world.token, token.call_data("acceptAdmin"), GAS, FEES), heir))
    assert await world.node.read(world.token, "admin") == heir.address.lower()
    assert await refusal(world, token.set_roles(me, Role.NONE), me) == "not admin"
    taken_back = sign(Transaction(CHAIN_ID, 1, world.token, token.set_roles(me, Role.NONE), GAS, FEES), heir)
    await world.mined(taken_back)
    assert await refusal(world, token.mint(me, 1, REF), me) == "not minter"


async def test_sec26_an_approval_is_used_up_unless_it_is_without_limit(world: World) -> None:
    me, spender = world.key.address, new_key()
    await world.chaos.fund(spender.address)

    async def move(nonce: int, amount: int) -> bool:
        data = token.call_data("transferFrom", me, world.treasury, amount)
        signed = sign(Transaction(CHAIN_ID, nonce, world.token, data, GAS, FEES), spender)
        return (await world.mined(signed))[0].succeeded

    await world.mined(world.sign(token.mint(me, 100, new_reference())))
    await world.mined(world.sign(token.call_data("approve", spender.address, 5)))
    assert [await move(0, 3), await move(1, 3), await move(2, 2), await move(3, 1)] == [True, False, True, False]
    await world.mined(world.sign(token.call_data("approve", spender.address, MAX_AMOUNT)))
    assert [await move(4, 50), await move(5, 45), await move(6, 1)] == [True, True, False]
    assert await world.node.read(world.token, "allowance", me, spender.address) == MAX_AMOUNT


# --- By chance, beside a model ---


@dataclass
class Model:
    """The contract's rules in a few lines of Python."""

    admin: str
    offered: str = ZERO_ADDRESS
    paused: Act = Act.NONE
    roles: dict[str, Role] = field(default_factory=lambda: defaultdict(lambda: Role.NONE))
    balances: Counter[str] = field(default_factory=Counter)
    allowances: Counter[tuple[str, str]] = field(default_factory=Counter)
    minted: Counter[bytes] = field(default_factory=Counter)
    burned: Counter[bytes] = field(default_factory=Counter)

    def do(self, by: str, function: str, arguments: tuple[object, ...]) -> bool:
        """Carry it out, or refuse."""
        match function, arguments:
            case "mint", (str(to), int(amount), bytes(ref)):
                if Role.MINTER not in self.roles[by] or Act.MINT in self.paused or self.minted[ref] or not amount:
                    return False
                self.minted[ref] = amount
                self.balances[to] += amount
            case "burn", (int(amount), bytes(ref)):
                if Role.BURNER not in self.roles[by] or Act.BURN in self.paused or self.burned[ref] or not amount:
                    return False
                if self.balances[by] < amount:
                    return False
                self.burned[ref] = amount
                self.balances[by] -= amount
            case "transfer", (str(to), int(amount)):
                return self._move(by, to, amount)
            case "transferFrom", (str(owner), str(to), int(amount)):
                allowed = self.allowances[owner, by]
                if allowed < amount or not self._move(owner, to, amount):
                    return False
                if allowed != MAX_AMOUNT:
                    self.allowances[owner, by] -= amount
            case "approve", (str(spender), int(amount)):
                self.allowances[by, spender] = amount
            case "setPaused", (int(acts),):
                if Role.PAUSER not in self.roles[by]:
                    return False
                self.paused = Act(acts)
            case "setRoles", (str(account), int(roles)):
                if by != self.admin:
                    return False
                self.roles[account] = Role(roles)
            case "offerAdmin", (str(to),):
                if by != self.admin:
                    return False
                self.offered = to
            case "acceptAdmin", ():
                if by != self.offered:
                    return False
                self.admin, self.offered = by, ZERO_ADDRESS
            case _:
                raise AssertionError(function)
        return True

    def _move(self, owner: str, to: str, amount: int) -> bool:
        if Act.TRANSFER in self.paused or self.balances[owner] < amount:
            return False
        self.balances[owner] -= amount
        self.balances[to] += amount
        return True


KEYS = [SigningKey(bytes([1 + number] * 32)) for number in range(4)]
WHO = st.sampled_from([key.address for key in KEYS])
AMOUNTS = st.integers(0, 6)
REFERENCES = st.sampled_from([bytes([number + 1] * 32) for number in range(3)])
FLAGS = st.integers(0, 7)
# One of four is right for most calls, so the one with the roles is asked more often.
BY = st.sampled_from([0, 0, 0, 1, 2, 3])
STEPS = st.one_of(
    st.tuples(BY, st.just("mint"), st.tuples(WHO, AMOUNTS, REFERENCES)),
    st.tuples(BY, st.just("burn"), st.tuples(AMOUNTS, REFERENCES)),
    st.tuples(BY, st.just("transfer"), st.tuples(WHO, AMOUNTS)),
    st.tuples(BY, st.just("transferFrom"), st.tuples(WHO, WHO, AMOUNTS)),
    st.tuples(BY, st.just("approve"), st.tuples(WHO, AMOUNTS | st.just(MAX_AMOUNT))),
    st.tuples(BY, st.just("setPaused"), st.tuples(st.sampled_from([0, 0, 1, 2, 4, 7]))),
    st.tuples(BY, st.just("setRoles"), st.tuples(WHO, FLAGS)),
    st.tuples(BY, st.just("offerAdmin"), st.tuples(WHO)),
    st.tuples(BY, st.just("acceptAdmin"), st.just(())),
)


# Shrinking a counter-example on a real chain would outlast the test's time.
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(STEPS, min_size=1, max_size=25))
def test_a02_a06_sec26_any_calls_conserve_the_supply_and_obey_the_rules(
    shared_anvil: AnvilServer, steps: list[tuple[int, str, tuple[object, ...]]]
) -> None:
    asyncio.run(_play(shared_anvil, steps))


async def _play(anvil: AnvilServer, steps: list[tuple[int, str, tuple[object, ...]]]) -> None:
    async with ChainNode(anvil.rpc_url) as node:
        chaos = Chaos(node, sandbox())
        for key in KEYS:
            await chaos.fund(key.address)
        nonces = {key.address: await node.nonce(key.address) for key in KEYS}
        address = contract_address(KEYS[0].address, nonces[KEYS[0].address])
        model = Model(KEYS[0].address)
        start = [(0, "setRoles", (KEYS[0].address, 7)), (0, "approve", (KEYS[1].address, MAX_AMOUNT))]
        plan = [(who, function, arguments) for who, function, arguments in (*start, *steps)]
        signed = []
        for place, (who, data, to) in enumerate(
            [(0, token.creation("AUSD"), None)]
            + [(who, token.call_data(function, *arguments), address) for who, function, arguments in plan]
        ):
            # A block holds them in the order of what they pay.
            tip = GWEI - place
            key = KEYS[who]
            gas = 3_000_000 if to is None else GAS
            signed.append(sign(Transaction(CHAIN_ID, nonces[key.address], to, data, gas, Fees(100 * GWEI, tip)), key))
            nonces[key.address] += 1
        assert await node.send_all(signed) == [None] * len(signed)
        await chaos.mine()
        answers = await node.batch([("eth_getTransactionReceipt", one.tx_hash) for one in signed])
        receipts = [rpc.receipt(answer) for answer in answers]
        assert receipts[0].succeeded
        expected = [model.do(KEYS[who].address, function, arguments) for who, function, arguments in plan]
        assert [receipt.succeeded for receipt in receipts[1:]] == expected
        await _compare(node, address, model, receipts)


async def _compare(node: ChainNode, address: str, model: Model, receipts: list[Receipt]) -> None:
    people = [key.address for key in KEYS]
    supply = await node.total_supply(address, "latest")
    balances = {who: await node.read(address, "balanceOf", who) for who in people}
    assert balances == {who: model.balances[who] for who in people}
    assert supply == sum(balances.values()) == sum(model.minted.values()) - sum(model.burned.values())
    for pair, allowed in model.allowances.items():
        assert await node.read(address, "allowance", *pair) == allowed
    for who in people:
        assert Role(await node.read(address, "roles", who)) == model.roles[who]
    assert Act(await node.read(address, "paused")) == model.paused
    assert await node.read(address, "admin") == model.admin.lower()
    events: list[TokenEvent] = [event for receipt in receipts for event in receipt.events]
    for kind, book in (("minted", model.minted), ("burned", model.burned)):
        told = {event.reference: event.amount for event in events if event.kind == kind}
        assert told == {ref: amount for ref, amount in book.items() if amount}
        assert len(told) == sum(event.kind == kind for event in events)


def test_sec34_a_damaged_log_is_not_read() -> None:
    good = {
        "address": "0x" + "1" * 40,
        "topics": [token.MINTED, "0x" + "0" * 24 + "2" * 40, "0x" + REF.hex()],
        "data": f"0x{5:064x}",
        "transactionHash": "0x" + "a" * 64,
        "blockNumber": "0x10",
        "blockHash": "0x" + "b" * 64,
        "logIndex": "0x3",
    }
    event = token.decode_event(good)
    assert event is not None
    assert (event.amount, event.reference, event.block_number) == (5, REF, 16)
    topics = good["topics"]
    for damage in (
        {"data": "0x05"},
        {"data": 5},
        {"topics": topics[:2]},
        {"topics": [*topics, topics[1]]},
        {"topics": [topics[0], "0x" + "f" * 64, topics[2]]},
        {"topics": [topics[0], topics[1], "0x07"]},
        {"blockNumber": None},
        {"address": "nobody"},
    ):
        with pytest.raises(NotOurs):
            token.decode_event(good | damage)
    assert token.decode_event(good | {"topics": []}) is None
