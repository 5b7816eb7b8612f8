"""Answers to commands that are no transactions themselves: actions on one, and account commands.

Key: the 16 bytes derived from tenant, customer and idempotency key. What moves no money expires after 24 hours.
"""

from __future__ import annotations

from aura_stream.domain.state import IdempotencyKey
from aura_stream.engine.table import Table

IDEMPOTENCY_KEYS = Table("idempotency_keys", IdempotencyKey, prefix=b"i", expires=lambda key: key.expires_at)
