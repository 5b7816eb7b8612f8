"""The lanes computed anew, and what they know compared with what is elsewhere: rebuild and deep verify.

A lane decides from two topics, its requests and its inbox, and its journal names in which order. So its units come out
again byte for byte, its tables as they stand in its changelog, and its signals as the ledger has read them. A minter's
need its signing key as well: without one here they are passed over, and that is said.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

import topics
from agents.bank_lanes import BankLanes
from agents.chain_lanes import ChainLanes
from agents.deep import Seen, State, compare_stores, read_changelog, state_seq
from agents.worker import BANK_SOURCE, CHAIN_SOURCE, NAMES
from aura_stream.chain.rpc import ChainError, ChainNode
from aura_stream.chain.setup import FIRST_NONCE
from aura_stream.chain.signer import SigningKey, derived, load_key
from aura_stream.domain.lanes.minter import FOREIGN_NONCE
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.domain.settlement import TOKENS
from aura_stream.engine.kafka import Kafka
from aura_stream.engine.replay import Replay, ReplayDiffers
from aura_stream.engine.topics import Topic
from aura_stream.engine.unit import Actor, Names
from aura_stream.ledger.verify import Check
from aura_stream.settings import Settings
from tables.bank_lanes import BANK_JOBS
from tables.chain_lanes import CHAIN_JOBS, CHAIN_LANES

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

ASKS: Final = (topics.BANK_REQUESTS.name, topics.CHAIN_REQUESTS.name)
"""Topics by which lanes are asked: what they have read, somebody must have written."""
ROLES: Final[dict[str, tuple[tuple[Topic, Topic, Topic, Topic], int]]] = {
    "bank": (topics.BANK, BANK_SOURCE),
    "chain": (topics.CHAIN, CHAIN_SOURCE),
}
ATTEMPTS: Final = 3
_CHAIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Again:
    """Lanes that were computed anew."""

    replays: list[Replay]
    keys: int
    """Of their tables, each as the changelog has it."""
    passed_over: str
    """Roles that were not computed, and why; "" = all were."""


async def replay_lanes(settings: Settings, kafka: Kafka) -> Again:
    """Computes all lanes anew. Raises :class:`ReplayDiffers` where journal or tables are others."""
    found: list[Replay] = []
    keys, passed_over = 0, ""
    for role in ROLES:
        signing = _keys(settings) if role == "chain" else None
        if role == "chain" and signing is None:
            passed_over = "chain: its signing key is not here"
            continue
        for partition in range(settings.partitions):
            replay, seen = await _replayed(settings, kafka, role, partition, signing or {})
            found.append(replay)
            keys += seen
    return Again(found, keys, passed_over)


async def _replayed(
    settings: Settings, kafka: Kafka, role: str, partition: int, signing: dict[str, SigningKey]
) -> tuple[Replay, int]:
    (requests, inbox, journal, changelog), first_source = ROLES[role]

    def actor(recorded: str) -> Actor:
        rules = msgspec.json.decode(recorded, type=LaneRules)
        return BankLanes(rules) if role == "bank" else ChainLanes(rules, signing)

    names = Names(requests.name, NAMES.signals, journal.name, NAMES.dead_letters, changelog.name)
    for _ in range(ATTEMPTS):
        replay = Replay(partition, kafka, names, settings.partitions, actor, inbox.name, first_source, ASKS)
        async for _offset, _value in replay.run():
            pass
        state = dict(replay.store.scan(b"", b"\xff"))
        seq = state_seq(state)
        there, at_units = await read_changelog(kafka, partition, frozenset([seq]), topic=changelog.name)
        kept = at_units[-1] if at_units else there if state_seq(there) == seq else None
        if kept == state:
            return replay, len(state)
        if kept is not None:
            key = min(key for key in state.keys() | kept.keys() if state.get(key) != kept.get(key))
            raise ReplayDiffers(f"{changelog.name}[{partition}] at unit {seq}: the value of {key!r} is another")
        # It has gone on, and the log forgets what was.
    return replay, 0


def _keys(settings: Settings) -> dict[str, SigningKey] | None:
    """The minters' keys, if the secret that they come from is here; it is never made."""
    path = settings.chain_key_file or settings.home / "chain" / "key"
    if settings.chain_key is None and not path.exists():
        return None
    key = load_key(settings)
    return {token: derived(key, token) for token in sorted(TOKENS)}


