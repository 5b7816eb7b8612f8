"""How the bank misbehaves, decided before it happens: by magic amount or name, by profile, by seed.

Pure. A draw depends on the seed, the bank, the client's reference and how often that reference has been here; never on
time or on what other calls do. So the same calls meet the same faults, in whatever order calls of other references
arrive. Rates are in basis points (1/10,000).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SUBMIT: Final = {
    "error_before": "503, and nothing was done",
    "error_after": "500, and it was done",
    "timeout_before": "no answer, and nothing was done",
    "timeout_after": "no answer, and it was done",
    "late": "no answer, inquiries say not found, and it is done after the longest processing delay's half",
    "rate_limited": "429 with Retry-After, and nothing was done",
    "cut_answer": "it was done, and the answer breaks off",
    "html": "it was done, and the answer is a page of HTML",
    "huge": "it was done, and the answer is 10 MB long",
    "wrong_types": "it was done, and numbers are texts and texts are lists",
    "negative_amount": "it was done, and the answer's amount is negative",
    "wrong_currency": "it was done, and the answer names another currency",
}
"""What can befall a call that moves money; at most one of them."""
INQUIRY: Final = {
    "inquiry_error": "503",
    "inquiry_hang": "no answer",
    "stale_status": "the status before the present one",
    "inquiry_html": "the answer is a page of HTML",
    "inquiry_huge": "the answer is 10 MB long",
    "inquiry_wrong_types": "numbers are texts and texts are lists",
    "inquiry_negative_amount": "the answer's amounts are negative",
    "inquiry_wrong_currency": "the answer names another currency",
}
EVENTS: Final = {
    "events_error": "the list of events: 503",
    "events_html": "the list of events is a page of HTML",
    "events_huge": "the list of events is 10 MB long",
    "events_wrong_types": "in the list of events numbers are texts and texts are lists",
    "events_negative_amount": "in the list of events amounts are negative",
}
"""Of one request for events; whoever asks again behind the same number may have the true ones."""
OUTCOME: Final = {
    "reject": "rejected before it settles: ACH R03, SEPA AC01",
    "return": "returned after it settled: ACH R01, SEPA AC04",
    "one_cent_off": "settled with one cent less than asked",
    "settled_twice": "settled once and told twice, as two events",
    "stuck": "stays pending until somebody acts",
    "instant_timeout": "SCT Inst only: rejected with AB05 after 7 s",
}
WEBHOOK: Final = {
    "lost": "never sent",
    "duplicate": "sent twice",
    "out_of_order": "sent after the event that follows it",
    "bad_signature": "first sent with a wrong signature",
    "stale": "first sent with a timestamp that is 10 min old",
    "cut": "first sent with half of its body",
    "webhook_html": "first sent, and signed, as a page of HTML",
    "webhook_huge": "first sent, and signed, 10 MB long",
    "webhook_wrong_types": "first sent, and signed, with texts for numbers and lists for texts",
    "webhook_negative_amount": "first sent, and signed, with negative amounts",
}
TOKEN: Final = {
    "token_error_before": "503, and the user's code or refresh token is still good",
    "token_error_after": "500, and it is used up",
}
"""Of the token endpoint, for a user's tokens only."""
DATA: Final = {
    "data_error": "account data: 503",
    "data_limited": "account data: 429 with Retry-After",
}
SLOW: Final = {"slow": "the answer takes up to `slow_ms` longer"}
FILES: Final = {
    "cut_file": "a statement breaks off in the middle",
    "file_html": "a statement is a page of HTML",
    "file_huge": "a statement is right, and 10 MB longer than it need be",
    "file_wrong_types": "a statement has words for amounts",
    "file_negative_amount": "a statement has negative amounts",
}
LINES: Final = {
    "line_lost": "a line is missing on the statement, and its balance says so too",
    "line_twice": "a line is on the statement twice",
    "line_off": "a line on the statement is one cent more",
}
"""Of statements: what the bank's books have right and its statement wrong, each time that it is asked for."""
ALL: Final = SLOW | SUBMIT | INQUIRY | EVENTS | OUTCOME | WEBHOOK | FILES | LINES | TOKEN | DATA
"""Every fault with what happens."""

