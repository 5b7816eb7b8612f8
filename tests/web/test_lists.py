"""Lists: filters, sorts over several fields, pages by cursor and by number, strictly checked. On the real ledger."""

from __future__ import annotations

import base64
import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_stream.domain.reasons import Invalid
from aura_stream.ledger.listing import Listing, Page, make_cursor, order_of, read_cursor, select
from aura_stream.ledger.reads import ACCOUNTS, ENTRIES, TRANSACTIONS
from tests.web.conftest import Api

LISTS = ["/v1/transactions", "/v1/accounts", "/v1/accounts/{account}/entries", "/v1/users"]


async def _walk(api: Api, path: str, limit: int = 2) -> list[dict[str, Any]]:
    """All rows of a list, page by page."""
    rows: list[dict[str, Any]] = []
    cursor = ""
    while True:
        status, page, _ = await api.get(f"{path}{'&' if '?' in path else '?'}limit={limit}{cursor}")
        assert status == 200, page
        assert len(page["items"]) <= limit and page["has_more"] == (page["next_cursor"] is not None)
        rows += page["items"]
        if not page["has_more"]:
            return rows
        cursor = f"&cursor={page['next_cursor']}"


async def _some(api: Api, customer: str) -> None:
    """An account in two assets with deposits, transfers and a failed one."""
    euros = await api.account(customer, "EUR", "100.00")
    await api.account(customer, "BTC", "0.5")
    other = await api.account(f"{customer}x", "EUR")
    for amount in ("3.00", "1.00", "2.00", "2.00"):
        body = {"from_account_id": euros, "to_account_id": other, "amount": amount}
        assert (await api.post("/v1/transfers", body))[0] == 201
    body = {"from_account_id": euros, "to_account_id": other, "amount": "5000.00"}
    assert (await api.post("/v1/transfers", body))[0] == 422


async def test_l14_x19_transactions_are_sorted_by_several_fields_and_walked_without_loss(
    api: Api, customer: str
) -> None:
    await _some(api, customer)
    path = f"/v1/transactions?customer={customer}"
    everything = await _walk(api, path, 200)
    assert len(everything) == 7
    for sort, key in (
        ("created_at:desc", lambda one: one["created_at"]),
        ("amount:asc,created_at:desc", lambda one: Decimal(one["amount"])),
        ("amount:desc", lambda one: Decimal(one["amount"])),
        ("type:asc,status:desc,amount:asc", lambda one: one["type"]),
        ("status,type", lambda one: one["status"]),
    ):
        walked = await _walk(api, f"{path}&sort={sort}")
        assert {one["id"] for one in walked} == {one["id"] for one in everything}, sort
        assert len(walked) == len(everything), sort
        keys = [key(one) for one in walked]
        assert keys == sorted(keys, reverse=sort.partition(",")[0].endswith("desc")), sort
    mixed = await _walk(api, f"{path}&sort=amount:asc,created_at:desc")
    twos = [one["created_at"] for one in mixed if one["amount"] == "2.00"]
    assert len(twos) == 2 and twos == sorted(twos, reverse=True)


async def test_l36_l105_transactions_are_filtered_by_what_the_rows_name(api: Api, customer: str) -> None:
    await _some(api, customer)

    async def found(query: str) -> list[str]:
        return [
            one["amount"] for one in await _walk(api, f"/v1/transactions?customer={customer}&sort=amount:asc&{query}")
        ]

    assert await found("status=failed") == ["5000.00"]
    assert await found("status=failed,completed&type=transfer&max=3.00") == ["1.00", "2.00", "2.00", "3.00"]
    assert await found("min=2.00&max=2.00") == ["2.00", "2.00"]
    assert await found("max=0.5") == ["0.50000000"]
    assert await found("min=0.50000001&max=1") == ["1.00"]
    assert await found("direction=credit") == ["0.50000000", "100.00"]
    assert await found("direction=debit&min=3") == ["3.00", "5000.00"]
    assert await found("asset=BTC&state=awaiting_funds") == []
    assert await found("asset=BTC&state=!awaiting_funds,held") == ["0.50000000"]
    assert await found("to=2020-01-01T00:00:00Z") == []
    assert len(await found("from=2020-01-01T00:00:00Z")) == 7
    assert await found(f"account_id={customer}:BTC") == ["0.50000000"]
    status, problem, _ = await api.get("/v1/transactions?direction=credit")
    assert (status, problem["code"], problem["errors"][0]["pointer"]) == (400, "missing_fields", "customer")


