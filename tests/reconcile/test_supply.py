"""The supply of a real chain against what the ledger owes: what is in flight explains, what is left is a break."""

from __future__ import annotations

from typing import Any

import asyncpg
import orjson
import pytest

from aura_stream.chain import token
from aura_stream.chain.rpc import ChainNode
from aura_stream.domain.events import ByBank
from aura_stream.domain.reconciliation import Custody
from aura_stream.embedded.anvil import AnvilServer
from aura_stream.reconcile import run as runs
from aura_stream.reconcile.run import Outcome
from tests.chain.conftest import anvil, node, world  # noqa: F401 - fixtures
from tests.chain.world import World
from tests.ledger.builders import transaction_id
from tests.reconcile.conftest import Books, Desk

CONFIRMATIONS = 3


async def look(desk: Desk, server: AnvilServer, world: World) -> Outcome:  # noqa: F811 - the fixture
    return await desk.run(
        logins=[], chain_rpc_url=server.rpc_url, confirmations=CONFIRMATIONS, tokens={"AUSD": world.token}
    )


def ausd(outcome: Outcome) -> dict[str, object]:
    (found,) = [one for one in outcome.report["tokens"] if one["token"] == "AUSD"]
    return dict(found)


async def test_n32_i10_b3_supply_at_finality_is_what_is_owed_or_a_break(
    desk: Desk,
    anvil: AnvilServer,  # noqa: F811 - the fixture
    node: ChainNode,  # noqa: F811 - the fixture
    world: World,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "LOOKS", 1)
    await world.chaos.mine(CONFIRMATIONS)  # so that the token itself is there for good
    await desk.books.moved("d1", 1000, currency="USD")
    await desk.books.owed("AUSD", "USD", 1000, 10_000_000)
    mint = world.sign(token.mint(world.treasury, 10_000_000, b"\1" * 32))
    await world.mined(mint)

    # In a block, and not deep enough: the ledger says more than the chain has at finality.
    early = await look(desk, anvil, world)
    assert (ausd(early)["supply"], ausd(early)["unexplained"]) == ("0.000000", "-10.000000")
    assert await desk.kinds() == ["supply_differs"]

    await world.chaos.mine(CONFIRMATIONS - 1)
    final = await look(desk, anvil, world)
    shown = ausd(final)
    assert (shown["owed"], shown["supply"], shown["unexplained"]) == ("10.000000", "10.000000", "0.000000")
    assert (final.gone, await desk.breaks()) == (1, [])
    assert shown["block"] == (await node.head()).number - CONFIRMATIONS + 1

    # Somebody with the key mints what nobody has paid for.
    await world.mined(world.sign(token.mint(world.treasury, 1, b"\2" * 32)))
    await world.chaos.mine(CONFIRMATIONS)
    await look(desk, anvil, world)
    (found,) = await desk.breaks()
    assert (found["kind"], found["amount"], found["asset"]) == ("supply_differs", 1, "AUSD")

    # A run that does not ask the chain has not seen it mended.
    assert (await desk.run(logins=[])).gone == 0
    away = await desk.run(logins=[], chain_rpc_url="http://127.0.0.1:9", tokens={"AUSD": world.token})
    assert away.gone == 0 and len(away.problems) == 1 and ausd(away)["supply"] is None


async def test_n32_i10_b3_a_mint_in_flight_explains_a_difference_and_no_more_than_its_own(
    desk: Desk,
    anvil: AnvilServer,  # noqa: F811 - the fixture
    world: World,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "LOOKS", 1)
    await in_flight(desk.books, "m1", 1000, fee=10)
    for look_, (amount, rest) in enumerate(((0, "0.000000"), (9_900_000, "0.000000"), (1, "0.000001"))):
        if amount:
            await world.mined(world.sign(token.mint(world.treasury, amount, bytes([look_ + 1]) * 32)))
        await world.chaos.mine(CONFIRMATIONS)
        shown = ausd(await look(desk, anvil, world))
        assert (shown["minting"], shown["in_flight"], shown["unexplained"]) == ("9.900000", 1, rest)
    assert await desk.kinds() == ["supply_differs"]


async def in_flight(books: Books, key: str, amount: int, *, fee: int) -> None:
    """A deposit whose mint is signed and not booked."""
    shard = await books.shard()
    await books.moved(f"{key}-in", amount, currency="USD")
    found = transaction_id("c-default", key)
    held = shard.journal(found, ("c-default:USD", "available", amount), ("c-default:USD", "held", -amount), asset="USD")
    shard.unit(
        shard.transaction(
            *("c-default", key, held),
            event="deposit.mint_broadcast",
            status="processing",
            state="mint_broadcast",
            amount=amount,
            asset="USD",
            by_bank=ByBank(bank="bank-a", fee=str(fee)),
        )
    )
    await books.flush(shard)


