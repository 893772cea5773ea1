"""How commands print: tables for people, JSON for programs. Text from payloads is shown as text, never as markup."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Control characters would let a payload move the cursor or forge lines in a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_GAP = 2  # columns between two cells
_LEAST = 24  # columns of a receipt or reason that are worth having beside a row

COLOURS = {
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
    """The console for what a command was asked for."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False)


def print_json(value: Any) -> None:
    """`value` as JSON on standard output, one document."""
    sys.stdout.write(json.dumps(value, ensure_ascii=True, indent=2, default=str) + "\n")


def clean(value: Any, limit: int = 0) -> str:
    """`value` as one line of harmless text, at most `limit` characters (0: as long as it is)."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", "" if value is None else str(value))
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def short(identifier: str) -> str:
    """An event's or delivery's id as tables show it. Commands take ids by their beginning."""
    return identifier[:12]


def near(path: str) -> str:
    """A path below the working directory without the way to there."""
    here = str(Path.cwd()) + "/"
    return path.removeprefix(here)


def when(seconds: float | None) -> str:
    """A time as people read it: UTC, to the second."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def iso(seconds: float | None) -> str | None:
    """A time as programs read it: ISO 8601, UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def with_iso_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with each *_at, *_until and due time as ISO 8601."""
    return {
        key: iso(value) if isinstance(value, float) and key.endswith(("_at", "_until")) else value
        for key, value in row.items()
    }


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """A table with a coloured cell where the text is a known status or state; `empty` when there are no rows.

    On a terminal the last column is folded, or stands below its row when there is no room beside it. Elsewhere a row
    is one line, however long: `grep` and log files want it so.
    """
    console = out()
    if not rows:
        console.print(empty)
        return
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(cell_len(each) for each in column) for column in zip(columns, *cells, strict=True)]
    needed = sum(widths[:-1]) + _GAP * (len(columns) - 1)
    if console.is_terminal and needed + min(widths[-1], _LEAST) <= console.width:
        table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
        for column in columns[:-1]:
            table.add_column(column, no_wrap=True)
        table.add_column(columns[-1], overflow="fold", ratio=1)
        for row in cells:
            table.add_row(*map(_coloured, row))
        console.print(table)
        return
    between = "\n  " if console.is_terminal else " " * _GAP
    for row, style in [(list(columns), "bold"), *((row, "") for row in cells)]:
        line = Text(" " * _GAP).join(
            _coloured(cell, style).append(" " * (width - cell_len(cell)))
            for cell, width in zip(row[:-1], widths, strict=False)
        )
        line.append(between).append_text(_coloured(row[-1], style))
        line.rstrip()
        console.print(line, soft_wrap=True)


def _coloured(cell: str, style: str = "") -> Text:
    return Text(cell, style=style or COLOURS.get(cell, ""))
