"""What customers have sent today, where their tenant has a limit. Key: `<tenant>/<customer>/<asset>`."""

from __future__ import annotations

from aura_stream.domain.velocity import Sent
from aura_stream.engine.table import Table

SENT = Table("sent", Sent, prefix=b"v")


def sent_key(tenant: str, customer: str, asset: str) -> bytes:
    """The key of a customer's count."""
    return f"{tenant}/{customer}/{asset}".encode()
