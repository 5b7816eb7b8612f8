"""Everything on one machine: which processes belong to it, how each is started, when it is ready.

``aura up``, ``down`` and ``status`` use it with the directory ``.aura``; the demo, the benchmark and end-to-end tests
with directories, ports and data of their own.
"""

from __future__ import annotations

import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from aura_stream.embedded.anvil import AnvilServer
from aura_stream.embedded.kafka import KafkaServer
from aura_stream.embedded.postgres import IDENTITY, READER, WRITER, PostgresServer
from aura_stream.embedded.processes import Process, Stack, free_port, port_is_free, require_port
from aura_stream.settings import ENV_FILE, Settings, SetupError, read_env_file

SERVICES = ("kafka", "postgres")
MOCK_BANK = "mock-bank"
CHAIN = "anvil"
RECONCILE = "reconcile"
ROLE_TIMEOUT_S = 60.0
ROLE_GRACE_S = 20.0


def http_ok(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a GET of ``url`` is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class LocalStack:
    """The services and roles that share one home directory.

    ``external`` names the services that somebody else runs; their addresses are then those of ``settings``.
    """

    def __init__(self, settings: Settings, *, external: frozenset[str] = frozenset(), tied: bool = False) -> None:
        self.settings = settings
        self.home = settings.home.absolute()
        self.run_dir = self.home / "run"
        self.log_dir = self.home / "log"
        self.external = external
        self.tied = tied
        self.kafka = KafkaServer(
            self.home / "kafka", settings.kafka_port, tied=tied, run_dir=self.run_dir, log_dir=self.log_dir
        )
        self.postgres = PostgresServer(
            self.home / "postgres", settings.postgres_port, tied=tied, run_dir=self.run_dir, log_dir=self.log_dir
        )
        self.chain = AnvilServer(
            self.home / "chain" / "node",
            settings.chain_port,
            tied=tied,
            run_dir=self.run_dir,
            log_dir=self.log_dir,
            name=CHAIN,
        )
        self.roles = Stack()

    @property
    def env_file(self) -> Path:
        """The KEY=VALUE file for clients and for the other commands."""
        return self.home / ENV_FILE

    def environment(self) -> dict[str, str]:
        """The addresses and secrets of this stack, as environment variables. The services must have been started."""
        own_postgres = "postgres" not in self.external
        settings = self.settings
        return {
            "AURA_KAFKA_BOOTSTRAP": settings.kafka_bootstrap if "kafka" in self.external else self.kafka.bootstrap,
            "AURA_POSTGRES_DSN": self.postgres.dsn() if own_postgres else settings.postgres_dsn,
            "AURA_POSTGRES_WRITE_DSN": self.postgres.dsn(WRITER) if own_postgres else settings.postgres_write_dsn,
            "AURA_POSTGRES_READ_DSN": self.postgres.dsn(READER) if own_postgres else settings.postgres_read_dsn,
            "AURA_POSTGRES_IDENTITY_DSN": self.postgres.dsn(IDENTITY)
            if own_postgres
            else settings.postgres_identity_dsn,
            "AURA_API_URL": settings.api_url,
            "AURA_API_KEY": self._api_key(),
            "AURA_PARTITIONS": str(settings.partitions),
            "AURA_PROFILE": settings.profile,
            "AURA_CHAIN_RPC_URL": settings.chain_rpc_url,
        }

    def write_env_file(self) -> None:
        """Write the environment for others to read; it holds secrets, so for the owner only."""
        lines = [
            "# Written by `aura up`, removed by `aura down`. Use: set -a; . .aura/env; set +a",
            *(f"{key}={value}" for key, value in self.environment().items()),
            f"AURA_KAFKA_PORT={self.kafka.port}",
            f"AURA_POSTGRES_PORT={self.postgres.port}",
            f"AURA_API_PORT={self.settings.api_port}",
            f"AURA_MOCK_BANK_PORT={self.settings.mock_bank_port}",
            f"AURA_CHAIN_PORT={self.settings.chain_port}",
            # So that a later `aura up` in a shell that has read this file still knows what is its own.
            f"AURA_EMBEDDED={','.join(name for name in SERVICES if name not in self.external)}",
        ]
        temporary = self.env_file.with_suffix(".tmp")
        temporary.touch(mode=0o600)
        temporary.chmod(0o600)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(temporary, self.env_file)

    def role(
        self, role: str, slot: int = 0, *, env: Mapping[str, str] | None = None, module: str = "aura_stream.cli"
    ) -> Process:
        """The process of a role: a worker's (ready when it has written its file), or ``api``.

        Its name, worker id and file names are ``<role>-<slot>``, for the API just ``api``.
        """
        name = "api" if role == "api" else f"{role}-{slot}"
        arguments = ["api"] if role == "api" else ["worker", role]
        full = {
            **self.environment(),
            "AURA_MODE": self.settings.mode,
            "AURA_ROLE": role,
            "AURA_SLOT": str(slot),
            "AURA_WORKER_ID": name,
            "AURA_API_HOST": self.settings.api_host,
            "AURA_API_PORT": str(self.settings.api_port),
            "AURA_TENANTS": ",".join(self.settings.tenants),
            "AURA_SAMPLE_LOGINS": str(self.settings.sample_logins),
            "AURA_APP_ID": self.settings.app_id,
            "AURA_CHAIN_CONFIRMATIONS": str(self.settings.chain_confirmations),
            "AURA_SETTLEMENT_RULES": self.settings.settlement_rules,
            "AURA_BANK_LIMITS": self.settings.bank_limits,
            "AURA_CHAIN_LIMITS": self.settings.chain_limits,
            "AURA_BANK_POLL_S": str(self.settings.bank_poll_s),
            "AURA_BANK_WEBHOOK_URL": self.settings.bank_webhook_url,
            "AURA_FAUST_WEB_PORT": str(self._web_port(role, slot)),
            **(env or {}),
        }
        ready = None
        if role == "api":
            ready = partial(http_ok, f"http://{full['AURA_API_HOST']}:{full['AURA_API_PORT']}/health/ready")
        return self._aura(name, *arguments, env=full, tied=self.tied, ready=ready, module=module)

    def _aura(
        self,
        name: str,
        *arguments: str,
        env: Mapping[str, str],
        tied: bool,
        ready: Callable[[], bool] | None = None,
        module: str = "aura_stream.cli",
    ) -> Process:
        """A process of our own command line, with its files in this stack."""
        return Process(
            name,
            [sys.executable, "-m", module, *arguments],
            run_dir=self.run_dir,
            log_dir=self.log_dir,
            env={"AURA_HOME": str(self.home), "PYTHONUNBUFFERED": "1", **env},
            tied=tied,
            ready=ready,
        )

    def mock_bank(self, *options: str) -> Process:
        """The process of the mock bank; ``options`` are those of `aura mock-bank`. Its data is in `<home>/mock-bank`.

        Not a part of :meth:`start_role`: it is an outside program that happens to run here. Whoever starts it adds it
        to ``roles``, so that :meth:`stop` ends it.
        """
        env = {"AURA_MODE": self.settings.mode, "AURA_MOCK_BANK_PORT": str(self.settings.mock_bank_port)}
        return self._aura(MOCK_BANK, MOCK_BANK, *options, env=env, tied=self.tied)

    def start_mock_bank(self, *options: str) -> Process:
        """Start the mock bank and wait until it is ready; :meth:`stop` ends it."""
        process = self.mock_bank(*options)
        if not process.alive:
            require_port(self.settings.mock_bank_port, "The mock bank", "AURA_MOCK_BANK_PORT")
        return self.roles.add(process, ROLE_TIMEOUT_S)

    def start_settlement(self) -> None:
        """Start the mock bank and the local chain, as far as nobody else runs them; :meth:`stop` ends them."""
        if self.settings.banks_file is None:
            self.start_mock_bank()
        if self.settings.chain_rpc_url == self.chain.rpc_url:
            self.chain.start()

    def launch_reconcile(self, every_s: float) -> Process:
        """Start `aura reconcile --watch` without waiting; :meth:`stop` ends it. It serves nobody: it runs, or not.

        It reads the banks' credentials and the minter's key where they are by default, so those must be there.
        """
        env = {
            **self.environment(),
            "AURA_MODE": self.settings.mode,
            "AURA_CHAIN_CONFIRMATIONS": str(self.settings.chain_confirmations),
        }
        arguments = ("--watch", "--every", str(every_s))
        process = self._aura(RECONCILE, RECONCILE, *arguments, env=env, tied=self.tied, ready=_runs)
        self.roles.processes.append(process)
        process.start()
        return process

    def start_role(self, role: str, slot: int = 0, *, env: Mapping[str, str] | None = None) -> Process:
        """Start a role's process and wait until it is ready; :meth:`stop` ends it."""
        process = self.launch_role(role, slot, env=env)
        process.wait_ready(ROLE_TIMEOUT_S)
        return process

    def launch_role(self, role: str, slot: int = 0, *, env: Mapping[str, str] | None = None) -> Process:
        """Start a role's process without waiting; :meth:`stop` ends it."""
        process = self.role(role, slot, env=env)
        if role == "api" and not process.alive:
            require_port(self.settings.api_port, "The API", "AURA_API_PORT")
        self.roles.processes.append(process)
        process.start()
        return process

    def run_once(self, *arguments: str) -> None:
        """Run a command of the same command line to its end, e.g. ``db migrate``.

        Raises :class:`SetupError` with its last lines if it fails.
        """
        name = "-".join(arguments)
        process = self._aura(name, *arguments, env=self.environment(), tied=True)
        process.log_path.unlink(missing_ok=True)
        process.start()
        finished = process.wait(120)
        code = process.returncode
        process.stop(2)
        if not finished or code != 0:
            raise SetupError(
                f"`aura {' '.join(arguments)}` failed.",
                where=str(process.log_path),
                why=("it took longer than 120 s" if not finished else f"exit code {code}") + f":\n{process.log_tail()}",
                fix=f"aura {' '.join(arguments)}   (after mending the cause)",
            )

    def known_processes(self) -> list[Process]:
        """All processes that have a pid file here, in the order in which they were started."""
        names = [path.stem for path in sorted(self.run_dir.glob("*.pid"))]
        known: list[Process] = []
        checks: dict[str, Callable[[], bool]] = {
            "api": partial(http_ok, f"{self.settings.api_url}/health/ready"),
            RECONCILE: _runs,
        }
        for name in sorted(names, key=_start_order):
            if name == CHAIN:
                known.append(self.chain.process)
            elif name in SERVICES:
                known.append(self.kafka.process if name == "kafka" else self.postgres.process)
            else:
                known.append(Process(name, [], run_dir=self.run_dir, log_dir=self.log_dir, ready=checks.get(name)))
        return known

    def stop(self) -> None:
        """Stop the roles that were started here, then the services."""
        self.roles.stop(ROLE_GRACE_S)
        self.chain.stop()
        self.kafka.stop()
        self.postgres.stop()

    def _api_key(self) -> str:
        """The given key, or one made once and kept with the data, so that it survives `down` and `up`."""
        if self.settings.api_key is not None:
            return self.settings.api_key.get_secret_value()
        path = self.home / "api_key"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(f"aura_{secrets.token_urlsafe(24)}\n")
        return path.read_text().strip()

    def _web_port(self, role: str, slot: int) -> int:
        """A loopback port for a worker's own status page: near the set one if free."""
        port = (
            self.settings.faust_web_port + slot + {"sink": 100, "events": 200, "bank": 300, "chain": 400}.get(role, 0)
        )
        return port if port_is_free(port) else free_port()


def _runs() -> bool:
    return True


def external_services(home: Path) -> frozenset[str]:
    """Which services the environment says somebody else runs.

    A value that `aura up` itself wrote into the env file is not external, even when a shell has read that file.
    """
    written = read_env_file(home / ENV_FILE)
    embedded = written.get("AURA_EMBEDDED", "").split(",")
    external = set()
    for service, name in (("kafka", "AURA_KAFKA_BOOTSTRAP"), ("postgres", "AURA_POSTGRES_DSN")):
        value = os.environ.get(name)
        if value and not (service in embedded and written.get(name) == value):
            external.add(service)
    return frozenset(external)


def _start_order(name: str) -> tuple[int, str]:
    order = {"postgres": 0, "kafka": 1, "ledger": 2, "sink": 3, "api": 5, RECONCILE: 6}
    return order.get(name.partition("-")[0], 4), name
