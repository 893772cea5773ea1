"""`runhook audit`: who did what."""

from __future__ import annotations

import json

from receiver.api.audit import LIST_AUDIT
from receiver.cli.commands import COMMANDS
from receiver.cli.listing import list_command
from receiver.cli.output import show_when

audit = list_command(
    LIST_AUDIT,
    {
        "when": lambda row: show_when(row["at"]),
        "who": "actor",
        "did": "action",
        "on": "count",
        "outcome": "outcome",
        "selects": lambda row: " ".join(f"{name}={_short(value)}" for name, value in row["selection"].items()),
        "detail": "detail",
    },
    "nothing of the kind was done",
    doc=COMMANDS["audit"].help,
    nothing="nothing was done yet",
)


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
