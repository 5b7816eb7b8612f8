"""`/v1/accounts/{account_id}/deposit-address`: where tokens that are held outside come back."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any, Final

import msgspec
from aiohttp import web

from aura_stream.domain.assets import format_amount
from aura_stream.domain.commands import format_time
from aura_stream.domain.ids import chain_lane_key, parse_account_id
from aura_stream.domain.lane_news import AddressWanted
from aura_stream.domain.lanes.minter import Limits
from aura_stream.domain.reasons import Refused
from aura_stream.domain.settlement import TOKENS
from aura_stream.domain.state import SettlementRules
from aura_stream.ledger.reads import ReadsUnavailable
from web.accounts import known_account
from web.answers import json_response, postgres_away
from web.call import Call
from web.identity.once import once

_POLL_S: Final = 0.1


async def get_deposit_address(call: Call) -> web.Response:
    """GET /v1/accounts/{account_id}/deposit-address; null while there is none."""
    return json_response(await _of(call, await known_account(call)))


async def ask_deposit_address(call: Call) -> web.Response:
    """POST /v1/accounts/{account_id}/deposit-address: told to the minter's lane; waits for its answer for a while."""

    async def make() -> tuple[int, dict[str, Any]]:
        row = await known_account(call)
        found = await _of(call, row)
        if found["address"] is None:
            if row["status"] == "closed":
                raise Refused("account_inactive", f"{row['account_id']} is closed")
            lane = chain_lane_key(found["chain"], found["token"])
            news = AddressWanted(call.tenant, row["account_id"])
            await call.services.chain_inbox.append(lane, msgspec.json.encode(news))
            for _ in range(int(call.services.settings.api_wait_s / _POLL_S)):
                await asyncio.sleep(_POLL_S)
                found = await _of(call, row)
                if found["address"] is not None:
                    break
        return (202 if found["address"] is None else 200), found

    return await once(call, make)


async def _of(call: Call, row: dict[str, Any]) -> dict[str, Any]:
    account_id = row["account_id"]
    token, chain = parse_account_id(account_id).asset, _chain(call.services.settings.settlement_rules)
    if token not in TOKENS:
        raise Refused("unsupported_asset", f"{token} is no token on a chain")
    try:
        found = await call.services.reads.deposit_address(call.tenant, account_id, f"chain:{chain}:{token}")
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    return {
        "account_id": account_id,
        "chain": chain,
        "token": token,
        "address": None if found is None else found["address"],
        "least": format_amount(_least(call.services.settings.chain_limits).get(token, 0), token),
        "given_at": None if found is None else format_time(int(found["given_at"].timestamp() * 1000)),
    }


@lru_cache(maxsize=4)
def _least(limits: str) -> dict[str, int]:
    return msgspec.json.decode(limits, type=Limits).least_sweep


@lru_cache(maxsize=4)
def _chain(rules: str) -> str:
    return msgspec.json.decode(rules, type=SettlementRules).chain
