"""The Kafka jars: nothing is run that is not exactly what was locked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from aura_stream import SetupError
from aura_stream.embedded import jars
from aura_stream.embedded.jars import KAFKA_VERSION, Jar, ensure_jars, read_lock


def test_the_lock_names_the_pinned_kafka_and_a_checksum_for_every_jar() -> None:
    locked = read_lock()
    assert [jar.version for jar in locked if jar.artifact == "kafka_2.13"] == [KAFKA_VERSION]
    assert len({jar.file_name for jar in locked}) == len(locked) > 20
    assert "kafka-tools-api" not in {jar.artifact for jar in locked}


def test_a_changed_jar_in_the_cache_is_refused(tmp_path: Path) -> None:
    jar = Jar("org.example", "thing", "1", hashlib.sha256(b"good").hexdigest())
    (tmp_path / jar.file_name).write_bytes(b"good")
    assert ensure_jars([jar], tmp_path) == [tmp_path / "thing-1.jar"]
    (tmp_path / jar.file_name).write_bytes(b"evil")
    with pytest.raises(SetupError, match="not the one that was locked") as caught:
        ensure_jars([jar], tmp_path)
    assert str(tmp_path / "thing-1.jar") in caught.value.where
    assert caught.value.fix.startswith("rm ")


class _Artifact:
    """Stands for the resolver's artifact: writes straight to its final place, as the real one does."""

    def __init__(self, path: Path, content: bytes, failures: int) -> None:
        self.cached_path = path
        self._content = content
        self._failures = failures

    def resolve(self) -> Path:
        self.cached_path.parent.mkdir(parents=True, exist_ok=True)
        if self._failures:
            self._failures -= 1
            self.cached_path.write_bytes(self._content[:2])
            raise ConnectionError("connection reset")
        assert not self.cached_path.exists(), "a half jar of the last try was left"
        self.cached_path.write_bytes(self._content)
        return self.cached_path


class _Context:
    def __init__(self, repository: Path, content: bytes, failures: int) -> None:
        self._artifact = _Artifact(repository / "x.jar", content, failures)

    def project(self, _group: str, _artifact: str) -> _Context:
        return self

    def at_version(self, _version: str) -> _Context:
        return self

    def artifact(self) -> _Artifact:
        return self._artifact


@pytest.mark.parametrize(("content", "failures", "complaint"), [
    (b"good", 0, None),
    (b"good", 2, None),
    (b"good", 3, "could not be downloaded"),
    (b"evil", 0, "not the one that was locked"),
])  # fmt: skip
def test_only_whole_and_right_jars_reach_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, failures: int, complaint: str | None
) -> None:
    jar = Jar("org.example", "thing", "1", hashlib.sha256(b"good").hexdigest())
    monkeypatch.setattr(jars, "_context", lambda repository, _progress=None: _Context(repository, content, failures))
    if complaint is None:
        assert ensure_jars([jar], tmp_path)[0].read_bytes() == b"good"
        assert [path.name for path in tmp_path.iterdir()] == [jar.file_name]
    else:
        with pytest.raises(SetupError, match=complaint):
            ensure_jars([jar], tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_damaged_lock_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("org.example:thing 123\n")
    with pytest.raises(SetupError, match="damaged"):
        read_lock(tmp_path / "lock")
