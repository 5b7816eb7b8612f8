"""Two versions of the product side by side on the same topics and the same database, there and back again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.faults import Torture
from tests.torture.ordeal import ordeal

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
REPOSITORY = Path(__file__).parents[2]
BEFORE = "2a0ab60"
"""The version before. A change that it cannot run beside moves this on, and says so in the changelog."""


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout of the version before."""
    place = tmp_path_factory.mktemp("former") / "checkout"
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    done = subprocess.run([*git, "add", "--detach", str(place), BEFORE], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"N35: no worktree of {BEFORE}: {done.stderr.strip()}")
    where = "import aura_stream; print(aura_stream.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=place, capture_output=True, text=True, check=True)
    assert Path(found.stdout).is_relative_to(place), "its own code is what runs there"
    yield place
    subprocess.run([*git, "remove", "--force", str(place)], check=True, capture_output=True)


async def test_n34_n35_a_rolling_upgrade_and_its_way_back_change_no_outcome(torture: Torture, former: Path) -> None:
    """Every step with both versions at work. The checkers then decide the whole log, old and new units alike, with
    the code of today: identical records, or they say where it differs (N34)."""
    stack = torture.stack

    async def roll(name: str, version: Path | None) -> None:
        role, _, slot = name.partition("-")
        assert await stack.terminate(name) == 0, stack.logs(30)
        await stack.start(role, int(slot or 0), cwd=version)

    async with ordeal(torture):
        for version in (former, None):
            for names in (("ledger-0", "sink-0", "api"), ("ledger-1", "sink-1")):
                await asyncio.gather(*(roll(name, version) for name in names))
                await torture.client.reached(10, stack.logs)
                await stack.decided()
    assert all(process.alive for process in stack.processes.values()), stack.logs(30)
