"""From journal records to rows: a pure function, the sink's hot path.

The rows are made for COPY: those of the hot path (journals, entries, new transactions) in its binary format, see
`copy.py`, the others as text. What repeats is framed once and kept.
Changes of a transaction that began in the same batch are folded into its row, so that one that begins and ends
there is one plain insert.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Final

import msgspec

from aura_stream import journal
from aura_stream.domain.state import may_follow
from aura_stream.ledger import copy
from aura_stream.ledger.chain import GENESIS, seal, unit_line
from aura_stream.ledger.errors import Diverged

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

NULL: Final = "\\N"
BINARY: Final = frozenset({"journals", "entries", "transactions"})
COPY_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "journals": (
        *("journal_id", "partition", "transaction_id", "tenant_id", "kind", "asset", "leg_count", "effective_at"),
        *("posted_at", "journal_seq"),
    ),
    "entries": (
        *("journal_id", "leg", "transaction_id", "tenant_id", "account_id", "asset", "amount", "layer", "partition"),
        *("effective_at", "posted_at"),
    ),
    "transactions": (
        *("transaction_id", "tenant_id", "customer_id", "type", "asset", "amount", "from_account_id", "to_account_id"),
        *("idempotency_key", "created_at", "expires_at", "partition", "status", "state", "reason", "captured_amount"),
        *("updated_at", "seq", "journal_ids", "history"),
    ),
    "accounts": (
        *("tenant_id", "account_id", "customer_id", "asset", "name", "opened_at", "partition", "status", "closed_at"),
    ),
    "refusals": (
        *("partition", "journal_seq", "line", "tenant_id", "customer_id", "command_id", "type", "idempotency_key"),
        *("reason", "detail", "transaction_id", "account_id", "at"),
    ),
    "units": ("partition", "seq", "inputs", "counters", "last", "rules", "at", "committed_at"),
}
"""Column order of the COPY text of each table, in the order in which they are written."""


def escaped(text: str) -> str:
    """`text` as one field of COPY's text format. NUL, which Postgres cannot hold, becomes U+FFFD."""
    if text.isprintable() and "\\" not in text:
        return text
    text = text.replace("\x00", "\ufffd").replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


@lru_cache(maxsize=1 << 14)
def name(text: str) -> str:
    """:func:`escaped` for what repeats: tenants, customers, accounts, kinds."""
    return escaped(text)


def optional(text: str) -> str:
    """A field in which "" stands for nothing."""
    return escaped(text) if text else NULL


def quoted(text: str) -> str:
    """`text` as a JSON string. NUL, which jsonb cannot hold, becomes U+FFFD."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return msgspec.json.encode(text.replace("\x00", "\ufffd")).decode()


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode().replace("\\u0000", "\ufffd")


@lru_cache(maxsize=1 << 12)
def timestamp(ms: int) -> str:
    """Milliseconds since 1970 as a timestamptz literal, exact. Raises OverflowError outside the years 1 to 9999."""
    return (_EPOCH + ms * _MILLISECOND).isoformat()


@lru_cache(maxsize=1 << 12)
def _event_head(event: str, status: str, state: str, reason: str) -> str:
    head = f',"type":{quoted(event)},"status":{quoted(status)},"state":{quoted(state)}'
    return f'{head},"reason":{quoted(reason)}' if reason else head


# What begins a row and what stands between its fields of fixed length: the number of columns, and lengths.
_TRANSACTION: Final = struct.pack(">hi", 20, 16)
_JOURNAL: Final = struct.pack(">hi", 10, 8)
_ENTRY: Final = struct.pack(">hi", 11, 8)
_UUID: Final = struct.pack(">i", 16)
_joined: Final = b"".join
_int2: Final = struct.Struct(">ih").pack
_legs: Final = tuple([_int2(2, leg) for leg in range(64)])


def _leg(number: int) -> bytes:
    """A smallint field: the number of a leg, or of all legs."""
    return _legs[number] if number < len(_legs) else _int2(2, number)


@lru_cache(maxsize=1 << 10)
def _times(effective_at: int, posted_at: int) -> bytes:
    return copy.timestamp(effective_at) + copy.timestamp(posted_at)


class Row:
    """A transaction's row, or what changes of it, while a batch is built."""

    __slots__ = ("captured", "first", "first_seq", "head", "history", "journal_ids", "journal_seq", "last", "seq")

    def __init__(
        self, head: bytes, line: journal.TransactionLine | journal.ChangeLine, first_seq: int, journal_seq: int
    ) -> None:
        self.head = head  # the unchanging columns, framed; b"" for a transaction that began earlier
        self.first = line
        self.last = line
        self.first_seq = first_seq
        self.journal_seq = journal_seq
        self.seq = first_seq - 1
        self.captured = ""
        self.journal_ids: list[int] = []
        self.history: list[str] = []

    def framed(self) -> bytes:
        """The whole row of a transaction that began in this batch."""
        last = self.last
        return _joined(
            (
                self.head,
                copy.texts(last.status, last.state, last.reason),
                copy.numeric(self.captured) if self.captured else copy.NULL,
                copy.timestamp(last.at),
                copy.int4(self.seq),
                copy.bigints(self.journal_ids),
                copy.jsonb(f"[{','.join(self.history)}]"),
            )
        )