async def test_b3_money_that_is_owed_and_not_held_is_a_break(desk: Desk) -> None:
    await desk.books.moved("d1", 1000, currency="USD")
    await desk.books.moved("gift", 1, currency="USD", against="@expense:losses:USD")
    outcome = await desk.run(logins=[])
    usd = next(one for one in outcome.report["currencies"] if one["currency"] == "USD")
    assert (usd["surplus"], usd["is_backed"]) == ("0.01", True)

    await desk.books.moved("loss", -51, currency="USD", against="@expense:losses:USD")
    outcome = await desk.run(logins=[])
    (found,) = await desk.breaks()
    assert (found["kind"], found["amount"]) == ("not_backed", -50)

    # It is as much less again: another break, since somebody may have explained the first.
    await desk.books.moved("more", -1, currency="USD", against="@expense:losses:USD")
    await desk.run(logins=[])
    assert [(one["kind"], one["amount"]) for one in await desk.breaks()] == [("not_backed", -51)]


async def test_b5_custody_is_what_our_address_holds_at_finality_or_a_break(
    desk: Desk,
    anvil: AnvilServer,  # noqa: F811 - the fixture
    world: World,  # noqa: F811 - the fixture
    owner: asyncpg.Connection[asyncpg.Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "LOOKS", 1)
    named = {"tokens": {"AUSD": world.token}, "custody": {"AUSD": world.key.address}}

    async def compared(**more: Any) -> Any:
        asked = {"logins": [], "chain_rpc_url": anvil.rpc_url, "confirmations": CONFIRMATIONS}
        return ausd(await desk.run(**(asked | named | more)))["custody"]

    await desk.books.moved("d1", 1000, currency="USD")
    await desk.books.owed("AUSD", "USD", 1000, 10_000_000)
    await world.mined(world.sign(token.mint(world.key.address, 10_000_000, b"\1" * 32)))
    await world.chaos.mine(CONFIRMATIONS)
    found = await compared()
    assert (found["booked"], found["balance"], found["unexplained"]) == ("10.000000", "10.000000", "0.000000")
    assert await desk.breaks() == []

    # Who has the key sends tokens away: the supply is what it was, and the address holds less.
    stranger = "0x" + "5d" * 20
    await world.mined(world.sign(token.call_data("transfer", stranger, 3)))
    await world.chaos.mine(CONFIRMATIONS)
    found = await compared()
    assert (found["balance"], found["difference"], found["unexplained"]) == ("9.999997", "-0.000003", "-0.000003")
    (one,) = await desk.breaks()
    assert (one["kind"], one["amount"], one["asset"]) == ("custody_differs", -3, "AUSD")

    # A run that does not compare it has not seen it mended, nor has one that finds no chain.
    assert await compared(custody={}) is None
    await desk.run(logins=[], chain_rpc_url="http://127.0.0.1:9", **named)
    assert await desk.kinds() == ["custody_differs"]

    # What is told of it, once.
    told = await owner.fetch("SELECT tenant_id, type, data FROM events.outbox ORDER BY outbox_id")
    assert [(row["tenant_id"], row["type"]) for row in told] == [
        ("@platform", "reconciliation.break_opened"),
        ("@platform", "reserve.breached"),
    ]
    assert orjson.loads(told[0]["data"])["amount"] == "-3"


async def test_b5_tokens_that_come_back_explain_custody_and_no_more_than_their_own(
    desk: Desk,
    anvil: AnvilServer,  # noqa: F811 - the fixture
    world: World,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "LOOKS", 1)
    shard = await desk.books.shard()
    begun = {"event": "deposit.tokens_received", "status": "processing", "state": "tokens_received"}
    shard.unit(shard.transaction("c-default", "back", **begun, amount=3_000_000, asset="AUSD"))
    await desk.books.flush(shard)
    named = {"tokens": {"AUSD": world.token}, "custody": {"AUSD": world.key.address}}

    for look_, (amount, rest) in enumerate(((0, "0.000000"), (3_000_000, "0.000000"), (1, "0.000001"))):
        if amount:
            await world.mined(world.sign(token.mint(world.key.address, amount, bytes([look_ + 1]) * 32)))
        await world.chaos.mine(CONFIRMATIONS)
        asked = {"logins": [], "chain_rpc_url": anvil.rpc_url, "confirmations": CONFIRMATIONS}
        found: Any = ausd(await desk.run(**(asked | named)))["custody"]
        assert found["unexplained"] == rest


def test_b5_what_is_in_flight_explains_custody_and_no_more_than_its_own() -> None:
    def rest(balance: int, **flying: int) -> int:
        return Custody(100, balance, **flying).unexplained

    assert rest(100) == 0
    assert (rest(130, minting=30), rest(131, minting=30), rest(129, minting=30)) == (0, 1, 0)
    assert (rest(80, burning=20), rest(79, burning=20)) == (0, -1)
    assert (rest(107, unconfirmed=7), rest(108, unconfirmed=7), rest(99, unconfirmed=7)) == (0, 1, -1)
