"""What a broker's JVMs have learned and made is kept: it is used when it fits, and nothing depends on it."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest

from aura_stream.embedded import KafkaServer, aot, jars
from aura_stream.embedded.kafka import aot_file, class_path, java


@pytest.fixture
def learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file belongs, in a cache of this test: its jars are links to the real ones."""
    real = [Path(path) for path in class_path().split(":")]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jars.cache_dir().mkdir(parents=True)
    for path in real:
        (jars.cache_dir() / path.name).hardlink_to(path)
    return aot_file(java(), class_path())


@pytest.mark.timeout(400)  # a JVM that writes what it has learned takes its time, on a busy machine minutes
def test_a_broker_uses_what_one_before_it_has_learned(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aot, "TRANSACTIONS", 40)  # what it learns is the same, only less of it
    assert aot.make() == learned
    left = [path.name for path in jars.cache_dir().iterdir() if not path.name.endswith(".jar")]
    assert sorted(left) == sorted(["aot.lock", learned.name, "formatted.checkpoint"])
    with KafkaServer(tmp_path / "kafka", tied=True) as server:
        assert f"-XX:AOTCache={learned}" in server.process.argv
        options = server.process.argv[1 : server.process.argv.index("kafka.Kafka")]
    # `on` makes a JVM that cannot use the file refuse to run.
    asked = subprocess.run([java(), *options, "-XX:AOTMode=on", "-version"], capture_output=True, text=True, timeout=60)
    assert asked.returncode == 0, asked.stdout + asked.stderr


def test_a_file_that_does_not_fit_is_passed_over(learned: Path, tmp_path: Path) -> None:
    learned.write_bytes(b"not what it should be")
    with KafkaServer(tmp_path / "kafka", tied=True) as server:
        assert f"-XX:AOTCache={learned}" in server.process.argv
        assert "aot" not in server.process.log_tail()


def test_a_data_directory_is_made_from_what_kafkas_own_tool_made_once(learned: Path, tmp_path: Path) -> None:
    def made(name: str) -> tuple[list[str], list[bytes]]:
        server = KafkaServer(tmp_path / name, tied=True)
        server.launch()
        server.kill()
        meta = (server.data_dir / "meta.properties").read_text().splitlines()
        keys = sorted(line.partition("=")[0] for line in meta if not line.startswith("#"))
        return keys, [path.read_bytes() for path in sorted(server.data_dir.glob("bootstrap.checkpoint"))]

    kept = jars.cache_dir() / "formatted.checkpoint"
    assert not kept.exists()
    by_the_tool = made("first")
    assert by_the_tool[1] == [kept.read_bytes()]
    assert made("second") == by_the_tool


def test_other_jars_have_a_file_of_their_own(learned: Path) -> None:
    first = Path(class_path().split(":")[0])
    whole = first.read_bytes()
    first.unlink()
    first.write_bytes(whole)  # the JVM would not take it any more
    assert aot_file(java(), class_path()) != learned


def test_it_is_made_by_one_process_at_a_time(learned: Path) -> None:
    with (jars.cache_dir() / "aot.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert aot.make() is None
    assert not learned.exists()
