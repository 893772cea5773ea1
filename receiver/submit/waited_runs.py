"""The states of runs that requests wait for: from the ledger, and from the clock's polls, which they hasten."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace

from receiver.domain.run import RunKey
from receiver.ledger import Connection, LedgerUnavailable, polls
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.polls import Poll
from receiver.ledger.runs import RunStatus, run_statuses
from receiver.skyvern.responses import Answered


@dataclass(frozen=True, slots=True)
class WaitedRun:
    """The state of a run that requests wait for. `status`: from its newest event, if any. `polled`: Skyvern's status at
    the last poll, or "". `noted`: a poll has shown an end that no event has reported yet. `answer`: Skyvern's response,
    if it shows the end."""

    status: RunStatus | None
    polled: str = ""
    noted: bool = False
    answer: Answered | None = None

    def is_known(self) -> bool:
        """Whether the ledger has the end."""
        return self.status is not None and self.status.final

    def is_proven(self) -> bool:
        """Whether the end is known: from the ledger, or from Skyvern's response."""
        return self.is_known() or self.answer is not None

    def has_ended(self) -> bool:
        """Whether there is an end: proven, or noted by a poll."""
        return self.is_proven() or self.noted

    def with_answer(self, answer: Answered) -> WaitedRun:
        """Return this state with an answer that shows the end."""
        return replace(self, answer=answer)


class WaitedRuns:
    """The states of runs of all sources, for requests that wait. `sources`: those that can be polled."""

    def __init__(self, ledger: AsyncLedger, sources: Collection[str]) -> None:
        self._ledger = ledger
        self._sources = sources

    async def query(self, keys: Collection[RunKey]) -> dict[RunKey, WaitedRun]:
        """Return the states of the known runs, and have the others polled. Raises LedgerUnavailable."""

        def read(connection: Connection) -> tuple[dict[RunKey, RunStatus], dict[RunKey, Poll]]:
            return run_statuses(connection, keys), polls.of_runs(connection, keys)

        known, polled = await self._ledger.read(read)
        states = {}
        for key in known.keys() | polled.keys():
            status, poll = known.get(key), polled.get(key)
            noted = poll is not None and poll.noted_at is not None
            states[key] = WaitedRun(status, poll.status if poll else "", noted)
        now = self._ledger.now()
        waiting = [key for key in keys if key[0] in self._sources and not (key in states and states[key].has_ended())]
        if late := [key for key in waiting if key not in polled or polled[key].is_late(now)]:
            with suppress(LedgerUnavailable):
                await self._ledger.write(lambda connection: polls.hasten(connection, late, now))
        return states
