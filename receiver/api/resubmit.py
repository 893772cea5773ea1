"""Submit failed runs again: a reroute of their results into a sink of type resubmit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pydantic import Field

from handlers.support.resubmit_chain import RETRIED
from receiver.api.audit import audited
from receiver.api.chosen import EXAMPLES, Chosen, TakenResult, of_ids, selection_of, with_whole_ids
from receiver.api.endpoint import call
from receiver.api.names import check_id, check_names
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.dispatch.reroute import ReroutePage, Rerouter, apply
from receiver.domain.api_key import OPERATE
from receiver.errors import Invalid, NotAsExpected, NotFound
from receiver.ledger.selection import Selection

if TYPE_CHECKING:
    from handlers.resubmit.sink import ResubmitOptions

# Runs after which a call takes no further page.
MOST: Final = 1000


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
    """Return the plans that have deliveries to the sink, up to MOST of them."""
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


RESUBMIT_RUNS: Final = call("POST", "/runs/resubmit", OPERATE, resubmit)
