"""``python -m tests.torture``: hurts a whole system at random and checks its books. `make torture` ends up here."""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
from pathlib import Path

from tests.torture.faults import FAULTS, OF_BANKS
from tests.torture.supervisor import run


def main() -> None:
    """One run; exit code 1 when anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="load and faults for so long (default: 120)")
    parser.add_argument("--seed", type=int, default=None, help="order and choice of the faults (default: a fresh one)")
    parser.add_argument("--row", default="", help="only these rows of the matrix: N01,N11 (default: all)")
    parser.add_argument(
        "--banks", action=argparse.BooleanOptionalAction, default=True, help="with banks, a chain and their faults"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the report to this file as well")
    parser.add_argument("--list", action="store_true", help="list what can be drawn, and end")
    told = parser.parse_args()
    known = (*FAULTS, *(OF_BANKS if told.banks else ()))
    if told.list:
        for fault in known:
            print(f"{fault.row}  {fault.name}{f'   ({why})' if (why := fault.unable()) else ''}")
        return
    rows = [row.strip().upper() for row in told.row.split(",") if row.strip()]
    if unknown := set(rows) - {fault.row for fault in known}:
        parser.error(f"--row: {', '.join(sorted(unknown))} cannot be drawn; see --list")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.CRITICAL)
    logging.getLogger("tests.torture").setLevel(logging.INFO)  # what the client's own Kafka client tells is noise here
    seed = told.seed if told.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"torture: seed {seed}, {told.seconds:.0f} s", file=sys.stderr, flush=True)
    home = Path(tempfile.mkdtemp(prefix="aura-torture-"))
    report = run(home, seconds=told.seconds, seed=seed, rows=rows, banks=told.banks)
    print(report)
    if told.json is not None:
        told.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main()
