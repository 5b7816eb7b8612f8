"""The banks' lanes: requests and news in, facts to customers' partitions and wishes to call a bank out.

What is decided stands in `domain/lanes/bank.py`; here it is read, written and told, like the ledger's agent does. A
call is a wish of the unit that has written it down as started; what comes of it is written to the inbox by who made it
(`bank_calls.py`) and handled in a later unit. Whether the bank has acted is never concluded from silence: a call whose
time is over is `lost`, by whatever it was cut off, and an inquiry follows.

    request, webhook, event, answer ──▶ unit: decide, write, tell ──commit──▶ wishes ──▶ calls ──▶ inbox
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from aura_stream.banks.reading import EVENTS_LISTED, News, Unreadable, news_of, our_references_in, references_in
from aura_stream.domain import lane_news
from aura_stream.domain.ids import chain_lane_key, record_key
from aura_stream.domain.lane_news import CallEnded, Heard, Polled
from aura_stream.domain.lane_requests import (
    DECODE_BANK,
    BankRequest,
    Inquire,
    SetClock,
    SetPause,
    StatementRead,
)
from aura_stream.domain.lane_requests import ENCODE as ENCODE_REQUEST
from aura_stream.domain.lanes import bank as lanes
from aura_stream.domain.lanes.bank import LOST, Decided, Job, Lane, Limits
from aura_stream.domain.lanes.lines import AttemptLine, LaneLine, NoteLine
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.domain.pauses import Pause, Pauses, lifted, with_pause
from aura_stream.domain.settlement import RAILS
from aura_stream.domain.signals import ACCEPTED, REJECTED, RETURNED, SETTLED, Applied, BankFact, ClockTaken, Unmatched
from aura_stream.engine.errors import Poison
from aura_stream.engine.unit import Record, Unit
from tables.bank_lanes import (
    BANK_DUE,
    BANK_EARLY,
    BANK_JOBS,
    BANK_LANES,
    BANK_SHORT,
    BankJob,
    BankLane,
    Due,
    Early,
    ShortReference,
    due_key,
    due_prefix,
    early_key,
    job_key,
)
from tables.pauses import ALL, PAUSES
from topics.bank_requests import BANK_REQUESTS
from topics.chain_requests import CHAIN_REQUESTS

_PREFIX: Final = b"~bank:"
_LOOKED_AT: Final = 1000  # waiting jobs that one look at a lane goes through
_POLL_GIVEN_UP_MS: Final = 30_000
_READ_AGAIN: Final = 2
"""How often a list with events that nobody can read is asked for anew: it may only have been spoiled on its way."""
_STATEMENT_EVERY_MS: Final = 60 * 60 * 1000
_EARLY_MS: Final = 10 * 60_000
"""Money with a reference of ours may be here before the ledger's word that it is expected: two topics have no order."""
_GRACE_MS: Final = 1_000  # beyond the time-out of a call, for its answer to be written down


class Call(NamedTuple):
    """A wish: submit or inquire, once, under a reference. `reference` is ours, `sent` what the bank knows it by."""

    bank: str
    number: int
    is_inquiry: bool
    sent: str
    job: Job
    timeout_ms: int


class Poll(NamedTuple):
    """A wish: list the bank's events after a number."""

    bank: str
    after: int


