"""A Kafka that asks who one is: TLS with a certificate made here, names and passwords, rights per topic."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalStateError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import topics
from aura_stream.brokers import Brokers, client_options
from aura_stream.embedded import KafkaServer, PostgresServer, Process, Stack
from aura_stream.embedded.kafka import Listener
from aura_stream.embedded.processes import free_port
from aura_stream.ledger.migrations import migrate
from aura_stream.settings import Settings, SettingsError, load_settings
from tests.web.conftest import Api, client_of, until_ready

PARTITIONS = 2
PASSWORDS = {name: f"{name}-{uuid.uuid4().hex}" for name in ("admin", "aura-api", "aura-ledger", "aura-sink", "eve")}


def certificate(home: Path, name: str) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one PEM file; `<name>.crt` has the certificate alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    (home / f"{name}.crt").write_bytes(public)
    path = home / f"{name}.pem"
    path.write_bytes(private + public)
    return path


@dataclass(frozen=True)
class Guarded:
    """A broker with a guarded door, and what its clients need."""

    home: Path
    address: str
    dsn: str

    def of(self, name: str) -> Brokers:
        """How `name` comes in."""
        return Brokers(
            self.address,
            "sasl_ssl",
            str(self.home / "broker.crt"),
            username=name,
            password=PASSWORDS[name],
            mechanism="PLAIN",
        )

    def environment(self, name: str) -> dict[str, str]:
        """The settings of a process that comes in as `name`."""
        return {
            "AURA_HOME": str(self.home),
            "AURA_KAFKA_BOOTSTRAP": self.address,
            "AURA_KAFKA_SECURITY": "sasl_ssl",
            "AURA_KAFKA_CA_FILE": str(self.home / "broker.crt"),
            "AURA_KAFKA_USERNAME": name,
            "AURA_KAFKA_PASSWORD": PASSWORDS[name],
            "AURA_KAFKA_MECHANISM": "PLAIN",
            "AURA_POSTGRES_DSN": self.dsn,
            "AURA_PARTITIONS": str(PARTITIONS),
        }

    def aura(self, *arguments: str) -> str:
        """What the command says to the brokers' administrator."""
        done = subprocess.run(
            [sys.executable, "-m", "aura_stream.cli", *arguments],
            env=os.environ | self.environment("admin"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def guarded(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The broker, with the product's topics and rights."""
    home = tmp_path_factory.mktemp("brokers")
    users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
    port = free_port()
    settings = {
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,GUARDED:SASL_SSL,CONTROLLER:PLAINTEXT",
        "listener.name.guarded.ssl.keystore.type": "PEM",
        "listener.name.guarded.ssl.keystore.location": str(certificate(home, "broker")),
        "listener.name.guarded.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.guarded.plain.sasl.jaas.config": (
            f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # The broker speaks to itself over the plain listener, which no test uses.
        "super.users": "User:ANONYMOUS;User:admin",
    }
    database = f"brokers_{uuid.uuid4().hex[:10]}"

    async def prepare() -> str:
        connection = await asyncpg.connect(postgres.dsn())
        await connection.execute(f"CREATE DATABASE {database}")
        await connection.close()
        await migrate(postgres.dsn(database=database))
        return postgres.dsn(database=database)

    listeners = (Listener("GUARDED", port, port),)
    with KafkaServer(home / "kafka", listeners=listeners, settings=settings, tied=True):
        made = Guarded(home, f"127.0.0.1:{port}", asyncio.run(prepare()))
        made.aura("topics", "apply")
        allowed = made.aura("topics", "allow", "all")
        assert "User:aura-api\twrite\ttopic\taura.commands.v1" in allowed
        yield made


async def test_sec50_the_whole_way_of_a_command_over_tls_with_names_and_rights(guarded: Guarded) -> None:
    settings = load_settings(
        home=guarded.home,
        kafka_bootstrap=guarded.address,
        kafka_security="sasl_ssl",
        kafka_ca_file=guarded.home / "broker.crt",
        kafka_username="aura-api",
        kafka_password=PASSWORDS["aura-api"],
        kafka_mechanism="PLAIN",
        postgres_dsn=guarded.dsn,
        partitions=PARTITIONS,
    )
    with Stack() as processes:
        for role in ("ledger", "sink"):
            env = guarded.environment(f"aura-{role}") | {
                "AURA_ROLE": role,
                "AURA_FAUST_WEB_PORT": str(free_port()),
            }
            argv = [sys.executable, "-m", "aura_stream.cli", "worker", role]
            run, log = guarded.home / "run", guarded.home / "log"
            processes.add(Process(f"{role}-0", argv, run_dir=run, log_dir=log, env=env, tied=True), timeout_s=60)
        client, services = await client_of(settings)
        try:
            await until_ready(client)
            api = Api(client, services)
            account, other = await api.account("alice", "EUR", "10.00"), await api.account("bob", "EUR")
            body = {"from_account_id": account, "to_account_id": other, "amount": "2.50"}
            assert (await api.post("/v1/transfers", body))[0] == 201
            assert (await api.get(f"/v1/accounts/{other}/balances"))[1]["available"] == "2.50"
            assert (await api.get("/v1/dead-letters"))[0] == 200
        finally:
            await client.close()


async def _send(kafka: Brokers | str, topic: str, **options: Any) -> None:
    producer = AIOKafkaProducer(**client_options(kafka), request_timeout_ms=5_000, **options)
    try:
        async with asyncio.timeout(20):
            await producer.start()
            if "transactional_id" in options:
                async with producer.transaction():
                    await producer.send_and_wait(topic, b"{}", key=b"default/alice", partition=0)
            else:
                await producer.send_and_wait(topic, b"{}", key=b"default/alice", partition=0)
    finally:
        await producer.stop()


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("aura-api", topics.JOURNAL.name),
        ("aura-api", topics.SIGNALS.name),
        ("aura-api", topics.TRANSACTION_EVENTS.name),
        ("aura-ledger", topics.COMMANDS.name),
        ("aura-sink", topics.JOURNAL.name),
        ("eve", topics.COMMANDS.name),
        ("eve", topics.SIGNALS.name),
    ],
)
async def test_sec50_sec51_who_may_not_write_a_topic_is_refused_by_the_broker(
    guarded: Guarded, name: str, topic: str
) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await _send(guarded.of(name), topic)


async def test_sec51_a_forger_cannot_take_the_place_of_a_shard(guarded: Guarded) -> None:
    """Starting a producer with a shard's id would fence the shard."""
    for name in ("aura-api", "eve"):
        with pytest.raises((TransactionalIdAuthorizationFailed, KafkaError)):
            await _send(guarded.of(name), topics.COMMANDS.name, transactional_id="aura-ledger-0")


async def test_sec50_without_tls_a_password_or_the_right_certificate_nobody_comes_in(guarded: Guarded) -> None:
    certificate(guarded.home, "other")
    wrong = guarded.of("aura-api")
    ways: list[Brokers | str] = [
        guarded.address,
        Brokers(guarded.address, "ssl", wrong.ca_file),
        Brokers(guarded.address, "sasl_plaintext", username="aura-api", password=PASSWORDS["aura-api"]),
        Brokers(guarded.address, "sasl_ssl", wrong.ca_file, username="aura-api", password="guessed", mechanism="PLAIN"),
        Brokers(
            guarded.address,
            "sasl_ssl",
            str(guarded.home / "other.crt"),
            username="aura-api",
            password=PASSWORDS["aura-api"],
            mechanism="PLAIN",
        ),
    ]
    for way in ways:
        with pytest.raises((KafkaConnectionError, KafkaError, IllegalStateError, ssl.SSLError)):
            await _send(way, topics.COMMANDS.name)


LIVE: dict[str, Any] = {"mode": "live", "api_key": bytes(range(16)).hex(), "identity_secret": bytes(range(32)).hex()}
FAR: dict[str, Any] = {
    "postgres_dsn": "postgresql://aura:f3b1c9d27a60e584@db.example.net/aura?sslmode=verify-full",
    "kafka_bootstrap": "k1.example.net:9092,k2.example.net:9092",
    "kafka_security": "sasl_ssl",
    "kafka_username": "aura-api",
    "kafka_password": "x" * 20,
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kafka_security": "plaintext"}, "AURA_KAFKA_SECURITY"),
        ({"kafka_security": "sasl_plaintext"}, "AURA_KAFKA_SECURITY"),
        ({"kafka_bootstrap": "127.0.0.1:9092,k2.example.net:9092", "kafka_security": "plaintext"}, "AURA_KAFKA_SECUR"),
        ({"kafka_username": ""}, "AURA_KAFKA_USERNAME"),
        ({"postgres_dsn": FAR["postgres_dsn"].replace("verify-full", "require")}, "AURA_POSTGRES_DSN"),
        ({"postgres_dsn": FAR["postgres_dsn"].partition("?")[0]}, "AURA_POSTGRES_DSN"),
        ({"postgres_read_dsn": "postgresql://aura_read:f3b1c9d27a60e584@10.0.0.7/aura"}, "AURA_POSTGRES_READ_DSN"),
    ],
)
def test_sec50_l97_what_is_far_away_needs_tls_outside_the_sandbox(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(**LIVE | FAR | change)


def test_sec50_l97_tls_and_networks_of_ones_own_are_taken() -> None:
    def live(**change: Any) -> Settings:
        return load_settings(**LIVE | FAR | change)

    assert live().kafka.uses_tls and "x" * 20 not in repr(live().kafka)
    assert live(kafka_security="plaintext", private_network=True).mode == "live"
    near = {"postgres_dsn": "postgresql://aura@localhost/aura", "kafka_bootstrap": "127.0.0.1:9092"}
    assert live(**near, kafka_security="plaintext").mode == "live"
