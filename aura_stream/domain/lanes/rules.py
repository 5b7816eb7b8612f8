"""Settings that lanes decide by. They are recorded in the lanes' journals."""

from __future__ import annotations

import msgspec

from aura_stream.domain.lanes import bank, minter
from aura_stream.domain.state import SettlementRules


class LaneRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """What all lanes of a kind go by. Times are ms."""

    settlement: SettlementRules
    house_tenant: str  # whose money it is that nobody has announced
    banks: dict[str, bank.Limits] = {}
    chain: minter.Limits = minter.Limits()
    poll_ms: int = 10_000
    look_ms: int = 1_000
    idle_look_ms: int = 60_000
    scan_ms: int = 10_000  # between looks of a lane that has given deposit addresses
