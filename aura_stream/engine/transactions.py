"""The requests of a transaction, each sent once; `producer.py` says what is made of their answers.

There are two protocols. In the first one a request names the partitions of a transaction before they are written to,
and the epoch of the producer outlives its transactions. In the second one (KIP-890, agreed on in every cluster that was
made by Kafka 4) the broker adds a partition when it is written to, which saves a request and a way to the broker and
back, and each transaction has an epoch of its own, so that an EndTxn that comes late can end nothing but its own.

aiokafka knows the first one only. Its connections, metadata, batches and the way to a coordinator are used here, its
sender is not: a task that is woken for each step of each transaction took half of a small unit's time in the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    CoordinatorNotAvailableError,
    DuplicateSequenceNumber,
    KafkaError,
    LeaderNotAvailableError,
    NotCoordinatorError,
    ProducerFenced,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from aura_stream.brokers import Brokers, client_options
from aura_stream.engine import patches  # noqa: F401 - of aiokafka, for all that talks to Kafka as the engine does

REQUEST_TIMEOUT_MS = 3_000
TRANSACTION_TIMEOUT_MS = 10_000
# aiokafka never goes back to its bootstrap servers. While a majority is away the last broker names only itself, and who
# has asked it then knows no other until the next refresh: if that broker goes too, it is lost although all else is up.
METADATA_MAX_AGE_MS = 10_000
BATCH_BYTES = 1 << 20

FEATURE = "transaction.version"
SECOND = 2
"""The level of the feature that stands for the second protocol."""

Place = tuple[str, int]
"""Topic and partition."""

_ACKS_ALL = -1
_TAGS = ("tags", TaggedFields)


class _Produced(Response):
    API_KEY = 0
    API_VERSION = 12
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic", CompactString()),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("offset", Int64),
                        ("timestamp", Int64),
                        ("log_start_offset", Int64),
                        ("record_errors", CompactArray(("batch_index", Int32), ("message", CompactString()), _TAGS)),
                        ("error_message", CompactString()),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class _Produce(RequestStruct):
    """Version 12, the first that makes a partition part of the transaction, and the last that names topics."""

    API_KEY = 0
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Produced
    SCHEMA = Schema(
        ("transactional_id", CompactString()),
        ("required_acks", Int16),
        ("timeout", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString()),
                ("partitions", CompactArray(("partition", Int32), ("messages", CompactBytes), _TAGS)),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _Ended(Response):
    API_KEY = 26
    API_VERSION = 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32), ("error_code", Int16), ("producer_id", Int64), ("producer_epoch", Int16), _TAGS
    )


class _End(RequestStruct):
    """Version 5: its answer gives the id and the epoch of the next transaction."""

    API_KEY = 26
    API_VERSION = 5
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Ended
    SCHEMA = Schema(
        ("transactional_id", CompactString()),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("transaction_result", Boolean),
        _TAGS,
    )


class _Versions(Response):
    API_KEY = 18
    API_VERSION = 3
    SCHEMA = Schema(
        ("error_code", Int16),
        ("api_versions", CompactArray(("api_key", Int16), ("min_version", Int16), ("max_version", Int16), _TAGS)),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class _AskVersions(RequestStruct):
    """Version 3, the first that tells what the cluster has agreed on."""

    API_KEY = 18
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Versions
    SCHEMA = Schema(("client_software_name", CompactString()), ("client_software_version", CompactString()), _TAGS)

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> ResponseHeader_v0:
        """Of the old form in every version, so that a client can read it before it knows the broker."""
        return ResponseHeader_v0.decode(read_buffer)


class _SecondProduce(Request[_Produce]):
    API_KEY = 0

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[_Produce]) -> _Produce:
        return request_struct_class(*self._fields, {})


class _SecondEnd(Request[_End]):
    API_KEY = 26

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[_End]) -> _End:
        return request_struct_class(*self._fields, {})


class _VersionsRequest(Request[_AskVersions]):
    API_KEY = 18

    def build(self, request_struct_class: type[_AskVersions]) -> _AskVersions:
        return request_struct_class("aura-stream", "1", {})


_SUPPORTED, _FINALIZED = 0, 2  # the tags of the answer's lists of features
_NONE = b"\x01"  # an empty list
_FEATURES = CompactArray(("name", CompactString()), ("level", Int16), ("other_level", Int16), _TAGS)
"""What is finalized comes with its greatest level first, what is supported with its least."""


def _features(answer: _Versions, tag: int) -> list[tuple[Any, ...]]:
    return _FEATURES.decode(BytesIO(answer.tags.get(tag, _NONE))) or []


METADATA = "metadata.version"
LOSES_MARKERS = range(30, 34)
"""The newest form of metadata that brokers of Kafka 4.3.0 to 4.4.0 know, by which they can be told from others: they
leave out the marker of a transaction whose partition has no leader (KAFKA-20734)."""


async def newest_metadata(bootstrap: Brokers | str) -> int:
    """The newest form of metadata that a broker knows; 0: it does not say. Raises aiokafka's errors."""
    client = AIOKafkaClient(**client_options(bootstrap))
    try:
        await client.bootstrap()
        answer = await client.send(client.get_random_node(), _VersionsRequest())
    finally:
        await client.close()
    return next((newest for name, _, newest, *_ in _features(answer, _SUPPORTED) if name == METADATA), 0)


