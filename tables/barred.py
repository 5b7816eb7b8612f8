"""Bank accounts that a customer may not use again. Key: `<tenant>/<customer>/` and 16 bytes of the account's hash."""

from __future__ import annotations

from hashlib import blake2b

from aura_stream.domain.state import Barred
from aura_stream.engine.table import Table

BARRED = Table("barred", Barred, prefix=b"b")


def barred_key(tenant: str, customer: str, account: str) -> bytes:
    """The key of a bank account, as a payment names it: a hash, since names of accounts are forgotten elsewhere."""
    return f"{tenant}/{customer}/".encode() + blake2b(account.encode(), digest_size=16).digest()
