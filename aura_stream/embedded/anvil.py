"""A local EVM chain: the anvil node, a single program from an npm package, run without Node.js.

The program is fetched once per user, pinned by version and checksum, and checked at every start.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Final

from aura_stream import SetupError
from aura_stream.embedded import npm
from aura_stream.embedded.jars import cache_root
from aura_stream.embedded.processes import Process, Server, free_port, require_port

__all__ = ["ANVIL_VERSION", "CHAIN_ID", "AnvilServer", "ensure_anvil"]

ANVIL_VERSION: Final = "1.7.1"
CHAIN_ID: Final = 31337
"""The usual id of a chain that exists on one machine only: no wallet takes it for a public one."""

_PACKAGE: Final = "@foundry-rs/anvil-linux-amd64"
_INTEGRITY: Final = "sha512-+XmShybEaxfCrr0OUUZwYEy2OnYZt5pHH9TzBtLv3+VrK0O/ANuNSVEahqNhKHlgX7GRJ59383ofNhxkRWIYTg=="
_MEMBER: Final = "package/bin/anvil"
_SHA256: Final = "10c1c727d6c1de973aeb160e59875b9a9a23464d6e74149ee8abb30b3500311b"
_INSTEAD: Final = "use your own node: AURA_CHAIN_RPC_URL=http://host:port"

STATES_KEPT: Final = 32
"""For so many blocks back balances and nonces can be asked for, and a fork can be made."""

START_TIMEOUT_S = 30.0


def cached_program() -> Path:
    """Where the program lies when it has been fetched."""
    return cache_root() / f"anvil-{ANVIL_VERSION}" / "anvil"


def ensure_anvil(path: Path | None = None) -> Path:
    """Path of the program, fetching it if it is missing.

    Safe to interrupt and to run twice at once: it appears only when it is whole and its checksum is right. Raises
    :class:`SetupError` for a wrong checksum, a failed download, or a machine for which there is none.
    """
    path = path or cached_program()
    if not path.exists():
        _fetch(path)
    _check(path, fix=f"rm {path}   (it is downloaded again at the next start)")
    return path


def _fetch(path: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            "There is no local chain for this kind of machine.",
            where=f"{platform.system()} on {platform.machine()}",
            why=f"the package {_PACKAGE} holds a program for Linux on x86-64",
            fix=_INSTEAD,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".download-", dir=path.parent))
    try:
        archive = npm.fetch(_PACKAGE, ANVIL_VERSION, _INTEGRITY, staging, instead=_INSTEAD)
        with tarfile.open(archive) as package:
            source = package.extractfile(_MEMBER)
            assert source is not None, "the archive's checksum was right, so its content is known"
            with source, (staging / "anvil").open("wb") as target:
                shutil.copyfileobj(source, target)
        _check(staging / "anvil", fix="run the same command again")
        (staging / "anvil").chmod(0o755)
        os.replace(staging / "anvil", path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check(path: Path, *, fix: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _SHA256:
        raise SetupError(
            f"The program anvil {ANVIL_VERSION} is not the one that was pinned; it was not run.",
            where=str(path),
            why=f"its sha256 is {found}, pinned is {_SHA256}",
            fix=fix,
        )


class AnvilServer(Server):
    """One node on 127.0.0.1, with its chain in ``home``.

    ``port`` 0 takes a free one, kept over restarts. ``block_time_s`` is the time between blocks; None mines nothing
    but on demand (see :class:`aura_stream.chain.chaos.Chaos`). No account has money at the start, and none is
    unlocked: the well-known development keys are worth nothing here.

    The chain is written to its file every ``save_every_s`` seconds and when the node is stopped in order. A node that
    is killed comes back with an older head, and a stopped one without its pool, as a real one may: what was sent has
    to be sent again.
    """

    def __init__(
        self,
        home: Path,
        port: int = 0,
        *,
        chain_id: int = CHAIN_ID,
        block_time_s: float | None = 1.0,
        save_every_s: int = 5,
        tied: bool = False,
        run_dir: Path | None = None,
        log_dir: Path | None = None,
        name: str = "anvil",
    ) -> None:
        self.home = home.absolute()
        self.port = port or free_port()
        self.chain_id = chain_id
        self.block_time_s = block_time_s
        self._save_every_s = save_every_s
        self.process = Process(
            name,
            [],  # known when the program is there
            run_dir=run_dir or self.home / "run",
            log_dir=log_dir or self.home / "log",
            tied=tied,
            ready=self._is_ready,
        )

    @property
    def rpc_url(self) -> str:
        """Where it answers JSON-RPC."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def state_path(self) -> Path:
        """The file that holds the chain: blocks, receipts and the state after each block."""
        return self.home / "state.json"

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start and wait until it answers with its chain id. Does nothing if it runs.

        Raises :class:`SetupError` if the port is in use, the program is not the pinned one, or it does not come up.
        """
        if not self.process.alive:
            require_port(self.port, "The chain", "AURA_CHAIN_PORT")
            program = ensure_anvil()
            self.home.mkdir(parents=True, exist_ok=True)
            self._check_state()
            mining = ["--no-mining"] if self.block_time_s is None else ["--block-time", str(self.block_time_s)]
            self.process.argv = [
                str(program),
                *("--host", "127.0.0.1", "--port", str(self.port), "--chain-id", str(self.chain_id)),
                *("--accounts", "0", "--no-cors", "--quiet"),
                *mining,
                # Short epochs, so that the tags "safe" and "finalized" follow the head closely.
                *("--slots-in-an-epoch", "4"),
                *("--state", str(self.state_path), "--state-interval", str(self._save_every_s)),
                # The supply at a final block is asked for after a restart too; each state kept is a copy of all of it.
                *("--prune-history", str(STATES_KEPT), "--preserve-historical-states"),
            ]
            self.process.start()
        self.process.wait_ready(timeout_s)

    def _check_state(self) -> None:
        """A node that was killed while it wrote the file down would only say that a number is missing in it."""
        try:
            with self.state_path.open("rb") as file:
                json.load(file)
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise SetupError(
                "The local chain is damaged.",
                where=str(self.state_path),
                why=f"the node ended while it wrote the file: {error}",
                fix=f"rm {self.state_path}   (the chain begins anew; what was on it is lost, so wipe the ledger too)",
            ) from error

    def _is_ready(self) -> bool:
        return chain_id_at(self.rpc_url) == self.chain_id


def chain_id_at(rpc_url: str, timeout_s: float = 2.0) -> int | None:
    """The chain id that a node answers with; None when it does not answer."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).encode()
    request = urllib.request.Request(rpc_url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer: Any = json.loads(response.read(10_000))
        return int(answer["result"], 16)
    except (OSError, ValueError, KeyError, TypeError):
        return None
