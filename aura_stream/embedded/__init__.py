"""Kafka, Postgres and a chain without Docker, root or anything installed by hand: for ``aura up``, demo and tests."""

from __future__ import annotations

from aura_stream.embedded.anvil import AnvilServer
from aura_stream.embedded.kafka import KafkaCluster, KafkaServer, Listener
from aura_stream.embedded.postgres import PostgresServer
from aura_stream.embedded.processes import Process, Stack, wait_until

__all__ = ["AnvilServer", "KafkaCluster", "KafkaServer", "Listener", "PostgresServer", "Process", "Stack", "wait_until"]
