"""Looks at the chain and sends signed bytes, as the minters' lanes wish, and writes what came of it to their inbox.

It decides nothing and remembers nothing but that the tokens are on the chain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final, Literal

from eth_utils.address import to_checksum_address

from agents.chain_lanes import Look, Send, Watch
from agents.inbox import Inbox
from aura_stream import SettingsError, SetupError
from aura_stream.chain import rpc
from aura_stream.chain.chaos import ETHER, Chaos
from aura_stream.chain.rpc import BadAnswer, ChainError, ChainNode, Kind, Refused
from aura_stream.chain.setup import ensure_token, token_address
from aura_stream.chain.signer import SigningKey
from aura_stream.chain.token import ZERO_ADDRESS, TokenEvent, padded
from aura_stream.chain.watch import Effect, State, Watched, decide, fetch
from aura_stream.chain.watch import Sighting as Seen
from aura_stream.domain.ids import chain_lane_key
from aura_stream.domain.lane_news import ENCODE, Arrival, ChainNews, Looked, NotSeen, Opened, Sent, Sighting
from aura_stream.domain.lanes.minter import FOREIGN_NONCE, REFERENCE_USED, Limits
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.settings import Settings

log = logging.getLogger(__name__)

_LOOK_S: Final = 25.0
_SCANNED_AT_ONCE: Final = 2_000  # blocks
_ARRIVALS_AT_ONCE: Final = 1_000


class ChainCalls:
    """The outside of one process."""

    def __init__(
        self, node: ChainNode, keys: dict[str, SigningKey], rules: LaneRules, inbox: Inbox, settings: Settings
    ) -> None:
        self._node = node
        self._keys = keys
        self._rules = rules
        self._inbox = inbox
        self._settings = settings
        self._is_on_chain: set[str] = set()
        self._preparing = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Wakes the lanes."""
        await self._node.__aenter__()
        for token in self._keys:
            key = chain_lane_key(self._rules.settlement.chain, token)
            await self._inbox.write_surely(key, ENCODE(Opened()))

    async def close(self) -> None:
        """Cuts off what runs: the lanes look again."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._node.__aexit__(None, None, None)
        await self._inbox.close()

    def committed(self, _partition: int, wishes: list[Any]) -> None:
        """Starts what a unit wishes for, which is committed."""
        sends = [wish for wish in wishes if isinstance(wish, Send)]
        if sends:
            self._spawn(self._send(sends))
        for wish in wishes:
            if isinstance(wish, Look):
                self._spawn(self._look(wish))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a call to the chain failed in our own code: %r", error, exc_info=error)

    async def _send(self, sends: list[Send]) -> None:
        """Gives bytes to the node, in the order of their nonces; what it does not take is found missing by a look."""
        began = time.monotonic()
        try:
            errors = await self._node.send_all([send.signed for send in sends])
        except ChainError as error:
            errors = [error for _ in sends]
        took_ms = int((time.monotonic() - began) * 1000)
        for send, problem in zip(sends, errors, strict=True):
            # A nonce that is used may be used by these very bytes: the next look tells.
            is_known = isinstance(problem, Refused) and problem.kind is Kind.NONCE_TOO_LOW
            said = "" if problem is None or is_known else str(problem)[:200]
            if said:
                log.warning("%s was not taken by the chain: %s", send.signed.tx_hash, said)
            await self._write(send.lane, Sent(send.reference, send.signed.tx_hash, send.number, said, took_ms))

    async def _look(self, look: Look) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                chain_id, genesis = await self._node.identity()
                chain = f"{chain_id}:{genesis}"
                if look.chain not in ("", chain):
                    # Nothing else that this node says is about our tokens, and nothing is put on its chain.
                    news: ChainNews = Looked(chain, chain_id, 0, 0, 0, 0, 0, 0, 0)
                else:
                    await self._prepare(look.token)
                    news = await looked(self._node, self._keys[look.token], look, chain, self._rules.chain)
        except (ChainError, SetupError, SettingsError, TimeoutError) as error:
            news = NotSeen(f"{type(error).__name__}: {error}"[:300])
        await self._write(look.lane, news)

    async def _prepare(self, token: str) -> None:
        """Once per process: the token is on the chain, in the sandbox with gas to burn."""
        if token in self._is_on_chain:
            return
        async with self._preparing:
            key = self._keys[token]
            if self._settings.mode == "sandbox" and await self._node.native_of(key.address) < ETHER:
                await Chaos(self._node, self._settings).fund(key.address)
            await ensure_token(self._node, key, token, timeout_s=20.0)
            self._is_on_chain.add(token)

    async def _write(self, lane: str, news: ChainNews) -> None:
        chain, _, token = lane.partition(":")
        await self._inbox.write(chain_lane_key(chain, token), ENCODE(news))


async def looked(node: ChainNode, key: SigningKey, look: Look, chain: str, limits: Limits) -> Looked | NotSeen:
    """What the node shows of its `chain` (id and first block), as the lane of `key` wishes to see it.

    Raises :class:`ChainError`: nothing is known.
    """
    token = token_address(key)
    watched = [_watched(key, watch) for watch in look.jobs]
    facts = await fetch(node, watched, confirmations=limits.confirmations) if watched else []
    head = facts[0].head if facts else await node.head()
    if head.number < look.height:
        return NotSeen(f"the node is behind: block {head.number} of {look.height}")
    final = min(rpc.block(await node.call("eth_getBlockByNumber", "finalized", False)).number, head.number)
    scanned, arrivals = await _scanned(node, key, look, final)
    # Far away a node answers each after a while; these do not wait for each other.
    market, nonce, final_nonce, supply, native = await asyncio.gather(
        node.market(),
        node.nonce(key.address, head.number),
        node.nonce(key.address, final),
        node.total_supply(token, head.number),
        node.native_of(key.address, final),
    )
    sightings = [
        _sighting(watch.job.reference, decide(one, about, confirmations=limits.confirmations, seen_head=look.height))
        for watch, one, about in zip(look.jobs, watched, facts, strict=True)
    ]
    return Looked(
        chain=chain,
        chain_id=int(chain.partition(":")[0]),
        height=head.number,
        final=final,
        nonce=nonce,
        final_nonce=final_nonce,
        fee=market.max_fee,
        tip=market.tip,
        supply=supply,
        sightings=sightings,
        scanned_from=look.scan_from,
        scanned=scanned,
        arrivals=arrivals,
        native=native,
    )


def _sighting(reference: str, seen: Seen) -> Sighting:
    """What the lane hears of one job. Whoever has used its reference or its nonce otherwise is somebody else: a
    reference has one nonce, and all that was ever signed under it is watched. That a nonce was is said only with its
    confirmations: a node's receipts may come a little behind its nonces."""
    inclusion = seen.inclusion
    error = FOREIGN_NONCE if seen.state is State.REPLACED and seen.final else ""
    if seen.event is not None and seen.state is not State.MINED:
        error = REFERENCE_USED
    if inclusion is None:
        is_missing = seen.state in (State.UNKNOWN, State.REORGANISED)
        return Sighting(reference, is_missing=is_missing, error=error)
    place = (reference, inclusion.tx_hash, inclusion.block_number)
    return Sighting(*place, ok=seen.state is State.MINED, gas=seen.gas_wei, error=error)


