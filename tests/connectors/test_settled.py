"""Money comes in through real processes and becomes tokens on a real chain, and back."""

from __future__ import annotations

import pytest

from aura_stream.domain.ids import bank_reference
from tests.connectors.town import Town


@pytest.mark.row("A04", "A07", "A13")
async def test_a07_a_push_by_sepa_is_matched_and_credited(town: Town) -> None:
    await town.customer("anna", "EUR")

    id_ = await town.send("deposit.submit", "anna", {"account_id": "anna:EUR", "amount": "12.50", "rail": "sepa_instant"})
    await town.reaches(id_, "awaiting_funds")
    await town.push(bank_reference(id_, "deposit"), "12.50")

    await town.reaches(id_, "completed")
    assert await town.balance("anna:EUR") == 1250
