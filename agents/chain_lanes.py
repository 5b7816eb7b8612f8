"""The minters' lanes: requests and looks at the chain in, facts to customers' partitions and wishes out.

What is decided stands in `domain/lanes/minter.py`. A transaction is signed inside the unit that takes its nonce: the
same bytes on every machine and in every replay. They are stored with it, and go out after its commit; a crash in
between loses only time, since the next look finds that no node has them.

    request ──▶ queued ──look──▶ unit: nonce, reserve, bytes stored ──commit──▶ sent
    look (of the head, receipts of all hashes, nonces, fees) ──▶ mined, confirmed, lost, dead; sent again, fee raised

The chain's breaker is the lane's too: looks are made one at a time, ever more seldom while they fail, and nothing is
signed without a fresh one.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
from eth_utils.address import to_checksum_address

from agents.bank_lanes import pauses, set_pause
from aura_stream.chain import token as contract
from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import Fees, Signed, SigningKey, Transaction, sign
from aura_stream.domain import lane_news
from aura_stream.domain.ids import record_key
from aura_stream.domain.lane_news import Looked, NotSeen, Release, Sent
from aura_stream.domain.lane_requests import DECODE_CHAIN, Burn, ChainRequest, Mint, SetPause, StatementRead, Withdraw
from aura_stream.domain.lanes import minter as lanes
from aura_stream.domain.lanes.bank import Limits as Pace
from aura_stream.domain.lanes.bank import backoff
from aura_stream.domain.lanes.lines import AttemptLine, LaneLine, NoteLine, ReleaseLine
from aura_stream.domain.lanes.minter import Decided, Job, Minter, Receipt, View
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.domain.pauses import Scope, in_force
from aura_stream.domain.settlement import TOKENS
from aura_stream.engine.errors import Poison
from aura_stream.engine.unit import Record, Unit
from tables.chain_lanes import (
    CHAIN_JOBS,
    CHAIN_LANES,
    CHAIN_WAITING,
    ChainJob,
    ChainLane,
    Waiting,
    job_key,
    waiting_key,
    waiting_prefix,
)
from topics.chain_requests import CHAIN_REQUESTS

_PREFIX: Final = b"~chain:"
FIRST_NONCE: Final = 2
"""The key's first two transactions have put the token on the chain."""
_GAS: Final = 200_000
"""A mint or burn takes about 62,000."""
_AT_ONCE: Final = 200  # jobs that one unit signs, or one look watches
_LOOK_GIVEN_UP_MS: Final = 30_000
_FAILURES_TO_OPEN: Final = 5
_PACE: Final = Pace(backoff_ms=1000)


class Watch(NamedTuple):
    """What a look asks about one job."""

    job: Job
    since: int


class Look(NamedTuple):
    """A wish: the chain as it is now, and what it has of these jobs. `height` is the highest block seen before."""

    lane: str
    token: str
    height: int
    jobs: tuple[Watch, ...]


class Send(NamedTuple):
    """A wish: give signed bytes to the node."""

    lane: str
    reference: str
    number: int
    signed: Signed


