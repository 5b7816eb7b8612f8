"""A minter's lane as an actor: what stops it, what holds it back, and what a release does, through its two topics."""

from __future__ import annotations

import json
import secrets
from itertools import count
from typing import Any

import msgspec
import pytest

from agents import chain_lanes
from agents.chain_lanes import ChainLanes, Look, Send
from aura_stream.chain.signer import SigningKey
from aura_stream.domain.ids import chain_lane_key, chain_reference
from aura_stream.domain.lane_news import ENCODE as ENCODE_NEWS
from aura_stream.domain.lane_news import (
    AddressWanted,
    Arrival,
    Cancel,
    ChainNews,
    Looked,
    NotSeen,
    Opened,
    Release,
    Sent,
    Sighting,
)
from aura_stream.domain.lane_requests import ENCODE, Burn, ChainRequest, Mint, SetPause, StatementRead
from aura_stream.domain.lanes.lines import AddressLine, AttemptLine, CancelLine, LaneLine, LaneRecord, Line, ReleaseLine
from aura_stream.domain.lanes.minter import Job, Limits
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.domain.pauses import Pause, Scope
from aura_stream.domain.signals import ChainFact, NativeMoved, Signal, TokensIn
from aura_stream.domain.state import SettlementRules
from aura_stream.engine.driver import LogRecord
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.unit import Memory, Names
from tables.chain_lanes import CHAIN_JOBS
from topics.chain_requests import CHAIN_REQUESTS

KEY = chain_lane_key("local", "AUSD")
MINT = Mint("89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa", "default", "alice", chain_reference("t", "mint/1"), "AUSD", 100)
DAY = 24 * 60 * 60 * 1000
NAMES = Names(CHAIN_REQUESTS.name, "signals", "journal", "dead", "changelog")


class LaneWorld:
    """One lane; whoever uses it plays the ledger, the chain and the operator."""

    def __init__(self, least: int = 0) -> None:
        rules = LaneRules(SettlementRules(), "default", chain=Limits(least_sweep={"AUSD": least}))
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
        self.told: list[Signal] = []

    def take(self, topic: str, value: bytes) -> tuple[list[Line], list[Any]]:
        """One record; its lines and what it wishes for."""
        self.at += 1000
        record = LogRecord(topic, 0, next(self.offsets[topic]), self.at, KEY, value)
        unit, taken = self.shard.run([record])
        assert (taken, unit.dead) == (1, 0)
        finished = unit.finish()
        self.shard.adopt(finished)
        journal = [one.value for one in finished.outputs if one.topic == "journal"]
        packed = [json.loads(one.value or b"") for one in finished.outputs if one.topic == "signals"]
        self.told = [msgspec.convert(signal, Signal) for one in packed for signal in one["signals"]]
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

    def address_of_alice(self) -> AddressLine:
        """Her deposit address: the lane has begun, and the forwarder's contract is in block 90."""
        self.look()
        self.tell(AddressWanted("default", "alice:AUSD"))
        self.look()
        (deploy,) = self.jobs()
        lines, _ = self.seen(3, Sighting(deploy.reference, deploy.hashes[0], 90, ok=True))
        (alice,) = [one for one in lines if isinstance(one, AddressLine)]
        return alice

    def seen(self, nonce: int, *sightings: Sighting) -> tuple[list[Line], list[Any]]:
        """What the chain says; every line, and what is wished for."""
        return self.tell(Looked("1:0xa", 1, 100, 90, nonce, nonce, 10, 1, 0, list(sightings)))

    def facts(self, *sightings: Sighting, nonce: int) -> list[str]:
        """Kinds of what the ledger is told of what the chain says."""
        self.seen(nonce, *sightings)
        return [one.kind for one in self.told if isinstance(one, ChainFact)]

    def cancel(self, nonce: int) -> tuple[CancelLine, list[Line]]:
        lines, _ = self.tell(Cancel(f"00000000-0000-5000-8000-{next(self.numbers):012}", "olga", nonce))
        (said,) = [one for one in lines if isinstance(one, CancelLine)]
        assert (said.operator, said.nonce) == ("olga", nonce)
        return said, lines

    def pause(self, scope: Scope) -> None:
        self.standing = Pause(f"00000000-0000-5000-8000-{next(self.numbers):012}", scope, self.at, "olga")
        self.ask(SetPause(self.standing, 0))

    def lift(self) -> None:
        self.ask(SetPause(msgspec.structs.replace(self.standing, lifted_at=self.at + 1), 0))

    def jobs(self) -> list[Job]:
        """All jobs that have a nonce, in its order."""
        rows = [CHAIN_JOBS.decode(value).job for key, value in self.shard.store.scan(b"M", b"N")]
        return sorted((job for job in rows if job.nonce >= 0), key=lambda job: job.nonce)

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

    assert (outcome, line.stopped) == ("released", "")
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


