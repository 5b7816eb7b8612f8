"""Medians, ratios, percentiles, and the report that is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from aura_stream import SetupError
from aura_stream.bench.figures import Latency, Spread, latency, ratio, spread
from aura_stream.bench.open_loop import STAGES
from aura_stream.bench.plan import bytes_per_transfer, plan
from aura_stream.bench.plots import plots
from aura_stream.bench.report import (
    BEGIN,
    END,
    PLAN_BEGIN,
    PLAN_END,
    best_of,
    combined,
    limit_of,
    markdown,
    summary,
    tables,
    write_docs,
)
from aura_stream.bench.svg import WIDTH


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
    cpu["machine_percent"] = 50.0
    return {
        "load": load,
        "round": number,
        "transfers": 1000,
        "seconds": 1000 / per_second,
        "per_second": per_second,
        "cpu": cpu,
        "cores": {"ledger-0": 0.9, "sink-0": 0.4, "kafka": 0.3, "postgres": 0.2},
        "units": 4,
        "commands_per_unit": 250.0,
        "units_per_commit": 2.0,
    }


def settled(what: str, per_second: float, cores: dict[str, float]) -> dict[str, Any]:
    return {
        "what": what,
        "per_second": per_second,
        "cpu": {"others_percent": 2.0, "machine_percent": 70.0},
        "cores": cores,
        "waits_ms": {"mint_queued": 640.0, "mint_confirming": 2_375.0},
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
                "sent": 20_000,
                "first_row": percentiles,
                "final_row": percentiles,
                "stages": {name: {"p50_ms": 4.0, "p99_ms": 9.5} for name in STAGES},
                "units_per_second": 432.0,
                "commands_per_unit": 5.0,
                "shards": {
                    "units": 4_320,
                    "records_per_unit": 15.5,
                    "compute_ms": 1.25,
                    "commit_ms": 17.5,
                    "commit_ms_p50": 13.75,
                },
                "kafka_ms_per_unit": [9.5, 5.25, 5.0],
                "broker_is_warm": True,
                "generator_late_ms_max": 2.5,
                "cpu": {"others_percent": 1.0},
            }
        ],
        "http": {
            "connections": 64,
            "batch_lines": 1000,
            "ratio": 0.45,
            "cpu_ratio": 0.4,
            "runs": {"api": [{}, {}, {}]},
            **{
                kind: {
                    "per_second": per_second,
                    "p50_ms": 12.5,
                    "p99_ms": 40.0,
                    "server_cpu_us": 321.0,
                    "server_cores": 0.97,
                }
                for kind, per_second in (("api", 3_600.0), ("bare", 8_000.0), ("batch", 23_456.0))
            },
        },
        "scaling": [
            {"ledgers": 1, "partitions": partitions, **drain("one-hop", 0, 40_000.0 + partitions)}
            for partitions in (4, 8)
        ],
        "entries": [
            {
                "entries": count,
                "per_second": 55_000.0,
                "transfers": 1000,
                "cpu": {"ledger": 2.0},
                "balance_ms": {name: {"p50": 0.75, "max": 3.25} for name in ("now", "effective", "known")},
                "database_mb": count * 500 / 1e6,
                "restore": {"records": count, "seconds": 1.0, "per_second": float(count)},
            }
            for count in (100_000, 1_000_000)
        ],
        "open": [
            {
                "open": count,
                "per_second": 50_000.0,
                "transfers": 1000,
                "cpu": {"ledger": 2.0},
                "memory": {"ledger-0": {"rss_mb": 222.0, "pss_mb": 201.0, "rocksdb_mb": 99.0}},
            }
            for count in (1_000, 10_000)
        ],
        "warm_up": {"raw_ms": [9.0, 3.0, 2.9], "is_warm": True, "units_ms": [20.0, 19.0]},
        "restore": {"records": 400_000, "seconds": 1.0, "per_second": 400_000.0},
        "memory": {
            "accounts": 1_000_000,
            "before": {"ledger-0": {"rss_mb": 100.0, "pss_mb": 90.0}},
            "after": {"ledger-0": {"rss_mb": 257.0, "most_mb": 260.0, "pss_mb": 241.0, "rocksdb_mb": 88.0}},
        },
        "isolation": {
            "count": 200,
            "rate": 20.0,
            "alone": [percentiles | {"p50_ms": 33.0}, percentiles | {"p50_ms": 33.5}],
            "quiet": [percentiles | {"p50_ms": 31.5}, percentiles | {"p50_ms": 33.5}],
            "hanging": [percentiles | {"p50_ms": 34.65}, percentiles | {"p50_ms": 33.5}],
            "ratios": [1.1, 1.0],
            "ratio": 1.05,
            "ratio_alone": 1.025,
            "without_answer": 1_234,
        },
        "settlements": {
            "count": 200,
            "runs": [
                settled("paid by SCT Inst and minted", 45.25, {"mock bank": 0.62, "chain": 0.31, "postgres": 0.93}),
                settled("burnt and paid by SCT Inst", 12.5, {"mock bank": 0.97, "chain": 0.25, "postgres": 0.2}),
            ],
        },
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
            "34.6 / 43.0",  # bank B while bank A hangs
            "1.05",
            "1.02",  # beside a bank of which nothing is asked
            "1,234 calls",
            "45.2",
            "waiting in mint_confirming (busiest: mock bank, 0.62 of a core)",
            "the core of mock bank",
            "2.38",
            "10.0 (10.0 to 10.0)",
            "130,000",
            "50 %",
            "400,000",
            "257",
            "43.0",
            "13.8",
            "9.5 → 5.2 → 5.0",
            "3,600 (0.45; by CPU 0.40)",
            "23,456",
            "40,004",
            "0.75 / 3.25",
            "50,000",
        ):
            assert number in text, number
    assert "5.0 |" in markdown(measured()) and "take (unit.py)" in markdown(measured())
    assert "9.00 → 3.00 → 2.90 per small transaction" in markdown(measured())


def test_a_drain_is_limited_by_a_full_core_by_all_cores_or_by_waiting() -> None:
    run = drain("one-hop", 0, 1.0)
    assert limit_of(run) == "the core of ledger-0"
    run["cpu"]["machine_percent"] = 95.0
    assert limit_of(run) == "the core of ledger-0 and all cores"
    run["cpu"]["machine_percent"], run["cores"]["ledger-0"] = 50.0, 0.5
    assert limit_of(run) == "waiting for commits (ledger-0: 0.50 of a core)"


def test_of_several_runs_each_section_comes_from_the_last_that_has_it() -> None:
    later = measured() | {"at": "later", "http": None, "scaling": [], "baseline": [], "checks": ["another"]}
    later["drains"] = [drain("one-hop", 0, 90_000.0)]
    found = combined([measured(), later])
    assert found["http"] == measured()["http"] and len(found["scaling"]) == 2
    assert found["summary"]["one-hop"]["ours"]["median"] == 90_000.0
    assert found["summary"]["one-hop"]["ratio"] is None, "drains of one run, baseline of another: no ratio"
    assert [run["at"] for run in found["runs"]] == [measured()["at"], "later"]
    assert found["checks"] == [*measured()["checks"], "another"]
    assert [run["at"] for run in combined([found, later])["runs"]] == [measured()["at"], "later", "later"]
    assert "Measured later" in markdown(found)


def test_what_a_rate_takes_follows_from_what_was_measured() -> None:
    results = combined([measured()])
    assert bytes_per_transfer(results) == 1_000.0
    (_, _, inputs), (_, head, rows) = plan(results)
    by_name = {row[0]: row[1] for row in inputs}
    assert by_name["CPU of ledger, us per transfer"] == "2000" and by_name["all together"] == "3750"
    assert by_name["the most of one shard (one core of a ledger), transfers/s"] == "500"
    assert by_name["PSS of the ledgers per million accounts, MB"] == "151"
    planned = dict(zip(head, rows[1], strict=True))
    # 10,000 transfers/s at 2 ms of a ledger are 20 cores, 60 % busy: 34; four partitions each: 136, so 256.
    assert planned["transfers/s"] == "10,000" and planned["ledgers"] == "34" and planned["partitions"] == "256"
    # 0.5 ms of Kafka: 5 cores, 60 % busy, three replicas; 864 million transfers a day of 1,000 bytes.
    assert planned["Kafka's cores"] == "25" and planned["Postgres GB a day"] == "864"


def test_every_section_has_its_picture_for_light_and_dark() -> None:
    found = plots(combined([measured()]))
    assert list(found) == ["throughput", "cpu", "latency", "scaling", "balance", "growth"]
    for title, picture in found.values():
        root = ElementTree.fromstring(picture)
        assert root.findtext("{http://www.w3.org/2000/svg}title") == title
        assert "@media (prefers-color-scheme: dark)" in picture and "nan" not in picture and "inf" not in picture
        assert "e+" not in picture, "a figure as a power of ten"
        for text in root.findall("{http://www.w3.org/2000/svg}text"):
            told, anchor = text.text or "", text.get("text-anchor")
            beyond = {"end": 0.0, "middle": 0.5}.get(anchor or "", 1.0) * 7 * len(told)
            assert text.get("class") in ("title", "on") or float(text.get("x", "0")) + beyond < WIDTH, told
    assert "65,000" in found["throughput"][1] and "(10.0 times)" in found["throughput"][1]
    assert "3,750" in found["cpu"][1], "the sum of a stack"
    nothing = measured() | {"open_loop": [], "scaling": [], "entries": [], "open": [], "drains": [], "baseline": []}
    assert plots(combined([nothing])) == {}


def test_figures_replace_only_what_stands_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n", encoding="utf-8")
    write_docs(page, measured())
    write_docs(page, measured())
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "stale" not in text and text.count("65,000") == 1
    pictures = [path.name for path in (tmp_path / "images").iterdir()]
    assert len(pictures) == 6 and all(f"](images/{name})" in text for name in pictures)


def test_a_plan_replaces_only_what_stands_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text(f"before\n{PLAN_BEGIN}\nstale\n{PLAN_END}\nafter\n", encoding="utf-8")
    write_docs(page, combined([measured()]))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale" not in text
    assert "| one-hop | 10,000 | 34 |" in text and not (tmp_path / "images").exists()


def test_a_page_without_a_place_for_figures_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(SetupError):
        write_docs(page, measured())
    assert page.read_text(encoding="utf-8") == "mine"
