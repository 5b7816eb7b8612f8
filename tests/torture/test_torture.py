"""N40: everything at once, in an order drawn from a seed; and the supervisor's own account of it."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.e2e.client import Client, History, Intent
from tests.e2e.conftest import new_client
from tests.e2e.stack import E2EStack
from tests.invariants.checks import Violation
from tests.invariants.coherent import assert_coherent
from tests.rows import row
from tests.torture.faults import FAULTS, ROLE
from tests.torture.supervisor import Report, drawn, run

pytestmark = pytest.mark.timeout(420)
SECONDS = 30.0
WITH_BANKS = 20.0
FIXED = 20261121
SETTLING = ("N01", "N04", "N20", "N29", "N30", "N31", "N32")


@row("N40", "X22", "I10", "I11", "A14", "A15")
@pytest.mark.parametrize("banks", [False, True], ids=["fixed", "fresh, with banks and chain"])
def test_n40_everything_at_once_and_the_books_are_exact(tmp_path: Path, banks: bool) -> None:
    """With banks the ledger's, the banks' and the chain's books must be of the same money: B3, B4, B5, I10, I11."""
    seed = random.SystemRandom().randrange(1 << 32) if banks else FIXED
    seconds, rows = (WITH_BANKS, SETTLING) if banks else (SECONDS, ())
    print(Report(seed, seconds, list(rows), banks).again())
    report = run(tmp_path / "run", seconds=seconds, seed=seed, session_s=6.0, banks=banks, rows=rows)
    print(report)
    if banks:
        assert sum(report.settlements.values()) >= 10, f"hardly anything was settled\n{report}"
    assert not report.violations, str(report)
    assert sum(report.faults.values()) >= 2, f"nothing was injected\n{report}"
    assert report.entries > 0 and report.digest, report
    assert json.loads(json.dumps(report.as_json()))["seed"] == seed


@pytest.mark.parametrize(
    ("bug", "told"), [("float amounts", "i09_log_decides"), ("tenant left out of the idempotency key", "i0")]
)
def test_a_bug_planted_in_a_real_worker_is_found(tmp_path: Path, bug: str, told: str) -> None:
    """What is found in simulated worlds is found from outside of real processes too."""
    stack = E2EStack(tmp_path)

    async def load() -> None:
        client = new_client(stack, seed=11)
        client.http_share = 0.0
        await client.prepare()
        await stack.quiet(60)
        await client.load(150, per_second=100, reading=False)
        with pytest.raises(Violation, match=told):
            await assert_coherent(stack, client, within_s=60, replay=0)

    try:
        stack.start_services()
        stack.launch("ledger", module=ROLE, AURA_TORTURE=f"bug@{bug}")
        stack.launch("sink")
        asyncio.run(load())
    finally:
        stack.close()


def test_the_same_seed_draws_the_same_faults_and_rows_can_be_chosen() -> None:
    first, _ = drawn(5)
    again, _ = drawn(5)
    other, _ = drawn(6)
    assert [fault.name for fault in first] == [fault.name for fault in again] != [fault.name for fault in other]
    with_banks, _ = drawn(5, banks=True)
    assert {fault.row for fault in with_banks} - {fault.row for fault in first} == {"N20", "N29", "N30", "N31", "N32"}
    chosen, _ = drawn(5, ["N11", "N12"])
    assert {fault.row for fault in chosen} == {"N11", "N12"}


def test_a_row_that_this_machine_cannot_have_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    able, skipped = drawn(5)
    assert skipped == {"N25": "needs root: mounts a small tmpfs"}
    assert len(able) == len(FAULTS) - 1
    text = str(Report(5, 10, skipped=skipped))
    assert "skipped N25: needs root" in text


def test_what_was_violated_is_told_with_the_command_that_shows_it_again(tmp_path: Path) -> None:
    text = str(Report(7, 60, violations=["N01 kill -9: progress was back after 31.0 s only"], left=str(tmp_path)))
    assert "violations: 1\n  N01 kill -9: progress" in text
    assert str(tmp_path) in text
    assert text.endswith('again: make torture SECONDS=60 SEED=7 ARGS="--no-banks"')


async def test_a_clients_history_tells_all_that_it_knows(tmp_path: Path) -> None:
    """Without a system to talk to: what was never answered is in it too, as what was only begun."""
    history = History(tmp_path / "history.jsonl")
    client = Client("127.0.0.1:1", "http://127.0.0.1:1", "none", seed=3, history=history)
    client._producer, client._session = _Deaf(), None
    for _ in range(40):
        for step in client.story():
            await (client.put(step) if isinstance(step, Intent) else client.put_raw(step))
    history.close()
    recalled = Client("", "", "", seed=0)
    recalled.recall(history.path)
    assert (recalled.intents, recalled.malformed, recalled.reads) == (client.intents, client.malformed, client.reads)
    assert len(client.intents) > 20


class _Deaf:
    """A producer whose Kafka never answers."""

    async def send(self, *_: object) -> object:
        return asyncio.get_running_loop().create_future()
