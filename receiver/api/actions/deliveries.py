"""Actions on deliveries: replay, cancel, bring back; old results for a sink; failed runs submitted again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pydantic import Field

from handlers.support.resubmit_chain import RETRIED
from receiver.api.actions.chosen import Chosen, TakenResult, selection_of, take
from receiver.api.endpoint import Endpoint
from receiver.api.models import MAX_VALUES
from receiver.api.service import Actor, Service
from receiver.api.sinks import require_live_sink, require_sink
from receiver.config.models import Config
from receiver.domain.api_key import OPERATE
from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryState
from receiver.errors import Invalid
from receiver.ledger.actions import BACKFILL, CANCEL, REPLAY, RESTORE, Action

if TYPE_CHECKING:
    from handlers.resubmit.sink import ResubmitOptions

REPLAYABLE: Final = (DeliveryState.DEAD, DeliveryState.DELIVERED, DeliveryState.WAITING)
_NOT_REPLAYED: Final = (
    "; what was delivered is sent again with force, what waits with state waiting, and what was cancelled is brought "
    "back with restore"
)


class DeliverySelection(Chosen):
    """Which deliveries: by id, or all that the filter finds."""

    event_id: str = Field("", max_length=200, description="Only of this event.")
    sink: str = Field("", max_length=200, description="Only to this sink.")
    route: str = Field("", max_length=200, description="Only by this route.")
    state: tuple[DeliveryState, ...] = Field((), max_length=MAX_VALUES, description="Only in this state.")


class ReplayParameters(DeliverySelection):
    """Which deliveries are sent again: dead letters, unless `state` or `force` says otherwise."""

    state: tuple[DeliveryState, ...] = Field(
        (),
        max_length=MAX_VALUES,
        description="Only in this state: dead (the default), delivered, or waiting: those are tried now.",
    )
    force: bool = Field(False, description="Also what was delivered already.")
    rate: float = Field(0.0, ge=0, allow_inf_nan=False, description="So many a second at the most; 0: no limit.")


class BackfillParameters(Chosen):
    """Which old results a sink gets: events or runs by id, or all that the filter finds."""

    into: str = Field(max_length=200, description="The sink that gets them.")
    rate: float = Field(0.0, ge=0, allow_inf_nan=False, description="So many a second at the most; 0: no limit.")


class ResubmitParameters(Chosen):
    """Which failed runs are submitted again: by id, or all that the filter finds."""

    into: str = Field("", max_length=200, description="The sink of type resubmit; needed where there are several.")
    rate: float = Field(0.0, ge=0, allow_inf_nan=False, description="So many a second at the most; 0: no limit.")


def replay(service: Service, actor: Actor, wanted: ReplayParameters) -> TakenResult:
    """Send deliveries again, under the same idempotency keys. Those of sinks that left the config are left."""
    if unknown := set(wanted.state) - set(REPLAYABLE):
        raise Invalid(f"state: {min(unknown)}: only dead, delivered and waiting ones can be replayed")
    if wanted.sink:
        require_live_sink(service, wanted.sink)
    force = wanted.force or DeliveryState.DELIVERED in wanted.state
    selection = selection_of(wanted, sinks=tuple(service.config.destinations))
    hint = "" if force else _NOT_REPLAYED
    return take(service, actor, wanted, Action(REPLAY, selection, force=force, rate=wanted.rate), hint=hint)


def backfill(service: Service, actor: Actor, wanted: BackfillParameters) -> TakenResult:
    """Give a sink old results that it has no delivery of, by no rule."""
    require_sink(service.config, wanted.into)
    if wanted.into == CALLBACK:
        raise Invalid(f"into: {CALLBACK}: callers' webhooks are made for their own runs, and not afterwards")
    return take(service, actor, wanted, Action(BACKFILL, selection_of(wanted), wanted.into, rate=wanted.rate))


def resubmit(service: Service, actor: Actor, wanted: ResubmitParameters) -> TakenResult:
    """Submit failed runs again, each once, through a sink of type resubmit.

    The sink knows the request of a run that was submitted here, and asks Skyvern for that of any other; a run that
    Skyvern itself will try again, or that has come right meanwhile, it leaves. What it made is its receipt.
    """
    sink, options = resubmitter(service.config, wanted.into)
    statuses = sorted(set(wanted.status or RETRIED) & RETRIED)
    if not statuses:
        raise Invalid(f"status: only {', '.join(sorted(RETRIED))} runs can be submitted again")
    too_old = time.time() - options.max_age
    since = too_old if wanted.since is None else max(too_old, wanted.since)
    selection = selection_of(wanted, status=tuple(statuses), since=since)
    hint = (
        f"; only failed runs can, whose result came in the last {options.max_age / 3600:g} h (max_age of {sink}), and "
        f"that {sink} has no delivery of: one that it has is replayed"
    )
    action = Action(BACKFILL, selection, sink, rate=wanted.rate)
    return take(service, actor, wanted, action, name="resubmit", hint=hint)


def cancel(service: Service, actor: Actor, wanted: DeliverySelection) -> TakenResult:
    """Cancel deliveries that wait: held, queued and waiting ones. What is being sent goes on."""
    return take(service, actor, wanted, Action(CANCEL, selection_of(wanted)), hint="; only what waits can be cancelled")


def restore(service: Service, actor: Actor, wanted: DeliverySelection) -> TakenResult:
    """Bring back cancelled deliveries: due at once, with all of their attempts."""
    return take(
        service, actor, wanted, Action(RESTORE, selection_of(wanted)), hint="; only what is cancelled comes back"
    )


def resubmitter(config: Config, name: str) -> tuple[str, ResubmitOptions]:
    """Return the sink that submits runs again, and its options. Raises Invalid."""
    from handlers.resubmit.sink import ResubmitOptions  # with its templates, which no other call needs

    found = [each for each, sink in config.sinks.items() if sink.type == "resubmit"]
    if name and name not in found:
        raise Invalid(f"into: {name} is no sink of type resubmit; there are {', '.join(found) or 'none'}")
    if not found:
        raise Invalid("the config has no sink of type resubmit, which knows how runs are submitted again: add one")
    if not name and len(found) > 1:
        raise Invalid(f"into: say which; there are {', '.join(found)}")
    chosen = name or found[0]
    return chosen, ResubmitOptions.model_validate(dict(config.sinks[chosen].options))


REPLAY_DELIVERIES: Final = Endpoint(
    "replay", "POST", "/deliveries/replay", OPERATE, ReplayParameters, TakenResult, replay
)
CANCEL_DELIVERIES: Final = Endpoint(
    "cancel", "POST", "/deliveries/cancel", OPERATE, DeliverySelection, TakenResult, cancel
)
RESTORE_DELIVERIES: Final = Endpoint(
    "restore", "POST", "/deliveries/restore", OPERATE, DeliverySelection, TakenResult, restore
)
BACKFILL_SINK: Final = Endpoint(
    "backfill", "POST", "/events/backfill", OPERATE, BackfillParameters, TakenResult, backfill
)
RESUBMIT_RUNS: Final = Endpoint(
    "resubmit", "POST", "/runs/resubmit", OPERATE, ResubmitParameters, TakenResult, resubmit
)
ENDPOINTS = (REPLAY_DELIVERIES, CANCEL_DELIVERIES, RESTORE_DELIVERIES, BACKFILL_SINK, RESUBMIT_RUNS)
