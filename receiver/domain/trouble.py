"""What is wrong, and what to do about it, apart: who shows both joins them."""

from __future__ import annotations

from typing import NamedTuple


class Trouble(NamedTuple):
    """`what`: what is wrong; `todo`: what a person can do about it. Neither ends with a full stop."""

    what: str
    todo: str
