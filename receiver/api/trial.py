"""Try rules without saving them: on a body, and on old events, compared with the current rules."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Final

from pydantic import Field

from receiver.api.call_pool import place_in
from receiver.api.endpoint import call
from receiver.api.models import MAX_VALUES, Label, Result, Scoped
from receiver.api.routes import Explanation, explain, source_or_first
from receiver.api.service import Actor, Service
from receiver.config.loader import routes_text, with_routes
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.dispatch.reroute import compare
from receiver.domain.api_key import VIEW
from receiver.errors import ConfigError
from receiver.ledger import Ledger
from receiver.ledger.filters import Filter
from receiver.routing.router import Router
from receiver.runtime.bounded_process import CLOCK, MEMORY, PROCESSOR, TookTooMuch, run_bounded

# Maximum characters of rules and of a body.
LONGEST_RULES: Final = 64 << 10
LONGEST_BODY: Final = 512 << 10
# Maximum old events that are compared, and that are listed.
MOST_EVENTS: Final = 1000
MOST_CHANGED: Final = 100
# Seconds of CPU time after which the comparison ends.
TIME: Final = 0.5
# Trials at once: their host also receives webhooks.
_TRIALS: Final = threading.BoundedSemaphore(2)


class TrialParameters(Scoped):
    """Rules to try, a body to try them on, and how many old events."""

    rules: str = Field(
        "",
        max_length=LONGEST_RULES,
        description="YAML with `routes:`, as in the config file, without variables; empty for the current rules.",
    )
    raw: str = Field("", max_length=LONGEST_BODY, description="A body, as text.")
    label: tuple[Label, ...] = Field((), max_length=MAX_VALUES, description="Labels of its submission, NAME=VALUE.")
    events: int = Field(0, ge=0, le=MOST_EVENTS, description="Maximum events to compare, newest first.")


class ChangedEvent(Result):
    """An event that the new rules would send elsewhere."""

    event_id: str
    source: str
    run_id: str
    status: str
    disposition: str
    before: list[str] = Field(description="Sinks that it reaches by the current rules.")
    after: list[str] = Field(description="Sinks that it would reach.")


class Comparison(Result):
    """What the new rules would change for the newest events."""

    compared: int
    complete: bool = Field(description="Whether all requested events were compared.")
    changed: int
    items: list[ChangedEvent] = Field(description=f"The newest {MOST_CHANGED} that would change.")
    failures: dict[str, int] = Field(description="By route, the events on which its expression failed.")


class Trial(Result):
    """What the rules would do. Nothing is saved or sent."""

    problems: list[str] = Field(description="Why the rules are invalid, each with its line; then the rest is null.")
    warnings: list[str] = Field(description="What is valid, but probably a mistake.")
    body: Explanation | None = Field(description="What happens to the body, if one was given.")
    comparison: Comparison | None


class RulesText(Result):
    """The current rules."""

    rules: str = Field(description="As YAML, without the file's comments.")


def get_rules(service: Service, _actor: Actor, _wanted: Scoped) -> RulesText:
    """Return the current rules as YAML."""
    return RulesText(rules=routes_text(service.config))


def try_rules(service: Service, _actor: Actor, parameters: TrialParameters) -> Trial:
    """Try rules on a body, and compare them with the current rules on old events. Nothing is saved."""
    config = service.config
    source_or_first(config, parameters.source)
    given = (service.settings, config, parameters, TIME)
    with place_in(_TRIALS, "other rules are being tried"):
        if parameters.rules.strip() in ("", routes_text(config).strip()):
            return _tried(*given)
        # A short rule can take hours and all memory: it must not be those of the process that receives webhooks.
        try:
            return run_bounded(_tried, *given)
        except TookTooMuch:
            most = f"{PROCESSOR} s of a processor, {CLOCK:g} s by the clock or {MEMORY >> 20} MiB"
            return Trial(problems=[f"trying these rules took over {most}"], warnings=[], body=None, comparison=None)


def _tried(settings: Settings, config: Config, parameters: TrialParameters, seconds: float) -> Trial:
    """Called in a process of its own, except for the current rules."""
    with closing(Ledger(settings.database_url)) as ledger:
        try:
            tried, warnings = config, []
            if parameters.rules.strip():
                loaded = with_routes(config, parameters.rules)
                tried, warnings = loaded.config, loaded.warnings
            return Trial(
                problems=[],
                warnings=warnings,
                body=_explained(tried, parameters) if parameters.raw.strip() else None,
                comparison=_compared(ledger, config, tried, parameters, seconds) if parameters.events else None,
            )
        except ConfigError as error:
            return Trial(problems=list(error.problems), warnings=[], body=None, comparison=None)


def _explained(config: Config, parameters: TrialParameters) -> Explanation:
    labels = dict(each.split("=", 1) for each in parameters.label)
    body = parameters.raw.encode(errors="replace")
    return explain(config, source_or_first(config, parameters.source), body, labels, time.time())


def _compared(ledger: Ledger, config: Config, tried: Config, parameters: TrialParameters, seconds: float) -> Comparison:
    began = time.thread_time()
    before, after = Router(config.routes), Router(tried.routes)
    changed: list[ChangedEvent] = []
    count = compared = 0
    complete = True
    for found in compare(ledger, before, after, Filter(source=parameters.source)):
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
        if compared == parameters.events:
            break
        if time.thread_time() - began > seconds:
            complete = False
            break
    failures = dict(after.failures)
    return Comparison(compared=compared, complete=complete, changed=count, items=changed, failures=failures)


GET_RULES: Final = call("GET", "/routes/rules", VIEW, get_rules)
TRY_RULES: Final = call("POST", "/routes/try", VIEW, try_rules)
