"""How long the runs of an agent take, as the ledger knows it, for the time at which its next run is overdue."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from receiver.ledger import LedgerDataError, LedgerUnavailable, run_polls
from receiver.ledger.async_ledger import AsyncLedger

# Seconds for which the durations of an agent's runs are not read again.
FRESH_FOR: Final = 60.0
_REMEMBERED: Final = 1000


class RunDurations:
    """The durations of all agents' runs, for one event loop."""

    def __init__(self, ledger: AsyncLedger) -> None:
        self._ledger = ledger
        self._known: OrderedDict[tuple[str, str], tuple[float, Sequence[float]]] = OrderedDict()

    async def of(self, source: str, request: Mapping[str, Any]) -> Sequence[float]:
        """Return how many seconds the latest runs of the agent in `request` took. Empty when it names no agent, or the
        ledger can't be asked for it."""
        agent_id = request.get("agent_id") or request.get("workflow_id")
        if not isinstance(agent_id, str):
            return ()
        key, now = (source, agent_id), time.monotonic()
        known = self._known.get(key)
        if known is None or now - known[0] > FRESH_FOR:
            try:
                found = await self._ledger.read(lambda connection: run_polls.durations(connection, *key))
            except (LedgerUnavailable, LedgerDataError):
                return ()
            known = self._known[key] = now, found
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return known[1]
