"""How commands print: tables for people; JSON, JSON lines and CSV for programs.

Text from payloads is printed as text, never as markup. CSV has the values as they are: a text that begins with = is not
changed, for then no program could take it for what it was. Whoever opens such a file in a spreadsheet imports its
columns as text.

What makes tables is imported with the first one: other output does not need it.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from handlers.support import timestamps
from receiver.cli.options import Form
from receiver.domain.event import short_id

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Control characters would let a payload move the cursor or forge lines in a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Ids(NamedTuple):
    """A column of ids, which are the member `name` of each row: cut to what commands take, and whole where two that the
    table has would look alike."""

    name: str

    def cells(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the cells of these rows."""
        ids = [row[self.name] for row in rows]
        alike = Counter(map(short_id, set(ids)))
        return [each if alike[short_id(each)] > 1 else short_id(each) for each in ids]


# What a table shows: by heading, the row's key, a function of the row, or ids.
Columns = Mapping[str, str | Callable[[Mapping[str, Any]], Any] | Ids]

_GAP = 2  # columns between two cells
_MIN_LAST = 24  # columns that the last cell needs to stand beside its row

COLOURS = {
    "✓": "green",
    "✗": "red",
    "…": "yellow",
    "completed": "green",
    "delivered": "green",
    "accepted": "green",
    "failed": "red",
    "terminated": "red",
    "timed_out": "red",
    "dead": "red",
    "refused": "red",
    "waiting": "yellow",
    "canceled": "yellow",
    "cancelled": "yellow",
    "unavailable": "yellow",
    "queued": "cyan",
    "sending": "cyan",
    "held": "cyan",
    "running": "cyan",
}


def out() -> Console:
    """Return the console for a command's output: standard output, where text is wrapped on a terminal only."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False)


def print_json(value: Any) -> None:
    """Print `value` as one JSON document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True, indent=2, default=str) + "\n")


def clean(value: Any, limit: int = 0) -> str:
    """Return `value` as one line without control characters, cut to `limit` characters (0: no limit)."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", "" if value is None else str(value))
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def relative_path(path: str) -> str:
    """Return `path` relative to the working directory, or as it is when it is not below that."""
    return path.removeprefix(str(Path.cwd()) + "/")


def show_time(moment: float | str | None) -> str:
    """Return a time as ISO 8601, UTC, to the second; "" for None.

    `moment`: seconds since the epoch, or ISO 8601 as the API has it.
    """
    seconds = timestamps.epoch(moment) if isinstance(moment, str) else moment
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def show_when(moment: float | str | None) -> str:
    """Return a time for a table: "3m ago" or "in 3m" on a terminal, else ISO 8601; "" for None.

    `moment`: seconds since the epoch, or ISO 8601 as the API has it.
    """
    seconds = timestamps.epoch(moment) if isinstance(moment, str) else moment
    if seconds is None or not sys.stdout.isatty():
        return show_time(seconds)
    left = seconds - time.time()
    return f"in {show_duration(left)}" if left > 0 else f"{show_duration(-left)} ago"


def show_duration(seconds: float) -> str:
    """Return a duration as one number and one unit, such as 5m."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def iso(seconds: float | None) -> str | None:
    """Return a time for programs: ISO 8601, UTC; None for None."""
    return None if seconds is None else timestamps.iso(seconds)


def with_iso_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `row` with each *_at and *_until time as ISO 8601."""
    return {
        key: iso(value) if isinstance(value, float) and key.endswith(("_at", "_until")) else value
        for key, value in row.items()
    }


def show_counts(counts: Mapping[str, int]) -> str:
    """Return counts by state as "3 dead, 1 queued"."""
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def print_rows(
    rows: Iterable[Mapping[str, Any]], columns: Columns, empty: str, form: Form, *, names: Sequence[str] = ()
) -> None:
    """Print `rows` in this form. JSON lines and CSV are printed while `rows` yields them.

    `columns`: what a table shows. `empty`: its text without rows. `names`: the members of each row, for the head of a
    CSV; those of the first row by default.
    """
    if form is Form.JSON:
        print_json([with_iso_times(row) for row in rows])
        return
    if form is Form.JSONL:
        for row in rows:
            sys.stdout.write(_compact(with_iso_times(row)) + "\n")
        return
    if form is Form.CSV:
        _print_csv(map(with_iso_times, rows), names)
        return
    found = list(rows)
    cells = [_cells(column, found) for column in columns.values()]
    print_table(list(columns), list(zip(*cells, strict=True)), empty)


def _cells(column: str | Callable[[Mapping[str, Any]], Any] | Ids, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    if isinstance(column, Ids):
        return column.cells(rows)
    return [row[column] if isinstance(column, str) else column(row) for row in rows]


def _print_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Print a line of names, and a line for each row. What is nested stands there as JSON."""
    writer = csv.writer(sys.stdout)
    shown = clean if sys.stdout.isatty() else str
    if names:
        writer.writerow(names)
    for row in rows:
        if not names:
            names = list(row)
            writer.writerow(names)
        writer.writerow(
            shown(value) if isinstance(value, str) else "" if value is None else _compact(value)
            for value in map(row.get, names)
        )


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=str)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """Print a table in which known statuses and states are coloured; `empty` when there are no rows.

    On a terminal the last column is folded, or stands below its row when there is no room beside it. Elsewhere a row
    is one line, however long, for `grep` and log files.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    console = out()
    if not rows:
        console.print(empty)
        return
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(cell_len(each) for each in column) for column in zip(columns, *cells, strict=True)]
    needed = sum(widths[:-1]) + _GAP * (len(columns) - 1)
    if console.is_terminal and needed + min(widths[-1], _MIN_LAST) <= console.width:
        table = Table(header_style="bold", box=None, pad_edge=False)
        for column in columns[:-1]:
            table.add_column(column, no_wrap=True)
        table.add_column(columns[-1], overflow="fold", ratio=1)
        for row in cells:
            table.add_row(*map(coloured, row))
        console.print(table)
        return
    between = "\n  " if console.is_terminal else " " * _GAP
    for row, style in [(list(columns), "bold"), *((row, "") for row in cells)]:
        line = Text(" " * _GAP).join(
            coloured(cell, style).append(" " * (width - cell_len(cell)))
            for cell, width in zip(row[:-1], widths, strict=False)
        )
        line.append(between).append_text(coloured(row[-1], style))
        line.rstrip()
        console.print(line, soft_wrap=True)


def coloured(cell: str, style: str = "") -> Text:
    """Return a cell in the colour that a known status or state has, or in `style`."""
    from rich.text import Text

    return Text(cell, style=style or COLOURS.get(cell.strip(), ""))