PROFILES: Final[dict[str, dict[str, int]]] = {
    "calm": {},
    "flaky": {
        "slow": 1000,
        "error_before": 800,
        "error_after": 500,
        "timeout_before": 300,
        "timeout_after": 600,
        "late": 200,
        "rate_limited": 400,
        "cut_answer": 200,
        "inquiry_error": 1000,
        "stale_status": 500,
        "lost": 700,
        "duplicate": 900,
        "out_of_order": 600,
        "bad_signature": 300,
        "stale": 200,
        "cut": 300,
        "token_error_before": 300,
        "token_error_after": 200,
        "data_error": 500,
        "data_limited": 300,
    },
    "hostile": {
        "slow": 2000,
        "error_before": 1200,
        "error_after": 900,
        "timeout_before": 500,
        "timeout_after": 1000,
        "late": 500,
        "rate_limited": 700,
        "cut_answer": 400,
        "html": 300,
        "huge": 100,
        "wrong_types": 300,
        "negative_amount": 300,
        "wrong_currency": 100,
        "settled_twice": 200,
        "inquiry_error": 1500,
        "inquiry_hang": 500,
        "stale_status": 1000,
        "inquiry_html": 100,
        "inquiry_huge": 50,
        "inquiry_wrong_types": 100,
        "inquiry_negative_amount": 100,
        "inquiry_wrong_currency": 100,
        "events_error": 500,
        "events_html": 100,
        "events_huge": 50,
        "events_wrong_types": 100,
        "events_negative_amount": 100,
        "reject": 500,
        "return": 500,
        "one_cent_off": 200,
        "lost": 1500,
        "duplicate": 1500,
        "out_of_order": 1000,
        "bad_signature": 800,
        "stale": 500,
        "cut": 500,
        "webhook_html": 100,
        "webhook_huge": 50,
        "webhook_wrong_types": 100,
        "webhook_negative_amount": 100,
        "cut_file": 2000,
        "file_html": 200,
        "file_huge": 50,
        "file_wrong_types": 200,
        "file_negative_amount": 200,
        "token_error_before": 800,
        "token_error_after": 500,
        "data_error": 1500,
        "data_limited": 700,
    },
    "down": {},
    "hanging": {},
}
"""Rates by profile. ``down`` answers 503 to every call at once, ``hanging`` answers none; webhooks wait while down."""

MAGIC_ANY: Final[dict[int, str]] = {
    1: "stuck",
    2: "slow",
    11: "refused",
    12: "one_cent_off",
    13: "bad_signature",
    14: "stale",
    15: "cut",
    55: "timeout_after",
    56: "error_after",
    57: "late",
    58: "cut_answer",
    66: "duplicate",
    77: "out_of_order",
    88: "error_twice",
    99: "lost",
}
"""Cents part of an amount -> what happens, on every rail."""
MAGIC_RETURN: Final[dict[tuple[str, int], tuple[str, str]]] = {
    ("USD", 22): ("return", "R01"),
    ("USD", 33): ("return", "R03"),
    ("USD", 44): ("return", "R10"),
    ("EUR", 22): ("return", "AC04"),
    ("EUR", 33): ("reject", "AC01"),
    ("EUR", 44): ("recall", "FRAD"),
}
"""Currency and cents part -> what comes later, with its code."""

