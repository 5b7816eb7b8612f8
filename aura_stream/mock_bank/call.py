"""One request as handlers see it."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from aura_stream.mock_bank.bank import Bank
from aura_stream.mock_bank.payments import Reply
from aura_stream.mock_bank.world import World


@dataclass(slots=True, kw_only=True)
class Call:
    """A request, checked by the contract, at a virtual time."""

    world: World
    at: int
    request: web.Request
    path: dict[str, str]
    query: dict[str, Any]
    body: Any
    bank_: Bank | None
    token: sqlite3.Row | None = None

    @property
    def bank(self) -> Bank:
        """The bank that the path names."""
        assert self.bank_ is not None
        return self.bank_


Handler = Callable[[Call], Awaitable[Reply]]
