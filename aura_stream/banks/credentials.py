"""How banks are reached and by what secrets: one JSON file, in the sandbox the one that the mock bank writes.

{"url": ..., "operator_token": ...,
 "banks": {"bank-a": {"url": ..., "client_id": ..., "client_secret": ..., "webhook_secret": ...}}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from aura_stream.settings import Settings, SetupError


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one bank."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    webhook_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Operator:
    """Who makes things happen at the banks of the sandbox."""

    url: str
    token: str = field(repr=False)


def banks_file(settings: Settings) -> Path:
    """Where the credentials lie."""
    return settings.banks_file or settings.home / "mock-bank" / "credentials.json"


def load_credentials(settings: Settings) -> dict[str, Credentials]:
    """The credentials of all banks by name. Raises :class:`SetupError`."""
    path = banks_file(settings)
    try:
        banks = json.loads(path.read_text(encoding="utf-8"))["banks"]
        return {
            name: Credentials(one["url"], one["client_id"], one["client_secret"], one["webhook_secret"])
            for name, one in banks.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(
            "The banks' credentials cannot be read.",
            where=str(path),
            why=str(error) if isinstance(error, OSError) else f"it has a wrong form: {type(error).__name__} {error}",
            fix="start the mock bank (aura mock-bank), or name your banks' file: AURA_BANKS_FILE=/path/to/it",
        ) from error


def load_operator(settings: Settings) -> Operator | None:
    """The operator of the sandbox's banks; None where the file does not name one, as that of real banks does not."""
    try:
        document = json.loads(banks_file(settings).read_text(encoding="utf-8"))
        return Operator(document["url"], document["operator_token"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
