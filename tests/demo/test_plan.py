"""The load: repeatable, at its rate, with every kind of command in it, and never spending what may not be there."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from aura_stream.demo.plan import Plan
from aura_stream.demo.steps import RawRequest, Step, http_status, transaction_id
from aura_stream.domain.commands import COMMAND_TYPES
from aura_stream.domain.ids import derived_id, id_text
from aura_stream.domain.reasons import REASONS


def steps_of(seed: int, count: int = 20_000) -> list[Step]:
    plan = Plan(seed, 200, 20)
    opening = [step for wave in plan.opening() for step in wave]
    return opening + [plan.next() for _ in range(count)] + list(plan.closing())


def test_the_same_seed_gives_the_same_load_and_another_seed_another() -> None:
    first, again, other = steps_of(1, 3000), steps_of(1, 3000), steps_of(2, 3000)
    assert [_without_functions(step) for step in first] == [_without_functions(step) for step in again]
    assert [step.key for step in first] != [step.key for step in other]


def _without_functions(step: Step) -> tuple[object, ...]:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    return step.number, step.at, step.door, step.ref, step.expect, step.record(now)


def test_the_rate_is_kept_by_both_doors() -> None:
    plan = Plan(3, 200, 20)
    plan.opening()
    steps = [plan.next() for _ in range(2200)]
    assert steps[-1].at == pytest.approx(10, abs=0.01)
    assert Counter(step.door for step in steps) == {"kafka": 2000, "http": 200}


def test_every_type_every_outcome_and_every_malformation_is_played() -> None:
    steps = steps_of(4)
    # What needs a bank, a chain or an operator is in the stories; nobody moves the clock of those who play.
    by_bank = {type_ for type_ in COMMAND_TYPES if type_.startswith(("withdrawal.", "pause.", "tenant.", "clock."))}
    by_bank |= {"deposit.retry", "transaction.approve", "transaction.reject", "transaction.resolve"}
    assert {step.type for step in steps} >= set(COMMAND_TYPES) - by_bank
    assert {step.expect.outcome for step in steps} == {
        *("done", "refused", "returned", "repeat", "reused", "dead_letter", "bad_request")
    }
    assert {step.expect.reason for step in steps} - {""} <= set(REASONS)
    dead = {step.expect.reason for step in steps if step.expect.outcome == "dead_letter"}
    assert dead >= {"invalid_json", "wrong_key", "wrong_partition", "invalid_amount_format", "invalid_type"}
    assert {step.tenant for step in steps} == {"default", "demo"}


def test_what_is_needed_first_comes_first() -> None:
    seen: set[int] = set()
    for step in steps_of(5):
        assert step.after < 0 or step.after in seen
        seen.add(step.number)


def test_every_request_names_a_route_and_the_status_of_its_answer() -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    for step in steps_of(6):
        if step.door == "http" and not isinstance(step.raw, RawRequest):
            path, _ = step.request(now)
            assert path.startswith(("/v1/accounts", "/v1/deposits", "/v1/transfers", "/v1/holds", "/v1/transactions"))
        assert http_status(step) in (200, 201, 400, 404, 409, 422)


def test_the_sender_computes_the_transaction_id_as_the_ledger_does() -> None:
    assert transaction_id("default", "alice", "k") == id_text(derived_id("default", "alice", "k"))