class AccountRow:
    """An account that was opened in this batch (`head`), or a change of its status (`head` is empty)."""

    __slots__ = ("at", "head", "journal_seq", "status")

    def __init__(self, head: str, journal_seq: int) -> None:
        self.head = head
        self.journal_seq = journal_seq
        self.status = ""
        self.at = 0


class _Account:
    """An account in a batch: its columns in an entry, framed, and its entries so far."""

    __slots__ = ("entries", "framed")

    def __init__(self, framed: bytes) -> None:
        self.framed = framed
        self.entries = 0


class Batch:
    """The rows of one partition's write: `add` the records in order, `close`, then the texts and the changes."""

    def __init__(self, partition: int, last_seq: int, last_journal: int, chain_hash: bytes = GENESIS) -> None:
        self.partition = partition
        self.first_seq = last_seq + 1
        self.last_seq = last_seq
        self.last_journal = last_journal
        self.next_offset = 0
        self.commands_offset: int | None = None
        self.signals_offset: int | None = None
        self.shard_time: int | None = None
        self.journals: list[bytes] = []
        self.entries: list[bytes] = []
        self._ends: list[tuple[int, int]] = []  # of each unit, in journals and entries
        self.transactions: dict[str, Row] = {}
        self.new_transactions: list[bytes] = []
        self.changes: dict[str, Row] = {}
        self.accounts: dict[str, AccountRow] = {}
        self.new_accounts: list[str] = []
        self.account_changes: dict[tuple[str, str], AccountRow] = {}
        self.refusals: list[str] = []
        self.refusal_seqs: list[int] = []
        self.units: list[str] = []
        self.unit_lines: list[bytes] = []
        self.unit_offsets: list[int] = []
        self.unit_hashes: list[bytes] = []
        self.chain_hash = chain_hash
        self.touched: Counter[tuple[str, str]] = Counter()  # entries per tenant and account
        self.size = 0  # bytes of the records
        self._base = partition * journal.JOURNALS_PER_PARTITION
        self._accounts: dict[tuple[str, str], dict[str, _Account]] = {}  # by tenant and asset, then account
        self._framed_partition = copy.int4(partition)

    def add(self, offset: int, value: bytes) -> None:
        """One record of the journal topic. Raises :class:`Diverged` when it is not the next one or cannot be read."""
        seq = self.last_seq + 1
        try:
            record = journal.DECODE(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Diverged(self.partition, seq, "journal_undecodable", f"offset {offset}: {error}") from error
        if record.partition != self.partition or record.seq != seq:
            found = f"offset {offset} holds seq {record.seq} of partition {record.partition}"
            raise Diverged(self.partition, seq, "units_dense", found)
        first_journal, entries_before, unasked = self.last_journal + 1, len(self.entries), 0
        journals_before = len(self.journals)
        counts = [0, 0, 0, 0, 0, 0, 0]  # in the order of the counters below
        try:
            for number, line in enumerate(record.lines):
                if isinstance(line, journal.TransactionLine):
                    self._transaction(line, seq)
                    counts[0] += 1
                    unasked += not line.command_id
                elif isinstance(line, journal.ChangeLine):
                    self._change(line, seq)
                    counts[1] += 1
                    unasked += not line.command_id
                elif isinstance(line, journal.ReceivedLine):
                    self._journals(line.journals, seq, line.id, copy.uuid_bytes(line.id))
                    counts[2] += 1
                    unasked += 1
                elif isinstance(line, journal.AccountLine):
                    self._account(line, seq)
                    counts[3] += 1
                    unasked += not line.command_id
                elif isinstance(line, journal.PauseLine | journal.ClockLine):
                    unasked += not line.command_id
                elif line.kind == "repeat":
                    counts[4] += 1
                elif line.kind == "refused":
                    self._refusal(line, seq, number)
                    counts[5] += 1
                elif line.kind == "dead_letter":
                    if line.transaction_id:  # an id that was given with a receipt, and stands for nothing now
                        self._refusal(line, seq, number)
                    counts[6] += 1
            at = timestamp(record.at)
        except (ValueError, OverflowError) as error:
            raise Diverged(self.partition, seq, "journal_value", str(error)) from error
        inputs = msgspec.json.encode(record.inputs).decode()
        counters = (
            f'{{"first_journal":{first_journal},"last_journal":{self.last_journal},'
            f'"entries":{len(self.entries) - entries_before},"transactions":{counts[0]},"changes":{counts[1]},'
            f'"received":{counts[2]},"accounts":{counts[3]},"repeats":{counts[4]},"refusals":{counts[5]},'
            # Every line answers a command, except what a signal or a deadline caused.
            f'"dead_letters":{counts[6]},"answers":{len(record.lines) - unasked}}}'
        )
        last = "t" if record.last else "f"
        self.units.append(
            f"{self.partition}\t{seq}\t{escaped(inputs)}\t{counters}\t{last}\t{optional(record.rules)}\t{at}\t"
        )
        sealed = unit_line(self.partition, seq, record.at, record.last, inputs, counters)
        self.chain_hash = seal(self.chain_hash, sealed, self.journals[journals_before:], self.entries[entries_before:])
        self.unit_lines.append(sealed)
        self.unit_offsets.append(offset)
        self.unit_hashes.append(self.chain_hash)
        self.last_seq = seq
        self._ends.append((len(self.journals), len(self.entries)))
        self.next_offset = offset + 1
        self.size += len(value)
        for read in record.inputs:
            if read[0] == "commands":
                self.commands_offset = int(read[2]) + 1
            elif read[0] == "signals":
                self.signals_offset = int(read[2]) + 1
        if record.last:
            self.shard_time = record.at

    def close(self) -> None:
        """Frames what a later record could still have changed; nothing is added any more."""
        for (tenant, _), accounts in self._accounts.items():
            for account_id, account in accounts.items():
                self.touched[tenant, account_id] += account.entries
        self.new_transactions = [row.framed() for row in self.transactions.values()]
        self.new_accounts = [_account_text(row) for row in self.accounts.values()]

    def seq_of_row(self, table: str, row: int) -> int:
        """The journal seq that made a row (1 for the first) of a table's COPY text."""
        if table in ("journals", "entries"):
            ends = [end[table == "entries"] for end in self._ends]
            return min(self.first_seq + bisect_left(ends, row), self.last_seq) if row > 0 else self.first_seq
        seqs = {
            "transactions": [new.journal_seq for new in self.transactions.values()],
            "accounts": [new.journal_seq for new in self.accounts.values()],
            "refusals": self.refusal_seqs,
            "units": list(range(self.first_seq, self.last_seq + 1)),
        }[table]
        return seqs[row - 1] if 0 < row <= len(seqs) else self.first_seq

    def _journals(self, journals: Sequence[journal.Journal], seq: int, line_id: str, raw_id: bytes) -> None:
        """Frames journals and their entries. `raw_id` are the bytes of `line_id`, whose journals they mostly are."""
        partition = self.partition
        framed_partition, framed_seq = self._framed_partition, copy.int8(seq)
        add_entry = self.entries.append
        for booked in journals:
            if booked.number != self.last_journal + 1:
                found = f"{booked.number} follows {self.last_journal}"
                raise Diverged(partition, seq, "journal_numbers_dense", found)
            self.last_journal = booked.number
            number = self._base + booked.number
            entries, asset, tenant = booked.entries, booked.asset, booked.tenant
            transaction_id = booked.transaction_id
            raw = raw_id if transaction_id == line_id else copy.uuid_bytes(transaction_id)
            times = _times(booked.effective_at, booked.posted_at)
            raw_number = number.to_bytes(8, "big")
            framed_id = _UUID + raw
            self.journals.append(
                _joined(
                    (
                        _JOURNAL,
                        raw_number,
                        framed_partition,
                        framed_id,
                        copy.texts(tenant, booked.kind, asset),
                        _leg(len(entries)),
                        times,
                        framed_seq,
                    )
                )
            )
            begin, end = _ENTRY + raw_number, framed_partition + times
            accounts = self._accounts.get((tenant, asset))
            if accounts is None:
                accounts = self._accounts[tenant, asset] = {}
            for leg, entry in enumerate(entries):
                account_id = entry.account_id
                account = accounts.get(account_id)
                if account is None:
                    account = accounts[account_id] = _Account(copy.texts(tenant, account_id, asset))
                account.entries += 1
                add_entry(
                    _joined(
                        (
                            begin,
                            _leg(leg),
                            framed_id,
                            account.framed,
                            copy.numeric(entry.amount),
                            copy.texts(entry.layer),
                            end,
                        )
                    )
                )

    def _transaction(self, line: journal.TransactionLine, seq: int) -> None:
        raw_id = copy.uuid_bytes(line.id)
        at = copy.timestamp(line.at)
        head = _joined(
            (
                _TRANSACTION,
                raw_id,
                copy.texts(line.tenant, line.customer, line.type, line.asset),
                copy.numeric(line.amount),
                copy.texts(line.from_account_id, line.to_account_id),
                copy.text(line.idempotency_key),
                at,
                copy.timestamp(line.expires_at) if line.expires_at else copy.NULL,
                self._framed_partition,
            )
        )
        if line.id in self.transactions or line.id in self.changes:
            raise Diverged(self.partition, seq, "transactions_pkey", f"transaction {line.id} begins twice")
        row = self.transactions[line.id] = Row(head, line, 1, seq)
        more = f',"available":{quoted(line.available)}' if line.available else ""
        self._event(row, line, 1, seq, raw_id, more)

    def _change(self, line: journal.ChangeLine, seq: int) -> None:
        row = self.transactions.get(line.id) or self.changes.get(line.id)
        if row is None:
            row = self.changes[line.id] = Row(b"", line, line.seq, seq)
        elif (
            row.seq != line.seq - 1
            or not may_follow(row.last.status, line.status)
            or row.first.tenant != line.tenant
            or row.first.customer != line.customer
        ):
            found = f"transaction {line.id}: seq {line.seq} {line.status} follows seq {row.seq} {row.last.status}"
            raise Diverged(self.partition, seq, "transactions_seq", found)
        row.captured = str(int(line.captured)) if line.captured else ""
        self._event(row, line, line.seq, seq, None)
        if line.also_journal:
            row.journal_ids.append(line.also_journal)

    def _event(
        self,
        row: Row,
        line: journal.TransactionLine | journal.ChangeLine,
        event_seq: int,
        seq: int,
        raw_id: bytes | None,
        more: str = "",
    ) -> None:
        row.seq, row.last = event_seq, line
        command = f',"command_id":{quoted(line.command_id)}' if line.command_id else ""
        # Names are checked at the door, but a bank's words may hold a NUL, which jsonb cannot.
        by_bank = "" if line.by_bank is None else f',"by_bank":{_json(line.by_bank)}'
        row.history.append(
            f'{{"seq":{event_seq}{_event_head(line.event, line.status, line.state, line.reason)},"at":{line.at},'
            f'"journal_seq":{seq}{command}{by_bank}{more}}}'
        )
        if line.journals:
            first = self._base + self.last_journal + 1
            self._journals(line.journals, seq, line.id, raw_id or copy.uuid_bytes(line.id))
            row.journal_ids += range(first, first + len(line.journals))

    def _account(self, line: journal.AccountLine, seq: int) -> None:
        key = (line.tenant, line.account_id)
        field = f"{name(line.tenant)}\t{name(line.account_id)}"
        opened = self.accounts.get(field)
        if line.event == "account.opened":
            if opened is not None:
                raise Diverged(self.partition, seq, "accounts_pkey", f"account {line.account_id} is opened twice")
            opened = self.accounts[field] = AccountRow(
                f"{field}\t{name(line.customer)}\t{name(line.asset)}\t{optional(line.name)}\t{timestamp(line.at)}\t"
                f"{self.partition}",
                seq,
            )
        row = opened or self.account_changes.setdefault(key, AccountRow("", seq))
        if row.status == "closed":
            raise Diverged(self.partition, seq, "accounts_closed", f"account {line.account_id} changes after its end")
        row.status, row.at = line.status, line.at

    def _refusal(self, line: journal.AnswerLine, seq: int, number: int) -> None:
        self.refusals.append(
            f"{self.partition}\t{seq}\t{number}\t{name(line.tenant)}\t{name(line.customer)}\t{escaped(line.command_id)}\t"
            f"{name(line.command_type)}\t{escaped(line.idempotency_key)}\t{name(line.reason)}\t{optional(line.detail)}\t"
            f"{optional(line.transaction_id)}\t{optional(line.account_id)}\t{timestamp(line.at)}\n"
        )
        self.refusal_seqs.append(seq)


def _account_text(row: AccountRow) -> str:
    closed = timestamp(row.at) if row.status == "closed" else NULL
    return f"{row.head}\t{name(row.status)}\t{closed}\n"


def copy_texts(batches: Sequence[Batch]) -> dict[str, bytes]:
    """COPY data of several partitions per table (those of BINARY in binary), without tables that get no row.

    That of units comes from :func:`units_text`, once it is known when they are known.
    """
    binary = {
        "journals": [batch.journals for batch in batches],
        "entries": [batch.entries for batch in batches],
        "transactions": [batch.new_transactions for batch in batches],
    }
    texts = {
        "accounts": [batch.new_accounts for batch in batches],
        "refusals": [batch.refusals for batch in batches],
    }
    return {
        **{
            table: b"".join([copy.HEADER, *chain.from_iterable(rows), copy.TRAILER])
            for table, rows in binary.items()
            if any(rows)
        },
        **{table: "".join(chain.from_iterable(rows)).encode() for table, rows in texts.items() if any(rows)},
    }


def units_text(batches: Sequence[Batch], committed_at: Mapping[int, datetime]) -> bytes:
    """COPY data of the units, with each partition's time of knowledge."""
    known = {partition: at.isoformat() for partition, at in committed_at.items()}
    return "".join([f"{unit}{known[batch.partition]}\n" for batch in batches for unit in batch.units]).encode()
