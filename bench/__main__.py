"""Measure Runhook beside other stacks, and write one table: value, peer, ratio, floor, pass or miss.

    python -m bench                  # all parts, at most ten minutes, into bench/RESULTS.md
    python -m bench sinks rest       # some parts; prints their table and writes nothing
    python -m bench large            # lists, searches and the pipeline at 1,000,000 runs, into bench/RESULTS-large.md
    python -m bench --tiny           # all parts in seconds, as a smoke test; writes nothing

Every figure measures real processes (`runhook serve`, `worker` and `clock`) over HTTP, on dedicated servers that fsync
each commit. A part that fails is reported in the table, and the others continue.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from bench import ack, pipeline, rest, sinks
from bench.figures import Figure, machine, table

HERE: Final = Path(__file__).resolve().parent
PARTS: Final[dict[str, Callable[..., Iterable[Figure]]]] = {
    "ack": ack.figures,
    "pipeline": pipeline.figures,
    "sinks": sinks.figures,
    "rest": rest.figures,
}
LARGE: Final = "large"
BUSY: Final = (
    "**The machine had other work: latencies, rates and starts say nothing. Measure again at a load below 1.**\n\n"
)
ABOUT: Final = """# {title}

{busy}Written by `{command}` in {minutes:.0f} minutes. {machine}.

The clients, all servers and the peers run on this machine. Compare ratios rather than rates: a rate belongs to its
machine and its load. [Performance](../docs/explanation/performance.md) explains what each figure means and how it is
measured.

"""


def run(name: str, part: Callable[..., Iterable[Figure]], *, tiny: bool) -> Iterator[Figure]:
    """Yield the figures of a part. If it fails, the last one gives the reason."""
    began = time.monotonic()
    print(f"{name} …", flush=True)
    try:
        yield from part(tiny=tiny)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        reason = str(error).strip()[-300:].replace("\n", " ").replace("|", "/")
        yield Figure(f"{name}: failed", reason, is_met=False)
    finally:
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def main() -> int:
    """Measure. Return 1 when a part failed, 0 also when a floor is missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=", ".join([*PARTS, LARGE]))
    arguments.add_argument("--tiny", action="store_true", help="in seconds, to see that it runs")
    options = arguments.parse_args()
    parts, path, title = dict(PARTS), HERE / "RESULTS.md", "Results"
    if LARGE in options.parts or options.tiny:
        from bench import large

        parts[LARGE] = large.figures
    if unknown := [name for name in options.parts if name not in parts]:
        arguments.error(f"{unknown[0]} is not a part: {', '.join([*PARTS, LARGE])}")
    if options.parts == [LARGE]:
        path, title = HERE / "RESULTS-large.md", "Results at 1,000,000 runs"
    began, where, found = time.monotonic(), machine(), list[Figure]()
    busy = BUSY if os.getloadavg()[0] > 1 else ""
    for name in options.parts or parts:
        found += run(name, parts[name], tiny=options.tiny)
    print(table(found))
    if not options.tiny and options.parts in ([], [LARGE]):
        command = "make bench-large" if options.parts else "make bench"
        minutes = (time.monotonic() - began) / 60
        path.write_text(
            ABOUT.format(title=title, command=command, minutes=minutes, machine=where, busy=busy) + table(found) + "\n"
        )
    return int(any(each.name.endswith(": failed") for each in found))


if __name__ == "__main__":
    sys.exit(main())
