"""Which sinks an event goes to, and why. Pure: routes and a view of an event in, a verdict out.

What a rule sees as the run is its body with a few fields put straight: `status` is the outcome, `original_status` what
was sent, `attempt` and `retry_pending` are always there, `labels` are the submission's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from receiver import cel, mapping
from receiver.celscan import CelError
from receiver.errors import ConfigError
from receiver.mapping import Problem, show

if TYPE_CHECKING:
    from receiver.config import RouteConfig
    from receiver.run import Run

FIELDS = frozenset(
    """
    action_screenshot_urls agent_id agent_run_id ai_fallback app_url attempt attempts browser_address
    browser_console_log_url browser_profile_id browser_seed_source browser_session_id browser_settings_receipt
    browser_sink_profile_id browser_type cached_credits_used cdp_connect_headers created_at credits_used
    downloaded_file_urls downloaded_files error_code_mapping errors extra_http_headers extracted_information
    extracted_information_schema failure_category failure_reason finished_at labels max_screenshot_scrolling_times
    max_screenshot_scrolls max_steps_per_run model modified_at next_attempt_at organization_id original_status outcome
    output outputs parameters prompt proxy_location queued_at recording_archived recording_url recording_urls
    retried_by_workflow_run_id retried_from_workflow_run_id retry_pending run_id run_request run_type run_with
    screenshot_url screenshot_urls script_id script_run started_at status step_count summary task_id task_v2 total_cost
    total_steps totp_identifier totp_verification_url url webhook_callback_url webhook_failure_reason workflow_id
    workflow_permanent_id workflow_run_id workflow_system_prompt workflow_title
    """.split()
)
"""Fields that Skyvern 1.0.50 to 1.0.56 sends, and ours. Others may come, and are seen; this is to find misspelt ones."""

TIMES = ("created_at", "modified_at", "queued_at", "started_at", "finished_at", "next_attempt_at")

_OPT_IN = {"interim": "interim", "repeat": "repeats", "superseded": "superseded"}
_NOT_NEWS = {
    "interim": "the run has not ended, and the route does not say `interim: true`",
    "repeat": "it says nothing new, and the route does not say `repeats: true`",
    "superseded": "a newer event of the run is known, and the route does not say `superseded: true`",
}


@dataclass(frozen=True, slots=True)
class RunView:
    """An event as the routes see it.

    `disposition`: news, interim, repeat or superseded. `received_at`: seconds since the epoch.
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
    """What one route said. `error`: its expression could not be evaluated, which is no match."""

    route: str
    matched: bool
    why: str
    error: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where an event goes. No targets means unrouted."""

    targets: list[Target]
    explanations: list[RouteVerdict]


class _Route:
    """A route made ready: what it says in the usual cases is written once, not for each event."""

    def __init__(self, config: RouteConfig) -> None:
        self.config = config
        self.targets = [Target(each.sink, config.name, tuple(each.after)) for each in config.targets]
        self.conditions: list[mapping.Condition] = []
        self.expression: cel.Expression | None = None
        reason = "it has no condition"
        if isinstance(config.when, str):
            self.expression = cel.compile_rule(config.when)
            reason = "the expression is true"
        elif config.when is not None:
            self.conditions = mapping.compile_mapping(config.when)[0]
            reason = " and ".join(f"{each.path} is {each.wanted}" for each in self.conditions)
        self.yes = RouteVerdict(config.name, True, reason)
        self.no = RouteVerdict(config.name, False, "the expression is false")
        self.missing = [RouteVerdict(config.name, False, f"{each.path} is missing") for each in self.conditions]
        self.differs = [
            RouteVerdict(config.name, False, f"{each.path} is not {each.wanted}") for each in self.conditions
        ]

    def closed(self, disposition: str) -> RouteVerdict | None:
        """The verdict on an event that the route does not want to see at all."""
        if disposition == "news" or getattr(self.config, _OPT_IN.get(disposition, ""), False):
            return None
        why = _NOT_NEWS.get(disposition, f"an event that is {disposition} is not routed")
        return RouteVerdict(self.config.name, False, why)


class Router:
    """The routes, compiled. Raises ConfigError with every rule that can't be used."""

    def __init__(self, routes: Sequence[RouteConfig]) -> None:
        problems = [
            f"routes[{index}].when: {text}"
            for index, route in enumerate(routes)
            for _, text in rule_problems(route.when)
        ]
        if problems:
            raise ConfigError(*problems)
        self._routes = [_Route(route) for route in routes]
        self._rules = cel.Rules(route.expression for route in self._routes if route.expression)
        self.failures: Counter[str] = Counter()
        """By route, how often its expression could not be evaluated since this process began."""

    def match(self, view: RunView, *, explain: bool = False) -> Verdict:
        """Match an event against the routes, from top to bottom. Never raises.

        `explain`: let the reasons name values of the run, to show to a person. Without it they hold nothing of it.
        """
        subject = _Subject(view, self._rules, explain)
        targets: dict[str, Target] = {}
        explanations: list[RouteVerdict] = []
        stopped = ""
        for route in self._routes:
            config = route.config
            if stopped:
                explanations.append(RouteVerdict(config.name, False, f"{stopped} matched and says `stop: true`"))
                continue
            verdict = subject.test(route)
            explanations.append(verdict)
            if verdict.error:
                self.failures[config.name] += 1
            if verdict.matched:
                for target in route.targets:
                    targets.setdefault(target.sink, target)
                if config.stop:
                    stopped = config.name
        return Verdict([_present(target, targets) for target in targets.values()], explanations)


