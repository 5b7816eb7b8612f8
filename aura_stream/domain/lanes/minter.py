"""A minter's lane: one signing key on one chain for one token. It alone knows what may be minted, and gives out nonces.

    queued ──sign (nonce, fee, bytes stored)──▶ signed ──in a block──▶ mined ──deep enough──▶ confirmed ──final──▶ final
       │                                          ▲ │                    │                      │
       └──withdraw──▶ withdrawn                   │ ├─fee raised (same nonce), k times: stuck   │
                                                  │ │                    │                      │
                                                  └─┼──block lost────────┴──────────────────────┘  same bytes again
                                                    └──nonce used by another, canceled, or reverted, at finality──▶ dead

    `mintable` is fiat that has settled and is meant for tokens that nobody has asked the chain for:
        + mint asked for (its fiat has settled)   - reserved by signing   - withdrawn
    A dead mint takes its backing along; the ledger asks again, with the backing, or gives it back.

    Besides mints and burns a lane has jobs of its own, with nonces like them:
        pause   sets what the contract itself refuses, when the pauses that name the chain say something else than the
                last one that was signed
        deploy  puts the contract behind the deposit addresses on the chain, when the first one is wanted
        sweep   moves tokens that have come to a deposit address, in a final block, to our custody; the customer is
                credited once that is final. One that is dead is asked for again, under another nonce. Less than the
                least amount waits there, and is swept with what comes later

Invariants
    M1  a mint is signed only when `mintable` covers it: supply and mints in flight never exceed settled fiat and open
        returns
    M2  nonces have no gap and no second owner; all hashes of a nonce are watched, any of them may land
    M3  a mint is dead only when its nonce is used up at finality; until then the same nonce goes on
    M4  what is signed is stored before it is sent, and is sent again, in nonce order, until it is final
    M5  nothing new is signed while the lane is stopped (a foreign nonce, another chain, a reference that somebody else
        has used), until a person releases it, but a pause that refuses more than the contract does; no mint while too
        many returns are open, or statement or supply are too old
    M6  once a pause of the chain has its nonce, nothing that it stops is signed behind it until the nonce that lifts it
    M7  an operator cancels a nonce by a transfer to itself under it that pays more; whichever of its transactions lands
        decides, and M3 holds
    M8  a release takes back no doubt: what stopped the lane stops it again with the next look, if it is still so. Of
        a job whose reference or nonce somebody else has used a release says that it is explained: it ends as M3 says
    M9  after a foreign nonce only a pause is signed until that is final: if its block is lost, what stands behind it
        can never land
"""

from __future__ import annotations

from typing import Final

import msgspec

from aura_stream.domain.lane_requests import Burn, Mint, Withdraw
from aura_stream.domain.pauses import Pause
from aura_stream.domain.signals import (
    BROADCAST,
    CONFIRMED,
    FAILED_FOR_GOOD,
    LOST,
    MINED,
    REORGED,
    STUCK,
    WITHDRAWN,
    ChainFact,
)

FOREIGN_NONCE: Final = "foreign_nonce"
ANOTHER_CHAIN: Final = "another_chain"
REFERENCE_USED: Final = "reference_used_elsewhere"

STOPS: Final = {
    FOREIGN_NONCE: (
        "The chain has a transaction of this key that the lane has not made: somebody else has the key.",
        "It goes on behind the nonces that are used up, once they are final; what was signed under one is dead then.",
    ),
    ANOTHER_CHAIN: (
        "The node shows another chain than the one that the lane began with.",
        "It looks again, and stops again unless the node shows its chain: set AURA_CHAIN_RPC_URL right first.",
    ),
    REFERENCE_USED: (
        "Somebody else has minted or burnt under a reference of this lane: somebody else has the key.",
        "You have explained it. Its own job is dead at finality: a mint asks for a person, a burn gives tokens back.",
    ),
}
"""Why a lane stops until a person releases it: what that means, and what a release does."""

WAITS: Final = {
    "open_returns": "Open returns are above the limit. It ends when claw-backs are burnt, or with a higher limit.",
    "statement_too_old": "The bank's books were not read to their end for too long. It ends when its connector has.",
    "supply_too_old": "The chain was not seen for too long. It ends with the next look.",
    "reserve_insufficient": "What may be minted does not cover it. It ends when fiat has settled.",
    "paused": "A pause holds it back.",
    "nonce_not_final": "Nonces that somebody else has used are not final. It ends when they are, or in no block.",
}
"""Why what is queued waits although its lane is not stopped. It ends by itself: there is nothing to release."""

