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
from aura_stream.bench.report import combined, summary, tables, write_docs
from aura_stream.bench.run import SECTIONS, Options, measure
from aura_stream.cli import say
from aura_stream.settings import SetupError


def bench(
    only: Annotated[str, typer.Option(help=f"Measure only these, comma separated: {', '.join(SECTIONS)}.")] = "",
    skip: Annotated[str, typer.Option(help="Leave these out, comma separated.")] = "",
    loads: Annotated[str, typer.Option(help=f"Which loads, comma separated: {', '.join(LOADS)}.")] = ",".join(LOADS),
    commands: Annotated[int, typer.Option(min=100, help="Transfers of each drained backlog.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often ours and what it is compared with take turns.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each baseline run and of each fixed rate.")] = 10.0,
    warm_up: Annotated[
        float, typer.Option(min=0, help="At most so many seconds of load that do not count, until the broker is warm.")
    ] = 90.0,
    rates: Annotated[
        str, typer.Option(help="open-loop: rates per second, comma separated; 50% is half of the load's drain.")
    ] = "2000,10000",
    ledgers: Annotated[int, typer.Option(min=1, max=64, help="Ledger processes.")] = 1,
    sinks: Annotated[int, typer.Option(min=1, max=64, help="Sink processes.")] = 1,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Partitions of every topic.")] = 8,
    requests: Annotated[int, typer.Option(min=100, help="http: single commands of each turn.")] = 20_000,
    batch_commands: Annotated[int, typer.Option(min=100, help="http: commands of each turn in batches.")] = 100_000,
    memory: Annotated[int, typer.Option(min=1, help="memory: open so many accounts.")] = 1_000_000,
    grid_ledgers: Annotated[str, typer.Option(help="scaling: numbers of ledger processes.")] = "1,2",
    grid_partitions: Annotated[str, typer.Option(help="scaling: numbers of partitions.")] = "4,8,16,32,64",
    entries: Annotated[str, typer.Option(help="entries: grow the ledger to these.")] = "100000,1000000",
    open_: Annotated[str, typer.Option("--open", help="open: numbers of open holds.")] = "1000,10000,100000,1000000",
    settlements: Annotated[
        int, typer.Option(min=10, help="isolation: payouts of each turn; settlements: how many each way.")
    ] = 200,
    turns: Annotated[
        int, typer.Option(min=1, help="isolation: how often bank A is asked nothing, answers and hangs, in turns.")
    ] = 5,
    verify: Annotated[bool, typer.Option("--verify", help="Run `aura ledger verify` at the end.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the workers' time goes (py-spy).")] = False,
    profile_dir: Annotated[Path, typer.Option(help="Where profiles are written.")] = Path(".aura/bench"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all measurements to this file.")] = None,
    docs: Annotated[
        list[Path] | None,
        typer.Option("--write-docs", help="Write tables, plots or plan into this page, between its marks. Repeatable."),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="Measure nothing: report what earlier runs wrote with --json. Repeatable; the later wins, by section.",
        ),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to keep the data meanwhile; default: the system's /tmp.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep data and logs of the run.")] = False,
) -> None:
    """Measure throughput and latency, with Kafka, Postgres and workers of its own, all stopped at the end.

    Nothing else should run meanwhile; the report says how much of the machine others used.
    """
    if source:
        results = combined([_read(path) for path in source])
    else:
        chosen = _chosen("--only", only, SECTIONS) or SECTIONS
        left_out = _chosen("--skip", skip, SECTIONS)
        sections = tuple(section for section in chosen if section not in left_out)
        options = Options(
            sections=sections,
            loads=_chosen("--loads", loads, LOADS),
            commands=commands,
            rounds=rounds,
            seconds=seconds,
            warm_up=warm_up,
            rates=_rates(rates, sections),
            ledgers=ledgers,
            sinks=sinks,
            partitions=partitions,
            requests=requests,
            batch_commands=batch_commands,
            memory=memory,
            grid_ledgers=_numbers("--grid-ledgers", grid_ledgers),
            grid_partitions=_numbers("--grid-partitions", grid_partitions),
            entries=_numbers("--entries", entries),
            open=_numbers("--open", open_),
            settlements=settlements,
            turns=turns,
            profile=profile,
            verify=verify,
            directory=directory,
            keep=keep,
            profile_dir=profile_dir,
        )
        results = asdict(measure(options, say))
        results["summary"] = summary(results)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for page in docs or []:
        write_docs(page, results)
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


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Numbers above zero, growing."""
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(number.isdigit() and int(number) for number in numbers):
        raise typer.BadParameter(f"{text!r} is no list of numbers above zero", param_hint=option)
    return tuple(sorted({int(number) for number in numbers}))


def _rates(text: str, sections: tuple[str, ...]) -> tuple[str, ...]:
    rates = tuple(rate.strip() for rate in text.split(",") if rate.strip())
    for rate in rates:
        number = rate.removesuffix("%")
        if not number.replace(".", "", 1).isdigit() or not float(number) > 0:
            raise typer.BadParameter(f"{rate} is neither a rate nor a percentage", param_hint="--rates")
        if rate.endswith("%") and "open-loop" in sections and "drain" not in sections:
            raise typer.BadParameter(f"{rate} of what? the section drain is not measured", param_hint="--rates")
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
