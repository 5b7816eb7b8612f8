"""Webhooks by the Standard Webhooks specification: signed, tried again on a schedule, ended by 410.

The id and the bytes of an event never change; what a fault spoils is the first try only, so a receiver that refuses it
gets the true one later. Deliveries of a bank go out one by one, in the order in which they are due.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp

from aura_stream.mock_bank.bank import Bank, compact
from aura_stream.mock_bank.hostile import HTML, kind_of, spoiled
from aura_stream.mock_bank.problems import Problem

log = logging.getLogger(__name__)

RETRY_S: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Virtual seconds from a failed try to the next; after the last the delivery has failed."""
TIMEOUT_S: Final = 5.0
STALE_S: Final = 600
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

TimeOf = Literal["machine", "virtual"]


def secret_of(bank: Bank) -> str:
    """The secret that bank and receiver share."""
    return f"whsec_{base64.b64encode(hashlib.sha256(bank.derived('webhook').encode()).digest()).decode()}"


def sign(secret: str, id_: str, at_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: v1, HMAC-SHA256 of id, timestamp and body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{id_}.{at_s}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def set_url(bank: Bank, url: str, hosts: tuple[str, ...]) -> None:
    """Where webhooks go from now on. Raises :class:`Problem` for an address that is not on this machine or allowed."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.hostname not in (*LOOPBACK, *hosts):
        detail = "The mock bank calls this machine only, and hosts named by --webhook-host."
        raise Problem(400, "webhook_url_refused", detail)
    bank.store.set_meta("webhook_url", url)
    bank.changed()


class Dispatcher:
    """Sends one bank's webhooks. ``time_of`` says which clock `webhook-timestamp` shows."""

    def __init__(self, bank: Bank, session: aiohttp.ClientSession, time_of: TimeOf) -> None:
        self._bank = bank
        self._session = session
        self._time_of = time_of
        self._sending = False
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self.wake.clear()
            if await self._send_next():
                continue
            try:
                await asyncio.wait_for(self.wake.wait(), self._idle_s())
            except TimeoutError:
                pass

    def idle(self) -> bool:
        """Whether nothing that could be sent now is left."""
        return not self._sending and self._due() is None

    def _idle_s(self) -> float | None:
        """How long nothing will be due unless something happens; None: for ever, a manual clock stands still."""
        bank = self._bank
        due: int | None = bank.store.value("SELECT min(due_ms) FROM deliveries WHERE state = 'waiting'")
        if due is None or bank.clock.kind == "manual" or self._stopped():
            return None
        return max(0.0, (due - bank.clock.now()) / 1000)

    def _stopped(self) -> bool:
        return self._bank.profile.name == "down" or not self._bank.store.meta("webhook_url")

    def _due(self) -> int | None:
        if self._stopped():
            return None
        found: int | None = self._bank.store.value(
            "SELECT n FROM deliveries WHERE state = 'waiting' AND due_ms <= ? ORDER BY due_ms, n LIMIT 1",
            self._bank.clock.now(),
        )
        return found

    async def _send_next(self) -> bool:
        n = self._due()
        if n is None:
            return False
        store = self._bank.store
        row = store.row("SELECT d.*, e.id, e.body FROM deliveries d JOIN events e ON e.n = d.event_n WHERE d.n = ?", n)
        assert row is not None
        fault = row["fault"] if row["attempts"] == 0 else ""
        self._sending = True
        try:
            answer = await self._post(row["id"], row["body"].encode(), fault)
        finally:
            self._sending = False
        at = self._bank.clock.now()
        with store.transaction():
            store.run(
                "INSERT INTO attempts (event_id, at_ms, fault, answer) VALUES (?, ?, ?, ?)",
                *(row["id"], at, fault, answer),
            )
            state, due = "waiting", row["due_ms"]
            if answer.startswith("2"):
                state = "done"
            elif answer == "410" or row["attempts"] >= len(RETRY_S):
                state = "failed"
            else:
                due = max(at, due) + RETRY_S[row["attempts"]] * 1000
            if answer == "410":
                store.set_meta("webhook_url", "")
            store.run("UPDATE deliveries SET state = ?, due_ms = ?, attempts = attempts + 1 WHERE n = ?", state, due, n)
        return True

    async def _post(self, id_: str, body: bytes, fault: str) -> str:
        """One try; the status that came back, or what went wrong."""
        at_s = time.time_ns() // 1_000_000_000 if self._time_of == "machine" else self._bank.clock.now() // 1000
        at_s += self._bank.profile.skew_s
        if fault == "stale":
            at_s -= STALE_S
        if fault.startswith("webhook_"):
            kind = kind_of(fault)
            body = HTML if kind == "html" else compact(spoiled(kind, json.loads(body))).encode()
        secret = secret_of(self._bank)
        signature = sign(secret, id_, at_s, body + b" " if fault == "bad_signature" else body)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": id_,
            "webhook-timestamp": str(at_s),
            "webhook-signature": signature,
        }
        sent = body[: len(body) // 2] if fault == "cut" else body
        try:
            url = self._bank.store.meta("webhook_url") or ""
            async with self._session.post(url, data=sent, headers=headers, allow_redirects=False) as answer:
                return str(answer.status)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.info("webhook %s of %s was not delivered: %r", id_, self._bank.name, error)
            return type(error).__name__
