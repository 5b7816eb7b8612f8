"""Lanes: edges of the diagrams in `aura_stream/domain/lanes`, and both against a bank and a chain that misbehave."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_stream.domain.lane_requests import Burn, Expect, Instruct, Mint, Withdraw
from aura_stream.domain.lanes import bank, minter
from aura_stream.domain.lanes.bank import LOST, NOT_FOUND, NOT_PROCESSED, PENDING
from aura_stream.domain.pauses import Pause, Scope
from aura_stream.domain.signals import BankFact

LIMITS = bank.Limits()
NO_PAUSES: tuple[Pause, ...] = ()
PAYOUT = Instruct("t1", "default", "alice", "payout", "sepa", "ref-1", "EUR", 1000, "Alice", "DE89370400440532013000")


def a_job(request: Instruct = PAYOUT) -> tuple[bank.Lane, bank.Job]:
    made = bank.job_of(bank.Lane("bank-b"), request, None, 0)
    assert made is not None
    return made


def kinds(decided: bank.Decided) -> list[str]:
    return [fact.kind for fact in decided.facts]


def started_job() -> bank.Decided:
    lane, job = a_job()
    return bank.started(lane, job, LIMITS, 0)


def test_a15_a_call_is_told_before_it_is_made_and_its_answer_ends_it() -> None:
    one = started_job()
    assert (kinds(one), one.job.state, one.job.attempt, one.lane.calls) == (["started"], "started", 1, 1)

    two = bank.answered(one.lane, one.job, "accepted", LIMITS, 5, bank_reference="B1")
    assert (kinds(two), two.job.state, two.lane.calls, two.facts[0].bank_reference) == (["accepted"], "done", 0, "B1")


def test_l51_a15_only_what_was_not_processed_is_tried_again_three_times_at_most() -> None:
    decided, at, waits = started_job(), 0, []
    while decided.job.state != "done":
        decided = bank.answered(decided.lane, decided.job, NOT_PROCESSED, LIMITS, at)
        if decided.job.state == "waiting":
            waits.append(decided.job.due - at)
            at = decided.job.due
            decided = bank.started(decided.lane, decided.job, LIMITS, at)

    assert decided.job.attempt == LIMITS.tries == 3
    assert kinds(decided) == ["rejected"]
    assert decided.facts[0].code == bank.NEVER_TAKEN
    assert [500 << n <= wait <= 1000 << n for n, wait in enumerate(waits)] == [True, True]


def test_n30_a_started_attempt_without_a_definite_answer_is_unknown_and_inquired() -> None:
    one = started_job()
    two = bank.answered(one.lane, one.job, LOST, LIMITS, 10_000)
    assert (kinds(two), two.job.state) == (["unknown"], "unknown")

    three = bank.started(two.lane, two.job, LIMITS, two.job.due)
    assert (three.job.state, three.job.attempt, three.job.inquiries) == ("unknown", 1, 1), "an inquiry, not an attempt"
    four = bank.answered(three.lane, three.job, "settled", LIMITS, 20_000)
    assert (kinds(four), four.job.state) == (["settled"], "done")


def unknown_at(at: int) -> bank.Decided:
    one = started_job()
    two = bank.answered(one.lane, one.job, LOST, LIMITS, 10)
    return bank.started(two.lane, two.job, LIMITS, at)


def test_n30_not_found_allows_the_same_reference_only_between_the_longest_delay_and_the_window() -> None:
    early = unknown_at(20)
    before = bank.answered(early.lane, early.job, NOT_FOUND, LIMITS, LIMITS.longest_delay_ms - 1)
    assert (before.job.state, before.job.due >= LIMITS.longest_delay_ms) == ("unknown", True)

    inside = bank.answered(early.lane, early.job, NOT_FOUND, LIMITS, LIMITS.longest_delay_ms)
    assert (inside.job.state, inside.job.reference) == ("waiting", "ref-1")
    again = bank.started(inside.lane, inside.job, LIMITS, LIMITS.longest_delay_ms)
    refused = bank.answered(again.lane, again.job, NOT_PROCESSED, LIMITS, LIMITS.longest_delay_ms + 1)
    assert refused.job.state == "unknown", "the first attempt may still be processed"

    late = bank.answered(early.lane, early.job, NOT_FOUND, LIMITS, LIMITS.window_ms)
    assert (late.job.state, kinds(late), late.job.due) == ("undecided", ["undecided"], 0)


def test_n30_inquiries_are_bounded_and_an_operator_may_ask_again() -> None:
    decided = unknown_at(20)
    while decided.job.state == "unknown":
        decided = bank.answered(decided.lane, decided.job, PENDING, LIMITS, decided.job.due)
        if decided.job.state == "unknown":
            decided = bank.started(decided.lane, decided.job, LIMITS, decided.job.due)

    assert (kinds(decided), decided.job.inquiries) == (["undecided"], LIMITS.inquiries)
    again = bank.asked_to_inquire(decided.job, 99)
    assert (again.state, again.inquiries, again.due) == ("unknown", 0, 99)
    heard = bank.heard(decided.lane, decided.job, "settled", "evt-1", at=99)
    assert (heard.job.state, kinds(heard)) == ("done", ["settled"])


def accepted_job() -> bank.Decided:
    one = started_job()
    return bank.answered(one.lane, one.job, "accepted", LIMITS, 5, fact_id="tr:accepted")


@pytest.mark.parametrize("by", ["answer", "news"])
def test_n30_a_rejection_by_time_out_is_inquired_about_and_ends_once_the_bank_says_so_again(by: str) -> None:
    if by == "answer":
        one = started_job()
        two = bank.answered(one.lane, one.job, "rejected", LIMITS, 9, code="AB05", fact_id="tr:rejected")
    else:
        one = accepted_job()
        two = bank.heard(one.lane, one.job, "rejected", "tr:rejected", at=9, code="AB05")
    assert (kinds(two), two.job.state, two.facts[0].code) == (["unknown"], "unknown", "AB05")
    again = bank.heard(two.lane, two.job, "rejected", "tr:rejected", at=10, code="AB05")
    assert (kinds(again), again.job.state) == ([], "unknown")

    asked = bank.started(again.lane, again.job, LIMITS, again.job.due)
    stale = bank.answered(asked.lane, asked.job, "accepted", LIMITS, 12, fact_id="tr:accepted")
    assert (kinds(stale), stale.job.state) == ([], "unknown"), "it was accepted before it was rejected"
    nothing = bank.answered(asked.lane, asked.job, NOT_FOUND, LIMITS, LIMITS.longest_delay_ms + 20)
    assert (kinds(nothing), nothing.job.state) == (["undecided"], "undecided"), "what it has known is never sent again"
    for answer in ("rejected", "settled"):
        done = bank.answered(asked.lane, asked.job, answer, LIMITS, 12, code="AB05", fact_id=f"tr:{answer}")
        assert (kinds(done), done.job.state) == ([answer], "done")
        late = bank.heard(done.lane, done.job, "rejected", "tr:rejected", at=13, code="AB05")
        assert (kinds(late), late.job.state) == ([], "done")


def test_n30_an_operator_may_ask_about_what_was_accepted_and_never_ended() -> None:
    one = accepted_job()
    asked = bank.asked_to_inquire(one.job, 50)
    assert (asked.state, asked.due) == ("unknown", 50)
    two = bank.started(one.lane, asked, LIMITS, 50)

    same = bank.answered(two.lane, two.job, "accepted", LIMITS, 60, fact_id="tr:accepted")
    assert (kinds(same), same.job.state) == ([], "done")
    news = bank.answered(two.lane, two.job, "settled", LIMITS, 60, fact_id="tr:settled")
    assert (kinds(news), news.job.state) == (["settled"], "done")
    gone = bank.answered(two.lane, two.job, NOT_FOUND, LIMITS, LIMITS.longest_delay_ms * 2)
    assert (kinds(gone), gone.job.state) == (["undecided"], "undecided")


def test_n29_the_same_news_is_told_once_in_any_order() -> None:
    lane, job = a_job()
    told: list[BankFact] = []
    for kind, fact in (
        ("settled", "e2"),
        ("accepted", "e1"),
        ("settled", "e2"),
        ("returned", "e3"),
        ("accepted", "e1"),
    ):
        decided = bank.heard(lane, job, kind, fact, at=1)
        lane, job = decided.lane, decided.job
        told += decided.facts

    assert [(fact.kind, fact.fact_id) for fact in told] == [("settled", "e2"), ("accepted", "e1"), ("returned", "e3")]
    assert told[0].amount == 1000


def test_a14_the_breaker_opens_and_half_open_lets_one_call_through() -> None:
    lane = bank.Lane("bank-a")
    jobs = []
    for n in range(8):
        made = bank.job_of(lane, msgspec.structs.replace(PAYOUT, reference=f"ref-{n}"), None, 0)
        assert made is not None
        lane = made[0]
        jobs.append(made[1])
    for job in jobs[: LIMITS.failures_to_open]:
        decided = bank.started(lane, job, LIMITS, 0)
        lane = bank.answered(decided.lane, decided.job, NOT_PROCESSED, LIMITS, 0).lane
    assert lane.breaker == "open"

    assert bank.held_back(lane, jobs[6], LIMITS, NO_PAUSES, 1) == ("circuit_open", LIMITS.open_ms)
    assert bank.held_back(lane, jobs[6], LIMITS, NO_PAUSES, LIMITS.open_ms) == ("", 0)
    probe = bank.started(lane, jobs[6], LIMITS, LIMITS.open_ms)
    assert bank.held_back(probe.lane, jobs[7], LIMITS, NO_PAUSES, LIMITS.open_ms) == ("circuit_open", 0)
    assert bank.answered(probe.lane, probe.job, LOST, LIMITS, LIMITS.open_ms).lane.breaker == "open"
    well = bank.answered(probe.lane, probe.job, "accepted", LIMITS, LIMITS.open_ms)
    assert (well.lane.breaker, bank.held_back(well.lane, jobs[7], LIMITS, NO_PAUSES, LIMITS.open_ms)) == (
        *("closed", ("", 0)),
    )


@pytest.mark.parametrize("late", ["accepted", "settled", LOST, NOT_PROCESSED])
def test_a14_what_a_call_of_before_brings_lets_nobody_else_through_half_open(late: str) -> None:
    limits = bank.Limits(failures_to_open=2, calls_at_once=4)
    lane, at = bank.Lane("bank-a"), 0
    jobs = []
    for n in range(5):
        made = bank.job_of(lane, msgspec.structs.replace(PAYOUT, reference=f"ref-{n}"), None, at)
        assert made is not None
        began = bank.started(made[0], made[1], limits, at) if n < 3 else None
        lane, job = (began.lane, began.job) if began is not None else made
        jobs.append(job)
    for job in jobs[:2]:
        lane = bank.answered(lane, job, LOST, limits, at).lane
    assert (lane.breaker, lane.calls) == ("open", 1)
    probe = bank.started(lane, jobs[3], limits, limits.open_ms)

    after = bank.answered(probe.lane, jobs[2], late, limits, limits.open_ms + 1).lane

    assert (after.breaker, after.probe, after.calls) == ("half_open", "ref-3", 1)
    assert bank.held_back(after, jobs[4], limits, NO_PAUSES, limits.open_ms * 3) == ("circuit_open", 0)
    done = bank.answered(after, probe.job, "accepted", limits, limits.open_ms + 2).lane
    assert (done.breaker, done.calls) == ("closed", 0)


def test_n31_a_bank_that_asks_for_it_is_left_alone_by_all_and_for_no_longer_than_the_breaker_would() -> None:
    one = started_job()
    two = bank.answered(one.lane, one.job, NOT_PROCESSED, LIMITS, 0, wait_ms=7_000)
    other = bank.job_of(two.lane, msgspec.structs.replace(PAYOUT, reference="other"), None, 0)
    assert other is not None

    for job in (two.job, other[1]):
        assert bank.held_back(two.lane, job, LIMITS, NO_PAUSES, 6_999) == ("pace", 7_000)
        assert bank.held_back(two.lane, job, LIMITS, NO_PAUSES, 7_000) == ("", 0)
    endless = bank.answered(one.lane, one.job, NOT_PROCESSED, LIMITS, 0, wait_ms=10**9)
    assert endless.lane.next_start_at == LIMITS.open_ms


def test_a15_waits_differ_between_jobs_and_attempts_and_stay_in_their_bounds() -> None:
    names = [f"ref-{n}" for n in range(50)]
    first = [bank.backoff(name, 1, 0, LIMITS) for name in names]
    assert len(set(first)) > 40 and 500 <= min(first) < 600 and 900 < max(first) <= 1000
    assert bank.backoff("ref-1", 1, 0, LIMITS) == first[1] != bank.backoff("ref-1", 2, 0, LIMITS)

    asked = []
    for name in names:
        made = bank.job_of(bank.Lane("bank-b"), msgspec.structs.replace(PAYOUT, reference=name), None, 0)
        assert made is not None
        one = bank.started(*made, LIMITS, 0)
        two = bank.answered(one.lane, one.job, LOST, LIMITS, 0)
        three = bank.started(two.lane, two.job, LIMITS, two.job.due)
        asked.append(bank.answered(three.lane, three.job, PENDING, LIMITS, 0).job.due)
    every = LIMITS.inquire_every_ms
    assert len(set(asked)) > 40 and every <= min(asked) < every * 1.1 and every * 1.4 < max(asked) <= every * 1.5


def test_a14_pace_and_calls_at_once_are_the_lanes() -> None:
    limits = bank.Limits(calls_at_once=1, gap_ms=100)
    lane, job = a_job()
    one = bank.started(lane, job, limits, 0)

    assert bank.held_back(one.lane, job, limits, NO_PAUSES, 0) == ("busy", 0)
    free = bank.answered(one.lane, one.job, "accepted", limits, 10).lane
    assert bank.held_back(free, job, limits, NO_PAUSES, 10) == ("pace", 100)
    assert bank.held_back(free, job, limits, NO_PAUSES, 100) == ("", 0)


def test_a06_a_pause_holds_back_what_was_never_sent_only() -> None:
    lane, job = a_job()
    pauses = (Pause("p", Scope(bank="bank-b"), 0, "olga"),)

    assert bank.held_back(lane, job, LIMITS, pauses, 0) == ("paused", 0)
    one = bank.started(lane, job, LIMITS, 0)
    unknown = bank.answered(one.lane, one.job, LOST, LIMITS, 1)
    assert bank.held_back(unknown.lane, unknown.job, LIMITS, pauses, unknown.job.due) == ("", 0)


def test_a04_nacha_references_are_allotted_and_fit() -> None:
    lane = bank.Lane("bank-a")
    shorts = []
    for n in range(3):
        made = bank.job_of(lane, msgspec.structs.replace(PAYOUT, rail="ach", reference=f"r{n}"), None, 0)
        assert made is not None
        lane = made[0]
        shorts.append(made[1].short)

    assert shorts == ["A00000000000001", "A00000000000002", "A00000000000003"]
    assert {len(short) for short in shorts} == {15}
    assert bank.job_of(lane, PAYOUT, a_job()[1], 0) is None
    expected = bank.job_of(lane, Expect("t", "default", "alice", "sepa", "r9", "EUR", 5), None, 0)
    assert expected is not None
    assert kinds(bank.heard(*expected, "settled", "e1", at=1, amount=4)) == ["settled"]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_n30_i11_whatever_a_bank_does_it_acts_once_and_the_outcome_is_told(seed: int) -> None:
    """A bank that recognises a reference for a window, acts late, loses answers, and a lane that crashes."""
    chance = random.Random(seed)
    limits = bank.Limits(inquiries=1000, failures_to_open=3, open_ms=2_000)
    lane, job = a_job()
    told: list[str] = []
    at, acted_at, times = 0, -1, 0
    for _ in range(400):
        if job.state in ("done", "undecided"):
            break
        why, again = bank.held_back(lane, job, limits, NO_PAUSES, at)
        if why:
            at = max(at + 1, again)
            continue
        submits = job.state == "waiting"
        decided = bank.started(lane, job, limits, at)
        lane, job, told = decided.lane, decided.job, told + kinds(decided)
        fate = chance.choice(["ok", "lost", "late", "no", "crash", "reject"])
        if submits:
            if fate not in ("no", "reject") and acted_at < 0:
                # It acts at once, or up to its longest delay later; a recognised reference is not acted on again.
                acted_at = at + (chance.randrange(limits.longest_delay_ms) if fate in ("late", "crash") else 0)
                times += 1
            answer = {"ok": "settled", "no": NOT_PROCESSED, "reject": "rejected"}.get(fate, LOST)
            if acted_at >= 0 and answer in (NOT_PROCESSED, "rejected"):
                answer = LOST  # it has the reference: it does not deny it
        else:
            is_done = 0 <= acted_at <= at
            answer = LOST if fate == "lost" else "settled" if is_done else PENDING if fate == "late" else NOT_FOUND
        at += chance.randrange(1, 5_000)
        # Of a crash the lane knows no more than that the time is over.
        decided = bank.answered(lane, job, LOST if fate == "crash" else answer, limits, at)
        lane, job, told = decided.lane, decided.job, told + kinds(decided)

    assert job.state == "done"
    assert times <= 1
    assert told.count("settled") == times, "told settled as often as it acted"
    assert told.count("settled") + told.count("rejected") == 1


# --- the minter ------------------------------------------------------------------------------------------------------

CHAIN = minter.Limits(confirmations=2, final_above=10_000, bump_after_blocks=2, bumps=2)


def minted(amount: int = 100, reference: str = "m1") -> tuple[minter.Minter, minter.Job]:
    made = minter.job_of(minter.Minter("AUSD"), Mint("t1", "default", "alice", reference, "AUSD", amount), None)
    assert made is not None
    return made


def sent(amount: int = 100) -> minter.Decided:
    lane, job = minted(amount)
    taken = minter.take_nonce(lane, job, minter.View(10, 6, 0, 100))
    return minter.signed(taken.lane, taken.job, "h1")


def facts(decided: minter.Decided) -> list[str]:
    return [fact.kind for fact in decided.facts]


def test_a04_a_mint_is_reserved_with_its_nonce_and_never_beyond_what_has_settled() -> None:
    one = sent()

    assert (one.lane.mintable, one.lane.in_flight, one.lane.next_nonce, one.job.nonce) == (0, 100, 1, 0)
    assert (facts(one), one.send) == (["broadcast"], True)
    more = minter.Job("t2", "default", "bob", "mint", "m2", 1)
    assert minter.held_back(one.lane, more, CHAIN, 0) == "reserve_insufficient"


@pytest.mark.parametrize(
    ("lane", "why"),
    [
        ({"stopped": "foreign_nonce"}, "foreign_nonce"),
        ({"open_returns": 10**14}, "open_returns"),
        ({"statement_at": -(10**10)}, "statement_too_old"),
        ({"supply_at": -(10**7)}, "supply_too_old"),
        ({"mintable": 99}, "reserve_insufficient"),
        ({}, ""),
    ],
)
def test_a04_what_stops_a_mint(lane: dict[str, object], why: str) -> None:
    state, job = minted()

    assert minter.held_back(msgspec.structs.replace(state, **lane), job, CHAIN, 0) == why
    assert minter.held_back(state, job, CHAIN, 0, paused=True) == "paused"


def test_a04_a_queued_mint_is_withdrawn_with_its_backing_and_a_signed_one_is_not() -> None:
    lane, job = minted()
    gone = minter.withdraw(lane, job, Withdraw("t1", "m1"))
    assert (facts(gone), gone.job.state, gone.lane.mintable) == (["withdrawn"], "withdrawn", 0)

    one = sent()
    kept = minter.withdraw(one.lane, one.job, Withdraw("t1", "m1"))
    assert (facts(kept), kept.job.state) == ([], "signed")


def test_n32_confirmations_then_finality() -> None:
    one = sent()
    two = minter.observed(one.lane, one.job, minter.View(11, 7, 0), (minter.Receipt("h1", 11, True),), CHAIN)
    assert (facts(two), two.job.state) == (["mined"], "mined")
    three = minter.observed(two.lane, two.job, minter.View(12, 8, 0), (minter.Receipt("h1", 11, True, 21),), CHAIN)
    assert (facts(three), three.job.state, three.facts[0].gas) == (["confirmed"], "confirmed", 21)
    four = minter.observed(three.lane, three.job, minter.View(15, 11, 1), (minter.Receipt("h1", 11, True),), CHAIN)
    assert (facts(four), four.job.state, four.lane.in_flight) == ([], "final", 0)


def test_n32_above_a_limit_and_for_burns_only_finality_counts() -> None:
    one = sent(20_000)
    deep = minter.observed(one.lane, one.job, minter.View(14, 10, 0), (minter.Receipt("h1", 11, True),), CHAIN)
    assert (facts(deep), deep.job.state) == (["mined"], "mined")
    final = minter.observed(deep.lane, deep.job, minter.View(15, 11, 1), (minter.Receipt("h1", 11, True),), CHAIN)
    assert facts(final) == ["confirmed"]

    made = minter.job_of(minter.Minter("AUSD"), Burn("t", "default", "a", "b1", "AUSD", 5, True), None)
    assert made is not None
    assert made[0].open_returns == 5
    taken = minter.take_nonce(*made, minter.View(10, 6, 0))
    burn = minter.signed(taken.lane, taken.job, "b")
    early = minter.observed(burn.lane, burn.job, minter.View(14, 10, 0), (minter.Receipt("b", 11, True),), CHAIN)
    late = minter.observed(early.lane, early.job, minter.View(15, 11, 1), (minter.Receipt("b", 11, True),), CHAIN)
    assert (facts(early), facts(late), late.lane.open_returns) == (["mined"], ["confirmed"], 0)


def test_n32_a_lost_block_sends_the_same_bytes_again() -> None:
    one = sent()
    two = minter.observed(one.lane, one.job, minter.View(12, 8, 0), (minter.Receipt("h1", 11, True),), CHAIN)
    assert facts(two) == ["mined", "confirmed"]

    three = minter.observed(two.lane, two.job, minter.View(12, 8, 0), (), CHAIN)
    assert (facts(three), three.send, three.job.hashes, three.job.state) == (["reorged"], True, ("h1",), "signed")
    four = minter.observed(three.lane, three.job, minter.View(14, 9, 0), (minter.Receipt("h1", 13, True),), CHAIN)
    assert facts(four)[-1] == "confirmed"


def test_n32_stuck_fees_rise_with_the_same_nonce_and_any_hash_may_land() -> None:
    one = sent()
    job, fees = one.job, [one.job.fee]
    for n in (2, 3):
        assert minter.bumped(job, minter.View(job.sent_at_block + 1, 0, 0), CHAIN) is None
        higher = minter.bumped(job, minter.View(job.sent_at_block + 2, 0, 0), CHAIN)
        assert higher is not None
        job = minter.signed(one.lane, higher, f"h{n}").job
        fees.append(job.fee)
    assert (fees, job.nonce, job.hashes) == ([100, 113, 128], 0, ("h1", "h2", "h3"))
    assert minter.bumped(job, minter.View(job.sent_at_block + 9, 0, 0), CHAIN) is None

    stuck = minter.observed(one.lane, job, minter.View(job.sent_at_block + 2, 0, 0), (), CHAIN)
    assert facts(stuck) == ["stuck"]
    assert facts(minter.observed(stuck.lane, stuck.job, minter.View(job.sent_at_block + 3, 0, 0), (), CHAIN)) == []
    first = minter.observed(stuck.lane, stuck.job, minter.View(30, 0, 0), (minter.Receipt("h1", 30, True),), CHAIN)
    assert (facts(first), first.facts[0].hash) == (["mined"], "h1")


def test_n32_dead_only_when_its_nonce_is_used_up_at_finality() -> None:
    one = sent()
    waiting = minter.observed(one.lane, one.job, minter.View(20, 16, 0), (), CHAIN)
    assert facts(waiting) == []
    dead = minter.observed(one.lane, one.job, minter.View(20, 16, 1), (), CHAIN)
    assert (facts(dead), dead.job.state, dead.lane.in_flight, dead.lane.mintable) == (["failed"], "dead", 0, 0)

    reverted = minter.observed(one.lane, one.job, minter.View(12, 8, 0), (minter.Receipt("h1", 11, False),), CHAIN)
    assert (facts(reverted), reverted.job.state) == ([], "mined")
    final = minter.observed(
        reverted.lane, reverted.job, minter.View(16, 12, 1), (minter.Receipt("h1", 11, False),), CHAIN
    )
    assert (facts(final), final.job.state) == (["failed"], "dead")

    credited = minter.observed(one.lane, one.job, minter.View(12, 8, 0), (minter.Receipt("h1", 11, True),), CHAIN)
    lost = minter.observed(credited.lane, credited.job, minter.View(20, 16, 1), (), CHAIN)
    assert facts(lost) == ["lost"]


def test_n32_a_foreign_nonce_stops_the_lane() -> None:
    lane = sent().lane

    assert minter.checked(lane, 1, 0).stopped == ""
    assert minter.checked(lane, 2, 0).stopped == "foreign_nonce"


def test_n32_a_release_goes_on_behind_the_foreign_nonces_and_what_is_still_so_stops_it_again() -> None:
    one = sent()
    stopped = minter.checked(minter.checked(one.lane, 3, 1), 5, 1)

    assert minter.released(one.lane, "foreign_nonce") == (one.lane, "not_stopped")
    assert minter.released(stopped, "another_chain") == (stopped, "stopped_otherwise")
    lane, outcome = minter.released(stopped, "foreign_nonce")
    assert (outcome, lane.stopped) == ("released", "")
    lane = minter.checked(lane, 5, 5)
    assert (lane.stopped, lane.next_nonce, lane.seen_nonce) == ("", 5, 0)
    assert minter.checked(lane, 6, 5).stopped == "foreign_nonce"
    # What was signed under a nonce that somebody else has used up is dead at finality, and no nonce is given out twice.
    dead = minter.observed(lane, one.job, minter.View(20, 16, 5), (), CHAIN)
    assert (facts(dead), dead.job.state, dead.lane.in_flight) == (["failed"], "dead", 0)
    made = minter.job_of(dead.lane, Mint("t2", "default", "bob", "m2", "AUSD", 1), None)
    assert made is not None
    assert minter.take_nonce(*made, minter.View(20, 16, 5)).job.nonce == 5


def test_n32_nothing_is_signed_behind_foreign_nonces_that_are_not_final_and_a_lost_one_leaves_no_gap() -> None:
    lane, job = minted()
    lane, outcome = minter.released(minter.checked(lane, 3, 0), "foreign_nonce")
    assert (outcome, minter.held_back(lane, job, CHAIN, 0)) == ("released", "nonce_not_final")
    assert minter.held_back(minter.checked(lane, 3, 2), job, CHAIN, 0) == "nonce_not_final"
    assert minter.checked(lane, 4, 2).stopped == "foreign_nonce"

    shorter = minter.checked(lane, 1, 0)  # a fork: of three only one is left
    assert (shorter.seen_nonce, minter.checked(shorter, 1, 1).next_nonce) == (1, 1)
    none = minter.checked(lane, 0, 0)
    assert (minter.held_back(none, job, CHAIN, 0), minter.take_nonce(none, job, minter.View(9, 5, 0)).job.nonce) == (
        "",
        0,
    )
    final = minter.checked(lane, 3, 3)
    assert (minter.held_back(final, job, CHAIN, 0), final.next_nonce) == ("", 3)
    # A pause does not wait: it goes behind what is used up.
    urgent = minter.for_pause(lane, 7)
    assert urgent is not None and urgent.next_nonce == 3


def test_n32_after_any_stop_a_release_leaves_reserve_and_flights_as_they_are() -> None:
    for why in minter.STOPS:
        stopped = msgspec.structs.replace(sent().lane, stopped=why, mintable=7, open_returns=3, in_flight=11)

        lane, outcome = minter.released(stopped, why)

        assert outcome == "released"
        assert (lane.mintable, lane.open_returns, lane.in_flight, lane.next_nonce) == (7, 3, 11, 1)
    assert set(minter.WAITS) == {
        "open_returns",
        "statement_too_old",
        "supply_too_old",
        "reserve_insufficient",
        "paused",
        "nonce_not_final",
    }


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_n32_i10_whatever_a_chain_does_nothing_is_minted_twice_nor_beyond_what_has_settled(seed: int) -> None:
    """A chain that delays, drops and reorganises; a lane that crashes between signing and sending; an operator who
    cancels."""
    chance = random.Random(seed)
    lane, jobs = minter.Minter("AUSD"), dict[str, minter.Job]()
    height, final = 10, 4
    chain: dict[int, tuple[str, int]] = {}  # nonce -> hash and block
    pool: set[tuple[int, str]] = set()
    settled, told = 0, Counter[tuple[str, str]]()
    for step in range(80):
        if len(jobs) < 8 and chance.random() < 0.4:
            reference = f"m{len(jobs)}"
            amount = chance.randrange(1, 50)
            made = minter.job_of(lane, Mint("t", "default", "a", reference, "AUSD", amount), None)
            assert made is not None
            lane, jobs[reference] = made
            settled += amount
        for reference, job in list(jobs.items()):
            if job.state == "queued" and chance.random() < 0.5 and not minter.held_back(lane, job, CHAIN, 0):
                taken = minter.take_nonce(lane, job, minter.View(height, final, 0, 10))
                decided = minter.signed(taken.lane, taken.job, f"{reference}/0")
                if chance.random() < 0.8:  # else it crashed before sending
                    pool.add((decided.job.nonce, decided.job.hashes[-1]))
            else:
                receipts = tuple(
                    minter.Receipt(hash_, block, True)
                    for hash_, block in [chain.get(job.nonce, ("", 0))]
                    if hash_ in job.hashes
                )
                used = max((n + 1 for n, (_, block) in chain.items() if block <= final), default=0)
                view = minter.View(height, final, used, 10)
                decided = minter.observed(lane, job, view, receipts, CHAIN)
                if decided.send:
                    pool.add((decided.job.nonce, decided.job.hashes[-1]))
                higher = minter.bumped(decided.job, view, CHAIN)
                if higher is not None:
                    sign = minter.canceled if higher.cancels else minter.signed
                    decided = sign(decided.lane, higher, f"{reference}/{len(higher.hashes)}")
                    pool.add((higher.nonce, decided.job.hashes[-1]))
                if chance.random() < 0.03 and (higher := minter.to_cancel(decided.job, height)) is not None:
                    assert higher.fee > decided.job.fee
                    decided = minter.canceled(decided.lane, higher, f"{reference}/{len(higher.hashes)}")
                    pool.add((higher.nonce, decided.job.hashes[-1]))
            lane, jobs[reference] = decided.lane, decided.job
            told.update((reference, fact.kind) for fact in decided.facts)
        if chance.random() < 0.2:  # the lane opens again: all that is not final goes out
            open_ = (job for job in jobs.values() if job.state in ("signed", "mined", "confirmed"))
            pool |= {(job.nonce, job.hashes[-1]) for job in open_}
        if chance.random() < 0.2 and pool:
            pool.discard(chance.choice(sorted(pool)))
        if chance.random() < 0.2:  # a reorganisation, above finality only
            cut = chance.randrange(final + 1, height + 1)
            chain = {nonce: (hash_, block) for nonce, (hash_, block) in chain.items() if block < cut}
        height += 1
        final = max(final, height - 6)
        for nonce, hash_ in sorted(pool):
            if nonce == len(chain) and chance.random() < 0.7:
                chain[nonce] = (hash_, height)
        pool = {(nonce, hash_) for nonce, hash_ in pool if nonce not in chain}
        landed = [(jobs[hash_.split("/")[0]], hash_) for hash_, _ in chain.values()]
        supply = sum(job.amount for job, hash_ in landed if hash_ not in job.cancels)
        assert sorted(job.nonce for job in jobs.values() if job.nonce >= 0) == list(range(lane.next_nonce))
        assert supply <= sum(job.amount for job in jobs.values() if job.nonce >= 0) <= settled
        assert lane.mintable == sum(job.amount for job in jobs.values() if job.state == "queued")
        assert lane.in_flight == sum(
            j.amount for j in jobs.values() if j.nonce >= 0 and j.state not in ("final", "dead")
        )
        assert not any(job.state == "final" and chain[job.nonce][0] in job.cancels for job in jobs.values())
        for reference, kind in told:
            if kind in ("failed", "lost"):
                hash_, block = chain[jobs[reference].nonce]
                assert block <= final and hash_ in jobs[reference].cancels, step
