"""``python -m tests.settlements``: many settlements with banks that misbehave, and all books asked. `make settlements`
ends up here."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.connectors.town import Town
from tests.settlements.drive import LIMITS, Drive


def main() -> None:
    """One run; exit code 1 when anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.settlements", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="settlements, two fifths of them out (default: 1000)")
    parser.add_argument("--seed", type=int, default=None, help="what is asked and which faults come (default: fresh)")
    parser.add_argument(
        "--faults", type=float, default=0.3, help="share of calls, inquiries and webhooks (default: 0.3)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the directory with all logs and data")
    told = parser.parse_args()
    seed = told.seed if told.seed is not None else random.SystemRandom().randrange(1 << 31)
    home = Path(tempfile.mkdtemp(prefix="aura-settlements-"))
    again = f"make settlements COUNT={told.count} SEED={seed} FAULTS={told.faults:g}"
    print(f"settlements: seed {seed}, in {home}", file=sys.stderr, flush=True)
    town = Town(home, limits=LIMITS)
    good = False
    try:
        town.open()
        drive = Drive(town, town.anvil.rpc_url, seed=seed, say=lambda text: print(text, file=sys.stderr, flush=True))
        report = asyncio.run(drive.run(told.count, told.faults))
        print(report)
        good = not report.wrong
    except AssertionError as error:
        print(error)
        print(f"again: {again}")
    finally:
        town.close()
        if good and not told.keep:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(f"its logs and data are in {home}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
