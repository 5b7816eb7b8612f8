"""The embedded Kafka: transactions, large records, restarts, crashes, a second address, honest errors."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import MessageSizeTooLargeError

from aura_stream import SetupError
from aura_stream.cli.services import _check_kafka
from aura_stream.embedded import KafkaServer, Listener
from aura_stream.embedded.kafka import KAFKA_SETTINGS, broker_is_ready, replication_settings
from aura_stream.embedded.processes import free_port
from aura_stream.engine import transactions
from aura_stream.settings import load_settings

MIB = 1024 * 1024


async def _create(bootstrap: str, *topics: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics(list(topics))
    await admin.close()


async def _read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * MIB,
    )
    await consumer.start()
    values = [(await consumer.getone()).value for _ in range(count)]
    await consumer.stop()
    return values


async def test_a_transaction_is_seen_whole_or_not_at_all(kafka: KafkaServer, unique: str) -> None:
    await _create(kafka.bootstrap, NewTopic(unique, 1, 1))
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=unique)
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(unique, b"aborted")
    await producer.abort_transaction()
    async with producer.transaction():
        await producer.send_and_wait(unique, b"committed")
    await producer.stop()
    assert await _read(kafka.bootstrap, unique, 1) == [b"committed"]


async def test_sizes_of_commands_and_dead_letters(kafka: KafkaServer, unique: str) -> None:
    commands, dead = f"{unique}.commands", f"{unique}.dead"
    await _create(
        kafka.bootstrap,
        NewTopic(commands, 1, 1, topic_configs={"max.message.bytes": str(MIB)}),
        NewTopic(dead, 1, 1, topic_configs={"max.message.bytes": str(2 * MIB + 64 * 1024)}),
    )
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, max_request_size=4 * MIB)
    await producer.start()
    await producer.send_and_wait(commands, b"x" * (MIB - 1024))
    with pytest.raises(MessageSizeTooLargeError):
        await producer.send_and_wait(commands, b"x" * (MIB + 1024))
    await producer.send_and_wait(dead, b"x" * 2 * MIB)
    await producer.stop()
    assert [len(value) for value in await _read(kafka.bootstrap, dead, 1)] == [2 * MIB]


async def test_topics_are_not_made_by_accident(kafka: KafkaServer, unique: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.describe_topics([unique])  # asks for its metadata, which makes a topic where that is allowed
    assert unique not in await admin.list_topics()
    await admin.close()


async def test_records_survive_crash_and_restart_and_a_second_address_is_advertised(tmp_path: Path) -> None:
    proxy = Listener("PROXY", port=free_port(), advertised_port=free_port())
    with KafkaServer(tmp_path, listeners=(proxy,), tied=True) as server:
        await _create(server.bootstrap, NewTopic("kept", 1, 1))
        producer = AIOKafkaProducer(bootstrap_servers=server.bootstrap)
        await producer.start()
        await producer.send_and_wait("kept", b"1")
        await producer.stop()

        server.kill()
        assert not server.process.alive
        assert not broker_is_ready("127.0.0.1", server.port)
        server.restart()
        assert await _read(server.bootstrap, "kept", 1) == [b"1"]

        assert f"PROXY://127.0.0.1:{proxy.advertised_port}" in server.config()["advertised.listeners"]
        with socket.create_connection(("127.0.0.1", proxy.port), 2):
            pass

        second = KafkaServer(tmp_path / "second", port=server.port, tied=True)
        with pytest.raises(SetupError, match=f"port {server.port} is in use") as caught:
            second.start()
        assert f"process {server.pid} " in caught.value.why and "java" in caught.value.why
        assert "AURA_KAFKA_PORT=" in caught.value.fix


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = KafkaServer(tmp_path, settings={"log.retention.hours": "not a number"}, tied=True)
    with pytest.raises(SetupError) as caught:
        server.start()
    assert "log.retention.hours" in str(caught.value)


def test_the_data_of_a_later_kafka_is_refused_with_the_way_out(tmp_path: Path) -> None:
    later = tmp_path / "data" / "__cluster_metadata-0" / "00000000000000000000-0000000000.checkpoint"
    later.parent.mkdir(parents=True)
    later.touch()
    with pytest.raises(SetupError, match="of a later version") as error:
        KafkaServer(tmp_path, tied=True).launch()
    assert error.value.fix.startswith("make reset")


def test_doctor_warns_of_brokers_that_leave_out_ends_of_transactions(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(kafka_bootstrap=kafka.bootstrap)
    assert _check_kafka(settings).state == "ok"
    monkeypatch.setattr(transactions, "LOSES_MARKERS", range(1, 1000))
    finding = _check_kafka(settings)
    assert (finding.state, finding.fix) == ("warn", "use Kafka 4.0 to 4.2") and "KAFKA-20734" in finding.detail


def test_several_brokers_share_a_quorum_and_keep_three_copies(tmp_path: Path) -> None:
    quorum = {1: 20001, 2: 20002, 3: 20003}
    config = KafkaServer(tmp_path, 20004, node_id=2, quorum=quorum).config()
    assert config["controller.quorum.voters"] == "1@127.0.0.1:20001,2@127.0.0.1:20002,3@127.0.0.1:20003"
    assert config["listeners"].endswith("CONTROLLER://127.0.0.1:20002")
    assert config["transaction.state.log.replication.factor"] == "3"
    assert config["transaction.state.log.min.isr"] == config["min.insync.replicas"] == "2"
    assert replication_settings(1)["offsets.topic.replication.factor"] == "1"


def test_settings_that_money_depends_on() -> None:
    assert KAFKA_SETTINGS["auto.create.topics.enable"] == "false"
    assert KAFKA_SETTINGS["unclean.leader.election.enable"] == "false"
    assert KAFKA_SETTINGS["transaction.abort.timed.out.transaction.cleanup.interval.ms"] == "2000"
    assert not any(name.startswith("log.message.timestamp") for name in KAFKA_SETTINGS)
