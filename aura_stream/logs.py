"""Log lines of every process: JSON, one object per line (text on a terminal), without secrets.

Everything that is logged, our own lines and those of libraries, passes one formatter, which takes out what looks like a
secret or an e-mail address, what stands under the name of one, and the secrets of the settings word for word.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import re
import sys
import time
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import Any, Final, TextIO
from urllib.parse import unquote, urlsplit

import orjson
import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, WrappedLogger

from aura_stream.settings import Settings

GONE: Final = "[redacted]"
LENGTH_MAX: Final = 8192
"""Characters of one value; a trace is longer than anything that a client should be able to write here."""
ACCESS: Final = "aura.access"
"""The logger of the API's one line per request."""

_NAMES: Final = (
    "password|password_hash|new_password|current_password|password_confirmation|passwd|access_token|refresh_token|"
    "id_token|token|secret|client_secret|private_key|api_key|authorization|cookie|set-cookie|identity_secret"
)
_NAMED: Final = re.compile(_NAMES, re.IGNORECASE)
_SECRETS: Final = (
    re.compile(r"(eyJ[\w-]{5,}\.[\w-]+\.)[\w-]+()"),
    re.compile(r"()ak_[a-z0-9_-]{1,64}\.[a-z0-9]{16}\.[\w-]{43}()"),
    re.compile(r"(\b(?:bearer|basic)\s+)[^\s\"',}]+()", re.IGNORECASE),
    re.compile(r"(\w+://[^:/@\s]*:)[^@\s]+(@)"),
    re.compile(rf"(\b(?:{_NAMES})\b[\\\"']*\s*[:=]\s*[\\\"']*)[^\s\"'\\,&}})]+()", re.IGNORECASE),
    re.compile(r"()[\w.+%-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}()"),
)
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), 127)}
_SECRET_MIN: Final = 6
"""A shorter secret would take out ordinary words."""


def configure(settings: Settings) -> None:
    """Sets up the logging of this process."""
    logging.config.dictConfig(config(settings))


def config(settings: Settings) -> dict[str, Any]:
    """The configuration of `logging`, also for those who insist on doing it themselves (Faust)."""
    is_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    secrets = secrets_of(settings)
    stream = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {"()": _formatter, "redact": Redaction(secrets), "is_text": is_text},
            "access": {"()": AccessFormatter, "is_text": is_text},
        },
        "handlers": {
            "lines": {**stream, "formatter": "lines"},
            "access": {"()": AccessHandler, "stream": stream["stream"], "formatter": "access"},
        },
        "loggers": {
            ACCESS: {"handlers": ["access"], "propagate": False, "level": "INFO" if settings.access_log else "CRITICAL"}
        },
        "root": {"level": settings.log_level, "handlers": ["lines"]},
    }


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Every secret that this process knows from its settings."""
    found = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            found.add(value.get_secret_value())
        elif name.endswith("_dsn"):
            password = urlsplit(value).password or ""
            found |= {password, unquote(password)}
    return tuple(sorted((one for one in found if len(one) >= _SECRET_MIN), key=len, reverse=True))


class Redaction:
    """Takes secrets out of what is logged."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secrets)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The processor: every value, under whatever name."""
        return {name: self.value(name, value) for name, value in event.items()}

    def value(self, name: str, value: Any) -> Any:
        """A value as it may be logged."""
        if isinstance(value, str):
            return GONE if _NAMED.fullmatch(name) else self.text(value)
        if isinstance(value, Mapping):
            return {str(key): self.value(str(key), one) for key, one in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(name, one) for one in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return GONE if _NAMED.fullmatch(name) else self.text(str(value))

    def text(self, text: str) -> str:
        """A text as it may be logged."""
        for secret in self._secrets:
            text = text.replace(secret, GONE)
        # Cut before it is searched, so that a long line costs no more than a line of that length.
        if len(text) > LENGTH_MAX:
            text = f"{text[:LENGTH_MAX]}... ({len(text)} characters)"
        for pattern in _SECRETS:
            text = pattern.sub(rf"\g<1>{GONE}\g<2>", text)
        return text


class AccessRecord(logging.LogRecord):
    """A request's record: a copy of one, with what is its own. What `logging` finds out anew costs too much."""

    _ONE = logging.LogRecord(ACCESS, logging.INFO, __file__, 0, "request", None, None).__dict__

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update(self._ONE)
        self.args = fields
        self.created = time.time()
        self.msecs = self.created % 1 * 1000


class AccessFormatter(logging.Formatter):
    """The line of a request. All that is in it is of a known form, so that it need not be searched."""

    def __init__(self, is_text: bool) -> None:
        super().__init__()
        self._is_text = is_text

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object, or words for a terminal."""
        fields: dict[str, Any] = record.args if isinstance(record.args, dict) else {}
        at = f"{_second(int(record.created))}.{int(record.msecs):03d}Z"
        if self._is_text:
            words = " ".join(f"{name}={str(one).translate(_CONTROL)}" for name, one in fields.items())
            return f"{at} [info     ] request {words}"
        return orjson.dumps({"event": "request", "logger": ACCESS, "level": "info", "timestamp": at, **fields}).decode()


@lru_cache(maxsize=4)
def _second(at_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))


class AccessHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of requests: those that are answered in one turn of the event loop together.

    A write costs as much as all the rest of a line, and so many requests are answered in a turn as there is work for.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the line until the turn ends; without a loop it is written at once."""
        self._lines.append(self.format(record))
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:
                self.flush()

    def flush(self) -> None:
        """Writes what is kept."""
        with self.lock or nullcontext():
            if self._lines:
                text, self._lines = "\n".join([*self._lines, ""]), []
                # Where nothing can be written, nothing can be said about it either.
                with suppress(OSError, ValueError):
                    self.stream.write(text)
                    self.stream.flush()


def _formatter(redact: Redaction, is_text: bool) -> logging.Formatter:
    shared: list[Any] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    begin: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact,
    ]
    text: list[Any] = [_printable, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    json = [structlog.processors.JSONRenderer(serializer=_json)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[*begin, *(text if is_text else json)]
    )


def _json(value: Any, **_: Any) -> str:
    try:
        return orjson.dumps(value, default=repr).decode()
    except orjson.JSONEncodeError:
        # Text that is no UTF-8: what came from a client as bytes.
        return orjson.dumps({name: str(one).encode(errors="replace").decode() for name, one in value.items()}).decode()


def _printable(logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A client must not be able to write lines or colours of its own."""
    return {name: one.translate(_CONTROL) if isinstance(one, str) else one for name, one in event.items()}
