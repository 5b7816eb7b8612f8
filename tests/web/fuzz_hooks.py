"""What the contract fuzzer does not know by itself: how NDJSON travels."""

from __future__ import annotations

import json
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