EXPLAINED: Final = "explained"
"""Of a job that has stopped its lane, which a person has released since."""

RELEASED, NOT_STOPPED, STOPPED_OTHERWISE = "released", "not_stopped", "stopped_otherwise"
"""Outcomes of a release."""

CANCELED, NOT_WAITING = "canceled", "not_waiting"
"""Outcomes of a cancel: its bytes are stored and go out; or nothing signed under the nonce waits for a block."""

TOLD: Final = frozenset({"mint", "burn", "sweep"})
"""Steps whose gas is in the fact that says `confirmed`, and in the journals that follow from it."""

_MINT, _BURN, _TRANSFER = 1, 2, 4  # of the contract's flag `Act`
_ACTS: Final = {"deposit": _MINT, "withdrawal": _BURN, "transfer": _TRANSFER, "": _MINT | _BURN | _TRANSFER}
_ACT_OF: Final = {"mint": _MINT, "burn": _BURN, "sweep": _TRANSFER}


LEAST_SWEEP: Final = {"AUSD": 1_000_000, "AEUR": 1_000_000}
"""One token, in minor units: a sweep takes the gas of two mints."""


class Limits(msgspec.Struct, frozen=True):
    """What a lane goes by. Amounts are minor units of the token, times ms."""

    confirmations: int = 2
    final_above: int = 10**12  # above, only finality counts
    bump_after_blocks: int = 5
    bumps: int = 5
    fee_max: int = 2_000 * 10**9  # wei per gas, offered at first: what a node says of fees is not believed beyond
    open_returns_max: int = 10**13
    statement_age_ms: int = 4 * 24 * 60 * 60 * 1000
    supply_age_ms: int = 10 * 60 * 1000
    backoff_ms: int = 1_000  # of the wait after a look that failed: doubled with each, up to 32 times
    least_sweep: dict[str, int] = msgspec.field(default_factory=lambda: dict(LEAST_SWEEP))
    """By token: less waits at a deposit address, to be swept with what comes later."""


class Minter(msgspec.Struct, frozen=True, array_like=True):
    """What a lane keeps beside its jobs."""

    token: str
    next_nonce: int = 0
    mintable: int = 0
    in_flight: int = 0  # signed mints that are not final
    open_returns: int = 0  # burns for returns that are not final
    statement_at: int = 0  # of the last bank statement
    supply_at: int = 0  # when totalSupply was last read
    stopped: str = ""
    seen_nonce: int = 0  # used up on the chain by somebody else: once that is final, a released lane goes on from there
    waits: str = ""  # why what is queued waits, as it was told last
    acts: int = 0  # what the contract refuses once all that is signed has landed: the bits of its flag
    acts_nonce: int = -1  # of the `pause` job that says so
    acts_final: int = 0  # what it refuses at finality
    native: int = 0  # wei that the key has at finality, as the ledger was told
    waiting: int = 0  # tokens at deposit addresses, too few to be swept


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One transaction on the chain; key: its reference. Of a `pause` the amount is the acts that are refused, of a
    `sweep` `to` is the deposit address."""

    transaction_id: str
    tenant: str
    customer: str
    step: str  # mint | burn | pause | deploy | sweep
    reference: str
    amount: int
    to: str = ""
    is_return: bool = False
    state: str = "queued"  # queued | signed | mined | confirmed | final | dead | withdrawn
    nonce: int = -1
    fee: int = 0  # wei per gas
    hashes: tuple[str, ...] = ()  # all that were ever sent under the nonce, the latest last
    sent_at_block: int = 0
    block: int = 0
    was_confirmed: bool = False
    is_stuck: bool = False
    tip: int = 0  # wei per gas, of the fee
    cancels: tuple[str, ...] = ()  # those of `hashes` that do nothing but use up the nonce
    gas: int = 0  # wei paid, as a fact has told the ledger
    elsewhere: str = ""  # somebody else has used its nonce or reference: why the lane stopped | explained


class Receipt(msgspec.Struct, frozen=True):
    """What the chain says about one of a job's hashes."""

    hash: str
    block: int
    ok: bool
    gas: int = 0  # wei paid


