"""The queue of a bank's lane: what a pause holds back is set aside, and keeps nobody behind it waiting."""

from __future__ import annotations

import pytest

from agents import bank_lanes
from aura_stream.domain.lane_news import ENCODE, CallEnded
from aura_stream.domain.lane_requests import ENCODE as ENCODE_REQUEST
from aura_stream.domain.lane_requests import SetPause
from aura_stream.domain.pauses import Pause, Scope
from aura_stream.domain.signals import BankFact
from tests.domain.test_early_money import Lane, inbox, requests

AT_ONCE = 20


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Lane:
    monkeypatch.setattr(bank_lanes, "_LOOKED_AT", AT_ONCE)
    return Lane()


def pause(lane: Lane, id_: str, scope: Scope, *, lift: bool = False) -> None:
    told = Pause(id_, scope, lane.at, "olga", lifted_at=lane.at + 1 if lift else 0)
    lane.hear(requests, ENCODE_REQUEST(SetPause(told, 0)))


def run_out(lane: Lane) -> list[str]:
    """Answers every call until none is made any more; the references, in the order of their calls."""
    called: list[str] = []
    quiet = 0
    while quiet < 5:  # several looks of a moment each may find nothing to call yet
        made = lane.calls()
        for call in made:
            called.append(call.job.reference)
            news = CallEnded(call.job.reference, call.number, "accepted", bank_reference=call.job.reference)
            lane.hear(inbox, ENCODE(news))
        quiet = 0 if made else quiet + 1
        lane.wait(1_000)
    return called


@pytest.mark.row("A15")
def test_a15_what_a_pause_holds_back_keeps_nobody_behind_it_waiting_however_much_it_is(lane: Lane) -> None:
    deposits = [f"in-{n:03}" for n in range(AT_ONCE * 5)]
    pause(lane, "p", Scope(type="deposit"))
    for name in deposits:
        lane.order(name, "collect")
    lane.order("out", "payout")
    assert run_out(lane) == ["out"]

    pause(lane, "p", Scope(type="deposit"), lift=True)
    assert run_out(lane) == deposits, "all of it, in its order"


@pytest.mark.row("A15")
def test_a15_a_pause_that_finds_a_full_queue_sets_it_aside_and_each_lift_brings_back_its_own(lane: Lane) -> None:
    both = Scope(type="deposit"), Scope(type="withdrawal")
    names = {"collect": [f"in-{n:03}" for n in range(AT_ONCE * 2 + 1)], "payout": [f"out-{n}" for n in range(AT_ONCE)]}
    for step, references in names.items():
        for reference in references:
            lane.order(reference, step)
    under_way = [call.job.reference for call in lane.calls()]
    for number, scope in enumerate(both):
        pause(lane, f"p{number}", scope)
    for reference in under_way:  # what was sent runs to its end
        lane.hear(inbox, ENCODE(CallEnded(reference, 1, "accepted", bank_reference=reference)))
    assert under_way == names["collect"][: len(under_way)] != [] and run_out(lane) == []

    pause(lane, "p1", both[1], lift=True)
    assert run_out(lane) == names["payout"]
    pause(lane, "p0", both[0], lift=True)
    assert run_out(lane) == names["collect"][len(under_way) :]
    assert not [line for line in lane.lines if line["line"] == "note"]


@pytest.mark.row("A14", "N30")
def test_a14_n30_what_is_heard_of_a_call_that_was_given_up_is_told_and_ends_no_attempt_again(lane: Lane) -> None:
    lane.order("out", "payout")
    (call,) = lane.calls()
    lane.wait(call.timeout_ms + 2_000)
    given_up = len(lane.told)
    lane.hear(inbox, ENCODE(CallEnded("out", call.number, "accepted", bank_reference="b-1", took_ms=9_000)))

    of_call = [line for line in lane.lines if line["line"] == "attempt" and line["number"] == call.number]
    assert [(line["state"], line.get("answer", "")) for line in of_call] == [
        ("started", ""),
        ("ended", "lost"),
        ("late", "accepted"),
    ]
    assert [fact.kind for fact in lane.told[given_up:] if isinstance(fact, BankFact)] == ["accepted"]
