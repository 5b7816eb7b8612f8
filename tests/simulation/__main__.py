"""`python -m tests.simulation`: runs seeds and prints what they find, with the command that shows it again."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter

from tests.simulation.run import run


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--seed", type=int, help="one seed")
    what.add_argument("--seeds", default="0:100", help="seeds A to B - 1, as A:B")
    what.add_argument("--forever", action="store_true", help="one seed after another, from the present time on")
    parser.add_argument("--digests", action="store_true", help="print the digest of every run")
    parser.add_argument("--trace", action="store_true", help="print every step")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        seeds = iter([arguments.seed])
    elif arguments.forever:
        seeds = itertools.count(int(time.time()) * 1000)
    else:
        first, last = arguments.seeds.split(":")
        seeds = iter(range(int(first), int(last)))
    started, count, failed = time.monotonic(), 0, 0
    figures: Counter[str] = Counter()
    for seed in seeds:
        result = run(seed, print if arguments.trace else None)
        count += 1
        figures.update(result.figures)
        if arguments.digests:
            print(seed, result.digest)
        if result.violations:
            failed += 1
            print(f"seed {seed}: {len(result.violations)} violations; see it again: {result.replay}")
            for violation in result.violations:
                print(f"  {violation}")
        elif arguments.seed is not None:
            print(f"seed {seed}: digest {result.digest}, {result.seconds:.1f} virtual s, {result.steps} steps")
            print(f"  {result.figures}")
        if arguments.forever and count % 100 == 0:
            print(f"{count} seeds, {failed} failed, {count / (time.monotonic() - started):.1f}/s", flush=True)
    took = time.monotonic() - started
    print(f"{count} seeds, {failed} failed, {count / took:.1f} seeds/s", file=sys.stderr)
    print(", ".join(f"{value} {name}" for name, value in figures.items()), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