async def test_l13_pages_by_number_are_counted_and_come_to_an_end(api: Api, customer: str) -> None:
    await _some(api, customer)
    seen = []
    for number in (1, 2, 3):
        path = f"/v1/transactions?customer={customer}&page={number}&page_size=3&sort=amount:asc"
        status, page, _ = await api.get(path)
        assert status == 200
        assert (page["page"], page["page_size"], page["total"], page["total_pages"]) == (number, 3, 7, 3)
        assert page["has_more"] == (number < 3)
        seen += [one["id"] for one in page["items"]]
    assert len(seen) == len(set(seen)) == 7
    status, beyond, _ = await api.get(f"/v1/transactions?customer={customer}&page=4&page_size=3")
    assert (status, beyond["items"], beyond["total"]) == (200, [], 7)
    status, problem, _ = await api.get("/v1/transactions?page=100000&page_size=100")
    assert (status, problem["errors"][0]["pointer"]) == (400, "page")


async def test_accounts_and_entries_are_filtered_sorted_and_paged(api: Api, customer: str) -> None:
    await _some(api, customer)
    path = f"/v1/accounts?customer={customer}"
    assert [one["asset"] for one in await _walk(api, f"{path}&sort=asset:asc", 1)] == ["BTC", "EUR"]
    assert [one["asset"] for one in await _walk(api, f"{path}&sort=opened_at:desc", 1)] == ["BTC", "EUR"]
    assert [one["id"] for one in await _walk(api, f"{path}&asset=EUR&status=open")] == [f"{customer}:EUR"]
    assert await _walk(api, f"{path}&status=closed") == []

    entries = f"/v1/accounts/{customer}:EUR/entries"
    every = await _walk(api, entries, 1)
    upwards = await _walk(api, f"{entries}?sort=journal_id:asc", 1)
    assert len(every) == 5
    assert [one["journal_id"] for one in upwards] == [one["journal_id"] for one in every][::-1]
    assert {one["direction"] for one in await _walk(api, f"{entries}?direction=debit")} == {"debit"}
    assert [one["amount"] for one in await _walk(api, f"{entries}?min=3&max=3.00")] == ["3.00"]
    assert await _walk(api, f"{entries}?layer=held") == []
    _, page, _ = await api.get(f"{entries}?page=1&page_size=2")
    assert (len(page["items"]), page["total"]) == (2, 5)


async def test_l15_a_keyset_page_is_stable_while_rows_come(api: Api, customer: str) -> None:
    await _some(api, customer)
    path = f"/v1/transactions?customer={customer}&sort=created_at:desc"
    _, first, _ = await api.get(f"{path}&limit=3")
    await api.account(f"{customer}y", "EUR")
    for _ in range(3):
        assert (await api.post("/v1/deposits", {"account_id": f"{customer}:EUR", "amount": "1.00"}))[0] == 201
    _, second, _ = await api.get(f"{path}&limit=200&cursor={first['next_cursor']}")
    seen = [one["id"] for one in first["items"] + second["items"]]
    assert len(seen) == len(set(seen)) == 7


