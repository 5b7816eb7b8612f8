"""Starting, freezing and ending processes, and telling ours from others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aura_stream import SetupError
from aura_stream.embedded import Process, Stack, wait_until
from aura_stream.embedded.processes import free_port, port_owner, require_port, start_ticks

READY = "import os,pathlib,time; pathlib.Path(os.environ['READY']).write_text(''); time.sleep(60)"

MakeProcess = Callable[..., Process]


@pytest.fixture
def make(tmp_path: Path) -> MakeProcess:
    def make(name: str, code: str, **options: object) -> Process:
        return Process(
            name,
            [sys.executable, "-c", code],
            run_dir=tmp_path,
            log_dir=tmp_path,
            env={"READY": str(tmp_path / f"{name}.ready")},
            **options,  # type: ignore[arg-type]
        )

    return make


def test_start_ready_freeze_thaw_stop(make: MakeProcess) -> None:
    with make("worker", READY, tied=True) as worker:
        worker.wait_ready(10)
        pid = worker.pid
        assert pid is not None
        worker.start()
        assert worker.pid == pid, "a second start does nothing"
        worker.freeze()
        assert wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T", 5)
        assert worker.alive
        worker.thaw()
        assert wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] != "T", 5)
        assert worker.stop(grace_s=5)
    assert not worker.pid_file.exists() and not worker.ready_file.exists()


def test_a_process_whose_first_thread_has_ended_is_waited_for(make: MakeProcess) -> None:
    """A killed JVM on a busy machine: its first thread is dead already, its others hold files and ports still."""
    code = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(2,)).start()\n"
    code += "ctypes.CDLL(None).pthread_exit(None)"
    worker = make("headless", code)
    worker.start()
    pid = worker.pid
    assert pid is not None
    assert wait_until(lambda: start_ticks(pid) is None, 10)
    assert Path(f"/proc/{pid}").exists(), "its other thread goes on"
    worker.stop()
    assert not Path(f"/proc/{pid}").exists()


def test_a_frozen_process_is_stopped_in_order_and_a_deaf_one_is_killed(make: MakeProcess) -> None:
    frozen = make("frozen", READY)
    frozen.start()
    frozen.wait_ready(10)
    frozen.freeze()
    assert frozen.stop(grace_s=5)
    deaf = make("deaf", "import signal; signal.signal(15, signal.SIG_IGN); " + READY)
    deaf.start()
    deaf.wait_ready(10)
    assert not deaf.stop(grace_s=0.2)
    assert not deaf.alive


def test_a_later_instance_finds_the_process_but_never_takes_another_for_it(make: MakeProcess) -> None:
    first = make("worker", READY)
    first.start()
    first.wait_ready(10)
    later = make("worker", READY)
    assert later.pid == first.pid and later.is_ready
    # The kernel gave the pid to somebody else: the start time tells.
    later.pid_file.write_text(f"{os.getpid()} 12345\n")
    assert make("worker", READY).pid is None
    assert make("worker", READY).stop() is True
    assert first.alive
    first.kill()
    assert not first.alive


def test_one_that_ends_early_shows_its_last_words(make: MakeProcess) -> None:
    worker = make("worker", "import sys; print('no such topic'); sys.exit(70)")
    worker.start()
    with pytest.raises(SetupError) as caught:
        worker.wait_ready(10)
    assert "code 70" in caught.value.why and "no such topic" in caught.value.why
    assert str(worker.log_path) in caught.value.where


def test_a_tied_process_dies_with_its_parent_and_another_does_not(tmp_path: Path) -> None:
    parent = (
        "import sys; from pathlib import Path; from aura_stream.embedded import Process\n"
        "for name in ('tied', 'free'):\n"
        f"    here = Path({str(tmp_path)!r})\n"
        "    command = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "    p = Process(name, command, run_dir=here, log_dir=here, tied=name == 'tied')\n"
        "    p.start(); print(p.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        tied, free = (int(process.stdout.readline()) for _ in range(2))
        assert start_ticks(tied) is not None
        process.kill()
    try:
        assert wait_until(lambda: start_ticks(tied) is None, 5)
        assert start_ticks(free) is not None
    finally:
        os.kill(free, signal.SIGKILL)


def test_a_stack_stops_in_the_opposite_order(make: MakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    with Stack() as stack:
        for name in ("one", "two"):
            process = stack.add(make(name, READY), 10)
            stop = process.stop

            def recorded(grace_s: float, name: str = name, stop: Callable[[float], bool] = stop) -> bool:
                order.append(name)
                return stop(grace_s)

            monkeypatch.setattr(process, "stop", recorded)
        assert stack["two"].alive
        with pytest.raises(KeyError):
            stack["three"]
    assert order == ["two", "one"]


def test_a_used_port_names_its_owner_and_the_setting() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        owner = port_owner(port)
        assert owner is not None and owner[0] == os.getpid()
        with pytest.raises(SetupError) as caught:
            require_port(port, "The API", "AURA_API_PORT")
    assert str(os.getpid()) in str(caught.value) and "AURA_API_PORT=" in caught.value.fix


def test_free_ports_are_outside_the_range_of_outgoing_connections() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < low for _ in range(20))
