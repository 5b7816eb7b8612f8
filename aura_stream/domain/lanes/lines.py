"""What lanes write down: lines of their journals, from which Postgres shows every attempt and every breaker.

An attempt has two lines, `started` before it is made and `ended`. A broadcast that a crash has cut off is ended by the
look that sees its nonce used up. What is heard of a call after its lane has given it up is a third line, `late`: it
tells what was said, and ends nothing.
"""

from __future__ import annotations

import msgspec


class AttemptLine(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="line", tag="attempt"):
    """One attempt outside. Its name is (lane, reference, number)."""

    lane: str
    transaction_id: str
    tenant: str
    step: str  # debit | credit | payout | mint | burn | pause | deploy | sweep
    kind: str  # submit | inquire | broadcast
    reference: str  # as the other side knows it: ours, NACHA's 15 characters, or a chain's hash
    number: int
    state: str  # started | ended | late
    at: int
    breaker: str
    answer: str = ""
    code: str = ""
    status: int = 0
    detail: str = ""
    took_ms: int = 0


class LaneLine(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="line", tag="lane"):
    """A lane's breaker has changed, it was stopped or released, or what is queued waits for another reason."""

    lane: str
    breaker: str
    at: int
    failures: int = 0
    stopped: str = ""
    held_back: str = ""
    figures: dict[str, int] = {}  # of a minter: nonces, and amounts in minor units of its token


class ReleaseLine(msgspec.Struct, frozen=True, tag_field="line", tag="release"):
    """What became of an operator's release."""

    id: str
    lane: str
    operator: str
    stopped: str
    outcome: str
    at: int


class CancelLine(msgspec.Struct, frozen=True, tag_field="line", tag="cancel"):
    """What became of an operator's cancel of a nonce; `hash` is that of the transfer to itself."""

    id: str
    lane: str
    operator: str
    nonce: int
    outcome: str
    at: int
    transaction_id: str = ""
    hash: str = ""


class AddressLine(msgspec.Struct, frozen=True, tag_field="line", tag="address"):
    """An account has its deposit address, for good."""

    lane: str
    address: str
    tenant: str
    account: str
    at: int


class NoteLine(msgspec.Struct, frozen=True, tag_field="line", tag="note"):
    """Something that was heard and led to nothing: an event that nobody can read, a reference that nobody knows."""

    lane: str
    what: str
    detail: str
    at: int


Line = AttemptLine | LaneLine | ReleaseLine | CancelLine | AddressLine | NoteLine


class LaneRecord(msgspec.Struct, frozen=True):
    """One unit of a lane's partition, as far as Postgres needs it. `seq` is dense."""

    partition: int
    seq: int
    at: int
    lines: list[Line]
