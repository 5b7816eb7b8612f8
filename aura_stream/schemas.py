"""JSON Schemas of all messages, made from the code that reads and writes them: `python -m aura_stream.schemas`.

They are kept in `topics/schemas/` for those who build on the topics without our code; a test fails when they differ.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Final

import msgspec

from aura_stream.domain import lane_news, lane_requests
from aura_stream.domain.commands import ADAPTER
from aura_stream.domain.events import Event, EventData, TransactionEvent
from aura_stream.domain.ids import bank_reference, chain_reference
from aura_stream.domain.lanes.lines import AttemptLine, LaneRecord
from aura_stream.domain.pauses import Pause, Pauses, Rollout, Scope
from aura_stream.domain.signals import (
    Answer,
    Applied,
    BankFact,
    ChainFact,
    ClockMoved,
    ClockTaken,
    Credit,
    Matched,
    NativeMoved,
    Paused,
    Signal,
    TenantKnown,
    TenantOpened,
    TokensIn,
    Unmatched,
)
from aura_stream.engine.unit import Packed
from aura_stream.journal import Entry, Journal, TransactionLine, UnitRecord
from aura_stream.ledger.chain import HeadMessage

FOLDER: Final = Path(__file__).parents[1] / "topics" / "schemas"

_ID, _TRANSACTION = "018f2d3c-8a6e-7c3e-9a51-3f1c2b7e9d10", "89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa"
_AT = 1795168800000
_ENVELOPE: Final = {
    "id": _ID,
    "tenant": "default",
    "customer": "alice",
    "idempotency_key": "order-4711",
    "issued_at": "2026-11-20T10:00:00Z",
}
_BANK_REFERENCE, _CHAIN_REFERENCE = bank_reference(_TRANSACTION, "debit"), chain_reference(_TRANSACTION, "mint/1")
_DATA: Final[dict[str, dict[str, Any]]] = {
    "account.open": {"asset": "EUR"},
    "account.freeze": {"account_id": "alice:EUR"},
    "account.unfreeze": {"account_id": "alice:EUR"},
    "account.close": {"account_id": "alice:EUR"},
    "deposit.submit": {"account_id": "alice:EUR", "amount": "100.00"},
    "deposit.confirm": {"transaction_id": _TRANSACTION},
    "deposit.reject": {"transaction_id": _TRANSACTION},
    "transfer.submit": {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "12.50"},
    "hold.place": {
        "account_id": "alice:EUR",
        "amount": "12.50",
        "to_account_id": "shop:EUR",
        "expires_at": "2026-11-27T10:00:00Z",
    },
    "hold.capture": {"transaction_id": _TRANSACTION, "amount": "10.00"},
    "hold.release": {"transaction_id": _TRANSACTION},
    "transaction.cancel": {"transaction_id": _TRANSACTION},
    "deposit.retry": {"transaction_id": _TRANSACTION},
    "withdrawal.submit": {
        "account_id": "alice:AEUR",
        "amount": "12.50",
        "rail": "sepa_instant",
        "beneficiary": {"name": "Alice Example", "account": "DE89370400440532013000"},
    },
    "withdrawal.retry": {
        "transaction_id": _TRANSACTION,
        "beneficiary": {"name": "Alice Example", "account": "DE89370400440532013000"},
    },
    "withdrawal.remint": {"transaction_id": _TRANSACTION},
    "transaction.approve": {"transaction_id": _TRANSACTION, "operator": "olga"},
    "transaction.reject": {"transaction_id": _TRANSACTION, "operator": "olga"},
    "transaction.resolve": {"transaction_id": _TRANSACTION, "operator": "olga", "outcome": "inquire"},
    "pause.set": {"operator": "olga", "scope": {"rail": "ach"}, "note": "bank-a is away"},
    "pause.lift": {"operator": "olga", "pause_id": _TRANSACTION},
    "tenant.open": {"operator": "olga", "tenant_id": "partner-co"},
    "clock.advance": {"operator": "olga", "advance_s": 259200},
}

# What a field of ours means wherever it stands in the journal and the events.
_MEANING: Final = {
    "by_bank": "What banks and the chain have to do with it, as it stands now",
    "by": "The operator",
    "moved_ms": "How far the clock of the sandbox is ahead of the records' time, in all, in milliseconds",
    "also_journal": "Public id of the journal by which the receiver's partition booked its half",
    "amount": "Integer minor units of the asset, as text",
    "at": "Milliseconds since 1970",
    "captured": "What of a hold went to its target; minor units as text in the journal, major units in events",
    "command_id": "Id of the command that led to this; empty when an answer or a deadline did",
    "customer": "Whose it is",
    "detail": "What was wrong, for a person",
    "effective_at": "When it counts, in milliseconds since 1970; never after posted_at",
    "event": "Type of the event, as in transfer.completed",
    "expires_at": "When it ends by itself; milliseconds since 1970 in the journal, RFC 3339 in events",
    "idempotency_key": "As it stood in the command",
    "inputs": 'What was read, in order: ["commands", first, last], ["signals", ...], ["clock", ms], ["rules", hash]',
    "journal_seq": "The seq of the journal's record that holds it",
    "kind": "What moved, or which kind of answer",
    "last": "Whether this is the last record of its unit of work",
    "lines": "What was decided, in order",
    "number": "Dense within the partition; the public id is partition * 2^48 + number",
    "occurred_at": "RFC 3339 with milliseconds, UTC",
    "partition": "Number of the partition",
    "posted_at": "When it was booked, in milliseconds since 1970",
    "reason": "Why it was refused, a name of the catalogue of reasons; empty when it was not",
    "rules": "The settings that decisions depend on, as JSON; in the unit that begins to use them",
    "seq": "Dense, from 1: of the partition's records, or of the events of one transaction and customer",
    "signals": "Signals in their order",
    "source": "The partition that sent them",
    "state": "The fine status, as in awaiting_funds",
    "status": "processing, completed, failed, canceled or requires_attention; of an account open, frozen or closed",
    "tenant": "Whose customer it is",
    "transaction_id": "UUID derived from tenant, customer and idempotency key; empty where there is none",
    "v": "Version of this form",
}
_REQUEST_MEANING: Final = {
    "transaction_id": "The transaction it is for",
    "customer": "Whose it is: answers go to the partition of <tenant>/<customer>",
    "tenant": "Whose customer it is",
    "reference": "Ours, derived from transaction and step; the same step asked twice has the same",
    "amount": "Integer minor units of the asset",
    "moved_ms": "How far the clock of the sandbox is ahead of the records' time, in all, in milliseconds",
    "home": "The partition of aura.signals.v1 that waits for the answer",
}
_EVENT_MEANING: Final = _MEANING | {
    "amount": "Major units, with all places of the asset",
    "id": "<partition>-<journal_seq>-<number of the line>, unique",
    "type": "As in transfer.completed",
    "version": "Version of this form",
    "data": "What it is about; only what applies is present",
}
_ENVELOPE_MEANING: Final = {
    "id": "Unique; of the ledger's events <partition>-<journal_seq>-<number of the line>",
    "tenant_id": "Whose customer it is",
    "customer_id": "Whose it is; empty where it is about no customer",
    "seq": "Dense, from 1, of one account, user, API key or tenant; 0 of a refused command",
    "causation_id": "Id of the command that led to it; empty where there is none",
    "request_id": "The request that led to it, where it is known",
}


def command() -> dict[str, Any]:
    """The schema of `aura.commands.v1`."""
    schema = ADAPTER.json_schema()
    for model in schema["$defs"].values():
        for name, prop in model["properties"].items():
            prop.pop("title", None)  # pydantic repeats the name
            if name in ("type", "data"):
                prop["description"] = "What is asked for" if name == "type" else "Its content"
    examples = [_ENVELOPE | {"type": type_, "data": data} for type_, data in _DATA.items()]
    return _head("command", "A command", "Key: <tenant>/<customer>. Unknown fields are refused.", examples, schema)


def journal() -> dict[str, Any]:
    """The schema of `aura.journal.v1`."""
    entries = [Entry("alice:EUR", "available", "1250"), Entry("alice:EUR:savings", "available", "-1250")]
    booked = Journal(1, _TRANSACTION, "transfer.completed", "default", "EUR", _AT, _AT, entries)
    line = TransactionLine(
        id=_TRANSACTION,
        command_id=_ID,
        tenant="default",
        customer="alice",
        type="transfer",
        event="transfer.completed",
        status="completed",
        state="completed",
        asset="EUR",
        amount="1250",
        idempotency_key="order-4711",
        at=_AT,
        from_account_id="alice:EUR",
        to_account_id="alice:EUR:savings",
        journals=[booked],
    )
    record = UnitRecord(partition=2, seq=7, at=_AT, lines=[line], inputs=[["commands", 11, 11]])
    schema = _described(msgspec.json.schema(UnitRecord), _MEANING)
    return _head("journal", "What one unit of work did", "Key: the partition's number.", [_plain(record)], schema)


def signals() -> dict[str, Any]:
    """The schema of `aura.signals.v1`."""
    signal = msgspec.json.schema(Signal)
    schema = msgspec.json.schema(Packed)
    schema["$defs"] |= signal.pop("$defs")
    schema["$defs"]["Packed"]["properties"]["signals"] |= {"type": "array", "items": signal}
    credit = Credit(_TRANSACTION, "default", "alice:EUR", "bob:EUR", "EUR", 1250, _AT, "transfer")
    answer = Answer(_TRANSACTION, "default", True, "", 281474976710657)
    settled = BankFact(
        *(_TRANSACTION, "default", "debit", "settled", _BANK_REFERENCE, 10000, "USD", "", "A00000000000017"),
        fact_id="evt-93",
    )
    mined = ChainFact(_TRANSACTION, "default", "mint", "confirmed", _CHAIN_REFERENCE, "0x" + "5d" * 32, 21000)
    examples = [
        {"source": source, "seq": 1, "at": _AT, "signals": [_plain(item)], "v": 1}
        for source, item in ((0, credit), (1, answer), (2, settled), (3, mined))
    ]
    return _head(
        "signals",
        "Signals of one partition to another",
        "Internal: only the engine writes here.",
        examples,
        _described(schema, _MEANING),
    )


def bank_request() -> dict[str, Any]:
    """The schema of `aura.bank-requests.v1`."""
    debit = lane_requests.Instruct(
        *(_TRANSACTION, "default", "alice", "debit", "ach", _BANK_REFERENCE, "USD", 10000),
        *("Alice Example", "021000021/123456789"),
    )
    expected = lane_requests.Expect(_TRANSACTION, "default", "alice", "sepa", _BANK_REFERENCE, "EUR", 10000)
    schema = _described(msgspec.json.schema(lane_requests.BankRequest), _REQUEST_MEANING)
    examples = [_plain(debit), _plain(expected), _plain(lane_requests.Inquire(_TRANSACTION, _BANK_REFERENCE))]
    return _head("bank-request", "What a bank's lane is asked for", "Key: ~bank:<bank>.", examples, schema)


def chain_request() -> dict[str, Any]:
    """The schema of `aura.chain-requests.v1`."""
    mint = lane_requests.Mint(_TRANSACTION, "default", "alice", _CHAIN_REFERENCE, "AUSD", 100_000_000)
    schema = _described(msgspec.json.schema(lane_requests.ChainRequest), _REQUEST_MEANING)
    examples = [_plain(mint), _plain(lane_requests.Withdraw(_TRANSACTION, _CHAIN_REFERENCE))]
    return _head("chain-request", "What a minter lane is asked for", "Key: ~chain:<chain>:<token>.", examples, schema)


def bank_inbox() -> dict[str, Any]:
    """The schema of `aura.bank-inbox.v1`."""
    ended = lane_news.CallEnded(_BANK_REFERENCE, 1, "accepted", bank_reference="tr_1", status=201, took_ms=12)
    polled = lane_news.Polled(7, error="HTTP 503, and no list of events")
    schema = _described(msgspec.json.schema(lane_news.BankNews), _REQUEST_MEANING)
    examples = [_plain(ended), _plain(polled), _plain(lane_news.Opened())]
    return _head("bank-inbox", "What a bank's lane hears", "Key: ~bank:<bank>.", examples, schema)


def chain_inbox() -> dict[str, Any]:
    """The schema of `aura.chain-inbox.v1`."""
    seen = lane_news.Sighting(_CHAIN_REFERENCE, "0x" + "ab" * 32, 17, ok=True, gas=10**14)
    looked = lane_news.Looked("31337:0xab", 31337, 19, 11, 3, 2, 2 * 10**9, 10**9, 100_000_000, [seen])
    schema = _described(msgspec.json.schema(lane_news.ChainNews), _REQUEST_MEANING)
    examples = [_plain(looked), _plain(lane_news.NotSeen("no answer"))]
    return _head("chain-inbox", "What a minter lane hears", "Key: ~chain:<chain>:<token>.", examples, schema)


def lane_journal() -> dict[str, Any]:
    """The schema of `aura.bank-journal.v1` and `aura.chain-journal.v1`."""
    attempt = AttemptLine(
        *("bank:bank-a", _TRANSACTION, "default", "debit", "submit", "A00000000000001", 1, "started", _AT, "closed")
    )
    schema = _described(msgspec.json.schema(LaneRecord), _REQUEST_MEANING)
    examples = [_plain(LaneRecord(2, 1, _AT, [attempt]))]
    return _head("lane-journal", "What lanes decided", "Key: the number of the partition.", examples, schema)


def transaction_event() -> dict[str, Any]:
    """The schema of `aura.transaction-events.v1`."""
    event = TransactionEvent(
        id="2-7-0",
        type="transfer.completed",
        version=1,
        tenant="default",
        customer="alice",
        transaction_id=_TRANSACTION,
        seq=1,
        status="completed",
        state="completed",
        reason="",
        command_id=_ID,
        occurred_at="2026-11-20T10:00:00.000Z",
        partition=2,
        journal_seq=7,
        data=EventData("12.50", "EUR", "alice:EUR", "alice:EUR:savings"),
    )
    schema = _described(msgspec.json.schema(TransactionEvent), _EVENT_MEANING)
    return _head("transaction-event", "An event", "Key: <tenant>/<customer>.", [_plain(event)], schema)


def chain_head() -> dict[str, Any]:
    """The schema of `aura.chain-heads.v1`."""
    meaning = (
        "Key: the partition. Written by the sink after its commit; may come late or twice, never before the block is "
        "in Postgres. Anyone may keep them."
    )
    example = HeadMessage(2, 5, "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730")
    schema = _described(msgspec.json.schema(HeadMessage), {})
    return _head("chain-head", "Head of a partition's hash chain", meaning, [_plain(example)], schema)


def account_event() -> dict[str, Any]:
    """The schema of `aura.account-events.v1`."""
    data = {"account_id": "alice:EUR", "asset": "EUR", "status": "open"}
    event = Event("2-3-0", "account.opened", 1, "default", "alice", 1, "2026-11-20T10:00:00.000Z", "", _ID, data, 2, 3)
    schema = _described(msgspec.json.schema(Event), _EVENT_MEANING | _ENVELOPE_MEANING)
    return _head("account-event", "An event of an account", "Key: <tenant>/<customer>.", [_plain(event)], schema)


def auth_event() -> dict[str, Any]:
    """The schema of `aura.auth-events.v1`."""
    user, session = "0d0c3a53-6f2d-4d19-8d6e-0a6a1e7f2c41", "7f3a9c1e-5a0b-4b7e-9f43-2d6f0f0c9a11"
    data = {"user_id": user, "session_id": session, "reason": "logout"}
    event = Event(
        id="a-018f2d3c8a6e7c3e9a513f1c2b7e9d10",
        type="session.revoked",
        version=1,
        tenant_id="default",
        customer_id="c0d0c3a536f2d4d198d6e0a6a",
        seq=4,
        occurred_at="2026-11-20T10:00:00.000Z",
        request_id="",
        causation_id="",
        data=data,
    )
    schema = _described(msgspec.json.schema(Event), _EVENT_MEANING | _ENVELOPE_MEANING)
    key = "Key: <tenant>/<customer>, <tenant>/ where it is about no customer. At least once: ids repeat."
    return _head("auth-event", "An event of a login, a user, a key or a tenant", key, [_plain(event)], schema)


def schemas() -> dict[str, dict[str, Any]]:
    """All schemas by the name of their file."""
    return {
        "command.json": command(),
        "journal.json": journal(),
        "signals.json": signals(),
        "transaction-event.json": transaction_event(),
        "bank-request.json": bank_request(),
        "chain-request.json": chain_request(),
        "bank-inbox.json": bank_inbox(),
        "chain-inbox.json": chain_inbox(),
        "lane-journal.json": lane_journal(),
        "chain-head.json": chain_head(),
        "account-event.json": account_event(),
        "auth-event.json": auth_event(),
    }


def text(schema: dict[str, Any]) -> str:
    """The content of a schema's file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _head(name: str, title: str, description: str, examples: list[Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:aura:{name}:v1",
        "title": title,
        "description": description,
        "examples": examples,
        **schema,
    }


