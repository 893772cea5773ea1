"""What is wrong, and what to do about it, apart: who shows both joins them."""

from __future__ import annotations

from typing import NamedTuple


class Trouble(NamedTuple):
    """`what`: what is wrong; `todo`: what a person can do about it. Neither ends with a full stop."""

    what: str
    todo: str

    def at(self, place: str) -> str:
        """Return both in one line. `place`: what it is about, such as a URL without its password."""
        return f"{self.what} ({place}): {self.todo}"


def redis_todo(*, embedded: bool) -> str:
    """Return the fix for an unavailable Redis. `embedded`: Runhook starts it, because REDIS_URL is not set."""
    return "`runhook dev` starts it, or set REDIS_URL" if embedded else "start it, or fix REDIS_URL"
