"""What the contract fuzzer does not know by itself: how NDJSON travels, and not to stop the ledger for everybody."""

from __future__ import annotations

import json
import re
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def _ndjson(ctx: Any, value: Any) -> bytes:
    """The body is the text itself."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.encode("utf-8", "surrogatepass")


@schemathesis.deserializer("application/x-ndjson")
def _lines(ctx: Any, response: Any) -> str:
    """The contract says of an NDJSON answer only that it is text."""
    return str(response.text)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A pause that it sets is about a tenant that nobody has, and the clock moves by a second: the other requests are
    to mean something."""
    if case.operation.path == "/v1/simulate/clock" and isinstance(case.body, dict):
        # What is wrong stays wrong: it must be refused.
        if type(by := case.body.get("advance_s")) is int and 1 <= by <= 31_622_400:
            case.body["advance_s"] = 1
        return
    if case.operation.path != "/v1/pauses" or not isinstance(case.body, dict):
        return
    scope = case.body.get("scope")
    # What is wrong stays wrong: it must be refused.
    if isinstance(scope, dict) and re.fullmatch(r"[a-z0-9_-]{1,64}", str(scope.get("tenant", "any"))):
        case.body["scope"] = scope | {"tenant": "nobody-at-all"}
