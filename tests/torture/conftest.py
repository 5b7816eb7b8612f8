"""One stack for all rows of the matrix: three brokers, Postgres, two ledger workers, two sinks, the API, proxies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.conftest import new_client
from tests.torture.faults import Torture
from tests.torture.stack import TortureStack


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TortureStack, Client]]:
    """The stack, and a client whose accounts are there."""
    stack = TortureStack(tmp_path_factory.mktemp("torture"))
    try:
        stack.start_services()
        stack.start_roles()
        client = new_client(stack, seed=20261121)

        async def prepare() -> None:
            await client.prepare()
            await stack.quiet()

        asyncio.run(prepare())
        yield stack, client
    finally:
        stack.close()


@pytest.fixture
async def torture(shared: tuple[TortureStack, Client]) -> AsyncIterator[Torture]:
    """The stack, whole and with plain roles: before the test, and after it whatever became of it."""
    stack, client = shared
    yield Torture(stack, client, random.Random(7))
    await stack.ready(await stack.heal())
