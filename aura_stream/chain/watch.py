"""What has become of a transaction: facts are fetched from a node, and a pure function says what is the case.

    BEHIND        the node knows less of the chain than has been seen before: nothing is decided
    UNKNOWN       the node has none of the nonce's transactions, and the nonce is free: send the same bytes again
    PENDING       one of them waits in the node's pool; waiting for too long is the lane's to judge
    MINED         it is in a block and has had its effect
    REVERTED      it is in a block without its effect: the nonce is used, ``reason`` says why
    REPLACED      the nonce is used by a transaction that is none of ours
    REORGANISED   it was in a block that is no more, and is in none now: send the same bytes again

``final`` says that MINED, REVERTED or REPLACED has as many confirmations as were asked for; before that each of them
may still turn into any other. ``lost`` says that the block in which it was seen is no more, even when another one has
it now.

What a fork of the chain makes undone is found by comparing with what the lane has stored, so nothing here remembers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal

from aura_stream.chain import rpc
from aura_stream.chain.rpc import BadAnswer, Block, ChainNode, Kind, Receipt, Refused, Unanswered, final_block
from aura_stream.chain.token import TokenEvent

_TRIES: Final = 3


class State(Enum):
    """The states above."""

    BEHIND = "behind"
    UNKNOWN = "unknown"
    PENDING = "pending"
    MINED = "mined"
    REVERTED = "reverted"
    REPLACED = "replaced"
    REORGANISED = "reorganised"


@dataclass(frozen=True, slots=True)
class Effect:
    """What a transaction is to do to the token. ``account`` receives, or its tokens are burned or move.

    Mints and burns use up their ``reference``; that of a transfer is its receiver, and says nothing of other transfers.
    """

    kind: Literal["minted", "burned", "transferred"]
    token: str
    account: str
    amount: int
    reference: bytes

    def is_in(self, event: TokenEvent) -> bool:
        """Whether a log tells exactly this."""
        return (event.kind, event.token, event.account, event.amount, event.reference) == (
            self.kind,
            self.token,
            self.account,
            self.amount,
            self.reference,
        )

    def spent_by(self, event: TokenEvent) -> bool:
        """Whether a log tells that its reference is used, by whatever transaction and for whatever amount."""
        return (event.kind, event.token, event.reference) == (self.kind, self.token, self.reference)


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where a transaction was seen in the chain."""

    tx_hash: str
    block_number: int
    block_hash: str


@dataclass(frozen=True, slots=True)
class Watched:
    """What a lane has stored of one nonce.

    ``hashes`` are those of everything that was ever signed with it, replacements and cancellations too. ``effect`` is
    None when nothing is to happen to the token (roles, pause, cancellation only). ``since`` is a block before its
    reference can have been used. ``seen`` is where it was at the last look that the lane has acted on.
    """

    sender: str
    nonce: int
    hashes: tuple[str, ...]
    effect: Effect | None = None
    since: int = 0
    seen: Inclusion | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node said about one nonce, all of it as of one ``head``.

    ``used`` and ``used_final`` are the sender's nonces used up to the head and up to the final block. ``receipt`` is
    that of one of ours in the chain, ``waiting`` are those of ours in the pool. ``others`` are the logs that carry the
    reference, asked for only when the nonce is used and none of ours had its effect.
    """

    head: Block
    used: int
    used_final: int
    receipt: Receipt | None = None
    reason: str = ""
    waiting: tuple[str, ...] = ()
    others: tuple[TokenEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is the case with one nonce.

    ``event`` is the log of its effect; when it is REVERTED or REPLACED, the log by which another transaction has used
    its reference, so that the effect is there all the same. ``gas_wei`` is what was paid.
    """

    state: State
    head: Block
    confirmations: int = 0
    final: bool = False
    lost: bool = False
    inclusion: Inclusion | None = None
    event: TokenEvent | None = None
    reason: str = ""
    gas_wei: int = 0
    waiting: tuple[str, ...] = field(default=())


