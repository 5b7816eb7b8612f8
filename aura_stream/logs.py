"""Log lines of every process: JSON, one object per line (text on a terminal), without secrets.

Everything that is logged, our own lines and those of libraries, passes one formatter, which takes out what looks like a
secret or an e-mail address, what stands under the name of one, and the secrets of the settings word for word.
"""

from __future__ import annotations

import logging
import logging.config
import re
import sys
import time
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final
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
        "handlers": {"lines": {**stream, "formatter": "lines"}, "access": {**stream, "formatter": "access"}},
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


class AccessFormatter(logging.Formatter):
    """The line of a request. All that is in it is of a known form, so that it need not be searched."""

    def __init__(self, is_text: bool) -> None:
        super().__init__()
        self.converter = time.gmtime
        self._is_text = is_text

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object, or words for a terminal."""
        fields: dict[str, Any] = record.args if isinstance(record.args, dict) else {}
        at = self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z"
        if self._is_text:
            words = " ".join(f"{name}={str(one).translate(_CONTROL)}" for name, one in fields.items())
            return f"{at} [info     ] request {words}"
        return orjson.dumps({"event": "request", "logger": ACCESS, "level": "info", "timestamp": at, **fields}).decode()


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
