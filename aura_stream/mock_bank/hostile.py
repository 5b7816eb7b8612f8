"""What no honest bank sends: an answer, an event or a file spoiled so that whoever believes it is hurt. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

HUGE: Final = 10_000_000
HTML: Final = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1><script>alert(1)</script></body></html>\n"
_PLACES: Final = ("inquiry_", "events_", "webhook_", "file_")
_AMOUNTS: Final = ("amount", "settled_amount")
_AMOUNT: Final = re.compile(rb"(<Amt [^>]*>)([0-9.]+)")


def kind_of(fault: str) -> str:
    """How a fault spoils, whatever it spoils: ``events_huge`` is ``huge``."""
    place = next((place for place in _PLACES if fault.startswith(place)), "")
    return fault.removeprefix(place)


def spoiled(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """A transfer, an event with one, or a list of events; as it is where ``kind`` spoils nothing of it."""
    if kind == "huge":
        return {**body, "padding": "x" * HUGE}
    if isinstance(body.get("events"), list):
        return {**body, "events": [spoiled(kind, event) for event in body["events"]]}
    if isinstance(body.get("data"), dict):
        return {**body, "data": {**body["data"], "transfer": spoiled(kind, body["data"]["transfer"])}}
    if kind == "wrong_types":
        return {name: [value] if isinstance(value, str) else str(value) for name, value in body.items()}
    if kind == "negative_amount":
        return {name: f"-{value}" if name in _AMOUNTS else value for name, value in body.items()}
    if kind == "wrong_currency" and "currency" in body:
        return {**body, "currency": {"USD": "EUR", "EUR": "USD"}[body["currency"]]}
    return body


def spoiled_file(kind: str, text: bytes) -> bytes:
    """A statement."""
    if kind == "html":
        return HTML
    if kind == "huge":
        return text.replace(b"<GrpHdr>", b"<!--" + b"x" * HUGE + b"--><GrpHdr>", 1)
    if kind == "wrong_types":
        return _AMOUNT.sub(rb"\1twelve", text)
    if kind == "negative_amount":
        return _AMOUNT.sub(rb"\1-\2", text)
    return text
