"""Recorded events as rules are asked about them: parsed again, with what was found out about them since."""

from __future__ import annotations

from receiver.domain.event import Event
from receiver.domain.parsed_event import ParsedEvent, completion_of_text
from receiver.domain.run import Run, parse
from receiver.domain.shape import completed
from receiver.ledger.reroutes import OldEvent
from receiver.routing.router import RunView


def is_old_news(event: OldEvent) -> bool:
    """Whether its run has gone on since it was told."""
    return event.disposition == "interim" and not event.newest


def view_of(event: OldEvent, run: Run | None = None) -> RunView:
    """Return what rules are asked about. `run`: what the event was parsed into before."""
    run = run or parsed_again(event).run
    return RunView(run, event.source, event.via, event.disposition, event.labels, event.received_at, event.id)


def parsed_again(old: OldEvent) -> ParsedEvent:
    """Parse a recorded event, whose body is redacted, and complete it with what is kept beside that."""
    run, completion = parse(old.body), completion_of_text(old.completion)
    event = Event(old.id, old.source, old.body, old.received_at, old.via)
    return ParsedEvent(
        event, run.with_data(completed(run.data, completion)), old.body, completion=completion, data=run.data
    )
