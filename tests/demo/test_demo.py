"""The whole demo through the command line, on real services, and what is left of it afterwards: nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_stream.embedded import KafkaServer, PostgresServer
from tests.rows import row

pytestmark = pytest.mark.timeout(300)


class Demo:
    """Starts the demo as a user does; its data lie below `tmp`."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("AURA_")}
        self.env |= {"TMPDIR": str(tmp), "NO_COLOR": "1", "AURA_HOME": str(tmp / "somebody-else")}

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "aura_stream.cli", "demo", *arguments],
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def left(self) -> list[str]:
        """Processes of this demo that run, and what is left of its data."""
        found = [str(path) for path in self.tmp.glob("aura-demo-*")]
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit() or int(directory.name) == os.getpid():
                continue
            try:
                about = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
                state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(self.tmp).encode() in about and state != "Z":
                found.append(f"process {directory.name}")
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    yield demo
    assert demo.left() == []


@row("A05", "A08", "A09", "A10", "A11", "A20", "A21", "S03", "S11", "S19", "S20", "X20", "X22")
@row("A02", "A04", "A06", "A07", "A13", "A14", "A15", "A17", "A25")
def test_a_demo_of_eight_seconds_proves_that_nothing_was_lost(demo: Demo) -> None:
    running = demo.start("--rate", "30", "--seed", "5", "--json", AURA_DEMO_SECONDS="8")
    out, err = running.communicate()
    assert running.returncode == 0, err
    summary = json.loads(out)
    bad = [finding for finding in summary["findings"] if not finding["good"]]
    assert summary["good"] and bad == []
    assert 8 <= summary["seconds"] < 60
    assert summary["sent"]["kafka"] > 300 and summary["sent"]["http"] > 40
    assert summary["commands"] == summary["sent"]["kafka"] + summary["sent"]["http"] - _sum(summary["bad_requests"])
    assert summary["entries"] > 300 and summary["journals"] > 150
    assert summary["statuses"]["completed"] > 100 and "requires_attention" not in summary["statuses"]
    assert summary["refused"] and summary["dead_letters"]
    assert summary["latency_ms"]["committed"]["count"] > 300
    assert re.search(r"^[\d,]+ commands, [\d,]+ entries, sum 0 in every asset: not a cent lost$", err, re.MULTILINE)
    settlement = summary["settlement"]
    assert settlement["stories"] >= 24 and settlement["settlements"] > settlement["stories"]
    assert settlement["mints"] > 10 and settlement["burns"] > 4 and settlement["bank_days"] > 3
    assert settlement["ended"]["completed"] > 10 and settlement["ended"]["returned"] >= 3
    assert sum(one["failed"] for one in settlement["calls"].values()) >= 1  # the banks did misbehave
    assert summary["refused"]["paused"] == 1 and summary["refused"]["four_eyes"] == 1
    assert settlement["reserves"]["open_breaks"] == 0 and len(settlement["reserves"]["accounts"]) >= 2
    for name in (
        *("kafka", "postgres", "schema", "mock bank", "chain", "topics"),
        *("ledger-0", "sink-0", "bank-0", "chain-0", "api", "reconcile"),
    ):
        assert re.search(rf"^  {name} +ok +[\d.]+ s$", err, re.MULTILINE), name


def _sum(counts: dict[str, int]) -> int:
    return sum(counts.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_load_ends_it_in_order(demo: Demo, number: signal.Signals) -> None:
    # Banks and chain are started once more, to be cut off in the middle; the run above has played them to the end.
    settlement = "--settlement" if number == signal.SIGTERM else "--no-settlement"
    running = demo.start("--rate", "30", "--seconds", "200", "--workers", "2", settlement)
    assert running.stderr is not None
    for line in running.stderr:
        if "playing:" in line:
            break
    running.send_signal(number)
    out, err = running.communicate()
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert running.returncode == 0, err
        assert "✓ every balance is that of the demo's own book" in out
        assert out.rstrip().endswith("sum 0 in every asset: not a cent lost")
    else:
        assert running.returncode == 130, err
        assert out == ""


def test_services_of_ones_own_are_used_if_they_are_empty(demo: Demo, tmp_path: Path) -> None:
    with (
        PostgresServer(tmp_path / "postgres", tied=True) as postgres,
        KafkaServer(tmp_path / "kafka", tied=True) as kafka,
    ):
        yours = {"AURA_KAFKA_BOOTSTRAP": kafka.bootstrap, "AURA_POSTGRES_DSN": postgres.dsn()}
        first = demo.start("--rate", "30", "--seconds", "3", "--json", "--no-settlement", **yours)
        out, err = first.communicate()
        assert first.returncode == 0, err
        units = int(postgres.execute("SELECT count(*) FROM ledger.units"))
        assert json.loads(out)["good"] and units > 0
        assert re.search(r"^  is empty +ok", err, re.MULTILINE) and "^  kafka" not in err
        assert "what it wrote stays in your kafka and postgres" in err
        again = demo.start(**yours)
        out, err = again.communicate()
        assert again.returncode == 3 and out == ""
        assert "The demo needs services that hold nothing yet" in err and "fix: unset" in err
        assert int(postgres.execute("SELECT count(*) FROM ledger.units")) == units


def test_what_cannot_start_says_why_and_leaves_nothing(demo: Demo, tmp_path: Path) -> None:
    from aura_stream.embedded.jars import KAFKA_VERSION, read_lock

    cache = tmp_path / "cache" / "aura-stream" / f"kafka-{KAFKA_VERSION}"
    cache.mkdir(parents=True)
    (cache / read_lock()[0].file_name).write_bytes(b"not a jar")
    running = demo.start(XDG_CACHE_HOME=str(tmp_path / "cache"))
    out, err = running.communicate()
    assert running.returncode == 3
    assert "is not the one that was locked" in err and "fix: " in err
    assert out == ""
