"""What a button of the console does: a call of the API with the fields of its form, asked about first where it matters.

A button under a list sends the list's filter. Then the page in between counts what it finds, and the form there takes
these and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from receiver.api.chosen import Chosen, TakenResult
from receiver.api.endpoint import Endpoint
from receiver.api.service import Actor, Service
from receiver.errors import Invalid, NotAsExpected

Form = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ConsoleAction:
    """`verb`: what the button says, such as Replay. `said`: what the page it was on says afterwards, of the result.

    `asks`: the question before it is done; "" to do it at once. `template`: of the page that shows the result, for
    what no other page shows, such as a new key; it gets `result`, and what `values` adds. `selected`: fields that are
    sent with the selected rows. `failed`: whether a result is a failure. `leads`: the path, below
    PATH, of the page that shows more of a result; "" to go back to where the button was. `about`: what parameters with
    an id act on, in words. `repeats`: the parameters that find what was done before, or None; these need a tick.
    """

    endpoint: Endpoint[Any, Any]
    verb: str
    said: Callable[[Any], str] = lambda _result: "Done."
    asks: str = ""
    template: str = ""
    values: Callable[[Service, Actor, Form, Any], Mapping[str, Any]] = lambda *_: {}
    selected: Form = ()
    failed: Callable[[Any], bool] = lambda _result: False
    leads: Callable[[Any], str] = lambda _result: ""
    about: Callable[[Service, Actor, Any], str] = lambda *_: ""
    repeats: Callable[[Any], Chosen | None] = lambda _parameters: None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.endpoint.name


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked before an action is done. `fields`: of the form that says yes. `preview`: what it would take.
    `about`: what it acts on, in words. `tick`: what must be ticked to say yes, or ""."""

    text: str
    fields: Form
    preview: TakenResult | None = None
    about: str = ""
    tick: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """An action that was done, and its result."""

    result: Any


def perform(service: Service, actor: Actor, action: ConsoleAction, form: Form, *, sure: bool) -> Question | Done:
    """Do what a form asks for, or return the question before it. `sure`: the question was answered. Runs in a thread,
    and raises RequestError."""
    endpoint = action.endpoint
    given = [(name, value) for name, value in form if value]
    parameters = endpoint.parse({}, given)
    if isinstance(parameters, Chosen) and len(parameters.ids) != 1:
        if parameters.expect is None or not sure:
            return _counted(service, actor, action, parameters, given)
        try:
            return Done(endpoint.call(service, actor, parameters))
        except NotAsExpected:
            changed = "What matches has changed meanwhile; nothing was done. "
            return _counted(service, actor, action, parameters, given, changed)
    if action.asks and not sure:
        endpoint.allowed(actor, parameters)
        preview = _dry_run(service, actor, action, parameters) if isinstance(parameters, Chosen) else None
        about = action.about(service, actor, parameters)
        tick = _tick(service, actor, action, parameters)
        return Question(action.asks, given, preview if preview and preview.count else None, about, tick)
    return Done(endpoint.call(service, actor, parameters))


def _counted(
    service: Service, actor: Actor, action: ConsoleAction, parameters: Chosen, given: Form, before: str = ""
) -> Question:
    """Return the question with the count of what the filter finds now."""
    fresh = [(name, value) for name, value in given if name not in ("expect", "dry_run", "until" if before else "")]
    if before:
        parameters = action.endpoint.parse({}, fresh)
    preview = _dry_run(service, actor, action, parameters)
    until = preview.model_dump(mode="json")["until"]
    kept = [(name, value) for name, value in fresh if name != "until"]
    fields = [*kept, ("expect", str(preview.count)), *([("until", str(until))] if until is not None else [])]
    left = len(parameters.ids) - preview.count if all(each.startswith("dlv_") for each in parameters.ids) else 0
    after = f" {left} of those selected {'is' if left == 1 else 'are'} left as is." if left > 0 < preview.count else ""
    tick = _tick(service, actor, action, parameters)
    return Question(f"{before}{action.asks}{after}", fields, preview, tick=tick)


def _dry_run(service: Service, actor: Actor, action: ConsoleAction, parameters: Chosen) -> TakenResult:
    preview: TakenResult = action.endpoint.call(service, actor, parameters.model_copy(update={"dry_run": True}))
    return preview


def _tick(service: Service, actor: Actor, action: ConsoleAction, parameters: Any) -> str:
    """Return what a person must tick before what was done already is done a second time, or ""."""
    again, count = action.repeats(parameters), 0
    with suppress(Invalid):  # of the ids that were given, none is of these
        count = _dry_run(service, actor, action, again).count if again else 0
    return f"{count:,} {'was' if count == 1 else 'were'} delivered already: send a second time" if count else ""
