"""The two stores behave alike, and RocksDB keeps what was written through a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aura_stream.engine.errors import StoreLocked
from aura_stream.engine.store import MemoryStore, RocksStore

keys = st.binary(min_size=1, max_size=3)
changes = st.lists(st.lists(st.tuples(keys, st.one_of(st.none(), st.binary(max_size=4))), max_size=6), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=changes, start=keys, stop=keys)
def test_rocksdb_and_memory_agree(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[bytes, bytes | None]]],
    start: bytes,
    stop: bytes,
) -> None:
    rocks, memory = RocksStore(tmp_path_factory.mktemp("store") / "s"), MemoryStore()
    for batch in batches:
        rocks.write(batch)
        memory.write(batch)
        assert list(rocks.scan(start, stop)) == list(memory.scan(start, stop))
    for key in {key for batch in batches for key, _ in batch} | {start}:
        assert rocks.get(key) == memory.get(key)
    asked = [start, stop, *{key for batch in batches for key, _ in batch}]
    assert rocks.absent(asked) == memory.absent(asked) == {key for key in asked if memory.get(key) is None}
    rocks.close()


def test_a_store_is_warm_after_a_restart(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s")
    store.write([(b"a", b"1"), (b"b", b"2")])
    store.close()
    store = RocksStore(tmp_path / "s")
    assert list(store.scan(b"a", b"c")) == [(b"a", b"1"), (b"b", b"2")]
    store.close()


def test_a_second_opener_is_told_so(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "s")
    with pytest.raises(StoreLocked, match="cannot open"):
        RocksStore(tmp_path / "s")
    store.close()