def test_sec34_n32_a_reference_that_somebody_else_has_used_stops_the_lane_until_it_is_explained() -> None:
    world = LaneWorld()
    world.ready()
    assert world.look()[1] == 1
    used = Sighting(MINT.reference, error="reference_used_elsewhere")

    (line,), _ = world.look(3, "1:0xa", used)
    assert line.stopped == "reference_used_elsewhere"
    assert (world.facts(used, nonce=3), world.jobs()[0].state) == ([], "signed"), "no end before a person has looked"
    second = msgspec.structs.replace(MINT, reference=chain_reference("t", "mint/2"), amount=7)
    world.ask(second)

    # What a person has explained is dead at finality, so that the customer's money has a way out; and it goes on.
    outcome, (line,), _ = world.release("reference_used_elsewhere")
    assert (outcome, line.stopped) == ("released", "")
    assert world.facts(used, nonce=3) == ["failed", "broadcast"]
    first, other = world.jobs()
    assert (first.state, other.reference, other.nonce) == ("dead", second.reference, 3)
    # The same of another job is another doubt; here it has reverted, since the reference was used before.
    again = Sighting(second.reference, other.hashes[0], 95, error="reference_used_elsewhere")
    (line,), _ = world.look(4, "1:0xa", again)
    assert line.stopped == "reference_used_elsewhere"
    assert world.release("reference_used_elsewhere")[0] == "released"
    assert world.facts(again, nonce=4) == [], "not final"
    assert world.facts(msgspec.structs.replace(again, block=90), nonce=4) == ["failed"]


def test_n32_a_nonce_of_ours_that_somebody_else_has_used_stops_the_lane_and_is_dead_at_finality() -> None:
    world = LaneWorld()
    world.ready()
    assert world.look()[1] == 1
    used = Sighting(MINT.reference, error="foreign_nonce")
    seen = Looked("1:0xa", 1, 100, 90, 3, 2, 10, 1, 0, [used])

    lines, _ = world.tell(seen)
    (line,) = [one for one in lines if isinstance(one, LaneLine)]
    assert (line.stopped, line.figures["next_nonce"], line.figures["seen_nonce"]) == ("foreign_nonce", 3, 0)
    assert world.release("foreign_nonce")[0] == "released"
    world.tell(seen)
    assert [job.state for job in world.jobs()] == ["signed"], "not final; and it is explained"
    assert world.release("foreign_nonce")[0] == "not_stopped"
    assert world.facts(used, nonce=3) == ["failed"]


def attempts(lines: list[Line]) -> list[tuple[str, int, str, str]]:
    """Hash, number, state and answer of each line of an attempt."""
    return [(one.reference, one.number, one.state, one.answer) for one in lines if isinstance(one, AttemptLine)]


def test_n32_an_operator_cancels_a_nonce_and_whichever_of_its_transactions_lands_decides() -> None:
    world = LaneWorld()
    world.ready()
    assert world.look()[1] == 1

    first, lines = world.cancel(2)
    assert (first.outcome, first.transaction_id) == ("canceled", MINT.transaction_id)
    assert [(hash_, state) for hash_, _, state, _ in attempts(lines)] == [(first.hash, "started")]
    again, _ = world.cancel(2)
    assert again.hash not in ("", first.hash), "asked again, it pays more"
    (job,) = world.jobs()
    assert (job.nonce, len(job.hashes), job.cancels) == (2, 3, (first.hash, again.hash))
    assert job.hashes[0] not in job.cancels, "the mint is watched as well"

    # Lost by the node: the latest bytes go out again, which is the cancel.
    lines, wishes = world.seen(2, Sighting(MINT.reference, is_missing=True))
    assert [one.signed.tx_hash for one in wishes if isinstance(one, Send)] == [again.hash]
    # In a block, not final: it may still be undone. Then final: the mint can never land.
    assert world.facts(Sighting(MINT.reference, first.hash, 95, ok=True), nonce=3) == []
    assert world.facts(Sighting(MINT.reference, first.hash, 90, ok=True), nonce=3) == ["failed"]
    assert world.cancel(2)[0].outcome == "not_waiting"
    assert world.cancel(77)[0].outcome == "not_waiting"


