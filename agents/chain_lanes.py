"""The minters' lanes: requests and looks at the chain in, facts to customers' partitions and wishes out.

What is decided stands in `domain/lanes/minter.py`. A transaction is signed inside the unit that takes its nonce: the
same bytes on every machine and in every replay. They are stored with it, and go out after its commit; a crash in
between loses only time, since the next look finds that no node has them.

    request ──▶ queued ──look──▶ unit: nonce, reserve, bytes stored ──commit──▶ sent
    look (of the head, receipts of all hashes, nonces, fees) ──▶ mined, confirmed, lost, dead; sent again, fee raised
    look (of what has moved in final blocks) ──▶ tokens at a deposit address ──▶ queued, as a sweep

The chain's breaker is the lane's too: looks are made one at a time, ever more seldom while they fail, and nothing is
signed without a fresh one.
"""

from __future__ import annotations

from itertools import count, islice
from typing import Any, Final, NamedTuple

import msgspec
from eth_utils.address import to_checksum_address

from agents.bank_lanes import pauses, set_clock, set_pause
from aura_stream.chain import forwarder
from aura_stream.chain import token as contract
from aura_stream.chain.setup import FIRST_NONCE, token_address
from aura_stream.chain.signer import Fees, Signed, SigningKey, Transaction, cancellation, contract_address, sign
from aura_stream.domain import lane_news
from aura_stream.domain.gas import RECEIVED
from aura_stream.domain.ids import chain_lane_key, chain_reference, derived_id, id_text, parse_account_id, record_key
from aura_stream.domain.lane_news import AddressWanted, Arrival, Cancel, Looked, NotSeen, Release, Sent
from aura_stream.domain.lane_requests import (
    DECODE_CHAIN,
    Burn,
    ChainRequest,
    Mint,
    SetClock,
    SetPause,
    StatementRead,
    Withdraw,
)
from aura_stream.domain.lanes import minter as lanes
from aura_stream.domain.lanes.bank import Limits as Pace
from aura_stream.domain.lanes.bank import backoff
from aura_stream.domain.lanes.lines import AddressLine, AttemptLine, CancelLine, LaneLine, NoteLine, ReleaseLine
from aura_stream.domain.lanes.minter import Decided, Job, Minter, Receipt, View
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.domain.pauses import Scope, in_force
from aura_stream.domain.settlement import TOKENS
from aura_stream.domain.signals import CONFIRMED, STUCK, ChainFact, NativeMoved, TokensIn
from aura_stream.engine.errors import Poison
from aura_stream.engine.unit import Record, Unit
from tables.chain_lanes import (
    CHAIN_ADDRESSES,
    CHAIN_JOBS,
    CHAIN_LANES,
    CHAIN_WAITING,
    CHAIN_WANTED,
    ChainJob,
    ChainLane,
    OpenSend,
    Owner,
    Waiting,
    address_key,
    job_key,
    waiting_key,
    waiting_prefix,
    wanted_key,
)
from topics.chain_requests import CHAIN_REQUESTS

_PREFIX: Final = b"~chain:"
_GAS: Final = 200_000
"""A mint or burn takes about 62,000, the first sweep of an address about 130,000."""
_GAS_DEPLOY: Final = 1_000_000
_AT_ONCE: Final = 200  # jobs that one unit signs, or one look watches
_QUEUED_AT_ONCE: Final = 2_000  # mints, and other jobs, that one unit looks at for those that it signs
_LOOK_GIVEN_UP_MS: Final = 30_000
_SEND_CUT_OFF_MS: Final = 30_000
"""After that nobody tells any more how a broadcast ended: what a look sees has to do."""
_FAILURES_TO_OPEN: Final = 5


class Watch(NamedTuple):
    """What a look asks about one job."""

    job: Job
    since: int


