"""What an alias is given and what it makes of it: plain data between one shape of a request and the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aura_stream.identity.permissions import Principal, Reach

Json = dict[str, Any]
System = Literal["aura", "aurix", "ledgerbank", "settlement", "upop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A request in an alias' own shape, checked against its own schema, and who asks."""

    principal: Principal
    reach: Reach
    tenant: str
    path: Mapping[str, Any]
    query: Mapping[str, Any]
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The same request in the shape of one of our operations."""

    path: Json = field(default_factory=dict)
    """Only where the row says that the ids stand in the body."""
    query: Json = field(default_factory=dict)
    body: Json = field(default_factory=dict)
    key: str = ""
    """The idempotency key, where the alias has it in the body; empty: that of the header, or a new one."""
    operation: str = ""
    """The operation, where the body decides which; empty: that of the row."""


Take = Callable[[Given], Taken]
Give = Callable[[Json, Given], Json]


def as_is(given: Given) -> Taken:
    """The request has our shape already."""
    return Taken(query=dict(given.query), body=dict(given.body))


def same(body: Json, given: Given) -> Json:
    """The answer has our shape."""
    return body