def test_n32_a_canceled_mint_that_lands_all_the_same_is_a_mint() -> None:
    world = LaneWorld()
    world.ready()
    world.look()
    world.cancel(2)
    (job,) = world.jobs()

    assert world.facts(Sighting(MINT.reference, job.hashes[0], 90, ok=True), nonce=3) == ["mined", "confirmed"]


def test_a06_a_pause_of_the_chain_is_signed_behind_what_was_sent_and_its_end_before_what_waited() -> None:
    world = LaneWorld()
    world.ready()
    assert world.look()[1] == 1  # a mint under nonce 2
    world.pause(Scope(chain="local", assets=("AUSD",)))
    (line,), sent = world.look(2, "1:0xa", Sighting(MINT.reference))
    assert (sent, line.figures["acts"], line.figures["acts_final"], line.figures["next_nonce"]) == (1, 7, 0, 4)
    mint, pause = world.jobs()
    assert (mint.nonce, pause.nonce, pause.step, pause.amount) == (2, 3, "pause", 7)

    second = msgspec.structs.replace(MINT, reference=chain_reference("t", "mint/2"), amount=7)
    world.ask(second)
    (line,), sent = world.look(2, "1:0xa", Sighting(MINT.reference), Sighting(pause.reference))
    assert (line.held_back, sent) == ("paused", 0)
    (line,), _ = world.look(4, "1:0xa", Sighting(pause.reference, pause.hashes[0], 90, ok=True))
    assert (line.figures["acts"], line.figures["acts_final"]) == (7, 7)

    world.lift()
    assert world.look(4)[1] == 2
    lifted, minted = world.jobs()[2:]
    assert [(one.step, one.nonce, one.amount) for one in (lifted, minted)] == [("pause", 4, 0), ("mint", 5, 7)]


def test_a06_only_a_pause_that_names_the_chain_stops_its_holders_and_by_type_its_act() -> None:
    world = LaneWorld()
    world.ready()
    for scope in (
        Scope(assets=("AUSD",)),
        Scope(chain="other"),
        Scope(chain="local", assets=("AEUR",)),
        Scope(tenant="default", chain="local"),
        Scope(chain="local", type="hold"),
    ):
        world.pause(scope)
        world.look()
        assert [job.step for job in world.jobs() if job.step == "pause"] == [], scope
        world.lift()
    world.pause(Scope(chain="local", type="withdrawal"))
    world.look()
    second = msgspec.structs.replace(MINT, reference=chain_reference("t", "mint/2"))
    world.ask(second)
    world.look(3)
    # A mint is no withdrawal: it goes on behind the pause.
    assert [(one.step, one.amount) for one in world.jobs()] == [("mint", 100), ("pause", 2), ("mint", 100)]


def test_a06_a_pause_that_is_canceled_or_never_lands_is_asked_for_again() -> None:
    world = LaneWorld()
    world.look()
    world.pause(Scope(chain="local"))
    assert world.look()[1] == 1
    (pause,) = world.jobs()

    assert world.look(3, "1:0xa", Sighting(pause.reference))[1] == 1, "its nonce is used up at finality: a new one"

    first, second = world.jobs()
    assert (first.state, second.state, second.amount, second.nonce) == ("dead", "signed", 7, 3)


def test_a14_every_state_of_the_chains_breaker_is_told() -> None:
    world = LaneWorld()
    world.look()

    def told(news: ChainNews) -> list[str]:
        return [one.breaker for one in world.tell(news)[0] if isinstance(one, LaneLine)]

    assert [state for _ in range(5) for state in told(NotSeen("no answer"))] == ["open"]
    world.at += 60_000
    lines, wishes = world.tell(Opened())
    assert [one.breaker for one in lines if isinstance(one, LaneLine)][-1:] == ["half_open"]
    assert sum(isinstance(one, Look) for one in wishes) == 1, "one look is let through"
    assert told(NotSeen("no answer")) == ["open"]
    world.at += 60_000
    assert told(Opened())[-1:] == ["half_open"]
    assert [line.breaker for line in world.look()[0]] == ["closed"]


