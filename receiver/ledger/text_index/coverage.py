"""Which runs a search finds: how far the index is behind what changed, and how far back it goes."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from receiver.ledger.schema import runs
from receiver.ledger.text_index import state


@dataclass(frozen=True, slots=True)
class Coverage:
    """Times are seconds since the epoch.

    `since`: runs that changed last before may not be found yet, for the index is still being made; None: it goes back
    to the oldest. `until`: those that changed since may not be found yet; None: it is up to date. `oldest`: when the
    oldest run changed, while the index is being made.
    """

    since: float | None = None
    until: float | None = None
    oldest: float | None = None

    def behind(self, now: float) -> float:
        """Return for how many seconds the oldest change has waited to be indexed; 0.0 when none does."""
        return 0.0 if self.until is None else max(0.0, now - self.until)

    @property
    def to_do(self) -> float:
        """Seconds of old runs that are not indexed yet."""
        return 0.0 if self.since is None or self.oldest is None else max(0.0, self.since - self.oldest)


def coverage(connection: sa.Connection) -> Coverage:
    """Return which runs a search finds now."""
    found = state.read(connection)
    last = sa.select(runs.c.updated_at).where(runs.c.event_id != "").limit(1)
    if found is None:
        return Coverage(until=connection.execute(last.order_by(runs.c.updated_at)).scalar())
    until = connection.execute(last.where(state.after(found.seen)).order_by(runs.c.updated_at)).scalar()
    if found.backfilled is None:
        return Coverage(until=until)
    return Coverage(found.backfilled.at, until, connection.execute(sa.select(sa.func.min(runs.c.updated_at))).scalar())
