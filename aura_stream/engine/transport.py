"""Where the engine meets Faust: whole fetched lists instead of single records, committed data only, our own positions.

These are the only touch points with Faust's internals; `check_faust` refuses to start when they are not as expected.

- Stock Faust hands each record through three queues and several tasks, three quarters of all time. Here one stream
  event per partition and fetch carries the list of raw records.
- Stock Faust reads uncommitted data at at_least_once, so it would deliver signals of aborted units.
- Stock Faust drops what was fetched of a partition that has been paused meanwhile, though it will not be fetched again:
  pausing changes the very set that says what to fetch, and aiokafka takes an empty set for "all". Here a list says
  which part of the log it holds, all are handed on, and their owner refuses one that does not follow the last.
- After every rebalance Faust seeks to the group's offsets. They are only hints: the owner of a partition knows better.
- Stock Faust runs the consumer in a thread with a loop of its own, and makes four tasks per message to hand it on. Here
  it shares the worker's loop: two busy threads pass one interpreter lock to and fro, 5 ms a time, at each of the dozen
  steps that a fetch takes. A worker whose loop stands still for the session's time also loses its partitions now, as
  it should: nobody else could have told that it does not work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from inspect import isawaitable
from pathlib import Path
from typing import Any, Protocol

import aiokafka
import faust
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import CommitFailedError, IllegalStateError, NoOffsetForPartitionError
from aiokafka.structs import OffsetAndMetadata
from faust import SASLCredentials, SSLCredentials
from faust.events import Event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.auth import CredentialsT
from faust.types.tuples import ConsumerMessage

from aura_stream.brokers import Brokers, tls_context
from aura_stream.engine.partition import Fetched, wait_for
from aura_stream.engine.transactions import METADATA_MAX_AGE_MS

log = logging.getLogger(__name__)

FETCH_WAIT_MS = 25
IDLE_FETCH_WAIT_MS = 500
PINNED = {"faust": "0.15.3", "aiokafka": "0.14.0"}


class Owner(Protocol):
    """Whoever handles a partition: it knows where to go on reading, once it is ready."""

    @property
    def ready(self) -> bool:
        """Whether records are wanted now."""

    def begin(self, topic: str) -> int:
        """The offset to go on reading from, which it will then expect."""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Reads only what is committed, and is a thread by its name only: it lives in the loop that it is made in."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, thread_loop=asyncio.get_running_loop(), **options)

    async def start(self) -> None:
        """Starts the service here, where Faust would start a thread that does."""
        self._thread_started.set()
        await self._default_start()

    async def on_stop(self) -> None:
        """Ends what Faust's thread would end when it is told to."""
        await super().on_stop()
        await self._shutdown_thread()

    async def call_thread(self, fun: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Calls `fun`, where Faust would put the call into the thread's queue."""
        found = fun(*arguments, **options)
        return await found if isawaitable(found) else found

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # read when the consumer starts
        return consumer

    async def on_start(self) -> None:
        """Starts the consumer; how long its fetches wait is decided for each of them."""
        await super().on_start()
        wait_as_fits(self._ensure_consumer()._fetcher)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commits offsets of partitions that are assigned here; False when the group says that they are not.

        Raises KafkaError when nobody knows; stock Faust would crash the worker.
        """
        assigned = self.assignment()
        mine = {
            driver.ensure_aiokafka_TP(tp): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assigned
        }
        if not mine:
            return False
        try:
            await self._ensure_consumer().commit(mine)
        except (CommitFailedError, IllegalStateError) as error:
            log.info("the group does not take offsets from here: %r", error)
            return False
        return True

    def rejoin(self) -> None:
        """Has the coordinator join the group again."""
        self._ensure_consumer()._coordinator.request_rejoin()


def wait_as_fits(fetcher: Any) -> None:
    """Has a fetch wait long for its first record, unless it leaves a partition out.

    One whose records are still being handed over is left out, and what arrives there meanwhile waits for the end of the
    fetch that the others share: that must be short. A fetch of all partitions ends with the first record, wherever it
    arrives; to ask again and again cost the broker of an idle system a quarter of a core.
    """
    actions = fetcher._get_actions_per_node

    def with_wait(assignment: Any) -> Any:
        states = map(assignment.state_value, assignment.tps)
        is_whole = not fetcher._records and all(one.has_valid_position and not one.paused for one in states)
        fetcher._fetch_max_wait_ms = IDLE_FETCH_WAIT_MS if is_whole else FETCH_WAIT_MS
        return actions(assignment)

    fetcher._get_actions_per_node = with_wait


class Consumer(driver.Consumer):
    """Delivers lists, and seeks where the owners say."""

    app: App

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._begin: dict[TP, int] = {}  # where the next list of each partition will begin, as far as is known
        self._resumed = asyncio.Event()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def rejoin(self) -> None:
        """Asks the group for a new generation: what was fetched in this one can then be told from what follows."""
        thread: Any = self._thread
        thread.rejoin()

    async def seek(self, partition: TP, offset: int) -> None:
        """Goes on reading at `offset`."""
        await super().seek(partition, offset)
        self._begin[partition] = offset

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Fetches these again, at once."""
        super().resume_partitions(tps)
        self._resumed.set()

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's signature
        if self.flow_active and not self._get_active_partitions():
            self._resumed.clear()
            await wait_for(self._resumed, timeout)  # where Faust sleeps a second
        return await super()._wait_next_records(timeout)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetcher runs this: hands on what comes, until the consumer or the fetcher stops."""
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                async for _, message in self.getmany(1.0):
                    if not self.flow_active:
                        break  # a rebalance is on: all of it is fetched again
                    await self.callback(message)
                await asyncio.sleep(0)  # all may have been there already
        except asyncio.CancelledError:
            # While a rebalance is on, a fetcher that is cancelled has crashed for Faust, though the worker be stopping.
            if not self.app.should_stop:
                raise
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def perform_seek(self) -> None:
        """Faust calls this after every rebalance, before the flow resumes."""
        for tp in self.assignment():
            owner = self.app.owner_of(tp)
            if owner is not None and owner.ready:
                await self.seek(tp, owner.begin(tp.topic))
            else:
                self._begin.pop(tp, None)
                self.pause_partitions({tp})  # its owner seeks and resumes when it is ready

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109 - Faust's signature
        """One message per partition and fetch; its value is :class:`Fetched`, its offset that of the last record."""
        try:
            records, _ = await self._wait_next_records(timeout)
        except NoOffsetForPartitionError as error:
            await self._begin_where_owners_say(error)
            return
        generation = self.app.consumer_generation_id
        if records is None or self.should_stop:
            return
        if not self.flow_active:
            await self.perform_seek()
            return
        for tp, fetched in self._lists(records):
            if self.app.consumer_generation_id != generation:
                return
            last: Any = fetched.records[-1]
            whole: Any = fetched
            yield tp, ConsumerMessage(
                tp.topic, tp.partition, last.offset, last.timestamp / 1000, last.timestamp_type, last.headers,
                None, whole, None, 0, 0, tp, generation_id=generation,
            )  # fmt: skip

    def _lists(self, records: Mapping[Any, list[Any]]) -> list[tuple[TP, Fetched]]:
        """What was fetched, each with where it begins: behind the last list, even if nobody is handed that one."""
        lists = []
        for place, fetched in records.items():
            if fetched:
                tp = TP(place.topic, place.partition)
                found = Fetched(fetched, self._begin.get(tp, fetched[0].offset))
                lists.append((tp, found))
                self._begin[tp] = found.end
        return lists

    async def _begin_where_owners_say(self, error: NoOffsetForPartitionError) -> None:
        """A young group knows no offset, and the fetcher has asked it before :meth:`perform_seek` came to speak."""
        for place in error.args:
            tp = TP(place.topic, place.partition)
            owner = self.app.owner_of(tp)
            log.info("%s[%s]: the group does not know where to begin; its owner does", *tp)
            if owner is not None and owner.ready:
                await self.seek(tp, owner.begin(tp.topic))
        await asyncio.sleep(FETCH_WAIT_MS / 1000)  # one that is not ready is asked for again until it is


class Transport(driver.Transport):
    """aiokafka with the consumer above."""

    Consumer = Consumer


class Lists(faust.Schema[Any, Any]):
    """A schema that decodes nothing: the list goes to the agent as it is, decoding is done there in bulk."""

    def compile(
        self,
        app: Any,
        *,
        on_key_decode_error: Any = None,
        on_value_decode_error: Any = None,
        default_propagate: bool = False,
    ) -> Any:
        """The decoder that Faust's conductor calls for each message."""

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return Event(app, None, message.value, None, message)

        return decode


class App(faust.App):
    """A Faust app whose partitions have owners. `on_closing` runs before the consumer stops; Faust sends no signal."""

    owner_of: Callable[[TP], Owner | None]
    on_closing: Callable[[], Any]

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    async def on_stop(self) -> None:
        """Ends what the owners do, then Faust's own services."""
        await self.on_closing()
        await super().on_stop()


def make_app(
    app_id: str,
    *,
    bootstrap: Brokers | str,
    datadir: str,
    web_port: int,
    session_timeout_s: float,
    instance_id: str | None = None,
    fetch_records_max: int = 4000,
) -> App:
    """A Faust app with every setting that matters set: statistics on loopback only, no tables or router pages."""
    check_faust()
    Path(datadir).mkdir(parents=True, exist_ok=True)
    return App(
        app_id,
        broker=";".join(f"kafka://{server.strip()}" for server in str(bootstrap).split(",")),
        broker_credentials=_credentials(bootstrap),
        store="memory://",
        datadir=datadir,
        loop=None,
        autodiscover=False,
        processing_guarantee="at_least_once",
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=1,  # else Faust assigns round robin and splits the source topics of a shard over workers
        broker_max_poll_records=fetch_records_max,
        broker_max_poll_interval=60.0,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=min(3.0, session_timeout_s / 4),
        broker_rebalance_timeout=max(20.0, session_timeout_s),
        broker_request_timeout=max(30.0, session_timeout_s + 5),
        consumer_auto_offset_reset="none",
        consumer_metadata_max_age_ms=METADATA_MAX_AGE_MS,
        consumer_group_instance_id=instance_id,
        consumer_max_fetch_size=4 << 20,
        cython_optimizations=True,
        stream_wait_empty=True,
        web_bind="127.0.0.1",
        web_host="127.0.0.1",
        web_port=web_port,
        web_stats_enabled=True,
        web_metrics_enabled=True,
        web_graph_enabled=False,
        web_router_enabled=False,
        web_tables_enabled=False,
        debug=False,
    )


def _credentials(bootstrap: Brokers | str) -> CredentialsT | None:
    """How Faust's own consumer is let in, as `client_options` says it of all other clients."""
    if isinstance(bootstrap, str) or bootstrap.security == "plaintext":
        return None
    context = tls_context(bootstrap) if bootstrap.uses_tls else None
    if not bootstrap.uses_sasl:
        return SSLCredentials(context)
    return SASLCredentials(
        username=bootstrap.username, password=bootstrap.password, ssl_context=context, mechanism=bootstrap.mechanism
    )


def check_faust() -> None:
    """Raises RuntimeError when Faust or aiokafka is not the version whose internals are used here."""
    for name, module in (("faust", faust), ("aiokafka", aiokafka)):
        if module.__version__ != PINNED[name]:
            raise RuntimeError(
                f"{name} {module.__version__} is installed, {PINNED[name]} is needed: the engine uses its internals. "
                "Fix: make setup"
            )
    for owner, name in (
        (driver.AIOKafkaConsumerThread, "_create_worker_consumer"),
        (driver.AIOKafkaConsumerThread, "_default_start"),
        (driver.AIOKafkaConsumerThread, "on_start"),
        (Fetcher, "_get_actions_per_node"),
        (driver.AIOKafkaConsumerThread, "_shutdown_thread"),
        (driver.AIOKafkaConsumerThread, "call_thread"),
        (driver.Consumer, "_new_consumer_thread"),
        (driver.Consumer, "perform_seek"),
        (driver.Consumer, "_drain_messages"),
        (driver.Consumer, "_wait_next_records"),
        (driver.Consumer, "pause_partitions"),
        (driver.Consumer, "resume_partitions"),
        (driver.Consumer, "_get_active_partitions"),
        (GroupCoordinator, "request_rejoin"),
    ):
        if not hasattr(owner, name):
            raise RuntimeError(f"{owner.__name__}.{name} is gone from faust: the engine cannot run on it")
