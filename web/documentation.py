"""`/swagger` and `/docs`: the contract as a page, and `/problems/{code}`: what a problem's type means. All from here.

The page is three small files of ours, served from memory; nothing is loaded from elsewhere, so it works without a
network, and its policy allows no script but its own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from aiohttp import web

from aura_stream.domain.reasons import CATEGORIES, REASONS
from web.answers import json_response
from web.call import Call
from web.problems import Problem

_PAGE: Final = Path(__file__).with_name("docs_page")
_FILES: Final = {
    "index.html": "text/html",
    "explorer.js": "text/javascript",
    "style.css": "text/css",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


async def get_page(call: Call) -> web.Response:
    """GET /docs and GET /swagger."""
    return _file("index.html")


async def get_page_file(call: Call) -> web.Response:
    """GET /docs/{file}: the page's script and style."""
    return _file(call.path["file"])


async def list_problems(call: Call) -> web.Response:
    """GET /problems: the catalogue of reasons."""
    return json_response({"items": [_reason(code) for code in sorted(REASONS)]})


async def get_problem(call: Call) -> web.Response:
    """GET /problems/{code}: where the `type` of a problem document leads."""
    code = call.path["code"]
    if code not in REASONS:
        raise Problem("route_not_found", f"There is no problem {code}; see /problems.")
    return json_response(_reason(code))


def _reason(code: str) -> dict[str, object]:
    reason = REASONS[code]
    category = CATEGORIES[reason.category]
    return {
        "code": code,
        "type": f"/problems/{code}",
        "title": reason.title,
        "hint": reason.hint,
        "status": reason.status,
        "category": reason.category,
        "error_type": reason.error_type,
        "retry": reason.retry,
        "tries": category.tries,
        "base_ms": category.base_ms,
    }


def _file(name: str) -> web.Response:
    response = web.Response(body=_bytes(name), content_type=_FILES[name], charset="utf-8")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Cache-Control"] = "no-cache"
    return response


@cache
def _bytes(name: str) -> bytes:
    return (_PAGE / name).read_bytes()
