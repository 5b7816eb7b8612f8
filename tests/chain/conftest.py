"""A real node per module, on which nothing is mined but on demand, and a fresh one where a test does harm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainNode
from aura_stream.embedded.anvil import AnvilServer
from tests.chain.world import World, sandbox


@pytest.fixture(scope="module")
def shared_anvil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnvilServer]:
    with AnvilServer(tmp_path_factory.mktemp("anvil"), block_time_s=None, tied=True) as server:
        yield server


@pytest.fixture
def anvil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnvilServer]:
    with AnvilServer(tmp_path_factory.mktemp("anvil"), block_time_s=None, save_every_s=1, tied=True) as server:
        yield server


@pytest.fixture
async def node(anvil: AnvilServer) -> AsyncIterator[ChainNode]:
    async with ChainNode(anvil.rpc_url) as client:
        yield client


@pytest.fixture
async def world(node: ChainNode) -> World:
    made = World(node, Chaos(node, sandbox()))
    await made.begin()
    return made