async def _scanned(node: ChainNode, key: SigningKey, look: Look, final: int) -> tuple[int, list[Arrival]]:
    """The last block that was read of those that are final, and what moved in them to others than us."""
    last = min(final, look.scan_from + _SCANNED_AT_ONCE - 1)
    if not look.scan_from or last < look.scan_from:
        return 0, []
    ours = {padded(key.address), padded(ZERO_ADDRESS)}
    moved = await node.transfers(token_address(key), look.scan_from, last)
    events = [one for one in moved if one.reference not in ours]
    if len(events) > _ARRIVALS_AT_ONCE and events[_ARRIVALS_AT_ONCE].block_number > events[0].block_number:
        # Whole blocks only: the next look reads on.
        last = events[_ARRIVALS_AT_ONCE].block_number - 1
        events = [one for one in events if one.block_number <= last]
    return last, [_arrival(one) for one in events]


def _watched(key: SigningKey, watch: Watch) -> Watched:
    job, token = watch.job, token_address(key)
    if job.step in ("pause", "deploy"):
        return Watched(key.address, job.nonce, job.hashes, None, watch.since)
    if job.step == "sweep":
        moved = Effect("transferred", token, job.to, job.amount, padded(key.address))
        return Watched(key.address, job.nonce, job.hashes, moved, watch.since)
    account = to_checksum_address(job.to) if job.step == "mint" and job.to else key.address
    kind: Literal["minted", "burned"] = "minted" if job.step == "mint" else "burned"
    effect = Effect(kind, token, account, job.amount, bytes.fromhex(job.reference))
    return Watched(key.address, job.nonce, job.hashes, effect, watch.since)


def _arrival(event: TokenEvent) -> Arrival:
    to = to_checksum_address(event.reference[-20:])
    if event.amount >= 2**63:
        raise BadAnswer(f"{event.amount:#x} units have moved: more than there can be")
    return Arrival(event.tx_hash, event.log_index, event.block_number, to, event.amount)