def test_a06_n32_a_lane_stopped_by_a_foreign_nonce_still_pauses_its_contract_and_lifts_nothing() -> None:
    world = LaneWorld()
    world.ready()
    assert world.look()[1] == 1
    (line,), _ = world.look(5)
    assert line.stopped == "foreign_nonce"

    world.pause(Scope(chain="local"))
    (line,), sent = world.look(5)
    _, pause = world.jobs()
    assert (pause.step, pause.nonce, pause.amount, sent) == ("pause", 5, 7, 1)  # behind what somebody else has used
    assert (line.stopped, line.figures["acts"], line.figures["next_nonce"]) == ("foreign_nonce", 7, 6)
    # Somebody else is quicker: asked for again, as always.
    _, sent = world.look(6, "1:0xa", Sighting(pause.reference))
    *_, again = world.jobs()
    assert (sent, again.step, again.nonce) == (1, "pause", 6)

    world.ask(msgspec.structs.replace(MINT, reference=chain_reference("t", "mint/2")))
    world.lift()
    assert world.look(6)[1] == 0, "neither the lifting nor a mint"
    assert world.release("foreign_nonce")[0] == "released"
    world.look(6)
    assert [(job.step, job.nonce, job.amount) for job in world.jobs()[-2:]] == [("pause", 7, 0), ("mint", 8, 100)]


def test_a06_a_lane_on_another_chain_signs_no_pause_there() -> None:
    world = LaneWorld()
    world.look()
    world.look(2, "2:0xb")
    world.pause(Scope(chain="local"))
    assert world.look(2, "2:0xb")[1] == 0
    assert world.look(2)[1] == 0, "its own chain is shown again, and the lane still waits for its release"
    assert world.release("another_chain")[0] == "released"
    assert world.look(2)[1] == 1


def test_b5_gas_that_no_fact_tells_of_is_told_once_it_is_final_and_top_ups_are_what_is_left_over() -> None:
    world, told = LaneWorld(), list[tuple[str, int]]()

    def seen(nonce: int, native: int, *sightings: Sighting) -> None:
        # All that is mined by block 90 is final.
        world.tell(Looked("1:0xa", 1, 100, 90, nonce, nonce, 10, 1, 0, list(sightings), native=native))
        told.extend((one.step, one.amount) for one in world.told if isinstance(one, NativeMoved))

    # The key was given money, and the token's two transactions are mined, but not final.
    world.tell(Looked("1:0xa", 1, 100, 90, 2, 0, 10, 1, 0, native=1150))
    world.tell(Looked("1:0xa", 1, 100, 90, 2, 1, 10, 1, 0, native=1050))
    seen(2, 1000)  # what the key has when the lane begins
    world.ask(StatementRead(world.at))
    world.ask(MINT)
    seen(2, 1000)
    (mint,) = world.jobs()
    world.tell(Cancel("00000000-0000-5000-8000-000000000099", "olga", mint.nonce))
    (mint,) = world.jobs()
    world.pause(Scope(chain="local"))
    seen(2, 1000)
    _, pause = world.jobs()
    assert told == [("received", 1000)]

    # Mined, and not final: nothing is told. Something final that is not seen yet: no top-up is guessed.
    seen(4, 940, Sighting(mint.reference, mint.cancels[-1], 95, True, 21))
    assert told == [("received", 1000)]
    landed = [
        Sighting(mint.reference, mint.cancels[-1], 80, True, 21),
        Sighting(pause.reference, pause.hashes[-1], 81, True, 39),
    ]
    seen(4, 940, *landed)
    assert told == [("received", 1000), ("cancel", 21), ("pause", 39)]
    seen(4, 940)
    seen(4, 1440)
    seen(4, 1440)
    assert told[3:] == [("received", 500)]
    assert sum(amount if step == "received" else -amount for step, amount in told) == 1440


def test_n32_a_mint_that_lands_again_in_another_block_pays_what_that_one_takes() -> None:
    world = LaneWorld()
    world.ready()
    world.look()
    (mint,) = world.jobs()

    def seen(block: int, gas: int, final: int = 90) -> tuple[list[int], list[int]]:
        sightings = [Sighting(mint.reference, mint.hashes[-1], block, True, gas)] if block else []
        sightings = sightings or [Sighting(mint.reference, is_missing=True)]
        world.tell(Looked("1:0xa", 1, 100, final, 3, 2 if final < 99 else 3, 10, 1, 0, sightings))
        facts = [one.gas for one in world.told if isinstance(one, ChainFact) and one.kind == "confirmed"]
        return facts, [one.amount for one in world.told if isinstance(one, NativeMoved)]

    assert seen(99, 70) == ([70], [])
    assert seen(0, 0) == ([], [])  # its block is lost
    assert seen(98, 64) == ([0], [])
    assert seen(98, 64, final=99) == ([], [-6])


