"""Walks Skyvern's list of runs to find results without a webhook, also of runs started in its UI, by a schedule or by
another program.

A walk reads the list from the newest run back to the watermark, where the previous walk began. The first walk of a
source reads no further back than `watch_back`: by default it imports nothing, and only records the active runs.

    ended, unknown here    polled when it is `webhook_grace` old: until then its webhook may arrive
    active                 remembered; when Skyvern's list of active runs no longer has it, it has ended and is polled

So a run costs its share of a page, and one call more if its webhook is missing. All times of the list are by Skyvern's
clock, and are compared only with each other.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from receiver.config.models import ReconcileConfig
from receiver.domain.agent_url import shown
from receiver.domain.attention import ACTIVE, PAUSED
from receiver.domain.poll_schedule import LONGEST_FIRST
from receiver.domain.run import Run
from receiver.domain.webhook_grace import ended_for
from receiver.ledger import Connection, Ledger, account, polls, runs, watches
from receiver.ledger.watches import ActiveRun, Watch
from receiver.reconcile.connect import list_agents
from receiver.reconcile.listing import RunList
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import ListedRun

# Seconds by which a walk reads further back than the watermark: a run may become visible after a younger one.
OVERLAP: Final = 120.0
# Minimum seconds between the newest run of a list and the next run that is created.
_INSTANT: Final = 1e-6
# Seconds between two checks of a source's agents.
ACCOUNT_EVERY: Final = 600.0
# Seconds between two checks of the ledger for a walk that is due.
_CHECK_EVERY: Final = 1.0
# Seconds until the next walk after one that failed.
_AFTER_TROUBLE: Final = 30.0

log = logging.getLogger("runhook.watch")


def due_at(run: ListedRun, now: float, newest: float | None, grace: float) -> float:
    """Return when to poll an ended run: `grace` seconds after its end, as far as that is known.

    `newest`: when the newest listed run was created.
    """
    return now + grace - ended_for(Run(finished_at=run.finished_at), now, listed_at=newest)


class Watcher:
    """The walks of all sources. `stopped`: whether the process is being stopped. `watch_back`: seconds that the first
    walk of each source goes back, also if the source has a watermark; None for the setting."""

    def __init__(
        self, ledger: Ledger, settings: ReconcileConfig, stopped: Callable[[], bool], watch_back: float | None = None
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._stopped = stopped
        self._watch_back = watch_back
        self._went_back: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._account_at: dict[str, float] = {}
        self.account_every = ACCOUNT_EVERY

    def due(self, sources: Sequence[PolledSource]) -> list[PolledSource]:
        """Return the sources whose walk may be due. Asks the ledger nothing: `walk` takes the lease."""
        now = time.monotonic()
        found = [each for each in sources if each.watch and now >= self._not_before.get(each.name, 0.0)]
        for each in found:
            self._not_before[each.name] = now + max(_CHECK_EVERY, min(self._settings.watch_every / 10, 15.0))
        return found

    def walk(self, source: PolledSource) -> None:
        """Make the walk of a source, if it is due and no other clock makes it. Raises LedgerUnavailable."""
        now = self._ledger.now()
        found = self._ledger.read(lambda connection: {each.source: each for each in watches.list_watches(connection)})
        if source.name in found and found[source.name].due_at > now:
            return
        watch = self._ledger.write(lambda connection: watches.lease(connection, source.name, now))
        if watch is not None:
            back = None if source.name in self._went_back else self._watch_back
            if not _Walk(self._ledger, self._settings, source, watch, self._stopped, back).run():
                return
            self._went_back.add(source.name)
            if time.monotonic() >= self._account_at.get(source.name, 0.0) and not self._stopped():
                self._account_at[source.name] = time.monotonic() + self.account_every
                self._check_agents(source)

    def _check_agents(self, source: PolledSource) -> None:
        """Record where the results of each agent go."""
        found, trouble = list_agents(source)
        if trouble:
            log.warning("watch.agents source=%s %s", source.name, trouble)
            return
        seen = {each.id: (each.title, shown(each.callback_url) or None) for each in found}
        self._ledger.write(lambda connection: account.replace_agents(connection, source.name, seen, self._ledger.now()))


class _Walk:
    """One walk of one source. `back`: seconds to go back, also if the source has a watermark; None for the setting."""

    def __init__(
        self,
        ledger: Ledger,
        settings: ReconcileConfig,
        source: PolledSource,
        watch: Watch,
        stopped: Callable[[], bool],
        back: float | None,
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._source = source
        self._stopped = stopped
        self._trouble = watch.trouble
        self._began = self._ledger.now()
        self._first = watch.watermark is None
        back = settings.watch_back if back is None and self._first else back
        # A first walk that imports nothing reads one page, for the time of its newest run. It remembers the active runs
        # of this page, which may end before the list of active runs is read.
        asked = self._began - back if back else math.inf
        self._since = asked if watch.watermark is None else min(watch.watermark - OVERLAP, asked)
        self._seen = 0
        self._asked = 0

    def run(self) -> bool:
        """Read the list back to the watermark, then the active runs, and record the outcome. Returns whether the walk
        was complete."""
        listing = RunList(self._source, self._since, with_active=self._first, stopped=self._stopped)
        self._take(listing)
        calls, trouble, retry_after = listing.calls, listing.trouble, listing.retry_after
        if not trouble and self._others_active():
            active = RunList(self._source, float("-inf"), statuses=ACTIVE, stopped=self._stopped)
            self._take(active)
            calls, trouble, retry_after = calls + active.calls, active.trouble, active.retry_after
            if not trouble and active.reached:
                self._ended()
        now, complete = self._ledger.now(), not trouble
        if not complete:
            trouble = self._trouble if self._stopped() else trouble  # stopping says nothing of the list
            again_at = now + min(max(_AFTER_TROUBLE, retry_after), LONGEST_FIRST)
            self._ledger.write(lambda connection: watches.break_off(connection, self._source.name, again_at, trouble))
        else:
            due_at = max(self._began + self._settings.watch_every, now)
            mark = listing.newest
            if self._first:  # the next walk must not reach the runs that this one skipped
                mark = OVERLAP if mark is None else max(mark, min(self._since, mark + _INSTANT) + OVERLAP)
            self._ledger.write(lambda connection: watches.finish(connection, self._source.name, mark, due_at, now))
            if self._since == math.inf:
                log.info("watch.began source=%s: results of runs that end from now on are imported", self._source.name)
        if not listing.reached:
            self._ledger.write(lambda connection: watches.record_gap(connection, self._source.name, now))
            log.error(
                "watch.gap source=%s Skyvern's list ends before the last walk: runs of that time may be missing",
                self._source.name,
            )
        if trouble and trouble != self._trouble:
            log.warning("watch.trouble source=%s %s", self._source.name, trouble)
        elif self._trouble and not trouble:
            log.warning("watch.recovered source=%s", self._source.name)
        level = logging.INFO if self._asked else logging.DEBUG
        log.log(
            level, "watch.walked source=%s runs=%d asked=%d calls=%d", self._source.name, self._seen, self._asked, calls
        )
        return complete

    def _take(self, listing: RunList) -> None:
        for rows in listing:
            self._page(rows, listing.newest)

    def _page(self, rows: Sequence[ListedRun], newest: float | None) -> None:
        """Schedule polls of the ended runs of a page that are unknown here, and remember its active runs."""
        source, now, grace = self._source.name, self._ledger.now(), self._settings.webhook_grace
        ended = {each.run_id: each for each in rows if each.final}
        active = [each for each in rows if not each.final]

        def work(connection: Connection) -> int:
            watches.renew(connection, source, now)
            known = runs.final_runs(connection, [(source, run_id) for run_id in ended])
            missing = [each for run_id, each in ended.items() if (source, run_id) not in known]
            watches.remember(
                connection, source, [ActiveRun(each.run_id, each.status, each.created_at, now) for each in active], now
            )
            watches.forget(connection, source, list(ended))
            due_times = {each.run_id: due_at(each, now, newest, grace) for each in missing}
            return polls.ask(connection, source, due_times, now, found_by=polls.IMPORT, grace=grace)

        self._seen += len(rows)
        self._asked += self._ledger.write(work)
        self._asked += self._ask_for_attention(active, now)

    def _ask_for_attention(self, active: Sequence[ListedRun], now: float) -> int:
        """Schedule polls of runs whose state needs a person and is not reported yet. Returns their number."""
        source = self._source.name
        if not active or not (due_times := self._ledger.read(lambda it: self._needing_attention(it, active, now))):
            return 0
        return self._ledger.write(
            lambda connection: polls.ask(connection, source, due_times, now, found_by=polls.IMPORT)
        )

    def _needing_attention(self, connection: Connection, active: Sequence[ListedRun], now: float) -> dict[str, float]:
        """Return when to poll each run whose state needs a person and is not reported yet."""
        source = self._source.name
        there = watches.active(connection, source, [each.run_id for each in active])
        first_seen = {each.run_id: each.first_seen_at for each in there}
        needy = [
            each
            for each in active
            if each.status == PAUSED or now - first_seen.get(each.run_id, now) > self._settings.stuck_after
        ]
        known = runs.run_statuses(connection, [(source, each.run_id) for each in needy])
        reported = {run_id for (_, run_id), run in known.items() if run.event_id}
        return {
            each.run_id: now
            for each in needy
            if each.run_id not in reported or known[source, each.run_id].status != each.status
        }

    def _others_active(self) -> bool:
        """Whether active runs may exist that this walk has not seen; True at the first walk."""
        if self._first:
            return True
        return bool(
            self._ledger.read(lambda connection: watches.not_seen_since(connection, self._source.name, self._began))
        )

    def _ended(self) -> None:
        """Schedule polls of the runs that were active and are no longer listed as active."""
        source, now = self._source.name, self._ledger.now()

        def work(connection: Connection) -> int:
            gone = watches.not_seen_since(connection, source, self._began)
            known = runs.final_runs(connection, [(source, each.run_id) for each in gone])
            due_times = {
                each.run_id: now + self._settings.webhook_grace for each in gone if (source, each.run_id) not in known
            }
            watches.forget(connection, source, [each.run_id for each in gone])
            grace = self._settings.webhook_grace
            return polls.ask(connection, source, due_times, now, found_by=polls.IMPORT, grace=grace)

        self._asked += self._ledger.write(work)
