"""What is known of a run when an event of it is recorded. Pure: the ledger loads it, and deciding reads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from receiver.domain import shape
from receiver.domain.deduplication import Facts, says_same
from receiver.domain.submission import Submission


class RunHistory(NamedTuple):
    """A run before an event. `labels`, `submission`: as of this transaction, which may bind the run.

    `facts`: of its readable events, in the order of recording. `recorded`: the ids of all its events.
    `late`: it has events from before it was bound. `erased`: its content was, and must not come back.
    By event id: `members`, the completed members of events that later ones may lack; `sinks`, those with a delivery.
    """

    labels: Mapping[str, str] = {}
    submission: Submission | None = None
    facts: tuple[Facts, ...] = ()
    recorded: Collection[str] = ()
    late: bool = False
    erased: bool = False
    members: Mapping[str, Mapping[str, Any]] = {}
    sinks: Mapping[str, Collection[str]] = {}

    def with_event(self, facts: Facts, members: Mapping[str, Any], sinks: Collection[str]) -> RunHistory:
        """Return the history after one more event, which is not recorded yet."""
        key = facts.event_id
        return self._replace(
            facts=(*self.facts, facts), members={**self.members, key: members}, sinks={**self.sinks, key: sinks}
        )

    def completion(self, facts: Facts, members: Mapping[str, Any]) -> dict[str, Any]:
        """Return the members that an event with these `facts` and `members` lacks and earlier events have."""
        same, other = (self.members.get(event_id) for event_id in self.fuller(facts))
        return shape.completion_of(members, same_result=same, earlier=other) if same or other else {}

    def fuller(self, facts: Facts) -> tuple[str, str]:
        """Return the fullest event with the same result, and the fullest other one; "" if it has nothing more."""
        same: list[Facts] = []
        other: list[Facts] = []
        for past in self.facts:
            (same if says_same(past, facts) else other).append(past)
        return _fuller(same, facts), _fuller(other, facts)

    def same_result(self, facts: Facts) -> list[str]:
        """Return the earlier events with the same result."""
        return [past.event_id for past in self.facts if says_same(past, facts)]

    def sinks_told(self, facts: Facts) -> set[str]:
        """Return the sinks with a delivery, in any state, of an earlier event with the same result."""
        return {sink for event_id in self.same_result(facts) for sink in self.sinks.get(event_id, ())}


def _fuller(past: Collection[Facts], facts: Facts) -> str:
    fullest = max(past, key=lambda each: (each.extent.size, each.seq), default=None)
    return fullest.event_id if fullest and fullest.extent.exceeds([facts.extent]) else ""


NO_HISTORY: Final = RunHistory()
