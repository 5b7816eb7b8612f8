"""Rights at Kafka's brokers. aiokafka has the messages of its protocol, and no method for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest

from aura_stream.brokers import Brokers, client_options

# Kafka's protocol: codes of org.apache.kafka.common.resource.ResourceType, acl.AclOperation, PatternType.
_KINDS: Final = {"topic": 2, "group": 3, "transactions": 5}
_OPERATIONS: Final = {"read": 3, "write": 4, "describe": 8}
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3


class Rule(NamedTuple):
    """A principal may do something. Names of transactions are prefixes; reading and writing include describing."""

    principal: str
    """As brokers name it: `User:<name>`."""
    kind: Literal["topic", "group", "transactions"]
    name: str
    operation: Literal["read", "write", "describe"]


async def allow(kafka: Brokers | str, rules: Iterable[Rule]) -> None:
    """Adds rights, from any host; those that are there stay. Raises aiokafka's errors, as when one may not do this."""
    admin = AIOKafkaAdminClient(**client_options(kafka), request_timeout_ms=30_000)
    await admin.start()
    try:
        for rule in rules:
            pattern = _PREFIXED if rule.kind == "transactions" else _LITERAL
            answer = await admin._send_request(
                CreateAclsRequest(
                    _KINDS[rule.kind],
                    rule.name,
                    pattern,
                    rule.principal,
                    "*",
                    _OPERATIONS[rule.operation],
                    _ALLOW,
                )
            )
            for code, message in answer.creation_responses:
                if code:
                    raise for_code(code)(message)
    finally:
        await admin.close()
