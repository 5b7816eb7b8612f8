"""What the handlers work with: made once per process from the settings, started and stopped with the app."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from aiohttp import web

from aura_stream.identity.identity import Identity
from aura_stream.ledger.reads import LedgerReads
from aura_stream.settings import Settings
from topics.bank_inbox import BANK_INBOX
from topics.chain_inbox import CHAIN_INBOX
from topics.commands import COMMANDS
from topics.journal import JOURNAL
from web.accepted import Accepted
from web.cached import Answers
from web.command_log import CommandLog
from web.erasures import Erasures
from web.events_parts import EventParts
from web.lookup import Lookup
from web.metrics import Metrics
from web.openings import Openings
from web.tail import Tail
from web.wallets import Wallets

Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler may need."""

    settings: Settings
    commands: CommandLog
    tail: Tail
    reads: LedgerReads
    accepted: Accepted
    lookup: Lookup
    metrics: Metrics
    identity: Identity
    wallets: Wallets
    openings: Openings
    erasures: Erasures
    events: EventParts
    bank_inbox: CommandLog
    """Where banks' webhooks go."""
    chain_inbox: CommandLog
    """Where operators' releases and cancels of the minters' lanes go, and who wants a deposit address."""
    answers: Answers
    """Answers of reads that are kept."""
    proxies: Networks
    """Whose X-Forwarded-For is believed."""

    async def start(self) -> None:
        """Begins to connect; nothing here waits for Kafka or Postgres, so that the API can say what is missing."""
        await self.commands.start()
        await self.bank_inbox.start()
        await self.chain_inbox.start()
        await self.tail.start()
        self.identity.start()
        self.wallets.start()
        self.openings.start()
        self.erasures.start()
        self.events.start()

    async def stop(self) -> None:
        """Ends all connections."""
        await self.events.stop()
        await self.erasures.stop()
        await self.openings.stop()
        await self.wallets.stop()
        await self.identity.stop()
        await self.tail.stop()
        await self.chain_inbox.stop()
        await self.bank_inbox.stop()
        await self.commands.stop()
        await self.reads.close()


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


def make_services(settings: Settings) -> Services:
    """The services of one API process."""
    reads = LedgerReads(settings.postgres_read_dsn, connections_max=settings.pool_size)
    tail = Tail(settings.kafka, settings.partitions, reads, journal=JOURNAL.name, commands=COMMANDS.name)
    commands = CommandLog(settings.kafka, COMMANDS.name, settings.partitions)
    accepted = Accepted(tail.recent)
    identity = Identity(settings)
    openings = Openings(settings, identity, commands, tail.recent)
    lookup = Lookup(tail, reads, accepted)
    events = EventParts(settings, identity)
    answers = Answers(settings.read_cache_mib, settings.read_cache_s)
    erasures = Erasures(identity, commands, lookup, reads)
    return Services(
        settings,
        commands,
        tail,
        reads,
        accepted,
        lookup,
        Metrics(tail, commands, identity, events, answers, reads, erasures),
        identity,
        Wallets(settings, identity, commands, tail.recent, openings),
        openings,
        erasures,
        events,
        CommandLog(settings.kafka, BANK_INBOX.name, settings.partitions),
        CommandLog(settings.kafka, CHAIN_INBOX.name, settings.partitions),
        answers,
        tuple(ip_network(one) for one in settings.trusted_proxies),
    )