_NAME: Final = re.compile(r"(RETURN|REJECT|NOC|FAULT) ([A-Za-z0-9_]{2,20})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Profile:
    """How one bank behaves at present."""

    name: str = "calm"
    seed: int = 1
    rates: Mapping[str, int] = field(default_factory=dict)
    slow_ms: int = 300
    hang_ms: int = 30_000
    skew_s: int = 0
    """By how many seconds the bank's own clock is wrong when it signs a webhook."""
    calls_per_s: int = 0
    """More calls than these within a second of the machine are answered with 429; 0: no limit."""

    def rate(self, fault: str) -> int:
        """Basis points of ``fault``: its own, else the named profile's."""
        return self.rates.get(fault, PROFILES[self.name].get(fault, 0))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What shall become of a transfer once it is accepted. At most one of ``reject`` and ``later``."""

    refused: bool = False
    stuck: bool = False
    one_cent_off: bool = False
    settled_twice: bool = False
    instant_timeout: bool = False
    reject: str = ""
    later: tuple[str, str] | None = None
    """``return``, ``recall`` or ``noc``, and its code."""


def draw(seed: int, *parts: object) -> int:
    """A number from 0 to 9999 that depends on nothing but the arguments."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10_000


def pick(profile: Profile, faults: Mapping[str, str], *parts: object) -> str:
    """At most one of ``faults`` by its rate; empty for none. Rates beyond 10,000 in sum are cut off at the end."""
    drawn, edge = draw(profile.seed, *parts), 0
    for fault in faults:
        edge += profile.rate(fault)
        if drawn < edge:
            return fault
    return ""


def named(name: str) -> tuple[str, str] | None:
    """What a counterparty's name asks for: kind (``return``, ``reject``, ``noc``, ``fault``) and code, or None."""
    found = _NAME.fullmatch(name.strip())
    if found is None:
        return None
    kind = found[1].lower()
    return kind, found[2].lower() if kind == "fault" else found[2].upper()


def magic(cents: int, name: str) -> str:
    """The fault that amount or name ask for; empty for none."""
    wish = named(name)
    if wish is not None and wish[0] == "fault":
        return wish[1]
    return MAGIC_ANY.get(cents % 100, "")


def on_submit(profile: Profile, bank: str, reference: str, times: int, cents: int, name: str) -> str:
    """The fault of the ``times``-th call (from 1) that carries ``reference``; empty for none.

    Magic faults befall the first call only (``error_twice``: the first two), so that the client's recovery is seen.
    """
    wish = magic(cents, name)
    if wish == "error_twice":
        return "error_before" if times <= 2 else ""
    if wish in SUBMIT:
        return wish if times == 1 else ""
    return pick(profile, SUBMIT, bank, "submit", reference, times)


def on_inquiry(profile: Profile, bank: str, reference: str, times: int) -> str:
    """The fault of the ``times``-th inquiry after ``reference``."""
    return pick(profile, INQUIRY, bank, "inquiry", reference, times)


def on_events(profile: Profile, bank: str, after: int, times: int) -> str:
    """The fault of the ``times``-th list of events behind ``after``."""
    return pick(profile, EVENTS, bank, "events", after, times)


def is_slow(profile: Profile, bank: str, reference: str, times: int, cents: int, name: str) -> int:
    """By how many milliseconds an answer is late."""
    if magic(cents, name) == "slow":
        return profile.slow_ms
    if draw(profile.seed, bank, "slow", reference, times) >= profile.rate("slow"):
        return 0
    return profile.slow_ms * (1 + draw(profile.seed, bank, "delay", reference, times)) // 10_000


def on_outcome(profile: Profile, bank: str, reference: str, currency: str, cents: int, name: str) -> Outcome:
    """What shall become of the transfer ``reference``: its name first, then its amount, then the profile's rates."""
    wish = named(name)
    if wish is not None and wish[0] != "fault":
        kind, code = wish
        return Outcome(reject=code) if kind == "reject" else Outcome(later=(kind, code))
    later = MAGIC_RETURN.get((currency, cents % 100))
    if later is not None:
        return Outcome(reject=later[1]) if later[0] == "reject" else Outcome(later=later)
    fault = magic(cents, name)
    if not fault:
        fault = pick(profile, OUTCOME, bank, "outcome", reference)
    codes = {("reject", "USD"): "R03", ("reject", "EUR"): "AC01", ("return", "USD"): "R01", ("return", "EUR"): "AC04"}
    return Outcome(
        refused=fault == "refused",
        stuck=fault == "stuck",
        one_cent_off=fault == "one_cent_off" and cents > 1,
        settled_twice=fault == "settled_twice",
        instant_timeout=fault == "instant_timeout",
        reject=codes.get((fault, currency), "") if fault == "reject" else "",
        later=("return", codes[fault, currency]) if fault == "return" else None,
    )


def on_webhook(profile: Profile, bank: str, transfer: str, seq: int, cents: int, name: str) -> str:
    """What befalls the webhook of event ``seq`` of a transfer; magic befalls the first, ``lost`` befalls all."""
    wish = magic(cents, name)
    if wish in WEBHOOK:
        return wish if seq == 1 or wish == "lost" else ""
    return pick(profile, WEBHOOK, bank, "webhook", transfer, seq)
