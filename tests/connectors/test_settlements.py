"""Forty settlements with banks of which every third call goes wrong: each ends as the bank's and the chain's books say.

`make settlements` runs a thousand.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.connectors.town import Town
from tests.settlements.drive import LIMITS, Drive

pytestmark = pytest.mark.timeout(600)  # starting a town is a part of its first test
COUNT = 40
FAULTS = 0.3


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town of its own, whose lanes are as patient as its banks are slow."""
    found = Town(tmp_path_factory.mktemp("town"), limits=LIMITS)
    try:
        found.open()
        yield found
    finally:
        found.close()


@pytest.mark.row("A13", "A14", "A15", "A07", "A25", "L49", "L51", "N20", "N30", "N31", "I10", "I11")
def test_a15_n30_i10_i11_b3_b4_b5_settlements_end_as_the_banks_and_the_chains_own_books_say(town: Town) -> None:
    seed = random.SystemRandom().randrange(1 << 31)
    print(f"again: make settlements COUNT={COUNT} SEED={seed} FAULTS={FAULTS}")

    report = asyncio.run(Drive(town, town.anvil.rpc_url, seed=seed).run(COUNT, FAULTS))

    print(report)
    assert not report.wrong, str(report)
    assert sum(report.outcomes.values()) == COUNT
    assert sum(report.faults_met.values()) >= COUNT // 10, f"the banks have hardly misbehaved\n{report}"
