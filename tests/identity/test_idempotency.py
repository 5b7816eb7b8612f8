"""One key, one effect: under concurrency on two nodes, and after the job that removes what has had its time."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

import asyncpg

from aura_stream.identity.cleanup import Cleanup
from tests.identity.conftest import OPERATOR, Node, StartNode, address, login, register

if TYPE_CHECKING:
    Owner = asyncpg.Connection[asyncpg.Record]

AT_ONCE = 100


async def test_sec25_a02_a_hundred_transfers_with_one_key_move_money_once(node: Node, start_node: StartNode) -> None:
    nodes, ada, bob = [node, await start_node()], await register(node), await register(node)
    body = {"from_account_id": ada.account, "to_account_id": bob.account, "amount": "7.00"}
    key = str(uuid.uuid4())

    answers = await asyncio.gather(
        *(
            nodes[n % 2].call("POST", "/v1/transfers", body, token=ada.access, key=key, Prefer="wait=30")
            for n in range(AT_ONCE)
        )
    )

    assert {status for status, _, _ in answers} <= {201, 409}
    done = [answer for status, answer, _ in answers if status == 201]
    assert done and len({answer["id"] for answer in done}) == 1
    assert {answer["code"] for status, answer, _ in answers if status == 409} <= {"idempotency_in_progress"}
    _, balances, _ = await node.call("GET", f"/v1/accounts/{ada.account}/balances", token=ada.access)
    assert balances["posted"] == "9993.00"
    status, again, headers = await nodes[1].call("POST", "/v1/transfers", body, token=ada.access, key=key)
    assert (status, again["id"], headers["Idempotent-Replayed"]) == (201, done[0]["id"], "true")


async def test_sec25_a_hundred_keys_for_servers_with_one_key_are_one(
    node: Node, start_node: StartNode, owner: Owner
) -> None:
    nodes, ada, key = [node, await start_node()], await register(node), str(uuid.uuid4())
    wanted = {"name": "server", "scopes": ["money.read"]}

    answers = await asyncio.gather(
        *(nodes[n % 2].call("POST", "/v1/api-keys", wanted, token=ada.access, key=key) for n in range(AT_ONCE))
    )

    assert {status for status, _, _ in answers} <= {201, 409}
    made = {answer["key"] for status, answer, _ in answers if status == 201}
    assert len(made) == 1
    assert {answer["code"] for status, answer, _ in answers if status == 409} <= {"idempotency_in_progress"}
    assert await owner.fetchval("SELECT count(*) FROM identity.api_keys WHERE user_id = $1", uuid.UUID(ada.id)) == 1
    _, again, headers = await nodes[1].call("POST", "/v1/api-keys", wanted, token=ada.access, key=key)
    assert (again["key"], headers["Idempotent-Replayed"]) == (made.pop(), "true")


async def test_a22_a23_an_answer_has_its_time_and_the_key_of_money_has_none(
    node: Node, owner: Owner, start_node: StartNode
) -> None:
    ada, bob = await register(node), await register(node)
    transfer = {"from_account_id": ada.account, "to_account_id": bob.account, "amount": "7.00"}
    of_money, of_key, wanted = str(uuid.uuid4()), str(uuid.uuid4()), {"name": "server", "scopes": ["money.read"]}
    first = await node.call("POST", "/v1/transfers", transfer, token=ada.access, key=of_money, Prefer="wait=30")
    made = await node.call("POST", "/v1/api-keys", wanted, token=ada.access, key=of_key)
    database = node.services.identity.database

    kept = await Cleanup(database, answers_s=86_400, ended_s=86_400, interval_s=1).run_once()
    assert "stored_answers" not in kept
    again = await node.call("POST", "/v1/api-keys", wanted, token=ada.access, key=of_key)
    assert again[1]["key"] == made[1]["key"]

    removed = await Cleanup(database, answers_s=0, ended_s=86_400, interval_s=1).run_once()

    assert removed["stored_answers"] >= 1
    another = await node.call("POST", "/v1/api-keys", wanted, token=ada.access, key=of_key)
    assert another[0] == 201 and another[1]["key"] != made[1]["key"]
    fresh = await start_node()
    status, repeat, headers = await fresh.call("POST", "/v1/transfers", transfer, token=ada.access, key=of_money)
    assert (status, repeat["id"], headers["Idempotent-Replayed"]) == (201, first[1]["id"], "true")
    _, balances, _ = await fresh.call("GET", f"/v1/accounts/{ada.account}/balances", token=ada.access)
    assert balances["posted"] == "9993.00"
    other_body = transfer | {"amount": "8.00"}
    assert await fresh.code("POST", "/v1/transfers", other_body, token=ada.access, key=of_money) == (
        422,
        "idempotency_key_reused",
    )


async def test_a22_the_job_removes_what_has_ended_and_leaves_what_lives(
    start_node: StartNode, node: Node, owner: Owner
) -> None:
    short = await start_node(refresh_token_s=60, session_s=60)
    ada = await register(node)
    await login(short, ada.email)
    who = uuid.UUID(ada.id)
    job = Cleanup(node.services.identity.database, answers_s=86_400, ended_s=-120, interval_s=1)

    async def counts() -> tuple[int, int, int]:
        found = await owner.fetchrow(
            """SELECT (SELECT count(*) FROM identity.sessions WHERE user_id = $1),
                (SELECT count(*) FROM identity.refresh_tokens JOIN identity.sessions USING (tenant_id, session_id)
                    WHERE user_id = $1),
                (SELECT count(*) FROM identity.outbox WHERE user_id = $1 AND done_at IS NOT NULL)""",
            who,
        )
        assert found is not None
        return found[0], found[1], found[2]

    give_up = time.monotonic() + 60
    while (found := await counts()) != (2, 2, 2):  # jobs tell the topic of its registration, and send its mail
        assert time.monotonic() < give_up, found
        await asyncio.sleep(0.05)
    await owner.execute(
        """UPDATE identity.outbox SET done_at = NULL, next_at = now() + interval '1 day'
        WHERE user_id = $1 AND kind = 'mail'""",
        who,
    )

    removed = await job.run_once()

    assert await counts() == (1, 1, 0)
    assert {"sessions", "refresh_tokens", "outbox"} <= removed.keys()
    assert (await node.call("GET", "/v1/users/me", token=ada.access))[0] == 200
    assert (await node.call("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh}))[0] == 200
    mails = await owner.fetchval("SELECT count(*) FROM identity.outbox WHERE user_id = $1 AND kind = 'mail'", who)
    assert mails == 1  # it is tried again tomorrow


async def test_a22_the_job_runs_by_itself_on_one_node_at_a_time(
    node: Node, owner: Owner, start_node: StartNode
) -> None:
    body = {"email": address(), "password": "a long enough password", "roles": ["user"]}
    key = str(uuid.uuid4())
    assert (await node.call("POST", "/v1/users/admin", body, token=OPERATOR, key=key))[0] == 201
    await owner.execute(
        "UPDATE identity.stored_answers SET created_at = now() - interval '25 hours' WHERE idempotency_key = $1", key
    )

    nodes = [await start_node(cleanup_interval_s=0.1) for _ in range(2)]

    async with asyncio.timeout(20):
        while True:
            if not await owner.fetchval("SELECT count(*) FROM identity.stored_answers WHERE idempotency_key = $1", key):
                break
            await asyncio.sleep(0.05)
    removed = [one.services.identity.cleanup.removed.get("stored_answers", 0) for one in nodes]
    assert sorted(bool(count) for count in removed) == [False, True]
