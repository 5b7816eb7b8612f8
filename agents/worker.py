"""Worker processes: which Faust app, fed by which topics, runs which agent. `aura worker` ends up here."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import faust
import msgspec
import uvloop

import topics
from agents.attempts import AttemptsSink
from agents.lane_metrics import LaneMetrics
from aura_stream import logs
from aura_stream.banks.credentials import banks_file
from aura_stream.domain.lanes import bank, minter
from aura_stream.domain.lanes.rules import LaneRules
from aura_stream.domain.settlement import TOKENS
from aura_stream.domain.state import Rules, SettlementRules
from aura_stream.engine.feed import Feed
from aura_stream.engine.kafka import RealKafka
from aura_stream.engine.partition import Partition
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.shard import Setup, Shard
from aura_stream.engine.store import RocksStores
from aura_stream.engine.topics import Topic
from aura_stream.engine.transport import App, make_app
from aura_stream.engine.unit import Actor, Names
from aura_stream.settings import Settings, SetupError

NAMES = Names(
    commands=topics.COMMANDS.name,
    signals=topics.SIGNALS.name,
    journal=topics.JOURNAL.name,
    dead_letters=topics.DEAD_LETTERS.name,
    changelog=topics.CHANGELOG.name,
)


def rules_of(settings: Settings) -> Rules:
    """The settings that decisions depend on."""
    base = Rules(tenants=tuple(sorted(settings.tenants)), mode=settings.mode)
    settlement = settlement_rules_of(settings)
    return base if settlement == base.settlement else msgspec.structs.replace(base, settlement=settlement)


def settlement_rules_of(settings: Settings) -> SettlementRules:
    """The settings that deposits by bank and withdrawals are decided by."""
    return msgspec.json.decode(settings.settlement_rules, type=SettlementRules)


def lane_rules_of(settings: Settings) -> LaneRules:
    """The settings that lanes decide by."""
    limits = msgspec.json.decode(settings.chain_limits, type=minter.Limits)
    return LaneRules(
        settlement_rules_of(settings),
        settings.tenants[0],
        msgspec.json.decode(settings.bank_limits, type=dict[str, bank.Limits]),
        msgspec.structs.replace(limits, confirmations=settings.chain_confirmations),
        poll_ms=int(settings.bank_poll_s * 1000),
    )


def encode_rules(rules: Rules | LaneRules) -> tuple[bytes, str]:
    """Their recorded form and its hash."""
    encoded = msgspec.json.encode(rules)
    return encoded, hashlib.sha256(encoded).hexdigest()[:16]


def run(role: str, settings: Settings) -> None:
    """Runs a worker of a role until it is stopped; does not return. The topics must have been checked."""
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    app, feed = {
        "ledger": ledger_app,
        "sink": sink_app,
        "events": events_app,
        "bank": bank_app,
        "chain": chain_app,
    }[role](settings)
    _add_status_page(app, role, feed)
    # What is here now lives as long as the process (how rarely the collector looks at the rest says `aura_stream.cli`).
    gc.collect()
    gc.freeze()
    worker = faust.Worker(
        app,
        loglevel=settings.log_level,
        logging_config=logs.config(settings),
        redirect_stdouts=False,
        quiet=True,
        console_port=0,
    )
    worker.execute_from_commandline()


def _add_status_page(app: App, role: str, feed: Feed) -> None:
    """`/partitions/` on the worker's statistics port: one row per partition, for people and `aura status`; of
    connectors their lanes too."""

    @app.page("/partitions/")
    async def partitions(self: Any, request: Any) -> Any:
        lanes = {"lanes": app.lanes} if hasattr(app, "lanes") else {}
        return self.json({"role": role, "partitions": feed.status(), **lanes})


def _add_metrics_page(app: App, metrics: LaneMetrics) -> None:
    """`/metrics` on the same port, for Prometheus."""

    @app.page("/metrics")
    async def page(self: Any, request: Any) -> Any:
        return self.text(metrics.text().decode(), content_type="text/plain")


def _app(role: str, settings: Settings) -> App:
    return make_app(
        f"{settings.app_id}-{role}",
        bootstrap=settings.kafka,
        datadir=str(_state_dir(settings) / "faust"),
        web_port=settings.faust_web_port,
        session_timeout_s=settings.session_timeout_s,
    )


def _state_dir(settings: Settings) -> Path:
    assert settings.state_dir is not None
    return settings.state_dir / settings.worker_id


def _ready(settings: Settings) -> Callable[[], Any]:
    def write() -> None:
        settings.ready_file.parent.mkdir(parents=True, exist_ok=True)
        settings.ready_file.write_text(json.dumps({"web_port": settings.faust_web_port}))

    settings.ready_file.unlink(missing_ok=True)
    return write


def ledger_app(settings: Settings) -> tuple[App, Feed]:
    """The app that decides commands."""
    from agents.ledger import Ledger

    app = _app("ledger", settings)
    rules = rules_of(settings)
    encoded, rules_hash = encode_rules(rules)
    kafka = RealKafka(settings.kafka)
    setup = Setup(
        app_id=f"{settings.app_id}-ledger",
        kafka=kafka,
        names=NAMES,
        outputs=(
            topics.TRANSACTION_EVENTS.name,
            topics.ACCOUNT_EVENTS.name,
            topics.BANK_REQUESTS.name,
            topics.CHAIN_REQUESTS.name,
        ),
        actor=Ledger(rules),
        rules=encoded,
        rules_hash=rules_hash,
        stores=RocksStores(_state_dir(settings)),
        called=_called(settings),
        partitioner=Partitioner(settings.partitions),
    )

    def make(number: int, fetch: Any, generation: int) -> Partition:
        return Shard(number, setup, fetch, generation)

    feed = Feed(app, (NAMES.commands, NAMES.signals), make, on_ready=_ready(settings), on_closed=kafka.stop)
    return app, feed


def _called(settings: Settings) -> dict[str, str]:
    """What the topics of events are called in this cluster, where it is not their usual name."""
    if not settings.bare_event_topics:
        return {}
    return {usual.name: bare.name for usual, bare in zip(topics.EVENTS, topics.events(bare=True), strict=True)}


def sink_app(settings: Settings) -> tuple[App, Feed]:
    """The app that writes the ledger to Postgres."""
    from agents.sink import CONNECTIONS_MAX, Heads, Sink
    from aura_stream.ledger.writer import LedgerWriter

    app = _app("sink", settings)

    async def connect_writer() -> LedgerWriter:
        return await LedgerWriter.connect(settings.postgres_write_dsn, connections_max=CONNECTIONS_MAX)

    sink = Sink(RealKafka(settings.kafka), connect_writer, Heads(settings.kafka))
    feed = Feed(app, (NAMES.journal,), sink.partition, on_ready=_ready(settings), on_closed=sink.close)
    return app, feed


def events_app(settings: Settings) -> tuple[App, Feed]:
    """The app that keeps the log of events, and relays what identity has to tell."""
    from agents.events import EventLog
    from aura_stream.events.relay import Relay
    from aura_stream.events.writer import EventWriter

    app = _app("events", settings)
    sources = tuple(topic.name for topic in topics.events(bare=settings.bare_event_topics))
    event_log = EventLog(RealKafka(settings.kafka), EventWriter(settings.postgres_write_dsn), sources)
    feed = Feed(app, sources, event_log.partition, on_ready=_ready(settings), on_closed=event_log.close)
    relay = Relay(
        settings.postgres_write_dsn,
        settings.kafka,
        settings.partitions,
        {"account": sources[1], "auth": sources[2]},
    )
    app.task(relay.run)
    return app, feed


# --- lanes ---------------------------------------------------------------------------------------------------------

BANK_SOURCE, CHAIN_SOURCE = 1_000_000, 2_000_000
"""Added to the partition in what lanes signal to the ledger: no shard of the ledger has such a number."""


def bank_app(settings: Settings) -> tuple[App, Feed]:
    """The app that speaks with banks."""
    from agents.bank_calls import BankCalls
    from agents.bank_lanes import BankLanes
    from agents.inbox import Inbox
    from aura_stream.banks.client import BankClient
    from aura_stream.banks.credentials import load_credentials

    rules = lane_rules_of(settings)
    names = sorted(set(rules.settlement.banks.values()))
    known = load_credentials(settings)
    if missing := [name for name in names if name not in known]:
        raise SetupError(
            f"There are no credentials for {', '.join(missing)}.",
            where=str(banks_file(settings)),
            why="AURA_SETTLEMENT_RULES names that bank for a rail",
            fix="add it to the file, or change `banks` in AURA_SETTLEMENT_RULES",
        )
    clients = {
        # One connection more than calls at once: events are listed beside them.
        name: BankClient(name, known[name], connections=(rules.banks.get(name) or bank.Limits()).calls_at_once + 1)
        for name in names
    }
    inbox = Inbox(settings.kafka, topics.BANK_INBOX.name, settings.partitions)
    calls = BankCalls(clients, inbox, settings.bank_webhook_url)
    return _lane_app("bank", settings, topics.BANK, BankLanes(rules), rules, BANK_SOURCE, calls)


def chain_app(settings: Settings) -> tuple[App, Feed]:
    """The app that mints and burns."""
    from agents.chain_calls import ChainCalls
    from agents.chain_lanes import ChainLanes
    from agents.inbox import Inbox
    from aura_stream.chain.rpc import ChainNode
    from aura_stream.chain.signer import derived, load_key

    rules = lane_rules_of(settings)
    key = load_key(settings)
    keys = {token: derived(key, token) for token in sorted(TOKENS)}
    inbox = Inbox(settings.kafka, topics.CHAIN_INBOX.name, settings.partitions)
    calls = ChainCalls(ChainNode(settings.chain_rpc_url), keys, rules, inbox, settings)
    return _lane_app("chain", settings, topics.CHAIN, ChainLanes(rules, keys), rules, CHAIN_SOURCE, calls)


class Outside(Protocol):
    """What makes the calls that a kind of lanes wishes for."""

    async def run(self) -> None:
        """Begins; runs beside the worker."""

    async def close(self) -> None:
        """Ends what runs."""

    def committed(self, partition: int, wishes: list[Any]) -> None:
        """Starts what a committed unit wishes for."""


def _lane_app(
    role: str,
    settings: Settings,
    own: tuple[Topic, Topic, Topic, Topic],
    actor: Actor,
    rules: LaneRules,
    first_source: int,
    outside: Outside,
) -> tuple[App, Feed]:
    requests, inbox, journal, changelog = (topic.name for topic in own)
    app = _app(role, settings)
    encoded, rules_hash = encode_rules(rules)
    kafka = RealKafka(settings.kafka)
    setup = Setup(
        app_id=f"{settings.app_id}-{role}",
        kafka=kafka,
        names=Names(requests, NAMES.signals, journal, NAMES.dead_letters, changelog),
        outputs=(topics.CHAIN_REQUESTS.name,),
        actor=actor,
        rules=encoded,
        rules_hash=rules_hash,
        stores=RocksStores(_state_dir(settings)),
        partitioner=Partitioner(settings.partitions),
        inbox=inbox,
        first_source=first_source,
        committed=outside.committed,
    )

    def make(number: int, fetch: Any, generation: int) -> Partition:
        return Shard(number, setup, fetch, generation)

    async def close() -> None:
        await outside.close()
        await kafka.stop()

    # The inbox first: deadlines wait until everything in it is handled, so that no answer is overlooked for a time-out.
    feed = Feed(app, (inbox, requests), make, on_ready=_ready(settings), on_closed=close)
    app.task(outside.run)
    metrics = LaneMetrics(feed)
    attempts = AttemptsSink(
        *(settings.kafka, settings.postgres_write_dsn, journal, settings.partitions),
        on_ended=metrics.ended,
        on_noted=metrics.noted,
    )
    app.task(attempts.run)
    _add_metrics_page(app, metrics)
    return app, feed