class BankLanes:
    """The actor of a partition of the banks' requests."""

    signal_type: Any = None

    def __init__(self, rules: LaneRules) -> None:
        self.rules = rules

    def command(self, unit: Unit, record: Record) -> None:
        """A request of the ledger, or news from outside. Raises :class:`Poison` for what is neither."""
        key = record.key or b""
        name = key.removeprefix(_PREFIX).decode()
        if not key.startswith(_PREFIX) or name not in self.rules.settlement.banks.values():
            raise Poison("wrong_key", f"{key[:80]!r} is no lane of a bank")
        try:
            if record.topic == BANK_REQUESTS.name:
                self._request(unit, name, DECODE_BANK(record.value or b""))
            else:
                self._news(unit, name, lane_news.DECODE_BANK(record.value or b""))
        except (msgspec.MsgspecError, Unreadable) as error:
            raise Poison("invalid_message", str(error)) from error
        self._go_on(unit, name)

    def deadline(self, unit: Unit, key: bytes) -> None:
        """Something of a lane is due."""
        name = key.decode()
        row = self._lane(name)
        if 0 < row.look_at <= unit.at:  # else it was set for another time since
            BANK_LANES.set(key, msgspec.structs.replace(row, look_at=0))
            self._go_on(unit, name)

    def dead_letter(self, unit: Unit, record: Record, reason: str, detail: str) -> None:
        """Nobody waits for an answer: the transaction's own deadline asks for a person."""

    def signal(self, unit: Unit, signal: Any) -> None:
        """Lanes are not signalled."""
        raise NotImplementedError

    def refuse(self, unit: Unit, signal: Any, reason: str, detail: str) -> None:
        """Lanes are not signalled."""
        raise NotImplementedError

    # --- requests ---------------------------------------------------------------------------------------------------

    def _request(self, unit: Unit, bank: str, request: BankRequest) -> None:
        if isinstance(request, SetPause):
            set_pause(unit, request)
            if request.pause.lifted_at:
                BANK_LANES.set(bank.encode(), msgspec.structs.replace(self._lane(bank), review=b""))
            return
        if isinstance(request, SetClock):
            set_clock(unit, request)
            return
        key = job_key(bank, request.reference)
        known = BANK_JOBS.get(key)
        if isinstance(request, Inquire):
            if known is not None and not known.until:
                job = lanes.asked_to_inquire(known.job, unit.at)
                self._put(bank, known, msgspec.structs.replace(known, job=job, is_paused=False))
            return
        row = self._lane(bank)
        made = lanes.job_of(row.lane, request, None if known is None else known.job, unit.at)
        if made is None:
            return
        lane, job = made
        BANK_LANES.set(bank.encode(), msgspec.structs.replace(row, lane=lane))
        if job.short:
            BANK_SHORT.set(job_key(bank, job.short), ShortReference(job.reference))
        self._put(bank, None, BankJob(job))
        if job.state == "expected":
            self._claim_early(unit, bank, job.reference)

    # --- news -------------------------------------------------------------------------------------------------------

    def _news(self, unit: Unit, bank: str, news: lane_news.BankNews) -> None:
        if isinstance(news, CallEnded):
            self._call_ended(unit, bank, news)
        elif isinstance(news, Heard):
            self._event(unit, bank, bytes(news.event))
        elif isinstance(news, Polled):
            self._polled(unit, bank, news)
        else:
            if BANK_LANES.get(bank.encode()) is None:
                # A lane on which nothing has ever happened is to be seen too.
                unit.line(LaneLine(f"bank:{bank}", self._lane(bank).lane.breaker, unit.at))
            # Nobody knows what was missed meanwhile, and the pace may have been set anew.
            BANK_LANES.set(bank.encode(), msgspec.structs.replace(self._lane(bank), poll_at=unit.at))

    def _call_ended(self, unit: Unit, bank: str, news: CallEnded) -> None:
        known = BANK_JOBS.get(job_key(bank, news.reference))
        if known is None:
            raise LookupError(f"the answer to a call for the unknown reference {news.reference}")
        if news.is_unreadable:
            unit.line(NoteLine(f"bank:{bank}", "unreadable", f"{news.reference}: {news.detail}"[:200], unit.at))
        if known.until and known.calls == news.number:
            self._ended(unit, bank, known, news)
            return
        # The call was given up before its answer came: what it says is still true.
        self._line(unit, bank, known, news.number, "late", news)
        if news.kind in (ACCEPTED, SETTLED, REJECTED):
            row = self._lane(bank)
            decided = lanes.heard(
                *(row.lane, known.job, news.kind, news.fact_id),
                at=unit.at,
                code=news.code,
                amount=news.amount,
                bank_reference=news.bank_reference,
            )
            self._decided(unit, bank, row, known, decided)

    def _ended(self, unit: Unit, bank: str, known: BankJob, news: CallEnded) -> None:
        row = self._lane(bank)
        decided = lanes.answered(
            *(row.lane, known.job, news.kind, self._limits(bank), unit.at),
            code=news.code,
            bank_reference=news.bank_reference,
            amount=news.amount,
            fact_id=news.fact_id,
            wait_ms=news.wait_ms,
        )
        self._decided(unit, bank, row, known, decided, until=0)
        self._line(unit, bank, known, known.calls, "ended", news)

    def _polled(self, unit: Unit, bank: str, news: Polled) -> None:
        unread = 0
        for event in news.events:
            error = None
            try:
                self._event(unit, bank, bytes(event))
            except Unreadable as caught:
                error = caught
            if error is not None:
                # One event that nobody can read must not keep those behind it from being heard.
                unread += 1
                unit.line(NoteLine(f"bank:{bank}", "unreadable", str(error)[:200], unit.at))
        row = self._lane(bank)
        if news.error or (unread and row.failed_polls < _READ_AGAIN):
            failed = row.failed_polls + 1
            wait = self.rules.poll_ms << min(failed, 4)
            row = msgspec.structs.replace(row, failed_polls=failed, poll_at=unit.at + wait)
        else:
            wait = 0 if news.events and news.after > row.polled else self.rules.poll_ms
            row = msgspec.structs.replace(
                row, failed_polls=0, poll_at=unit.at + wait, polled=max(row.polled, news.after)
            )
            if len(news.events) < EVENTS_LISTED and unit.at - row.statement_at >= _STATEMENT_EVERY_MS:
                row = msgspec.structs.replace(row, statement_at=unit.at)
                self._tell_minters(unit, bank)
        BANK_LANES.set(bank.encode(), row)

    def _tell_minters(self, unit: Unit, bank: str) -> None:
        """The bank's books were read to their end: mints may rest on them for a while."""
        settings = self.rules.settlement
        tokens = {RAILS[rail].token for rail, name in settings.banks.items() if name == bank}
        for token in sorted(tokens):
            unit.ask(CHAIN_REQUESTS.name, chain_lane_key(settings.chain, token), ENCODE_REQUEST(StatementRead(unit.at)))

    def _event(self, unit: Unit, bank: str, raw: bytes) -> None:
        event = orjson.loads(raw)
        if not isinstance(event, dict):
            raise Unreadable(f"the event is no object: {str(event)[:80]}")
        news = news_of(event)
        if news is None:
            return
        known = self._known(bank, news)
        if news.is_incoming and news.kind == SETTLED:
            self._received(unit, bank, known, news, raw)
        elif known is not None:
            self._heard(unit, bank, known, news)
        else:
            unit.line(NoteLine(f"bank:{bank}", "unknown_reference", news.fact_id, unit.at))

    def _received(self, unit: Unit, bank: str, known: BankJob | None, news: News, raw: bytes) -> None:
        """Money that somebody sent: expected, of nobody, or here before the ledger's word that it is expected.

        However often it is told, it becomes one thing: what went to suspense stays there, until a person matches it.
        """
        ours = our_references_in(news)
        key = early_key(bank, ours[0], news.fact_id) if ours else b""
        early = BANK_EARLY.get(key) if key else None
        if early is not None and early.is_unmatched:
            return
        if known is not None:
            if early is not None:
                BANK_EARLY.delete(key)
            self._heard(unit, bank, known, news)
        elif not ours:
            self._unmatched(unit, bank, news)
        elif early is None:
            BANK_EARLY.set(key, Early(raw))
            BANK_DUE.set(due_key(bank, "e", unit.at + _EARLY_MS, f"{ours[0]}/{news.fact_id}"), Due())

    def _unmatched(self, unit: Unit, bank: str, news: News) -> None:
        fact = Unmatched(
            *(self.rules.house_tenant, bank, news.asset, news.amount, news.fact_id, news.text), effective_at=news.at
        )
        unit.signal(_PREFIX + bank.encode(), fact)

    def _claim_early(self, unit: Unit, bank: str, reference: str) -> None:
        """What was here before it was expected is heard now."""
        prefix = early_key(bank, reference, "")
        for _, early in list(BANK_EARLY.range(prefix, prefix + b"\xff")):
            if not early.is_unmatched:
                self._event(unit, bank, early.event)

    def _wait_no_longer(self, unit: Unit, bank: str) -> None:
        """What was kept for long enough is nobody's."""
        prefix = due_prefix(bank, "e")
        for due, _ in list(BANK_DUE.range(prefix, prefix + (unit.at + 1).to_bytes(8, "big"))):
            BANK_DUE.delete(due)
            key = f"{bank}/".encode() + due[len(prefix) + 8 :]
            early = BANK_EARLY.get(key)
            if early is None:
                continue
            news = news_of(orjson.loads(early.event))
            assert news is not None
            known = self._known(bank, news)
            if known is not None:
                BANK_EARLY.delete(key)
                self._heard(unit, bank, known, news)
            else:
                BANK_EARLY.set(key, Early(b"", is_unmatched=True))
                self._unmatched(unit, bank, news)

    def _known(self, bank: str, news: News) -> BankJob | None:
        if news.is_incoming:
            for reference in references_in(news):
                job = BANK_JOBS.get(job_key(bank, reference))
                if job is not None and job.job.state == "expected":
                    return job
            return None
        short = BANK_SHORT.get(job_key(bank, news.reference))
        return BANK_JOBS.get(job_key(bank, short.reference if short is not None else news.reference))

    def _heard(self, unit: Unit, bank: str, known: BankJob, news: News) -> None:
        row = self._lane(bank)
        decided = lanes.heard(
            *(row.lane, known.job, news.kind, news.fact_id),
            at=unit.at,
            code=news.code,
            amount=news.amount,
            bank_reference=news.bank_reference,
        )
        facts = tuple(
            msgspec.structs.replace(fact, asset=news.asset, effective_at=news.at)
            if fact.kind in (SETTLED, RETURNED)
            else fact
            for fact in decided.facts
        )
        self._decided(unit, bank, row, known, msgspec.structs.replace(decided, facts=facts))

    # --- what is due ------------------------------------------------------------------------------------------------

    def _go_on(self, unit: Unit, bank: str) -> None:
        """Gives up calls whose time is over, makes those that may be made, and sets the time of the next look."""
        at = unit.at
        prefix = due_prefix(bank, "c")
        for key, _ in list(BANK_DUE.range(prefix, prefix + (at + 1).to_bytes(8, "big"))):
            known = _job_due(bank, key)
            given_up = CallEnded(known.job.reference, known.calls, LOST, detail="no answer in time")
            self._ended(unit, bank, known, given_up)
        self._wait_no_longer(unit, bank)
        self._review(unit, bank)
        again = self._start(unit, bank)
        again = min(again, self._poll(unit, bank))
        for kind in ("c", "w", "e"):
            prefix = due_prefix(bank, kind)
            later = BANK_DUE.range(prefix + (at + 1).to_bytes(8, "big"), prefix + b"\xff" * 8)
            again = min([again, *(int.from_bytes(key[len(prefix) :][:8], "big") for key, _ in islice(later, 1))])
        row = self._lane(bank)
        if not at < row.look_at <= again:
            again = max(again, at + 1)
            BANK_LANES.set(bank.encode(), msgspec.structs.replace(row, look_at=again))
            unit.deadline(bank.encode(), again)

    def _start(self, unit: Unit, bank: str) -> int:
        """Starts what is due, in its order; when to try again if something holds the lane back."""
        prefix, at, limits = due_prefix(bank, "w"), unit.at, self._limits(bank)
        waiting = list(islice(BANK_DUE.range(prefix, prefix + (at + 1).to_bytes(8, "big")), _LOOKED_AT))
        for key, _ in waiting:
            known = _job_due(bank, key)
            row = self._lane(bank)
            why, again = lanes.held_back(row.lane, known.job, limits, pauses(), at)
            if why == "paused":
                # Set aside: it must not keep what no pause holds back from its turn, nor be looked at again and again.
                self._put(bank, known, msgspec.structs.replace(known, is_paused=True))
                continue
            if why:
                return again or at + limits.answer_ms
            is_inquiry = known.job.state == "unknown"
            decided = lanes.started(row.lane, known.job, limits, at)
            until = at + limits.answer_ms + _GRACE_MS
            after = self._decided(
                unit, bank, row, known, decided, until=until, calls=known.calls + 1, is_inquiry=is_inquiry
            )
            self._line(unit, bank, after, after.calls, "started", None)
            job = after.job
            sent = job.short or job.reference
            unit.wish(Call(bank, after.calls, is_inquiry, sent, job, limits.answer_ms))
        if len(waiting) == _LOOKED_AT or self._lane(bank).review is not None:
            return at + 1  # there may be more
        return at + _POLL_GIVEN_UP_MS

    def _review(self, unit: Unit, bank: str) -> None:
        """Brings back what was set aside and no pause holds back any more, some at a time."""
        row = self._lane(bank)
        if row.review is None:
            return
        prefix, limits = due_prefix(bank, "p"), self._limits(bank)
        aside = list(islice(BANK_DUE.range(prefix + row.review, prefix + b"\xff" * 9), _LOOKED_AT))
        for key, _ in aside:
            known = _job_due(bank, key)
            if lanes.held_back(row.lane, known.job, limits, pauses(), unit.at)[0] != "paused":
                self._put(bank, known, msgspec.structs.replace(known, is_paused=False))
        on = aside[-1][0][len(prefix) :] + b"\0" if len(aside) == _LOOKED_AT else None
        BANK_LANES.set(bank.encode(), msgspec.structs.replace(row, review=on))

    def _poll(self, unit: Unit, bank: str) -> int:
        row = self._lane(bank)
        due = row.poll_at
        if row.lane.breaker == "open":
            due = max(due, row.lane.opened_at + self._limits(bank).open_ms)
        if due > unit.at:
            return due
        if row.lane.breaker == "half_open":
            return unit.at + _POLL_GIVEN_UP_MS  # the one call is out; what comes of it looks here again
        row = msgspec.structs.replace(row, poll_at=unit.at + _POLL_GIVEN_UP_MS)
        BANK_LANES.set(bank.encode(), row)
        unit.wish(Poll(bank, row.polled))
        return row.poll_at

    # --- rows -------------------------------------------------------------------------------------------------------

    def _limits(self, bank: str) -> Limits:
        return self.rules.banks.get(bank) or Limits()

    def _lane(self, bank: str) -> BankLane:
        return BANK_LANES.get(bank.encode()) or BankLane(Lane(bank))

    def _decided(
        self, unit: Unit, bank: str, row: BankLane, before: BankJob, decided: Decided, **changes: Any
    ) -> BankJob:
        """Writes what was decided and tells the customer's partition."""
        after = msgspec.structs.replace(before, job=decided.job, is_paused=False, **changes)
        self._put(bank, before, after)
        BANK_LANES.set(bank.encode(), msgspec.structs.replace(row, lane=decided.lane))
        if decided.lane.breaker != row.lane.breaker:
            unit.line(LaneLine(f"bank:{bank}", decided.lane.breaker, unit.at, decided.lane.failures))
        for fact in decided.facts:
            tell(unit, decided.job, fact)
        return after

    def _put(self, bank: str, before: BankJob | None, after: BankJob) -> None:
        if before is not None and (was := _due(bank, before)):
            BANK_DUE.delete(was)
        BANK_JOBS.set(job_key(bank, after.job.reference), after)
        if due := _due(bank, after):
            BANK_DUE.set(due, Due())

    def _line(self, unit: Unit, bank: str, row: BankJob, number: int, state: str, news: CallEnded | None) -> None:
        job = row.job
        lane = self._lane(bank).lane
        line = AttemptLine(
            f"bank:{bank}",
            job.transaction_id,
            job.tenant,
            job.step,
            "inquire" if row.is_inquiry else "submit",
            job.short or job.reference,
            number,
            state,
            unit.at,
            lane.breaker,
        )
        if news is not None:
            line = msgspec.structs.replace(
                line,
                answer=news.kind,
                code=news.code,
                status=news.status,
                detail=news.detail[:200],
                took_ms=news.took_ms,
            )
        unit.line(line)


