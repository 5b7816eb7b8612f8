"""What a run costs, read from /proc: CPU seconds and memory of processes, and how busy the machine was otherwise."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from aura_stream.embedded.processes import children

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int | None, *, family: bool = False) -> float:
    """CPU seconds of a process; with `family` also of its children, living or gone. 0 when there is none."""
    if pid is None:
        return 0.0
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat[stat.rindex(")") + 2 :].split()
    ticks = sum(int(field) for field in fields[11 : 15 if family else 13])  # own, then of children that ended
    if not family:
        return ticks * TICK_S
    return ticks * TICK_S + sum(cpu_s(child) for child in children(pid))


def busy_s() -> tuple[float, float]:
    """Seconds that all cores together have worked since boot, and that another machine took from this one."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq) * TICK_S, steal * TICK_S


def memory_mb(pid: int | None) -> tuple[float, float]:
    """Resident memory of a process in MB (10^6 bytes): now, and the most it ever was."""
    values = {"VmRSS": 0.0, "VmHWM": 0.0}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, rest = line.partition(":")
        if name in values:
            values[name] = int(rest.split()[0]) * 1024 / 1e6
    return values["VmRSS"], values["VmHWM"]


def proportional_mb(pid: int | None, *, family: bool = False) -> float:
    """Proportional memory (PSS) of a process in MB: what it shares counts in parts. 0 when there is none."""
    if pid is None:
        return 0.0
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    own = sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:"))
    return own + (sum(proportional_mb(child) for child in children(pid)) if family else 0.0)


class Meter:
    """CPU seconds by kind of process over a stretch of time."""

    def __init__(self, sources: Mapping[str, Callable[[], float]]) -> None:
        self._sources = dict(sources)
        self._began = self._read()

    def _read(self) -> tuple[float, tuple[float, float], dict[str, float]]:
        own = os.times()
        used = {name: read() for name, read in self._sources.items()}
        used["bench"] = own.user + own.system + own.children_user + own.children_system
        return time.monotonic(), busy_s(), used

    def read(self) -> dict[str, float]:
        """CPU seconds since the meter was made: per source, `bench`, and the shares of the machine in percent.

        `others_percent` is what processes that do not belong to the run took: above a few percent it is not quiet.
        """
        at, (busy, stolen), used = self._read()
        at_before, (busy_before, stolen_before), used_before = self._began
        spent = {name: max(0.0, used[name] - used_before[name]) for name in used}
        capacity = max(1e-9, (at - at_before) * (os.cpu_count() or 1))
        total = busy - busy_before
        return {
            **spent,
            "machine_percent": 100 * total / capacity,
            "others_percent": max(0.0, 100 * (total - sum(spent.values())) / capacity),
            "stolen_percent": 100 * (stolen - stolen_before) / capacity,
        }


def describe(directory: Path) -> dict[str, Any]:
    """The machine, as far as it matters for comparing figures."""
    model = "unknown processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
        memory_gb = int(Path("/proc/meminfo").read_text().split()[1]) * 1024 / 1e9
    except OSError:
        memory_gb = 0.0
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gb": round(memory_gb, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file_system": _file_system(directory),
        "fsync_ms": round(fsync_ms(directory), 3),
    }


def fsync_ms(directory: Path, times: int = 50) -> float:
    """How long a write of 8 KiB takes until it is on the disk: the median. Every commit of either ledger pays it."""
    took = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.seek(0)
            file.write(b"\0" * 8192)
            file.flush()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return median(took)


def _file_system(directory: Path) -> str:
    best, kind = "", "unknown"
    try:
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, type_, *_ = line.split()
            inside = place == "/" or f"{directory.resolve()}/".startswith(f"{place}/")
            if inside and len(place) >= len(best):
                best, kind = place, type_
    except OSError:
        pass
    return kind
