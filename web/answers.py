"""Small answers that several resources give."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from aura_stream.ledger.reads import ReadsUnavailable
from web.problems import Problem


def json_response(body: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


def postgres_away(error: ReadsUnavailable) -> Problem:
    """The 503 of a read that needs Postgres."""
    return Problem(
        "service_unavailable", f"The ledger database does not answer ({str(error).partition(':')[0]}).", retry_after_s=2
    )
