"""Plays the stories, and what befalls everybody: a pause, a bank that is away, blocks that are lost, days that pass.

Days pass at the banks only in quiet moments, when nothing new begins and every order has its answer. For a bank forgets
references after a day, and an inquiry after one that it has forgotten would find nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aura_stream.demo.outside import Outside
from aura_stream.demo.settled import Settled
from aura_stream.demo.steps import Step, transaction_id
from aura_stream.demo.stories import BANKS, Act, Stories, Story

STORY_EVERY_S: Final = 0.5
PAUSED_RAIL: Final = "sepa_instant"
PAUSE_S: Final = 2.0
AWAY_BANK: Final = "bank-a"
AWAY_S: Final = 4.0
SCENE_EVERY_S: Final = 12.0
FIRST_SCENE_S: Final = 2.0
NIGHT_EVERY_S: Final = 30.0
NIGHTS_MAX: Final = 30
"""In the end: more days than any story needs."""
QUIET_S: Final = 0.7
STILL_MAX_S: Final = 120.0
"""How long nothing may move before what is open is taken for lost: a lane's longest wait is a minute."""
REORG_DEPTH: Final = 2
PROFILE: Final = "flaky"
SLOW_TO_FIND_OUT: Final = ("late", "timeout_before")
"""Faults that are left out: what they are is known only after the bank's longest delay, a minute."""
_TICK_S: Final = 0.05
_LOOK_S: Final = 0.1

Send = Callable[[Step], Awaitable[None]]
"""Sends a step; returns when it is accepted."""
Decided = Callable[[Step], bool]
"""Whether a step has its outcome."""


