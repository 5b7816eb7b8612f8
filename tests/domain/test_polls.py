"""A bank's list of events, as it may come: what nobody can read, pages that lead nowhere, a bank that is half open."""

from __future__ import annotations

import msgspec
import pytest

from agents.bank_lanes import Poll
from aura_stream.domain.lane_news import ENCODE, CallEnded, Opened, Polled
from tests.domain.test_early_money import Lane, inbox

POLL_MS = 10_000
UNREADABLE = [b'"no JSON, or too deep"', b"[1]", b"{}", b'{"type": "transfer.settled", "data": {"transfer": {}}}']


@pytest.fixture
def lane() -> Lane:
    found = Lane()
    found.hear(inbox, ENCODE(Opened()))
    return found


def polls(lane: Lane) -> list[int]:
    """After which numbers events were asked for, since this was asked last."""
    found = [wish.after for wish in lane.wished if isinstance(wish, Poll)]
    lane.wished = [wish for wish in lane.wished if not isinstance(wish, Poll)]
    return found


def listed(lane: Lane, after: int, *events: bytes) -> None:
    lane.hear(inbox, ENCODE(Polled(after, [msgspec.Raw(event) for event in events])))


@pytest.mark.row("SEC34", "A13")
@pytest.mark.parametrize("event", UNREADABLE)
def test_sec34_an_event_that_nobody_can_read_is_asked_for_thrice_and_keeps_nobody_behind_it_from_being_heard(
    lane: Lane, event: bytes
) -> None:
    lane.expect()
    assert polls(lane) == [0]
    for n in (1, 2):
        listed(lane, 2, event, lane.paid())
        assert polls(lane) == []  # not at once
        lane.wait(POLL_MS << n)
        assert polls(lane) == [0], "from the same place: it may only have been spoiled on its way"
    listed(lane, 2, event, lane.paid())
    assert polls(lane) == [2]

    assert len(lane.told) == 1
    notes = [line for line in lane.lines if line["line"] == "note"]
    assert [(note["lane"], note["what"]) for note in notes] == [("bank:bank-b", "unreadable")] * 3


@pytest.mark.row("SEC34")
def test_sec34_an_event_that_comes_right_at_the_second_time_is_heard(lane: Lane) -> None:
    lane.expect()
    listed(lane, 1, b"{}")
    lane.wait(POLL_MS * 2)
    listed(lane, 1, lane.paid())
    assert len(lane.told) == 1 and polls(lane) == [0, 0, 1]


@pytest.mark.row("SEC34")
@pytest.mark.parametrize("after", [5, 4, 0])
def test_sec34_a_page_that_does_not_lead_on_is_not_asked_for_without_a_pause(lane: Lane, after: int) -> None:
    listed(lane, 5, lane.paid())
    assert polls(lane) == [0, 5]
    listed(lane, after, lane.paid())
    assert polls(lane) == []
    lane.wait(POLL_MS)
    assert polls(lane) == [5]


@pytest.mark.row("A14", "N31")
def test_a14_n31_nobody_lists_events_beside_the_one_call_of_half_open(lane: Lane) -> None:
    listed(lane, 1, lane.paid())
    listed(lane, 1)
    polls(lane)
    for n in range(6):
        lane.order(f"ref-{n}", "payout")
    while True:  # until the breaker is open
        made = lane.calls()
        if not made:
            break
        for call in made:
            lane.hear(inbox, ENCODE(CallEnded(call.job.reference, call.number, "lost")))
    assert lane.lines[-1]["line"] in ("lane", "attempt") and any(line.get("breaker") == "open" for line in lane.lines)
    polls(lane)

    lane.wait(31_000)
    (probe,) = lane.calls()
    assert polls(lane) == []
    lane.wait(POLL_MS)  # the time of the next list is long over
    assert polls(lane) == [] and lane.calls() == []
    lane.hear(inbox, ENCODE(CallEnded(probe.job.reference, probe.number, "accepted", bank_reference="b")))
    assert polls(lane) == [1] and len(lane.calls()) == 4