def _present(target: Target, targets: Mapping[str, Target]) -> Target:
    """A sink waits only for sinks that get this event: the route that names the other one may not have matched."""
    if all(name in targets for name in target.after):
        return target
    return Target(target.sink, target.route, tuple(name for name in target.after if name in targets))


@dataclass(slots=True)
class _Subject:
    """One event under test. What rules need is made when the first one asks for it."""

    view: RunView
    rules: cel.Rules
    explain: bool
    _root: dict[str, Any] | None = field(default=None, init=False)
    _evaluation: cel.Evaluation | None = field(default=None, init=False)

    def test(self, route: _Route) -> RouteVerdict:
        if closed := route.closed(self.view.disposition):
            return closed
        if route.expression:
            return self._expression(route, route.expression)
        if not route.conditions:
            return route.yes
        root = self._root or self._make_root()
        for index, condition in enumerate(route.conditions):
            result = mapping.test(condition, root)
            if result is mapping.Result.MISSING:
                return route.missing[index]
            if result is mapping.Result.DIFFERS:
                verdict = route.differs[index]
                return replace(verdict, why=f"{verdict.why} but {self._there(condition)}") if self.explain else verdict
        if not self.explain:
            return route.yes
        reasons = []
        for each in route.conditions:
            there = self._there(each)
            reasons.append(f"{each.path} is {there}" + (f", wanted {each.wanted}" if there != each.wanted else ""))
        return replace(route.yes, why=" and ".join(reasons))

    def _expression(self, route: _Route, expression: cel.Expression) -> RouteVerdict:
        if self._evaluation is None:
            run = _with_times(_straightened(self.view), self.rules)
            self._evaluation = cel.Evaluation(self.rules, {"run": run, "event": _event(self.view)})
        outcome = self._evaluation.test(expression)
        if outcome.error:
            return RouteVerdict(route.config.name, False, f"can't be evaluated: {outcome.error}", error=True)
        verdict = route.yes if outcome.matched else route.no
        if self.explain and (values := self._evaluation.values(expression)):
            shown = ", ".join(f"{path} is {show(value)}" for path, value in values)
            verdict = replace(verdict, why=f"{verdict.why}; there: {shown}")
        return verdict

    def _there(self, condition: mapping.Condition) -> str:
        """What the run has at the path."""
        return ", ".join(show(value) for value in islice(mapping.find(self._root, condition.parts), 3))

    def _make_root(self) -> dict[str, Any]:
        """What the paths of a mapping begin at."""
        self._root = _straightened(self.view)
        self._root["event"] = _event(self.view)
        return self._root


