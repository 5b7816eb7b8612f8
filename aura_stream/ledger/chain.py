"""The hash chain over journals: one block per unit (one record of the journal topic), sealed in its own transaction.

    hash = sha256(hash before || unit || its journals || its entries)

`unit` is the line that :func:`unit_line` writes; the rows are as COPY sends and gives them back in binary, columns as
in `rows.COPY_COLUMNS`, journals by id, entries by journal and leg. So the writer hashes bytes that it has anyway, and
whoever checks gets the very same bytes from the database (`chain_walk.py`). The chain is a function of the journal
topic alone: a ledger that is rebuilt from it has the same hashes, however its writes were batched.

Not in it: `units.committed_at` (when this database came to know), the JSON of rules (its hash is), and what is derived
or changes by design: transactions, accounts, refusals, checkpoints.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Final, NamedTuple

import msgspec

GENESIS: Final = bytes(32)
"""What stands before a partition's first block."""

COUNTERS: Final = (
    *("first_journal", "last_journal", "entries", "transactions", "changes", "received", "accounts", "repeats"),
    *("refusals", "dead_letters", "answers"),
)
"""The counters of a unit, in the order in which they are written and hashed."""


def unit_line(partition: int, seq: int, at: int, last: bool, inputs: str, counters: str) -> bytes:
    """What the chain covers of a unit's own row: `at` in ms, inputs and counters as compact JSON."""
    return f"{partition}\t{seq}\t{at}\t{'t' if last else 'f'}\t{inputs}\t{counters}\n".encode()


def seal(before: bytes, line: bytes, journals: list[bytes], entries: list[bytes]) -> bytes:
    """The hash of a unit's block."""
    return sha256(b"".join([before, line, *journals, *entries])).digest()


class Head(NamedTuple):
    """Where the chain of a partition stands: the hash of its unit `seq`."""

    partition: int
    seq: int
    hash: bytes


class HeadMessage(msgspec.Struct, frozen=True):
    """A head as it is published, and as `aura ledger heads` prints it: one JSON object, `hash` in hexadecimal."""

    partition: Annotated[int, msgspec.Meta(ge=0)]
    seq: Annotated[int, msgspec.Meta(ge=1, description="The unit: ledger.chain_blocks (partition, seq).")]
    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", description="The block's hash, hexadecimal.")]
    v: int = 1


def encode_head(head: Head) -> bytes:
    """The published form."""
    return msgspec.json.encode(HeadMessage(head.partition, head.seq, head.hash.hex()))


def decode_head(value: bytes | str) -> Head:
    """Raises ValueError when it is none."""
    message = msgspec.json.decode(value, type=HeadMessage)  # its errors are ValueErrors
    found = Head(message.partition, message.seq, bytes.fromhex(message.hash))
    if len(found.hash) != len(GENESIS):
        raise ValueError(f"a head's hash has {len(GENESIS)} bytes, not {len(found.hash)}")
    return found