class Look(NamedTuple):
    """A wish: the chain as it is now, and what it has of these jobs. `height` is the highest block seen before.

    With `scan_from` also what has moved of the token in final blocks from that one on.
    """

    lane: str
    token: str
    height: int
    jobs: tuple[Watch, ...]
    scan_from: int = 0
    chain: str = ""  # that the lane began with: of another one nothing is asked, and nothing is put there


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
        if isinstance(request, SetClock):
            set_clock(unit, request)
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
        elif isinstance(news, Cancel):
            self._cancel(unit, lane, news)
        elif isinstance(news, AddressWanted):
            self._address(unit, lane, Owner(news.tenant, news.account))
            self._look(unit, lane, soon=True)
        else:
            self._tell(unit, lane, self._lane(lane))  # so that it is known before anything has happened to it
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
        pace = Pace(backoff_ms=self.rules.chain.backoff_ms)
        self._look(unit, lane, at=unit.at + backoff(lane, failures, min(failures, 5), pace))

    def _release(self, unit: Unit, lane: str, news: Release) -> None:
        row = self._lane(lane)
        minter, outcome = lanes.released(row.minter, news.stopped)
        unit.line(ReleaseLine(news.id, f"chain:{lane}", news.operator, news.stopped, outcome, unit.at))
        if outcome == lanes.RELEASED:
            row = msgspec.structs.replace(row, minter=minter)
            CHAIN_LANES.set(lane.encode(), row)
            prefix = waiting_prefix(lane, "s")
            for key, _ in list(CHAIN_WAITING.range(prefix, prefix + b"\xff" * 9)):
                known = _job_waiting(lane, key)
                if known.job.elsewhere == news.stopped:
                    self._put(lane, known, msgspec.structs.replace(known, job=lanes.explained(known.job)))
            self._tell(unit, lane, row)
            self._look(unit, lane, soon=True)

    def _cancel(self, unit: Unit, lane: str, news: Cancel) -> None:
        """The nonce's next bytes are a transfer to itself; whatever was signed under it before is watched as well."""
        row, known, decided = self._lane(lane), None, None
        prefix = waiting_prefix(lane, "s") + news.nonce.to_bytes(8, "big")
        for key, _ in islice(CHAIN_WAITING.range(prefix, prefix + b"\xff"), 1):
            known = CHAIN_JOBS.get(job_key(lane, key[len(prefix) :].decode()))
        higher = None if known is None else lanes.to_cancel(known.job, row.height)
        if known is not None and higher is not None:
            decided = self._sign(unit, lane, row.minter, known, higher, int(row.chain.partition(":")[0]), cancels=True)
        job, outcome = (None, lanes.NOT_WAITING) if decided is None else (decided.job, lanes.CANCELED)
        about = ("", "") if job is None else (job.transaction_id, job.hashes[-1])
        unit.line(CancelLine(news.id, f"chain:{lane}", news.operator, news.nonce, outcome, unit.at, *about))
        self._look(unit, lane, soon=True)

    def _looked(self, unit: Unit, lane: str, news: Looked) -> None:
        row = self._lane(lane)
        before = row.breaker, row.minter.stopped
        if row.chain and row.chain != news.chain:
            # Nothing that this node says is about our tokens, its nonces neither.
            minter = msgspec.structs.replace(row.minter, stopped=lanes.ANOTHER_CHAIN)
        else:
            minter = msgspec.structs.replace(row.minter, supply_at=unit.at)
            minter = lanes.checked(minter, news.nonce, news.final_nonce)
        row = msgspec.structs.replace(
            row,
            minter=minter,
            breaker="closed",
            failures=0,
            looking_until=0,
            chain=row.chain or news.chain,
        )
        if row.chain == news.chain:
            row = msgspec.structs.replace(row, height=max(row.height, news.height), final=max(row.final, news.final))
        CHAIN_LANES.set(lane.encode(), row)
        if (row.breaker, minter.stopped) != before:
            self._tell(unit, lane, row)
        if row.chain != news.chain:
            self._look(unit, lane, at=unit.at + self.rules.idle_look_ms)
            return
        fee = min(news.fee, self.rules.chain.fee_max)
        view = View(news.height, news.final, news.final_nonce, fee, min(news.tip, fee))
        for sighting in news.sightings:
            known = CHAIN_JOBS.get(job_key(lane, sighting.reference))
            if known is None:
                raise LookupError(f"a look at the unknown reference {sighting.reference}")
            if sighting.error and known.job.elsewhere != lanes.EXPLAINED:
                # Whoever it was has our key or a role: a person must look.
                if known.job.elsewhere != sighting.error:
                    doubted = msgspec.structs.replace(known, job=lanes.doubted(known.job, sighting.error))
                    self._put(lane, known, doubted)
                    known = doubted
                self._stop(unit, lane, sighting.error)
                if sighting.error == lanes.REFERENCE_USED:
                    continue  # nor may anything be concluded
            self._observed(unit, lane, known, view, sighting, news.chain_id)
        self._topped_up(unit, lane, news)
        self._arrived(unit, lane, news)
        self._sign_pause(unit, lane, view, news.chain_id)
        self._sign_forwarder(unit, lane, view, news.chain_id)
        self._sign_queued(unit, lane, view, news.chain_id)
        is_busy = any(
            next(iter(CHAIN_WAITING.range(prefix, prefix + b"\xff")), None) is not None
            for prefix in (waiting_prefix(lane, kind) for kind in "mqs")
        )
        idle_ms = self.rules.scan_ms if row.scanned else self.rules.idle_look_ms
        self._look(unit, lane, at=unit.at + (self.rules.look_ms if is_busy else idle_ms))

    def _topped_up(self, unit: Unit, lane: str, news: Looked) -> None:
        """Money for gas that has come to the key. What it had when the lane began has come as well."""
        if news.native < 0 or news.final_nonce < FIRST_NONCE:
            return  # what putting the token there takes is not final yet, and nobody tells of it
        prefix = waiting_prefix(lane, "s")
        until = prefix + news.final_nonce.to_bytes(8, "big")
        if next(iter(CHAIN_WAITING.range(prefix, until)), None) is not None:
            return  # what a final block has taken is not all told yet
        row = self._lane(lane)
        minter, more = lanes.received(row.minter, news.native)
        if more:
            CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, minter=minter))
            # So much has never been there before under as many nonces: the same look twice is the same money.
            self._native(unit, lane, RECEIVED, f"received/{news.final_nonce}/{news.native}", more)

    def _native(self, unit: Unit, lane: str, step: str, key: str, amount: int, hash_: str = "") -> None:
        chain, _, token = lane.partition(":")
        told = NativeMoved(self.rules.house_tenant, chain, token, step, key, amount, hash_)
        unit.signal(chain_lane_key(chain, token), told)

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
        if decided.spent is not None:
            spent = decided.spent
            self._native(unit, lane, spent.step, f"gas/{spent.hash}", spent.amount, spent.hash)
        if decided.lane.acts_final != row.minter.acts_final:
            self._tell(unit, lane, self._lane(lane))
        if known.job.step == "deploy":
            self._deployed(unit, lane, known.job)
        elif known.job.step == "sweep" and known.job.state == "dead":
            self._sweep_again(unit, lane, known.job)
        known = self._sends_ended(unit, lane, known, sighting.hash)
        if known.job.state != "signed":
            return
        higher = lanes.bumped(known.job, view, self.rules.chain)
        if higher is not None:
            row = self._lane(lane)
            self._sign(unit, lane, row.minter, known, higher, chain_id, cancels=bool(higher.cancels))
        elif sighting.is_missing or decided.send:
            self._send(unit, lane, known)

    def _sign_pause(self, unit: Unit, lane: str, view: View, chain_id: int) -> None:
        """The contract's own pause, before anything that it stops or lets go on; it stands behind what is signed."""
        row = self._lane(lane)
        chain, _, token = lane.partition(":")
        acts = lanes.paused_acts(pauses(), chain, token)
        minter = lanes.for_pause(row.minter, acts)
        if minter is None:
            return
        name, tenant = f"pause/{minter.next_nonce}", self.rules.house_tenant
        id_ = id_text(derived_id(tenant, f"~chain:{lane}", name))
        job = Job(id_, tenant, f"~chain:{lane}", "pause", chain_reference(id_, name), acts)
        taken = lanes.take_nonce(minter, job, view)
        self._sign(unit, lane, taken.lane, ChainJob(job, unit.next_number(f"jobs:{lane}")), taken.job, chain_id)
        self._tell(unit, lane, self._lane(lane))

    def _sign_forwarder(self, unit: Unit, lane: str, view: View, chain_id: int) -> None:
        """The contract behind the deposit addresses, for the first one; where it lies follows from its nonce."""
        row, prefix = self._lane(lane), f"{lane}/".encode()
        is_wanted = next(iter(CHAIN_WANTED.range(prefix, prefix + b"\xff")), None) is not None
        if not is_wanted or row.forwarder or row.deploying or row.minter.stopped or row.minter.seen_nonce:
            return
        name, tenant = f"deploy/{row.minter.next_nonce}", self.rules.house_tenant
        id_ = id_text(derived_id(tenant, f"~chain:{lane}", name))
        job = Job(id_, tenant, f"~chain:{lane}", "deploy", chain_reference(id_, name), 0)
        taken = lanes.take_nonce(row.minter, job, view)
        CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, deploying=job.reference))
        self._sign(unit, lane, taken.lane, ChainJob(job, unit.next_number(f"jobs:{lane}")), taken.job, chain_id)

    def _deployed(self, unit: Unit, lane: str, job: Job) -> None:
        """Once it is final everybody who waits has an address; one that can never land is asked for again."""
        row = self._lane(lane)
        if row.deploying != job.reference or job.state not in ("final", "dead"):
            return
        made = contract_address(self._keys[row.minter.token].address, job.nonce) if job.state == "final" else ""
        CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, forwarder=made, deploying=""))
        prefix = f"{lane}/".encode()
        for key, owner in list(CHAIN_WANTED.range(prefix, prefix + b"\xff")) if made else ():
            CHAIN_WANTED.delete(key)
            self._address(unit, lane, owner)

    def _address(self, unit: Unit, lane: str, owner: Owner) -> None:
        """An address for an account, at once if the contract is there. Asked again, it is the same one."""
        row = self._lane(lane)
        if parse_account_id(owner.account).asset != row.minter.token:
            raise Poison("invalid_message", f"{owner.account[:80]!r} is no account of {row.minter.token}")
        if not row.forwarder:
            CHAIN_WANTED.set(wanted_key(lane, owner.tenant, owner.account), owner)
            return
        address = forwarder.address(row.forwarder, forwarder.salt(owner.tenant, owner.account))
        if CHAIN_ADDRESSES.get(address_key(lane, address)) is None:
            CHAIN_ADDRESSES.set(address_key(lane, address), owner)
            unit.line(AddressLine(f"chain:{lane}", address, owner.tenant, owner.account, unit.at))
        if not row.scanned:
            # Nobody can have sent anything there in a block that is final already.
            CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, scanned=max(row.final, 1)))

    def _arrived(self, unit: Unit, lane: str, news: Looked) -> None:
        """Tokens that came to deposit addresses are swept. Each final block is read once, so each log counts once."""
        row = self._lane(lane)
        if not row.scanned or news.scanned_from != row.scanned + 1 or news.scanned <= row.scanned:
            return
        CHAIN_LANES.set(lane.encode(), msgspec.structs.replace(row, scanned=news.scanned))
        for arrival in news.arrivals:
            owner = CHAIN_ADDRESSES.get(address_key(lane, arrival.to))
            if owner is not None and arrival.amount > 0:
                self._redeem(unit, lane, owner, arrival)

    def _redeem(self, unit: Unit, lane: str, owner: Owner, arrival: Arrival) -> None:
        chain, _, token = lane.partition(":")
        customer = parse_account_id(owner.account).customer
        id_ = id_text(derived_id(owner.tenant, f"~chain:{lane}", f"{arrival.hash}/{arrival.index}"))
        reference = chain_reference(id_, "sweep/1")
        if CHAIN_JOBS.get(job_key(lane, reference)) is not None:
            return
        amount = owner.waiting + arrival.amount
        if amount < self.rules.chain.least_sweep.get(token, 0):
            self._waits(unit, lane, owner, arrival.to, amount)
            return
        self._waits(unit, lane, owner, arrival.to, 0)
        job = Job(id_, owner.tenant, customer, "sweep", reference, amount, arrival.to)
        self._put(lane, None, ChainJob(job, unit.next_number(f"jobs:{lane}")))
        told = TokensIn(*(id_, owner.tenant, owner.account, chain, token, amount, arrival.to), arrival.hash)
        unit.signal(record_key(owner.tenant, customer), told)

    def _waits(self, unit: Unit, lane: str, owner: Owner, address: str, amount: int) -> None:
        """So much waits at an address now, for more to come."""
        if amount == owner.waiting:
            return
        CHAIN_ADDRESSES.set(address_key(lane, address), msgspec.structs.replace(owner, waiting=amount))
        row = self._lane(lane)
        minter = msgspec.structs.replace(row.minter, waiting=row.minter.waiting + amount - owner.waiting)
        row = msgspec.structs.replace(row, minter=minter)
        CHAIN_LANES.set(lane.encode(), row)
        self._tell(unit, lane, row)

    def _sweep_again(self, unit: Unit, lane: str, dead: Job) -> None:
        """It moved nothing and never will: the tokens still lie at their address."""
        rounds = (chain_reference(dead.transaction_id, f"sweep/{number}") for number in count(2))
        reference = next(one for one in rounds if CHAIN_JOBS.get(job_key(lane, one)) is None)
        who = (dead.transaction_id, dead.tenant, dead.customer)
        job = Job(*who, "sweep", reference, dead.amount, dead.to)
        self._put(lane, None, ChainJob(job, unit.next_number(f"jobs:{lane}")))

    def _sign_queued(self, unit: Unit, lane: str, view: View, chain_id: int) -> None:
        waits, left = "", _AT_ONCE
        # What is held back must not keep what is not from its turn: a burn behind mints that wait for money.
        prefixes = [waiting_prefix(lane, kind) for kind in "mq"]
        queues = [islice(CHAIN_WAITING.range(one, one + b"\xff" * 9), _QUEUED_AT_ONCE) for one in prefixes]
        for numbered in sorted(key[len(prefixes[0]) :] for queue in queues for key, _ in queue):
            known = _job_waiting(lane, prefixes[0] + numbered)
            minter, job = self._lane(lane).minter, known.job
            if job.state != "queued":
                CHAIN_WAITING.delete(prefixes[1] + numbered)  # where a version before this one had a mint wait
                continue
            chain, _, token = lane.partition(":")
            is_paused = in_force(pauses(), Scope(job.tenant, chain=chain, assets=(token,))) is not None
            if why := lanes.held_back(minter, job, self.rules.chain, unit.at, paused=is_paused):
                waits = waits or why
                continue
            taken = lanes.take_nonce(minter, job, view)
            known = msgspec.structs.replace(known, since=max(view.final - 1, 0))
            self._sign(unit, lane, taken.lane, known, taken.job, chain_id)
            left -= 1
            if not left:
                break
        row = self._lane(lane)
        if not row.minter.stopped and row.minter.waits != waits:
            row = msgspec.structs.replace(row, minter=msgspec.structs.replace(row.minter, waits=waits))
            CHAIN_LANES.set(lane.encode(), row)
            self._tell(unit, lane, row)

    def _sign(
        self,
        unit: Unit,
        lane: str,
        minter: Minter,
        known: ChainJob,
        job: Job,
        chain_id: int,
        *,
        cancels: bool = False,
    ) -> ChainJob:
        """Signs, stores and lets it go out: the job's work, or a transfer to itself that takes its place."""
        key = self._keys[lane.partition(":")[2]]
        fees = Fees(job.fee, job.tip)
        transaction = Transaction(chain_id, job.nonce, *self._call(lane, job), fees)
        signed = sign(cancellation(transaction, key.address, fees) if cancels else transaction, key)
        decide = lanes.canceled if cancels else lanes.signed
        decided = decide(minter, job, signed.tx_hash)
        after = msgspec.structs.replace(known, raw=signed.raw.hex())
        after = self._decided(unit, lane, self._lane(lane), known, decided, after)
        return self._send(unit, lane, after)

    def _call(self, lane: str, job: Job) -> tuple[str | None, bytes, int]:
        """What a job asks of which contract, and how much gas it may take."""
        token = lane.partition(":")[2]
        address, custody = self._addresses[token], self._keys[token].address
        if job.step == "deploy":
            return None, forwarder.creation(address), _GAS_DEPLOY
        if job.step == "sweep":
            owner = CHAIN_ADDRESSES.get(address_key(lane, job.to))
            assert owner is not None
            salt = forwarder.salt(owner.tenant, owner.account)
            return self._lane(lane).forwarder, forwarder.sweep(salt, job.amount), _GAS
        if job.step == "pause":
            return address, contract.set_paused(contract.Act(job.amount)), _GAS
        reference = bytes.fromhex(job.reference)
        if job.step == "burn":
            return address, contract.burn(job.amount, reference), _GAS
        to = to_checksum_address(job.to) if job.to else custody
        return address, contract.mint(to, job.amount, reference), _GAS

    def _send(self, unit: Unit, lane: str, known: ChainJob) -> ChainJob:
        number, hash_ = known.sends + 1, known.job.hashes[-1]
        after = msgspec.structs.replace(known, sends=number, open=(*known.open, OpenSend(number, hash_, unit.at)))
        self._put(lane, known, after)
        self._line(unit, lane, after, number, hash_, "started")
        unit.wish(Send(lane, after.job.reference, number, Signed(bytes.fromhex(after.raw), hash_)))
        return after

    def _sent(self, unit: Unit, lane: str, news: Sent) -> None:
        known = CHAIN_JOBS.get(job_key(lane, news.reference))
        if known is None:
            raise LookupError(f"bytes of the unknown reference {news.reference} were sent")
        rest = tuple(one for one in known.open if one.number != news.number)
        if len(rest) < len(known.open):  # else a look has ended it already
            self._put(lane, known, msgspec.structs.replace(known, open=rest))
            answer = "lost" if news.error else "taken"
            self._line(unit, lane, known, news.number, news.hash, "ended", answer, news.error[:200], news.took_ms)

    def _sends_ended(self, unit: Unit, lane: str, known: ChainJob, seen: str) -> ChainJob:
        """Ends the broadcasts that a crash has cut off: their nonce is used up, by what was `seen` in a block."""
        job = known.job
        if not known.open or job.state == "signed":
            return known
        is_over = job.state in ("final", "dead")
        ended = tuple(one for one in known.open if is_over or unit.at - one.at >= _SEND_CUT_OFF_MS)
        for one in ended:
            answer = "taken" if one.hash == seen else "lost"
            detail = "seen in a block" if one.hash == seen else f"its nonce was used by {seen or 'none of ours'}"
            self._line(unit, lane, known, one.number, one.hash, "ended", answer, detail)
        after = msgspec.structs.replace(known, open=tuple(one for one in known.open if one not in ended))
        self._put(lane, known, after)
        return after

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
            known = _job_waiting(lane, key)
            jobs.append(Watch(known.job, known.since))
        until = unit.at + _LOOK_GIVEN_UP_MS
        breaker = "half_open" if row.breaker == "open" else row.breaker
        CHAIN_LANES.set(
            lane.encode(), msgspec.structs.replace(row, looking_until=until, look_at=until, breaker=breaker)
        )
        if breaker != row.breaker:
            self._tell(unit, lane, self._lane(lane))
        unit.deadline(lane.encode(), until)
        scan_from = row.scanned + 1 if row.scanned else 0
        unit.wish(Look(lane, lane.partition(":")[2], row.height, tuple(jobs), scan_from, row.chain))

    # --- rows -------------------------------------------------------------------------------------------------------

    def _tell(self, unit: Unit, lane: str, row: ChainLane) -> None:
        """Writes down how the lane stands."""
        minter = row.minter
        names = ("next_nonce", "seen_nonce", "mintable", "in_flight", "open_returns", "acts", "acts_final", "waiting")
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
            if _concerns_the_ledger(fact):
                unit.signal(record_key(after.job.tenant, after.job.customer), fact)
        return after

    def _put(self, lane: str, before: ChainJob | None, after: ChainJob) -> None:
        was, is_ = (None if before is None else _waiting(lane, before)), _waiting(lane, after)
        if was is not None and was != is_:
            CHAIN_WAITING.delete(was)
        CHAIN_JOBS.set(job_key(lane, after.job.reference), after)
        if is_ is not None and was != is_:
            CHAIN_WAITING.set(is_, Waiting())

    def _line(
        self,
        unit: Unit,
        lane: str,
        row: ChainJob,
        number: int,
        hash_: str,
        state: str,
        answer: str = "",
        detail: str = "",
        took_ms: int = 0,
    ) -> None:
        """One line of an attempt. Its detail begins with the nonce, by which an operator cancels it."""
        job, breaker = row.job, self._lane(lane).breaker
        said = f"nonce {job.nonce}" + (f": {detail}" if detail else "")
        of = (f"chain:{lane}", job.transaction_id, job.tenant, job.step, "broadcast", hash_, number, state, unit.at)
        unit.line(AttemptLine(*of, breaker, answer, detail=said, took_ms=took_ms))


def _concerns_the_ledger(fact: ChainFact) -> bool:
    """What else a lane does is its own; a sweep that is dead is asked for again, and lands in the end."""
    return fact.step in ("mint", "burn") or (fact.step == "sweep" and fact.kind in (CONFIRMED, STUCK))


def _job_waiting(lane: str, waiting: bytes) -> ChainJob:
    """The job of a key that `_waiting` has made."""
    found = CHAIN_JOBS.get(job_key(lane, waiting[len(waiting_prefix(lane, "s")) + 8 :].decode()))
    assert found is not None
    return found


def _waiting(lane: str, row: ChainJob) -> bytes | None:
    if row.job.state == "queued":
        return waiting_key(lane, "m" if row.job.step == "mint" else "q", row.number, row.job.reference)
    if row.job.state in ("signed", "mined", "confirmed"):
        return waiting_key(lane, "s", row.job.nonce, row.job.reference)
    return None
