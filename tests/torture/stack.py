"""Everything for the torture: three brokers and a Postgres behind proxies, and any number of roles.

Each ledger worker has a lane of proxies of its own (a lane is one proxy per broker), so that one of them can be cut off
from Kafka; sinks and API share another. Clients, checkers and the brokers among themselves go directly.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import topics
from aura_stream.embedded import KafkaCluster, KafkaServer, Listener
from aura_stream.embedded.anvil import AnvilServer
from aura_stream.embedded.processes import Process, free_port
from aura_stream.engine.topics import apply_topics
from tests.e2e.client import CUSTOMERS, Client, partition_of
from tests.e2e.stack import PARTITIONS, SESSION_S, START_S, E2EStack, eventually
from tests.settlements.drive import LIMITS
from tests.torture.proxies import KafkaProxy, Net, PostgresProxy, Proxy

LANES = ("ledger-0", "ledger-1", "others")
CONNECTORS = (("bank", 0), ("chain", 0))
ROLES = (("ledger", 0), ("ledger", 1), ("sink", 0), ("sink", 1), ("api", 0))
BROKERS = 3
HEALED_S = 30.0
"""Progress must be back this long after a healing. The goal, for a machine that has nothing else to do."""


class TortureStack(E2EStack):
    """Three brokers, Postgres, two ledger workers, two sinks, an API; whatever is broken, :meth:`heal` makes whole.

    `banks`: also two mock banks, a chain, and the connectors that speak with them.
    """

    def __init__(self, home: Path, *, session_s: float = SESSION_S, seed: int = 0, banks: bool = False) -> None:
        self.cluster = KafkaCluster(home / "kafka", BROKERS, tied=True)
        ports = {"mock_bank_port": free_port(), "chain_port": free_port()} if banks else {}
        super().__init__(home, kafka=self.cluster.bootstrap, session_s=session_s, **ports)
        self.roles = (*ROLES, *(CONNECTORS if banks else ()))
        # Final blocks (those below the last eight) must stay: what a killed node has not saved is younger than those.
        self.chain = (
            AnvilServer(home / "chain", self.settings.chain_port, block_time_s=0.5, save_every_s=1, tied=True)
            if banks
            else None
        )
        self.bank: Process | None = None
        self.net = Net()
        self.lanes: dict[str, list[KafkaProxy]] = {lane: [] for lane in LANES}
        for broker in self.cluster.brokers:
            listeners = []
            for lane in LANES:
                listener = Listener(lane.replace("-", "_").upper(), free_port(), free_port())
                listeners.append(listener)
                proxy = KafkaProxy(self.net, listener.advertised_port, ("127.0.0.1", listener.port), seed=seed)
                self.lanes[lane].append(proxy)
            broker.listeners = tuple(listeners)
        self.postgres_of: dict[str, PostgresProxy] = {}  # by role: the sinks' way to Postgres, and the API's

    # --- starting and ending ---------------------------------------------------------------------------------------

    def start_services(self, *, apply_topics: bool = True) -> None:
        """Starts the brokers and Postgres with schema and topics, and the proxies before them."""
        for broker in self.cluster.brokers:
            broker.launch()
        self.local.postgres.start(START_S)
        self.local.write_env_file()
        self.local.run_once("db", "migrate")
        for role in ("sink", "api"):
            self.postgres_of[role] = PostgresProxy(self.net, self.local.postgres.dsn())
        for proxy in self.proxies():
            proxy.start()
        for broker in self.cluster.brokers:
            broker.wait_ready(START_S)
        if apply_topics:
            asyncio.run(_apply(self.bootstrap))
        if self.chain is not None:
            self.bank = self.local.start_mock_bank()
            self.chain.start()

    def start_roles(self, *, ledgers: int = 2, sinks: int = 2, api: bool = True) -> None:
        """Starts all roles side by side and waits until they are ready."""
        connectors = [self.launch(role, slot) for role, slot in self.roles[len(ROLES) :]]
        super().start_roles(ledgers=ledgers, sinks=sinks, api=api)
        for process in connectors:
            process.wait_ready(START_S)

    def launch(
        self, role: str, slot: int = 0, *, module: str = "aura_stream.cli", cwd: Path | None = None, **env: str
    ) -> Process:
        """Starts a role on the far side of its proxies."""
        own = self.local.environment()
        way = {"AURA_KAFKA_BOOTSTRAP": self.lane_bootstrap(f"{role}-{slot}")}
        if role in self.postgres_of:
            way |= {
                name: self.postgres_of[role].through(own[name])
                for name in ("AURA_POSTGRES_DSN", "AURA_POSTGRES_WRITE_DSN", "AURA_POSTGRES_READ_DSN")
            }
        if self.chain is not None:
            limits = json.dumps({"bank-a": LIMITS, "bank-b": LIMITS})
            way |= {
                "AURA_BANK_LIMITS": limits,
                "AURA_BANK_POLL_S": "0.5",
                "AURA_CHAIN_RPC_URL": self.chain.rpc_url,
                "AURA_CHAIN_CONFIRMATIONS": "2",
            }
        return super().launch(role, slot, module=module, cwd=cwd, **way, **env)

    def close(self) -> None:
        """Ends everything."""
        for proxy in self.proxies():
            proxy.heal()
        for broker in self.cluster.brokers:
            broker.process.thaw()
        for process in self.history:
            process.kill()
        if self.chain is not None:
            self.chain.process.thaw()
            self.chain.stop()
        super().close()
        for broker in self.cluster.brokers:
            broker.kill()
        self.net.close()

    # --- the network -----------------------------------------------------------------------------------------------

    def lane(self, role: str) -> list[KafkaProxy]:
        """The proxies between a role (`ledger-0`) and the brokers."""
        return self.lanes.get(role, self.lanes["others"])

    def lane_bootstrap(self, role: str) -> str:
        """The brokers' addresses on that lane."""
        return ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.lane(role))

    def kafka_proxies(self) -> list[KafkaProxy]:
        """All proxies before brokers."""
        return [proxy for lane in self.lanes.values() for proxy in lane]

    def proxies(self) -> Iterator[Proxy]:
        """All proxies."""
        yield from self.kafka_proxies()
        yield from self.postgres_of.values()

    # --- brokers ---------------------------------------------------------------------------------------------------

    async def broker(self, number: int, *, wipe: bool = False) -> None:
        """Starts a broker that was killed; with `wipe` as a new one, without what it had."""
        broker = self.cluster.brokers[number]
        if wipe:
            await self.call(shutil.rmtree, broker.data_dir)
        await self.call(broker.start, START_S)

    def broker_down(self) -> list[KafkaServer]:
        """The brokers that do not run."""
        return [broker for broker in self.cluster.brokers if not broker.process.alive]

    # --- the chain -------------------------------------------------------------------------------------------------

    def kill_chain(self) -> None:
        """kill -9 of the node, not while it writes its file: that a local chain is then damaged is known and said."""
        assert self.chain is not None
        while True:
            self.chain.process.freeze()
            try:
                json.loads(self.chain.state_path.read_bytes())
            except FileNotFoundError:
                break
            except ValueError:
                self.chain.process.thaw()
                time.sleep(0.02)
                continue
            break
        self.chain.process.kill()

    # --- after a fault ---------------------------------------------------------------------------------------------

    async def heal(self) -> list[Process]:
        """Takes every fault away, starts services that have ended, and launches roles that have.

        Returns the roles that are starting. Does nothing where nothing is broken.
        """
        for proxy in self.proxies():
            proxy.heal()
        for process in self.processes.values():
            process.thaw()
        down = self.broker_down()
        for broker in self.cluster.brokers:
            broker.process.thaw()
        for broker in down:
            await self.call(broker.launch)
        if not self.local.postgres.process.alive:
            await self.call(self.local.postgres.start, START_S)
        self.local.postgres.process.thaw()
        for broker in down:
            await self.call(broker.wait_ready, START_S)
        if self.chain is not None and self.bank is not None:
            self.chain.process.thaw()
            await self.call(self.chain.start, START_S)
            await self.call(self.bank.start)
            await self.call(self.bank.wait_ready, START_S)
        return [
            await self.call(self.launch, role, slot)
            for role, slot in self.roles
            if not self.processes["api" if role == "api" else f"{role}-{slot}"].alive
        ]

    async def ready(self, starting: list[Process]) -> None:
        """Waits until roles that were launched do their work."""
        for process in starting:
            await self.call(process.wait_ready, START_S)

    async def progress(self, client: Client, within_s: float) -> float:
        """Sends a transfer to every partition and waits until all are in Postgres; returns the seconds that it took."""
        began = time.monotonic()
        async with client.connected():
            wanted = []
            for partition in range(PARTITIONS):
                customer = next(one for one in CUSTOMERS if partition_of("default", one) == partition)
                pair = (f"{customer}:EUR", f"{customer}:EUR:save")
                intent = client.transfer(
                    "default", *pair, "0.01", "completed/completed", "failed/refused:insufficient_funds"
                )
                await client.put(intent)
                wanted.append(intent.transaction_id)

            async def missing() -> str:
                found = await self.fetch(
                    "SELECT transaction_id::text AS id FROM ledger.transactions WHERE transaction_id::text = ANY($1)",
                    wanted,
                )
                left = set(wanted) - {row["id"] for row in found}
                return f"{len(left)} of {len(wanted)} partitions stand still" if left else ""

            await eventually(missing, within_s, "all partitions move on", lambda: self.logs(30))
        return time.monotonic() - began


async def _apply(bootstrap: str) -> None:
    await apply_topics(bootstrap, topics.ALL, partitions=PARTITIONS, replication=BROKERS)
