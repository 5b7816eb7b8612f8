"""Passwords: what one must be like, and hashing that can neither stall the event loop nor be flooded."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from aura_stream.domain.reasons import Refused

LENGTH_MIN: Final = {"user": 8, "support": 15, "admin": 15, "operator": 15, "auditor": 15}
"""Shortest password by role (L09); whoever has several roles needs the longest of these."""
LENGTH_MAX: Final = 128

# OWASP's least for Argon2id: 19 MiB, two passes, one lane.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, salt_len=16)
_NOBODY: Final = _HASHER.hash("nobody has this password")
_BCRYPT: Final = ("$2a$", "$2b$", "$2y$")


T = TypeVar("T")


class Busy(Exception):
    """More passwords wait to be checked than is allowed; come again."""


def check_password(password: str, roles: tuple[str, ...]) -> None:
    """Raises :class:`Refused` ``invalid_password_format`` when a password is too short for these roles, or too long."""
    least = max(LENGTH_MIN[role] for role in roles)
    if not least <= len(password) <= LENGTH_MAX:
        raise Refused("invalid_password_format", f"a password has {least} to {LENGTH_MAX} characters for this role")


class Passwords:
    """Hashes and verifies in threads of its own; Argon2 gives the interpreter free meanwhile."""

    def __init__(self, threads: int, queue: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._room = threads + queue
        self._inside = 0
        self.verified = 0
        """Verifications since the start: known or unknown, each login costs exactly one per candidate."""

    async def hash(self, password: str) -> str:
        """The Argon2id hash. Raises :class:`Busy`."""
        return await self._run(partial(_HASHER.hash, password))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether it is the password; as dear for None (nobody) as for somebody. Raises :class:`Busy`."""
        self.verified += 1
        return await self._run(partial(_verify, password, stored))

    @staticmethod
    def is_old(stored: str) -> bool:
        """Whether a hash should be made anew now that the password is known: bcrypt, or weaker parameters."""
        return stored.startswith(_BCRYPT) or _HASHER.check_needs_rehash(stored)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: partial[T]) -> T:
        if self._inside >= self._room:
            raise Busy(f"{self._inside} passwords are being checked")
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._inside -= 1


def _verify(password: str, stored: str | None) -> bool:
    if stored is not None and stored.startswith(_BCRYPT):
        try:
            return bcrypt.checkpw(password.encode(), stored.encode())
        except ValueError:  # longer than bcrypt's 72 bytes, or no hash at all
            return False
    try:
        _HASHER.verify(stored or _NOBODY, password)
        return stored is not None
    except (VerificationError, InvalidHashError):
        return False
