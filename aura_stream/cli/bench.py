"""``aura bench``: throughput and latency of the whole product, beside a plain SQL ledger on the same Postgres."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from aura_stream.bench.loads import LOADS
from aura_stream.bench.report import summary, tables, write_docs
from aura_stream.bench.run import SKIPPABLE, Options, measure
from aura_stream.cli import say
from aura_stream.settings import SetupError


def bench(
    loads: Annotated[str, typer.Option(help=f"Which loads, comma separated: {', '.join(LOADS)}.")] = ",".join(LOADS),
    commands: Annotated[int, typer.Option(min=100, help="Transfers of each drained backlog.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=0, help="How often ours and the baseline take turns.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each baseline run and of each fixed rate.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of load that do not count, before anything.")] = 60.0,
    rates: Annotated[
        str, typer.Option(help="Fixed rates per second, comma separated; 50% is half of the load's drain.")
    ] = "2000,10000",
    ledgers: Annotated[int, typer.Option(min=1, max=64, help="Ledger processes.")] = 1,
    sinks: Annotated[int, typer.Option(min=1, max=64, help="Sink processes.")] = 1,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Partitions of every topic.")] = 8,
    memory: Annotated[int, typer.Option(min=0, help="Open so many accounts and look at the ledger's memory.")] = 0,
    skip: Annotated[str, typer.Option(help=f"Leave out, comma separated: {', '.join(SKIPPABLE)}.")] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Run `aura ledger verify` at the end.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the workers' time goes (py-spy).")] = False,
    profile_dir: Annotated[Path, typer.Option(help="Where profiles are written.")] = Path(".aura/bench"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all measurements to this file.")] = None,
    docs: Annotated[
        Path | None, typer.Option("--write-docs", help="Write the tables into this file, between its two marks.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Measure nothing: report what an earlier run wrote with --json.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to keep the data meanwhile; default: the system's /tmp.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep data and logs of the run.")] = False,
) -> None:
    """Measure throughput and latency, with Kafka, Postgres and workers of its own, all stopped at the end.

    Nothing else should run meanwhile; the report says how much of the machine others used.
    """
    if source is not None:
        results = _read(source)
    else:
        options = Options(
            loads=_chosen("--loads", loads, LOADS),
            commands=commands,
            rounds=rounds,
            seconds=seconds,
            warm_up=warm_up,
            rates=_rates(rates, rounds),
            ledgers=ledgers,
            sinks=sinks,
            partitions=partitions,
            memory=memory,
            profile=profile,
            verify=verify,
            skip=_chosen("--skip", skip, SKIPPABLE),
            directory=directory,
            keep=keep,
            profile_dir=profile_dir,
        )
        results = asdict(measure(options, say))
        results["summary"] = summary(results)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if docs is not None:
        write_docs(docs, results)
    console = Console()
    for table in tables(results):
        console.print(table)
    for check in results["checks"]:
        say(f"checked: {check}")


def _chosen(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: known are {', '.join(known)}", param_hint=option)
    return names


def _rates(text: str, rounds: int) -> tuple[str, ...]:
    rates = tuple(rate.strip() for rate in text.split(",") if rate.strip())
    for rate in rates:
        number = rate.removesuffix("%")
        if not number.replace(".", "", 1).isdigit() or not float(number) > 0:
            raise typer.BadParameter(f"{rate} is neither a rate nor a percentage", param_hint="--rates")
        if rate.endswith("%") and not rounds:
            raise typer.BadParameter(f"{rate} of what? --rounds is 0", param_hint="--rates")
    return rates


def _read(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise SetupError(
            "The measurements cannot be read.",
            where=str(path),
            why=str(error),
            fix="name a file that `aura bench --json` wrote",
        ) from error