class View(msgspec.Struct, frozen=True):
    """The chain as it is now: its head, the finalised height, and how many nonces of our key are used up there."""

    height: int
    final: int
    final_nonce: int
    fee: int = 1  # what a transaction must offer, wei per gas
    tip: int = 0  # of that, to the block's maker


class Spent(msgspec.Struct, frozen=True):
    """Gas, at finality, that no fact has told of, wei; below zero: less than was told."""

    hash: str
    step: str
    amount: int


class Decided(msgspec.Struct, frozen=True):
    """What follows. `send` asks for the latest bytes of the job to go out (again)."""

    lane: Minter
    job: Job
    facts: tuple[ChainFact, ...] = ()
    send: bool = False
    spent: Spent | None = None


def job_of(lane: Minter, request: Mint | Burn, known: Job | None) -> tuple[Minter, Job] | None:
    """The job of a request; None when there is one already."""
    if known is not None:
        return None
    who = (request.transaction_id, request.tenant, request.customer)
    if isinstance(request, Mint):
        lane = _with(lane, mintable=lane.mintable + request.amount)
        return lane, Job(*who, "mint", request.reference, request.amount, request.to)
    if request.is_return:
        lane = _with(lane, open_returns=lane.open_returns + request.amount)
    return lane, Job(*who, "burn", request.reference, request.amount, is_return=request.is_return)


def withdraw(lane: Minter, job: Job, request: Withdraw) -> Decided:
    """Does not mint if nothing is signed: the backing goes too. Else `broadcast` is on its way, or was told."""
    if job.state != "queued":
        return Decided(lane, job)
    lane = _with(lane, mintable=lane.mintable - job.amount)
    return Decided(lane, _with_job(job, state="withdrawn"), (_fact(job, WITHDRAWN),))


def held_back(lane: Minter, job: Job, limits: Limits, at: int, *, paused: bool = False) -> str:
    """Why a queued job is not signed now; "" = sign."""
    if lane.stopped:
        return lane.stopped
    if lane.seen_nonce:
        return "nonce_not_final"
    if paused or lane.acts & _ACT_OF.get(job.step, 0):
        return "paused"
    if job.step != "mint":
        return ""
    if lane.open_returns > limits.open_returns_max:
        return "open_returns"
    if at - lane.statement_at > limits.statement_age_ms:
        return "statement_too_old"
    if at - lane.supply_at > limits.supply_age_ms:
        return "supply_too_old"
    return "" if lane.mintable >= job.amount else "reserve_insufficient"


def take_nonce(lane: Minter, job: Job, view: View) -> Decided:
    """The next nonce, and the reserve: the bytes are signed from this and stored in the same unit (`signed`)."""
    assert job.state == "queued" and (not lane.stopped or job.step == "pause")
    if job.step == "mint":
        assert lane.mintable >= job.amount
        lane = _with(lane, mintable=lane.mintable - job.amount, in_flight=lane.in_flight + job.amount)
    if job.step == "pause":
        lane = _with(lane, acts=job.amount, acts_nonce=lane.next_nonce)
    job = _with_job(job, state="signed", nonce=lane.next_nonce, fee=view.fee, tip=view.tip, sent_at_block=view.height)
    return Decided(_with(lane, next_nonce=lane.next_nonce + 1), job)


def signed(lane: Minter, job: Job, hash_: str) -> Decided:
    """The bytes under the job's nonce and fee are stored: they go out after the commit."""
    job = _with_job(job, hashes=(*job.hashes, hash_))
    return Decided(lane, job, (_fact(job, BROADCAST),), send=True)


def bumped(job: Job, view: View, limits: Limits) -> Job | None:
    """The job with a fee that replaces the present one (+12.5 %, rounded up), if it has waited long enough."""
    waited = view.height - job.sent_at_block
    if job.state != "signed" or waited < limits.bump_after_blocks or _tries(job) > limits.bumps:
        return None
    fee, tip = max(_raised(job.fee), view.fee), max(_raised(job.tip), view.tip)
    return _with_job(job, fee=max(fee, tip), tip=tip, sent_at_block=view.height)


def _tries(job: Job) -> int:
    """How often it was signed as it is now: a cancel is raised as often as what it cancels."""
    return len(job.cancels) or len(job.hashes)


