"""A finding as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`check`: a fixed word, such as redis.durability. `what` was found; `todo`: what to do about it, "" when it is
    well. `note`: nobody has to at once, as of the notes of `runhook status`."""

    check: str
    what: str
    todo: str = ""
    note: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is to be done."""
        return not self.todo
