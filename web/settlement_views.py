"""What clients see of the bank's and the chain's part in a transaction, and what a transaction waits for. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aura_stream.domain.assets import format_amount
from aura_stream.domain.bank_codes import code_of
from aura_stream.domain.commands import format_time
from aura_stream.domain.events import ByBank
from aura_stream.domain.ids import bank_reference
from aura_stream.domain.reasons import REASONS
from aura_stream.domain.settlement import RAILS, TOKENS
from aura_stream.domain.state import REQUIRES_ATTENTION, TERMINAL

Json = dict[str, Any]

EXPIRES: Final = "expires"
ATTENTION: Final = "requires_attention"


_TEXTS: Final = (
    *("rail", "bank", "mint_to", "parent_id", "approved_by", "parked_by", "bank_reference", "hash"),
    *("write_off_by", "note"),
)


_STAFF: Final = frozenset({"write_off", "write_off_by", "note"})
"""What only persons of ours see."""
_DECISION: Final = {"who": "operator", "what": "A decision: transaction.resolve.", "until": None, "then": None}


class Waiting(NamedTuple):
    """Who has to act in a state, what is waited for, and what becomes of it when the time is up."""

    who: str  # payer | bank | chain | operator | owner | time
    what: str
    then: str = ATTENTION


WAITING: Final[dict[str, Waiting]] = {
    "awaiting_funds": Waiting("payer", "The money, with our reference.", EXPIRES),
    "held": Waiting("owner", "A capture or a release.", EXPIRES),
    "requires_approval": Waiting("operator", "The approval of a second person.", EXPIRES),
    "submitting": Waiting("bank", "The bank to take it in. Without an answer it is asked, never sent again."),
    "submitted": Waiting("bank", "The bank to settle it."),
    "funds_settled": Waiting("time", "The end of the hold before the mint.", "mint_queued"),
    "mint_queued": Waiting("chain", "The mint to be signed, once the reserve covers it."),
    "withdrawing": Waiting("chain", "The mint to be taken back before it is signed."),
    "mint_broadcast": Waiting("chain", "A block with the mint."),
    "mint_confirming": Waiting("chain", "Enough blocks upon the mint."),
    "returning": Waiting("chain", "The burn of what the customer gives back for a return."),
    "tokens_held": Waiting("chain", "The burn to be signed."),
    "burn_broadcast": Waiting("chain", "A block with the burn."),
    "burn_confirming": Waiting("chain", "Enough blocks upon the burn."),
    "tokens_received": Waiting("chain", "The tokens to be moved from the deposit address to our custody."),
    "payout_submitting": Waiting("bank", "The bank to take it in. Without an answer it is asked, never sent again."),
    "payout_submitted": Waiting("bank", "The bank to settle it."),
}
"""States in which nothing more happens before someone outside acts: an HTTP wait ends there."""


def shown(resource: Json, part: ByBank | None) -> Json:
    """The members that are made from the state and from what the bank and the chain have to do with it."""
    made: Json = {"waits_for": _waits_for(resource, part)}
    if part is not None:
        made["settlement"] = _settlement(resource, part)
    if (reason := REASONS.get(resource["reason"] or "")) is not None:
        made |= {"reason_title": reason.title, "reason_hint": reason.hint}
    return made


def for_owner(resource: Json) -> Json:
    """The same as its customer may read it: without what persons of ours ask for and note."""
    part = resource.get("settlement")
    if part is None or not part.keys() & _STAFF:
        return resource
    made = resource | {"settlement": {name: value for name, value in part.items() if name not in _STAFF}}
    if "write_off" in part:
        made["waits_for"] = None if resource["status"] in TERMINAL else _DECISION
    return made


def _settlement(resource: Json, part: ByBank) -> Json:
    asset: str = resource["asset"]
    fiat = RAILS[part.rail].fiat if part.rail in RAILS else TOKENS.get(asset, asset)
    made: Json = {name: text for name in _TEXTS if (text := getattr(part, name))}
    if part.rail:
        step = "payout" if resource["type"] == "withdrawal" else "deposit"
        made["reference"] = bank_reference(resource["id"], step)
    amounts = ("fee", "suspense", "write_off")
    made |= {name: format_amount(int(amount), fiat) for name in amounts if (amount := getattr(part, name))}
    if part.code:
        made["code"] = bank_code(part.code, part.action)
    return made


def bank_code(code: str, action: str) -> Json:
    """A bank's code with its meaning and what follows from it."""
    row = code_of(code)
    return {"code": code, "meaning": row.meaning, "source": row.source, "action": action}


def _waits_for(resource: Json, part: ByBank | None) -> Json | None:
    status, state = resource["status"], resource["state"]
    if part is not None and part.write_off:
        what = f"The approval of a write-off by another person than {part.write_off_by}."
        return {"who": "operator", "what": what, "until": None, "then": None}
    if status in TERMINAL and state != "returning":
        return None
    until = (format_time(part.deadline) if part.deadline else None) if part is not None else resource["expires_at"]
    if part is not None and part.parked_by:
        return {"who": "operator", "what": f"Pause {part.parked_by} to be lifted.", "until": None, "then": None}
    if status == REQUIRES_ATTENTION:
        return _DECISION
    row = WAITING.get(state)
    if row is None:
        return None
    return {"who": row.who, "what": row.what, "until": until, "then": row.then if until else None}
