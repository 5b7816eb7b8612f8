"""Deposits by bank, withdrawals and pauses: golden scenarios for every edge, laws of codes, references, pauses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aura_stream.domain import bank_codes, bank_deposits, withdrawals
from aura_stream.domain.bank_codes import ACTIONS, CODES, code_of
from aura_stream.domain.banking_days import banking_days_after, is_banking_day
from aura_stream.domain.commands import format_time, parse_time
from aura_stream.domain.ids import bank_reference, chain_reference
from aura_stream.domain.pauses import Pause, Scope, covers, in_force, stood_ms
from aura_stream.domain.reasons import REASONS
from aura_stream.domain.settlement import RAILS
from aura_stream.domain.signals import BankFact, Paused, Unmatched
from aura_stream.domain.state import Fee, SettlementRules
from aura_stream.journal import TransactionLine
from tests.domain.golden import FOLDER, played
from tests.domain.settlement_world import SettlementWorld
from tests.domain.world import DAY, NAMES

SCENARIOS = sorted(path.name for path in FOLDER.glob("*.txt"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a04_a08_golden_scenario(name: str) -> None:
    path = FOLDER / name

    assert played(path) == path.read_text(encoding="utf-8"), "python -m tests.domain.golden, and read what it changed"


ENDS = {
    "deposit": {
        *("completed", "rejected", "returned", "mint_lost", "refunded", "denied", "canceled", "expired", "refused"),
        "funds_settled",
    },
    "withdrawal": {
        *("completed", "payout_rejected", "payout_returned", "burn_failed", "denied", "canceled", "expired", "refused"),
        "burnt",
    },
}
"""States that wait for nothing: they end it, or lead on in the same unit."""


@pytest.mark.parametrize(
    ("type_", "waits"), [("deposit", bank_deposits.WAITS_MS), ("withdrawal", withdrawals.WAITS_MS)]
)
def test_a08_golden_scenarios_reach_every_state_and_no_other(type_: str, waits: dict[str, int]) -> None:
    reached = {
        state
        for name in SCENARIOS
        for event, state in re.findall(
            r"^  (\w+)\.\w+  \w+/(\w+)", (FOLDER / name).read_text(encoding="utf-8"), re.MULTILINE
        )
        if event == type_
    }

    assert reached == set(waits) | ENDS[type_]


def test_a10_l49_reasons_of_the_machines_are_in_the_catalogue() -> None:
    said = {
        reason
        for name in SCENARIOS
        for reason in re.findall(r"reason=(\w+)", (FOLDER / name).read_text(encoding="utf-8"))
    }

    assert said - {"screening_blocked"} <= set(REASONS)
    assert {"unknown_outcome", "no_answer", "bank_rejected", "bank_returned"} <= said


def test_a04_all_assigned_nacha_codes_have_a_row_and_unknown_ones_need_a_person() -> None:
    unassigned = {48, 49, *range(54, 61), 78, 79}
    assert {f"R{n:02}" for n in range(1, 86) if n not in unassigned} == {
        c for c in CODES if c[0] == "R" and c[1].isdigit()
    }
    assert {f"C{n:02}" for n in range(1, 15)} == {c for c in CODES if c[0] == "C" and c[1].isdigit()}
    assert all(
        row.action in ACTIONS and row.meaning and row.source in ("NACHA", "ISO", "AURA") for row in CODES.values()
    )
    assert code_of("R99").action == code_of("").action == bank_codes.ATTENTION


@pytest.mark.parametrize(
    ("codes", "action"),
    [
        (("R01", "R09"), "retry"),
        (("R02", "R03", "R04", "R12", "R20", "AC01", "AC04", "BE04", "CNOR", "MD07"), "disable"),
        (("R05", "R07", "R10", "R11", "R29"), "freeze"),
        (("R08",), "authorise"),
        (("R16", "R23", "AG01", "AC06", "RR04"), "compliance"),
        (("C01", "C14"), "correct"),
        (("AM04", "MS03", "TECH", "ED05"), "fail"),
        (("AM05", "R24"), "break"),
        (("AB03", "AB05", "AB06"), "inquire"),
    ],
)
def test_a04_codes_have_the_action_of_the_table(codes: tuple[str, ...], action: str) -> None:
    assert {code_of(code).action for code in codes} == {action}


def test_a04_the_guide_says_of_codes_what_the_table_does() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guide" / "settlement.md"
    rows = re.findall(r"^\| `([a-z_]+)` \| (.+?) \| .+ \|$", guide.read_text(encoding="utf-8"), re.MULTILINE)
    told = {action: re.findall(r"\b[A-Z]{1,4}[0-9]{0,2}\b", codes) for action, codes in rows if action in ACTIONS}

    assert told.keys() == ACTIONS
    for action, codes in told.items():
        assert codes and {code_of(code).action for code in codes} == {action}


def test_a15_references_are_derived_from_transaction_and_step() -> None:
    one, other = "89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa", "89a07ac3-7127-5e3e-b4ae-b51cd89c8ffb"

    assert bank_reference(one, "payout") == bank_reference(one, "payout")
    assert len({bank_reference(t, s) for t in (one, other) for s in ("payout", "deposit")}) == 4
    assert re.fullmatch("[0-9a-f]{32}", bank_reference(one, "payout"))
    assert re.fullmatch("[0-9a-f]{64}", chain_reference(one, "mint/1"))


@pytest.mark.parametrize(
    ("day", "days", "then"),
    [
        ("2026-11-20", 1, "2026-11-23"),  # over a weekend
        ("2026-11-25", 1, "2026-11-27"),  # Thanksgiving
        ("2026-12-24", 1, "2026-12-28"),
        ("2027-07-02", 1, "2027-07-06"),  # the 4th is a Sunday, kept on Monday
        ("2026-07-02", 1, "2026-07-03"),  # the 4th is a Saturday, not moved
        ("2026-05-22", 2, "2026-05-27"),  # Memorial Day is the last Monday
        ("2026-11-21", 0, "2026-11-21"),
    ],
)
def test_a07_banking_days_are_those_of_the_federal_reserve(day: str, days: int, then: str) -> None:
    at = parse_time(f"{day}T12:00:00Z")

    assert format_time(banking_days_after(at, days))[:10] == then


def test_a07_a_year_has_its_holidays() -> None:
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(365)]
    closed = [day for day in days if day.weekday() < 5 and not is_banking_day(day)]

    assert [day.isoformat()[5:] for day in closed] == [
        *("01-01", "01-19", "02-16", "05-25", "06-19", "09-07", "10-12", "11-11", "11-26", "12-25"),
    ]


WORK = Scope("default", "deposit", "sepa", "bank-b", "local", ("EUR", "AEUR"), ("alice:EUR", "alice:AEUR"))


@pytest.mark.parametrize(
    ("scope", "is_held"),
    [
        (Scope(), True),
        (Scope(tenant="default"), True),
        (Scope(tenant="demo"), False),
        (Scope(rail="sepa"), True),
        (Scope(rail="ach"), False),
        (Scope(bank="bank-b"), True),
        (Scope(bank="bank-a"), False),
        (Scope(chain="local"), True),
        (Scope(assets=("AEUR",)), True),
        (Scope(assets=("USD",)), False),
        (Scope(accounts=("alice:EUR",)), True),
        (Scope(accounts=("bob:EUR",)), False),
        (Scope(type="deposit"), True),
        (Scope(type="withdrawal"), False),
        (Scope(rail="sepa", tenant="demo"), False),
        (Scope(rail="sepa", type="deposit"), True),
    ],
)
def test_a06_a_pause_holds_what_lies_in_its_scope(scope: Scope, is_held: bool) -> None:
    pause = Pause("p", scope, 1000, "olga")

    assert covers(scope, WORK) == is_held
    assert (in_force((pause,), WORK) is not None) == is_held
    assert stood_ms((pause,), WORK, 0, 3000) == (2000 if is_held else 0)


def test_a06_the_time_of_overlapping_pauses_counts_once() -> None:
    pauses = (
        Pause("a", Scope(), 100, "olga", "", 300),
        Pause("b", Scope(), 200, "olga", "", 400),
        Pause("c", Scope(), 600, "olga", "", 700),
        Pause("d", Scope(tenant="demo"), 0, "olga"),
    )

    assert stood_ms(pauses, WORK, 0, 1000) == 400
    assert stood_ms(pauses, WORK, 250, 650) == 200


def test_a06_paused_work_is_refused_without_burning_its_key() -> None:
    world = SettlementWorld()
    world.open("alice:EUR", "10")
    pause = world.do("pause.set", "ops", operator="olga", scope={"asset": "EUR"})
    data = {"account_id": "alice:EUR", "amount": "5.00", "rail": "sepa"}
    money = world.money()

    refused = world.do("deposit.submit", "alice", key="k", **data)
    by_hand = world.do("deposit.submit", "alice", key="k2", account_id="alice:EUR", amount="5.00")
    assert (refused.kind, refused.reason, by_hand.reason) == ("refused", "paused", "paused")
    assert world.money() == money
    world.answer_pauses()
    assert [e.type for e in world.events() if e.type.startswith("pause")] == ["pause.set", "pause.applied"]

    assert world.do("pause.lift", "other", operator="olga", pause_id=pause.id).status == "lifted"
    again = world.do("deposit.submit", "alice", key="k", **data)
    assert isinstance(again, TransactionLine)
    assert again.state == "awaiting_funds"
    world.check()
    world.check_rebuild()


def test_a06_lifting_may_need_another_person_and_is_done_once() -> None:
    world = SettlementWorld(settlement=SettlementRules(checker_lifts=True))
    pause = world.do("pause.set", "ops", operator="olga", scope={})

    assert world.do("pause.lift", "ops", operator="olga", pause_id=pause.id).reason == "four_eyes"
    assert world.do("pause.lift", "ops", operator="otto", pause_id=pause.id).status == "lifted"
    assert world.do("pause.lift", "ops", operator="otto", pause_id=pause.id).reason == "already_processed"
    missing = "00000000-0000-5000-8000-000000000000"
    assert world.do("pause.lift", "ops", operator="otto", pause_id=missing).reason == "pause_not_found"


def test_a06_a_lift_that_overtakes_its_pause_wins() -> None:
    world = SettlementWorld()
    world.open("alice:EUR")
    home = world.partition("alice")
    pause = Pause("6ec9da41-3b30-59cf-bc27-03043623f8b0", Scope(), world.at, "olga")

    world.signal(home, Paused(msgspec.structs.replace(pause, lifted_at=world.at + 1), home))
    world.signal(home, Paused(pause, home))
    world.driver.run()

    deposit = world.do("deposit.submit", "alice", account_id="alice:EUR", amount="5.00", rail="sepa")
    assert deposit.state == "awaiting_funds"


def test_a06_many_parked_transactions_all_drain() -> None:
    world = SettlementWorld()
    world.open("alice:EUR")
    world.open("alice:AEUR")
    data = {"account_id": "alice:EUR", "amount": "5.00", "rail": "sepa", "mint_to": "alice:AEUR"}
    ids = [world.send("deposit.submit", "alice", **data).transaction_id for _ in range(250)]
    world.driver.run()
    pause = world.do("pause.set", "ops", operator="olga", scope={"chain": "local"})
    for id_ in ids:
        world.bank(id_, "settled")
    assert {world.settlement(id_).parked_by for id_ in ids[::50]} == {pause.id}

    world.do("pause.lift", "ops", operator="olga", pause_id=pause.id)
    world.at += 1
    world.settle()

    rows = [world.transaction(id_) for id_ in ids]
    assert {(row.state, row.status) for row in rows} == {("mint_queued", "processing")}
    world.check()


def test_a06_a_deadline_that_fell_into_a_pause_is_moved_by_its_length() -> None:
    world = SettlementWorld()
    world.open("alice:EUR")
    deposit = world.do("deposit.submit", "alice", account_id="alice:EUR", amount="5.00", rail="sepa")
    world.wait(2 * DAY)
    pause = world.do("pause.set", "ops", operator="olga", scope={"rail": "sepa"})
    world.wait(3 * DAY)
    world.do("pause.lift", "ops", operator="olga", pause_id=pause.id)

    world.wait(5 * DAY - 1)
    assert world.transaction(deposit.id).state == "awaiting_funds"
    world.wait(1)
    assert world.transaction(deposit.id).state == "expired"
    world.check_rebuild()


def test_a04_unexplained_money_is_in_suspense_once() -> None:
    world = SettlementWorld()
    news = Unmatched("default", "bank-b", "EUR", 1234, "camt-1", "for alice?")

    world.signal(2, news)
    world.signal(2, news)
    world.driver.run()

    (line,) = [line for _, line in world.lines()]
    assert isinstance(line, TransactionLine)
    assert (line.type, line.status, line.state, line.customer) == (
        *("suspense", "requires_attention", "unmatched"),
        "~bank:bank-b",
    )
    entries = [(e.account_id, e.amount) for e in line.journals[0].entries]
    assert entries == [("@bank:bank-b:trust:EUR", "1234"), ("@suspense:unmatched:EUR", "-1234")]
    world.check()
    world.check_rebuild()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"rail": "ach"}, "missing_fields"),
        ({"rail": "sepa", "payer": {"name": "A", "account": "021000021/1"}}, "unknown_field"),
        ({"mint_to": "alice:AUSD"}, "unknown_field"),
        ({"rail": "swift"}, "invalid_field"),
        ({"rail": "sepa", "payer": {"name": "A", "account": "nonsense"}}, "invalid_field"),
        ({"rail": "sepa", "effective_at": "2020-01-01T00:00:00Z"}, "unknown_field"),
    ],
)
def test_a03_a_deposit_that_cannot_be_meant_is_a_dead_letter(data: dict[str, object], reason: str) -> None:
    world = SettlementWorld()
    world.open("alice:USD")

    line = world.do("deposit.submit", "alice", account_id="alice:USD", amount="5.00", **data)

    assert (line.kind, line.reason) == ("dead_letter", reason)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"mint_to": "bob:AEUR"}, "account_not_found"),
        ({"mint_to": "alice:AUSD"}, "currency_mismatch"),
        ({"mint_to": "alice:AEUR:none"}, "account_not_found"),
        ({"mint_to": "0x12"}, "invalid_account_id"),
        ({"account_id": "alice:USD"}, "currency_mismatch"),
        ({"amount": "0"}, "negative_amount"),
        ({"payer": {"name": "Mr DENIED"}}, "screening_blocked"),
    ],
)
def test_a04_sec26_a_deposit_that_business_refuses_changes_nothing(data: dict[str, object], reason: str) -> None:
    world = SettlementWorld()
    for account in ("alice:EUR", "alice:AEUR", "alice:USD"):
        world.open(account)

    line = world.do("deposit.submit", "alice", **({"account_id": "alice:EUR", "amount": "5.00", "rail": "sepa"} | data))

    assert (line.status, line.state, line.reason) == ("failed", "refused", reason)
    assert not world.requests()
    world.check()


def test_sec34_a_fact_about_nothing_that_is_known_is_a_dead_letter_and_the_shard_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = SettlementWorld()
    unknown = "89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa"

    world.signal(1, BankFact(unknown, "default", "debit", "settled", "r", 100, "USD"))
    world.driver.run()

    (letter,) = world.driver.topics[NAMES.dead_letters][1]
    assert dict(letter.headers)["aura-reason"] == b"internal_error"
    assert "signal refused" in caplog.text
    world.open("alice:EUR", "1")
    world.check()


def test_sec34_a_fact_of_another_tenant_parks_the_transaction_for_a_person(caplog: pytest.LogCaptureFixture) -> None:
    world = SettlementWorld()
    world.open("alice:EUR")
    deposit = world.do("deposit.submit", "alice", account_id="alice:EUR", amount="5.00", rail="sepa")

    world.signal(world.partition("alice"), BankFact(deposit.id, "demo", "credit", "settled", "r", 500, "EUR"))
    world.driver.run()

    kept = world.transaction(deposit.id)
    assert (kept.status, kept.state, kept.reason) == ("requires_attention", "awaiting_funds", "internal_error")
    world.bank(deposit.id, "settled")
    assert world.transaction(deposit.id).state == "completed"
    assert "signal refused" in caplog.text


def test_a04_in_live_mode_a_mint_after_a_debit_waits_two_banking_days() -> None:
    world = SettlementWorld("live")
    for account in ("alice:USD", "alice:AUSD"):
        world.open(account)
    payer = {"name": "Alice", "account": "021000021/1"}
    data: dict[str, Any] = {"account_id": "alice:USD", "amount": "5.00", "rail": "ach", "mint_to": "alice:AUSD"}
    deposit = world.do("deposit.submit", "alice", **data, payer=payer)
    world.bank(deposit.id, "settled")

    due = banking_days_after(world.at, 2)
    assert world.transaction(deposit.id).deadline == due
    world.wait(due - world.at - 1)
    assert world.transaction(deposit.id).state == "funds_settled"
    world.wait(1)
    assert world.transaction(deposit.id).state == "mint_queued"


def test_a07_both_rails_and_instant_exist() -> None:
    assert {name: (rail.fiat, rail.token, rail.is_pull) for name, rail in RAILS.items()} == {
        "ach": ("USD", "AUSD", True),
        "sepa": ("EUR", "AEUR", False),
        "sepa_instant": ("EUR", "AEUR", False),
    }


def heard(type_: str, order: Sequence[str]) -> tuple[str, str, dict[tuple[str, str], int]]:
    """How a deposit by ACH or a withdrawal by SEPA ends, and all balances then, if its bank's news come so."""
    world = SettlementWorld()
    if type_ == "deposit":
        world.open("alice:USD")
        data: dict[str, Any] = {"payer": {"name": "Alice", "account": "021000021/1"}, "rail": "ach"}
        sent = world.send("deposit.submit", "alice", account_id="alice:USD", amount="10.00", **data)
    else:
        world.open("alice:EUR")
        payer = {"name": "Alice"}
        funds = world.send("deposit.submit", "alice", account_id="alice:EUR", amount="100", rail="sepa", payer=payer)
        world.driver.run()
        world.bank(funds.transaction_id, "settled")
        data = {"beneficiary": {"name": "Alice", "account": "DE89370400440532013000"}, "rail": "sepa"}
        sent = world.send("withdrawal.submit", "alice", account_id="alice:EUR", amount="10.00", **data)
    world.driver.run()
    news: dict[str, dict[str, Any]] = {
        "unknown": {},
        "accepted": {"fact_id": "a", "bank_reference": "theirs"},
        "settled": {"fact_id": "s"},
        "returned": {"fact_id": "r", "code": "AC04"},
    }
    for kind in order:
        world.bank(sent.transaction_id, kind, **news[kind])
    world.check()
    sums = Counter[tuple[str, str]]()
    for _, line in world.lines():
        for journal in getattr(line, "journals", []):
            for entry in journal.entries:
                sums[entry.account_id, entry.layer] += int(entry.amount)
    transaction = world.transaction(sent.transaction_id)
    assert world.settlement(sent.transaction_id).bank_reference == "theirs"
    return transaction.status, transaction.state, {place: amount for place, amount in sums.items() if amount}