def decide(watched: Watched, facts: Facts, *, confirmations: int, seen_head: int = 0) -> Sighting:
    """What the facts mean. Pure.

    ``confirmations`` is how many this transaction needs (by its amount), ``seen_head`` the highest block that the lane
    has ever acted on.
    """
    head = facts.head
    if head.number < max(seen_head, watched.seen.block_number if watched.seen else 0):
        return Sighting(State.BEHIND, head)
    receipt, lost = facts.receipt, watched.seen is not None
    if receipt is not None:
        inclusion = Inclusion(receipt.tx_hash, receipt.block_number, receipt.block_hash)
        confirmed = head.number - receipt.block_number + 1
        event, state, reason = None, State.MINED, ""
        if not receipt.succeeded:
            state, reason = State.REVERTED, facts.reason or "reverted"
        elif watched.effect is not None:
            event = next((event for event in receipt.events if watched.effect.is_in(event)), None)
            if event is None:
                # A cancellation that won, or no contract at that address: success alone proves nothing.
                state, reason = State.REVERTED, "no effect"
        if state is State.REVERTED:
            event = _spender(watched, facts)
        return Sighting(
            state,
            head,
            confirmed,
            final=confirmed >= confirmations and _is_final(event, head, confirmations),
            lost=watched.seen is not None and watched.seen != inclusion,
            inclusion=inclusion,
            event=event,
            reason=reason,
            gas_wei=receipt.gas_used * receipt.gas_price,
        )
    if facts.used > watched.nonce:
        event = _spender(watched, facts)
        final = facts.used_final > watched.nonce and _is_final(event, head, confirmations)
        return Sighting(State.REPLACED, head, final=final, lost=lost, event=event)
    if lost:
        return Sighting(State.REORGANISED, head, lost=True, waiting=facts.waiting)
    return Sighting(State.PENDING if facts.waiting else State.UNKNOWN, head, waiting=facts.waiting)


def _spender(watched: Watched, facts: Facts) -> TokenEvent | None:
    return next((event for event in facts.others if watched.effect and watched.effect.spent_by(event)), None)


def _is_final(event: TokenEvent | None, head: Block, confirmations: int) -> bool:
    return event is None or event.block_number <= final_block(head.number, confirmations)


# --- Fetching ---


async def fetch(node: ChainNode, watched: Sequence[Watched], *, confirmations: int) -> list[Facts]:
    """The facts about many nonces, in their order, all as of one head.

    ``confirmations`` is that of :func:`decide`: it says at which block the nonces are counted a second time. When the
    chain is reorganised meanwhile the node is asked again. Raises :class:`~aura_stream.chain.rpc.ChainError`, also
    when the node contradicts itself; then nothing is known.
    """
    for _ in range(_TRIES):
        head = await node.head()
        facts = await _fetch_at(node, head, watched, confirmations)
        still = await node.block(head.number)
        if facts is not None and still is not None and still.hash == head.hash:
            return facts
    raise Unanswered(f"the chain at {node.shown} changed during each of {_TRIES} looks")


async def look(
    node: ChainNode, watched: Sequence[Watched], *, confirmations: int, seen_head: int = 0
) -> list[Sighting]:
    """:func:`fetch` and :func:`decide` for many nonces."""
    facts = await fetch(node, watched, confirmations=confirmations)
    return [
        decide(one, about, confirmations=confirmations, seen_head=seen_head)
        for one, about in zip(watched, facts, strict=True)
    ]


async def _fetch_at(node: ChainNode, head: Block, watched: Sequence[Watched], confirmations: int) -> list[Facts] | None:
    """The facts as of ``head``; None when they show that it is not the head any more."""
    senders = list(dict.fromkeys(one.sender for one in watched))
    final = final_block(head.number, confirmations)
    used = dict(zip(senders, await _counts(node, senders, head.number), strict=True))
    used_final = dict(zip(senders, await _counts(node, senders, final), strict=True))

    # A nonce that is free at the head is in no block: only of used ones receipts are asked for.
    mined = [one for one in watched if one.nonce < used[one.sender]]
    receipts = await _receipts(node, mined)
    if any(receipt.block_number > head.number for receipt in receipts.values()):
        return None
    unexplained = [one for one in watched if _nonce(one) not in receipts]
    known = await _known(node, unexplained)
    if any(in_block and _nonce(one) in map(_nonce, mined) for one, _, in_block in known):
        raise Unanswered(f"{node.shown} has a transaction in a block, but not its receipt")
    waiting: dict[tuple[str, int], tuple[str, ...]] = {}
    for one, tx_hash, _ in known:
        waiting[_nonce(one)] = (*waiting.get(_nonce(one), ()), tx_hash)

    facts = []
    for one in watched:
        receipt = receipts.get(_nonce(one))
        reason = ""
        others: tuple[TokenEvent, ...] = ()
        if one.nonce < used[one.sender] and not _had_effect(one, receipt):
            others = await _others(node, one, head)
            if receipt is not None and not receipt.succeeded:
                reason = await _reason(node, receipt)
            if receipt is None and any(event.tx_hash in one.hashes for event in others):
                raise Unanswered(f"{node.shown} has the log of a transaction, but not its receipt")
        facts.append(
            Facts(head, used[one.sender], used_final[one.sender], receipt, reason, waiting.get(_nonce(one), ()), others)
        )
    return facts


