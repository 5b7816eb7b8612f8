"""What a bank's answers and events mean. Pure: bytes in, one of our words out.

What a bank sends is input from outside. What does not have exactly the form of the contract, or does not fit what was
asked, is not believed: an answer that cannot be believed is `lost`, as if none had come, and an inquiry follows.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from aura_stream.domain.lanes.bank import LOST, NEVER_TAKEN, NOT_FOUND, NOT_PROCESSED
from aura_stream.domain.settlement import RAILS
from aura_stream.domain.signals import ACCEPTED, NOTICE, REJECTED, RETURNED, SETTLED

_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,15})(\.[0-9]{1,2})?")
_CODE: Final = re.compile(r"[A-Z0-9]{1,8}")
_SECONDS: Final = re.compile(r"[0-9]{1,6}")
_NAME: Final = re.compile(r"[ -~]{1,80}")
_OUR_REFERENCE: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")

_FIAT: Final = frozenset(rail.fiat for rail in RAILS.values())

_KINDS: Final = {"pending": ACCEPTED, "sent": ACCEPTED, "settled": SETTLED, "rejected": REJECTED, "returned": ACCEPTED}
"""By status. That a payment came back is told by its event, with its date; an answer only says that it was taken."""
_EVENTS: Final = {
    "transfer.accepted": ACCEPTED,
    "transfer.settled": SETTLED,
    "transfer.received": SETTLED,
    "transfer.rejected": REJECTED,
    "transfer.returned": RETURNED,
    "transfer.corrected": NOTICE,
}

EVENTS_LISTED: Final = 100
"""How many events are asked for at once; fewer means that there are no more."""


class Unreadable(ValueError):
    """Something that no bank of this contract says."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a call: a kind of fact, or `not_processed`, `lost`, `not_found`. Amounts are cents."""

    kind: str
    code: str = ""
    bank_reference: str = ""
    amount: int = 0
    fact_id: str = ""
    status: int = 0  # of HTTP; 0 = no answer
    detail: str = ""
    wait_ms: int = 0  # how long the bank wishes not to be called
    is_unreadable: bool = False  # `lost`, although there was an answer: no bank of this contract says that


class Asked(NamedTuple):
    """What a call was about: an answer must fit it."""

    reference: str
    asset: str
    amount: int
    is_inquiry: bool


class News(NamedTuple):
    """What an event tells. `reference` is what the payment bears, `text` what its payer wrote."""

    kind: str
    reference: str
    fact_id: str
    code: str
    asset: str
    amount: int
    bank_reference: str
    at: int
    text: str
    is_incoming: bool


def answer_of(status: int, body: bytes, asked: Asked, retry_after: str = "") -> Answer:
    """What an HTTP answer means for the instruction that was sent or inquired about."""
    if status in (401, 403, 429) or (status == 503 and _says(body) == "unavailable"):
        # The contract of these: nothing was done.
        seconds = int(retry_after) if _SECONDS.fullmatch(retry_after) else 0
        return Answer(NOT_PROCESSED, status=status, detail=_says(body), wait_ms=seconds * 1000)
    if status == 404 and asked.is_inquiry and _says(body):
        return Answer(NOT_FOUND, status=status)
    if status in (200, 201):
        try:
            return _answered(status, _object(body), asked)
        except Unreadable as error:
            return Answer(LOST, status=status, detail=str(error), is_unreadable=True)
    if 400 <= status < 500 and status not in (404, 408, 409) and not asked.is_inquiry:
        # Refused for its form: the bank has not taken it and never will.
        return Answer(REJECTED, NEVER_TAKEN, status=status, detail=_says(body))
    return Answer(LOST, status=status, detail=_says(body))


