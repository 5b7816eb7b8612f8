"""From the shapes of the five systems to ours, and back. Pure; who may do what is decided by the operation itself."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import orjson

from aura_stream.domain.assets import SCALES, parse_amount
from aura_stream.domain.ids import derived_id, id_text
from aura_stream.domain.settlement import TOKENS
from aura_stream.identity.permissions import Reach
from aura_stream.identity.repository import USERS
from aura_stream.ledger.listing import make_cursor, order_of, read_cursor
from web.aliases.given import Given, Json, Taken
from web.problems import FieldError, Problem

_PAGE_SIZE_MAX: Final = 100
_KEYSET: Final = order_of(USERS, "created_at:asc")
_ACTIONS: Final = uuid.UUID("0a4c7d0e-3b06-5a8e-9d55-8f0c7e6c1d21")
"""Namespace of the keys of actions that come without one: the same action on the same transaction, the same key."""

_PAYMENT_STATUS: Final = {
    "created": "PENDING",
    "requires_approval": "PENDING",
    "processing": "PROCESSING",
    "requires_attention": "PROCESSING",
    "completed": "COMPLETED",
    "failed": "FAILED",
    "returned": "FAILED",
    "canceled": "CANCELLED",
}
_PAYMENT_FILTER: Final[dict[str, dict[str, str]]] = {
    "PENDING": {"state": "awaiting_funds,requires_approval"},
    "PROCESSING": {"status": "processing,requires_attention", "state": "!awaiting_funds"},
    "COMPLETED": {"status": "completed"},
    "FAILED": {"status": "failed,returned"},
    "CANCELLED": {"status": "canceled"},
}
_PAYMENT_TYPE: Final = {
    "deposit": "DEPOSIT",
    "suspense": "DEPOSIT",
    "transfer": "TRANSFER",
    "hold": "PAYMENT",
    "withdrawal": "WITHDRAWAL",
    "gas": "PAYMENT",
}


# --- orders of a stablecoin ------------------------------------------------------------------------------------------

_ORDER_STATUS: Final = {
    "created": "created",
    "requires_approval": "created",
    "processing": "pending",
    "requires_attention": "pending",
}


def take_orders(given: Given) -> Taken:
    """What came in and what went out, minted and burnt or not."""
    return Taken(query=dict(given.query) | {"type": "deposit,withdrawal"})


def give_orders(body: Json, given: Given) -> Json:
    """A page of orders (A16)."""
    return {"items": [give_order(one, given) for one in body["items"]], "next_cursor": body["next_cursor"]}


def give_order(body: Json, given: Given) -> Json:
    """A deposit or withdrawal as an order: which asset becomes which, in base units (A16).

    Of what is neither there is no order: it is not found.
    """
    settlement, asset, is_out = body.get("settlement") or {}, str(body["asset"]), body["type"] == "withdrawal"
    if body["type"] not in ("deposit", "withdrawal"):
        raise Problem("transaction_not_found", f"There is no order {body['id']}.")
    fiat = TOKENS.get(asset, asset)
    token = next((token for token, backed_by in TOKENS.items() if backed_by == fiat), asset)
    kind, source, target = ("withdrawal" if is_out else "deposit"), asset, asset
    if is_out and asset in TOKENS:
        kind, target = "burn", fiat
    elif settlement.get("mint_to"):
        kind, source, target = "mint", fiat, token
    fee = str(settlement.get("fee", "0"))
    status = "pending_funding" if body["state"] == "awaiting_funds" else _ORDER_STATUS.get(body["status"])
    order = {
        "id": body["id"],
        "type": kind,
        "status": status or body["status"],
        "fromAsset": source,
        "fromAmount": str(parse_amount(body["amount"], source)),
        "toAsset": target,
        "toAmount": str(_in_units(Decimal(body["amount"]) - Decimal(fee), target)),
        "feeAmount": str(parse_amount(fee, fiat)),
        "createdAt": body["created_at"],
        "updatedAt": body["updated_at"],
    }
    return order | ({"transactionHash": settlement["hash"]} if "hash" in settlement else {})


def _in_units(amount: Decimal, asset: str) -> int:
    return int(amount.scaleb(SCALES[asset]))


# --- Aurix, and UPOP where both own a path --------------------------------------------------------------------------


def give_session(body: Json, given: Given) -> Json:
    """Aurix' login (X05) with UPOP's names beside (U12)."""
    names = ("access_token", "refresh_token", "token_type", "expires_in")
    user = body["user"]
    return {name: body[name] for name in names} | {
        "accessToken": body["access_token"],
        "refreshToken": body["refresh_token"],
        "user": {name: user[name] for name in ("id", "email", "role")} | {"tenant_id": user["tenant"]},
    }


def give_history(body: Json, given: Given) -> Json:
    """Aurix' pages (X19, X28) have items and a cursor, and nothing more."""
    return {"items": body["items"], "next_cursor": body["next_cursor"]}


