"""Today's rules on old events: what each would reach, and what is new, as far as one call's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pydantic import Field

from receiver.api.audit import audited
from receiver.api.endpoint import call
from receiver.api.models import Filtered, Moment, Result
from receiver.api.names import check_names
from receiver.api.service import Actor, Service
from receiver.api.sinks import require_live_sink
from receiver.dispatch.reroute import ReroutePage, Rerouter, apply
from receiver.domain.api_key import OPERATE
from receiver.domain.callback import CALLBACK
from receiver.domain.event import UNEVALUATED
from receiver.errors import Invalid
from receiver.ledger import audit

# Seconds after which a call returns where the next one continues, and maximum events of one call.
TIME: Final = 5.0
MOST: Final = 1000


class RerouteParameters(Filtered):
    """Which old events the rules are asked about: of a run, or of a time."""

    into: str = Field("", max_length=200, description="Only deliveries to this sink.")
    ignore_routes: bool = Field(False, description="Give the sink `into` all results, regardless of the routes.")
    dry_run: bool = Field(False, description="Change nothing.")
    after: str = Field(
        "",
        max_length=20,
        pattern="^[0-9]*$",
        description="Cursor: `next` from the previous call.",
    )


class ReroutedRow(Result):
    """What today's rules say of an old event."""

    id: str
    source: str
    run_id: str
    status: str
    disposition: str
    result: str = Field(description="The first event with the same result. A sink gets one of these.")
    reaches: tuple[str, ...] = Field(description="The sinks that it would reach today.")
    added: tuple[str, ...] = Field(description="Those of them that have no delivery of the result.")


class RerouteResult(Result):
    """What a call has made, or with dry_run would make."""

    events: list[ReroutedRow]
    made: int = Field(description="Deliveries that were made; 0 for a dry run.")
    left: int = Field(description="Skipped events: their runs have newer ones.")
    failures: dict[str, int] = Field(description="By route, on how many events its rule could not be evaluated.")
    until: Moment = Field(description="Give it to the following calls: later events meet the current rules anyway.")
    next: str | None = Field(description="Cursor: give it as `after` to continue; null at the end.")


def reroute(service: Service, actor: Actor, parameters: RerouteParameters, most: int = MOST) -> RerouteResult:
    """Apply the current routes to old events. Call it again with `next` until that is null.

    A sink that has a result already, however its delivery ended, does not get it again: use replay.
    """
    if parameters.since is None and parameters.until is None and not parameters.run:
        raise Invalid("since: say which events: since, until or run")
    if parameters.into:
        require_live_sink(service, parameters.into)
    if parameters.ignore_routes:
        _require_target(parameters.into)
    if parameters.dry_run:
        return _asked(service, actor, parameters, most, lambda _page: 0)
    selected = parameters.model_dump(mode="json", exclude={"dry_run"})
    chosen = {name: value for name, value in selected.items() if value}
    with audited(service.ledger, actor, "reroute", chosen, source=parameters.source) as done:

        def make(page: ReroutePage) -> int:
            made = apply(service.ledger, page)
            done.count += made
            return made

        found = _asked(service, actor, parameters, most, make)
        if found.failures:
            done.outcome, done.detail = audit.FAILED, f"{UNEVALUATED}: {', '.join(found.failures)}"
        return found


def _require_target(sink: str) -> None:
    """Raise Invalid for a sink that cannot be given results regardless of the routes."""
    if not sink:
        raise Invalid("into: name the sink that gets all results")
    if sink == CALLBACK:
        raise Invalid(f"into: {CALLBACK}: callers' webhooks are made for their own runs, and not afterwards")


def _asked(
    service: Service, actor: Actor, parameters: RerouteParameters, most: int, make: Callable[[ReroutePage], int]
) -> RerouteResult:
    """Ask the rules about as many events as a call may take, and give each page to `make`, which says how many
    deliveries it made."""
    now, end = service.ledger.now(), time.monotonic() + TIME
    selection = replace(parameters.filter(), until=now if parameters.until is None else min(now, parameters.until))
    rerouter = Rerouter(service.ledger, service.config, parameters.into, ignore_routes=parameters.ignore_routes)
    rows: list[ReroutedRow] = []
    made, left, following = 0, 0, None
    for page in rerouter.pages(selection, int(parameters.after) if parameters.after else None):
        made, left = made + make(page), left + page.left
        rows += (ReroutedRow(**each._asdict()) for each in page.events)
        if len(rows) + left >= most or time.monotonic() > end:
            following = str(page.oldest)
            break
    if not (rows or left or parameters.after):
        service.ledger.read(lambda it: check_names(service, actor, it, selection, empty=True))
    return RerouteResult(
        events=rows,
        made=made,
        left=left,
        failures=dict(sorted(rerouter.failures.items())),
        until=selection.until,
        next=following,
    )


REROUTE: Final = call("POST", "/events/reroute", OPERATE, reroute)
