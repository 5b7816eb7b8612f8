"""Keeps requests to customers' addresses away from what is ours: checked when one is saved and when it is opened.

A name is resolved once per connection, every address it has must be public, and the connection goes to one of just
these: a name that answers differently the second time gains nothing. Redirects are never followed. (SEC32)
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

URL_MAX: Final = 2048
PORTS: Final = frozenset({443, 8443})
_RESOLVE_S: Final = 5.0
_REFUSED_NETWORKS: Final = tuple(
    ipaddress.ip_network(text)
    # Ways to reach an IPv4 address under another name, and what is public by the letter but nobody's.
    for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "100.64.0.0/10", "192.88.99.0/24")
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses. Raises OSError."""


class AddressRefused(OSError):
    """Requests do not go there. An OSError, so that it ends a connection like any other failure of it."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, as the system knows them. Raises OSError, TimeoutError."""
    async with asyncio.timeout(_RESOLVE_S):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


class Guard:
    """What may be reached. `allowed` are `host` or `host:port` that may be whatever they are (sandbox only)."""

    def __init__(self, allowed: Collection[str] = (), resolve_: Resolve = resolve) -> None:
        self._allowed = frozenset(one.lower() for one in allowed)
        self._resolve = resolve_

    def check_url(self, text: str) -> URL:
        """A URL in which nothing but its host's addresses is open. Raises :class:`AddressRefused`."""
        if len(text) > URL_MAX or not text.isascii() or any(c.isspace() or ord(c) < 32 for c in text):
            raise AddressRefused(f"a URL has up to {URL_MAX} characters of ASCII, without spaces")
        try:
            url = URL(text)
            host, port = url.host, url.port
        except ValueError as error:
            raise AddressRefused(f"no URL: {error}") from None
        if not host or port is None or url.scheme not in ("http", "https"):
            raise AddressRefused("it must begin with https:// and name a host")
        if url.user is not None or url.password is not None or url.fragment:
            raise AddressRefused("user, password and fragment have no place in it")
        if self._is_allowed(host, port):
            return url
        if url.scheme != "https":
            raise AddressRefused("it must begin with https://")
        if port not in PORTS:
            raise AddressRefused(f"the port must be one of {', '.join(map(str, sorted(PORTS)))}")
        return url

    async def check(self, text: str) -> str:
        """The URL in its usual form, when all addresses of its host are public now. Raises :class:`AddressRefused`."""
        url = self.check_url(text)
        assert url.host is not None and url.port is not None
        await self.addresses(url.host, url.port)
        return str(url)

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses that a connection to `host` may use. Raises :class:`AddressRefused`."""
        try:
            found = [str(ipaddress.ip_address(host))]
        except ValueError:
            try:
                found = list(dict.fromkeys(await self._resolve(host, port)))
            except (OSError, TimeoutError, UnicodeError) as error:
                raise AddressRefused(f"{host} has no address: {type(error).__name__}") from None
        if not found:
            raise AddressRefused(f"{host} has no address")
        if not self._is_allowed(host, port):
            for address in found:
                if not is_public(address):
                    raise AddressRefused(f"{host} is not a public address")
        return found

    def _is_allowed(self, host: str, port: int) -> bool:
        return bool(self._allowed) and (host.lower() in self._allowed or f"{host.lower()}:{port}" in self._allowed)


def is_public(text: str) -> bool:
    """Whether an address may be reached from here: not private, loopback, link-local, multicast, mapped or reserved."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return False
    if any(address.version == network.version and address in network for network in _REFUSED_NETWORKS):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class GuardedResolver(AbstractResolver):
    """Gives a connector only addresses that were checked: what was checked is what is connected to."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The checked addresses. Raises :class:`AddressRefused`."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._guard.addresses(host, port)
        ]

    async def close(self) -> None:
        """Holds nothing."""


def guarded_session(guard: Guard, timeout_s: float) -> aiohttp.ClientSession:
    """A client for customers' addresses: no proxy of the environment, no cookies, no unpacking, nothing reused."""
    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(guard), use_dns_cache=False, limit=0, force_close=True, family=socket.AF_UNSPEC
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout_s, connect=min(5.0, timeout_s)),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )
