"""A worker refuses to start on topics that are not as declared, and nothing outlives the signal that ends it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.conftest import new_client
from tests.e2e.stack import E2EStack, eventually, processes_below
from tests.invariants.coherent import assert_coherent

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[E2EStack]:
    """Services without topics."""
    found = E2EStack(tmp_path_factory.mktemp("bare"))
    try:
        found.start_services(apply_topics=False)
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def outside(bare: E2EStack) -> Client:
    """Its client."""
    return new_client(bare, seed=7)


@pytest.mark.parametrize("role", ["ledger", "sink"])
async def test_a_worker_refuses_missing_topics(bare: E2EStack, role: str) -> None:
    result = await bare.aura("worker", role)
    assert result.returncode == 3, result.stderr
    for text in ("aura.commands.v1", "aura topics apply", bare.bootstrap):
        assert text in result.stderr
    assert "Traceback" not in result.stderr


async def test_a_worker_refuses_another_number_of_partitions(bare: E2EStack) -> None:
    applied = await bare.aura("topics", "apply")
    assert applied.returncode == 0, applied.stderr
    for role in ("ledger", "sink"):
        result = await bare.aura("worker", role, AURA_PARTITIONS="5")
        assert result.returncode == 3, result.stderr
        for text in ("with 4 partitions, 5 are configured", "fix: set AURA_PARTITIONS=4, or use a new cluster"):
            assert text in result.stderr
        assert "Traceback" not in result.stderr


async def test_a_worker_whose_port_is_taken_names_the_owner_and_the_setting(bare: E2EStack) -> None:
    """What an operator meets who starts a second worker by hand beside the first."""
    await bare.aura("topics", "apply")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        result = await bare.aura("worker", "ledger", AURA_FAUST_WEB_PORT=port)
    assert result.returncode == 3, result.stderr
    for text in (f"port {port} is in use", f"process {os.getpid()} ", "AURA_FAUST_WEB_PORT="):
        assert text in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_no_process(bare: E2EStack, outside: Client, number: signal.Signals) -> None:
    await bare.aura("topics", "apply")
    names = [(await bare.start(role)).name for role in ("ledger", "sink", "api")]
    await (outside.load(20, reading=False) if outside.intents else outside.prepare())
    for name in names:
        assert await bare.terminate(name, number) in (0, 128 + number), bare.logs()

    async def left() -> str:
        services = {bare.local.kafka.pid, bare.local.postgres.pid}
        below = [(pid, command) for pid, command in processes_below(bare.local.home) if pid not in services]
        return str([one for one in below if "aura_stream" in one[1]] or "")

    await eventually(left, 10, "nothing of the roles is left")


async def test_what_was_stopped_goes_on_where_it_was(bare: E2EStack, outside: Client) -> None:
    await bare.aura("topics", "apply")
    for role in ("ledger", "sink", "api"):
        await bare.start(role)
    if not outside.intents:
        await outside.prepare()
        await bare.quiet()
    await outside.load(20, reading=False)
    await assert_coherent(bare, outside)
