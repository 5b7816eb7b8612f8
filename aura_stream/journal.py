"""The journal message: what one unit of work of one partition did. Sink, API and `aura rebuild` read it.

One Kafka record of `aura.journal.v1` is one :class:`UnitRecord`; a large unit is split into several, each with a `seq`
of its own. `lines` say what was decided, in order; the lines of one command are never split.
Amounts are strings of integer minor units (JSON numbers lose digits above 2^53 in other languages), signed where they
are entries: debit +, credit -. Times are milliseconds since 1970.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from aura_stream.domain.events import ByBank


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """`[account_id, layer, amount]`; its leg is its place in the list."""

    account_id: str
    layer: str  # available | held | pending_in; house accounts: available
    amount: str


class Journal(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A balanced set of entries of one step of one transaction, all in one asset.

    `number` is dense within the partition; the journal's public id is `partition * 2^48 + number`.
    """

    number: int
    transaction_id: str
    kind: str  # what moved: the event's type, as in `transfer.completed`
    tenant: str
    asset: str
    effective_at: int
    posted_at: int
    entries: list[Entry]


class TransactionLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="line", tag="transaction"):
    """A transaction that began with this command: all its fields. It is also the command's answer (`new`)."""

    id: str
    command_id: str
    tenant: str
    customer: str
    type: str
    event: str  # type of the event, as in `transfer.completed`
    status: str
    state: str
    asset: str
    amount: str
    idempotency_key: str
    at: int
    reason: str = ""
    from_account_id: str = ""
    to_account_id: str = ""
    expires_at: int = 0
    journals: list[Journal] = []
    by_bank: ByBank | None = None
    available: str = ""  # what there was, in major units, when it was refused for too little


class ChangeLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="line", tag="change"):
    """A transaction that moved on, by a command (`command_id`), a signal or a deadline. `seq` is the new one."""

    id: str
    tenant: str
    customer: str
    type: str
    seq: int
    event: str
    status: str
    state: str
    at: int
    reason: str = ""
    command_id: str = ""
    captured: str = ""
    also_journal: int = 0  # journal id of the receiver's half, booked by another partition
    journals: list[Journal] = []
    by_bank: ByBank | None = None


class ReceivedLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="line", tag="received"):
    """The receiver's half: `transfer.received` with its journal, or `transfer.refused` with a reason."""

    id: str
    tenant: str
    customer: str  # the receiver
    account_id: str
    asset: str
    amount: str
    event: str
    at: int
    reason: str = ""
    from_account_id: str = ""
    journals: list[Journal] = []


class AccountLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="line", tag="account"):
    """An account that was opened (`opened_at` = `at`) or changed its status; also the command's answer (`new`).

    Without `command_id` a transaction's step froze it.
    """

    tenant: str
    customer: str
    account_id: str
    asset: str
    event: str  # account.opened | account.frozen | account.unfrozen | account.closed
    status: str  # open | frozen | closed
    at: int
    command_id: str
    idempotency_key: str
    name: str = ""


class AnswerLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="line", tag="answer"):
    """The answer to a command that changed no transaction and no account.

    kind `done`: it did what it asks (`status`); `repeat`: the first outcome again (`reason` "" or why it was refused
    then); `refused`: refused by business, with event `command.refused`; `dead_letter`: not understood, the bytes are
    in the dead letters.
    """

    kind: Literal["done", "repeat", "refused", "dead_letter"]
    at: int
    command_id: str = ""
    command_type: str = ""
    tenant: str = ""
    customer: str = ""
    idempotency_key: str = ""
    reason: str = ""
    detail: str = ""
    transaction_id: str = ""
    account_id: str = ""
    status: str = ""
    state: str = ""
    seq: int = 0
    topic: str = ""
    offset: int = -1


class PauseLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="line", tag="pause"):
    """A pause that was set or lifted, also the command's answer; or, without `command_id`, that all have applied it."""

    id: str
    tenant: str  # of its command
    customer: str
    event: str  # pause.set | pause.applied | pause.lifted | pause.cleared
    status: str  # set | applied | lifted | cleared
    at: int
    by: str  # the operator
    command_id: str = ""
    idempotency_key: str = ""
    note: str = ""
    scope: dict[str, str] = {}


class ClockLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="line", tag="clock"):
    """The clock was moved, also the command's answer; or, without `command_id`, every partition and lane has it."""

    tenant: str  # of its command
    customer: str
    event: str  # clock.advanced | clock.moved
    status: str  # moving | moved
    at: int
    by: str  # the operator
    moved_ms: int  # ahead of the records' time, in all
    command_id: str = ""
    idempotency_key: str = ""


Line = TransactionLine | ChangeLine | ReceivedLine | AccountLine | AnswerLine | PauseLine | ClockLine


class UnitRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One record of the journal topic.

    `inputs` are what the unit read, in order: `["commands", first, last]`, `["signals", first, last]` (offsets, both
    ends included), `["clock", ms]`, `["rules", hash]`. They stand in the unit's last record (`last` is true), so that
    a reader that has seen it has seen all that these inputs led to.
    """

    partition: int
    seq: int  # dense per partition, 1 for the first
    at: int  # the shard's time after the unit
    lines: list[Line]
    inputs: list[list[str | int]] = []
    rules: str = ""  # JSON of the rules, in the unit that begins to use them
    last: bool = True
    v: int = 1


ENCODE = msgspec.json.Encoder().encode
DECODE = msgspec.json.Decoder(UnitRecord).decode

JOURNALS_PER_PARTITION = 1 << 48


def journal_id(partition: int, number: int) -> int:
    """The public id of a journal: a bigint that orders a partition's journals by time."""
    return partition * JOURNALS_PER_PARTITION + number
