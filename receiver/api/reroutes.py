"""Create deliveries that old events lack: by the current routes, or to a sink that submits failed runs again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pydantic import Field

from handlers.support.resubmit_chain import RETRIED
from receiver.api.audit import audited
from receiver.api.endpoint import call
from receiver.api.models import Filtered, Moment, Result
from receiver.api.names import check_id, check_names
from receiver.api.operations import EXAMPLES, Chosen, TakenResult, of_ids, selection_of, with_whole_ids
from receiver.api.service import Actor, Service
from receiver.api.sinks import require_live_sink
from receiver.config.models import Config
from receiver.dispatch.reroute import ReroutePage, Rerouter, apply
from receiver.domain.api_key import OPERATE
from receiver.domain.callback import CALLBACK
from receiver.domain.event import UNEVALUATED
from receiver.errors import Invalid, NotAsExpected, NotFound
from receiver.ledger.access import audit
from receiver.ledger.selection import Selection

if TYPE_CHECKING:
    from handlers.resubmit.sink import ResubmitOptions

# Seconds after which a call returns where the next one continues, and events after which it takes no further page.
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


class ResubmitParameters(Chosen):
    """Which failed runs are submitted again: by id, or all matches of the filter."""

    into: str = Field("", max_length=200, description="The sink of type resubmit; required if there are several.")


def resubmit(service: Service, actor: Actor, wanted: ResubmitParameters) -> TakenResult:
    """Submit failed runs again, each once, through a sink of type resubmit.

    The sink knows the request of a run that was submitted here, and gets that of others from Skyvern. It skips a run
    that Skyvern itself will retry, or that has succeeded since. Its receipt is the new run. A call takes the newest
    runs, about 1000; call it again for others.
    """
    sink, options = resubmitter(service.config, wanted.into)
    statuses = sorted(set(wanted.status or RETRIED) & RETRIED)
    if not statuses:
        raise Invalid(f"status: only {', '.join(sorted(RETRIED))} runs can be submitted again")
    now = service.ledger.now()
    since = max(now - options.max_age, wanted.since or 0.0)
    until = now if wanted.until is None else min(now, wanted.until)
    selection = selection_of(wanted, status=tuple(statuses), since=since, until=until)
    selection = with_whole_ids(service, selection)
    pages = _plan(service, selection, sink)
    count = sum(len(page.deliveries) for page in pages)
    if wanted.dry_run:
        service.ledger.read(lambda it: check_names(service, actor, it, selection, empty=not count))
        for identifier in () if count else wanted.ids:
            service.ledger.read(lambda it: check_id(it, "ids", identifier, actor.source))  # noqa: B023 - runs at once
        return _result(pages, sink, until, dry_run=True)
    wanted.require_count()
    if wanted.expect is None:
        for identifier in wanted.ids:
            if not _plan(service, replace(selection, **of_ids([identifier])), sink):
                service.ledger.read(lambda it: check_id(it, "ids", identifier, actor.source))  # noqa: B023
                raise NotFound(
                    f"{identifier}: there is nothing to resubmit of it; only failed runs can, whose result came in the "
                    f"last {options.max_age / 3600:g} h (max_age of {sink}), and that {sink} has no delivery of: one "
                    "that it has is replayed"
                )
    elif wanted.expect != count:
        raise NotAsExpected(wanted.expect, count)
    chosen = {
        name: value for name, value in wanted.model_dump(mode="json", exclude={"dry_run", "expect"}).items() if value
    }
    with audited(service.ledger, actor, "resubmit", {**chosen, "into": sink}, source=wanted.source) as done:
        for page in pages:
            done.count += apply(service.ledger, page)
    return _result(pages, sink, until, dry_run=False)


def _plan(service: Service, selection: Selection, sink: str) -> list[ReroutePage]:
    """Return the plans that have deliveries to the sink, up to MOST deliveries or a page more."""
    pages: list[ReroutePage] = []
    count = 0
    for page in Rerouter(service.ledger, service.config, sink, ignore_routes=True).pages(selection):
        pages += [page] if page.deliveries else []
        count += len(page.deliveries)
        if count >= MOST:
            break
    return pages


def _result(pages: Sequence[ReroutePage], sink: str, until: float, *, dry_run: bool) -> TakenResult:
    rows = [each for page in pages for each in page.events if each.added]
    shown = rows[:EXAMPLES] if dry_run else []
    return TakenResult(
        dry_run=dry_run,
        count=len(rows),
        sinks={sink: len(rows)} if dry_run else {},
        examples=[{"id": row.id, "source": row.source, "run_id": row.run_id, "status": row.status} for row in shown],
        until=until,
        operation=None,
    )


def resubmitter(config: Config, name: str) -> tuple[str, ResubmitOptions]:
    """Return the sink that submits runs again, and its options. Raises Invalid."""
    from handlers.resubmit.sink import ResubmitOptions  # with its templates, which no other call needs

    found = [each for each, sink in config.sinks.items() if sink.type == "resubmit"]
    if name and name not in found:
        raise Invalid(f"into: {name} is not a sink of type resubmit; there are {', '.join(found) or 'none'}")
    if not found:
        raise Invalid("the config has no sink of type resubmit, which knows how runs are submitted again: add one")
    if not name and len(found) > 1:
        raise Invalid(f"into: say which; there are {', '.join(found)}")
    chosen = name or found[0]
    return chosen, ResubmitOptions.model_validate(dict(config.sinks[chosen].options))


REROUTE: Final = call("POST", "/events/reroute", OPERATE, reroute)
RESUBMIT_RUNS: Final = call("POST", "/runs/resubmit", OPERATE, resubmit)
