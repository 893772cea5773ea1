"""`runhook stats`: how many runs or deliveries there were, how they ended, and how long results took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from receiver.api.totals import GET_TOTALS, Totals
from receiver.cli.commands import COMMANDS
from receiver.cli.listing import list_command
from receiver.cli.output import clean, iso, show_duration, show_when


def _name(row: Mapping[str, Any]) -> str:
    return " · ".join(clean(value, 60) or "-" for value in row["key"].values()) or "all"


def _part(part: float | None) -> str:
    return "" if part is None else f"{100 * part:.1f} %"


def _age(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}s" if seconds < 10 else show_duration(seconds)


def _note(found: Totals) -> str:
    notes = []
    if found.others:
        notes.append(f"{found.others} {found.of} are in smaller groups: --top shows more of them")
    if found.counted_since is not None:
        notes.append(f"there is more than one count looks at: nothing before {iso(found.counted_since)} was counted")
    return "; ".join(notes)


stats = list_command(
    GET_TOTALS,
    {
        "what": _name,
        "from": lambda row: "" if row["at"] is None else show_when(row["at"]),
        "count": "count",
        "good": "good",
        "ended": "ended",
        "success": lambda row: _part(row["success_rate"]),
        "an hour": "per_hour",
        "age p50": lambda row: _age(row["age_p50"]),
        "age p95": lambda row: _age(row["age_p95"]),
    },
    "nothing was counted",
    doc=COMMANDS["stats"].help,
    most=10_000,
    note=_note,
)