def to_cancel(job: Job, height: int) -> Job | None:
    """The job with the fee of a transfer to itself in its place; None when it does not wait for a block."""
    if job.state != "signed":
        return None
    return _with_job(job, fee=_raised(job.fee), tip=_raised(job.tip), sent_at_block=height, is_stuck=False)


def canceled(lane: Minter, job: Job, hash_: str) -> Decided:
    """The bytes of a transfer to itself are stored under the job's nonce, the first time or with a higher fee.

    The customer's machine is told nothing: it hears of what lands, or that nothing ever will.
    """
    job = _with_job(job, hashes=(*job.hashes, hash_), cancels=(*job.cancels, hash_))
    return Decided(lane, job, send=True)


def for_pause(lane: Minter, acts: int) -> Minter | None:
    """The lane as it may sign now that the contract refuses `acts` and no others; None if it may not, or need not.

    A stopped one still pauses, behind all nonces that are used up, since that is when it matters most; what was signed
    before it is not touched, and nothing else follows it. It lifts nothing, and on another chain it signs nothing.
    """
    if acts == lane.acts:
        return None
    if lane.stopped and (lane.stopped == ANOTHER_CHAIN or acts | lane.acts != acts):
        return None
    return _with(lane, next_nonce=max(lane.next_nonce, lane.seen_nonce))


def paused_acts(pauses: tuple[Pause, ...], chain: str, token: str) -> int:
    """What the contract is to refuse: the acts of all pauses in force that name the chain and nothing narrower than a
    token or a type of transaction. Without a type a pause stops minting, burning and transfers between holders."""
    acts = 0
    for pause in pauses:
        scope = pause.scope
        is_narrower = scope.tenant or scope.rail or scope.bank or scope.accounts
        if not pause.lifted_at and scope.chain == chain and not is_narrower and token in (scope.assets or (token,)):
            acts |= _ACTS.get(scope.type, 0)
    return acts


