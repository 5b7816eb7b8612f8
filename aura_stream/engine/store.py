"""The local copy of a shard's state: an ordered map of bytes. RocksDB in a worker, a dictionary where nothing may stay.

The changelog is the truth; a store can be thrown away at any time and is restored from it.
"""

from __future__ import annotations

import shutil
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rocksdict import AccessType, BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, ReadOptions, WriteBatch

from aura_stream.engine.errors import StoreFailed, StoreLocked

_LOCKED = ("lock hold by current process", "While lock file")  # RocksDB's words
Changes = Iterable[tuple[bytes, bytes | None]]
"""Keys with their new values; None deletes."""


_MEMORY = {
    "memtables": "cur-size-all-mem-tables",
    "readers": "estimate-table-readers-mem",
    "cache": "block-cache-usage",
}


class Store(Protocol):
    """An ordered map of bytes with one writer."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def absent(self, keys: list[bytes]) -> set[bytes]:
        """Those of the keys that have no value: many asked at once cost a fraction of each asked alone."""

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop, in order."""

    def write(self, changes: Changes) -> None:
        """All changes or none, visible at once."""

    def memory_bytes(self) -> dict[str, int]:
        """Bytes of memory it takes outside of Python, by what for; empty when it takes none."""

    def close(self) -> None:
        """Gives back files and locks."""


class Stores(Protocol):
    """Where a worker's stores are kept, by name."""

    def open(self, name: str) -> Store:
        """Opens or makes a store. Raises :class:`StoreLocked`, or :class:`StoreFailed` when it is damaged."""

    def remove(self, name: str) -> None:
        """Removes a closed store."""


class MemoryStore:
    """A store for tests, rebuilds and simulations."""

    def __init__(self) -> None:
        self._data: dict[bytes, bytes] = {}
        self._sorted: list[bytes] | None = []

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        return self._data.get(key)

    def absent(self, keys: list[bytes]) -> set[bytes]:
        """Those of the keys that have no value."""
        return set(keys) - self._data.keys()

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop, in order."""
        if self._sorted is None:
            self._sorted = sorted(self._data)
        keys = self._sorted
        for at in range(bisect_left(keys, start), bisect_left(keys, stop)):
            yield keys[at], self._data[keys[at]]

    def write(self, changes: Changes) -> None:
        """All changes or none."""
        for key, value in changes:
            if value is None:
                if self._data.pop(key, None) is not None:
                    self._sorted = None
            else:
                if key not in self._data:
                    self._sorted = None
                self._data[key] = value

    def memory_bytes(self) -> dict[str, int]:
        """All of it is Python's."""
        return {}

    def close(self) -> None:
        """Nothing to give back."""


class RocksStore:
    """A RocksDB directory.

    All changes of a unit are one write batch that also holds the changelog position, so that position and data agree
    after any crash. Nothing is synced: what a power cut takes away is read from the changelog again.
    """

    _cache: Cache | None = None  # one block cache for all shards of the process

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if RocksStore._cache is None:
            RocksStore._cache = Cache(32 << 20)
        table = BlockBasedOptions()
        table.set_block_cache(RocksStore._cache)
        table.set_bloom_filter(10, False)
        table.set_cache_index_and_filter_blocks(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        # Most look-ups are of keys that are new: a filter over what is not in a file yet saves nine tenths of each.
        options.set_memtable_prefix_bloom_ratio(0.1)
        options.set_memtable_whole_key_filtering(True)
        options.set_write_buffer_size(4 << 20)
        options.set_max_write_buffer_number(2)
        options.set_max_background_jobs(1)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_keep_log_file_num(1)
        options.set_max_open_files(64)
        self.path = path
        try:
            self._db = Rdict(str(path), options=options, access_type=AccessType.read_write())
        except Exception as error:
            locked = any(words in str(error) for words in _LOCKED)
            raise (StoreLocked if locked else StoreFailed)(f"cannot open {path}: {error}") from error
        self._read = ReadOptions()
        self._get = self._db.get

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. Raises :class:`StoreFailed`, as all methods do."""
        try:
            value: bytes | None = self._get(key)
        except Exception as error:
            raise StoreFailed(f"cannot read {self.path}: {error}") from error
        return value

    def absent(self, keys: list[bytes]) -> set[bytes]:
        """Those of the keys that have no value."""
        try:
            values: Any = self._get([*keys])
        except Exception as error:
            raise StoreFailed(f"cannot read {self.path}: {error}") from error
        return {key for key, value in zip(keys, values, strict=True) if value is None}

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < stop, in order."""
        try:
            cursor = self._db.iter(self._read)
            cursor.seek(start)
            while cursor.valid():
                key = cursor.key()
                if key >= stop:
                    return
                yield key, cursor.value()
                cursor.next()
        except GeneratorExit:
            raise
        except Exception as error:
            raise StoreFailed(f"cannot read {self.path}: {error}") from error

    def write(self, changes: Changes) -> None:
        """All changes or none."""
        batch = WriteBatch(raw_mode=True)
        for key, value in changes:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        try:
            self._db.write(batch)
        except Exception as error:
            raise StoreFailed(f"cannot write {self.path}: {error}") from error

    def memory_bytes(self) -> dict[str, int]:
        """Bytes by RocksDB's own count; `cache` is the process' one block cache, the same number for all its shards."""
        return {name: self._db.property_int_value(f"rocksdb.{key}") or 0 for name, key in _MEMORY.items()}

    def close(self) -> None:
        """Gives back files and the lock."""
        self._db.close()


def read_beside(path: Path) -> dict[bytes, bytes]:
    """All that a RocksDB directory held at one moment, read beside its owner, which goes on writing.

    What one unit wrote is in it whole or not at all. Raises :class:`StoreFailed`.
    """
    try:
        db = Rdict(str(path), options=Options(raw_mode=True), access_type=AccessType.read_only(False))
        try:
            items: Any = db.items()
            return dict(items)
        finally:
            db.close()
    except Exception as error:
        raise StoreFailed(f"cannot read {path}: {error}") from error


class RocksStores:
    """RocksDB stores below one directory; one directory per worker instance."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, name: str) -> Store:
        """Opens or makes a store. Raises :class:`StoreLocked`, or :class:`StoreFailed` when it is damaged."""
        return RocksStore(self._directory / name)

    def remove(self, name: str) -> None:
        """Removes a closed store."""
        shutil.rmtree(self._directory / name)
