"""All that is compared with others and with what is physically there, in one command: bench/RESULTS.md.

    python -m bench                      # every part, some ten minutes
    python -m bench ingest peers         # some of them; the others' results stay
    python -m bench --quick              # every part in a short form, for a look; writes nothing
    python -m bench ingest --options="--sizes 2000"     # with other options; writes nothing

Each part is a program that can be started by itself, and the results say how. A part that fails, or takes longer than
it may, is reported, and the others go on. What has been measured is written after each part: bench/RESULTS.md from
bench/RESULTS.json, which has each part's figures where it writes them, and what it printed. Parts that are made of
rounds take turns in alternating order and show medians with their spread; work is counted at the consumer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "bench" / "RESULTS.json"
PEERS: Final = "rq,celery,dramatiq,taskiq,arq"


@dataclass(frozen=True, slots=True)
class Part:
    """`says`: what is measured. `full`, `quick`: the module to run, and its options. `figures`: it takes --json FILE.

    `limit`: seconds after which it is ended.
    """

    says: str
    module: str
    full: str
    quick: str
    figures: bool = False
    limit: float = 150.0


PARTS: Final[dict[str, Part]] = {
    "ingest": Part(
        "Acks on disk, of a bare endpoint that only answers 202, by size of body and connections",
        *("ingest", "--seconds 1.5 --rounds 3", "--seconds 0.3 --rounds 1 --connections 64"),
        figures=True,
    ),
    "ingest-peers": Part(
        "Acks on disk beside apps on task queues: 2 kB, 64 connections",
        "ingest",
        f"--peers {PEERS} --sizes 2000 --connections 64 --seconds 1.5 --rounds 3",
        f"--peers {PEERS} --sizes 2000 --connections 64 --seconds 0.3 --rounds 1",
        figures=True,
    ),
    "peers": Part(
        "From the POST to the row beside apps on task queues: latency at a steady rate, throughput, CPU",
        "peers",
        f"--peers {PEERS} --rounds 3 --rates 10,100,500 --seconds 2 --flat-out 3 --limit 420",
        "--peers taskiq --rounds 1 --rates 100 --seconds 1 --flat-out 1",
        figures=True,
        limit=480.0,
    ),
    "pipeline": Part(
        "A backlog of the inbox through dispatch and sink, beside one RQ job an event",
        *("pipeline", "--events 8000 --jobs 600 --rounds 2", "--events 1000 --jobs 100 --rounds 1"),
    ),
    "one-by-one": Part(
        "Deliveries to a sink that takes one a request, on both databases",
        *("one_by_one", "--deliveries 4000 --concurrency 64 --answer-after 20", "--deliveries 200"),
    ),
    "beside": Part(
        "p99 of a sink beside four that hang, by its p99 while they rest: in one process, and in their own",
        *("beside", "--rounds 3 --rate 20 --seconds 6", "--rounds 1 --seconds 1 --sinks 1"),
        limit=400.0,
    ),
    "growth": Part(
        "CPU of a batch in a ledger that has grown, beside an empty one, on both databases",
        *("growth", "--many 200000 --batches 30", "--few 1000 --many 3000 --batches 4 --database sqlite"),
    ),
    "backlog": Part(
        "What workers and clocks do again and again, with 1,000 and with 50,000 deliveries of each kind",
        *("backlog", "--count 50000 --lanes 2000", "--count 3000 --lanes 100"),
    ),
    "routes": Part(
        "CPU of one event's routing, with a thousand routes beside one",
        *("routing", "--events 1000 --rounds 3", "--events 100 --routes 100 --rounds 1"),
    ),
    "idle": Part(
        "`runhook dev` with ten sinks, while nothing happens: processes, memory, wake-ups, Redis commands",
        *("idle", "--sinks 10 --seconds 30", "--sinks 2 --seconds 1"),
    ),
    "start": Part(
        "CPU of a start: until the first 202 of `serve`, and `--help`, beside a bare endpoint",
        *("start", "--rounds 5", "--rounds 1"),
    ),
}


def run(part: Part, options: str, folder: Path) -> dict[str, Any]:
    """Run a part, print what it prints, and return what is kept of it."""
    command = ["-m", f"bench.{part.module}", *options.split()]
    figures = folder / "figures.json"
    figures.unlink(missing_ok=True)
    began = time.monotonic()
    is_late, lines = threading.Event(), []
    with subprocess.Popen(
        [sys.executable, *command, *(["--json", str(figures)] if part.figures else [])],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as child:  # fmt: skip

        def end() -> None:
            is_late.set()
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(part.limit, end)
        timer.start()
        try:
            for line in child.stdout or ():
                lines.append(line)
                print(line, end="", flush=True)
            status = child.wait()
        except BaseException:
            end()
            raise
        finally:
            timer.cancel()
    failed = f"ended after {part.limit:.0f} s" if is_late.is_set() else f"exit status {status}" if status else ""
    return {
        "command": f"python {' '.join(command)}",
        "failed": failed,
        "seconds": round(time.monotonic() - began, 1),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}",
        "printed": "".join(lines),
        "figures": json.loads(figures.read_text()) if figures.exists() else None,
    }


def report(results: dict[str, dict[str, Any]]) -> str:
    """Return all results as Markdown."""
    text = (
        "# What Runhook does beside others\n\n"
        "Made by `make bench`, which is `python -m bench`; `make bench PART=ingest` makes one part anew. Each command "
        "says with `--help` what it measures and how. All figures are in [RESULTS.json](RESULTS.json). Times and rates "
        "are those of one machine: compare ratios.\n"
    )
    for name, part in PARTS.items():
        if name in results:
            found = results[name]
            text += f"\n## {part.says}\n\n`{found['command']}`, {found['seconds']} s; {found['machine']}\n\n"
            text += f"**It failed: {found['failed']}.**\n\n" if found["failed"] else ""
            text += _as_markdown(found["printed"])
    return text


def _as_markdown(printed: str) -> str:
    """Return what a part printed: its tables as they are, all else as it stood on the terminal."""
    blocks: list[tuple[bool, list[str]]] = []
    for line in printed.strip().splitlines():
        is_table = line.startswith("|")
        if not blocks or blocks[-1][0] != is_table:
            blocks.append((is_table, []))
        blocks[-1][1].append(line)
    parts = ["\n".join(lines if is_table else ["```text", *lines, "```"]) for is_table, lines in blocks]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Measure. Returns 1 when a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--options", help="those of the parts' programs")
    args = parser.parse_args()
    if unknown := [each for each in args.parts if each not in PARTS]:
        parser.error(f"no part is called {unknown[0]}: {', '.join(PARTS)}")
    results: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed, is_kept = [], not args.quick and args.options is None
    with tempfile.TemporaryDirectory(prefix="runhook-bench-") as folder:
        for name in args.parts or PARTS:
            part = PARTS[name]
            print(f"== {name}: {part.says}", flush=True)
            options = args.options if args.options is not None else part.quick if args.quick else part.full
            found = run(part, options, Path(folder))
            if found["failed"]:
                failed.append(name)
                print(f"{name}: {found['failed']}", flush=True)
            if is_kept:
                results[name] = found
                _write(results)
    took = f" {RESULTS.with_suffix('.md')} is written." if is_kept else ""
    print(f"{', '.join(failed)} failed.{took}" if failed else f"All parts are measured.{took}")
    return int(bool(failed))


def _write(results: dict[str, dict[str, Any]]) -> None:
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    RESULTS.with_suffix(".md").write_text(report(results))


if __name__ == "__main__":
    sys.exit(main())
