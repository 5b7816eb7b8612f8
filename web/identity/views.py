"""What clients see of identity: allow-lists, so that a new column never shows by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aura_stream.identity.logins import Grant
from aura_stream.identity.permissions import main_role
from aura_stream.identity.repository import Row
from web.views import exact, instant

Json = dict[str, Any]


def user_of_row(row: Mapping[str, Any]) -> Json:
    """A user. The flags follow from the status; `customer` is whom the ledger knows, and the wallet's id."""
    status = row["status"]
    return {
        "id": str(row["user_id"]),
        "tenant": row["tenant_id"],
        "customer": row["customer_id"],
        "email": row["email"],
        "full_name": row["full_name"],
        "role": main_role(tuple(row["roles"])),
        "roles": list(row["roles"]),
        "status": status,
        "active": status == "ACTIVE",
        "suspended": status == "SUSPENDED",
        "deleted": status == "DELETED",
        "verified": row["verified_at"] is not None,
        "created_at": exact(row["created_at"]),
        "updated_at": exact(row["updated_at"]),
    }


def registered(row: Mapping[str, Any]) -> Json:
    """The answer to a registration."""
    return {
        "user_id": str(row["user_id"]),
        "email": row["email"],
        "tenant_id": row["tenant_id"],
        "wallet_id": row["customer_id"],
        "created_at": instant(row["created_at"]),
    }


def grant(given: Grant) -> Json:
    """The answer to a login or a refresh."""
    return {
        "access_token": given.access_token,
        "refresh_token": given.refresh_token,
        "token_type": "Bearer",
        "expires_in": given.access_s,
        "refresh_expires_in": given.refresh_s,
        "user": user_of_row(given.user),
    }


def session_of_row(row: Mapping[str, Any], current: str) -> Json:
    """A session; `current` is the one that asks."""
    return {
        "id": str(row["session_id"]),
        "client": row["client"],
        "created_at": instant(row["created_at"]),
        "expires_at": instant(row["expires_at"]),
        "current": str(row["session_id"]) == current,
    }


def api_key_of_row(row: Row) -> Json:
    """An API key without the key itself."""
    return {
        "id": row["key_id"],
        "tenant": row["tenant_id"],
        "customer": row["customer_id"],
        "user_id": str(row["user_id"]) if row["user_id"] else None,
        "name": row["name"],
        "scopes": list(row["scopes"]),
        "created_at": instant(row["created_at"]),
        "expires_at": instant(row["expires_at"]) if row["expires_at"] else None,
        "revoked_at": instant(row["revoked_at"]) if row["revoked_at"] else None,
    }


def tenant_of_row(row: Row) -> Json:
    """A tenant."""
    return {
        "id": row["tenant_id"],
        "name": row["name"],
        "status": row["status"],
        "needs_verified_email": row["needs_verified_email"],
        "rate_limit": row["rate_limit"],
        "rate_window_s": row["rate_window_s"],
        "command_limit": row["command_limit"],
        "ledger": "open" if row["ledger_opened_at"] else "opening",
        "created_at": instant(row["created_at"]),
        "deactivated_at": instant(row["deactivated_at"]) if row["deactivated_at"] else None,
    }


def erasure_of_row(row: Row) -> Json:
    """A request to be forgotten."""
    return {
        "id": str(row["request_id"]),
        "user_id": str(row["user_id"]),
        "status": row["status"],
        "waits_for": list(row["waits_for"]),
        "maker": row["maker"],
        "checker": row["checker"],
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
        "completed_at": instant(row["completed_at"]) if row["completed_at"] else None,
    }
