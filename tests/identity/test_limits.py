"""Limits of rates: by user, key, address and login target, one bucket over all nodes."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.identity.conftest import OPERATOR, PASSWORD, Node, Person, StartNode, address, register, staff

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]

BEHIND_A_PROXY = {"trusted_proxies": ("127.0.0.0/8",)}


def somewhere() -> str:
    """An address that no other test comes from."""
    return f"10.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}"


async def _count(requests: list[Any]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for status, _, _ in await asyncio.gather(*requests):
        counts[status] = counts.get(status, 0) + 1
    return counts


async def _fail(node: Node, email: str, place: str) -> int:
    status, _, _ = await node.call(
        "POST", "/v1/auth/login", {"email": email, "password": "wrong" * 3}, X_Forwarded_For=place
    )
    return status


async def test_x56_two_nodes_share_one_limit_and_lose_at_most_their_leases(node: Node, start_node: StartNode) -> None:
    ada = await register(node)
    nodes = [await start_node(rate_limit=100), await start_node(rate_limit=100)]

    counts = await _count([nodes[n % 2].call("GET", "/v1/users/me", token=ada.access) for n in range(300)])

    assert 90 <= counts[200] <= 100 and counts[200] + counts[429] == 300, counts


async def test_x56_one_after_the_other_on_two_nodes_as_well(node: Node, start_node: StartNode) -> None:
    ada = await register(node)
    nodes = [await start_node(rate_limit=20), await start_node(rate_limit=20)]

    statuses = [(await nodes[n % 2].call("GET", "/v1/users/me", token=ada.access))[0] for n in range(30)]

    assert statuses == [200] * 20 + [429] * 10


async def test_l84_headers_say_what_is_left_and_429_when_to_come_again(node: Node, start_node: StartNode) -> None:
    ada = await register(node)
    small = await start_node(rate_limit=2, rate_window_s=60)

    answers = [await small.call("GET", "/v1/users/me", token=ada.access) for _ in range(3)]

    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert [headers["X-RateLimit-Remaining"] for _, _, headers in answers] == ["1", "0", "0"]
    for _, _, headers in answers:
        assert headers["X-RateLimit-Limit"] == "2"
        assert 0 < int(headers["X-RateLimit-Reset"]) - time.time() <= 61
        assert headers["RateLimit-Policy"] == '"requests";q=2;w=60'
        assert headers["RateLimit"].startswith('"requests";r=')
    _, problem, headers = answers[-1]
    assert (problem["code"], problem["status"]) == ("rate_limited", 429)
    assert 1 <= int(headers["Retry-After"]) <= 60


async def test_l84_a_window_ends(node: Node, start_node: StartNode) -> None:
    ada = await register(node)
    small = await start_node(rate_limit=1, rate_window_s=1)

    first, refused = [await small.call("GET", "/v1/users/me", token=ada.access) for _ in range(2)]
    assert (first[0], refused[0]) == (200, 429)
    async with asyncio.timeout(10):
        while True:
            if (await small.call("GET", "/v1/users/me", token=ada.access))[0] == 200:
                break
            await asyncio.sleep(0.1)


async def test_u04_each_user_and_key_has_its_own_bucket_and_the_operator_none(
    node: Node, start_node: StartNode
) -> None:
    ada, bob, carl = [await register(node) for _ in range(3)]
    wanted = {"name": "server", "scopes": ["money.read"]}
    _, made, _ = await node.call("POST", "/v1/api-keys", wanted, token=ada.access)
    small = await start_node(rate_limit=1)

    async def codes(token: str) -> list[int]:
        return [(await small.call("GET", f"/v1/accounts/{ada.account}", token=token))[0] for _ in range(2)]

    assert await codes(bob.access) == [404, 429]
    assert await codes(carl.access) == [404, 429]
    assert await codes(made["key"]) == [200, 429]
    assert await codes(OPERATOR) == [200, 200]


async def test_l84_a_tenant_may_have_limits_of_its_own(node: Node, start_node: StartNode) -> None:
    tenant = f"t{uuid.uuid4().hex[:8]}"
    await node.call("POST", "/v1/tenants", {"id": tenant}, token=OPERATOR)
    status, answer, _ = await node.call(
        "PUT", f"/v1/tenants/{tenant}/limits", {"rate_limit": 3, "rate_window_s": 600}, token=OPERATOR
    )
    assert (status, answer["rate_limit"], answer["rate_window_s"], answer["command_limit"]) == (200, 3, 600, None)
    admin = await staff(node, "admin", tenant=tenant)

    answers = [await node.call("GET", "/v1/users/me", token=admin.access) for _ in range(4)]

    assert [status for status, _, _ in answers] == [200, 200, 200, 429]
    assert answers[0][2]["RateLimit-Policy"] == '"requests";q=3;w=600'
    assert (await node.code("PUT", f"/v1/tenants/{tenant}/limits", {}, token=admin.access))[0] in (403, 429)


async def test_sec31_the_address_is_believed_of_named_proxies_only(start_node: StartNode) -> None:
    place, body = somewhere(), {"token": "x" * 43}
    behind = await start_node(rate_limit=2, **BEHIND_A_PROXY)
    open_route = ("POST", "/v1/auth/verify-email", body)

    mine = [(await behind.call(*open_route, X_Forwarded_For=place))[0] for _ in range(3)]
    spoofed = (await behind.call(*open_route, X_Forwarded_For=f"{somewhere()}, {place}"))[0]
    elsewhere = (await behind.call(*open_route, X_Forwarded_For=somewhere()))[0]

    assert (mine, spoofed, elsewhere) == ([404, 404, 429], 429, 404)
    direct = await start_node(rate_limit=1_000_000)
    _, _, first = await direct.call(*open_route, X_Forwarded_For=somewhere())
    _, _, second = await direct.call(*open_route, X_Forwarded_For=somewhere())
    assert int(second["X-RateLimit-Remaining"]) < int(first["X-RateLimit-Remaining"])


async def test_sec10_bad_tokens_spend_of_their_address(node: Node, start_node: StartNode) -> None:
    small, place = await start_node(rate_limit=2, **BEHIND_A_PROXY), somewhere()
    ada = await register(node)

    guesses = [(await small.call("GET", "/v1/users/me", token="a.b.c", X_Forwarded_For=place))[0] for _ in range(3)]

    assert guesses == [401, 401, 429]
    assert (await small.call("GET", "/v1/users/me", token=ada.access, X_Forwarded_For=place))[0] == 200


async def test_sec10_one_account_from_many_places_and_the_owner_is_not_locked_out(start_node: StartNode) -> None:
    small = await start_node(login_limit=3, **BEHIND_A_PROXY)
    other = await start_node(login_limit=3, **BEHIND_A_PROXY)
    ada, home = await register(small), somewhere()
    right = {"email": ada.email, "password": PASSWORD, "tenant_code": "default"}
    for _ in range(5):
        assert (await small.call("POST", "/v1/auth/login", right, X_Forwarded_For=home))[0] == 200

    failures = [await _fail(one, ada.email, somewhere()) for one in (small, other) * 3]

    assert failures == [401, 401, 401, 429, 429, 429]
    status, problem, headers = await other.call("POST", "/v1/auth/login", right, X_Forwarded_For=somewhere())
    assert (status, problem["code"]) == (429, "rate_limited") and int(headers["Retry-After"]) > 0
    assert (await other.call("POST", "/v1/auth/login", right, X_Forwarded_For=home))[0] == 200


async def test_sec10_sec11_nobody_is_limited_like_somebody(start_node: StartNode) -> None:
    small = await start_node(login_limit=2, **BEHIND_A_PROXY)
    ada, nobody = await register(small), address()

    for email in (ada.email, nobody):
        assert [await _fail(small, email, somewhere()) for _ in range(3)] == [401, 401, 429]


async def test_sec10_one_place_against_many_accounts(start_node: StartNode) -> None:
    small, place = await start_node(rate_limit=3, **BEHIND_A_PROXY), somewhere()

    assert [await _fail(small, address(), place) for _ in range(4)] == [401, 401, 401, 429]


async def test_l84_a_batch_has_a_quota_of_commands(node: Node, start_node: StartNode) -> None:
    ada = await register(node)
    small = await start_node(command_limit=3)

    async def batch(count: int) -> tuple[int, str]:
        lines = b"\n".join(_line(ada) for _ in range(count))
        headers = {"Authorization": f"Bearer {ada.access}", "Content-Type": "application/x-ndjson"}
        async with small.client.post("/v1/commands:batch", data=lines, headers=headers) as answer:
            return answer.status, await answer.text()

    assert [(await batch(count))[0] for count in (4, 2, 2, 1)] == [429, 200, 429, 200]


def _line(person: Person) -> bytes:
    return json.dumps(
        {
            "id": str(uuid.uuid4()),
            "type": "account.open",
            "tenant": "default",
            "customer": person.customer,
            "idempotency_key": str(uuid.uuid4()),
            "issued_at": "2026-11-20T10:00:00Z",
            "data": {"asset": "EUR", "name": f"n{uuid.uuid4().hex[:8]}"},
        }
    ).encode()


async def test_l85_a_violation_is_in_the_audit_log_once(node: Node, start_node: StartNode, owner: Owner) -> None:
    ada = await register(node)
    small = await start_node(rate_limit=1)

    for _ in range(5):
        await small.call("GET", "/v1/users/me", token=ada.access)
    await small.services.identity.audit.written()

    rows = await owner.fetch(
        "SELECT action, outcome, reason FROM identity.audit_log WHERE actor = $1 AND reason = 'rate_limited'",
        f"user:{ada.id}",
    )
    assert [tuple(row) for row in rows] == [("limit.requests", "refused", "rate_limited")]
    assert b'aura_http_limited_total{kind="requests"} 4.0' in await small.services.metrics.text()


async def test_sec56_what_cannot_be_counted_is_not_let_in(node: Node, start_node: StartNode, owner: Owner) -> None:
    ada, other = await register(node), await start_node()
    assert (await other.call("GET", "/v1/users/me", token=ada.access))[0] == 200
    other.services.identity.limits._leases.clear()
    await owner.execute("ALTER TABLE identity.rate_buckets RENAME TO away")
    try:
        assert (await other.code("GET", "/v1/users/me", token=ada.access)) == (503, "service_unavailable")
        assert (await other.code("POST", "/v1/auth/verify-email", {"token": "x" * 43}))[0] == 503
        assert (await other.call("GET", f"/v1/accounts/{ada.account}", token=OPERATOR))[0] == 200
    finally:
        await owner.execute("ALTER TABLE identity.away RENAME TO rate_buckets")
