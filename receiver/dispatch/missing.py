"""Compute the deliveries that a result lacks, given the sinks that it has reached. Pure."""

from __future__ import annotations

from collections.abc import Collection

from receiver.domain.run import Run
from receiver.routing.router import Router, RunView, Verdict


def missing(view: RunView, router: Router, reached: Collection[str], outdated: Collection[str] = ()) -> Verdict:
    """Route an event; the targets of the verdict are the deliveries that its result lacks.

    `reached`: sinks that have the result, and never get it again. `outdated`: sinks that have it without the data of
    this event. They get an update if their type or their route takes updates.
    """
    verdict = router.match(view, earlier_sinks={*reached, *outdated})
    return verdict._replace(targets=[target for target in verdict.targets if target.sink not in reached])


def note_of(run: Run, verdict: Verdict) -> str:
    """Return what an operator should know of a routed event: members left out, and rules that failed. "" if nothing."""
    notes = [run.reading_note] if run.left_out else []
    notes += [f"route {each.route} {each.why}" for each in verdict.explanations if each.error]
    return "; ".join(notes)
