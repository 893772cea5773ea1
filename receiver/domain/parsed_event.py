"""An event as its body and its completion tell it: parsed, redacted, completed. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from receiver.domain import deduplication, shape
from receiver.domain.deduplication import Facts
from receiver.domain.event import Event
from receiver.domain.extent import extent_of
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, RunKey, parse


class ParsedEvent(NamedTuple):
    """`run`: with the completed members; `data`: the members of the body alone. Both, and `body`, are redacted.

    `facts`: those of the first event of its run; None for an unreadable event.
    `completion`: the members that the body lacks and that do not follow from it.
    """

    event: Event
    run: Run
    body: bytes
    facts: Facts | None = None
    completion: Mapping[str, Any] = {}
    data: dict[str, Any] = {}  # noqa: RUF012 - a field of a tuple, never changed

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
    if run.left_out:  # what is left out is masked in the text, and the rest with it
        body, data = redactor.apply(event.body, {})[0], redactor.mask(run.data)
    else:
        body, data = redactor.apply(event.body, run.data)
    if not run.run_id or run.problem:
        return ParsedEvent(event, run.with_data(data), body, data=data)
    known = shape.of_details(data, redactor.mask(dict(details))) if details else {}
    members, completion = _completed(data, data, redactor, known)
    facts = deduplication.facts_of(event.id, run, data, members)
    return ParsedEvent(event, run.with_data(members), body, facts, completion, data)


def complete(parsed: ParsedEvent, redactor: Redactor, completion: Mapping[str, Any]) -> ParsedEvent:
    """Return the event with the members of `completion`, which it lacked so far, and those that follow from them."""
    whole = {**parsed.completion, **completion}
    before, more = parsed.completion.get("run_request"), completion.get("run_request")
    if isinstance(before, dict) and isinstance(more, dict):  # the one has what the other lacks
        whole["run_request"] = {**before, **more}
    members, completion = _completed(parsed.data, parsed.run.data, redactor, whole)
    facts = parsed.facts and parsed.facts._replace(extent=extent_of(members))
    return parsed._replace(run=parsed.run.with_data(members), facts=facts, completion=completion)


def _completed(
    data: Mapping[str, Any], run: Mapping[str, Any], redactor: Redactor, completion: Mapping[str, Any]
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the completed members of `run`, and the completion with what of it must be masked.

    `data`: of the body alone. A path of the redaction is followed in the completed members too: `parameters.token` is
    masked, though a poll has it as `run_request.parameters.token`.
    """
    members = shape.completed(run, completion)
    added = {name: value for name, value in members.items() if value is not None and data.get(name) is not value}
    masked = redactor.mask(added, data.values())
    if masked is not added:
        hidden = {name: value for name, value in masked.items() if value is not added[name]}
        return {**members, **hidden}, {**completion, **hidden}
    return members, completion


def unreadable(event: Event, redactor: Redactor, problem: str) -> ParsedEvent:
    """Return an event whose body can't be read, for `problem`."""
    return ParsedEvent(event, Run(problem=problem), redactor.apply(event.body, {})[0])


def completion_text(completion: Mapping[str, Any]) -> str:
    """Return a completion as the ledger keeps it: as a JSON object, or "" for an empty one."""
    return json.dumps(completion, check_circular=False) if completion else ""


def completion_of_text(text: str) -> dict[str, Any]:
    """Return the completion that the ledger keeps as `text`."""
    completion: dict[str, Any] = json.loads(text) if text else {}
    return completion
