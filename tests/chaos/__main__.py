"""Kill anything, any time: load against real processes while a seeded plan of faults goes through them.

    python -m tests.chaos [--short] [--seed N] [--without SAFEGUARD] [--keep FOLDER]

Prints what was found, and ends with 1 when a promise was broken. See docs/decisions/0005-how-loss-is-tested.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.run import run
from tests.chaos.sabotage import SAFEGUARDS


def main() -> int:
    arguments = argparse.ArgumentParser(prog="tests.chaos", description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--short", action="store_true", help="about a minute instead of several")
    arguments.add_argument("--seed", type=int, help="of the plan; by default another one each time")
    arguments.add_argument("--without", choices=sorted(SAFEGUARDS), default="", help="take a safeguard out: must fail")
    arguments.add_argument("--keep", type=Path, help="a new folder for logs and tables, kept afterwards")
    options = arguments.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    if options.keep:
        options.keep.mkdir(parents=True)
        return run(options.keep, seed, short=options.short, without=options.without)
    with tempfile.TemporaryDirectory(prefix="runhook-chaos-") as name:
        return run(Path(name), seed, short=options.short, without=options.without)


if __name__ == "__main__":
    sys.exit(main())
