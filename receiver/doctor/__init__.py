"""What `runhook doctor` checks: all that Runhook needs, tried from here, each with the fix where it fails.

`receiver/status` says what is wrong now with what runs. This asks servers, names and sinks questions that cost too much
to be asked each time, and changes nothing.
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
