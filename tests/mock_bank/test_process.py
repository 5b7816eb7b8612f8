"""The process: started by the command line, driven by `aura trigger`, killed, stopped; and that it stands alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aura_stream.cli import main
from aura_stream.embedded.local import LocalStack
from aura_stream.embedded.processes import free_port
from aura_stream.settings import load_settings
from tests.mock_bank.conftest import Client

CLOCK = ("--clock", "manual", "--start", "2026-11-20T09:00:00-05:00")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    settings = load_settings(home=tmp_path / "home", mock_bank_port=free_port())
    stack = LocalStack(settings, external=frozenset({"kafka", "postgres"}), tied=True)
    yield stack
    stack.roles.stop(5)


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


Shell = Callable[..., Result]


@pytest.fixture
def aura(stack: LocalStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line, in this process: starting an interpreter for each command would take most of the time."""
    monkeypatch.setenv("AURA_HOME", str(stack.home))
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    return run


def credentials(stack: LocalStack) -> Any:
    return json.loads((stack.home / "mock-bank" / "credentials.json").read_text())


async def order(stack: LocalStack, *references: str) -> list[int]:
    """Statuses of orders with these references."""
    async with aiohttp.ClientSession() as session:
        client = await Client(session, credentials(stack), "bank-a").login()
        return [(await client.ach(reference, "10.00")).status for reference in references]


async def test_a17_mock_bank_starts_alone_survives_a_kill_and_stops_at_sigterm(stack: LocalStack, aura: Shell) -> None:
    process = stack.start_mock_bank(*CLOCK)
    assert process.ready_file.exists()
    secrets = stack.home / "mock-bank" / "credentials.json"
    assert secrets.stat().st_mode & 0o077 == 0
    before = secrets.read_text()
    assert await order(stack, "REF-1", "REF-2") == [201, 201]

    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    process.wait(10)
    again = stack.start_mock_bank(*CLOCK)
    assert secrets.read_text() == before
    assert await order(stack, "REF-2", "REF-3") == [200, 201]

    advanced = json.loads(aura("trigger", "clock", "4d", "--banks").out)
    assert advanced["now"] == "2026-11-24T14:00:00.000Z"
    books = json.loads(aura("trigger", "books").out)
    assert books["balances"]["trust-usd"] == "30.00" and books["max_acted"] == 1 and books["balanced"]

    status = json.loads(aura("status", "--json").out)
    assert status["ready"] and [row["name"] for row in status["processes"]] == ["mock-bank"]

    pid = again.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    assert again.wait(10) and again.returncode == 0
    assert not again.ready_file.exists()
    assert "Traceback" not in again.log_path.read_text()


async def test_n30_kill_in_the_middle_loses_nothing_that_was_answered(stack: LocalStack, aura: Shell) -> None:
    process = stack.start_mock_bank(*CLOCK)
    names = [f"REF-{number}" for number in range(400)]
    answered: list[str] = []
    enough = asyncio.Event()
    async with aiohttp.ClientSession() as session:
        client = await Client(session, credentials(stack), "bank-a").login()

        async def flood(mine: list[str]) -> None:
            with suppress(aiohttp.ClientError):
                for name in mine:
                    assert (await client.ach(name, "10.00")).status == 201
                    answered.append(name)
                    if len(answered) == 60:
                        enough.set()

        floods = [asyncio.create_task(flood(names[part::8])) for part in range(8)]
        await asyncio.wait_for(enough.wait(), 60)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.gather(*floods)
    process.wait(10)
    assert len(answered) < len(names)

    stack.start_mock_bank(*CLOCK)
    assert set(await order(stack, *answered)) == {200}
    await order(stack, *names)
    aura("trigger", "clock", "4d", "--banks")
    books = json.loads(aura("trigger", "books").out)
    assert books["max_acted"] == 1 and books["balanced"] and books["transfers"] == {"settled": 400}