def _nonce(one: Watched) -> tuple[str, int]:
    return one.sender, one.nonce


def _had_effect(one: Watched, receipt: Receipt | None) -> bool:
    if receipt is None or not receipt.succeeded:
        return False
    return one.effect is None or any(one.effect.is_in(event) for event in receipt.events)


async def _counts(node: ChainNode, senders: Sequence[str], number: int) -> list[int]:
    if number < 0:
        return [0 for _ in senders]
    answers = await node.batch([("eth_getTransactionCount", sender, hex(number)) for sender in senders])
    return [rpc.count(_good(answer)) for answer in answers]


async def _receipts(node: ChainNode, mined: Sequence[Watched]) -> dict[tuple[str, int], Receipt]:
    """Per nonce the receipt of the one of ours that is in the chain."""
    asked = [(one, tx_hash) for one in mined for tx_hash in one.hashes]
    answers = await node.batch([("eth_getTransactionReceipt", tx_hash) for _, tx_hash in asked])
    found: list[tuple[Watched, Receipt]] = []
    for (one, tx_hash), answer in zip(asked, answers, strict=True):
        if _good(answer) is not None:
            receipt = rpc.receipt(answer)
            if receipt.tx_hash != tx_hash:
                raise BadAnswer(f"{node.shown} answered the receipt of another transaction")
            found.append((one, receipt))
    # Some nodes keep receipts of blocks that are no longer in the chain.
    numbers = sorted({receipt.block_number for _, receipt in found})
    blocks = await node.batch([("eth_getBlockByNumber", hex(number), False) for number in numbers])
    in_chain = {rpc.block(answer).hash for answer in blocks if _good(answer) is not None}
    receipts: dict[tuple[str, int], Receipt] = {}
    for one, receipt in found:
        if receipt.block_hash not in in_chain:
            continue
        if _nonce(one) in receipts:
            raise BadAnswer(f"{node.shown} has two transactions of one nonce in its chain")
        receipts[_nonce(one)] = receipt
    return receipts


async def _known(node: ChainNode, unexplained: Iterable[Watched]) -> list[tuple[Watched, str, bool]]:
    """Which of ours the node knows, and whether it says that they are in a block."""
    asked = [(one, tx_hash) for one in unexplained for tx_hash in one.hashes]
    answers = await node.batch([("eth_getTransactionByHash", tx_hash) for _, tx_hash in asked])
    found = []
    for (one, tx_hash), answer in zip(asked, answers, strict=True):
        if _good(answer) is not None:
            if not isinstance(answer, dict):
                raise BadAnswer(f"{node.shown} answered a transaction that is none")
            found.append((one, tx_hash, answer.get("blockNumber") is not None))
    return found


async def _others(node: ChainNode, one: Watched, head: Block) -> tuple[TokenEvent, ...]:
    if one.effect is None or one.effect.kind == "transferred":
        return ()
    events = await node.events(one.effect.token, one.since, head.number, [one.effect.reference])
    spent = await node.read(one.effect.token, one.effect.kind, one.effect.reference, at=head.number)
    found = tuple(event for event in events if one.effect.spent_by(event))
    # The contract itself is the last word: a refund on the strength of a missing log would pay twice.
    if bool(spent) != bool(found):
        raise Unanswered(f"{node.shown}: the token and its logs disagree on whether a reference is used")
    return found


async def _reason(node: ChainNode, receipt: Receipt) -> str:
    """The contract's words, from the same call upon the state after that block; empty if it does not fail there."""
    transaction = await node.call("eth_getTransactionByHash", receipt.tx_hash)
    if not isinstance(transaction, dict):
        return ""
    request = {name: transaction.get(name) for name in ("from", "to", "value")} | {"data": transaction.get("input")}
    try:
        await node.call("eth_call", request, hex(receipt.block_number))
    except Refused as error:
        return error.reason if error.kind is Kind.REVERTED else ""
    return ""


def _good(answer: Any) -> Any:
    if isinstance(answer, Refused):
        raise answer
    return answer
