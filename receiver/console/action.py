"""Actions behind the console's buttons: API calls with the fields of a form, after a confirmation where it matters.

A button under a list sends the list's filter. The confirmation page then counts what matches, and its form applies to
exactly that many.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from receiver.api.endpoint import Endpoint
from receiver.api.operations import Chosen, TakenResult
from receiver.api.service import Actor, Service
from receiver.console.page import PageRequest, PageValues, Query, filled
from receiver.errors import Invalid, NotAsExpected


@dataclass(frozen=True)
class ConsoleAction:
    """`verb`: the button's label, such as Replay. `notice`: the message on the next page, from the result.

    `question`: the confirmation; "" for none. `template`: the page for a result that no other page shows, such as a
    new key; it gets `result`, and what `values` returns for form and result. `selected`: fields that are sent with
    selected rows. `failed`: whether a result is a failure. `next_page`: the path, below PATH, of the page with more
    about a result; "" to return to the button's page. `about`: names what the action applies to, in words. `repeats`:
    the parameters that find what was done before, or None; these need a tick.
    """

    endpoint: Endpoint[Any, Any]
    verb: str
    notice: Callable[[Any], str] = lambda _result: "Done."
    question: str = ""
    template: str = ""
    values: Callable[[PageRequest, Any], PageValues] = lambda *_: {}
    selected: Query = ()
    failed: Callable[[Any], bool] = lambda _result: False
    next_page: Callable[[Any], str] = lambda _result: ""
    about: Callable[[PageRequest, Any], str] = lambda *_: ""
    repeats: Callable[[Any], Chosen | None] = lambda _parameters: None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.endpoint.name


@dataclass(frozen=True, slots=True)
class Question:
    """A confirmation. `fields`: of its form. `preview`: what the action would apply to. `about`: its name, in words.
    `tick`: what must be ticked to confirm, or ""."""

    text: str
    fields: Query
    preview: TakenResult | None = None
    about: str = ""
    tick: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """A completed action."""

    result: Any


def perform(service: Service, actor: Actor, action: ConsoleAction, form: Query, *, sure: bool) -> Question | Done:
    """Perform the action of a form, or return its confirmation. `sure`: the person has confirmed. Runs in a thread, and
    raises RequestError."""
    endpoint = action.endpoint
    given = filled(form)
    parameters = endpoint.parse({}, given)
    if isinstance(parameters, Chosen) and len(parameters.ids) != 1:
        if parameters.expect is None or not sure:
            return _counted(service, actor, action, parameters, given)
        try:
            return Done(endpoint.call(service, actor, parameters))
        except NotAsExpected:
            changed = "What matches has changed meanwhile; nothing was done. "
            return _counted(service, actor, action, parameters, given, changed)
    if action.question and not sure:
        endpoint.allowed(actor, parameters)
        preview = _dry_run(service, actor, action, parameters) if isinstance(parameters, Chosen) else None
        about = action.about(PageRequest(service, actor, {}, given), parameters)
        tick = _tick(service, actor, action, parameters)
        return Question(action.question, given, preview if preview and preview.count else None, about, tick)
    return Done(endpoint.call(service, actor, parameters))


def _counted(
    service: Service, actor: Actor, action: ConsoleAction, parameters: Chosen, given: Query, before: str = ""
) -> Question:
    """Return the confirmation with the current number of matches."""
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
    return Question(f"{before}{action.question}{after}", fields, preview, tick=tick)


def _dry_run(service: Service, actor: Actor, action: ConsoleAction, parameters: Chosen) -> TakenResult:
    preview: TakenResult = action.endpoint.call(service, actor, parameters.model_copy(update={"dry_run": True}))
    return preview


def _tick(service: Service, actor: Actor, action: ConsoleAction, parameters: Any) -> str:
    """Return what a person must tick before something is done a second time, or ""."""
    repeated, count = action.repeats(parameters), 0
    with suppress(Invalid):  # none of the given ids was done before
        count = _dry_run(service, actor, action, repeated).count if repeated else 0
    return f"{count:,} {'was' if count == 1 else 'were'} delivered already: send a second time" if count else ""