def test_l51_a_broadcast_that_a_crash_has_cut_off_is_ended_by_what_a_look_sees() -> None:
    world = LaneWorld()
    world.ready()
    world.look()
    (job,) = world.jobs()
    lines, _ = world.seen(2, Sighting(MINT.reference, is_missing=True))
    assert attempts(lines) == [(job.hashes[0], 2, "started", "")]
    # In a block: who sent it last may still be telling, so that it is given time.
    assert attempts(world.seen(3, Sighting(MINT.reference, job.hashes[0], 99, ok=True))[0]) == []
    world.at += 30_000

    lines, _ = world.seen(3, Sighting(MINT.reference, job.hashes[0], 99, ok=True))

    assert attempts(lines) == [(job.hashes[0], 1, "ended", "taken"), (job.hashes[0], 2, "ended", "taken")]
    late, _ = world.tell(Sent(MINT.reference, job.hashes[0], 2))
    assert attempts(late) == [], "an attempt ends once"


def test_a04_each_log_to_a_deposit_address_is_swept_once_and_again_until_it_lands() -> None:
    world = LaneWorld()
    world.look()
    world.tell(AddressWanted("default", "alice:AUSD"))
    assert world.look()[1] == 1
    (deploy,) = world.jobs()
    assert (deploy.step, deploy.nonce) == ("deploy", 2)
    lines, wishes = world.seen(3, Sighting(deploy.reference, deploy.hashes[0], 90, ok=True))
    (alice,) = [one for one in lines if isinstance(one, AddressLine)]
    lines, wishes = world.tell(AddressWanted("default", "bob:AUSD"))
    (bob,) = [one for one in lines if isinstance(one, AddressLine)]
    assert (alice.account, bob.account) == ("alice:AUSD", "bob:AUSD") and alice.address != bob.address
    again, _ = world.tell(AddressWanted("default", "alice:AUSD"))
    assert not [one for one in again if isinstance(one, AddressLine)], "it has its address for good"
    assert [one.scan_from for one in wishes if isinstance(one, Look)] == [91], (
        "nobody knew of it in a block that is final"
    )

    arrivals = [
        Arrival("0xa", 0, 110, alice.address, 25),
        Arrival("0xa", 1, 110, alice.address, 7),
        Arrival("0xb", 0, 111, "0x52908400098527886E0F7030069857D2E4169EE7", 99),
    ]
    told = Looked("1:0xa", 1, 200, 190, 3, 3, 10, 1, 0, [], 91, 190, arrivals)
    _, wishes = world.tell(told)
    received = [one for one in world.told if isinstance(one, TokensIn)]
    assert [(one.account, one.amount) for one in received] == [("alice:AUSD", 25), ("alice:AUSD", 7)]
    assert len({one.transaction_id for one in received}) == 2, "two logs of one transaction are two"
    assert sum(isinstance(one, Send) for one in wishes) == 2
    # The same blocks again, by a look that was late or came twice: nothing.
    world.tell(told)
    assert not world.told
    world.tell(msgspec.structs.replace(told, scanned_from=150, scanned=200))
    assert not world.told

    # One lands. The other's nonce is used up by nothing of ours: it is asked for under another one.
    _, first, second = world.jobs()
    ends = (Sighting(first.reference, first.hashes[0], 190, ok=True), Sighting(second.reference))
    world.tell(Looked("1:0xa", 1, 200, 195, 5, 5, 10, 1, 0, list(ends)))
    assert [(one.step, one.kind) for one in world.told if isinstance(one, ChainFact)] == [("sweep", "confirmed")]
    *_, dead, third = world.jobs()
    assert (dead.state, third.state, third.amount, third.nonce) == ("dead", "signed", 7, 5)
    assert third.transaction_id == dead.transaction_id and third.reference != dead.reference


