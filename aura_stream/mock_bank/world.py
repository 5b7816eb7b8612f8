"""All banks of one process: one data directory, one virtual clock, one set of secrets."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TextIO

import aiohttp

from aura_stream.mock_bank import oauth, webhooks
from aura_stream.mock_bank.bank import Bank
from aura_stream.mock_bank.clock import Kind, VirtualClock
from aura_stream.mock_bank.faults import PROFILES, Profile
from aura_stream.mock_bank.payments import JOBS

CREDENTIALS: Final = "credentials.json"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,30}")


class CannotStart(Exception):
    """The data directory or an option cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How to run the mock bank."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8090
    banks: tuple[str, ...] = ("bank-a", "bank-b")
    seed: int | None = None
    """Seed of the misbehaviour of all banks; None: each keeps the one it has (at first 1)."""
    profile: str = ""
    """Profile of all banks at start; empty: each keeps the one it has (at first calm)."""
    clock: Kind = "wall"
    start_ms: int | None = None
    """Where the clock begins when the data directory is new; without it a wall clock begins now."""
    secret: str = ""
    """From which all secrets are derived; empty: made once and kept in the data directory."""
    webhook_time: webhooks.TimeOf = "machine"
    webhook_hosts: tuple[str, ...] = ()
    ready_file: Path | None = None


class World:
    """The banks and their clock. Raises :class:`CannotStart`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        wrong = [name for name in config.banks if not _NAME.fullmatch(name) or name in ("v1", "health")]
        if wrong or not config.banks or len(set(config.banks)) != len(config.banks):
            raise CannotStart(
                f"--bank: names of banks are a to z, 0 to 9 and -, each once; not {wrong or config.banks}"
            )
        if config.profile and config.profile not in PROFILES:
            raise CannotStart(f"--profile: {config.profile!r} is not one of {', '.join(PROFILES)}")
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(config.data_dir)
        try:
            self.clock = self._clock()
        except CannotStart:
            self._lock.close()
            raise
        secret = (config.secret or self._kept_secret()).encode()
        self.banks: dict[str, Bank] = {}
        for name in config.banks:
            number = self._number(name)
            bank = Bank(name, number, config.data_dir, self.clock, secret=secret, jobs=JOBS)
            profile = bank.profile
            if config.seed is not None:
                profile = replace(profile, seed=config.seed)
            if config.profile:
                profile = Profile(name=config.profile, seed=profile.seed)
            bank.set_profile(profile)
            self.banks[name] = bank
        self.operator_token = f"operator_{next(iter(self.banks.values())).derived('operator')}"
        self.dispatchers: dict[str, webhooks.Dispatcher] = {}
        self._wake = asyncio.Event()
        self.stopped = asyncio.Event()
        self.failure: BaseException | None = None

    def close(self) -> None:
        """Closes the files; the process may end."""
        for bank in self.banks.values():
            bank.store.close()
        self._lock.close()

    # --- time --------------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Does what is due now."""
        now = self.clock.now()
        for bank in self.banks.values():
            bank.run_due(now)

    def advance(self, by_ms: int) -> int:
        """Lets time pass: everything that was to happen meanwhile happens, at its time. Returns how much that was."""
        self.clock.advance(by_ms)
        self._keep_clock()
        now = self.clock.now()
        done = sum(bank.run_due(now) for bank in self.banks.values())
        for dispatcher in self.dispatchers.values():
            dispatcher.wake.set()
        return done

    async def run(self) -> None:
        """Does what is due when it is, and sends webhooks, until it is cancelled. Raises what any of it raises."""
        timeout = aiohttp.ClientTimeout(total=webhooks.TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            for bank in self.banks.values():
                dispatcher = webhooks.Dispatcher(bank, session, self.config.webhook_time)
                self.dispatchers[bank.name] = dispatcher
                tasks.create_task(dispatcher.run())
                bank.changed = self._waker(dispatcher)
            tasks.create_task(self._tick())

    def ended(self, task: asyncio.Task[None]) -> None:
        """For the task of :meth:`run`: a bank whose clock or webhooks have failed must not look alive."""
        if not task.cancelled():
            self.failure = task.exception()
            self.stopped.set()

    def _waker(self, dispatcher: webhooks.Dispatcher) -> Any:
        def wake() -> None:
            dispatcher.wake.set()
            self._wake.set()

        return wake

    async def _tick(self) -> None:
        while True:
            self._wake.clear()
            self.catch_up()
            due = [at for bank in self.banks.values() if (at := bank.next_due()) is not None]
            wait = max(0.0, (min(due) - self.clock.now()) / 1000) if due and self.clock.kind == "wall" else None
            try:
                # At most a minute, so that a machine that slept notices.
                await asyncio.wait_for(self._wake.wait(), None if wait is None else min(wait, 60.0))
            except TimeoutError:
                pass

    # --- files -------------------------------------------------------------------------------------------------------

    def write_credentials(self, port: int) -> None:
        """Writes what clients, receivers of webhooks and operators need to know; for the owner only."""
        base = f"http://{self.config.host}:{port}"
        document = {
            "url": base,
            "operator_token": self.operator_token,
            "banks": {
                bank.name: {
                    "url": f"{base}/{bank.name}",
                    "client_id": oauth.client_id(bank),
                    "client_secret": oauth.client_secret(bank),
                    "webhook_secret": webhooks.secret_of(bank),
                }
                for bank in self.banks.values()
            },
        }
        _write(self.config.data_dir / CREDENTIALS, json.dumps(document, indent=2) + "\n")

    def _clock(self) -> VirtualClock:
        path = self.config.data_dir / "clock.json"
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["kind"] != self.config.clock:
                raise CannotStart(
                    f"--clock: {path} was begun with a {kept['kind']} clock; use that, or another directory"
                )
            return VirtualClock(kept["kind"], kept["value"])
        start = self.config.start_ms
        if self.config.clock == "manual" and start is None:
            raise CannotStart("--start: a manual clock needs a time to begin with")
        if self.config.clock == "wall" and start is not None:
            start -= VirtualClock("wall", 0).now()  # kept as how far it is from the machine's
        clock = VirtualClock(self.config.clock, start or 0)
        _write(path, json.dumps({"kind": clock.kind, "value": clock.value}))
        return clock

    def _keep_clock(self) -> None:
        document = {"kind": self.clock.kind, "value": self.clock.value}
        _write(self.config.data_dir / "clock.json", json.dumps(document))

    def _kept_secret(self) -> str:
        path = self.config.data_dir / "secret"
        if not path.exists():
            _write(path, secrets.token_urlsafe(32))
        return path.read_text()

    def _number(self, name: str) -> int:
        """A bank's number, kept from its first start on: routing numbers and IBANs hang on it."""
        path = self.config.data_dir / "banks.json"
        known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        if name not in known:
            known[name] = len(known) + 1
            _write(path, json.dumps(known))
        return known[name]


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _lock(directory: Path) -> TextIO:
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise CannotStart(f"--data: another mock bank uses {directory}; stop it, or name another directory") from error
    return file
