"""One stack per module, started once; a test that breaks it repairs it before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.stack import E2EStack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[E2EStack]:
    """Services, one ledger worker, one sink and the API."""
    found = E2EStack(tmp_path_factory.mktemp("e2e"))
    try:
        found.start_services()
        found.start_roles()
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def client(stack: E2EStack) -> Client:
    """What the outside knows of the stack: it journals all that the module's tests send. Its accounts are there."""
    found = new_client(stack, seed=20261120)

    async def prepare() -> None:
        await found.prepare()
        await stack.quiet()

    asyncio.run(prepare())
    return found


def new_client(stack: E2EStack, *, seed: int) -> Client:
    """A client of a stack that has sent nothing yet."""
    return Client(stack.bootstrap, stack.settings.api_url, stack.environment["AURA_API_KEY"], seed=seed)
