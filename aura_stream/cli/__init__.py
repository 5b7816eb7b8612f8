"""The command ``aura``. Each subcommand lives in a module of its own and is imported only when it is called.

Exit codes: 0 good, 1 a check failed, 2 usage (a wrong setting too), 3 could not do or check it, 70 the engine stopped
itself. Data goes to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer

from aura_stream import SettingsError, SetupError, __version__

GOOD, CHECK_FAILED, USAGE, COULD_NOT, ENGINE_STOPPED = 0, 1, 2, 3, 70
"""The exit codes."""

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("aura_stream.cli.services", "Start everything on this machine and return when it is ready."),
    "down": ("aura_stream.cli.services", "Stop everything; the data stays unless --wipe."),
    "reset": ("aura_stream.cli.services", "Start from nothing: stop, remove all data, start, migrate, seed."),
    "status": ("aura_stream.cli.services", "Say what runs."),
    "doctor": ("aura_stream.cli.services", "Check this machine, the settings and the services."),
    "demo": ("aura_stream.cli.demo", "Show the whole product working, on ports and data of its own."),
    "send": ("aura_stream.cli.send", "Send commands to Kafka."),
    "tx": ("aura_stream.cli.tx", "Look at transactions."),
    "account": ("aura_stream.cli.account", "Look at accounts and balances."),
    "ledger": ("aura_stream.cli.ledger", "Verify and export the ledger."),
    "audit": ("aura_stream.cli.audit", "Verify the audit log and print the heads of its chains."),
    "keys": ("aura_stream.cli.keys", "Change the secret that wraps the keys of what is sealed."),
    "topics": ("aura_stream.cli.topics", "Create and check the Kafka topics."),
    "db": ("aura_stream.cli.db", "Create, migrate and roll back the database schema; new migrations."),
    "worker": ("aura_stream.cli.worker", "Run one worker process: ledger, sink, events or webhooks."),
    "api": ("aura_stream.cli.api", "Run the HTTP API."),
    "routes": ("aura_stream.cli.routes", "List the routes of the HTTP API."),
    "reconcile": ("aura_stream.cli.reconcile", "Compare the ledger with banks' statements and the chain; breaks."),
    "lanes": ("aura_stream.cli.lanes", "Look at the lanes to banks and chain, and release one that is stopped."),
    "rebuild": ("aura_stream.cli.rebuild", "Make anew what was lost, or compute everything again and compare."),
    "mock-bank": ("aura_stream.cli.mock_bank", "Run the mock bank (sandbox only): banks that misbehave."),
    "trigger": ("aura_stream.cli.trigger", "Make something happen outside: at the mock bank, or on the local chain."),
    "bench": ("aura_stream.cli.bench", "Measure throughput and latency."),
}
"""Command -> (module, one line of help). The module has a typer app ``app``, or a function named like the command."""


def has_command(name: str) -> bool:
    """Whether the module of this command is part of this installation."""
    return name in COMMANDS and find_spec(COMMANDS[name][0]) is not None


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The app for these arguments: the named command is imported, the others are only listed."""
    app = typer.Typer(
        name="aura",
        help="Aura Stream: a real-time, exactly-once stream processor for money.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (module, help_text) in COMMANDS.items():
        if not has_command(name):
            continue
        if name == wanted:
            _register(app, name, module, help_text)
        else:
            app.command(name, help=help_text)(_listed_only)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and leave."
    ),
) -> None:
    """Aura Stream: a real-time, exactly-once stream processor for money."""


def _listed_only() -> None:
    """Stands for a command that was not asked for."""


def _register(app: typer.Typer, name: str, module_name: str, help_text: str) -> None:
    module = import_module(module_name)
    target = getattr(module, name.replace("-", "_"), None)
    sub = getattr(module, "app", None)
    if isinstance(sub, typer.Typer) and not callable(target):
        app.add_typer(sub, name=name, help=help_text)
    else:
        app.command(name, help=help_text)(target)  # type: ignore[type-var]  # a wrong module fails in its first test


def say(text: str = "", end: str = "\n") -> None:
    """Progress and remarks: stderr."""
    print(text, end=end, file=sys.stderr, flush=True)


def emit(data: Any) -> None:
    """A result as JSON: stdout."""
    print(json.dumps(data, indent=2, default=str))


def paint(text: str, colour: str) -> str:
    """``text`` in a colour, if stderr is a terminal and NO_COLOR is not set."""
    if "NO_COLOR" in os.environ or not sys.stderr.isatty():
        return text
    return f"\033[{ {'red': 31, 'green': 32, 'yellow': 33, 'dim': 2}[colour] }m{text}\033[0m"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; always ends with :class:`SystemExit`."""
    if arguments is None:
        arguments = sys.argv[1:]
        # What is imported stays, and batches and requests make few cycles: the collector would walk over all of it for
        # nothing, a seventh of a worker's start, a third of a ledger's CPU time and near half of a sink's.
        gc.set_threshold(100_000, 50, 100)
    try:
        build_app(arguments)(arguments, prog_name="aura")
    except SetupError as error:
        say(f"{paint('error', 'red')}: {error}")
        sys.exit(USAGE if isinstance(error, SettingsError) else COULD_NOT)
    except KeyboardInterrupt:
        say()
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; nothing is left to be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(COULD_NOT)