def give_tenant(body: Json, given: Given) -> Json:
    """A tenant under Aurix' name of its id (X42, X43)."""
    return {"tenant_id": body["id"], "tenant_code": body["id"]} | {
        name: body[name] for name in ("name", "status", "created_at", "deactivated_at")
    }


def give_tenants(body: Json, given: Given) -> Json:
    """Aurix' list of tenants (X42)."""
    return {"items": [give_tenant(one, given) for one in body["items"]], "next_cursor": body["next_cursor"]}


# --- LedgerBank ------------------------------------------------------------------------------------------------------


def give_login(body: Json, given: Given) -> Json:
    """LedgerBank's login (L01) and refresh (L02)."""
    user = body["user"]
    return {"access_token": body["access_token"], "refresh_token": body["refresh_token"]} | {
        "user": {name: user[name] for name in ("id", "email", "full_name", "role", "status")}
    }


def give_user(body: Json, given: Given) -> Json:
    """A user with LedgerBank's flags (L22) and its name of the time of creation."""
    names = ("id", "email", "full_name", "role", "status", "active", "verified", "suspended", "deleted")
    return {name: body[name] for name in names} | {
        "inserted_at": body["created_at"],
        "created_at": body["created_at"],
        "updated_at": body["updated_at"],
    }


def take_registration(given: Given) -> Taken:
    """`role` is taken and ignored: whoever registers is a user (L17)."""
    return Taken(body={name: value for name, value in given.body.items() if name != "role"})


def give_registration(body: Json, given: Given) -> Json:
    """The user who has just registered."""
    return {
        "id": body["user_id"],
        "email": body["email"],
        "full_name": given.body["full_name"],
        "role": "user",
        "status": "ACTIVE",
        "inserted_at": body["created_at"],
        "created_at": body["created_at"],
    }


def take_new_user(given: Given) -> Taken:
    """One role instead of several (L18); the confirmation must be the same (L10)."""
    body = dict(given.body)
    if body.pop("password_confirmation") != body["password"]:
        raise _wrong("body", "/password_confirmation", "invalid_password_format", "password_confirmation differs")
    return Taken(body=body | {"roles": [body.pop("role")]})


def take_users(given: Given) -> Taken:
    """Pages by number, a page size that is capped, `inserted_at` for `created_at` (L13, L14)."""
    return Taken(query=_numbered(given) | _renamed_sort(given))


def give_users(body: Json, given: Given) -> Json:
    """LedgerBank's list: the rows, and where they are."""
    return _page([give_user(one, given) for one in body["items"]], body)


def take_keyset(given: Given) -> Taken:
    """The cursor is a JSON object of the last row's time and id (L15)."""
    query = dict(given.query) | {"sort": "created_at:asc"}
    if "cursor" in query:
        try:
            place = orjson.loads(query["cursor"])
            at, last = datetime.fromisoformat(place["inserted_at"]), uuid.UUID(place["id"])
            if len(place) != 2 or at.tzinfo is None:
                raise ValueError(place)
            query["cursor"] = make_cursor(_KEYSET, (at.astimezone(UTC), last))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            raise _wrong(
                "query", "cursor", "invalid_field", 'cursor is not {"inserted_at": time, "id": uuid}'
            ) from None
    return Taken(query=query)


