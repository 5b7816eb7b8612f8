"""The lanes of banks and chain, played by a test on the real topics: facts as signals, pauses answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from typing import Any, Final, Self

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from aura_stream.domain.ids import bank_lane_key, bank_reference, chain_reference, derived_id, id_text, record_key
from aura_stream.domain.lane_requests import DECODE_BANK, DECODE_CHAIN, SetClock, SetPause
from aura_stream.domain.signals import Applied, BankFact, ChainFact, ClockTaken, Unmatched
from aura_stream.engine.partitioner import Partitioner
from aura_stream.settings import Settings
from topics.bank_requests import BANK_REQUESTS
from topics.chain_requests import CHAIN_REQUESTS
from topics.signals import SIGNALS

_SOURCE: Final = 1000
"""No partition of the ledger has this number."""
_seqs: Final[Counter[tuple[str, int]]] = Counter()
"""Signals of a source are numbered for as long as the topic lives."""


class Lanes:
    """Reads what is asked of all lanes, from its start on; answers pauses at once unless told not to."""

    def __init__(self, settings: Settings, *, answers_pauses: bool = True) -> None:
        self._settings = settings
        self._answers_pauses = answers_pauses
        self._partitioner = Partitioner(settings.partitions)
        self.requests: list[Any] = []

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(bootstrap_servers=self._settings.kafka_bootstrap, acks="all")
        await self._producer.start()
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap, group_id=None, isolation_level="read_committed"
        )
        await self._consumer.start()
        names = (BANK_REQUESTS.name, CHAIN_REQUESTS.name)
        places = [TopicPartition(name, one) for name in names for one in range(self._settings.partitions)]
        self._consumer.assign(places)
        for place, end in (await self._consumer.end_offsets(places)).items():
            self._consumer.seek(place, end)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._consumer.stop()
        await self._producer.stop()

    async def bank(self, transaction: dict[str, Any], kind: str, **what: Any) -> None:
        """A bank did something with a deposit or payout; `amount` in minor units of the rail's fiat."""
        is_deposit, rail = transaction["type"] == "deposit", transaction["settlement"]["rail"]
        step = ("debit" if rail == "ach" else "credit") if is_deposit else "payout"
        reference = bank_reference(transaction["id"], "deposit" if is_deposit else "payout")
        if kind in ("settled", "returned"):
            what = {"asset": "USD" if rail == "ach" else "EUR", "fact_id": uuid.uuid4().hex} | what
        await self._tell(transaction, BankFact(transaction["id"], transaction["tenant"], step, kind, reference, **what))

    async def chain(self, transaction: dict[str, Any], kind: str, round_: int = 1, **what: Any) -> None:
        """Something became of a mint or burn."""
        is_mint = transaction["type"] == "deposit"
        step, place = ("mint", f"mint/{round_}") if is_mint else ("burn", "burn")
        reference = chain_reference(transaction["id"], place)
        await self._tell(
            transaction, ChainFact(transaction["id"], transaction["tenant"], step, kind, reference, **what)
        )

    async def unannounced(self, bank: str, asset: str, amount: int) -> str:
        """Money comes to a bank that no reference explains; the id of its transaction."""
        news = Unmatched("default", bank, asset, amount, uuid.uuid4().hex)
        await self._signal(self._partitioner(bank_lane_key(bank)), news)
        return id_text(derived_id("default", f"~bank:{bank}", news.fact_id))

    async def until_asked(self, count: int, transaction_id: str, timeout_s: float = 20.0) -> list[Any]:
        """The requests about a transaction, once there are `count`."""
        async with asyncio.timeout(timeout_s):
            while True:
                if len(found := self.about(transaction_id)) >= count:
                    return found
                await asyncio.sleep(0.02)

    def about(self, transaction_id: str) -> list[Any]:
        """The requests about a transaction so far."""
        return [one for one in self.requests if getattr(one, "transaction_id", "") == transaction_id]

    async def _read(self) -> None:
        async for record in self._consumer:
            decode = DECODE_BANK if record.topic == BANK_REQUESTS.name else DECODE_CHAIN
            request = decode(record.value or b"")
            self.requests.append(request)
            if isinstance(request, SetPause) and self._answers_pauses:
                await self._signal(request.home, Applied(request.pause.id, bool(request.pause.lifted_at)))
            elif isinstance(request, SetClock) and self._answers_pauses:
                await self._signal(request.home, ClockTaken(request.moved_ms))

    async def _tell(self, transaction: dict[str, Any], fact: msgspec.Struct) -> None:
        key = record_key(transaction["tenant"], transaction["customer"])
        await self._signal(self._partitioner(key), fact)

    async def _signal(self, partition: int, signal: msgspec.Struct) -> None:
        place = self._settings.kafka_bootstrap, partition
        _seqs[place] += 1
        at = time.time_ns() // 1_000_000
        packed = {"source": _SOURCE, "seq": _seqs[place], "at": at, "signals": [signal], "v": 1}
        await self._producer.send_and_wait(SIGNALS.name, msgspec.json.encode(packed), str(_SOURCE).encode(), partition)