# --- deep verify -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Looked:
    seen: Seen = field(default_factory=Seen)
    jobs: int = 0
    attempts: int = 0
    nonces: int = 0


async def deep_lanes(settings: Settings, kafka: Kafka, connection: Connection, settle_s: float) -> list[Check]:
    """What lanes know against their local stores, Postgres' attempts and the chain; traffic may go on."""
    looked = _Looked()
    stores: dict[str, Any] | None = None
    attempts: dict[str, Any] | None = None
    states: dict[str, list[State]] = {role: [] for role in ROLES}
    for role, ((_, _, journal, changelog), _) in ROLES.items():
        for partition in range(settings.partitions):
            bad_store, bad_attempt = None, None
            for _ in range(ATTEMPTS):
                seen = Seen()
                bad_store, state = await compare_stores(
                    settings, kafka, partition, seen, role=role, changelog=changelog.name
                )
                bad_attempt, jobs, rows = await _compare_attempts(
                    connection, kafka, role, journal.name, partition, state, settle_s
                )
                if not bad_store and not bad_attempt:
                    break
            looked.seen.add(seen)
            looked.jobs += jobs
            looked.attempts += rows
            states[role].append(state)
            stores, attempts = stores or bad_store, attempts or bad_attempt
    nonces = await _compare_nonces(settings, states["chain"], looked)
    return [
        Check(
            "lane_tables_are_changelog",
            f"The lanes' local stores found here ({looked.seen.stores}) hold what their changelogs hold at their unit.",
            looked.seen.store_keys,
            "keys",
            stores,
        ),
        Check(
            "lane_jobs_are_attempts",
            "Each call and broadcast that a lane has counted is a row of settlement.attempts, and there is no other.",
            looked.attempts,
            f"attempts of {looked.jobs} references",
            attempts,
        ),
        Check(
            "nonces_are_the_lanes",
            "The minters have given each nonce out once, and the chain has used up none that they have not.",
            looked.nonces,
            "nonces",
            nonces,
        ),
    ]


async def _compare_attempts(
    connection: Connection, kafka: Kafka, role: str, journal: str, partition: int, state: State, settle_s: float
) -> tuple[dict[str, Any] | None, int, int]:
    """The first attempt that a lane and Postgres do not both have; how many references and attempts were looked at."""
    await _until_written(connection, kafka, journal, partition, state, settle_s)
    counted: dict[tuple[str, str], tuple[str, int]] = {}
    for lane, transaction, reference, number in _counted(role, state):
        counted[lane, reference] = transaction, number
    lanes = sorted({lane for lane, _ in counted})
    rows = await connection.fetch(
        """SELECT lane, reference, transaction_id::text AS transaction_id, count(*) AS count, max(number) AS last
        FROM settlement.attempts WHERE lane = ANY ($1) GROUP BY 1, 2, 3""",
        lanes,
    )
    there = {(row["lane"], row["reference"]): row for row in rows}
    where = {"role": role, "partition": partition}
    for (lane, reference), (transaction, number) in counted.items():
        row = there.pop((lane, reference), None)
        if row is None and not number:
            continue
        # Bytes that were sent again are counted by the job, under whichever hash; a bank's calls under one reference.
        is_all = row is not None and (row["last"] >= number if role == "chain" else row["count"] >= number)
        if row is None or not is_all or row["transaction_id"] != transaction:
            said = {"lane": lane, "reference": reference, "transaction": transaction, "calls": number}
            return where | said | {"attempts": None if row is None else dict(row)}, len(counted), 0
    for (lane, reference), row in there.items():
        latest = await read_changelog(kafka, partition, topic=ROLES[role][0][3].name)
        if (lane, reference) not in {(one[0], one[2]) for one in _counted(role, latest[0])}:
            return (
                where | {"lane": lane, "reference": reference, "what": "an attempt of no job", "row": dict(row)},
                0,
                0,
            )
    return None, len(counted), sum(row["count"] for row in rows)