def give_keyset(body: Json, given: Given) -> Json:
    """The next cursor as LedgerBank has it, with all of the time's places."""
    following = None
    if body["next_cursor"]:
        at, last = read_cursor(USERS, _KEYSET, body["next_cursor"])
        following = {"inserted_at": at.isoformat().replace("+00:00", "Z"), "id": str(last)}
    return {
        "data": [give_user(one, given) for one in body["items"]],
        "pagination": {"has_more": body["has_more"], "next_cursor": following},
    }


def take_payment(given: Given) -> Taken:
    """CREDIT is a deposit into the account, DEBIT a transfer out of it."""
    body = given.body
    key = str(body.get("idempotency_key", ""))
    account, amount = body["user_bank_account_id"], body["amount"]
    if body["direction"] == "CREDIT":
        if body["payment_type"] != "DEPOSIT":
            raise _wrong("body", "/payment_type", "invalid_payment_type", "money comes in by DEPOSIT")
        return Taken(body={"account_id": account, "amount": amount}, key=key)
    if body["payment_type"] not in ("TRANSFER", "PAYMENT"):
        raise _wrong("body", "/payment_type", "invalid_payment_type", "money goes out by TRANSFER or PAYMENT")
    if "to_account_id" not in body:
        raise _wrong("body", "/to_account_id", "missing_fields", "to_account_id is missing")
    return Taken(
        operation="submitTransfer",
        body={"from_account_id": account, "to_account_id": body["to_account_id"], "amount": amount},
        key=key,
    )


def give_payment(body: Json, given: Given) -> Json:
    """A transaction as a payment (L26, L29, L35), seen from who asks."""
    mine = given.principal.customer
    source, target = body.get("from_account_id"), body.get("to_account_id")
    comes = body["type"] in ("deposit", "suspense") or (bool(mine) and _owner(target) == mine != _owner(source))
    status = payment_status(body["status"], body["state"])
    return {
        "id": body["id"],
        "amount": body.get("amount"),
        "currency": body.get("asset"),
        "direction": "CREDIT" if comes else "DEBIT",
        "payment_type": _PAYMENT_TYPE[body["type"]],
        "status": status,
        "reason": body.get("reason"),
        "user_bank_account_id": target if comes else source,
        "external_transaction_id": None,
        "posted_at": body.get("updated_at") if status == "COMPLETED" else None,
        "inserted_at": body.get("created_at"),
        "created_at": body.get("created_at"),
        "updated_at": body.get("updated_at"),
    }


def give_payment_status(body: Json, given: Given) -> Json:
    """What has become of a payment (L30)."""
    return {name: value for name, value in give_payment(body, given).items() if name in ("id", "status", "posted_at")}


def payment_status(status: str, state: str) -> str:
    """LedgerBank's status: what can still be cancelled is PENDING (L32)."""
    return "PENDING" if state == "awaiting_funds" else _PAYMENT_STATUS[status]


def take_payments(given: Given) -> Taken:
    """Filters by LedgerBank's direction and status (L28, L36)."""
    query = _numbered(given)
    if "status" in query:
        query |= _PAYMENT_FILTER[query.pop("status")]
    if "direction" in query:
        query["direction"] = query["direction"].lower()
        if given.principal.customer:
            query.setdefault("customer", given.principal.customer)
    return Taken(query=query | _renamed_sort(given))


def give_payments(body: Json, given: Given) -> Json:
    """LedgerBank's list of payments."""
    return _page([give_payment(one, given) for one in body["items"]], body)


def give_health(body: Json, given: Given) -> Json:
    """LedgerBank's health (L37), bare."""
    return {name: body[name] for name in ("status", "timestamp", "version", "uptime")}


def give_detailed_health(body: Json, given: Given) -> Json:
    """With its three checks (L38), each "ok" or "error"."""
    checks = body["checks"]
    names = {"database": "postgres", "memory": "memory", "disk": "disk"}
    found = {name: "ok" if checks[ours]["ok"] else "error" for name, ours in names.items()}
    return give_health(body, given) | {"checks": found}


def give_plain_health(body: Json, given: Given) -> Json:
    """Ready or alive: the status alone (L39, L40)."""
    return {"status": body["status"]}


# --- Settlement PoC ---------------------------------------------------------------------------------------------------


