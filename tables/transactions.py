"""Every transaction with its present state. Key: the 16 bytes of its id.

It lives in the partition of the customer that began it.
It is also the idempotency key of what moves money, and so never expires.
"""

from __future__ import annotations

from aura_stream.domain.state import Transaction
from aura_stream.engine.table import Table

TRANSACTIONS = Table("transactions", Transaction, prefix=b"t")
