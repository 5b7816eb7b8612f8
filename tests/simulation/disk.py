"""The local stores of a machine: they outlive its processes, unless the seed says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aura_stream.engine.errors import StoreLocked
from aura_stream.engine.store import Changes, MemoryStore

if TYPE_CHECKING:
    from tests.simulation.cluster import Process

Data = dict[bytes, bytes]


class Disk:
    """Directories by name. Nothing is synced: a power cut may bring back an older state, but never half a one."""

    def __init__(self) -> None:
        self.stores: dict[str, MemoryStore] = {}
        self.older: dict[str, Data] = {}
        self.locks: dict[str, Process] = {}

    def lose(self) -> None:
        """Everything is gone."""
        self.stores.clear()
        self.older.clear()

    def go_back(self) -> None:
        """What was written last is gone."""
        self.stores = {}
        for name, data in self.older.items():
            store = self.stores[name] = MemoryStore()
            store.write(data.items())


class DiskStore:
    """An open directory of a process."""

    def __init__(self, disk: Disk, name: str, process: Process) -> None:
        self._disk, self.name, self._process = disk, name, process
        self.memory = disk.stores.setdefault(name, MemoryStore())
        self.closed = False

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        return self.memory.get(key)

    def absent(self, keys: list[bytes]) -> set[bytes]:
        """Those of the keys that have no value."""
        return self.memory.absent(keys)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs in order."""
        return self.memory.scan(start, stop)

    def write(self, changes: Changes) -> None:
        """All changes or none; nothing from the dead."""
        if self._process.dead:
            return
        assert not self.closed, "a closed store was written"
        if self._process.faults.happens(0.05):
            self._disk.older[self.name] = self.memory._data.copy()
        self.memory.write(changes)

    def memory_bytes(self) -> dict[str, int]:
        """Nothing outside of Python."""
        return {}

    def close(self) -> None:
        """Gives back the lock."""
        if not self.closed and not self._process.dead:
            self._disk.locks.pop(self.name, None)
        self.closed = True


class DiskStores:
    """The stores of a process."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk, self._process = disk, process

    def open(self, name: str) -> DiskStore:
        """Opens or makes one. Raises StoreLocked."""
        holder = self._disk.locks.get(name)
        if holder is not None and not holder.dead:
            raise StoreLocked(f"{name}: lock hold by current process")
        self._disk.locks[name] = self._process
        return DiskStore(self._disk, name, self._process)

    def remove(self, name: str) -> None:
        """Removes a closed store."""
        del self._disk.stores[name]
