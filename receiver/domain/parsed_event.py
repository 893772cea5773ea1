"""An event as its body and its completion tell it: parsed, redacted, completed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from receiver.domain import deduplication, shape
from receiver.domain.deduplication import Facts
from receiver.domain.event import Event
from receiver.domain.extent import extent_of
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, RunKey, parse


class ParsedEvent(NamedTuple):
    """`run`: with the completed members; `data`: the members of the body alone. Both, and `body`, are redacted.

    `facts`: None for an unreadable event. `completion`: the members that the body lacks and that do not follow from it.
    """

    event: Event
    run: Run
    body: bytes
    facts: Facts | None = None
    completion: Mapping[str, Any] = {}
    data: Mapping[str, Any] = {}

    @property
    def key(self) -> RunKey:
        """The run that the event is about."""
        return self.event.source, self.run.run_id


def parse_event(
    event: Event, redactor: Redactor, run: Run | None = None, details: Mapping[str, Any] = {}
) -> ParsedEvent:
    """Parse, redact and complete an event. `run`: what its body was parsed into before.

    `details`: what a further call of Skyvern's API answered, see shape.of_details.
    """
    run = run or parse(event.body)
    body, data = redactor.apply(event.body, run.data)
    run = run.with_data(data)
    if not run.run_id or run.problem:
        return ParsedEvent(event, run, body, data=data)
    facts = deduplication.facts_of(event.id, run, 0)
    found = shape.of_details(data, redactor.mask(dict(details))) if details else {}
    return complete(ParsedEvent(event, run, body, facts, data=data), redactor, found)


def complete(parsed: ParsedEvent, redactor: Redactor, completion: Mapping[str, Any]) -> ParsedEvent:
    """Return the event with the members that follow from its body and from `completion`, which it lacked so far.

    A path of the redaction is followed in the completed members too: `parameters.token` is masked, though a poll has it
    as `run_request.parameters.token`.
    """
    run = shape.completed(parsed.run.data, completion)
    added = {name: value for name, value in run.items() if value is not None and value is not parsed.data.get(name)}
    masked = redactor.mask(added)
    hidden = {name: value for name, value in masked.items() if value is not added[name]}
    facts = replace(parsed.facts, extent=str(extent_of(run))) if parsed.facts else None
    return parsed._replace(
        run=parsed.run.with_data({**run, **hidden}),
        facts=facts,
        completion={**parsed.completion, **completion, **hidden},
    )


def unreadable(event: Event, redactor: Redactor, problem: str) -> ParsedEvent:
    """Return an event whose body can't be read, for `problem`."""
    return ParsedEvent(event, Run(problem=problem), redactor.apply(event.body, {})[0])
