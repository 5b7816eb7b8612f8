"""`/v1/accounts`: open, freeze, unfreeze, close; accounts, balances and entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from aura_stream.domain.ids import record_key
from aura_stream.ledger.reads import ACCOUNTS, ENTRIES, Balances, ReadsUnavailable
from web.answers import json_response, postgres_away
from web.call import Call
from web.commands import no_account, owner_of
from web.pages import asked, empty, time_of, times_of
from web.problems import FieldError, Problem
from web.submit import submit
from web.tail import Ends
from web.views import account_of_row, balances_of, entry_of_row


async def open_account(call: Call) -> web.Response:
    """POST /v1/accounts."""
    data = dict(call.body)
    customer = data.pop("customer", call.principal.customer)
    if not customer:
        place = FieldError(in_="body", pointer="/customer", code="missing_fields", detail="customer is missing")
        raise Problem("missing_fields", "customer is missing", errors=[place])
    if not call.may_touch(customer):
        raise Problem("insufficient_permissions", "An account is opened for oneself.")
    return await submit(call, "account.open", customer, data)


async def freeze_account(call: Call) -> web.Response:
    """POST /v1/accounts/{account_id}/freeze."""
    return await _change(call, "account.freeze")


async def unfreeze_account(call: Call) -> web.Response:
    """POST /v1/accounts/{account_id}/unfreeze."""
    return await _change(call, "account.unfreeze")


async def close_account(call: Call) -> web.Response:
    """POST /v1/accounts/{account_id}/close."""
    return await _change(call, "account.close")


async def get_account(call: Call) -> web.Response:
    """GET /v1/accounts/{account_id}."""

    async def make(ends: Ends) -> dict[str, Any]:
        return account_of_row(await _account(call, ends))

    return await call.services.answers.answer(call, [_partition(call)], make)


async def get_account_balances(call: Call) -> web.Response:
    """GET /v1/accounts/{account_id}/balances, now or as of `effective_at` and `known_at`."""
    account_id = call.path["account_id"]
    times = {name: time_of(name, call.query[name]) for name in ("effective_at", "known_at") if name in call.query}

    async def make(ends: Ends) -> dict[str, Any]:
        await _account(call, ends)
        try:
            balances: Balances | None
            if times:
                balances = await call.services.reads.balances_as_of(
                    call.tenant, account_id, times.get("effective_at"), times.get("known_at")
                )
            else:
                balances = await call.services.reads.balances(call.tenant, account_id)
        except ReadsUnavailable as error:
            raise postgres_away(error) from None
        as_of = {name: call.query[name] for name in times}
        return balances_of(account_id, balances or Balances(0, 0, 0)) | as_of

    return await call.services.answers.answer(call, [_partition(call)], make)


async def list_account_entries(call: Call) -> web.Response:
    """GET /v1/accounts/{account_id}/entries, newest first."""
    wanted = asked(call.query, ENTRIES, times_of(call.query))

    async def make(ends: Ends) -> dict[str, Any]:
        await _account(call, ends)
        try:
            rows, total = await call.services.reads.entries_of_account(
                call.tenant, call.path["account_id"], wanted.page, counted=wanted.is_numbered
            )
        except ReadsUnavailable as error:
            raise postgres_away(error) from None
        return wanted.answer(rows, total, entry_of_row)

    return await call.services.answers.answer(call, [_partition(call)], make)


async def list_accounts(call: Call) -> web.Response:
    """GET /v1/accounts: one's own, or with the reach for it those of the tenant."""
    filters = times_of(call.query)
    only = call.only_customer
    is_within_reach = only is None or filters.setdefault("customer", only) == only
    wanted = asked(call.query, ACCOUNTS, filters)
    if not is_within_reach:
        # Somebody else's list is as empty as that of a customer without accounts.
        return json_response(empty(wanted))

    async def make(ends: Ends) -> dict[str, Any]:
        try:
            rows, total = await call.services.reads.accounts(call.tenant, wanted.page, counted=wanted.is_numbered)
        except ReadsUnavailable as error:
            raise postgres_away(error) from None
        return wanted.answer(rows, total, account_of_row)

    return await call.services.answers.answer(call, partitions_of(call, filters.get("customer")), make)


def partitions_of(call: Call, customer: str | None) -> Sequence[int]:
    """The partitions whose rows a listing shows: of one customer, or all."""
    services = call.services
    if customer is None:
        return range(services.settings.partitions)
    return [services.commands.partition_of(record_key(call.tenant, customer))]


async def _change(call: Call, type_: str) -> web.Response:
    account_id = call.path["account_id"]
    customer = owner_of(call, account_id, "account_id")
    return await submit(call, type_, customer, {"account_id": account_id})


def _partition(call: Call) -> int:
    """The partition of the path's account. Raises Problem when it is not the caller's to see."""
    customer = owner_of(call, call.path["account_id"], "account_id")
    return call.services.commands.partition_of(record_key(call.tenant, customer))


async def known_account(call: Call) -> dict[str, Any]:
    """The row of the path's account as of now. Raises Problem, 404 only when it is proven."""
    return await _account(call, await call.services.lookup.fresh([_partition(call)]))


async def _account(call: Call, ends: Ends) -> dict[str, Any]:
    """The account's row after everything decided below `ends`. Raises Problem, 404 only when it is proven."""
    account_id = call.path["account_id"]
    services = call.services
    try:
        row = await services.reads.account(call.tenant, account_id)
        if row is None:
            # Its opening may be accepted and not decided: an accepted id never answers 404.
            await services.lookup.decided(_partition(call), ends)
            row = await services.reads.account(call.tenant, account_id)
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    if row is None:
        raise no_account(account_id)
    return row