@pytest.mark.parametrize("path", LISTS)
async def test_u26_l86_lists_refuse_what_they_do_not_know(api: Api, customer: str, path: str) -> None:
    path = path.replace("{account}", f"{customer}:EUR")
    wrong: list[Any] = [["created_at:desc"], ["x", 1], {}, 1, ["created_at:desc,id:desc", "a", "b"]]
    forged = [orjson.dumps(one) for one in wrong]
    cursors = [base64.urlsafe_b64encode(one).decode().rstrip("=") for one in forged]
    for query, pointer in (
        ("sort=password_hash:asc", "sort"),
        ("sort=created_at:sideways", "sort"),
        ("sort=id;drop+table+x", "sort"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("page=0", "page"),
        ("page=1&limit=3", "page"),
        ("page_size=101", "page_size"),
        ("page=1.5", "page"),
        ("color=red", "color"),
        ("from=2026-02-30T00:00:00Z", "from"),
        ("from=%00", "from"),
        ("sort=%00", "sort"),
        *((f"cursor={one}", "cursor") for one in (*cursors, "A", "%00", "a" * 1025)),
    ):
        status, problem, _ = await api.get(f"{path}?{query}")
        assert (status, problem["errors"][0]["pointer"]) == (400, pointer), (path, query, problem)


# --- the helper itself ------------------------------------------------------------------------------------------------


def _sorts(listing: Listing) -> st.SearchStrategy[str]:
    names = st.lists(st.sampled_from(listing.sortable), min_size=1, unique=True)
    return names.flatmap(
        lambda chosen: st.tuples(*(st.sampled_from([f"{one}:asc", f"{one}:desc", one]) for one in chosen)).map(",".join)
    )


@given(st.data())
def test_l14_every_sort_ends_with_the_key_and_makes_sql_of_known_names(data: st.DataObject) -> None:
    listing = data.draw(st.sampled_from([TRANSACTIONS, ACCOUNTS, ENTRIES]))
    order = order_of(listing, data.draw(_sorts(listing)))
    assert set(listing.key) <= {one.name for one in order}
    values = tuple(range(len(order)))
    sql, arguments = select(listing, "SELECT 1 WHERE true", Page(filters={}, order=order, limit=3, after=values))
    assert arguments == [*values, 3, 0]
    assert {f"${number}" for number in range(1, len(arguments) + 1)} <= set(
        sql.replace(")", " ").replace(",", " ").replace("(", " ").split()
    )


@given(st.text(max_size=60))
def test_sec35_a_sort_or_cursor_of_any_text_is_understood_or_refused(text: str) -> None:
    for listing in (TRANSACTIONS, ACCOUNTS, ENTRIES):
        try:
            order = order_of(listing, text)
        except Invalid as error:
            assert error.pointer == "sort"
        else:
            assert {one.name for one in order} <= set(listing.columns)
        with pytest.raises(Invalid):
            read_cursor(listing, order_of(listing, ""), text)


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=8), st.floats(allow_nan=False)), max_size=3))
def test_sec35_a_forged_cursor_is_understood_or_refused(values: list[Any]) -> None:
    order = order_of(TRANSACTIONS, "")
    forged = base64.urlsafe_b64encode(orjson.dumps(["created_at:desc,id:desc", *map(_plain, values)])).decode()
    with pytest.raises(Invalid, match="cursor"):
        read_cursor(TRANSACTIONS, order, forged.rstrip("="))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, int) and abs(value) >= 1 << 63 else value


def test_a_cursor_comes_back_as_it_was() -> None:
    one, at = uuid.uuid4(), datetime.fromisoformat("2026-11-20T10:00:00.123456+00:00")
    order = order_of(TRANSACTIONS, "amount:asc,created_at:desc")
    cursor = make_cursor(order, (Decimal("12.500"), at, one))
    assert read_cursor(TRANSACTIONS, order, cursor) == (Decimal("12.500"), at, one)
    with pytest.raises(Invalid, match="another sort"):
        read_cursor(TRANSACTIONS, order_of(TRANSACTIONS, ""), cursor)
