"""The embedded Postgres: starts, keeps its data over stop and crash, and is safe by default."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from aura_stream.embedded import PostgresServer
from aura_stream.embedded.postgres import READER, WRITER
from aura_stream.embedded.processes import LAUNCHER
from aura_stream.settings import SetupError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of this module's own, because its tests kill it."""
    with PostgresServer(tmp_path_factory.mktemp("pg"), tied=True) as server:
        yield server


async def test_committed_rows_survive_kill_and_restart(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("CREATE TABLE kept (n int)")
    await connection.execute("INSERT INTO kept VALUES (1)")
    before = server.pid
    server.kill()
    assert not server.process.alive
    with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
        await connection.fetchval("SELECT 1")
    server.start()
    assert server.pid not in (None, before)
    server.restart()
    assert server.execute("SELECT n FROM kept") == "1"


async def test_commits_are_durable_and_passwords_are_demanded(server: PostgresServer) -> None:
    for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert server.execute(f"SHOW {setting}") == "on"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn(), password="wrong")


def test_passwords_are_kept_for_the_owner_only(server: PostgresServer) -> None:
    assert stat.S_IMODE((server.home / "passwords").stat().st_mode) == 0o600
    assert not (server.home / "initdb.password").exists()


async def test_writer_and_reader_can_log_in_and_own_nothing(server: PostgresServer) -> None:
    for login in (WRITER, READER):
        connection = await asyncpg.connect(server.dsn(user=login))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE mine (n int)")
        await connection.close()


def test_two_servers_have_different_passwords_and_a_used_port_names_its_owner(
    server: PostgresServer, tmp_path: Path
) -> None:
    second = PostgresServer(tmp_path, port=server.port)
    with pytest.raises(SetupError) as caught:
        second.start()
    text = str(caught.value)
    assert f"port {server.port} is in use" in text
    assert str(server.pid) in text and "postgres" in caught.value.why
    assert "AURA_POSTGRES_PORT=" in caught.value.fix


async def test_database_fixture_is_empty_and_ones_own(database: str) -> None:
    connection = await asyncpg.connect(database)
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    assert await connection.fetchval(tables) == 0
    await connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives Postgres to another user")
def test_as_root_programs_below_a_closed_directory_are_found(tmp_path: Path) -> None:
    """initdb asks access(2) for its neighbours; a clone in a private directory is an ordinary place to try us."""
    tmp_path.chmod(0o700)
    program = tmp_path / "program"
    program.touch(mode=0o755)
    launch = [sys.executable, "-I", "-S", str(LAUNCHER), "--user", "nobody", "--"]
    assert subprocess.run([*launch, "/usr/bin/test", "-x", str(program)], check=False).returncode == 0