def _counted(role: str, state: State) -> Iterable[tuple[str, str, str, int]]:
    """Lane, transaction, reference as the other side knows it, and the last number, of all that was ever tried."""
    table = BANK_JOBS if role == "bank" else CHAIN_JOBS
    for key, value in state.items():
        if key[:1] != table.prefix:
            continue
        lane = f"{role}:{key[1:].decode().rpartition('/')[0]}"
        known: Any = table.decode(value)
        job = known.job
        if role == "bank":
            yield lane, job.transaction_id, job.short or job.reference, known.calls
        else:
            for number, hash_ in enumerate(job.hashes, 1):
                yield lane, job.transaction_id, hash_, known.sends if number == len(job.hashes) else 1


async def _until_written(
    connection: Connection, kafka: Kafka, journal: str, partition: int, state: State, settle_s: float
) -> None:
    """Until Postgres has the attempts of a state's unit. Raises :class:`Behind`."""
    from agents.deep import Behind

    seq = state_seq(state)
    give_up = time.monotonic() + settle_s
    while seq:
        last = await connection.fetchval(
            "SELECT last_seq FROM settlement.progress WHERE topic = $1 AND partition = $2", journal, partition
        )
        if (last or 0) >= seq:
            return
        if time.monotonic() > give_up:
            raise Behind(f"{journal}[{partition}]: the attempts are at unit {last or 0}, the lanes at {seq}")
        await asyncio.sleep(0.05)


async def _compare_nonces(settings: Settings, states: list[State], looked: _Looked) -> dict[str, Any] | None:
    """The first nonce that was given out twice or never, or that the chain has and no lane."""
    given: defaultdict[str, Counter[int]] = defaultdict(Counter)
    rows: dict[str, Any] = {}
    for state in states:
        for key, value in state.items():
            if key[:1] == CHAIN_LANES.prefix:
                rows[key[1:].decode()] = CHAIN_LANES.decode(value)
            elif key[:1] == CHAIN_JOBS.prefix:
                job = CHAIN_JOBS.decode(value).job
                if job.nonce >= 0:
                    given[key[1:].decode().rpartition("/")[0]][job.nonce] += 1
    for lane, row in sorted(rows.items()):
        nonces = given[lane]
        looked.nonces += nonces.total()
        twice = [nonce for nonce, times in nonces.items() if times > 1]
        beyond = [nonce for nonce in nonces if not FIRST_NONCE <= nonce < row.minter.next_nonce]
        if twice or beyond:
            return {"lane": lane, "next_nonce": row.minter.next_nonce, "twice": twice[:5], "out_of_range": beyond[:5]}
    keys = _keys(settings)
    if not rows or keys is None:
        return None
    try:
        async with asyncio.timeout(_CHAIN_S), ChainNode(settings.chain_rpc_url) as node:
            for lane, row in sorted(rows.items()):
                used = await node.nonce(keys[lane.rpartition(":")[2]].address)
                if used > row.minter.next_nonce and row.minter.stopped != FOREIGN_NONCE:
                    # It may have signed since: then its next state has it.
                    return {"lane": lane, "next_nonce": row.minter.next_nonce, "used_up_on_the_chain": used}
    except (ChainError, TimeoutError):
        return None  # the chain is not needed for the rest
    return None


__all__ = ["ASKS", "Again", "deep_lanes", "replay_lanes"]
