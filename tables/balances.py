"""Accounts with their balances. Key: `<tenant>/<account id>`; in the partition of the account's customer."""

from __future__ import annotations

from functools import lru_cache

from aura_stream.domain.state import Account
from aura_stream.engine.table import Table

BALANCES = Table("balances", Account, prefix=b"a")


@lru_cache(maxsize=1 << 14)
def balance_key(tenant: str, account_id: str) -> bytes:
    """The table's key of an account."""
    return f"{tenant}/{account_id}".encode()