def _plain(message: msgspec.Struct) -> Any:
    return msgspec.json.decode(msgspec.json.encode(message))


def _described(schema: dict[str, Any], meaning: dict[str, str]) -> dict[str, Any]:
    """msgspec's schema with the meaning of fields, the names of array items, and docstrings without their indent."""
    to_all = (TenantOpened, TenantKnown, ClockMoved, ClockTaken)
    arrays = (
        *(
            Entry,
            Credit,
            Matched,
            Answer,
            BankFact,
            ChainFact,
            Unmatched,
            TokensIn,
            NativeMoved,
            Paused,
            Applied,
            Pause,
            Pauses,
            Scope,
        ),
        Rollout,
    )
    structs: dict[str, type[msgspec.Struct]] = {struct.__name__: struct for struct in (*arrays, *to_all)}
    for name, part in schema["$defs"].items():
        if "description" in part:
            part["description"] = inspect.cleandoc(part["description"])
        for field, prop in part.get("properties", {}).items():
            if field in meaning:
                prop["description"] = meaning[field]
        if "prefixItems" in part:
            tagged = len(part["prefixItems"]) - len(structs[name].__struct_fields__)
            for field, item in zip(structs[name].__struct_fields__, part["prefixItems"][tagged:], strict=True):
                item["title"] = field
    return schema


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, content in schemas().items():
        (FOLDER / file).write_text(text(content), encoding="utf-8")
