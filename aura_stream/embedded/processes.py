"""Starting, watching, freezing and ending processes: what ``aura up``, the demo, the benchmark and the tests share.

Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from aura_stream import SetupError

LAUNCHER = Path(__file__).with_name("launch.py")
_POLL_S = 0.02


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = _POLL_S) -> bool:
    """Whether ``condition`` became true within ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


def start_ticks(pid: int) -> int | None:
    """When process ``pid`` started, in clock ticks since boot; None if there is none or only its corpse.

    A pid alone says little: the kernel gives it to another process later. Pid and start time together name one.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def running_since(pid: int) -> float | None:
    """For how many seconds process ``pid`` has been running; None if there is none."""
    ticks = start_ticks(pid)
    if ticks is None:
        return None
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return max(0.0, uptime_s - ticks / os.sysconf("SC_CLK_TCK"))


def command_line(pid: int) -> str:
    """The command of process ``pid``, shortened; empty if it cannot be read."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    text = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return text if len(text) <= 160 else text[:157] + "..."


def children(pid: int) -> list[int]:
    """Direct children of process ``pid``."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        pass
    return found


def tail(path: Path, lines: int = 20) -> str:
    """The last ``lines`` lines of a log file; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # servers set it too: TIME_WAIT does not matter
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A free port below the range that the kernel gives to outgoing connections.

    A port from that range could be taken by any client while a server is down between kill and restart.
    """
    for _ in range(200):
        port = random.randint(20_000, 32_000)
        if port_is_free(port):
            return port
    raise SetupError(
        "No free port was found.",
        where="127.0.0.1, ports 20000 to 32000",
        why="200 ports tried at random were all in use",
        fix="see what listens: ss -ltnp",
    )


def port_owner(port: int) -> tuple[int, str] | None:
    """Pid and command of the process that listens on ``port``; None if nobody does or it cannot be seen."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A is LISTEN
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            for descriptor in (directory / "fd").iterdir():
                if str(descriptor.readlink()) in inodes:
                    return int(directory.name), command_line(int(directory.name))
        except OSError:
            continue  # it ended meanwhile, or is not ours to look into
    return None


def require_port(port: int, service: str, setting: str) -> None:
    """Raise :class:`SetupError`, naming the owner and the setting, if ``port`` is in use."""
    if not port_is_free(port):
        raise port_in_use(port, service, setting)


def port_in_use(port: int, service: str, setting: str) -> SetupError:
    """The error that names who has the port, and the setting that chooses another."""
    owner = port_owner(port)
    why = f"process {owner[0]} listens there: {owner[1]}" if owner else "another process (not visible to this user)"
    stop = f"stop it (kill {owner[0]}), or " if owner else ""
    return SetupError(
        f"{service} cannot start: port {port} is in use.",
        where=f"127.0.0.1:{port}",
        why=why,
        fix=f"{stop}choose another port: {setting}={port + 1000 if port < 60_000 else port - 1000}",
    )