async def test_a13_triggers_do_what_they_say(stack: LocalStack, aura: Shell) -> None:
    stack.start_mock_bank(*CLOCK)
    pushed = json.loads(aura("trigger", "push", "10.00", "--reference", "in-1").out)
    assert (pushed["status"], pushed["reference"]) == ("settled", "in-1")
    recalled = json.loads(aura("trigger", "recall", "in-1", "--reason", "FRAD", "--forced").out)
    assert recalled["status"] == "accepted"
    assert await order(stack, "REF-1") == [201]
    settled = json.loads(aura("trigger", "decide", "REF-1", "settled").out)
    changed = json.loads(aura("trigger", "change", settled["id"]).out)
    returned = json.loads(aura("trigger", "return", settled["id"], "--code", "R03").out)
    assert (settled["status"], changed["status"], returned["code"]) == ("settled", "settled", "R03")
    profile = json.loads(aura("trigger", "profile", "flaky", "--seed", "9", "--rate", "lost=3000").out)
    assert (profile["seed"], profile["rates"]["lost"]) == (9, 3000)
    assert json.loads(aura("trigger", "hang", "--bank", "bank-b").out)["name"] == "hanging"

    for arguments, code, text in (
        (("return", "nothing"), 1, "No transfer has the reference"),
        (("clock", "soon"), 2, "aura trigger clock 3d"),
        (("profile", "calm", "--rate", "x"), 2, "BASIS_POINTS"),
        (("books", "--bank", "bank-z"), 1, "There is no bank"),
    ):
        result = aura("trigger", *arguments)
        assert (result.code, result.out) == (code, "") and text in result.err


@pytest.mark.parametrize(
    ("arguments", "env", "text"),
    [
        (
            (),
            {
                "AURA_MODE": "live",
                "AURA_API_KEY": bytes(range(16)).hex(),
                "AURA_IDENTITY_SECRET": bytes(range(32)).hex(),
            },
            "sandbox only",
        ),
        (("--clock", "manual"), {}, "--start"),
        (("--clock", "manual", "--start", "2026-11-20T09:00:00"), {}, "zone"),
        (("--bank", "Bank A"), {}, "--bank"),
    ],
)
def test_sec26_mock_bank_refuses_what_it_cannot_be(
    aura: Shell, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], env: dict[str, str], text: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    result = aura("mock-bank", *arguments)

    assert result.code == 2 and text in result.err and "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("push", "10.00"),
        ("return", "REF-1"),
        ("change", "REF-1"),
        ("recall", "REF-1"),
        ("decide", "REF-1", "settled"),
        ("profile", "flaky"),
        ("hang",),
        ("clock", "3d"),
        ("clock", "3d", "--banks"),
        ("books",),
        ("chain", "mine"),
    ],
    ids=" ".join,
)
def test_a13_sec26_in_live_mode_no_trigger_does_anything(
    stack: LocalStack, aura: Shell, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    stack.start_mock_bank(*CLOCK)  # as one that somebody has left running
    assert asyncio.run(order(stack, "REF-1")) == [201]
    books = aura("trigger", "books").out
    monkeypatch.setenv("AURA_MODE", "live")
    monkeypatch.setenv("AURA_API_KEY", bytes(range(16)).hex())
    monkeypatch.setenv("AURA_IDENTITY_SECRET", bytes(range(32)).hex())

    refused = aura("trigger", *arguments)

    assert (refused.code, refused.out) == (2, "") and "sandbox only" in refused.err
    monkeypatch.delenv("AURA_MODE")
    assert aura("trigger", "books").out == books


def test_trigger_says_how_to_start_the_bank(aura: Shell) -> None:
    result = aura("trigger", "books")

    assert result.code == 3 and "aura mock-bank" in result.err


def test_a24_mock_bank_needs_nothing_of_the_product(tmp_path: Path) -> None:
    code = "import sys, aura_stream.mock_bank.app\n"
    code += "ours = {n for n in sys.modules if n.startswith(('aura_stream.', 'topics', 'tables', 'agents'))}\n"
    code += "assert all(n.startswith('aura_stream.mock_bank') for n in ours), ours\n"
    code += "assert not {'faust', 'aiokafka', 'asyncpg'} & set(sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_two_processes_never_share_a_directory(stack: LocalStack, aura: Shell) -> None:
    stack.start_mock_bank(*CLOCK)

    second = aura("mock-bank", *CLOCK, "--port", str(free_port()))

    assert second.code == 2 and "another mock bank" in second.err