class Settling:
    """See the module. Stories and misbehaviour follow from the seed."""

    def __init__(self, seed: int, settled: Settled, outside: Outside) -> None:
        self._stories = Stories(seed)
        self._settled = settled
        self._outside = outside
        self._seed = seed
        self._send: Send | None = None
        self._decided: Decided | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._acting = 0
        self._by_rail: dict[str, int] = {}
        self._day = asyncio.Event()
        self._rails_open = asyncio.Event()
        self.told = 0
        self.nights = 0
        self.failed: list[str] = []

    async def play(self, send: Send, decided: Decided, stopped: Callable[[], bool]) -> None:
        """Begins stories until it is `stopped`, each kind at least once."""
        self._send, self._decided = send, decided
        self._day.set()
        self._rails_open.set()
        await self._misbehave()
        scenes = asyncio.create_task(self._scenes(stopped))
        try:
            while not stopped():
                await self._day.wait()
                self._tell(self._stories.next())
                await asyncio.sleep(STORY_EVERY_S)
            await scenes
        finally:
            scenes.cancel()
        for story in self._stories.rest_of_first_round():
            self._tell(story)
            await asyncio.sleep(STORY_EVERY_S / 5)

    async def finish(self) -> list[str]:
        """Lets the days pass until every story has come to its end; what has not, if anything."""
        for _ in range(NIGHTS_MAX):
            if not await self._quiet():
                break
            if not self._settled.open and not self._telling:
                # The day on which the last money moved is closed, so that its statement can be had.
                await self._outside.pass_day()
                self.nights += 1
                for bank in sorted(set(BANKS.values())):
                    await self._outside.behave(bank, "calm")
                return self.failed
            await self._night()
        late = [f"{goal.transaction}: {self._where(goal.transaction)}" for goal in self._settled.open]
        return [*self.failed, *(late or ["a story did not come to its end"])]

    async def stop(self) -> None:
        """Ends what is under way."""
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)

    @property
    def open(self) -> int:
        """Settlements that have not ended."""
        return len(self._settled.open)

    def _where(self, transaction: str) -> str:
        told = self._settled.told.get(transaction)
        return "never told of" if told is None else "/".join(part for part in (told.status, told.state) if part)

    # --- stories ---

    def _tell(self, story: Story) -> None:
        self.told += 1
        task = asyncio.create_task(self._play_out(story))
        self._telling.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed.append(f"a story could not be played on: {error!r}")

    async def _play_out(self, story: Story) -> None:
        for act in story.acts:
            if act.when is not None and not await self._is_time(act):
                return  # it has ended otherwise: what would follow has no place
            if act.rail == PAUSED_RAIL:
                await self._rails_open.wait()
            self._acting += 1
            self._by_rail[act.rail] = self._by_rail.get(act.rail, 0) + 1
            try:
                await self._do(act)
            finally:
                self._acting -= 1
                self._by_rail[act.rail] -= 1

    async def _is_time(self, act: Act) -> bool:
        assert act.when is not None
        transaction, states = act.when
        goal = self._settled.goals[transaction]
        while not self._settled.is_in(transaction, states):
            if self._settled.is_ended(goal):
                return False
            await asyncio.sleep(_LOOK_S)  # without end: `finish` says what does not move
        return True

    async def _do(self, act: Act) -> None:
        assert self._send is not None and self._decided is not None
        if act.payment is not None:
            await self._outside.pay(act.payment)
            assert act.when is not None
            self._settled.pay(act.when.transaction)
            return
        assert act.step is not None
        if act.goal is not None:
            self._settled.expect(act.goal)
        await self._send(act.step)
        await _until(partial(self._decided, act.step))

    # --- scenes ---

    async def _misbehave(self) -> None:
        """Both banks misbehave by the demo's seed."""
        rates = dict.fromkeys(SLOW_TO_FIND_OUT, 0)
        for bank in sorted(set(BANKS.values())):
            await self._outside.behave(bank, PROFILE, seed=self._seed, rates=rates)

    async def _scenes(self, stopped: Callable[[], bool]) -> None:
        scenes = (self._pause, self._bank_away, self._lost_blocks)
        number, night_at = 0, time.monotonic() + NIGHT_EVERY_S
        next_at = time.monotonic() + FIRST_SCENE_S
        while not stopped():
            await asyncio.sleep(_TICK_S)
            if time.monotonic() >= next_at:
                await scenes[number % len(scenes)]()
                number += 1
                # The first ones come soon, so that a short demo has them all.
                next_at = time.monotonic() + (FIRST_SCENE_S / 2 if number < len(scenes) else SCENE_EVERY_S)
            if time.monotonic() >= night_at:
                self._day.clear()
                if await self._quiet():
                    await self._night()
                self._day.set()
                night_at = time.monotonic() + NIGHT_EVERY_S

    async def _bank_away(self) -> None:
        """A bank answers 503 to every call."""
        await self._outside.behave(AWAY_BANK, "down")
        await asyncio.sleep(AWAY_S)
        await self._misbehave()

    async def _pause(self) -> None:
        """A rail is paused: what is new is refused, what is under way is held, and goes on afterwards."""
        assert self._send is not None
        self._rails_open.clear()
        try:
            await _until(lambda: not self._by_rail.get(PAUSED_RAIL))
            pause = self._stories.pause(PAUSED_RAIL)
            pause_id = transaction_id(pause.tenant, pause.customer, pause.key)
            await self._send(pause)
            await self._reaches(pause_id, "applied")
            for act in self._stories.while_paused(PAUSED_RAIL).acts:
                await self._do(act)
            await asyncio.sleep(PAUSE_S)
            await self._send(self._stories.lift(pause))
            await self._reaches(pause_id, "cleared")
        finally:
            self._rails_open.set()

    async def _reaches(self, pause: str, state: str) -> None:
        await _until(lambda: self._settled.pauses.get(pause) == state)

    async def _lost_blocks(self) -> None:
        await self._outside.reorganise(REORG_DEPTH)

    # --- nights ---

    async def _quiet(self) -> bool:
        """Waits until nothing can happen before a day passes; False when it does not become quiet."""
        seen: object = None
        moved_at = since = time.monotonic()
        while True:
            now = time.monotonic()
            state = (dict(self._settled.under_way), self._settled.mints, self._acting, len(self._telling))
            if state != seen:
                seen, moved_at = state, now
            if self._acting or any(not self._settled.waits_for_days(goal) for goal in self._settled.open):
                since = now
            if now - max(since, moved_at) > QUIET_S:
                return True
            if now - moved_at > STILL_MAX_S:
                return False
            await asyncio.sleep(_TICK_S)

    async def _night(self) -> None:
        await self._outside.pass_day()
        self.nights += 1
        # What no webhook has told is found by the lanes' next look at the bank's list.
        await asyncio.sleep(self._outside.address.settings.bank_poll_s * 2)


async def _until(condition: Callable[[], bool]) -> None:
    """Waits for it. Raises :class:`TimeoutError` when it does not come: a story that says so ends there."""
    async with asyncio.timeout(STILL_MAX_S):
        while True:
            if condition():
                return
            await asyncio.sleep(_TICK_S)