def _event(view: RunView) -> dict[str, Any]:
    return {
        "id": view.event_id,
        "source": view.source,
        "via": view.via,
        "disposition": view.disposition,
        "received_at": datetime.fromtimestamp(view.received_at, UTC),
    }


def _straightened(view: RunView) -> dict[str, Any]:
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


def _with_times(run: dict[str, Any], rules: cel.Rules) -> dict[str, Any]:
    """The run with its times as moments, which CEL can compare and subtract."""
    for name in TIMES:
        if rules.mentions(name) and isinstance(run.get(name), str):
            run[name] = _moment(run[name])
    return run


def _moment(text: str) -> Any:
    """Skyvern's times are UTC, with or without saying so. What is no time stays text."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return text


# --- What is wrong with routes


def rule_problems(when: str | Mapping[str, Any] | None) -> list[Problem]:
    """What is wrong with a rule, each with the keys below `when` where it stands."""
    if isinstance(when, str):
        try:
            cel.compile_rule(when)
        except CelError as error:
            return [((), str(error))]
        return []
    return [] if when is None else mapping.compile_mapping(when)[1]


def mentioned_fields(when: str | Mapping[str, Any] | None) -> list[str]:
    """The fields of the run that a rule which is right looks at."""
    if isinstance(when, str):
        names = [use.path[1] for use in cel.compile_rule(when).uses if use.path[0] == "run" and len(use.path) > 1]
    else:
        names = [condition.parts[0] for condition in mapping.compile_mapping(when or {})[0]]
    return list(dict.fromkeys(name for name in names if name != "event"))


def order_problems(routes: Sequence[RouteConfig], sinks: Iterable[str] | None = None) -> list[Problem]:
    """What is wrong with `after`: keys below `routes`, and the text.

    A sink may wait for one that its own route or an earlier one delivers to, and no two may wait for each other,
    whichever routes match. `sinks`: those that exist; of others it says nothing.
    """
    known = None if sinks is None else set(sinks)
    problems: list[Problem] = []
    delivered: set[str] = set()
    waits: dict[str, dict[str, Problem]] = {}
    for index, route in enumerate(routes):
        delivered |= {target.sink for target in route.targets}
        for place, target in enumerate(route.targets):
            for name in target.after:
                here = (index, "to", place, "after")
                if known is not None and name not in known:
                    continue
                if name == target.sink:
                    problems.append((here, f"{name} can't wait for itself"))
                elif name not in delivered:
                    problems.append((here, _late(name, index, routes)))
                else:
                    text = f"{target.sink} waits for {name}"
                    waits.setdefault(target.sink, {}).setdefault(name, (here, text))
    return problems + list(_circles(waits))


def _late(name: str, index: int, routes: Sequence[RouteConfig]) -> str:
    for later in routes[index + 1 :]:
        if any(target.sink == name for target in later.targets):
            return f"{name} gets its events from the later route {later.name}; move that up, or add {name} to this `to`"
    return f"{name} is a sink that neither this route nor an earlier one delivers to; add it to this `to`"


def _circles(waits: Mapping[str, Mapping[str, Problem]]) -> Iterator[Problem]:
    """One problem for each circle of sinks that wait for each other."""
    seen: set[frozenset[str]] = set()
    for start in waits:
        for trail in _trails(waits, start, (start,)):
            if frozenset(trail) not in seen:
                seen.add(frozenset(trail))
                here = waits[trail[-1]][start][0]
                yield (
                    here,
                    f"{trail[0]} waits for {', which waits for '.join([*trail[1:], start])}; let one of them go first",
                )


def _trails(waits: Mapping[str, Iterable[str]], start: str, trail: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name in waits.get(trail[-1], ()):
        if name == start:
            yield trail
        elif name not in trail:
            yield from _trails(waits, start, (*trail, name))
