"""The parts of the benchmark that need no services: loads, schedule, sightings, reports of other programs."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from aura_stream import SetupError
from aura_stream.bench.baseline import Run, parse
from aura_stream.bench.generator import due_ns
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
    index_of,
    openings,
    transfers,
)
from aura_stream.bench.machine import Meter, cpu_s, memory_mb
from aura_stream.bench.observer import Sightings
from aura_stream.bench.profile import Cost, costs, text
from aura_stream.domain.commands import DepositConfirm, TransferSubmit, parse_command
from aura_stream.domain.ids import derived_id, id_text, parse_account_id, record_key
from aura_stream.engine.partitioner import Partitioner
from aura_stream.journal import ENCODE, AnswerLine, ChangeLine, TransactionLine, UnitRecord


@pytest.mark.parametrize("load", LOADS)
def test_every_transfer_is_a_valid_command_of_its_sender(load: str) -> None:
    for index, (key, value) in enumerate(transfers(load, 7, 200, customers=20)):
        command = parse_command(value)
        assert isinstance(command, TransferSubmit)
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
