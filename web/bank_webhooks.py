"""`POST /v1/bank-webhooks/{bank}`: what a bank tells by itself. Only who signed it is looked at here.

The event goes into the lane's inbox as it came; the lane passes over what it has heard before and takes any order.
"""

from __future__ import annotations

import re
import time
from typing import Final

import msgspec
import orjson
from aiohttp import web

from aura_stream import SetupError
from aura_stream.banks.credentials import Credentials, load_credentials
from aura_stream.domain.ids import bank_lane_key
from aura_stream.domain.lane_news import ENCODE, Heard
from aura_stream.webhooks.signatures import verify
from web.call import Call, read_body, require_media_type
from web.limits import spend_failure
from web.problems import Problem

BODY_MAX: Final = 64 * 1024
_CHALLENGE: Final = {"WWW-Authenticate": "Signature"}  # RFC 9110, 11.6.1: a 401 has one
_ID: Final = re.compile(r"[!-~]{1,128}")


async def receive(call: Call) -> web.Response:
    """204 once the event is durable; a bank that hears anything else sends it again."""
    require_media_type(call.request, call.operation.media_type)
    raw = await read_body(call.request, BODY_MAX)
    bank, headers = call.path["bank"], call.request.headers
    id_ = headers.get("webhook-id", "")
    known = _credentials(call).get(bank)
    stamp, signature = headers.get("webhook-timestamp", ""), headers.get("webhook-signature", "")
    # A bank that nobody knows is answered like a signature that is wrong: who asks learns nothing.
    if known is None or not _ID.fullmatch(id_) or not _is_signed(known, id_, stamp, signature, raw):
        await spend_failure(call.request, call.services, call.origin)
        detail = "The event is not signed by the bank, or not within the last 5 minutes."
        raise Problem("signature_invalid", detail, headers=_CHALLENGE)
    try:
        event = orjson.loads(raw)
        told = orjson.dumps(event)  # refuses what is too deep for those who read it behind us
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        raise Problem("invalid_json", str(error)) from None
    if not isinstance(event, dict):
        raise Problem("invalid_json", "An event is a JSON object.")
    await call.services.bank_inbox.append(bank_lane_key(bank), ENCODE(Heard(id_, msgspec.Raw(told))))
    return web.Response(status=204)


def _is_signed(known: Credentials, id_: str, stamp: str, signature: str, raw: bytes) -> bool:
    is_number = stamp.isascii() and stamp.isdigit() and len(stamp) <= 12
    return is_number and verify(known.webhook_secret, id_, stamp, signature, raw, time.time())


def _credentials(call: Call) -> dict[str, Credentials]:
    try:
        return load_credentials(call.services.settings)
    except SetupError:
        raise Problem("service_unavailable", "No bank is connected here.", retry_after_s=60) from None
