"""`/v1/assets`: what money can be in, and what of it becomes what. All of the API speaks of assets by these ids."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aiohttp import web

from aura_stream.domain.assets import SCALES
from aura_stream.domain.settlement import RAILS, TOKENS
from web.answers import json_response
from web.call import Call
from web.problems import Problem


class _Known(NamedTuple):
    name: str
    kind: str


_KNOWN: Final = {
    "EUR": _Known("Euro", "fiat"),
    "USD": _Known("US dollar", "fiat"),
    "GBP": _Known("Pound sterling", "fiat"),
    "JPY": _Known("Japanese yen", "fiat"),
    "BTC": _Known("Bitcoin", "crypto"),
    "ETH": _Known("Ether", "crypto"),
    "XAU": _Known("Gold, in grams", "commodity"),
    "AUSD": _Known("Aura US dollar", "token"),
    "AEUR": _Known("Aura euro", "token"),
}


async def list_assets(call: Call) -> web.Response:
    """GET /v1/assets."""
    return _cacheable({"items": [_asset(one) for one in SCALES]})


async def get_asset(call: Call) -> web.Response:
    """GET /v1/assets/{asset}."""
    asset = call.path["asset"]
    if asset not in SCALES:
        raise Problem("unsupported_asset", f"{asset} is not an asset; known are {', '.join(SCALES)}.")
    return _cacheable(_asset(asset))


def _asset(asset: str) -> dict[str, Any]:
    known = _KNOWN[asset]
    found: dict[str, Any] = {"id": asset, "name": known.name, "kind": known.kind, "scale": SCALES[asset]}
    if asset in TOKENS:
        found["backed_by"] = TOKENS[asset]
    rails = [
        {"rail": name, "token": rail.token, "direction": "pull" if rail.is_pull else "push"}
        for name, rail in RAILS.items()
        if rail.fiat == asset
    ]
    return found | ({"rails": rails} if rails else {})


def _cacheable(body: dict[str, Any]) -> web.Response:
    response = json_response(body)
    # Assets are only ever added, and a scale never changes.
    response.headers["Cache-Control"] = "public, max-age=3600"
    return response