@pytest.mark.parametrize("type_", ["deposit", "withdrawal"])
@pytest.mark.parametrize("facts", [("accepted", "settled"), ("accepted", "settled", "returned")])
def test_n20_news_that_overtake_the_answer_to_the_submit_are_applied_and_end_alike(
    type_: str, facts: tuple[str, ...]
) -> None:
    in_order = heard(type_, facts)
    assert in_order[0] == ("returned" if "returned" in facts else "completed")

    with_doubt = ("unknown", *facts)  # the submit's own answer was lost, and what is heard again is nothing new
    for order in permutations(with_doubt):
        if [kind for kind in order if kind in ("settled", "returned")] == list(facts[1:]):
            assert heard(type_, (*order, *reversed(facts))) == in_order, order


@pytest.mark.parametrize("type_", ["deposit", "withdrawal"])
def test_n20_a_return_that_overtakes_its_settlement_leaves_the_same_money(type_: str) -> None:
    balances = heard(type_, ("accepted", "settled", "returned"))[2]

    for order in permutations(("accepted", "settled", "returned")):
        assert heard(type_, (*order, *order))[2] == balances, order


def test_a02_a_repeated_deposit_is_one_debit_and_one_mint() -> None:
    world = SettlementWorld()
    for account in ("alice:USD", "alice:AUSD"):
        world.open(account)
    payer = {"name": "Alice", "account": "021000021/1"}
    data: dict[str, Any] = {
        "account_id": "alice:USD",
        "amount": "5.00",
        "rail": "ach",
        "mint_to": "alice:AUSD",
        "payer": payer,
    }
    sent = world.send("deposit.submit", "alice", key="k", **data)
    for _ in range(20):
        world.send("deposit.submit", "alice", key="k", **data)
    world.driver.run()
    world.bank(sent.transaction_id, "settled", fact_id="one")
    for _ in range(5):
        world.bank(sent.transaction_id, "settled", fact_id="one")

    assert [type(request).__name__ for request in world.requests()] == ["Instruct", "Mint"]
    world.check()


