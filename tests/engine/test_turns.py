"""Few units at once: in order, never more than that, and none that waits long holds up the others."""

from __future__ import annotations

import asyncio

from aura_stream.engine.turns import TURN_S, UNITS_AT_ONCE, Turns


async def test_few_units_are_under_way_at_once_and_in_the_order_of_their_coming() -> None:
    turns = Turns()
    begun: list[int] = []
    at_once: list[int] = []
    running = 0

    async def unit(number: int) -> None:
        nonlocal running
        async with turns.turn():
            running += 1
            begun.append(number)
            at_once.append(running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(unit(number) for number in range(20)))
    assert begun == list(range(20))
    assert max(at_once) == UNITS_AT_ONCE


async def test_a_lone_unit_begins_at_once() -> None:
    turns = Turns()
    begun = asyncio.get_running_loop().time()
    entered = turns.turn().__aenter__()
    try:
        entered.__await__().send(None)  # runs to the end without waiting for anything
    except StopIteration:
        return
    raise AssertionError(f"it waited, {asyncio.get_running_loop().time() - begun} s after it was asked")


async def test_units_that_wait_for_a_broker_do_not_hold_up_the_others() -> None:
    turns = Turns()
    broker = asyncio.Event()

    async def stuck() -> None:
        async with turns.turn():
            await broker.wait()

    tasks = [asyncio.create_task(stuck()) for _ in range(UNITS_AT_ONCE)]
    await asyncio.sleep(0)
    async with asyncio.timeout(TURN_S * 100):
        for _ in range(5):
            async with turns.turn():
                pass
    assert not any(task.done() for task in tasks)
    broker.set()
    await asyncio.gather(*tasks)
    assert turns._free._value == UNITS_AT_ONCE  # a turn is given back once


async def test_a_unit_that_fails_gives_its_turn_back() -> None:
    turns = Turns()
    for _ in range(UNITS_AT_ONCE + 1):
        try:
            async with turns.turn():
                raise ValueError
        except ValueError:
            continue
    assert turns._free._value == UNITS_AT_ONCE
