"""The checks of `runhook doctor`: servers, names, secrets and sinks, each with a fix. They change nothing.

`problems` reports what is wrong with running processes; these checks are too expensive to run each time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A result. `check`: a fixed word, such as redis.durability; `what`: what was observed; `todo`: the fix, "" if none
    is needed; `note`: not urgent, as the notes of `runhook status`."""

    check: str
    what: str
    todo: str = ""
    note: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is to be done."""
        return not self.todo
