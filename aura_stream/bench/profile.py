"""Where the time goes: py-spy looks at a running worker from outside, so nothing of it is in the product.

It samples, some hundred times a second, the stack of the thread that holds the interpreter's lock. Without that it
would take an event loop that waits in native code for a busy one. What native code does without the lock (RocksDB, the
kernel) is not seen; the shares are of what is.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aura_stream import SetupError

RATE = 250
TOP = 45
OUTER = 0.96
_LINE = re.compile(r":\d+\)$")


@dataclass(frozen=True, slots=True)
class Cost:
    """A function's share of the samples: on top of the stack (`own`), or anywhere on it (`with_callees`)."""

    function: str
    own: float
    with_callees: float


class Profiler:
    """Samples one process from :meth:`start` to :meth:`stop`."""

    def __init__(self, pid: int, stacks: Path) -> None:
        self._pid, self._stacks = pid, stacks
        self._child: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Attaches. Raises :class:`SetupError` when py-spy is not installed."""
        self._stacks.unlink(missing_ok=True)
        self._child = subprocess.Popen(
            [
                *(program(), "record", "--pid", str(self._pid), "--rate", str(RATE), "--gil", "--format", "raw"),
                *("--output", str(self._stacks), "--duration", "100000"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> list[Cost]:
        """Detaches and returns what functions cost. Raises :class:`SetupError` when it could not look."""
        assert self._child is not None
        self._child.send_signal(signal.SIGINT)
        output, _ = self._child.communicate(timeout=60)
        if not self._stacks.exists():
            raise SetupError(
                "The worker could not be profiled.",
                where=f"process {self._pid}",
                why=output.strip()[-1000:],
                fix="run as root, or: sudo sysctl kernel.yama.ptrace_scope=0",
            )
        return costs(self._stacks.read_text(encoding="utf-8").splitlines())


def program() -> str:
    """The path of py-spy. Raises :class:`SetupError` when there is none."""
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise SetupError(
            "--profile needs py-spy, which is not installed.",
            where=str(Path(sys.executable).parent),
            why="it is a tool for development and no part of the product",
            fix=f"{sys.executable} -m pip install py-spy",
        )
    return found


def costs(stacks: Iterable[str]) -> list[Cost]:
    """Adds up folded stacks (`outer;inner count`), the most expensive first."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in stacks:
        stack, _, count_text = line.rpartition(" ")
        frames = [short(frame) for frame in stack.split(";")]
        count = int(count_text)
        total += count
        own[frames[-1]] += count
        for frame in set(frames):
            whole[frame] += count
    return sorted(
        (Cost(function, own[function] / total, whole[function] / total) for function in whole),
        key=lambda cost: (-cost.own, -cost.with_callees, cost.function),
    )


def short(frame: str) -> str:
    """A frame without its line, its file as it is imported."""
    frame = _LINE.sub(")", frame)
    return frame.replace("site-packages/", "") if "site-packages/" in frame else frame


def text(title: str, found: list[Cost], cpu_us_per_transfer: float) -> str:
    """The table for people: shares, and what they are in microseconds of CPU per transfer."""

    def rows(chosen: list[Cost]) -> list[str]:
        head = f"{'own %':>7} {'own us':>8} {'with %':>7} {'with us':>8}  function"
        return [head] + [
            f"{cost.own * 100:7.1f} {cost.own * cpu_us_per_transfer:8.2f} {cost.with_callees * 100:7.1f} "
            f"{cost.with_callees * cpu_us_per_transfer:8.2f}  {cost.function}"
            for cost in chosen
        ]

    # The frames that start a worker are on every stack and say nothing.
    inner = [cost for cost in found if cost.with_callees < OUTER]
    return "\n".join(
        [
            f"{title}: {cpu_us_per_transfer:.1f} us of CPU per transfer",
            "us: microseconds of this process' CPU per transfer; with: the function and all that it calls",
            "",
            "By own time",
            *rows(found[:TOP]),
            "",
            "With what they call",
            *rows(sorted(inner, key=lambda cost: -cost.with_callees)[:TOP]),
            "",
        ]
    )
