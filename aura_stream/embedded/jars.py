"""The jars of the embedded Kafka: pinned by ``kafka.lock``, fetched once per user, checked at every start.

``python -m aura_stream.embedded.jars`` writes the lock file anew after :data:`KAFKA_VERSION` was changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aura_stream import SetupError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.2.1"
LOCK_FILE = Path(__file__).with_name("kafka.lock")

# kafka_2.13's POM names this artifact, but it was never published: resolving it fails.
_UNPUBLISHED = ("org.apache.kafka", "kafka-tools-api")
# Only needed by parts of Kafka that the embedded broker does not use (OAuth, YAML configuration, Scala macros).
_NOT_NEEDED = frozenset(
    {
        "commons-beanutils",
        "commons-collections",
        "commons-digester",
        "commons-logging",
        "jackson-dataformat-yaml",
        "jose4j",
        "jspecify",
        "scala-reflect",
        "snakeyaml",
    }
)
# Kafka leaves the choice of the slf4j binding to its distribution; without one a failing broker says nothing.
_LOG_BINDING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"
_TRIES = 3
_TIMEOUT_S = 30
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class Jar:
    """One locked jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the file in the cache."""
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def read_lock(path: Path = LOCK_FILE) -> list[Jar]:
    """The jars of the lock file. Raises :class:`SetupError` when it cannot be understood."""
    jars = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        coordinate, _, digest = line.partition(" ")
        parts = coordinate.split(":")
        if len(parts) != 3 or len(digest.strip()) != 64:
            raise SetupError(
                "The lock file of the Kafka jars is damaged.",
                where=f"{path}, line {number}",
                why="a line must read group:artifact:version sha256",
                fix=f"git checkout -- {path}",
            )
        jars.append(Jar(parts[0], parts[1], parts[2], digest.strip()))
    return jars


def cache_root() -> Path:
    """Directory for everything that is fetched once, shared by all projects of this user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "aura-stream"


def cache_dir() -> Path:
    """Directory for the jars."""
    return cache_root() / f"kafka-{KAFKA_VERSION}"


def ensure_jars(jars: list[Jar] | None = None, cache: Path | None = None) -> list[Path]:
    """Paths of all jars, downloading what is missing.

    Safe to interrupt and to run twice at once: a jar appears in the cache only when it is whole and its checksum is
    right. Progress goes to stderr. Raises :class:`SetupError` for a wrong checksum or a failed download.
    """
    jars = read_lock() if jars is None else jars
    cache = cache_dir() if cache is None else cache
    missing = [jar for jar in jars if not _is_whole(jar, cache / jar.file_name)]
    if missing:
        _download(missing, cache)
    return [cache / jar.file_name for jar in jars]


def _is_whole(jar: Jar, path: Path) -> bool:
    if not path.exists():
        return False
    _check(jar, path, fix=f"rm {path}   (it is downloaded again at the next start)")
    return True


def _check(jar: Jar, path: Path, *, fix: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise SetupError(
            f"The jar {jar} is not the one that was locked; nothing of it was run.",
            where=str(path),
            why=f"its sha256 is {found}, {LOCK_FILE.name} says {jar.sha256}",
            fix=fix,
        )


def _download(jars: list[Jar], cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    progress = _Progress(len(jars))
    # The resolver writes straight to its repository, so it gets a throw-away one beside the cache: what an
    # interruption leaves there is never taken for a whole jar.
    for left_over in cache.glob(".download-*"):
        if time.time() - left_over.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left_over, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".download-", dir=cache))
    # Four at a time: most of the jars are small, so the time goes into round trips.
    pool = ThreadPoolExecutor(4)
    try:
        for _ in pool.map(lambda jar: _fetch(jar, staging, cache, progress), jars):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or a failure, what was not begun is left
        progress.end()
        shutil.rmtree(staging, ignore_errors=True)


def _fetch(jar: Jar, staging: Path, cache: Path, progress: _Progress) -> None:
    context = _context(staging, progress)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    for attempt in range(1, _TRIES + 1):
        try:
            path = artifact.resolve()
            break
        except Exception as error:  # the resolver lets whatever its HTTP client raises through
            if artifact.cached_path is not None:
                artifact.cached_path.unlink(missing_ok=True)
            if attempt == _TRIES:
                raise SetupError(
                    f"The jar {jar} could not be downloaded ({_TRIES} tries).",
                    where=str(cache),
                    why=f"{type(error).__name__}: {error}",
                    fix="check the network and run the same command again (finished jars are kept), or use your own "
                    "Kafka: AURA_KAFKA_BOOTSTRAP=host:port",
                ) from error
    _check(jar, path, fix="run the same command again; if it stays so, the download is tampered with")
    os.replace(path, cache / jar.file_name)
    progress.done()


def _context(repository: Path, progress: _Progress | None = None) -> MavenContext:
    from jgo.maven import MavenContext, PythonResolver  # imported late: a warm start does not need it

    resolver = PythonResolver(progress_callback=progress.callback if progress else None)
    return MavenContext(resolver=resolver, repo_cache=repository, local_repos=[], timeout=_TIMEOUT_S)


class _Progress:
    """One line on stderr: rewritten on a terminal, a line per tenth otherwise."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._finished = 0
        self._bytes = 0
        self._tty = sys.stderr.isatty()
        self._shown = 0

    @contextmanager
    def callback(self, _name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield self._add

    def _add(self, size: int) -> None:
        self._bytes += size
        if self._tty and self._bytes - self._shown > 250_000:
            self._show("\r")

    def done(self) -> None:
        self._finished += 1
        if self._tty:
            self._show("\r")
        elif self._finished == self._count or self._finished % 10 == 0:
            self._show("", "\n")

    def end(self) -> None:
        if self._tty:
            print(file=sys.stderr)

    def _show(self, start: str, end: str = "") -> None:
        self._shown = self._bytes
        text = f"Downloading Kafka {KAFKA_VERSION}: {self._finished}/{self._count} jars, {self._bytes / 1e6:.1f} MB"
        print(start + text, end=end, file=sys.stderr, flush=True)


def write_lock(path: Path = LOCK_FILE) -> None:
    """Resolve Kafka's dependencies anew and write the lock file."""
    with tempfile.TemporaryDirectory() as repository:
        context = _context(Path(repository))
        kafka = context.create_dependency(
            f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", [context.project(*_UNPUBLISHED)]
        )
        inputs, transitive = context.resolver.resolve([kafka])
        wanted = [d.artifact for d in inputs + transitive if d.artifactId not in _NOT_NEEDED]
        wanted.append(context.create_dependency(_LOG_BINDING).artifact)
        lines = []
        for artifact in wanted:
            digest = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
            lines.append(f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} {digest}\n")
    header = (
        "# The jars that run the embedded Kafka broker: group:artifact:version sha256.\n"
        "# Written by `python -m aura_stream.embedded.jars`; checked after every download and at every start.\n"
    )
    path.write_text(header + "".join(sorted(lines)), encoding="utf-8")


if __name__ == "__main__":
    write_lock()
    print(f"{LOCK_FILE}: {len(read_lock())} jars", file=sys.stderr)
