"""Which pages of other origins may call the API: those that the settings name (never `*`, never `null`)."""

from __future__ import annotations

from aiohttp import web

from web.services import SERVICES

_EXPOSED = (
    "X-Request-Id, ETag, Location, Retry-After, Idempotent-Replayed, Preference-Applied, RateLimit, RateLimit-Policy, "
    "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
_ALLOWED = (
    "Authorization, Content-Type, Idempotency-Key, Prefer, Aura-Tenant, If-None-Match, Last-Event-ID, X-Request-Id, "
    "traceparent"
)
_METHODS = "GET, POST, PUT, PATCH, DELETE"
_REMEMBER_S = 600


def cors_headers(request: web.Request, origins: tuple[str, ...]) -> dict[str, str]:
    """The headers that let a page read an answer. Logins travel in a header, never in cookies: no credentials."""
    origin = request.headers.get("Origin")
    if origin not in origins:
        return {"Vary": "Origin"}
    return {"Vary": "Origin", "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED}


def preflight(request: web.Request) -> web.Response | None:
    """The answer to a browser that asks whether a page may; None when this is no such question, or the page may not."""
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
        return None
    if request.headers.get("Origin") not in request.app[SERVICES].settings.cors_origins:
        return None
    headers = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": _ALLOWED,
        "Access-Control-Max-Age": str(_REMEMBER_S),
    }
    return web.Response(status=204, headers=headers)