def test_golden_scenarios_lie_where_they_are_looked_for() -> None:
    assert len(SCENARIOS) >= 15
    assert Path(__file__).parent == FOLDER.parent


@pytest.mark.parametrize("accepted", [True, False])
def test_n20_a_payout_of_which_less_comes_back_ends_alike_whichever_news_comes_first(accepted: bool) -> None:
    def ended(order: Sequence[str]) -> tuple[str, str, dict[tuple[str, str], int]]:
        fees = {"default": {"withdrawal:sepa": Fee(basis_points=100)}}
        world = SettlementWorld(settlement=SettlementRules(fees=fees))
        world.open("alice:EUR")
        funds = world.send("deposit.submit", "alice", account_id="alice:EUR", amount="100", rail="sepa")
        world.driver.run()
        world.bank(funds.transaction_id, "settled")
        party = {"name": "Alice", "account": "DE89370400440532013000"}
        data: dict[str, Any] = {"account_id": "alice:EUR", "amount": "50.00", "rail": "sepa", "beneficiary": party}
        sent = world.send("withdrawal.submit", "alice", **data)
        world.driver.run()
        news: dict[str, dict[str, Any]] = {
            "accepted": {},
            "settled": {"fact_id": "s"},
            "returned": {"fact_id": "r", "code": "AC04", "amount": 4_321},
        }
        for kind in order:
            for _ in range(2):  # each is heard twice
                world.bank(sent.transaction_id, kind, **news[kind])
        world.check()
        world.check_rebuild()
        sums = Counter[tuple[str, str]]()
        for _, line in world.lines():
            for journal in getattr(line, "journals", []):
                for entry in journal.entries:
                    sums[entry.account_id, entry.layer] += int(entry.amount)
        t = world.transaction(sent.transaction_id)
        return t.status, t.state, {place: amount for place, amount in sums.items() if amount}

    first = ("accepted",) if accepted else ()
    in_order = ended((*first, "settled", "returned"))

    assert in_order[:2] == ("returned", "payout_returned")
    assert in_order[2]["@bank:bank-b:trust:EUR", "available"] == 10_000 - 4_950 + 4_321
    assert in_order[2]["alice:EUR", "available"] == -(5_000 + 4_321)
    assert ended((*first, "returned", "settled")) == in_order
    assert ended(("returned", *first, "settled")) == in_order