def _job_due(bank: str, due: bytes) -> BankJob:
    """The job of a key that `_due` has made."""
    found = BANK_JOBS.get(job_key(bank, due[len(due_prefix(bank, "w")) + 8 :].decode()))
    assert found is not None
    return found


def _due(bank: str, row: BankJob) -> bytes:
    if row.until:
        return due_key(bank, "c", row.until, row.job.reference)
    return due_key(bank, "p" if row.is_paused else "w", row.job.due, row.job.reference) if row.job.due else b""


def tell(unit: Unit, job: Job, fact: BankFact) -> None:
    """Tells the customer's partition."""
    unit.signal(record_key(job.tenant, job.customer), fact)


# --- pauses and the clock, for every kind of lane --------------------------------------------------------------------


def pauses() -> tuple[Pause, ...]:
    """All pauses that the partition knows."""
    row = PAUSES.get(ALL)
    return () if row is None else row.pauses


def set_pause(unit: Unit, request: SetPause) -> None:
    """A pause was set or lifted; each lane of the partition is told, and each answers."""
    told, known = request.pause, pauses()
    old = next((one for one in known if one.id == told.id), None)
    if old is None:
        known = with_pause(known, told)
    elif told.lifted_at:
        known = lifted(known, told.id, told.lifted_at)
    PAUSES.set(ALL, Pauses(known))
    unit.signal_partition(request.home, Applied(told.id, bool(told.lifted_at)))


def set_clock(unit: Unit, request: SetClock) -> None:
    """The clock was moved; each lane of the partition is told, and each answers."""
    unit.move_clock(request.moved_ms)
    unit.signal_partition(request.home, ClockTaken(request.moved_ms))