def _raised(wei: int) -> int:
    return max(-(-wei * 1125 // 1000), wei + 1)


def observed(lane: Minter, job: Job, view: View, receipts: tuple[Receipt, ...], limits: Limits) -> Decided:
    """What the chain says about a signed job. `receipts` are those of its hashes: at most one can be in the chain."""
    if job.state in ("queued", "withdrawn", "final", "dead"):
        return Decided(lane, job)
    receipt = next((one for one in receipts if one.hash in job.hashes and one.block <= view.height), None)
    if receipt is None:
        return _not_there(lane, job, view, limits)
    is_final = receipt.block <= view.final
    if not receipt.ok or receipt.hash in job.cancels:
        # It used the nonce up without doing anything; a deeper reorganisation could still undo that.
        if not is_final:
            return Decided(lane, _with_job(job, state="mined", block=receipt.block))
        lane, spent = _spent(lane, job, receipt)
        return msgspec.structs.replace(_dead(lane, job), spent=spent)
    facts: list[ChainFact] = []
    if job.state == "signed":
        facts.append(_fact(job, MINED, receipt))
    needs_finality = job.step != "mint" or job.amount > limits.final_above
    is_deep = is_final or (not needs_finality and view.height - receipt.block + 1 >= limits.confirmations)
    state = "confirmed" if is_deep else "mined"
    if is_deep and job.state != "confirmed":
        facts.append(_fact(job, CONFIRMED, receipt))
        if job.step in TOLD and not job.was_confirmed:
            job = _with_job(job, gas=receipt.gas)
    if job.state == "confirmed" and not is_deep:
        # In a block again, but not deep: what was told stays told until it is lost or deep again.
        facts.append(_fact(job, REORGED, receipt))
    job = _with_job(job, state=state, block=receipt.block, was_confirmed=job.was_confirmed or is_deep, is_stuck=False)
    spent = None
    if is_final:
        lane, spent = _spent(lane, job, receipt)
        lane, job = _ended(lane, job), _with_job(job, state="final")
        if job.step == "pause":
            lane = _with(lane, acts_final=job.amount)
    return Decided(lane, job, tuple(facts), spent=spent)


def _spent(lane: Minter, job: Job, receipt: Receipt) -> tuple[Minter, Spent | None]:
    """The lane without what a final block has taken, and what of it the ledger was not told."""
    step = "cancel" if receipt.hash in job.cancels else job.step
    rest = receipt.gas - job.gas
    return _with(lane, native=lane.native - receipt.gas), Spent(receipt.hash, step, rest) if rest else None


def received(lane: Minter, native: int) -> tuple[Minter, int]:
    """What has come to the key, wei, when it has `native` at finality and all that it has sent till there is ended.

    Less than was told is nobody's top-up: somebody else has spent it, and the lane stops for that nonce.
    """
    more = max(native - lane.native, 0)
    return _with(lane, native=lane.native + more), more


def _not_there(lane: Minter, job: Job, view: View, limits: Limits) -> Decided:
    if view.final_nonce > job.nonce:
        return _dead(lane, job)
    if job.state in ("mined", "confirmed"):
        # Its block was lost; nobody else sends it again.
        again = _with_job(job, state="signed", block=0, sent_at_block=view.height)
        return Decided(lane, again, (_fact(job, REORGED),), send=True)
    is_stuck = _tries(job) > limits.bumps and view.height - job.sent_at_block >= limits.bump_after_blocks
    if is_stuck and not job.is_stuck:
        return Decided(lane, _with_job(job, is_stuck=True), (_fact(job, STUCK),))
    return Decided(lane, job)


def _dead(lane: Minter, job: Job) -> Decided:
    """Its nonce is used up at finality and it did nothing: it never will."""
    kind = LOST if job.was_confirmed else FAILED_FOR_GOOD
    if job.step == "pause" and job.nonce == lane.acts_nonce:
        lane = _with(lane, acts=lane.acts_final)  # it never took place; the next look asks for it again
    return Decided(_ended(lane, job), _with_job(job, state="dead"), (_fact(job, kind),))


def _ended(lane: Minter, job: Job) -> Minter:
    if job.step == "mint":
        return _with(lane, in_flight=lane.in_flight - job.amount)
    return _with(lane, open_returns=lane.open_returns - job.amount) if job.is_return else lane


def checked(lane: Minter, nonce: int, final_nonce: int) -> Minter:
    """The lane that has seen so many nonces used up at the head, and so many at finality.

    More than this lane has given out: somebody else has the key, and it stops. What somebody else has used counts as
    the youngest look shows it, since its block may be lost. A released lane goes on behind it once it is final.
    """
    if nonce > max(lane.next_nonce, lane.seen_nonce):
        return _with(lane, stopped=FOREIGN_NONCE, seen_nonce=nonce)
    if not lane.seen_nonce:
        return lane
    lane = _with(lane, seen_nonce=nonce if nonce > lane.next_nonce else 0)
    if lane.stopped or final_nonce < lane.seen_nonce:
        return lane
    return _with(lane, next_nonce=max(lane.next_nonce, lane.seen_nonce), seen_nonce=0)


def released(lane: Minter, stopped: str) -> tuple[Minter, str]:
    """A person lets the lane go on who has read why it is stopped; and the outcome.

    After a foreign nonce it goes on behind what the chain has used up, with a look that sees it final. Bytes of ours
    under such a nonce are dead then (M3), and the ledger is told so. Whoever has the key still has it: the next foreign
    nonce stops it again.
    """
    if not lane.stopped:
        return lane, NOT_STOPPED
    if lane.stopped != stopped:
        return lane, STOPPED_OTHERWISE
    return _with(lane, stopped=""), RELEASED


def doubted(job: Job, why: str) -> Job:
    """The job whose nonce or reference somebody else was seen to have used: why the lane stops."""
    return _with_job(job, elsewhere=why)


def explained(job: Job) -> Job:
    """The job after a person has released the lane that it had stopped: it is dead once its nonce is used up."""
    return _with_job(job, elsewhere=EXPLAINED)


def _fact(job: Job, kind: str, receipt: Receipt | None = None) -> ChainFact:
    hash_ = receipt.hash if receipt is not None else job.hashes[-1] if job.hashes else ""
    gas = receipt.gas if receipt is not None and kind == CONFIRMED and not job.was_confirmed else 0
    return ChainFact(job.transaction_id, job.tenant, job.step, kind, job.reference, hash_, gas)


def _with(lane: Minter, **changes: object) -> Minter:
    return msgspec.structs.replace(lane, **changes)


def _with_job(job: Job, **changes: object) -> Job:
    return msgspec.structs.replace(job, **changes)
