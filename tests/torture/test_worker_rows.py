"""Workers end at named points, meet poison, wrong clocks, full disks, damaged state, no memory, and stand still."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time

import pytest

import topics
from tests.e2e.client import Malformed, envelope, partition_of
from tests.e2e.stack import PARTITIONS, eventually
from tests.torture.faults import ROLE, Torture, fill, flip_bits, limit_memory, no_tmpfs, state_of, tmpfs
from tests.torture.ordeal import ordeal
from tests.torture.proxies import FETCH, Rule
from tests.torture.role import KILLED, LEDGER_POINTS, PLANTED, SINK_POINTS, crash

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]
ENGINE_STOPPED = 70


@pytest.mark.parametrize("role", ["ledger", "sink"])
async def test_n02_a_process_that_dies_at_a_point_leaves_all_of_its_work_or_nothing(
    torture: Torture, role: str
) -> None:
    stack = torture.stack
    # It has all partitions, dies at one point after the other, and goes on where the one before was.
    for slot in (0, 1):
        assert await stack.terminate(f"{role}-{slot}") == 0
    async with ordeal(torture):
        for point in SINK_POINTS if role == "sink" else LEDGER_POINTS:
            # Some of its partitions may bring it to the point before the others are open: nobody waits for that.
            process = await stack.call(
                lambda point=point: stack.launch(role, 0, module=ROLE, AURA_TORTURE=f"die@{point}:4")  # type: ignore[misc]
            )
            assert await stack.call(process.wait, 90.0), f"it never came to {point}\n{process.log_tail(20)}"
            assert process.returncode == KILLED, point


async def test_n22_a_command_that_crashes_its_decision_is_a_dead_letter_after_one_try(torture: Torture) -> None:
    stack, client = torture.stack, torture.client
    mark = f"poison-{client.random.getrandbits(64):x}"
    crash(mark.encode())  # the checkers decide everything once more, and shall meet the same
    good = client.transfer("default", "c3:EUR", "c3:EUR:save", "0.01")
    good.key = mark
    value = envelope(good, "00000000-0000-4000-8000-000000000001")
    poison = Malformed(b"default/c3", value, partition_of("default", "c3"), "internal_error")
    for slot in (0, 1):
        assert await stack.terminate(f"ledger-{slot}") == 0
    for slot in (0, 1):
        await stack.start("ledger", slot, module=ROLE, AURA_TORTURE=f"crash@{mark}")
    sizes = {name: stack.log_size(name) for name in ("ledger-0", "ledger-1")}
    async with ordeal(torture):
        await client.put_raw(poison)
    told = [stack.log_of(name)[at:].count(f"RuntimeError: {PLANTED}") for name, at in sizes.items()]
    assert sorted(told)[:1] == [0] and sum(told) >= 1, "it is told, by the one that has the partition"
    assert all(stack.processes[name].alive for name in sizes), stack.logs()


async def test_n24_a_clock_that_jumps_changes_no_decision(torture: Torture) -> None:
    stack = torture.stack
    files = [stack.local.home / f"clock-{slot}" for slot in (0, 1)]
    for slot, file in enumerate(files):
        file.write_text(("3600", "-3600")[slot])  # skew from the start: two hours between them
        assert await stack.terminate(f"ledger-{slot}") == 0
        await stack.start("ledger", slot, module=ROLE, AURA_TORTURE=f"clock@{file}")
    async with ordeal(torture):
        for jump in ("7200", "-86400", "0"):
            for file in files:
                file.write_text(jump)
            await torture.client.reached(10, stack.logs)
        # In the middle of it partitions move from one clock to the other.
        await stack.kill("ledger-0")
        await torture.client.reached(10, stack.logs)


async def test_n25_a_worker_whose_disk_is_full_stops_loudly_and_another_goes_on(torture: Torture) -> None:
    if why := no_tmpfs():
        pytest.skip(f"N25: {why}")
    stack = torture.stack
    place = stack.local.home / "small"
    place.mkdir(exist_ok=True)
    await stack.call(tmpfs, place, 4)
    try:
        assert await stack.terminate("ledger-0") == 0
        assert await stack.terminate("ledger-1") == 0
        process = await stack.start("ledger", 0, AURA_STATE_DIR=str(place))
        size = stack.log_size("ledger-0")
        async with ordeal(torture):
            await stack.call(fill, place)
            assert await stack.call(process.wait, 60.0), f"it goes on without room\n{process.log_tail(20)}"
            assert process.returncode == ENGINE_STOPPED, process.log_tail(30)
            assert "No space left" in stack.log_of("ledger-0")[size:]
            await stack.start("ledger", 1)
            await stack.decided()
    finally:
        await stack.kill("ledger-0")
        await stack.call(lambda: subprocess.run(["umount", "-l", str(place)], check=True))


async def test_n26_local_state_that_is_lost_or_damaged_is_read_from_the_changelog(torture: Torture) -> None:
    stack, chances = torture.stack, random.Random(26)
    # All of the state in one place, written down in order, so that there is something to damage.
    assert await stack.terminate("ledger-1") == 0
    await stack.decided()
    assert await stack.terminate("ledger-0") == 0
    lost, flipped, flipped_once, cut_off = state_of(stack, "ledger-0")[:PARTITIONS]
    shutil.rmtree(lost)
    flip_bits(flipped, chances, share=0.005)
    flip_bits(flipped_once, chances, share=0)
    for path in [*cut_off.glob("*.sst"), *cut_off.glob("*.log")]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    process = await stack.start("ledger", 0)
    async with ordeal(torture):
        await torture.client.reached(40, stack.logs)
        await stack.decided()
        assert process.alive, process.log_tail(30)


async def test_h02_a_restore_that_takes_longer_than_the_session_is_done_once(torture: Torture) -> None:
    """What is slow is fetching, not the heartbeat: the partition stays where it is until it is ready."""
    stack = torture.stack
    for slot in (0, 1):
        assert await stack.terminate(f"ledger-{slot}") == 0
    size = stack.log_size("ledger-0")
    session = stack.settings.session_timeout_s
    for store in state_of(stack, "ledger-0"):
        shutil.rmtree(store)
    for proxy in stack.lane("ledger-0"):
        proxy.rules = [Rule("delay", (FETCH,), topics.CHANGELOG.name.encode(), delay_s=session * 1.2, times=2)]
    began = time.monotonic()
    async with ordeal(torture):
        await stack.start("ledger", 0)
        assert time.monotonic() - began > session
    opened = re.findall(r"shard (\d+): open,", stack.log_of("ledger-0")[size:])
    assert sorted(opened) == [str(number) for number in range(PARTITIONS)], "each shard opened once"


async def test_n36_a_worker_without_memory_ends_and_decides_nothing_by_that(torture: Torture) -> None:
    stack = torture.stack
    await stack.kill("ledger-1")
    async with ordeal(torture):
        process = stack.processes["ledger-0"]
        assert process.pid is not None
        limit_memory(process.pid)

        async def missing() -> str:
            return "it still runs" if process.alive else ""

        await eventually(missing, 60, "it ends for want of memory", stack.logs)
        assert process.returncode not in (0, None)


async def test_n37_a_worker_that_stands_still_in_a_unit_writes_nothing_when_it_goes_on(torture: Torture) -> None:
    stack = torture.stack
    seconds = stack.settings.session_timeout_s * 1.4
    assert await stack.terminate("ledger-0") == 0
    size = stack.log_size("ledger-0")
    async with ordeal(torture):
        await stack.start("ledger", 0, module=ROLE, AURA_TORTURE=f"block@sent:6:{seconds}")
        await torture.client.reached(30, stack.logs)
        await stack.decided()  # by the other one, whose producers fence this one's

        async def missing() -> str:
            text = stack.log_of("ledger-0")[size:]
            return "" if "another worker has it now" in text or "runs the unit again" in text else "nothing is said"

        await eventually(missing, 60, "it finds that it was fenced", stack.logs)
    assert stack.processes["ledger-0"].alive, stack.logs(30)
