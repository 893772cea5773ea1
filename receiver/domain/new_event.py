"""An event that is decided and not yet written, with its disposition and its deliveries. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from receiver.domain.deduplication import Facts
from receiver.domain.event import Event
from receiver.domain.parsed_event import completion_text
from receiver.domain.run import Run, RunKey


class NewDelivery(NamedTuple):
    """A delivery to create. `lane`: what its breaker guards, normally the sink itself."""

    sink: str
    route: str
    lane: str = ""
    after: tuple[str, ...] = ()


class NewEvent(NamedTuple):
    """An event to record, with its run, facts, disposition and deliveries."""

    event: Event
    run: Run
    body: bytes  # after redaction
    facts: Facts | None  # None: unreadable
    disposition: str
    repeat_of: str | None = None
    newest: bool = False  # it sets the run's status
    note: str = ""  # for the operator, although the event is readable
    failed_rules: tuple[str, ...] = ()  # routes that could not be evaluated
    deliveries: Sequence[NewDelivery] = ()
    completion: Mapping[str, Any] = {}  # members of the run that the body lacks

    @property
    def key(self) -> RunKey:
        """The run that the event is about."""
        return self.event.source, self.run.run_id

    @property
    def problem(self) -> str:
        """The problem to show to the operator, or ""."""
        return self.run.problem or self.note

    def completion_text(self) -> str:
        """Return the completion as text for its column."""
        return completion_text(self.completion)
