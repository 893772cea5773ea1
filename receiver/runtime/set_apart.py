"""Which units have a process of their own for a time because they did harm to those beside them, or may have.

Kept in a file of the data directory, so that a restart does not forget it; where that is gone, it is learnt again.
Starts no process.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from handlers.support.private_file import make_private_file

# Seconds for which a unit is set apart that may have done harm, and one that has; doubled when it does harm again.
SUSPECTED: Final = 600.0
PROVEN: Final = 3600.0
_LONGEST: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class TimeApart:
    """For how long a unit is set apart. `until`: in seconds since the epoch; `seconds`: how long that was. `why`: in
    words."""

    until: float
    seconds: float
    why: str


def next_term(last: TimeApart | None, why: str, now: float, *, proven: bool) -> TimeApart:
    """Return the term for harm done at `now`. `last`: the unit's last one, which counts for a day after its end.

    `proven`: the unit has done it; else it is one of several that may have.
    """
    first = PROVEN if proven else SUSPECTED
    known = last is not None and now < last.until + _LONGEST
    seconds = min(_LONGEST, max(first, 2 * last.seconds)) if last and known and proven else first
    return TimeApart(max(now + seconds, last.until if last else 0.0), seconds, why)


class SetApart:
    """The units that are set apart. `path`: the file; None to keep nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._terms: dict[str, TimeApart] = {}
        if path is not None:
            with suppress(OSError, ValueError, TypeError, AttributeError):  # not what was written here
                found = {label: TimeApart(**term) for label, term in json.loads(path.read_text()).items()}
                self._terms = {label: term for label, term in found.items() if term.until < float("inf")}

    def add(self, label: str, why: str, now: float, *, proven: bool) -> TimeApart:
        """Set the unit apart from `now` on: see `next_term`."""
        self._terms = {each: term for each, term in self._terms.items() if now < term.until + _LONGEST}
        term = self._terms[label] = next_term(self._terms.get(label), why, now, proven=proven)
        if self._path is not None:
            with suppress(OSError):
                draft = self._path.with_suffix(".new")
                make_private_file(draft)
                draft.write_text(json.dumps({each: asdict(term) for each, term in self._terms.items()}))
                draft.replace(self._path)
        return term

    def why(self, label: str, now: float) -> str:
        """Return why the unit is set apart at `now`; "" when it is not."""
        term = self._terms.get(label)
        return term.why if term is not None and now < term.until else ""
