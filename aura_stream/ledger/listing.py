"""Listings of rows: filters, a sort over several columns, and pages by keyset or by number. Pure: SQL and arguments.

A listing says once which names may be filtered and sorted by; what a client sends chooses among these names and never
becomes SQL. Every sort ends with the listing's own key, so that its order is total and a keyset page never loses or
repeats a row that was there all the time (L15).
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

from aura_stream.domain.reasons import Invalid

AnyRow = TypeVar("AnyRow", bound=Mapping[str, Any])
Kind = Literal["text", "time", "integer", "decimal", "uuid"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INT64 = 1 << 63
_TIME_MAX = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND


SEALED = ""
"""In place of a column's SQL: what the database cannot read. Such a sort is made by :func:`arranged`."""


class Column(NamedTuple):
    """What a listing is sorted by: its name in a row, and as an expression of SQL that is never null."""

    row: str
    sql: str
    kind: Kind


class Order(NamedTuple):
    """One column of a sort."""

    name: str
    is_descending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What may be listed how."""

    columns: Mapping[str, Column]
    key: tuple[str, ...]
    """Columns that together are unique; they end every sort."""
    filters: Mapping[str, str]
    """Conditions of SQL with `{}` in place of the argument."""
    default: str
    """The sort when none is asked for."""
    hidden: frozenset[str] = field(default=frozenset())
    """Columns that only end a sort: nobody asks for them."""

    @property
    def sortable(self) -> tuple[str, ...]:
        """The names to sort by."""
        return tuple(name for name in self.columns if name not in self.hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What was asked for. Either `after` (values of the sort's columns) or `offset`, neither for the first page."""

    filters: Mapping[str, Any]
    order: tuple[Order, ...]
    limit: int
    after: tuple[Any, ...] | None = None
    offset: int = 0


def order_of(listing: Listing, text: str) -> tuple[Order, ...]:
    """The sort of `name:asc,name:desc`, with the key at its end. Raises :class:`Invalid`."""
    orders: list[Order] = []
    for part in (text or listing.default).split(","):
        name, _, direction = part.strip().partition(":")
        if name not in listing.sortable:
            known = ", ".join(listing.sortable)
            raise Invalid("invalid_field", f"cannot sort by {name[:40]!r}; known are {known}", "sort")
        if direction not in ("", "asc", "desc"):
            raise Invalid("invalid_field", f"{direction[:40]!r} is no direction; use asc or desc", "sort")
        if name in [order.name for order in orders]:
            raise Invalid("invalid_field", f"{name} is given more than once", "sort")
        orders.append(Order(name, direction == "desc"))
    last = orders[-1].is_descending
    named = {order.name for order in orders}
    return (*orders, *(Order(name, last) for name in listing.key if name not in named))


def select(listing: Listing, query: str, page: Page, arguments: Sequence[Any] = ()) -> tuple[str, list[Any]]:
    """`query` (which ends with a condition) with the page's filters, place, order and limit."""
    query, given = filtered(listing, query, page, arguments)
    if page.after is not None:
        query += f" AND ({_beyond(listing, page, given)})"
    by = ", ".join(f"{listing.columns[one.name].sql} {'DESC' if one.is_descending else 'ASC'}" for one in page.order)
    given += [page.limit, page.offset]
    return f"{query} ORDER BY {by} LIMIT ${len(given) - 1} OFFSET ${len(given)}", given


def is_sealed(listing: Listing, order: tuple[Order, ...]) -> bool:
    """Whether the database cannot sort by this."""
    return any(listing.columns[one.name].sql == SEALED for one in order)


def arranged(listing: Listing, page: Page, rows: Iterable[AnyRow]) -> list[AnyRow]:
    """The page of all rows that its filters leave, as :func:`select` would give it; text goes by code points."""
    names = [(listing.columns[one.name].row, one.is_descending) for one in page.order]
    kept = [row for row in rows if page.after is None or _is_beyond(names, row, page.after)]
    for name, is_descending in reversed(names):
        kept.sort(key=lambda row: row[name], reverse=is_descending)
    return kept[page.offset : page.offset + page.limit]


def _is_beyond(names: Sequence[tuple[str, bool]], row: Mapping[str, Any], after: Sequence[Any]) -> bool:
    for (name, is_descending), value in zip(names, after, strict=True):
        if row[name] != value:
            return bool(row[name] < value if is_descending else row[name] > value)
    return False


def filtered(listing: Listing, query: str, page: Page, arguments: Sequence[Any] = ()) -> tuple[str, list[Any]]:
    """`query` with the page's filters only: what is counted."""
    given = list(arguments)
    for name, value in page.filters.items():
        given.append(value)
        query += " AND " + listing.filters[name].format(f"${len(given)}")
    return query, given


def _beyond(listing: Listing, page: Page, given: list[Any]) -> str:
    assert page.after is not None
    places = [(one, listing.columns[one.name].sql) for one in page.order]
    start = len(given)
    given += page.after
    if len({one.is_descending for one in page.order}) == 1:
        # One comparison of rows, which an index can answer.
        left = ", ".join(sql for _, sql in places)
        right = ", ".join(f"${start + index}" for index in range(1, len(places) + 1))
        return f"({left}) {'<' if page.order[0].is_descending else '>'} ({right})"
    steps = []
    for index, (one, sql) in enumerate(places):
        same = [f"{before} = ${start + place}" for place, (_, before) in enumerate(places[:index], 1)]
        steps.append(" AND ".join([*same, f"{sql} {'<' if one.is_descending else '>'} ${start + index + 1}"]))
    return " OR ".join(f"({step})" for step in steps)


# --- cursors: the sort and the last row's values, so that a cursor of another sort is told --------------------------


def cursor_after(listing: Listing, order: tuple[Order, ...], row: Any) -> str:
    """The cursor of the page that follows `row`."""
    return make_cursor(order, [row[listing.columns[one.name].row] for one in order])


def make_cursor(order: tuple[Order, ...], values: Sequence[Any]) -> str:
    """The cursor of what follows these values of the sort's columns."""
    parts = [sort_text(order), *(_dump(value) for value in values)]
    return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def read_cursor(listing: Listing, order: tuple[Order, ...], text: str) -> tuple[Any, ...]:
    """The values of a cursor. Raises :class:`Invalid` unless it was made for this sort of this listing."""
    try:
        sort, *values = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
        if sort != sort_text(order):
            raise Invalid("invalid_field", f"this cursor belongs to another sort than {sort_text(order)}", "cursor")
        return tuple(_load(listing.columns[one.name].kind, value) for one, value in zip(order, values, strict=True))
    except (binascii.Error, ValueError, TypeError, ArithmeticError):
        raise Invalid("invalid_field", "not a cursor of this listing", "cursor") from None


def sort_text(order: tuple[Order, ...]) -> str:
    """A sort as text."""
    return ",".join(f"{one.name}:{'desc' if one.is_descending else 'asc'}" for one in order)


def _dump(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value - _EPOCH) // _MICROSECOND
    return value if isinstance(value, int) else str(value)


def _load(kind: Kind, value: Any) -> Any:
    match kind:
        case "time" if type(value) is int and 0 <= value < _TIME_MAX:
            return _EPOCH + value * _MICROSECOND
        case "integer" if type(value) is int and -_INT64 <= value < _INT64:
            return value
        case "text" if isinstance(value, str) and "\0" not in value:
            return value
        case "uuid" if isinstance(value, str):
            return uuid.UUID(value)
        case "decimal" if isinstance(value, str) and len(value) < 64:
            number = Decimal(value)
            if number.is_finite() and abs(number.adjusted()) < 64:
                return number
    raise ValueError(value)
