"""The parts of the benchmark that need no services: loads, schedule, sightings, reports of other programs."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from aura_stream import SetupError
from aura_stream.bench.baseline import Run, parse
from aura_stream.bench.generator import due_ns
from aura_stream.bench.http_client import Plan, Tally, requests
from aura_stream.bench.kafka import lines_of
from aura_stream.bench.loads import (
    BETWEEN,
    HOT,
    LOADS,
    ONE_HOP,
    TENANT,
    accounts,
    by_partition,
    command_id,
    current,
    customer,
    holds,
    index_of,
    openings,
    transfers,
)
from aura_stream.bench.machine import Meter, cpu_s, memory_mb, proportional_mb
from aura_stream.bench.observer import Sightings
from aura_stream.bench.profile import Cost, costs, text
from aura_stream.bench.units import Stretch, figures
from aura_stream.bench.warm import still_falls
from aura_stream.domain.commands import DepositConfirm, HoldPlace, Transfer, parse_command, parse_time
from aura_stream.domain.ids import derived_id, id_text, parse_account_id, record_key
from aura_stream.engine.partitioner import Partitioner
from aura_stream.journal import ENCODE, AnswerLine, ChangeLine, TransactionLine, UnitRecord


@pytest.mark.parametrize("load", LOADS)
def test_every_transfer_is_a_valid_command_of_its_sender(load: str) -> None:
    for index, (key, value) in enumerate(transfers(load, 7, 200, customers=20)):
        command = parse_command(value)
        assert isinstance(command, Transfer)
        sender = parse_account_id(command.data.from_account_id)
        receiver = parse_account_id(command.data.to_account_id)
        assert key == record_key(TENANT, command.customer) and sender.customer == command.customer
        assert command.data.from_account_id != command.data.to_account_id
        assert (sender.customer == receiver.customer) == (load == ONE_HOP)
        if load == HOT:
            assert command.data.to_account_id == current(customer(0))
        assert index_of(7, command.id) == index and index_of(8, command.id) is None


def test_transfers_between_customers_are_uniform_and_repeatable() -> None:
    sent = [parse_command(value) for _, value in transfers(BETWEEN, 1, 4_000, customers=10)]
    assert [command.id for command in sent] == [command_id(1, index) for index in range(4_000)]
    counts = Counter(command.customer for command in sent)
    assert len(counts) == 10 and max(counts.values()) < 2 * min(counts.values())
    assert list(transfers(BETWEEN, 1, 50)) == list(transfers(BETWEEN, 1, 50))
    assert list(transfers(BETWEEN, 1, 50)) != list(transfers(BETWEEN, 2, 50))


def test_opening_confirms_the_very_deposits_it_submits() -> None:
    submitted, confirmed = set(), set()
    for _, value in openings(1, customers=3):
        command = parse_command(value)
        if isinstance(command, DepositConfirm):
            confirmed.add(command.data.transaction_id)
        elif command.type == "deposit.submit":
            submitted.add(id_text(derived_id(TENANT, command.customer, command.idempotency_key)))
    assert len(submitted) == 6 and submitted == confirmed


def test_holds_wait_for_decades_each_with_its_own_deadline() -> None:
    placed = [parse_command(value) for _, value in holds(1, 500)]
    assert all(isinstance(command, HoldPlace) for command in placed)
    deadlines = [parse_time(command.data.expires_at) for command in placed if isinstance(command, HoldPlace)]
    assert min(deadlines) > parse_time("2060-01-01T00:00:00Z") and len(set(deadlines)) > 450


def test_a_broker_is_warm_when_a_piece_costs_no_less_than_the_one_before() -> None:
    assert still_falls([]) and still_falls([5.0]) and still_falls([5.0, 4.0])
    assert not still_falls([5.0, 4.6]) and not still_falls([5.0, 2.0, 2.1])


def test_a_commits_median_counts_units_and_not_looks() -> None:
    found = figures([Stretch(1, 1, 0.001, 0.100), Stretch(8, 16, 0.008, 0.040), Stretch(1, 3, 0.001, 0.060)])
    assert found["units"] == 10 and found["records_per_unit"] == 2.0
    assert found["commit_ms_p50"] == pytest.approx(5.0) and found["commit_ms"] == pytest.approx(20.0)
    assert found["compute_ms"] == pytest.approx(1.0)
    assert figures([])["units"] == 0


def test_requests_are_whole_and_their_number_of_commands_is_what_was_asked() -> None:
    single = list(requests(Plan(1, ("key",), 3, 25, 4)))
    assert len(single) == 25 and len({request.split(b"Idempotency-Key: ")[1][:36] for request in single}) == 25
    batches = list(requests(Plan(1, ("key",), 3, 25, 4, lines=10)))
    assert [request.partition(b"\r\n\r\n")[2].count(b"\n") + 1 for request in batches] == [10, 10, 5]
    for request in single + batches:
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head and b"Bearer key" in head


def test_only_answers_that_accept_are_counted() -> None:
    tally = Tally()
    tally.add("202", b"{}", 1.0, batch=False)
    tally.add("503", b"away", 1.0, batch=False)
    tally.add("200", b'{"status":"accepted"}\n{"status":"refused"}\n{"status":"accepted"}', 1.0, batch=True)
    assert tally.accepted == 3 and tally.statuses == {"202": 1, "503": 1, "200": 1} and tally.surprise == "503 away"


def test_commands_are_shared_out_as_the_product_does_it() -> None:
    shared = by_partition(accounts(1, 100), 4)
    assert sum(len(commands) for commands in shared.values()) == 100
    assert all(Partitioner(4)(key) == number for number, commands in shared.items() for key, _ in commands)


def test_a_command_is_due_at_its_own_time() -> None:
    assert [due_ns(1_000, 2_000, index) for index in (0, 1, 2_000)] == [1_000, 501_000, 1_000_001_000]


def test_lines_are_counted_without_decoding() -> None:
    begun = TransactionLine(
        "t", "c", "default", "a", "transfer", "transfer.sent", "processing", "sent", "EUR", "1", "k", 1
    )
    changed = ChangeLine("t", "default", "a", "transfer", 2, "transfer.completed", "completed", "completed", 1)
    unit = UnitRecord(0, 1, 1, [begun, changed, changed, AnswerLine("repeat", 1)])
    assert lines_of(ENCODE(unit)) == (1, 2)


def test_a_unit_is_seen_when_its_partition_was_first_seen_that_far() -> None:
    sightings = Sightings()
    for seq, at in ((3, 10), (7, 20)):
        sightings.add(0, seq, at)
    sightings.add(1, 4, 15)
    assert [sightings.seen_at(0, seq) for seq in (1, 3, 4, 7, 8)] == [10, 10, 20, 20, None]
    assert sightings.positions(15) == {0: 3, 1: 4}
    assert sightings.positions(9) == {}


REPORT = """pgbench (18.4)
number of transactions actually processed: 61992
number of failed transactions: 0 (0.000%)
latency average = 1.290 ms
initial connection time = 21.0 ms
tps = 6199.215 (without initial connection time)
"""


def test_the_baseline_is_read_from_the_report_of_pgbench() -> None:
    assert parse(REPORT, 8) == Run(8, 61_992, 6199.215, 1.29)


@pytest.mark.parametrize("output", [
    "connection refused",
    REPORT.replace("transactions: 0", "transactions: 3"),
    REPORT + "pgbench: error: client 3 script 0 aborted in command 4",
])  # fmt: skip
def test_a_baseline_that_failed_is_not_a_figure(output: str) -> None:
    with pytest.raises(SetupError):
        parse(output, 8)


def test_stacks_are_added_up_per_function() -> None:
    stacks = [
        "run (a.py:1);take (b.py:10) 3",
        "run (a.py:2);take (b.py:12) 1",
        "run (a.py:9) 4",
    ]
    assert costs(stacks) == [Cost("run (a.py)", 0.5, 1.0), Cost("take (b.py)", 0.5, 0.5)]
    table = text("ledger", costs(stacks), 20.0)
    assert table.count("run (a.py)") == 1, "the outermost frame is no cost of its own"
    assert table.count("take (b.py)") == 2 and "10.00" in table


def test_the_meter_counts_this_process() -> None:
    meter = Meter({"own": lambda: cpu_s(os.getpid(), family=True), "gone": lambda: cpu_s(None)})
    assert sum(number * number for number in range(1_000_000)) > 0
    read = meter.read()
    assert read["gone"] == 0.0 and read["own"] >= 0.0
    now, most = memory_mb(os.getpid())
    assert 0 < now <= most * 1.001
    assert 0 < proportional_mb(os.getpid()) <= now * 1.1 and proportional_mb(None) == 0.0