def test_a04_dust_waits_at_its_address_and_is_swept_with_what_comes_later() -> None:
    world = LaneWorld(least=100)
    alice = world.address_of_alice()
    last = [90]

    def come(block: int, *amounts: int) -> tuple[list[TokensIn], list[int]]:
        arrivals = [Arrival(f"0x{block}", number, block, alice.address, one) for number, one in enumerate(amounts)]
        looked = Looked("1:0xa", 1, 200, block, 3, 3, 10, 1, 0, [], last[0] + 1, block, arrivals)
        lines, _ = world.tell(looked)
        told = [one for one in world.told if isinstance(one, TokensIn)]
        world.tell(looked)
        assert not world.told, "the same blocks again: nothing"
        last[0] = block
        return told, [one.figures["waiting"] for one in lines if isinstance(one, LaneLine)]

    assert come(101, 30, 29) == ([], [30, 59])
    assert come(102, 40) == ([], [99])
    (told,), waiting = come(103, 1)
    assert (told.account, told.amount, waiting) == ("alice:AUSD", 100, [0])
    (sweep,) = [job for job in world.jobs() if job.step == "sweep"]
    assert (sweep.amount, sweep.to) == (100, alice.address)
    (told,), _ = come(104, 250)
    assert told.amount == 250
    assert come(105, 99) == ([], [99])


def test_a06_a_contract_whose_transfers_are_paused_is_not_asked_to_sweep() -> None:
    world = LaneWorld()
    alice = world.address_of_alice()
    world.pause(Scope(chain="local", type="transfer"))
    arrivals = [Arrival("0xa", 0, 110, alice.address, 25)]
    world.tell(Looked("1:0xa", 1, 200, 190, 3, 3, 10, 1, 0, [], 91, 190, arrivals))
    assert [job.step for job in world.jobs()] == ["deploy", "pause"]
    world.lift()
    world.tell(Looked("1:0xa", 1, 200, 190, 3, 3, 10, 1, 0))
    assert [job.step for job in world.jobs()] == ["deploy", "pause", "pause", "sweep"]


def test_a06_what_a_pause_holds_back_does_not_keep_what_goes_on_from_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_lanes, "_QUEUED_AT_ONCE", 240)
    world = LaneWorld()
    world.look()
    world.ask(StatementRead(world.at))
    world.pause(Scope(chain="local", type="deposit"))
    world.look()
    for number in range(250):
        world.ask(msgspec.structs.replace(MINT, reference=chain_reference("t", f"mint/{number}"), amount=1))
    world.ask(Burn(MINT.transaction_id, "default", "alice", chain_reference("t", "burn"), "AUSD", 5))
    world.look(3)
    assert [job.step for job in world.jobs()] == ["pause", "burn"]
    world.lift()
    world.look(4)
    assert len(world.jobs()) == 3 + 200, "no more than one unit can sign"


def test_sec34_a_nodes_word_on_fees_is_believed_up_to_a_limit() -> None:
    world = LaneWorld()
    world.ready()
    ceiling = Limits().fee_max
    world.tell(Looked("1:0xa", 1, 100, 90, 2, 2, 10**30, 10**29, 0, []))
    (job,) = world.jobs()
    assert (job.fee, job.tip) == (ceiling, ceiling)
    for block in range(106, 300, 6):
        world.tell(Looked("1:0xa", 1, block, 90, 2, 2, 10**30, 10**29, 0, [Sighting(MINT.reference)]))
    (job,) = world.jobs()
    assert len(job.hashes) == 1 + Limits().bumps
    assert job.fee < 2 * ceiling


def test_sec34_a04_a_look_says_which_chain_the_lane_began_with() -> None:
    world = LaneWorld()
    _, wishes = world.tell(Opened())
    assert [one.chain for one in wishes if isinstance(one, Look)] == [""]
    world.look()
    world.at += DAY
    _, wishes = world.tell(Opened())
    assert [one.chain for one in wishes if isinstance(one, Look)] == ["1:0xa"]


def test_n34_a_mint_that_a_version_before_has_queued_among_the_others_is_signed_once() -> None:
    world = LaneWorld()
    world.look()
    world.ask(StatementRead(world.at))
    world.ask(MINT)
    ((key, value),) = world.shard.store.scan(b"W", b"X")
    assert b"/m" in key
    world.shard.store.write([(key, None), (key.replace(b"/m", b"/q"), value)])
    assert world.look()[1] == 1
    world.look()
    assert [job.step for job in world.jobs()] == ["mint"]
    assert [key[len(b"Wlocal:AUSD/") :][:1] for key, _ in world.shard.store.scan(b"W", b"X")] == [b"s"]