def take_poc_deposit(given: Given) -> Taken:
    """`user_id` is who logs in (S10); their account is that of the currency; their transaction_id is the key (S05)."""
    body = given.body
    customer = _customer_of(given)
    if customer is None:
        raise Problem("forbidden", "user_id is not the one of the login.")
    return Taken(
        body={"account_id": f"{customer}:{body['currency']}", "amount": body["amount"]}, key=body["transaction_id"]
    )


def take_poc_confirmation(given: Given) -> Taken:
    """An unknown id and somebody else's are answered alike (S06); confirming twice is one action (S04)."""
    body = given.body
    customer = _customer_of(given)
    if customer is None:
        raise Problem("transaction_not_found", f"There is no transaction {body['transaction_id']}.")
    ours = id_text(derived_id(given.tenant, customer, body["transaction_id"].lower()))
    key = str(uuid.uuid5(_ACTIONS, f"{given.tenant}/{ours}/confirm"))
    return Taken(path={"transaction_id": ours}, body={"customer": customer}, key=key)


def give_poc_deposit(body: Json, given: Given) -> Json:
    """Answers are not shown by the PoC; these repeat its request, with the status."""
    names = {"completed": "confirmed", "processing": "pending", "failed": "failed", "canceled": "canceled"}
    return {
        "transaction_id": given.body["transaction_id"],
        "user_id": given.body["user_id"],
        "currency": body.get("asset"),
        "amount": body.get("amount"),
        "status": names[body["status"]],
        "id": body["id"],
    }


# --- UPOP -------------------------------------------------------------------------------------------------------------


def take_core_account(given: Given) -> Taken:
    """U14 shows no body; ours is the currency and a name."""
    body = dict(given.body)
    return Taken(body=body | {"asset": body.pop("currency")})


def give_core_account(body: Json, given: Given) -> Json:
    """An account under UPOP's names."""
    return {
        "account_id": body["id"],
        "id": body["id"],
        "currency": body["asset"],
        "status": body["status"],
        "name": body.get("name"),
        "created_at": body.get("opened_at"),
    }


def take_core_transfer(given: Given) -> Taken:
    """The source is the caller's account in the currency unless one is named (U15)."""
    body = given.body
    source = body.get("from_account_id") or (
        f"{given.principal.customer}:{body['currency']}" if given.principal.customer else ""
    )
    if not source:
        raise _wrong("body", "/from_account_id", "missing_fields", "from_account_id is missing")
    if source.split(":")[1] != body["currency"]:
        raise Problem("currency_mismatch", f"{source} is not in {body['currency']}.")
    return Taken(
        body={"from_account_id": source, "to_account_id": body["to_account_id"], "amount": body["amount"]},
        key=body["idempotency_key"],
    )


def give_core_transfer(body: Json, given: Given) -> Json:
    """A transfer under UPOP's names."""
    names = ("id", "status", "amount", "from_account_id", "to_account_id", "created_at")
    return {name: body.get(name) for name in names} | {"transaction_id": body["id"], "currency": body.get("asset")}


# --- parts ------------------------------------------------------------------------------------------------------------


def _customer_of(given: Given) -> str | None:
    """Whom the PoC's `user_id` names, if the caller may act for them."""
    named = str(given.body["user_id"])
    if given.reach > Reach.OWN:
        return named
    own = given.principal
    return own.customer if own.customer and named in (own.customer, own.user_id) else None


def _owner(account_id: str | None) -> str:
    return (account_id or "").partition(":")[0]


def _numbered(given: Given) -> Json:
    """Pages by number are the default here, and a page size above the greatest is capped."""
    query = dict(given.query)
    query["page"] = query.get("page", 1)
    query["page_size"] = min(query.get("page_size", 20), _PAGE_SIZE_MAX)
    return query


def _renamed_sort(given: Given) -> dict[str, Any]:
    sort = given.query.get("sort")
    return {} if sort is None else {"sort": sort.replace("inserted_at", "created_at")}


def _page(rows: list[Json], body: Json) -> Json:
    places = {name: body[name] for name in ("page", "page_size", "total", "total_pages")}
    return {"data": rows, "pagination": places}


def _wrong(where: str, pointer: str, code: str, detail: str) -> Problem:
    return Problem(code, detail, errors=[FieldError(in_=where, pointer=pointer, code=code, detail=detail)])
