"""Medians, ratios, percentiles, and the report that is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aura_stream import SetupError
from aura_stream.bench.figures import Latency, Spread, latency, ratio, spread
from aura_stream.bench.open_loop import STAGES
from aura_stream.bench.report import BEGIN, END, best_of, markdown, summary, tables, write_docs


def test_a_spread_is_the_median_between_the_lowest_and_the_highest() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0, 3)
    assert spread([1.0, 3.0]) == Spread(2.0, 1.0, 3.0, 2)
    assert spread([]) is None


def test_rounds_that_ran_side_by_side_are_compared_in_pairs() -> None:
    assert ratio([10.0, 40.0, 30.0], [5.0, 10.0, 10.0]) == Spread(3.0, 2.0, 4.0, 3)


def test_unequal_rounds_are_compared_by_their_medians_at_worst_and_at_best() -> None:
    assert ratio([10.0, 20.0, 30.0], [5.0, 10.0]) == Spread(20 / 7.5, 1.0, 6.0, 1)
    assert ratio([10.0], []) is None
    assert ratio([], [10.0]) is None


def test_percentiles_are_exact_to_three_digits() -> None:
    found = latency(float(us) for us in range(1_000, 1_001_000, 1_000))
    assert found is not None and found.count == 1000
    assert (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms) == pytest.approx((500, 900, 990, 1000), rel=1e-3)
    assert latency([]) is None
    assert latency([-5.0]) == Latency(1, 0.001, 0.001, 0.001, 0.001)


def drain(load: str, number: int, per_second: float) -> dict[str, Any]:
    cpu = {"ledger": 2.0, "sink": 1.0, "kafka": 0.5, "postgres": 0.25, "bench": 0.1, "others_percent": 3.0}
    return {
        "load": load,
        "round": number,
        "transfers": 1000,
        "seconds": 1000 / per_second,
        "per_second": per_second,
        "cpu": cpu,
        "units": 4,
        "commands_per_unit": 250.0,
        "units_per_commit": 2.0,
    }


def measured() -> dict[str, Any]:
    percentiles = {"count": 10, "p50_ms": 11.0, "p90_ms": 20.0, "p99_ms": 43.0, "max_ms": 50.5}
    return {
        "at": "2026-11-20T10:00:00+00:00",
        "command": "aura bench",
        "options": {"commands": 1000, "rounds": 2, "seconds": 10.0, "ledgers": 1, "sinks": 1, "partitions": 8},
        "machine": {
            "cores": 2,
            "processor": "A|B",
            "memory_gb": 8,
            "system": "Linux",
            "python": "3.11",
            "file_system": "ext4",
            "fsync_ms": 0.5,
        },
        "drains": [drain("one-hop", 0, 60_000.0), drain("one-hop", 1, 70_000.0)],
        "baseline": [
            {"load": "one-hop", "round": number, "connections": connections, "per_second": per_second}
            for number, connections, per_second in ((0, 8, 5_000.0), (0, 20, 6_000.0), (1, 8, 7_000.0), (1, 20, 1.0))
        ],
        "sink_alone": [{"load": "one-hop", "ledger_per_second": 90_000.0, "sink_per_second": 130_000.0}],
        "open_loop": [
            {
                "load": "between",
                "rate": 2000.0,
                "first_row": percentiles,
                "final_row": percentiles,
                "stages": {name: {"p50_ms": 4.0, "p99_ms": 9.5} for name in STAGES},
                "commands_per_unit": 5.0,
                "generator_late_ms_max": 2.5,
            }
        ],
        "restore": {"records": 400_000, "seconds": 1.0, "per_second": 400_000.0},
        "memory": {"accounts": 1_000_000, "ledger_mb": [250.0]},
        "profiles": [
            {
                "what": "one-hop, draining",
                "role": "ledger",
                "cpu_us_per_transfer": 20.0,
                "file": "x.txt",
                "top": [{"function": "take (unit.py)", "own": 0.25, "with_callees": 0.5}],
            }
        ],
        "checks": ["2,000 transfers completed"],
    }


def test_the_better_number_of_connections_counts_in_each_round() -> None:
    assert best_of(measured()["baseline"], "one-hop") == [6_000.0, 7_000.0]
    assert best_of(measured()["baseline"], "hot") == []


def test_a_summary_has_rates_ratios_and_costs() -> None:
    found = summary(measured())["one-hop"]
    assert found["ours"] == {"median": 65_000.0, "low": 60_000.0, "high": 70_000.0, "count": 2}
    assert found["ratio"]["median"] == 10.0
    assert found["cpu_s_per_1000"]["ledger"]["median"] == 2.0


def test_all_figures_reach_terminal_and_documentation() -> None:
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        for table in tables(measured()):
            console.print(table)
    for text in (console.export_text(), markdown(measured())):
        for number in (
            "65,000 (60,000 to 70,000)",
            "10.0 (10.0 to 10.0)",
            "130,000",
            "50 %",
            "400,000",
            "250 MB",
            "43.0",
        ):
            assert number in text
    assert "5.0 |" in markdown(measured()) and "take (unit.py)" in markdown(measured())


def test_figures_replace_only_what_stands_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_docs(page, measured())
    write_docs(page, measured())
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text and text.count("65,000") == 1


def test_a_page_without_a_place_for_figures_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(SetupError):
        write_docs(page, measured())
    assert page.read_text(encoding="utf-8") == "mine"
