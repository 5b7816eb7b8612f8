"""Pages over HTTP: `sort`, `limit` and `cursor`, or `page` and `page_size` (L13 to L15, X19), for all listings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from aura_stream.domain.commands import parse_time
from aura_stream.domain.reasons import Invalid
from aura_stream.ledger.listing import Listing, Page, cursor_after, order_of, read_cursor
from web.problems import from_domain


class Row(Protocol):
    """A row of a database, or a mapping that stands for one."""

    def __getitem__(self, name: str, /) -> Any: ...


AnyRow = TypeVar("AnyRow", bound=Row)

LIMIT = 50
PAGE_SIZE = 20
ROWS_MAX = 100_000
"""How far a page by number may lie from the first row: beyond, the database would read all before it."""
_OF_PAGES = frozenset({"sort", "limit", "cursor", "page", "page_size"})


@dataclass(frozen=True, slots=True)
class Asked:
    """The page that a request asks for; one row more is read than is shown, to know whether there are more."""

    listing: Listing
    page: Page
    number: int
    """Of the page, from 1; 0: by cursor."""
    size: int

    @property
    def is_numbered(self) -> bool:
        """Whether pages go by number, and all rows are counted."""
        return self.number > 0

    def answer(self, rows: Sequence[AnyRow], total: int, view: Callable[[AnyRow], dict[str, Any]]) -> dict[str, Any]:
        """The body of the answer: `items`, `has_more`, `next_cursor`; with numbers also the page and the total."""
        shown, has_more = rows[: self.size], len(rows) > self.size
        cursor = cursor_after(self.listing, self.page.order, shown[-1]) if has_more else None
        body = {"items": [view(row) for row in shown], "has_more": has_more, "next_cursor": cursor}
        if self.is_numbered:
            body |= {
                "page": self.number,
                "page_size": self.size,
                "total": total,
                "total_pages": -(-total // self.size),
            }
        return body


def asked(query: Mapping[str, Any], listing: Listing, filters: Mapping[str, Any] | None = None) -> Asked:
    """The page of a checked query. `filters` replaces the query's own (default: all its other members).

    Raises :class:`Problem` for a sort or cursor that is none, and for both kinds of page at once.
    """
    own = {name: value for name, value in query.items() if name not in _OF_PAGES}
    numbered = "page" in query or "page_size" in query
    try:
        if numbered and ("cursor" in query or "limit" in query):
            raise Invalid("invalid_field", "page and page_size, or limit and cursor, not both", "page")
        order = order_of(listing, query.get("sort", ""))
        after = read_cursor(listing, order, query["cursor"]) if "cursor" in query else None
        number = query.get("page", 1) if numbered else 0
        size = query.get("page_size", PAGE_SIZE) if numbered else query.get("limit", LIMIT)
        offset = (number - 1) * size if numbered else 0
        if offset > ROWS_MAX:
            raise Invalid("invalid_field", f"no page begins beyond row {ROWS_MAX}; use a cursor or filters", "page")
    except Invalid as error:
        raise from_domain(error, where="query") from None
    page = Page(filters=own if filters is None else filters, order=order, limit=size + 1, after=after, offset=offset)
    return Asked(listing, page, number, size)


def empty(asked: Asked) -> dict[str, Any]:
    """The page of a listing without rows."""
    rows: list[Mapping[str, Any]] = []
    return asked.answer(rows, 0, dict)


def time_of(name: str, text: str, *, where: str = "query") -> datetime:
    """A time that the schema let through. Raises :class:`Problem` for a day that does not exist."""
    try:
        parse_time(text)
        return datetime.fromisoformat(text.upper())
    except Invalid as error:
        pointer = name if where == "query" else f"/{name}"
        raise from_domain(Invalid(error.reason, error.detail, pointer), where=where) from None


def times_of(query: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a query with `from`, `to` and other times read."""
    return {
        name: time_of(name, value) if name in ("from", "to") else value
        for name, value in query.items()
        if name not in _OF_PAGES
    }
