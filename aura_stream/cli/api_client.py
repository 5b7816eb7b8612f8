"""What the commands that ask the HTTP API share: the request, and errors a person can act on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import aiohttp
import orjson
import typer

from aura_stream.cli import CHECK_FAILED, COULD_NOT, say
from aura_stream.settings import Settings, SetupError

T = TypeVar("T")
TIMEOUT_S = 35.0


class ApiClient:
    """Asks the API at `AURA_API_URL` with `AURA_API_KEY`."""

    def __init__(self, settings: Settings, tenant: str) -> None:
        self._url = settings.api_url
        self._headers = {"Aura-Tenant": tenant} if tenant else {}
        if settings.api_key is not None:
            self._headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ApiClient:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON answer. Raises :class:`SetupError` when the API is away, `typer.Exit` for a problem it tells."""
        return await self._ask("GET", path, params=query)

    async def post(self, path: str, body: Mapping[str, Any], idempotency_key: str) -> dict[str, Any]:
        """A write; the same errors."""
        return await self._ask("POST", path, json=body, headers={"Idempotency-Key": idempotency_key})

    async def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        assert self._session is not None
        try:
            async with self._session.request(method, self._url + path, **options) as answer:
                body = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SetupError(
                "The HTTP API does not answer.",
                where=self._url,
                why=str(error) or type(error).__name__,
                fix="start it (`aura up`, or `aura api`), or set AURA_API_URL",
            ) from error
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            document = {"title": f"The answer is not JSON (status {status}).", "hint": "check AURA_API_URL"}
            status = max(status, 500)
        if status not in (200, 202):
            if status == 401:
                document["hint"] = "set AURA_API_KEY to that of the API; `aura up` writes it to <AURA_HOME>/env"
            _tell(document, f"{method} {self._url}{path}")
            raise typer.Exit(COULD_NOT if status >= 500 or status in (401, 429) else CHECK_FAILED)
        return dict(document)


def run(work: Coroutine[None, None, T]) -> T:
    """Runs one command's requests."""
    return asyncio.run(work)


def _tell(problem: Mapping[str, Any], request: str) -> None:
    say(f"error: {problem.get('title', 'The request failed.')}")
    say(f"  where: {request}")
    say(f"  why: {problem.get('detail') or problem.get('code', 'unknown')}")
    say(f"  fix: {problem.get('hint', 'see the API log')}")
    if problem.get("request_id"):
        say(f"  request id: {problem['request_id']}")