class Process:
    """One process of the system: a service or one of our roles.

    It survives its starter unless ``tied``; a later :class:`Process` with the same name and ``run_dir`` finds it again
    by its pid file, which holds pid and start time.

    ``ready`` says whether the process does its work; without it, the existence of ``ready_file`` does (the process
    writes it, and it is removed before each start).
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        run_dir: Path,
        log_dir: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        tied: bool = False,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.env = dict(env or {})
        self.cwd = cwd
        self.tied = tied
        self.pid_file = run_dir.absolute() / f"{name}.pid"
        self.ready_file = run_dir.absolute() / f"{name}.ready"
        self.log_path = log_dir.absolute() / f"{name}.log"
        self._user = user
        self._ready = ready
        self._child: subprocess.Popen[bytes] | None = None
        self._identity: tuple[int, int] | None = None  # pid and start time

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self.pid}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Pid while it runs, else None."""
        identity = self._identity or self._read_pid_file()
        if identity is None:
            return None
        if self._child is not None:
            # By its corpse alone it would be gone when its first thread is: others may still hold its files and ports.
            return identity[0] if self._child.poll() is None else None
        return identity[0] if start_ticks(identity[0]) == identity[1] else None

    @property
    def alive(self) -> bool:
        """Whether it runs (a frozen one does)."""
        return self.pid is not None

    @property
    def returncode(self) -> int | None:
        """Exit code of a process that we started and that ended; negative is the signal that ended it."""
        return self._child.poll() if self._child is not None else None

    def start(self) -> None:
        """Start it; nothing happens if it runs already. Raises :class:`SetupError` if it cannot be executed."""
        if self.alive:
            return
        for path in (self.pid_file, self.log_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.ready_file.unlink(missing_ok=True)
        command = self.argv
        options = [
            *(["--user", self._user] if self._user else []),
            *(["--tied", str(os.getpid())] if self.tied else []),
        ]
        if options:
            command = [sys.executable, "-I", "-S", str(LAUNCHER), *options, "--", *self.argv]
        with self.log_path.open("ab") as log:
            try:
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self.env},
                    cwd=self.cwd,
                    start_new_session=True,  # a Ctrl-C in the terminal is for its starter, which ends it in order
                )
            except OSError as error:
                raise SetupError(
                    f"{self.name} could not be started.",
                    where=command[0],
                    why=str(error),
                    fix="run `make setup` again; the environment is incomplete",
                ) from error
        ticks = start_ticks(self._child.pid)
        self._identity = (self._child.pid, ticks if ticks is not None else -1)
        temporary = self.pid_file.with_suffix(".pid.tmp")
        temporary.write_text(f"{self._identity[0]} {self._identity[1]}\n")
        os.replace(temporary, self.pid_file)

    @property
    def is_ready(self) -> bool:
        """Whether it runs and does its work."""
        return self.alive and (self._ready() if self._ready is not None else self.ready_file.exists())

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until it does its work. Raises :class:`SetupError` with the log's last lines if it does not."""
        if wait_until(lambda: not self.alive or self.is_ready, timeout_s) and self.alive:
            return
        state = (
            f"it was not ready within {timeout_s:g} s"
            if self.alive
            else f"it ended{'' if self.returncode is None else f' with code {self.returncode}'}"
        )
        log = tail(self.log_path)
        raise SetupError(
            f"{self.name} did not start.",
            where=str(self.log_path),
            why=f"{state}; its last lines:\n" + "\n".join(f"    {line}" for line in log.splitlines())
            if log
            else f"{state}, and it logged nothing",
            fix=f"read {self.log_path}, mend the cause, run the same command again",
        )

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process is gone."""
        pid = self.pid
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within ``timeout_s`` seconds."""
        if self._child is not None:
            try:
                self._child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
            return True
        return wait_until(lambda: not self.alive, timeout_s)

    def stop(self, grace_s: float = 15.0, number: signal.Signals = signal.SIGTERM) -> bool:
        """End it in order, by force after ``grace_s`` seconds. True if it went in order (or was gone)."""
        in_order = True
        if self.send(number):
            self.send(signal.SIGCONT)  # a frozen process cannot act on the signal
            in_order = self.wait(grace_s)
            if not in_order:
                self.kill()
        self._forget()
        return in_order

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would, and wait until it is gone."""
        if self.send(signal.SIGKILL):
            self.wait(10)
        self._forget()

    def freeze(self) -> None:
        """Stop its execution (SIGSTOP); it keeps its connections and notices nothing."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self.send(signal.SIGCONT)

    def restart(self, timeout_s: float = 30.0) -> None:
        """Stop in order, start, wait until ready."""
        self.stop()
        self.start()
        self.wait_ready(timeout_s)

    def log_tail(self, lines: int = 20) -> str:
        """Last lines of its log."""
        return tail(self.log_path, lines)

    def _read_pid_file(self) -> tuple[int, int] | None:
        try:
            pid, ticks = self.pid_file.read_text().split()
            return int(pid), int(ticks)
        except (OSError, ValueError):
            return None

    def _forget(self) -> None:
        self._identity = None
        if self._child is not None:
            self._child.poll()
            self._child = None
        self.pid_file.unlink(missing_ok=True)
        self.ready_file.unlink(missing_ok=True)


class Server(ABC):
    """A server in one process: how it is started is its own, the rest is the same for all."""

    process: Process

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Pid while it runs, else None."""
        return self.process.pid

    @property
    def log_path(self) -> Path:
        """Its log."""
        return self.process.log_path

    @abstractmethod
    def start(self) -> None:
        """Start and wait until it serves. Does nothing if it runs."""

    def stop(self) -> None:
        """Stop in order: what it knows is written down first."""
        self.process.stop()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()

    def restart(self) -> None:
        """Stop in order and start again with the same data and port."""
        self.stop()
        self.start()


class Stack:
    """Processes that belong together: started in order, stopped in the opposite order."""

    def __init__(self, processes: Iterable[Process] = ()) -> None:
        self.processes: list[Process] = list(processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __getitem__(self, name: str) -> Process:
        for process in self.processes:
            if process.name == name:
                return process
        raise KeyError(name)

    def add(self, process: Process, timeout_s: float = 30.0) -> Process:
        """Start a process, wait until it is ready, and keep it for :meth:`stop`."""
        self.processes.append(process)
        process.start()
        process.wait_ready(timeout_s)
        return process

    def stop(self, grace_s: float = 15.0) -> None:
        """Stop all, the last started first."""
        for process in reversed(self.processes):
            process.stop(grace_s)
