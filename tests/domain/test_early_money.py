"""Money may reach a bank's lane before the ledger's word that it is expected: two topics have no order."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

import topics
from agents.bank_lanes import BankLanes, Call
from aura_stream.domain.ids import bank_lane_key, bank_reference
from aura_stream.domain.lane_news import ENCODE, Heard, Opened, Polled
from aura_stream.domain.lane_requests import ENCODE as ENCODE_REQUEST
from aura_stream.domain.lane_requests import Expect, Instruct
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.domain.signals import SETTLED, Applied, BankFact, Unmatched
from aura_stream.domain.state import SettlementRules
from aura_stream.engine.driver import LogRecord
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.unit import Memory, Names

ID = "89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa"
REFERENCE = bank_reference(ID, "deposit")
KEY = bank_lane_key("bank-b")
TEN_MINUTES = 10 * 60_000
requests, inbox, journal, changelog = (topic.name for topic in topics.BANK)


class Lane:
    """One lane, to which things are told one by one."""

    def __init__(self) -> None:
        rules = LaneRules(SettlementRules(), "default")
        self._memory = Memory(
            0,
            actor=BankLanes(rules),
            names=Names(requests, topics.SIGNALS.name, journal, topics.DEAD_LETTERS.name, changelog),
            store=MemoryStore(),
            partitioner=Partitioner(1),
            rules=msgspec.json.encode(rules),
            rules_hash="rules",
            inbox=inbox,
            first_source=1_000_000,
        )
        self._offsets = {requests: 0, inbox: 0}
        self.at = time.time_ns() // 1_000_000
        self.told: list[BankFact | Unmatched | Applied] = []
        self.wished: list[Any] = []
        self.lines: list[dict[str, Any]] = []

    def hear(self, topic: str, value: bytes, *, after_ms: int = 1) -> None:
        """A record of one of the lane's topics."""
        self.at += after_ms
        record = LogRecord(topic, 0, self._offsets[topic], self.at, KEY, value)
        self._offsets[topic] += 1
        self._run([record])

    def wait(self, ms: int) -> None:
        """Nothing comes for so long."""
        self.at += ms
        self._run([])

    def _run(self, records: list[LogRecord]) -> None:
        unit, _ = self._memory.run(records, clock=0 if records else self.at)
        finished = unit.finish()
        assert unit.dead == 0, finished.outputs
        self._memory.adopt(finished)
        self.wished += unit.wishes
        for output in finished.outputs:
            if output.topic == topics.SIGNALS.name:
                signals = msgspec.json.decode(output.value or b"")["signals"]
                self.told += [msgspec.convert(one, BankFact | Unmatched | Applied, strict=False) for one in signals]
            elif output.topic == journal:
                self.lines += json.loads(output.value or b"")["lines"]

    def order(self, reference: str, step: str) -> None:
        """The ledger wants a payment."""
        asked = Instruct(
            reference, "default", "anna", step, "sepa", reference, "EUR", 100, "B", "DE89370400440532013000"
        )
        self.hear(requests, ENCODE_REQUEST(asked))

    def calls(self) -> list[Call]:
        """What the bank was called for, since this was asked last."""
        found = [wish for wish in self.wished if isinstance(wish, Call)]
        self.wished = [wish for wish in self.wished if not isinstance(wish, Call)]
        return found

    def expect(self) -> None:
        """The ledger says that the money is expected."""
        self.hear(requests, ENCODE_REQUEST(Expect(ID, "default", "anna", "sepa_instant", REFERENCE, "EUR", 1250)))

    def paid(self, **more: Any) -> bytes:
        """The bank's event about it."""
        transfer = {
            "id": "tr_1",
            "reference": REFERENCE,
            "direction": "incoming",
            "currency": "EUR",
            "amount": "12.50",
            "settled_amount": "12.50",
            "settled_at": "2026-11-20T10:00:00Z",
            "status": "settled",
        }
        return json.dumps({"id": "evt_1", "type": "transfer.received", "data": {"transfer": transfer | more}}).encode()

    def webhook(self, **more: Any) -> None:
        """By webhook."""
        self.hear(inbox, ENCODE(Heard("evt_1", msgspec.Raw(self.paid(**more)))))

    def listed(self, **more: Any) -> None:
        """By the list of events."""
        self.hear(inbox, ENCODE(Polled(1, [msgspec.Raw(self.paid(**more))])))


@pytest.fixture
def lane() -> Lane:
    """A lane of which nobody has asked anything."""
    found = Lane()
    found.hear(inbox, ENCODE(Opened()))
    return found


@pytest.mark.row("N20")
def test_n20_money_before_its_request_is_told_once_when_the_request_comes(lane: Lane) -> None:
    lane.webhook()
    assert lane.told == []

    lane.expect()
    lane.listed()
    lane.webhook()
    lane.wait(2 * TEN_MINUTES)

    (fact,) = lane.told
    assert isinstance(fact, BankFact)
    assert (fact.transaction_id, fact.kind, fact.amount) == (ID, SETTLED, 1250)


@pytest.mark.row("N20")
def test_n20_money_that_nobody_has_expected_for_ten_minutes_is_nobodys_and_stays_so(lane: Lane) -> None:
    lane.webhook()
    lane.wait(TEN_MINUTES + 1)
    (fact,) = lane.told
    assert isinstance(fact, Unmatched) and fact.amount == 1250

    lane.expect()
    lane.listed()
    lane.webhook()

    assert len(lane.told) == 1, "the same money may not be credited as well"


@pytest.mark.row("N20")
def test_n20_money_without_a_reference_of_ours_is_nobodys_at_once(lane: Lane) -> None:
    lane.webhook(reference="invoice 4711")

    (fact,) = lane.told
    assert isinstance(fact, Unmatched)


@pytest.mark.row("N20")
def test_n20_two_early_payments_under_one_reference_are_both_told(lane: Lane) -> None:
    lane.webhook()
    lane.webhook(id="tr_2", amount="3.00", settled_amount="3.00")

    lane.expect()

    assert [(fact.kind, fact.amount) for fact in lane.told if isinstance(fact, BankFact)] == [
        (SETTLED, 1250),
        (SETTLED, 300),
    ]
