"""The whole benchmark once, tiny: everything starts, is measured, is exact, is reported and is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aura_stream.bench.report import BEGIN, END

TINY = [
    *("--loads", "between", "--commands", "300", "--rounds", "1", "--seconds", "2", "--rates", "50"),
    *("--warm-up", "1", "--partitions", "4", "--verify"),
    *("--requests", "200", "--batch-commands", "500", "--memory", "200"),
    *("--grid-ledgers", "1,2", "--grid-partitions", "2", "--entries", "10000", "--open", "100,200"),
    *("--skip", "isolation,settlements"),
]


def aura(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
    return subprocess.run(
        [sys.executable, "-m", "aura_stream.cli", "bench", *arguments],
        env=env | {"NO_COLOR": "1", "COLUMNS": "160", "PYTHONPATH": str(Path.cwd())},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=290,
    )


@pytest.mark.timeout(300)
def test_a_tiny_run_measures_everything_and_leaves_nothing(tmp_path: Path) -> None:
    page, figures, data = tmp_path / "page.md", tmp_path / "figures.json", tmp_path / "data"
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    done = aura(*TINY, "--dir", str(data), "--json", str(figures), "--write-docs", str(page), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(figures.read_text(encoding="utf-8"))
    assert [drain["transfers"] for drain in results["drains"]] == [300]
    assert [run["connections"] for run in results["baseline"]] == [8, 20]
    assert results["summary"]["between"]["ratio"]["median"] > 0
    (alone,) = results["sink_alone"]
    assert alone["ledger_per_second"] > 0 and (alone["sink_per_second"] is None or alone["sink_per_second"] > 0)
    (paced,) = results["open_loop"]
    assert paced["sent"] == paced["first_row"]["count"] == paced["final_row"]["count"] == 100
    assert 0 < paced["first_row"]["p50_ms"] <= paced["final_row"]["p50_ms"] <= paced["final_row"]["max_ms"]
    shards = paced["shards"]
    # Two counts of the same units: Postgres' rows, and the ledger's own.
    assert shards["units"] > 0 and abs(paced["units"] - shards["units"]) <= 2 and shards["records_per_unit"] >= 1
    assert shards["commit_ms_p50"] > 0 and shards["commit_ms"] > 0 and paced["units_per_second"] > 0
    assert len(paced["kafka_ms_per_unit"]) >= 3 and results["warm_up"]["raw_ms"] and results["warm_up"]["units_ms"]
    http = results["http"]
    assert http["ratio"] == http["api"]["per_second"] / http["bare"]["per_second"] and http["batch"]["per_second"] > 0
    assert http["accepted"] == 100 + 200 + 100 + 500, "what was for warming up, and what counts"
    auth = results["auth"]
    assert auth["ratio"] == auth["logged_in"]["per_second"] / auth["fixed"]["per_second"]
    assert (auth["accepted"], auth["logins"]) == (100 + 100 + 200 + 200, 64)
    assert [(run["partitions"], run["ledgers"]) for run in results["scaling"]] == [(2, 1), (2, 2)]
    assert {"ledger-0", "ledger-1", "sink-0", "kafka", "postgres"} == results["scaling"][1]["cores"].keys()
    (grown,) = results["entries"]
    assert abs(grown["entries"] - 10_000) <= 1 and grown["restore"]["records"] > 1_000
    assert all(took["p50"] > 0 for took in grown["balance_ms"].values()) and len(grown["balance_ms"]) == 3
    assert [run["open"] for run in results["open"]] == [100, 200] and all(run["per_second"] for run in results["open"])
    memory = results["memory"]["after"]["ledger-0"]
    assert memory["rss_mb"] > memory["pss_mb"] > memory["rocksdb_mb"] > 0
    assert results["restore"]["records"] > 1000
    assert results["checks"][0].endswith(" transfers completed, entries sum to zero, nothing under way")
    assert results["checks"][1] == "aura ledger verify: good"
    assert "between customers" in done.stdout and "between customers" in page.read_text(encoding="utf-8")
    pictures = {path.stem for path in (tmp_path / "images").iterdir()}
    assert pictures == {f"bench-{name}" for name in ("throughput", "cpu", "latency", "scaling", "balance", "growth")}
    assert not list(data.iterdir()), "its data is still there"
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(data) not in processes, "something of it still runs"

    again = aura("--from", str(figures), cwd=tmp_path)
    assert again.returncode == 0 and again.stdout == done.stdout


@pytest.mark.timeout(300)
def test_a14_a_tiny_run_settles_through_banks_and_chain_and_measures_it(tmp_path: Path) -> None:
    figures, data = tmp_path / "figures.json", tmp_path / "data"
    told = ["--only", "isolation,settlements", "--settlements", "15", "--turns", "1", "--warm-up", "0"]
    done = aura(*told, "--partitions", "4", "--dir", str(data), "--json", str(figures), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(figures.read_text(encoding="utf-8"))
    isolation = results["isolation"]
    (alone,), (quiet,), (hanging,) = isolation["alone"], isolation["quiet"], isolation["hanging"]
    assert alone["count"] == quiet["count"] == hanging["count"] == 15
    assert isolation["ratios"] == [isolation["ratio"]] == [hanging["p50_ms"] / quiet["p50_ms"]]
    assert isolation["ratio_alone"] == hanging["p50_ms"] / alone["p50_ms"]
    assert isolation["without_answer"] >= 1, "bank-a has answered"
    came, went = results["settlements"]["runs"]
    for run, states in ((came, {"funds_settled", "mint_queued"}), (went, {"tokens_held", "payout_submitted"})):
        assert run["count"] == 15 and run["per_second"] == 15 / run["seconds"]
        assert {"ledger", "sink", "api", "bank", "chain", "mock bank", "chain's node", "kafka"} <= run["cores"].keys()
        assert all(cores >= 0 for cores in run["cores"].values()) and run["cores"]["chain"] > 0
        assert states <= run["waits_ms"].keys()
    assert "bank B goes on" in done.stdout and "Settlements per second" in done.stdout
    assert not list(data.iterdir()), "its data is still there"
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(data) not in processes, "something of it still runs"


@pytest.mark.parametrize("arguments", [
    ["--loads", "sideways"], ["--rates", "fast"], ["--rates", "50%", "--skip", "drain"], ["--skip", "everything"],
    ["--only", "nothing"], ["--open", "some"], ["--grid-partitions", "0"],
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_anything_starts(arguments: list[str], tmp_path: Path) -> None:
    refused = aura(*arguments, cwd=tmp_path)
    assert refused.returncode == 2 and refused.stdout == ""


def test_a_file_that_is_no_measurement_is_an_error_without_traceback(tmp_path: Path) -> None:
    wrong = aura("--from", str(tmp_path / "nothing.json"), cwd=tmp_path)
    assert wrong.returncode == 3 and "Traceback" not in wrong.stderr
