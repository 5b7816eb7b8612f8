"""Reading what COPY sends, in text and in binary, as the server would: a list of fields per row, NULL as `\\N`.

Written from the Postgres manual ("COPY, Binary Format"), not from the code that writes it.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator

NULL = "\\N"
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"


def rows_of(table: str, data: bytes, columns: tuple[str, ...], format_: str) -> Iterator[dict[str, str]]:
    """The rows of one COPY."""
    if format_ == "text":
        for line in data.decode().split("\n")[:-1]:
            yield dict(zip(columns, line.split("\t"), strict=True))
        return
    assert data[:11] == _SIGNATURE and data[11:19] == bytes(8), "not a binary COPY"
    readers = [_READERS[_TYPES[column]] for column in columns]
    at = 19
    while (fields := struct.unpack_from(">h", data, at)[0]) != -1:
        assert fields == len(columns), f"{table}: {fields} fields"
        at += 2
        row = {}
        for column, read in zip(columns, readers, strict=True):
            (size,) = struct.unpack_from(">i", data, at)
            at += 4
            if size < 0:
                row[column] = NULL
            else:
                row[column] = read(data[at : at + size])
                at += size
        yield row
    assert at + 2 == len(data), f"{table}: {len(data) - at - 2} bytes follow the end"


def _integer(size: int) -> Callable[[bytes], str]:
    def read(raw: bytes) -> str:
        assert len(raw) == size, f"{len(raw)} bytes for an integer of {size}"
        return str(int.from_bytes(raw, "big", signed=True))

    return read


def _numeric(raw: bytes) -> str:
    count, weight, sign, scale = struct.unpack_from(">HhHH", raw)
    assert scale == 0 and sign in (0, 0x4000)
    groups = struct.unpack_from(f">{count}H", raw, 8)
    value = sum(group * 10_000 ** (weight - place) for place, group in enumerate(groups))
    return str(-value if sign else value)


def _bigints(raw: bytes) -> str:
    dimensions, _, oid = struct.unpack_from(">iii", raw)
    assert oid == 20 and dimensions in (0, 1)
    if not dimensions:
        return "{}"
    (count,) = struct.unpack_from(">i", raw, 12)
    return "{" + ",".join(str(struct.unpack_from(">iq", raw, 20 + 12 * place)[1]) for place in range(count)) + "}"


def _jsonb(raw: bytes) -> str:
    assert raw[:1] == b"\x01"
    return raw[1:].decode()


_READERS: dict[str, Callable[[bytes], str]] = {
    "text": bytes.decode,
    "uuid": lambda raw: str(uuid.UUID(bytes=raw)),
    "smallint": _integer(2),
    "integer": _integer(4),
    "bigint": _integer(8),
    "time": _integer(8),
    "numeric": _numeric,
    "bigints": _bigints,
    "jsonb": _jsonb,
}
_TYPES: dict[str, str] = {
    **dict.fromkeys(("journal_id", "journal_seq"), "bigint"),
    **dict.fromkeys(("partition", "seq"), "integer"),
    **dict.fromkeys(("leg", "leg_count"), "smallint"),
    **dict.fromkeys(("effective_at", "posted_at", "created_at", "expires_at", "updated_at"), "time"),
    **dict.fromkeys(("amount", "captured_amount"), "numeric"),
    **dict.fromkeys(("tenant_id", "customer_id", "account_id", "from_account_id", "to_account_id"), "text"),
    **dict.fromkeys(("kind", "type", "asset", "layer", "status", "state", "reason", "idempotency_key"), "text"),
    "transaction_id": "uuid",
    "journal_ids": "bigints",
    "history": "jsonb",
}
"""Types of the columns that are written in binary; `seq` of units and of refusals is written as text."""
