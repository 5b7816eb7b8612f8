"""A small TCP proxy before Postgres that cuts the wire at a chosen message."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Forwards to the server of a DSN. Armed by `cut`, it cuts the wire when a client sends `marker`.

    With `deliver` the message reaches the server and only the reply is lost; without, the message is lost itself.
    `dsn` leads through the proxy.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._marker = b""
        self._deliver = False
        self.cuts = 0
        self.finished = asyncio.Event()

    @property
    def dsn(self) -> str:
        login, _, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{login}@127.0.0.1:{self._port}"))

    def cut(self, marker: bytes, *, deliver: bool) -> None:
        self._marker, self._deliver = marker, deliver
        self.finished.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        back = asyncio.create_task(self._copy(upstream_reader, writer))
        try:
            while data := await reader.read(65536):
                if self._marker and self._marker in data:
                    self._marker = b""
                    self.cuts += 1
                    back.cancel()
                    await asyncio.wait([back])
                    if self._deliver:
                        upstream.write(data)
                        await upstream.drain()
                        await upstream_reader.read(65536)  # the server has answered: what it does, it has done
                    self.finished.set()
                    return
                upstream.write(data)
                await upstream.drain()
        except ConnectionError:
            pass
        finally:
            back.cancel()
            for side in (writer, upstream):
                side.close()
                with contextlib.suppress(ConnectionError):
                    await side.wait_closed()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
