"""JSON that can be read in one way only: a name that is given twice has no meaning (SEC53).

Who reads the first of two and who reads the last would see different commands.
"""

from __future__ import annotations

import json
from typing import Any


def refuse_twice(value: bytes) -> None:
    """Raises ValueError for a name that stands twice in one object, or for what is no JSON."""
    _read(value.decode())


def is_once(value: bytes, read: dict[str, Any]) -> bool:
    """Whether every name surely stands once in an object that was read from `value`; False: :func:`refuse_twice` knows.

    There are two quotes around each name and each text. A name more, or an escaped quote, would be quotes more. For
    objects of texts only, which is what nearly all commands are.
    """
    quotes = 2 * len(read)
    for one in read.values():
        if isinstance(one, str):
            quotes += 2
        elif one is not None:
            return False
    return value.count(b'"') == quotes


def _once(members: list[tuple[str, Any]]) -> None:
    names = {name for name, _ in members}
    if len(names) != len(members):
        twice = next(name for number, (name, _) in enumerate(members) if name in dict(members[:number]))
        raise ValueError(f"{twice[:80]!a} is given more than once")


_read = json.JSONDecoder(object_pairs_hook=_once).decode