class TransactionClient:
    """One transactional id at the brokers.

    Nothing is repeated here. `failed` says that a request went wrong on its way: it may still arrive.
    """

    def __init__(self, bootstrap: Brokers | str, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self.failed = False
        self.second = False  # which protocol is spoken; known when it has started
        self._producer = AIOKafkaProducer(
            **client_options(bootstrap),
            client_id=transactional_id,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            max_batch_size=BATCH_BYTES,
        )
        self._id = self._epoch = -1
        self._sequences: defaultdict[Place, int] = defaultdict(int)
        send = self._producer.client.send

        async def watched(*arguments: Any, **options: Any) -> Any:
            try:
                return await send(*arguments, **options)
            except BaseException:
                self.failed = True
                raise

        self._producer.client.send = watched

    async def start(self, topics: Iterable[str]) -> None:
        """Connects, takes the transactional id, and fetches what must be known to write to `topics`.

        Tries until it succeeds. Raises aiokafka's errors for what trying cannot cure.
        """
        await self._producer.start()
        for topic in topics:
            await self._producer.partitions_for(topic)
        self.second = await self._transaction_version() >= SECOND
        manager = self._producer._txn_manager
        self._id, self._epoch = manager.producer_id, manager.producer_epoch

    async def _transaction_version(self) -> int:
        """The level that the cluster has agreed on; 0 where nobody knows of such agreements."""
        client = self._producer.client
        node = await self._coordinator()
        connection = await client._get_conn(node, group=ConnectionGroup.COORDINATION)
        if connection is None or connection._versions[_VersionsRequest.API_KEY][1] < _AskVersions.API_VERSION:
            return 0
        answer = await client.send(node, _VersionsRequest(), group=ConnectionGroup.COORDINATION)
        return next((level for name, level, *_ in _features(answer, _FINALIZED) if name == FEATURE), 0)

    def batch(self) -> Any:
        """An empty batch."""
        return self._producer.create_batch()

    def sealed(self, place: Place, batch: Any, count: int) -> Any:
        """What is sent of a batch of `count` records: numbered, behind those that were sealed for its place before."""
        sequence = self._sequences[place]
        self._sequences[place] = (sequence + count) % 2**31
        batch._set_producer_state(self._id, self._epoch, sequence)
        return batch._build()

    async def add(self, places: Iterable[Place]) -> None:
        """Makes partitions part of the transaction, as the first protocol wants. Raises aiokafka's errors."""
        topics: defaultdict[str, list[int]] = defaultdict(list)
        for topic, partition in places:
            topics[topic].append(partition)
        request = AddPartitionsToTxnRequest(self.transactional_id, self._id, self._epoch, list(topics.items()))
        answer = await self._ask_coordinator(request)
        for _, errors in answer.errors:
            for _, code in errors:
                self._check(code)

    async def produce(self, sealed: Mapping[Place, Any]) -> dict[Place, int | KafkaError]:
        """Writes at most one batch per place; the offset of its first record (-1: it was there already), or why not."""
        answers: dict[Place, int | KafkaError] = {}
        leaders: defaultdict[int, defaultdict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for (topic, partition), data in sealed.items():
            leader = self._producer.client.cluster.leader_for_partition(TopicPartition(topic, partition))
            if leader is None or leader < 0:
                answers[topic, partition] = LeaderNotAvailableError()
            else:
                leaders[leader][topic].append((partition, data))
        for found in await asyncio.gather(*[self._produce(node, topics) for node, topics in leaders.items()]):
            answers |= found
        return answers

    async def _produce(self, node: int, topics: Mapping[str, list[Any]]) -> dict[Place, int | KafkaError]:
        request: Any
        if self.second:
            tagged: list[Any] = [
                (topic, [(number, data, {}) for number, data in found], {}) for topic, found in topics.items()
            ]
            request = _SecondProduce(self.transactional_id, _ACKS_ALL, REQUEST_TIMEOUT_MS, tagged)
        else:
            request = ProduceRequest(self.transactional_id, _ACKS_ALL, REQUEST_TIMEOUT_MS, list(topics.items()))
        try:
            answer = await self._producer.client.send(node, request)
        except KafkaError as error:
            return {(topic, number): error for topic, found in topics.items() for number, _ in found}
        return {
            (topic, number): offset if not code or code == DuplicateSequenceNumber.errno else _error(code)
            for topic, found, *_ in answer.topics
            for number, code, offset, *_ in found
        }

    async def end(self) -> None:
        """Commits. Raises aiokafka's errors."""
        request = (_SecondEnd if self.second else EndTxnRequest)(self.transactional_id, self._id, self._epoch, True)
        answer = await self._ask_coordinator(request)
        self._check(answer.error_code)
        if self.second:
            self._id, self._epoch = answer.producer_id, answer.producer_epoch
            self._sequences.clear()  # each epoch counts from 0

    def refresh(self) -> None:
        """Has the leaders looked up anew: one of them did not answer as a leader does."""
        self._producer.client.force_metadata_update()

    async def stop(self) -> None:
        """Disconnects in good order."""
        await self._producer.stop()

    async def abandon(self) -> None:
        """Disconnects without asking anybody."""
        self._producer._closed = True
        task = self._producer._sender.sender_task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 1)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._producer.client.close(), 1)

    async def _coordinator(self) -> int:
        node: int = await self._producer._sender._find_coordinator(CoordinationType.TRANSACTION, self.transactional_id)
        return node

    async def _ask_coordinator(self, request: Any) -> Any:
        node = await self._coordinator()
        try:
            return await self._producer.client.send(node, request, group=ConnectionGroup.COORDINATION)
        except KafkaError:
            self._producer._sender._coordinator_dead(CoordinationType.TRANSACTION)
            raise

    def _check(self, code: int) -> None:
        if code:
            if code in _ELSEWHERE:
                self._producer._sender._coordinator_dead(CoordinationType.TRANSACTION)
            raise _error(code)


_ELSEWHERE = (CoordinatorNotAvailableError.errno, NotCoordinatorError.errno)
_PRODUCER_FENCED = 90  # aiokafka has a class for it, but not under this number


def _error(code: int) -> KafkaError:
    return ProducerFenced() if code == _PRODUCER_FENCED else for_code(code)()