def _answered(status: int, transfer: dict[str, Any], asked: Asked) -> Answer:
    told = _text(transfer, "status")
    if told not in _KINDS:
        raise Unreadable(f"{told[:40]!r} is no status")
    kind = _KINDS[told]
    amount, asset = cents_of(transfer, "amount"), _text(transfer, "currency")
    if (_text(transfer, "reference"), asset, amount) != (asked.reference, asked.asset, asked.amount):
        raise Unreadable("the answer is about another payment")
    if kind == SETTLED:
        amount = cents_of(transfer, "settled_amount")
    id_ = _text(transfer, "id")
    code = _code(transfer) if kind == REJECTED else ""
    return Answer(kind, code, id_, amount, f"{id_}:{kind}", status)


def news_of(event: dict[str, Any]) -> News | None:
    """What an event tells; None for one that is none of ours (recalls). Raises :class:`Unreadable`."""
    type_ = _text(event, "type")
    kind = _EVENTS.get(type_)
    if kind is None:
        return None
    data = event.get("data")
    transfer = data.get("transfer") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(transfer, dict):
        raise Unreadable("the event has no transfer")
    id_, direction = _text(transfer, "id"), _text(transfer, "direction")
    moved = kind in (SETTLED, RETURNED) and transfer.get("settled_amount") is not None
    amount = cents_of(transfer, "settled_amount" if moved else "amount")
    text = transfer.get("remittance", "")
    reference = transfer.get("reference", "")
    if not isinstance(text, str) or not isinstance(reference, str):
        raise Unreadable("reference and remittance are texts")
    return News(
        kind,
        reference,
        f"{_text(event, 'id') if kind == NOTICE else id_}:{kind}",
        _code(transfer) if kind in (REJECTED, RETURNED) else _notice(data) if kind == NOTICE else "",
        _currency(transfer),
        amount,
        id_,
        _time(transfer["settled_at"] if kind == SETTLED and "settled_at" in transfer else event.get("occurred_at")),
        "".join(c if c.isprintable() else "?" for c in text[:140]),
        direction == "incoming",
    )


def references_in(news: News) -> list[str]:
    """What may be a reference of ours in a payment that somebody else made."""
    return list(dict.fromkeys([news.reference, *_OUR_REFERENCE.findall(news.reference + " " + news.text)]))


def our_references_in(news: News) -> list[str]:
    """Those of them that have the form of ours."""
    return [one for one in references_in(news) if _OUR_REFERENCE.fullmatch(one)]


def cents_of(about: dict[str, Any], name: str) -> int:
    """Cents of a decimal text above zero. Raises :class:`Unreadable`."""
    text = about.get(name)
    if not isinstance(text, str) or not _AMOUNT.fullmatch(text):
        raise Unreadable(f"{name} is no amount")
    whole, _, part = text.partition(".")
    cents = int(whole) * 100 + int(part.ljust(2, "0") or "0")
    if not cents:
        raise Unreadable(f"{name} is zero")
    return cents


def amount_text(cents: int) -> str:
    """Cents as banks write them."""
    return f"{cents // 100}.{cents % 100:02d}"


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable("the answer is no JSON") from error
    if not isinstance(value, dict):
        raise Unreadable("the answer is no object")
    return value


def _text(about: dict[str, Any], name: str) -> str:
    value = about.get(name)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Unreadable(f"{name} is missing or no text")
    return value


def _code(transfer: dict[str, Any]) -> str:
    code = transfer.get("code", "")
    if not isinstance(code, str) or (code and not _CODE.fullmatch(code)):
        raise Unreadable("the code has a wrong form")
    return code


def _notice(data: dict[str, Any]) -> str:
    change = data.get("change")
    code = change.get("code", "") if isinstance(change, dict) else ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _currency(transfer: dict[str, Any]) -> str:
    currency = _text(transfer, "currency")
    if currency not in _FIAT:
        raise Unreadable(f"{currency!r} is no currency in which we have an account")
    return currency


def _time(value: object) -> int:
    """0 for what is no time of this age: an entry has the ledger's own then."""
    try:
        return max(0, int(datetime.fromisoformat(str(value)).timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0


def _says(body: bytes) -> str:
    """The bank's word for what went wrong: `code` or `type` of its problem document."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    word = (value.get("code") or value.get("error") or "") if isinstance(value, dict) else ""
    return word if isinstance(word, str) and _NAME.fullmatch(word) else ""
