"""A bank's HTTP interface: one call, one answer, within its time. Nothing is tried again here: that is the lane's."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import aiohttp
import msgspec
import orjson

from aura_stream.banks.credentials import Credentials
from aura_stream.banks.reading import EVENTS_LISTED, Answer, Asked, Unreadable, amount_text, answer_of
from aura_stream.domain.lanes.bank import LOST, NOT_PROCESSED, Job

ANSWER_MAX: Final = 1_000_000
"""Bytes of an answer; one that is longer is none."""
_CONNECT_S: Final = 3.0
_EXPIRES_EARLY_S: Final = 60.0
_NUMBER_MAX: Final = 2**53
_NOT_READ: Final = msgspec.Raw(b'"no JSON, or too deep"')


class BankAway(Exception):
    """No usable answer; nothing that was asked for has changed anything."""


class _Listed(msgspec.Struct):
    """A list of events. Each stays as it came."""

    events: list[msgspec.Raw]
    after: int


_listed = msgspec.json.Decoder(_Listed).decode


class BankClient:
    """One bank, with a pool of connections of its own: what hangs there holds up nobody else."""

    def __init__(self, name: str, credentials: Credentials, *, connections: int) -> None:
        self.name = name
        self._credentials = credentials
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._token_until = 0.0
        self._asking = asyncio.Lock()

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()

    async def instruct(self, job: Job, sent: str, timeout_s: float) -> Answer:
        """Submits an instruction under the bank's form of its reference."""
        path, body = _order(job, sent)
        asked = Asked(sent, job.asset, job.amount, is_inquiry=False)
        return await self._call("POST", path, asked, timeout_s, json=body)

    async def inquire(self, job: Job, sent: str, timeout_s: float) -> Answer:
        """Asks what became of a reference."""
        asked = Asked(sent, job.asset, job.amount, is_inquiry=True)
        return await self._call("GET", "/v1/transfers", asked, timeout_s, params={"reference": sent})

    async def events(self, after: int, timeout_s: float) -> tuple[list[msgspec.Raw], int]:
        """Events that the bank lists behind a number, and the number of the last. Raises :class:`BankAway`."""
        query = {"after": str(after), "limit": str(EVENTS_LISTED)}
        status, body = await self._read("GET", "/v1/events", timeout_s, params=query)
        try:
            answer = _listed(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise BankAway(f"HTTP {status}, and no list of events") from error
        if status != 200 or not 0 <= answer.after < _NUMBER_MAX:
            raise BankAway(f"HTTP {status}, and no list of events")
        return [_as_it_came(event) for event in answer.events], answer.after

    async def send_webhooks_to(self, url: str, timeout_s: float) -> None:
        """Tells the bank where its events go. Raises :class:`BankAway`."""
        status, _ = await self._read("PUT", "/v1/webhook", timeout_s, json={"url": url})
        if status not in (200, 201, 204):
            raise BankAway(f"HTTP {status}")

    async def _call(self, method: str, path: str, asked: Asked, timeout_s: float, **what: Any) -> Answer:
        try:
            async with asyncio.timeout(timeout_s):
                token = await self._bearer()
                status, body, wait = await self._request(method, path, token, **what)
        except BankAway as error:
            return Answer(NOT_PROCESSED, detail=str(error))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Answer(NOT_PROCESSED, detail=type(error).__name__)
        except TimeoutError:
            return Answer(LOST, detail=f"no answer within {timeout_s:g} s")
        except Unreadable as error:
            return Answer(LOST, detail=str(error), is_unreadable=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(LOST, detail=type(error).__name__)
        if status == 401:
            self._token = ""
        return answer_of(status, body, asked, wait)

    async def _read(self, method: str, path: str, timeout_s: float, **what: Any) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                status, body, _ = await self._request(method, path, await self._bearer(), **what)
        except Unreadable as error:
            raise BankAway(str(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a time-out is an OSError
            raise BankAway(f"{type(error).__name__}") from error
        if status == 401:
            self._token = ""
        return status, body

    async def _request(self, method: str, path: str, token: str, **what: Any) -> tuple[int, bytes, str]:
        """Status, body and Retry-After."""
        headers = {"Authorization": f"Bearer {token}"}
        url = self._credentials.url + path
        async with self._open().request(method, url, headers=headers, allow_redirects=False, **what) as response:
            return response.status, await _body(response), response.headers.get("Retry-After", "")

    async def _bearer(self) -> str:
        """A token that is good for a while. Raises :class:`BankAway`: without one nothing is asked of the bank."""
        async with self._asking:
            if self._token and time.monotonic() < self._token_until:
                return self._token
            form = {
                "grant_type": "client_credentials",
                "client_id": self._credentials.client_id,
                "client_secret": self._credentials.client_secret,
                "scope": "payments",
            }
            try:
                url = self._credentials.url + "/oauth/token"
                async with self._open().post(url, data=form, allow_redirects=False) as response:
                    answer = orjson.loads(await _body(response))
                    token, lasts = answer["access_token"], answer["expires_in"]
            except TimeoutError as error:
                raise BankAway("no token in time") from error
            except asyncio.CancelledError:
                # The time for the whole call is over, and it has not begun.
                raise BankAway("no token in time") from None
            except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
                raise BankAway(f"no token: {type(error).__name__}") from error
            if not isinstance(token, str) or not isinstance(lasts, int):
                raise BankAway("no token: a wrong form")
            self._token, self._token_until = token, time.monotonic() + lasts - _EXPIRES_EARLY_S
            return token

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            )
        return self._session


async def _body(response: aiohttp.ClientResponse) -> bytes:
    text = bytearray()
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) > ANSWER_MAX:
            raise Unreadable(f"an answer of more than {ANSWER_MAX} bytes")
    return bytes(text)


def _as_it_came(event: msgspec.Raw) -> msgspec.Raw:
    """An event, or a text in its place where it is no JSON or so deep that nobody behind us could read it."""
    try:
        orjson.dumps(orjson.loads(bytes(event)))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return _NOT_READ
    return event


def _order(job: Job, sent: str) -> tuple[str, dict[str, Any]]:
    """Where an instruction goes, and what it says."""
    order = {
        "reference": sent,
        "account_id": f"trust-{job.asset.lower()}",
        "amount": amount_text(job.amount),
    }
    if job.rail == "ach":
        routing, _, account = job.party_account.partition("/")
        party = {"name": job.party_name, "routing_number": routing, "account_number": account}
        return "/v1/ach/transfers", order | {
            "direction": "debit" if job.step == "debit" else "credit",
            "counterparty": party,
        }
    creditor = {"name": job.party_name, "iban": job.party_account}
    return "/v1/sepa/credit-transfers", order | {"creditor": creditor, "instant": job.rail == "sepa_instant"}
