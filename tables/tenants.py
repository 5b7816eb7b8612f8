"""Tenants that came while the ledger ran. Key: the tenant's name."""

from __future__ import annotations

from aura_stream.domain.tenants import KnownTenant
from aura_stream.engine.table import Table

TENANTS = Table("tenants", KnownTenant, prefix=b"n")
