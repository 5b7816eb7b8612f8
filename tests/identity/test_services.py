"""The contract that services have in common: one name, four operations, and a failure that says where it was."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

import pytest

from aura_stream.domain.reasons import Refused
from aura_stream.identity.administration import Users
from aura_stream.identity.service import OPERATIONS, Service
from aura_stream.logs import ACCESS
from aura_stream.settings import load_settings
from aura_stream.webhooks.endpoints import Endpoints
from tests.identity.conftest import OPERATOR, Node, StartNode, register


async def test_l92_a_refusal_names_its_service_in_the_line_of_its_request(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    ada = await register(node)
    missing = str(uuid.uuid4())
    with caplog.at_level(logging.INFO, logger=ACCESS):
        assert await node.code("GET", f"/v1/users/{missing}", token=OPERATOR) == (404, "user_not_found")
        body = {"full_name": "Nobody"}
        assert await node.code("PUT", f"/v1/users/{missing}", body, token=OPERATOR) == (404, "user_not_found")
        path = f"/v1/webhook-endpoints/{missing}"
        assert await node.code("DELETE", path, token=ada.access) == (404, "webhook_endpoint_not_found")
    lines: list[Any] = [record.args for record in caplog.records if record.name == ACCESS]
    assert [line.get("refused_by") for line in lines] == ["users.get", "users.update", "webhook_endpoints.delete"]


async def test_l92_a_service_has_a_name_and_all_four_operations_and_says_where_it_failed() -> None:
    for service in (Users, Endpoints):
        assert service.service_name and all(callable(getattr(service, name)) for name in OPERATIONS)
    with pytest.raises(TypeError, match="Half lacks update, delete"):
        type("Half", (Service,), {"service_name": "half", "create": None, "get": None})

    class Notes(Service):
        service_name = "notes"

        async def create(self) -> None:
            raise Refused("payment_not_found")

        async def get(self) -> int:
            return 1

        async def update(self) -> None:
            await self.create()

        async def delete(self) -> None:
            raise ZeroDivisionError

    notes = Notes()
    assert await notes.get() == 1
    with pytest.raises(Refused) as refused:
        await notes.update()
    assert refused.value.context == "notes.create"
    with pytest.raises(ZeroDivisionError) as failed:
        await notes.delete()
    assert failed.value.__notes__ == ["in the service notes.delete"]


async def test_l97_a_pool_has_ten_connections_at_most_unless_set_otherwise(start_node: StartNode) -> None:
    assert load_settings().pool_size == 10
    node = await start_node(pool_size=2)
    ada = await register(node)

    async def used() -> int:
        async with node.services.identity.database.nobody() as connection:
            pid: int = await connection.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.02)")
            return pid

    asked = [node.call("GET", "/v1/accounts", token=ada.access) for _ in range(20)]
    answers, pids = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*(used() for _ in range(20))))

    assert {status for status, _, _ in answers} == {200}
    assert len(set(pids)) == 2


async def test_l53_l99_failures_queries_and_jobs_are_counted_and_timed(start_node: StartNode) -> None:
    node = await start_node(cleanup_interval_s=0.05)
    ada = await register(node)
    for _ in range(2):
        assert (await node.code("GET", f"/v1/users/{uuid.uuid4()}", token=OPERATOR))[1] == "user_not_found"
    assert (await node.code("GET", "/v1/nothing", token=OPERATOR))[1] == "route_not_found"
    assert (await node.code("GET", f"/v1/accounts/{ada.account}/entries", token=ada.access))[0] == 200
    assert (await node.code("GET", "/v1/events", token=ada.access))[0] == 200

    async def counted() -> dict[str, float]:
        lines = (await node.services.metrics.text()).decode().splitlines()
        return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines if one[0] != "#")}

    async with asyncio.timeout(30):
        while True:
            found = await counted()
            if found['aura_http_job_seconds_count{job="cleanup"}'] > 0:
                break
            await asyncio.sleep(0.05)
    assert found['aura_http_errors_total{category="not_found",reason="user_not_found"}'] == 2
    assert found['aura_http_errors_total{category="not_found",reason="route_not_found"}'] == 1
    for pool in ("identity", "events", "ledger"):
        assert found[f'aura_http_query_seconds_count{{pool="{pool}"}}'] > 0
        assert found[f'aura_http_query_seconds_sum{{pool="{pool}"}}'] > 0
    for job in ("mails", "erasures"):
        assert f'aura_http_job_seconds_count{{job="{job}"}}' in found
