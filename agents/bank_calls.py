"""Makes the calls that the banks' lanes wish for, and writes what came of them to their inbox.

It decides nothing and remembers nothing: how many calls run at once, when and whether one is made again is the lane's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final

from agents.bank_lanes import Call, Poll
from agents.inbox import Inbox
from aura_stream.banks.client import BankAway, BankClient
from aura_stream.domain.ids import bank_lane_key
from aura_stream.domain.lane_news import ENCODE, BankNews, CallEnded, Opened, Polled

log = logging.getLogger(__name__)

_MARGIN: Final = 0.9
"""Of the time that a lane waits for an answer: so the call ends before the lane gives it up."""
_POLL_S: Final = 10.0
_AGAIN_S: Final = 5.0


class BankCalls:
    """The outside of one process. `webhook_url` is where banks shall send their events, with `{bank}` in it."""

    def __init__(self, clients: dict[str, BankClient], inbox: Inbox, webhook_url: str) -> None:
        self._clients = clients
        self._inbox = inbox
        self._webhook_url = webhook_url
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Wakes the lanes, and tells the banks where webhooks go."""
        await asyncio.gather(*(self._introduce(name, client) for name, client in self._clients.items()))

    async def close(self) -> None:
        """Cuts off what runs: the lanes will find that it has no answer."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for client in self._clients.values():
            await client.close()
        await self._inbox.close()

    def committed(self, _partition: int, wishes: list[Any]) -> None:
        """Starts what a unit wishes for, which is committed."""
        for wish in wishes:
            self._spawn(self._call(wish) if isinstance(wish, Call) else self._poll(wish))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a call to a bank failed in our own code: %r", error, exc_info=error)

    async def _call(self, call: Call) -> None:
        began = time.monotonic()
        client, timeout_s = self._clients[call.bank], call.timeout_ms / 1000 * _MARGIN
        ask = client.inquire if call.is_inquiry else client.instruct
        answer = await ask(call.job, call.sent, timeout_s)
        took_ms = int((time.monotonic() - began) * 1000)
        ended = CallEnded(
            *(call.job.reference, call.number, answer.kind, answer.code, answer.bank_reference, answer.amount),
            *(answer.fact_id, answer.status, answer.detail[:200], took_ms, answer.wait_ms, answer.is_unreadable),
        )
        await self._write(call.bank, ended)

    async def _poll(self, poll: Poll) -> None:
        try:
            events, last = await self._clients[poll.bank].events(poll.after, _POLL_S)
            news = Polled(last, events)
        except BankAway as error:
            news = Polled(poll.after, error=str(error) or "no answer")
        await self._write(poll.bank, news)

    async def _write(self, bank: str, news: BankNews) -> None:
        await self._inbox.write(bank_lane_key(bank), ENCODE(news))

    async def _introduce(self, name: str, client: BankClient) -> None:
        await self._inbox.write_surely(bank_lane_key(name), ENCODE(Opened()))
        known = ""
        while True:
            try:
                await client.send_webhooks_to(self._webhook_url.format(bank=name), _POLL_S)
                return
            except BankAway as error:
                if str(error) != known:
                    known = str(error)
                    log.warning("%s was not told where webhooks go, trying again: %s", name, known)
            await asyncio.sleep(_AGAIN_S)
