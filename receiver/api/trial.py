"""Rules that are tried without being saved: on a body, and on old events, beside the rules of today."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from pydantic import Field

from receiver.api.endpoint import call
from receiver.api.models import MAX_VALUES, Label, Result, Scoped
from receiver.api.routes import Explanation, explain
from receiver.api.service import Actor, Service
from receiver.config.loader import routes_text, with_routes
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.dispatch.reroute import compare
from receiver.domain.api_key import VIEW
from receiver.errors import Busy, ConfigError, Invalid
from receiver.ledger import Ledger
from receiver.ledger.filters import Filter
from receiver.routing.router import Router
from receiver.runtime.bounded_process import CLOCK, MEMORY, PROCESSOR, TookTooMuch, run_bounded

# Characters of rules that are tried, and of a body.
LONGEST_RULES: Final = 64 << 10
LONGEST_BODY: Final = 512 << 10
# Old events that are compared at the most, and that are told of.
MOST_EVENTS: Final = 1000
MOST_CHANGED: Final = 100
# Seconds of this processor's time after which no further event is compared.
TIME: Final = 1.0


class _Turns:
    """Trials of one process: one at a time, for its host answers webhooks. A caller for whom another one had to be
    refused then waits for as long as its trial took."""

    def __init__(self) -> None:
        self._trying, self._guard = threading.Lock(), threading.Lock()
        self._not_before: dict[str, float] = {}  # by caller; infinite while it has a trial
        self._refused = False

    @contextmanager
    def of(self, actor: Actor) -> Iterator[None]:
        """Hold the turn of a caller. Raises Busy."""
        caller, began = f"{actor.kind} {actor.name} {actor.key_id}", time.monotonic()
        with self._guard:
            self._not_before = {name: at for name, at in self._not_before.items() if at > began}
            if caller in self._not_before:
                raise Busy("you try rules already, or have just done so; try again in a few seconds", retry_after=5)
            self._not_before[caller] = math.inf
        rest = 0.0
        try:
            if not self._trying.acquire(timeout=TIME):
                self._refused = True
                raise Busy("other rules are being tried now; try again in a few seconds")
            self._refused = False
            try:
                yield
            finally:
                rest = time.monotonic() - began if self._refused else 0.0
                self._trying.release()
        finally:
            self._not_before[caller] = time.monotonic() + rest


_TURNS: Final = _Turns()


class TrialParameters(Scoped):
    """Rules to try, a body to try them on, and how many old events."""

    rules: str = Field(
        "",
        max_length=LONGEST_RULES,
        description="YAML with `routes:`, as in the config file, without variables; empty for the rules of today.",
    )
    raw: str = Field("", max_length=LONGEST_BODY, description="A body, as text.")
    label: tuple[Label, ...] = Field((), max_length=MAX_VALUES, description="Labels of its submission, NAME=VALUE.")
    events: int = Field(0, ge=0, le=MOST_EVENTS, description="How many of the newest events are compared.")


class ChangedEvent(Result):
    """An event that the tried rules would send elsewhere."""

    event_id: str
    source: str
    run_id: str
    status: str
    disposition: str
    before: list[str] = Field(description="Sinks that it reaches by the rules of today.")
    after: list[str] = Field(description="Sinks that it would reach.")


class Comparison(Result):
    """What the tried rules would change for the newest events."""

    compared: int
    complete: bool = Field(description="Whether as many were compared as were asked for, or are there.")
    changed: int
    items: list[ChangedEvent] = Field(description=f"The newest {MOST_CHANGED} that would change.")
    failures: dict[str, int] = Field(description="By route, on how many its expression could not be evaluated.")


class Trial(Result):
    """What the rules would do. Nothing is saved, and nothing is sent."""

    problems: list[str] = Field(description="Why the rules can't be used, each with its line; then the rest is null.")
    warnings: list[str] = Field(description="What is allowed, and probably a mistake.")
    body: Explanation | None = Field(description="What would become of the body, if one was given.")
    comparison: Comparison | None


class RulesText(Result):
    """The rules of today."""

    rules: str = Field(description="As YAML, without the file's comments.")


def get_rules(service: Service, _actor: Actor, _wanted: Scoped) -> RulesText:
    """Return the rules of today as YAML, to change and try."""
    return RulesText(rules=routes_text(service.config))


def try_rules(service: Service, actor: Actor, wanted: TrialParameters) -> Trial:
    """Tell what rules would do with a body, and what they would change for old events. Nothing is saved."""
    config = service.config
    if wanted.source and wanted.source not in config.sources:
        raise Invalid(f"source {wanted.source}: there is none; there are {', '.join(config.sources)}")
    given = (service.settings, config, wanted, TIME)
    with _TURNS.of(actor):
        if wanted.rules.strip() in ("", routes_text(config).strip()):
            return _tried(*given)
        # A few characters of a rule can take hours, and all memory: not of the process that answers webhooks.
        try:
            return run_bounded(_tried, *given)
        except TookTooMuch:
            most = f"{PROCESSOR} s of a processor, {CLOCK:g} s by the clock or {MEMORY >> 20} MiB"
            return Trial(problems=[f"to try these rules took over {most}"], warnings=[], body=None, comparison=None)


def _tried(settings: Settings, config: Config, wanted: TrialParameters, seconds: float) -> Trial:
    """Called in a process of its own, but for the rules of today."""
    with closing(Ledger(settings.database_url)) as ledger:
        try:
            tried, warnings = config, []
            if wanted.rules.strip():
                loaded = with_routes(config, wanted.rules)
                tried, warnings = loaded.config, loaded.warnings
            return Trial(
                problems=[],
                warnings=warnings,
                body=_explained(tried, wanted) if wanted.raw.strip() else None,
                comparison=_compared(ledger, config, tried, wanted, seconds) if wanted.events else None,
            )
        except ConfigError as error:
            return Trial(problems=list(error.problems), warnings=[], body=None, comparison=None)


def _explained(config: Config, wanted: TrialParameters) -> Explanation:
    labels = dict(each.split("=", 1) for each in wanted.label)
    body = wanted.raw.encode(errors="replace")
    return explain(config, wanted.source or next(iter(config.sources)), body, labels, time.time())


def _compared(ledger: Ledger, config: Config, tried: Config, wanted: TrialParameters, seconds: float) -> Comparison:
    began = time.thread_time()
    before, after = Router(config.routes), Router(tried.routes)
    changed: list[ChangedEvent] = []
    count = compared = 0
    complete = True
    for found in compare(ledger, before, after, Filter(source=wanted.source)):
        compared += 1
        if set(found.before) != set(found.after):
            count += 1
            if len(changed) < MOST_CHANGED:
                changed.append(
                    ChangedEvent(
                        event_id=found.event.id,
                        source=found.event.source,
                        run_id=found.event.run_id,
                        status=found.event.outcome,
                        disposition=found.event.disposition,
                        before=list(found.before),
                        after=list(found.after),
                    )
                )
        if compared == wanted.events:
            break
        if time.thread_time() - began > seconds:
            complete = False
            break
    failures = dict(after.failures)
    return Comparison(compared=compared, complete=complete, changed=count, items=changed, failures=failures)


GET_RULES: Final = call("GET", "/routes/rules", VIEW, get_rules)
TRY_RULES: Final = call("POST", "/routes/try", VIEW, try_rules)
