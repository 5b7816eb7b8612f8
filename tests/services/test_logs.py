"""The lines that processes log: one JSON object each, without secrets, and nobody else's."""

from __future__ import annotations

import io
import json
import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest

from aura_stream import logs
from aura_stream.settings import load_settings

SECRET = "k7Qw9-canary-Zx31vB"


@pytest.fixture
def lines() -> Iterator[Any]:
    """Sets logging up on memory; gives a function that reads what was logged."""
    handlers, level = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()

    def configure(**settings: Any) -> io.StringIO:
        wanted = logs.config(load_settings(log_format="json", **settings))
        for handler in wanted["handlers"].values():
            handler["stream"] = stream
        logging.config.dictConfig(wanted)
        return stream

    yield configure
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f'{{"password": "{SECRET}"}}',
        f"{{'refresh_token': '{SECRET}'}}",
        f"Authorization: Bearer {SECRET}",
        f"api_key: {SECRET}",
        f"postgresql://aura:{SECRET}@db.example/aura",
        f"ak_default.0123456789abcdef.{SECRET:_<43}",
        f"eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.{SECRET}",
    ],
)
def test_l87_sec43_what_looks_like_a_secret_is_not_logged(lines: Any, text: str) -> None:
    stream = lines()
    logging.getLogger("any").error("something about %s", text)
    logging.getLogger("any").error("something", extra={"body": {"text": [text]}})
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("any").exception("it failed")

    assert SECRET not in stream.getvalue() and stream.getvalue().count(logs.GONE) >= 3


@pytest.mark.parametrize(
    "name", ["password", "password_hash", "access_token", "refresh_token", "secret", "private_key", "api_key"]
)
def test_l87_the_value_of_a_secret_name_is_not_logged(lines: Any, name: str) -> None:
    stream = lines()
    logging.getLogger("any").info("said", extra={name: SECRET, "more": {name: SECRET}})

    line = json.loads(stream.getvalue())
    assert (line[name], line["more"][name], line["event"]) == (logs.GONE, logs.GONE, "said")


def test_sec43_secrets_of_the_settings_are_known_by_heart(lines: Any) -> None:
    stream = lines(api_key=SECRET, postgres_dsn="postgresql://aura:p%40ss-word-9@127.0.0.1/aura")
    logging.getLogger("any").error("%s and p@ss-word-9 and p%%40ss-word-9", SECRET)

    assert json.loads(stream.getvalue())["event"] == " and ".join([logs.GONE] * 3)


def test_sec42_a_client_cannot_write_lines_of_its_own(lines: Any) -> None:
    stream = lines()
    logging.getLogger("any").info('x\r\n{"event": "forged"}\x1b[31m %s', "y" * 1_000_000)

    (line,) = stream.getvalue().splitlines()
    assert len(line) < 10_000 and "\x1b" not in line
    assert json.loads(line)["event"].startswith('x\r\n{"event": "forged"}')


def test_sec42_nor_on_a_terminal(lines: Any) -> None:
    formatter = logs.config(load_settings(log_format="text"))["formatters"]["lines"]
    made = formatter["()"](formatter["redact"], is_text=True)
    record = logging.LogRecord("any", logging.INFO, "", 0, "a\r\nb\x1b[31m", None, None)

    assert "\\x1b" in made.format(record) and "\x1b[31m" not in made.format(record)
    assert "\r" not in made.format(record)


def test_sec48_no_mail_address_is_logged(lines: Any) -> None:
    stream = lines()
    logging.getLogger("any").warning("no user ada.lovelace+1@mail.example.com here")

    assert "ada" not in stream.getvalue()


def test_l99_an_error_has_its_trace_and_a_line_its_time_level_and_logger(lines: Any) -> None:
    stream = lines()
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        logging.getLogger("some.where").exception("it failed")

    line = json.loads(stream.getvalue())
    assert (line["logger"], line["level"], line["event"]) == ("some.where", "error", "it failed")
    assert line["timestamp"].endswith("Z") and "ZeroDivisionError: by nothing" in line["exception"]
