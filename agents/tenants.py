"""The ledger's part for new tenants: tells all partitions of one, and counts who knows it (`domain/tenants.py`)."""

from __future__ import annotations

from typing import Final

from agents.writing import KEY_LIFE_MS, tell
from aura_stream.domain.commands import TenantOpen
from aura_stream.domain.signals import TenantKnown, TenantOpened
from aura_stream.domain.state import IdempotencyKey
from aura_stream.domain.tenants import answered, asked, status, told
from aura_stream.engine.unit import Unit
from tables.idempotency_keys import IDEMPOTENCY_KEYS
from tables.tenants import TENANTS

COMMANDS: Final = frozenset({"tenant.open"})


def is_known(tenant: str) -> bool:
    """Whether this partition was told of the tenant."""
    return TENANTS.get(tenant.encode()) is not None


def open_tenant(unit: Unit, command: TenantOpen, key: bytes, content: str, named: frozenset[str]) -> None:
    """`tenant.open`. A tenant that the settings name is open already."""
    tenant, state = command.data.tenant_id, "open"
    if tenant not in named:
        known, must_tell = asked(TENANTS.get(tenant.encode()), unit.at, unit.partitions)
        if must_tell:
            TENANTS.set(tenant.encode(), known)
            for partition in range(unit.partitions):
                unit.signal_partition(partition, TenantOpened(tenant, unit.partition))
        state = status(known)
    done = IdempotencyKey(content, "done", status=state, expires_at=unit.at + KEY_LIFE_MS)
    IDEMPOTENCY_KEYS.set(key, done)
    tell(unit, command, "done", status=state)


def opened(unit: Unit, news: TenantOpened) -> None:
    """A partition has told of a new tenant."""
    key = news.tenant.encode()
    TENANTS.set(key, told(TENANTS.get(key), unit.at))
    unit.signal_partition(news.home, TenantKnown(news.tenant))


def known_by_one_more(news: TenantKnown) -> None:
    """A partition has answered."""
    key = news.tenant.encode()
    known = TENANTS.get(key)
    if known is None:
        raise LookupError(f"an answer about the unknown tenant {news.tenant}")
    TENANTS.set(key, answered(known))
