"""How commands print: tables for people; JSON, JSON lines and CSV for programs; progress on a terminal.

Text from payloads is printed as text, never as markup. CSV holds each value unchanged; a spreadsheet must import the
columns as text. rich is imported with the first table: other output does not need it.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from handlers.support import timestamps
from receiver.domain.durations import ago
from receiver.domain.event import short_id

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Control characters would let a payload move the cursor or forge lines in a terminal.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Ids that tables cut to what commands accept.
_LONG_ID: Final = re.compile(r"(evt|dlv|sub)_\w{12,}")
# Characters of a cell.
_LONGEST: Final = 120

_COLOURS: Final = {
    "green": ("✓", "ready", "completed", "delivered", "accepted"),
    "red": ("✗", "failed", "terminated", "timed_out", "dead", "refused"),
    "yellow": ("…", "waiting", "canceled", "cancelled", "unavailable"),
    "cyan": ("queued", "sending", "held", "running"),
}
_STYLES: Final = {word: colour for colour, words in _COLOURS.items() for word in words}


class Form(StrEnum):
    """The format of a list."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


# The columns of a table: by heading, a member of the row or a function of the row.
Columns = Mapping[str, str | Callable[[Mapping[str, Any]], Any]]


def out() -> Console:
    """Return the console of standard output, which wraps text on a terminal only."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False)


def warn(text: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"runhook: {text}\n")


def print_json(value: Any) -> None:
    """Print `value` as one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True, indent=2, default=str) + "\n")


def clean(value: Any, limit: int = 0) -> str:
    """Return `value` as one line without control characters, cut to `limit` characters (0: no limit)."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", "" if value is None else str(value))
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def relative_path(path: str) -> str:
    """Return `path` relative to the working directory if it is below that."""
    return path.removeprefix(str(Path.cwd()) + "/")


def show_time(moment: float | str | None) -> str:
    """Return a time as ISO 8601, UTC, to the second; "" for None. `moment`: seconds since the epoch, or ISO 8601."""
    seconds = timestamps.epoch(moment) if isinstance(moment, str) else moment
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def show_when(moment: float | str | None) -> str:
    """Return a time for a table: "3 min ago" or "in 3 min" on a terminal, else as `show_time`."""
    seconds = timestamps.epoch(moment) if isinstance(moment, str) else moment
    if seconds is None or not sys.stdout.isatty():
        return show_time(seconds)
    left = seconds - time.time()
    return f"in {ago(left)}" if left > 0 else f"{ago(-left)} ago"


def iso(seconds: float | None) -> str | None:
    """Return a time for programs: ISO 8601, UTC; None for None."""
    return None if seconds is None else timestamps.iso(seconds)


def show_counts(counts: Mapping[str, int], limit: int = 0) -> str:
    """Return counts by state as "3 dead, 1 queued"; "10,000+ queued" for one that reached `limit`."""
    shown = {state: f"{limit:,}+" if count == limit else f"{count}" for state, count in counts.items()}
    return ", ".join(f"{count} {state}" for state, count in sorted(shown.items()))


def show_value(name: str, value: Any) -> str:
    """Return the member `name` of a row as a cell: times as `show_when`, counts by state, pairs, lists."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if (isinstance(value, float) and name in ("at", "since", "until")) or name.endswith(("_at", "_until")):
        return show_when(value)
    if isinstance(value, Mapping):
        if value and all(type(each) is int for each in value.values()):
            return show_counts(value)
        return " ".join(f"{key}={show_value(str(key), each)}" for key, each in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ",".join(show_value("", each) for each in value)
    return clean(value, 0 if name.endswith("id") else _LONGEST)


def parse_columns(columns: str) -> Columns:
    """Return the columns of a table by heading, from "MEMBER HEADING=MEMBER …"."""
    pairs = ((heading, member or heading) for heading, _, member in (each.partition("=") for each in columns.split()))
    return {heading.replace("_", " "): member for heading, member in pairs}


def print_rows(
    rows: Iterable[Mapping[str, Any]], columns: Columns, empty: str, form: Form, *, names: Sequence[str] = ()
) -> None:
    """Print `rows` in this format. JSON lines and CSV are printed while `rows` yields them.

    `columns`: of a table. `empty`: what a table without rows prints. `names`: the members of a row, for the header of
    a CSV; by default those of the first row.
    """
    if form is Form.TABLE:
        listed = list(rows)
        cells = [_cells(column, listed) for column in columns.values()]
        print_table(list(columns), list(zip(*cells, strict=True)), empty)
        return
    for_programs = (
        {
            name: iso(value) if isinstance(value, float) and name.endswith(("_at", "_until")) else value
            for name, value in row.items()
        }
        for row in rows
    )
    if form is Form.JSON:
        print_json(list(for_programs))
    elif form is Form.JSONL:
        for row in for_programs:
            sys.stdout.write(_compact(row) + "\n")
    else:
        _print_csv(for_programs, names)


def _cells(column: str | Callable[[Mapping[str, Any]], Any], rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    if callable(column):
        return [column(row) for row in rows]
    cells = [show_value(column, row[column]) for row in rows]
    short = [short_id(each) if _LONG_ID.fullmatch(each) else each for each in cells]
    return short if len(set(short)) == len(set(cells)) else cells  # complete ids where two would look alike


def _print_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Print a header and a line for each row. Nested values are JSON."""
    writer = csv.writer(sys.stdout)
    shown = clean if sys.stdout.isatty() else str
    header = list(names)
    if header:
        writer.writerow(header)
    for row in rows:
        if not header:
            header = list(row)
            writer.writerow(header)
        values = map(row.get, header)
        writer.writerow(
            shown(each) if isinstance(each, str) else "" if each is None else _compact(each) for each in values
        )


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=str)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """Print a table in which statuses and states are coloured; `empty` if there are no rows.

    On a terminal cells are folded to its width. Elsewhere a row is one line, for `grep` and log files.
    """
    from rich.table import Table

    console = out()
    if not rows:
        console.print(empty)
        return
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in table.columns:
        column.overflow, column.no_wrap = "fold", not console.is_terminal
    for row in rows:
        table.add_row(*(coloured(clean(cell)) for cell in row))
    if console.is_terminal:
        console.print(table)
        return
    console.width = 100_000
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


def coloured(cell: str, style: str = "") -> Text:
    """Return a cell in the colour of its status or state, or in `style`."""
    from rich.text import Text

    return Text(cell, style=style or _STYLES.get(cell.strip(), ""))


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give the block a function to call with how many of `total` are done.

    It shows a bar with the remaining time on a terminal, and nothing elsewhere.
    """
    if not total or not (sys.stderr.isatty() and sys.stdout.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    label = TextColumn("{task.description}", markup=False)
    with Progress(label, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
