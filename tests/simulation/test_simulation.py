"""A thousand worlds: in each, money must be exact, whatever failed; and each planted bug must be seen.

AURA_SIM_SEEDS sets how many seeds are run. A failing one is printed with the command that shows it again; add it to
`failed_seeds.txt`, with what it was, when it is understood.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.rows import row
from tests.simulation.faults import CLIMATES, climate
from tests.simulation.loop import Loop, Stuck
from tests.simulation.planted import PLANTED, planted
from tests.simulation.run import Result, run

SEEDS = int(os.environ.get("AURA_SIM_SEEDS", "1000"))
PROCESSES = 2
SEEDS_PER_CLIMATE = 12
SEEDS_PER_BUG = 80
STORED = Path(__file__).with_name("failed_seeds.txt")


def stored_seeds() -> list[int]:
    return [int(line.split()[0]) for line in STORED.read_text().splitlines() if line and not line.startswith("#")]


def told(results: list[Result]) -> str:
    """What failed, and how to see it again."""
    failed = [result for result in results if result.violations]
    return "\n".join(
        f"seed {r.seed}: {r.violations[0]}\n  see it again: {r.replay}" for r in sorted(failed, key=lambda r: r.seed)
    )


@pytest.mark.timeout(900)
@row("N01", "N02", "N04", "N05", "N11", "N12", "N19", "N24", "N33")
def test_sim_every_command_has_one_outcome_and_the_books_are_exact_whatever_fails() -> None:
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        results = list(pool.imap_unordered(run, range(SEEDS), chunksize=10))
    assert len(results) == SEEDS
    assert not told(results), told(results)
    faults = sum((Counter(result.figures) for result in results), Counter())
    if SEEDS >= 200:
        kinds = ("deaths", "freezes", "requests lost", "requests late", "commits reply lost", "ends held back")
        assert min(faults[kind] for kind in kinds) > SEEDS / 20, faults


def test_sim_seeds_that_once_failed_hold() -> None:
    results = [run(seed) for seed in stored_seeds()]
    assert results and not told(results), told(results)


@pytest.mark.parametrize("name", CLIMATES)
def test_sim_one_kind_of_fault_at_a_time_in_great_numbers(name: str) -> None:
    results = [run(seed, profile=climate(name)) for seed in range(SEEDS_PER_CLIMATE)]
    assert not told(results), told(results)


def test_sim_a_seed_gives_the_same_run_byte_for_byte() -> None:
    first = [f"{seed} {run(seed).digest}" for seed in range(20, 26)]
    assert [f"{seed} {run(seed).digest}" for seed in range(20, 26)] == first
    for hash_seed in ("1", "77"):
        printed = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seeds", "20:26", "--digests"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.splitlines()
        assert printed == first


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_sim_finds_a_planted_bug(name: str) -> None:
    profile = climate(PLANTED[name][1]) if PLANTED[name][1] else None
    with planted(name):
        found = next((seed for seed in range(SEEDS_PER_BUG) if run(seed, profile=profile).violations), None)
    assert found is not None, f"{SEEDS_PER_BUG} seeds did not show: {name}"
    assert not run(found, profile=profile).violations, "the seed fails without the bug too"


def test_sim_time_is_virtual_and_a_world_without_events_is_an_error() -> None:
    loop = Loop()

    async def wait() -> float:
        await asyncio.sleep(86_400)
        return loop.time()

    assert loop.run_until_complete(wait()) == 86_400
    with pytest.raises(Stuck):
        loop.run_until_complete(loop.create_future())
    loop.close()
