"""Where statements come from over HTTP: a bank's API with OAuth client credentials, as the mock bank has it.

Faults of a bank are told apart: not closed yet (nothing is wrong), away (try again), and what came is no statement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from aura_stream import SetupError
from aura_stream.reconcile.camt053 import BYTES_MAX

TIMEOUT_S: Final = 20.0


class BankAway(Exception):
    """The bank gives no answer, or one that only says to come again."""


@dataclass(frozen=True, slots=True)
class BankLogin:
    """How to log in at a bank."""

    name: str
    url: str
    client_id: str
    client_secret: str


def read_logins(path: Path) -> dict[str, BankLogin]:
    """The banks of a file of credentials, as `aura mock-bank` writes it. Raises :class:`SetupError`."""
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: BankLogin(name, str(one["url"]).rstrip("/"), str(one["client_id"]), str(one["client_secret"]))
            for name, one in document["banks"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(
            "The banks' credentials cannot be read.",
            where=str(path),
            why=repr(error),
            fix="start the mock bank (`aura mock-bank`), or name a file: --credentials FILE with "
            '{"banks": {NAME: {"url", "client_id", "client_secret"}}}',
        ) from error


class BankClient:
    """A bank's API, as far as statements and files of returns go."""

    def __init__(self, login: BankLogin, *, timeout_s: float = TIMEOUT_S) -> None:
        self._login = login
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._token = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def statement(self, account_id: str, day: date) -> bytes | None:
        """The camt.053 of a day as it came; None while the day is not closed. Raises :class:`BankAway`."""
        status, body = await self._get(
            "/v1/statements/camt.053", {"account_id": account_id, "date": day.isoformat()}, BYTES_MAX
        )
        if status == 409:
            return None
        if status != 200:
            raise BankAway(f"{self._login.name} answered {status} for the statement of {account_id}, {day}")
        return body

    async def files_of_returns(self, after: str) -> list[str]:
        """Ids of files of returns after one, oldest first. Raises :class:`BankAway`."""
        status, body = await self._get("/v1/ach/files", {"after": after, "limit": "1000"}, BYTES_MAX)
        if status != 200:
            raise BankAway(f"{self._login.name} answered {status} for its list of files")
        try:
            return [str(one["id"]) for one in json.loads(body)["files"] if one["kind"] == "return"]
        except (ValueError, KeyError, TypeError) as error:
            raise BankAway(f"{self._login.name} answered a list of files that is none: {error!r}") from error

    async def file(self, file_id: str) -> bytes:
        """A file as it came. Raises :class:`BankAway`."""
        status, body = await self._get(f"/v1/ach/files/{file_id}", {}, BYTES_MAX)
        if status != 200:
            raise BankAway(f"{self._login.name} answered {status} for the file {file_id}")
        return body

    async def _get(self, path: str, query: Mapping[str, str], limit: int) -> tuple[int, bytes]:
        for _ in range(2):
            if not self._token:
                await self._log_in()
            status, body = await self._ask("GET", path, limit, params=query)
            if status != 401:
                return status, body
            self._token = ""
        raise BankAway(f"{self._login.name} takes no token that it has given")

    async def _log_in(self) -> None:
        form = {"grant_type": "client_credentials", "client_id": self._login.client_id}
        form["client_secret"] = self._login.client_secret
        status, body = await self._ask("POST", "/oauth/token", 65_536, data=form)
        try:
            self._token = str(json.loads(body)["access_token"])
        except (ValueError, KeyError, TypeError) as error:
            raise BankAway(f"{self._login.name} gives no token (status {status})") from error

    async def _ask(self, method: str, path: str, limit: int, **options: Any) -> tuple[int, bytes]:
        assert self._session is not None
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            async with self._session.request(
                method, self._login.url + path, headers=headers, allow_redirects=False, **options
            ) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_chunked(65_536):
                    body += chunk
                    if len(body) > limit:
                        raise BankAway(f"{self._login.name} answers more than {limit} bytes")
                return answer.status, bytes(body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BankAway(f"{self._login.name}: {str(error) or type(error).__name__}") from error