class ChainLanes:
    """The actor of a partition of the minters' requests. `keys` are the signing keys by token."""

    signal_type: Any = None

    def __init__(self, rules: LaneRules, keys: dict[str, SigningKey]) -> None:
        self.rules = rules
        self._keys = keys
        self._addresses = {token: token_address(key) for token, key in keys.items()}

    def command(self, unit: Unit, record: Record) -> None:
        """A request of the ledger, or news of the chain. Raises :class:`Poison` for what is neither."""
        key = record.key or b""
        lane = key.removeprefix(_PREFIX).decode()
        chain, _, token = lane.partition(":")
        if not key.startswith(_PREFIX) or chain != self.rules.settlement.chain or token not in TOKENS:
            raise Poison("wrong_key", f"{key[:80]!r} is no lane of this chain")
        try:
            if record.topic == CHAIN_REQUESTS.name:
                self._request(unit, lane, DECODE_CHAIN(record.value or b""))
                self._look(unit, lane, soon=True)
            else:
                self._news(unit, lane, lane_news.DECODE_CHAIN(record.value or b""))
        except msgspec.MsgspecError as error:
            raise Poison("invalid_message", str(error)) from error

    def deadline(self, unit: Unit, key: bytes) -> None:
        """It is time to look."""
        lane = key.decode()
        row = self._lane(lane)
        if 0 < row.look_at <= unit.at:  # else it was set for another time since
            CHAIN_LANES.set(key, msgspec.structs.replace(row, look_at=0))
            self._look(unit, lane, soon=True)

    def dead_letter(self, unit: Unit, record: Record, reason: str, detail: str) -> None:
        """Nobody waits for an answer: the transaction's own deadline asks for a person."""

    def signal(self, unit: Unit, signal: Any) -> None:
        """Lanes are not signalled."""
        raise NotImplementedError

    def refuse(self, unit: Unit, signal: Any, reason: str, detail: str) -> None:
        """Lanes are not signalled."""
        raise NotImplementedError

    # --- requests ---------------------------------------------------------------------------------------------------

    def _request(self, unit: Unit, lane: str, request: ChainRequest) -> None:
        if isinstance(request, SetPause):
            set_pause(unit, request)
            return
        row = self._lane(lane)
        if isinstance(request, StatementRead):
            minter = msgspec.structs.replace(row.minter, statement_at=max(row.minter.statement_at, request.at))
            CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, minter=minter))
            return
        known = CHAIN_JOBS.get(job_key(lane, request.reference))
        if isinstance(request, Withdraw):
            if known is None:
                raise LookupError(f"a mint that was never asked for is withdrawn: {request.reference}")
            self._decided(unit, lane, row, known, lanes.withdraw(row.minter, known.job, request))
            return
        assert isinstance(request, Mint | Burn)
        made = lanes.job_of(row.minter, request, None if known is None else known.job)
        if made is not None:
            minter, job = made
            CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, minter=minter))
            self._put(lane, None, ChainJob(job, unit.next_number(f"jobs:{lane}")))

    # --- news -------------------------------------------------------------------------------------------------------

    def _news(self, unit: Unit, lane: str, news: lane_news.ChainNews) -> None:
        if isinstance(news, Sent):
            self._sent(unit, lane, news)
        elif isinstance(news, Looked):
            self._looked(unit, lane, news)
        elif isinstance(news, NotSeen):
            self._not_seen(unit, lane, news)
        elif isinstance(news, Release):
            self._release(unit, lane, news)
        else:
            self._look(unit, lane, soon=True)

    def _not_seen(self, unit: Unit, lane: str, news: NotSeen) -> None:
        row = self._lane(lane)
        failures = row.failures + 1
        breaker = "open" if failures >= _FAILURES_TO_OPEN else row.breaker
        before = row.breaker
        row = msgspec.structs.replace(row, failures=failures, breaker=breaker, looking_until=0)
        CHAIN_LANES.set(lane.encode(), row)
        if breaker != before:
            self._tell(unit, lane, row)
        unit.line(NoteLine(f"chain:{lane}", "not_seen", news.error[:200], unit.at))
        self._look(unit, lane, at=unit.at + backoff(lane, failures, min(failures, 5), _PACE))

    def _release(self, unit: Unit, lane: str, news: Release) -> None:
        row = self._lane(lane)
        minter, outcome = lanes.released(row.minter, news.stopped)
        unit.line(ReleaseLine(news.id, f"chain:{lane}", news.operator, news.stopped, outcome, unit.at))
        if outcome == lanes.RELEASED:
            row = msgspec.structs.replace(row, minter=minter)
            CHAIN_LANES.set(lane.encode(), row)
            self._tell(unit, lane, row)
            self._look(unit, lane, soon=True)

    def _looked(self, unit: Unit, lane: str, news: Looked) -> None:
        row = self._lane(lane)
        before = row.breaker, row.minter.stopped
        if row.chain and row.chain != news.chain:
            # Nothing that this node says is about our tokens, its nonces neither.
            minter = msgspec.structs.replace(row.minter, stopped=lanes.ANOTHER_CHAIN)
        else:
            minter = lanes.checked(msgspec.structs.replace(row.minter, supply_at=unit.at), news.nonce)
        row = msgspec.structs.replace(
            row,
            minter=minter,
            breaker="closed",
            failures=0,
            looking_until=0,
            chain=row.chain or news.chain,
        )
        if row.chain == news.chain:
            row = msgspec.structs.replace(row, height=max(row.height, news.height))
        CHAIN_LANES.set(lane.encode(), row)
        if (row.breaker, minter.stopped) != before:
            self._tell(unit, lane, row)
        if row.chain != news.chain:
            self._look(unit, lane, at=unit.at + self.rules.idle_look_ms)
            return
        view = View(news.height, news.final, news.final_nonce, news.fee, news.tip)
        for sighting in news.sightings:
            known = CHAIN_JOBS.get(job_key(lane, sighting.reference))
            if known is None:
                raise LookupError(f"a look at the unknown reference {sighting.reference}")
            if sighting.error:
                # Whoever used the reference has our key: nothing may be concluded, a person must look.
                self._stop(unit, lane, sighting.error)
                continue
            self._observed(unit, lane, known, view, sighting, news.chain_id)
        self._sign_queued(unit, lane, view, news.chain_id)
        is_busy = any(
            next(iter(CHAIN_WAITING.range(prefix, prefix + b"\xff")), None) is not None
            for prefix in (waiting_prefix(lane, "q"), waiting_prefix(lane, "s"))
        )
        self._look(unit, lane, at=unit.at + (self.rules.look_ms if is_busy else self.rules.idle_look_ms))

    def _stop(self, unit: Unit, lane: str, why: str) -> None:
        row = self._lane(lane)
        if not row.minter.stopped:
            row = msgspec.structs.replace(row, minter=msgspec.structs.replace(row.minter, stopped=why))
            CHAIN_LANES.set(lane.encode(), row)
            self._tell(unit, lane, row)

    def _observed(
        self, unit: Unit, lane: str, known: ChainJob, view: View, sighting: lane_news.Sighting, chain_id: int
    ) -> None:
        row = self._lane(lane)
        receipts = (Receipt(sighting.hash, sighting.block, sighting.ok, sighting.gas),) if sighting.hash else ()
        decided = lanes.observed(row.minter, known.job, view, receipts, self.rules.chain)
        known = self._decided(unit, lane, row, known, decided)
        if known.job.state != "signed":
            return
        higher = lanes.bumped(known.job, view, self.rules.chain)
        if higher is not None:
            row = self._lane(lane)
            self._sign(unit, lane, row.minter, known, higher, chain_id)
        elif sighting.is_missing or decided.send:
            self._send(unit, lane, known)

    def _sign_queued(self, unit: Unit, lane: str, view: View, chain_id: int) -> None:
        prefix, waits = waiting_prefix(lane, "q"), ""
        for key, _ in list(islice(CHAIN_WAITING.range(prefix, prefix + b"\xff" * 9), _AT_ONCE)):
            known = CHAIN_JOBS.get(job_key(lane, key[len(prefix) + 8 :].decode()))
            assert known is not None
            minter, job = self._lane(lane).minter, known.job
            chain, _, token = lane.partition(":")
            is_paused = in_force(pauses(), Scope(job.tenant, chain=chain, assets=(token,))) is not None
            if why := lanes.held_back(minter, job, self.rules.chain, unit.at, paused=is_paused):
                waits = waits or why
                continue
            taken = lanes.take_nonce(minter, job, view)
            known = msgspec.structs.replace(known, since=max(view.final - 1, 0))
            self._sign(unit, lane, taken.lane, known, taken.job, chain_id)
        row = self._lane(lane)
        if not row.minter.stopped and row.minter.waits != waits:
            row = msgspec.structs.replace(row, minter=msgspec.structs.replace(row.minter, waits=waits))
            CHAIN_LANES.set(lane.encode(), row)
            self._tell(unit, lane, row)

    def _sign(self, unit: Unit, lane: str, minter: Minter, known: ChainJob, job: Job, chain_id: int) -> None:
        """Signs, stores and lets it go out."""
        _, _, token = lane.partition(":")
        key = self._keys[token]
        reference = bytes.fromhex(job.reference)
        data = (
            contract.mint(to_checksum_address(job.to) if job.to else key.address, job.amount, reference)
            if job.step == "mint"
            else contract.burn(job.amount, reference)
        )
        fees = Fees(job.fee, job.tip)
        signed = sign(Transaction(chain_id, job.nonce, self._addresses[token], data, _GAS, fees), key)
        decided = lanes.signed(minter, job, signed.tx_hash)
        after = msgspec.structs.replace(known, raw=signed.raw.hex())
        after = self._decided(unit, lane, self._lane(lane), known, decided, after)
        self._send(unit, lane, after)

    def _send(self, unit: Unit, lane: str, known: ChainJob) -> None:
        after = msgspec.structs.replace(known, sends=known.sends + 1)
        self._put(lane, known, after)
        self._line(unit, lane, after, after.job.hashes[-1], "started")
        unit.wish(Send(lane, after.job.reference, after.sends, Signed(bytes.fromhex(after.raw), after.job.hashes[-1])))

    def _sent(self, unit: Unit, lane: str, news: Sent) -> None:
        known = CHAIN_JOBS.get(job_key(lane, news.reference))
        if known is None:
            raise LookupError(f"bytes of the unknown reference {news.reference} were sent")
        self._line(unit, lane, known, news.hash, "ended", news)

    # --- looking ----------------------------------------------------------------------------------------------------

    def _look(self, unit: Unit, lane: str, *, at: int = 0, soon: bool = False) -> None:
        """Looks at the chain at a time, or now: unless the breaker or a look under way says later."""
        row = self._lane(lane)
        if soon:
            at = unit.at
            if row.look_at > unit.at and row.failures:
                at = row.look_at  # while looks fail, nothing hurries them
        if row.looking_until > unit.at:
            at = max(at, row.looking_until)
        if at > unit.at:
            if not unit.at < row.look_at <= at:
                CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, look_at=at))
                unit.deadline(lane.encode(), at)
            return
        prefix = waiting_prefix(lane, "s")
        jobs = []
        for key, _ in islice(CHAIN_WAITING.range(prefix, prefix + b"\xff" * 9), _AT_ONCE):
            known = CHAIN_JOBS.get(job_key(lane, key[len(prefix) + 8 :].decode()))
            assert known is not None
            jobs.append(Watch(known.job, known.since))
        until = unit.at + _LOOK_GIVEN_UP_MS
        breaker = "half_open" if row.breaker == "open" else row.breaker
        CHAIN_LANES.set(
            lane.encode(), msgspec.structs.replace(row, looking_until=until, look_at=until, breaker=breaker)
        )
        unit.deadline(lane.encode(), until)
        unit.wish(Look(lane, lane.partition(":")[2], row.height, tuple(jobs)))

    # --- rows -------------------------------------------------------------------------------------------------------

    def _tell(self, unit: Unit, lane: str, row: ChainLane) -> None:
        """Writes down how the lane stands."""
        minter = row.minter
        names = ("next_nonce", "seen_nonce", "mintable", "in_flight", "open_returns")
        unit.line(
            LaneLine(
                *(f"chain:{lane}", row.breaker, unit.at, row.failures, minter.stopped, minter.waits),
                {name: getattr(minter, name) for name in names},
            )
        )

    def _lane(self, lane: str) -> ChainLane:
        return CHAIN_LANES.get(lane.encode()) or ChainLane(Minter(lane.partition(":")[2], next_nonce=FIRST_NONCE))

    def _decided(
        self,
        unit: Unit,
        lane: str,
        row: ChainLane,
        before: ChainJob,
        decided: Decided,
        after: ChainJob | None = None,
    ) -> ChainJob:
        after = msgspec.structs.replace(after or before, job=decided.job)
        self._put(lane, before, after)
        CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, minter=decided.lane))
        for fact in decided.facts:
            unit.signal(record_key(after.job.tenant, after.job.customer), fact)
        return after

    def _put(self, lane: str, before: ChainJob | None, after: ChainJob) -> None:
        was, is_ = (None if before is None else _waiting(lane, before)), _waiting(lane, after)
        if was is not None and was != is_:
            CHAIN_WAITING.delete(was)
        CHAIN_JOBS.set(job_key(lane, after.job.reference), after)
        if is_ is not None and was != is_:
            CHAIN_WAITING.set(is_, Waiting())

    def _line(self, unit: Unit, lane: str, row: ChainJob, hash_: str, state: str, news: Sent | None = None) -> None:
        job, breaker = row.job, self._lane(lane).breaker
        answer = "" if news is None else "lost" if news.error else "taken"
        number = row.sends if news is None else news.number
        unit.line(
            AttemptLine(
                *(
                    f"chain:{lane}",
                    job.transaction_id,
                    job.tenant,
                    job.step,
                    "broadcast",
                    hash_,
                    number,
                    state,
                    unit.at,
                ),
                *(
                    breaker,
                    answer,
                    "",
                    0,
                    "" if news is None else news.error[:200],
                    0 if news is None else news.took_ms,
                ),
            )
        )


def _waiting(lane: str, row: ChainJob) -> bytes | None:
    if row.job.state == "queued":
        return waiting_key(lane, "q", row.number, row.job.reference)
    if row.job.state in ("signed", "mined", "confirmed"):
        return waiting_key(lane, "s", row.job.nonce, row.job.reference)
    return None
