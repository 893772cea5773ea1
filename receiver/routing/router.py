"""Which sinks an event goes to, and why. Pure: routes and a view of an event in, a verdict out.

A rule sees the run's body with a few fields adjusted: `status` is the outcome, `original_status` the status that was
sent, `attempt` and `retry_pending` always exist, `labels` are the submission's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from handlers.support.timestamps import utc
from receiver.routing import cel, mapping
from receiver.routing.mapping import Outcome
from receiver.routing.route import RouteConfig
from receiver.routing.validation import OPT_IN, UPDATE

if TYPE_CHECKING:
    from receiver.domain.run import Run

# Fields of the run that expressions see as moments, not as texts.
_TIMES = ("created_at", "modified_at", "queued_at", "started_at", "finished_at", "next_attempt_at")
_NOT_NEW = {
    "interim": "the run has not ended, and the route does not say `interim: true`",
    "repeat": "it says nothing new, and the route does not say `repeats: true`",
    "test": "it is a test webhook, and the route does not say `test: true`",
    "superseded": "a newer event of the run is known, and the route does not say `superseded: true`",
}


class RunView(NamedTuple):
    """An event as the routes see it.

    `disposition`: new, interim, update, repeat, superseded or test. `received_at`: seconds since the epoch.
    """

    run: Run
    source: str
    via: str
    disposition: str
    labels: Mapping[str, str]
    received_at: float
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A delivery to make: to `sink`, because of `route`, when the receipts of `after` are there."""

    sink: str
    route: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteVerdict:
    """The verdict of one route. `error`: its expression could not be evaluated, which is no match.

    A missing field is no match either, and no error.
    """

    route: str
    matched: bool
    why: str
    error: bool = False


class Verdict(NamedTuple):
    """Where an event goes. No targets means unrouted. `explanations`: one for each route.

    `reaches`: the sinks of all matching routes, including those that get no second delivery.
    """

    targets: list[Target]
    explanations: list[RouteVerdict]
    reaches: tuple[str, ...] = ()


class _CompiledRoute:
    """A route with its compiled rule."""

    def __init__(self, config: RouteConfig) -> None:
        self.config = config
        self.targets = [Target(each.sink, config.name, tuple(each.after)) for each in config.targets]
        when = config.when
        self.expression = cel.compile_rule(when) if isinstance(when, str) else None
        self.conditions = mapping.compile_mapping(when)[0] if when and not isinstance(when, str) else []

    def skipped(self, view: RunView) -> Outcome | None:
        """Return the outcome for an event of a kind that the route does not take, else None."""
        if view.disposition in ("new", UPDATE) and view.run.final:
            return None
        for disposition in (view.disposition, "new" if view.run.final else "interim"):
            if disposition not in ("new", UPDATE) and not getattr(self.config, OPT_IN.get(disposition, ""), False):
                return Outcome(False, _NOT_NEW.get(disposition, f"an event that is {disposition} is not routed"))
        return None


class Router:
    """The routes, compiled: valid ones, as `validation` finds them.

    `completing`: the sinks that take updates, to complete what they keep of a result.
    """

    def __init__(self, routes: Sequence[RouteConfig], completing: Collection[str] = ()) -> None:
        self._completing = frozenset(completing)
        self._updating_routes = frozenset(each.name for each in routes if each.updates or each.repeats)
        self._routes = [_CompiledRoute(route) for route in routes]
        self._rules = tuple(dict.fromkeys(route.expression for route in self._routes if route.expression))
        # By route, how often its expression could not be evaluated since this process began.
        self.failures: Counter[str] = Counter()

    def gets_updates(self, sink: str, route: str) -> bool:
        """Whether `sink`, which has a result because of `route`, gets updates: the sink completes what it stores,
        or the route asks for updates."""
        return sink in self._completing or route in self._updating_routes

    def match(self, view: RunView, *, earlier_sinks: Collection[str] = (), explain: bool = False) -> Verdict:
        """Match an event against the routes, from top to bottom. Never raises.

        `earlier_sinks`: sinks that got the result before, which get an update only if `gets_updates` is true.
        `explain`: the reasons name values of the run, to show to a person; otherwise they hold none.
        """
        subject = _Subject(view, self._rules, explain)
        targets: dict[str, Target] = {}
        explanations: list[RouteVerdict] = []
        reaches: dict[str, None] = {}
        stopped = ""
        for route in self._routes:
            config = route.config
            if stopped:
                explanations.append(RouteVerdict(config.name, False, f"{stopped} matched and says `stop: true`"))
                continue
            outcome = subject.test(route)
            explanations.append(RouteVerdict(config.name, *outcome))
            if outcome.error:
                self.failures[config.name] += 1
            if outcome.matched:
                reaches.update(dict.fromkeys(target.sink for target in route.targets))
                for target in route.targets:
                    if target.sink not in earlier_sinks or self.gets_updates(target.sink, config.name):
                        targets.setdefault(target.sink, target)
                if config.stop:
                    stopped = config.name
        reached = {*targets, *earlier_sinks}
        return Verdict([_linked(target, reached) for target in targets.values()], explanations, tuple(reaches))


def _linked(target: Target, reached: Collection[str]) -> Target:
    """Drop sinks to wait for that the result does not reach: the route that names them may not have matched.

    A sink that got an earlier event stays: its receipt belongs to this update too.
    """
    return Target(target.sink, target.route, tuple(name for name in target.after if name in reached))


@dataclass(slots=True)
class _Subject:
    """One event under test. The inputs of rules are made when the first rule needs them."""

    view: RunView
    rules: Sequence[cel.Expression]
    explain: bool
    _root: dict[str, Any] | None = field(default=None, init=False)
    _evaluation: cel.Evaluation | None = field(default=None, init=False)

    def test(self, route: _CompiledRoute) -> Outcome:
        if skipped := route.skipped(self.view):
            return skipped
        if not route.expression:
            if self._root is None:
                self._root = {**_normalized(self.view), "event": _event(self.view)}
            return mapping.test(route.conditions, self._root, explain=self.explain)
        if self._evaluation is None:
            run = _with_times(_normalized(self.view))
            self._evaluation = cel.Evaluation(self.rules, {"run": run, "event": _event(self.view)})
        return self._evaluation.test(route.expression, explain=self.explain)


def _event(view: RunView) -> dict[str, Any]:
    return {
        "id": view.event_id,
        "source": view.source,
        "via": view.via,
        "disposition": view.disposition,
        "received_at": datetime.fromtimestamp(view.received_at, UTC),
    }


def _normalized(view: RunView) -> dict[str, Any]:
    run = view.run
    return {
        **run.data,
        "run_id": run.run_id,
        "run_type": run.run_type,
        "status": run.outcome,
        "outcome": run.outcome,
        "original_status": run.status,
        "attempt": run.attempt,
        "retry_pending": run.retry_pending,
        "labels": dict(view.labels),
    }


def _with_times(run: dict[str, Any]) -> dict[str, Any]:
    """Return the run with its times as moments, which CEL can compare and subtract. An invalid time stays text."""
    for name in _TIMES:
        if isinstance(run.get(name), str):
            run[name] = utc(run[name]) or run[name]
    return run
