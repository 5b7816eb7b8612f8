"""A minter's lane as an actor: what stops it, what holds it back, and what a release does, through its two topics."""

from __future__ import annotations

import secrets
from itertools import count
from typing import Any

import msgspec

from agents.chain_lanes import ChainLanes, Look, Send
from aura_stream.chain.signer import SigningKey
from aura_stream.domain.ids import chain_lane_key, chain_reference
from aura_stream.domain.lane_news import ENCODE as ENCODE_NEWS
from aura_stream.domain.lane_news import ChainNews, Looked, Release, Sighting
from aura_stream.domain.lane_requests import ENCODE, ChainRequest, Mint, StatementRead
from aura_stream.domain.lanes.lines import LaneLine, LaneRecord, Line, ReleaseLine
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.domain.state import SettlementRules
from aura_stream.engine.driver import LogRecord
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.unit import Memory, Names
from topics.chain_requests import CHAIN_REQUESTS

KEY = chain_lane_key("local", "AUSD")
MINT = Mint("89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa", "default", "alice", chain_reference("t", "mint/1"), "AUSD", 100)
DAY = 24 * 60 * 60 * 1000
NAMES = Names(CHAIN_REQUESTS.name, "signals", "journal", "dead", "changelog")


class LaneWorld:
    """One lane; whoever uses it plays the ledger, the chain and the operator."""

    def __init__(self) -> None:
        rules = LaneRules(SettlementRules(), "default")
        self.shard = Memory(
            *(0,),
            actor=ChainLanes(rules, {"AUSD": SigningKey(secrets.token_bytes(32))}),
            names=NAMES,
            store=MemoryStore(),
            partitioner=Partitioner(1),
            rules=msgspec.json.encode(rules),
            rules_hash="r",
            inbox="inbox",
        )
        self.at = 20 * DAY
        self.offsets = {NAMES.commands: count(), "inbox": count()}
        self.numbers = count(1)

    def take(self, topic: str, value: bytes) -> tuple[list[Line], list[Any]]:
        """One record; its lines and what it wishes for."""
        self.at += 1000
        record = LogRecord(topic, 0, next(self.offsets[topic]), self.at, KEY, value)
        unit, taken = self.shard.run([record])
        assert (taken, unit.dead) == (1, 0)
        finished = unit.finish()
        self.shard.adopt(finished)
        journal = [one.value for one in finished.outputs if one.topic == "journal"]
        return [line for one in journal for line in msgspec.json.decode(one or b"", type=LaneRecord).lines], unit.wishes

    def ask(self, request: ChainRequest) -> list[Line]:
        return self.take(NAMES.commands, ENCODE(request))[0]

    def tell(self, news: ChainNews) -> tuple[list[Line], list[Any]]:
        return self.take("inbox", ENCODE_NEWS(news))

    def look(self, nonce: int = 2, chain: str = "1:0xa", *sightings: Sighting) -> tuple[list[LaneLine], int]:
        """What the chain says; how the lane stands, if it has changed, and how much is sent."""
        news = Looked(chain, 1, 100, 90, nonce, nonce, 10, 1, 0, list(sightings))
        lines, wishes = self.tell(news)
        return [one for one in lines if isinstance(one, LaneLine)], sum(isinstance(one, Send) for one in wishes)

    def release(self, stopped: str) -> tuple[str, list[LaneLine], list[Any]]:
        id_ = f"00000000-0000-5000-8000-{next(self.numbers):012}"
        lines, wishes = self.tell(Release(id_, "olga", stopped))
        (said,) = [one for one in lines if isinstance(one, ReleaseLine)]
        assert (said.id, said.operator, said.stopped) == (id_, "olga", stopped)
        return said.outcome, [one for one in lines if isinstance(one, LaneLine)], wishes

    def ready(self) -> None:
        """The bank's books are read, the chain is seen, a mint is asked for."""
        self.ask(StatementRead(self.at))
        self.look()
        self.ask(MINT)


def test_a04_a_lane_on_another_chain_stops_takes_no_nonce_of_it_and_is_released_on_its_own() -> None:
    world = LaneWorld()
    world.ready()

    (line,), sent = world.look(77, "2:0xb")
    assert (line.stopped, sent, line.figures["next_nonce"], line.figures["seen_nonce"]) == ("another_chain", 0, 2, 0)
    # Still there when it is released: it looks again, and stops again.
    outcome, (line,), wishes = world.release("another_chain")
    assert (outcome, line.stopped, [type(one) for one in wishes]) == ("released", "", [Look])
    (line,), sent = world.look(77, "2:0xb")
    assert (line.stopped, sent) == ("another_chain", 0)
    # Its own chain again: nothing is signed until a person says so.
    assert world.look(2) == ([], 0)
    assert world.release("foreign_nonce")[:2] == ("stopped_otherwise", [])
    assert world.release("another_chain")[0] == "released"
    assert world.look(2)[1] == 1
    assert world.release("another_chain")[:2] == ("not_stopped", [])


def test_n32_what_was_sent_runs_to_its_end_while_a_lane_is_stopped_and_new_work_goes_on_behind() -> None:
    world = LaneWorld()
    world.ready()
    assert world.look()[1] == 1
    (line,), _ = world.look(5)
    assert (line.stopped, line.figures["seen_nonce"]) == ("foreign_nonce", 5)
    assert line.figures["in_flight"] == 100
    second = msgspec.structs.replace(MINT, reference=chain_reference("t", "mint/2"), amount=7)
    world.ask(second)
    assert world.look(5, "1:0xa", Sighting(MINT.reference))[1] == 0

    outcome, (line,), _ = world.release("foreign_nonce")

    assert (outcome, line.stopped, line.figures["next_nonce"]) == ("released", "", 5)
    lines, sent = world.look(5, "1:0xa", Sighting(MINT.reference))
    assert (lines, sent) == ([], 1)
    (line,), _ = world.look(7)
    assert (line.stopped, line.figures["next_nonce"], line.figures["in_flight"]) == ("foreign_nonce", 6, 7)


def test_a04_what_holds_back_is_told_once_and_ends_by_itself() -> None:
    world = LaneWorld()
    world.look()
    world.ask(MINT)

    (line,), sent = world.look()
    assert (line.held_back, line.stopped, sent) == ("statement_too_old", "", 0)
    assert world.look() == ([], 0)
    assert world.release("statement_too_old")[:2] == ("not_stopped", [])
    world.ask(StatementRead(world.at))
    (line,), sent = world.look()
    assert (line.held_back, sent) == ("", 1)


def test_sec34_a_reference_that_somebody_else_has_used_stops_the_lane_again_after_a_release() -> None:
    world = LaneWorld()
    world.ready()
    assert world.look()[1] == 1
    used = Sighting(MINT.reference, error="reference_used_elsewhere")

    (line,), _ = world.look(3, "1:0xa", used)
    assert line.stopped == "reference_used_elsewhere"
    assert world.release("reference_used_elsewhere")[0] == "released"
    (line,), _ = world.look(3, "1:0xa", used)
    assert line.stopped == "reference_used_elsewhere"
