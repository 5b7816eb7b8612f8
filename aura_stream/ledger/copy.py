"""Fields of Postgres' binary COPY format, framed: four bytes of length, then the value.

Binary costs the server a third less than text, since nothing is parsed, and us less as well, since what repeats is kept
ready. The format is that of the Postgres manual, "COPY, Binary Format"; the values are those of its types' send
functions.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

NULL: Final = struct.pack(">i", -1)
HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER: Final = struct.pack(">h", -1)

_INT8_ARRAY: Final = 20  # oid of bigint, the element type
_EPOCH_MS: Final = 946_684_800_000  # Postgres counts from 2000-01-01
_FIRST_MS: Final = (datetime(1, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
_LAST_MS: Final = (datetime(9999, 12, 31, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
_int = struct.Struct(">i").pack
_int4 = struct.Struct(">ii").pack
_int8 = struct.Struct(">iq").pack
_one_bigint = struct.Struct(">iiiiiiiq").pack
_jsonb = struct.Struct(">ib").pack


def text(value: str) -> bytes:
    """A text field. NUL, which Postgres cannot hold, becomes U+FFFD."""
    encoded = value.encode() if "\x00" not in value else value.replace("\x00", "\ufffd").encode()
    return _int(len(encoded)) + encoded


@lru_cache(maxsize=1 << 14)
def texts(*values: str) -> bytes:
    """Several text fields that come again and again in this combination; "" is NULL."""
    return b"".join([text(value) if value else NULL for value in values])


def int4(value: int) -> bytes:
    """An integer field."""
    return _int4(4, value)


@lru_cache(maxsize=1 << 12)
def timestamp(ms: int) -> bytes:
    """A timestamptz field of milliseconds since 1970. Raises OverflowError outside the years 1 to 9999."""
    if not _FIRST_MS <= ms <= _LAST_MS:
        raise OverflowError(f"{ms} ms since 1970 is outside the years 1 to 9999")
    return _int8(8, (ms - _EPOCH_MS) * 1000)


@lru_cache(maxsize=1 << 8)
def int8(value: int) -> bytes:
    """A bigint field of a value that comes again at once."""
    return _int8(8, value)


@lru_cache(maxsize=1 << 12)
def numeric(digits: str) -> bytes:
    """A numeric field of an integer's text. Raises ValueError when it is none: "1.5" or "NaN" is no amount."""
    value = int(digits)
    sign, value = (0x4000, -value) if value < 0 else (0, value)
    groups: list[int] = []
    while value:
        value, group = divmod(value, 10_000)
        groups.append(group)
    weight = len(groups) - 1
    while groups and groups[0] == 0:  # zeros at the end are not stored
        groups.pop(0)
    groups.reverse()
    body = struct.pack(f">HhHH{len(groups)}H", len(groups), weight if groups else 0, sign, 0, *groups)
    return _int(len(body)) + body


def uuid_bytes(value: str) -> bytes:
    """The 16 bytes of a UUID's usual text. Raises ValueError when it is none."""
    raw = bytes.fromhex(value.replace("-", ""))
    if len(raw) != 16:
        raise ValueError(f"{value[:64]!r} is not a UUID")
    return raw


def bigints(values: list[int]) -> bytes:
    """A bigint[] field."""
    if len(values) == 1:
        return _one_bigint(32, 1, 0, _INT8_ARRAY, 1, 1, 8, values[0])
    if not values:
        body = struct.pack(">iii", 0, 0, _INT8_ARRAY)
    else:
        body = struct.pack(">iiiii", 1, 0, _INT8_ARRAY, len(values), 1) + b"".join([_int8(8, v) for v in values])
    return _int(len(body)) + body


def jsonb(value: str) -> bytes:
    """A jsonb field of JSON text."""
    encoded = value.encode()
    return _jsonb(len(encoded) + 1, 1) + encoded
