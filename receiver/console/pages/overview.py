"""The first page: what is wrong now; then numbers with their lists, sinks, incidents, charts, newest runs.

Who may see one source only sees the same of that source, without what concerns the whole deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from receiver.api.deliveries import CANCEL_DELIVERIES
from receiver.api.incidents import LIST_INCIDENTS
from receiver.api.runs import LIST_RUNS
from receiver.api.sinks import LIST_SINKS, RESUME_SINK
from receiver.api.status import GET_STATUS, PartRow, ProblemRow, Status, status_of
from receiver.api.submissions import LIST_MISSING
from receiver.api.totals import GET_AGES, GET_TOTALS, Ages, TotalRow, Totals
from receiver.checks.survey import survey
from receiver.console.charts import Buckets, Chart, Values, Window, percent, window_links, window_of
from receiver.console.page import PATH, SHARE, ConsolePage, PageLink, PageRequest, PageValues
from receiver.console.pages.sinks import state_of
from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryState
from receiver.domain.durations import ago
from receiver.domain.liveness import STUCK_AFTER
from receiver.ledger.database import async_ledger
from receiver.ledger.stats import COUNT_LIMIT

# Runs, missing results and reasons on the page.
_NEWEST: Final = 10
_MISSING: Final = 50
_REASONS: Final = 8
# Incidents on the page.
_INCIDENTS: Final = 5
# Maximum sinks of the page; those that need attention come before others.
_SINKS: Final = 12
# How runs end, in what colour; what is in none of these has another end, or none yet.
_ENDS: Final = (
    ("completed", "good", ("completed",)),
    ("failed", "bad", ("failed",)),
    ("terminated or timed out", "wait", ("terminated", "timed_out")),
)
# The name of the figure that counts unsuccessful runs.
_BAD_ENDS: Final = "failed, terminated or timed out"
# What the console can do about a problem, by its code: links, with their paths, and actions on the sink that it names.
LINKS: Final[Mapping[str, tuple[str, str]]] = {
    "quarantine": ("Show quarantine", "/quarantine"),
    "sink_paused": ("Show sinks", "/sinks"),
    "sink_down": ("Show sinks", "/sinks"),
    "sink_gone": ("Show sinks", "/sinks"),
    "sink_refuses": ("Show dead letters", "/dead"),
    "callers_down": ("Show addresses", "/sinks/callback"),
    "delivery_late": ("Show deliveries", "/deliveries?state=queued"),
    "delivery_dead": ("Show dead letters", "/dead"),
    "operations": ("Show operations", "/operations"),
    "watch_trouble": ("Show agents", "/agents"),
}
_ON_SINK: Final[Mapping[str, tuple[str, str]]] = {
    "sink_paused": (RESUME_SINK.name, "Resume"),
    "sink_down": (RESUME_SINK.name, "Try now"),
    "sink_gone": (CANCEL_DELIVERIES.name, "Cancel its deliveries"),
}


def overview(request: PageRequest) -> PageValues:
    """Return what is wrong, first; numbers, sinks, incidents, charts, dead letters, processes, and the newest runs."""
    actor, config = request.actor, request.service.config
    window = window_of(request.query)
    buckets = window.buckets(request.service.ledger.known_now())

    def total(**given: Any) -> Totals:
        return request.call(GET_TOTALS, **{"since": buckets.since, "bucket": window.seconds, "top": 500, **given})

    status = None
    if not actor.source:
        GET_STATUS.allowed(actor, GET_STATUS.validated({}))
        status = status_of(survey(request.service.settings, async_ledger.WAIT * SHARE))
    names = [] if status is None else [*config.destinations, *status.ledger.orphans]
    known = {
        "title": "Overview",
        "here": "Overview",
        "status": status,
        "problems": [] if status is None else [_advice(each, names) for each in status.problems],
        "names": names,
        "processes": [] if status is None else _processes(status),
        "partial": status is not None and bool(status.ledger.trouble),
    }
    if known["partial"]:  # what the ledger would have to be asked for is left out
        return known
    runs = total(by="status")
    sinks = total(by="sink,state")
    dead = total(by="sink,reason", state=("dead",), since=0.0, bucket=None)
    ages = request.call(GET_AGES, since=buckets.since, bucket=window.seconds)
    missing = request.call(LIST_MISSING, limit=_MISSING)
    incidents = sorted(request.call(LIST_INCIDENTS, since=window.name).items, key=lambda row: -row.last_at)
    listed = _sinks(request, buckets, sinks.items[1:])
    shown = {each["row"].name for each in sorted(listed, key=_urgency)[:_SINKS]}
    listed.sort(key=lambda each: bool(each["state"] == "ready"))
    overdue = f"{len(missing.items)}{'+' if missing.next else ''}"
    return {
        **known,
        "window": window,
        "windows": window_links("/", request.query, window),
        "figures": [*_of_runs(runs, window), *_of_work(status, dead, overdue)],
        "charts_of": {
            "runs": _throughput(buckets, runs.items[1:]),
            "success": _success(buckets, runs.items[1:]),
            "ages": _ages(buckets, ages),
        },
        "counted_since": runs.counted_since or sinks.counted_since,
        "dead": [_dead(each) for each in dead.items[1 : 1 + _REASONS]],
        "more_dead": len(dead.items) > 1 + _REASONS,
        "incidents": incidents[:_INCIDENTS],
        "all_incidents": len(incidents),
        "sinks": [each for each in listed if each["row"].name in shown],
        "more_sinks": len(listed) if len(listed) > _SINKS else 0,
        "runs": request.call(LIST_RUNS, limit=_NEWEST).items,
    }


def _path(path: str, **query: str | Sequence[str]) -> str:
    return f"{PATH}{path}?{urlencode(query, doseq=True)}"


class Figure(NamedTuple):
    """A number of the first page. `path`: of the list behind it, or "". `tone`: bad, wait or ""."""

    name: str
    value: str
    path: str = ""
    tone: str = ""


def _of_runs(runs: Totals, window: Window) -> list[Figure]:
    """Return the numbers of the runs of the window."""
    everyone = runs.items[0]
    unsuccessful, rate = everyone.ended - everyone.good, everyone.success_rate

    def delay(seconds: float | None) -> str:
        return "–" if seconds is None else ago(seconds)

    good = "–" if rate is None else percent(round(100 * rate, 1))
    return [
        Figure("runs", f"{everyone.count:,}", _path("/runs", since=window.name)),
        Figure("successful", good, _path("/runs", since=window.name, status="completed")),
        Figure(_BAD_ENDS, f"{unsuccessful:,}", _path("/incidents", window=window.name), "bad" if unsuccessful else ""),
        Figure("median delay", delay(everyone.age_p50)),
        Figure("p95 delay", delay(everyone.age_p95)),
    ]


def _of_work(status: Status | None, dead: Totals, overdue: str) -> list[Figure]:
    """Return the numbers of what is under way, or stays behind."""
    count = dead.items[0].count
    more = "+" if dead.counted_since else ""
    figures = [
        Figure("dead letters", f"{count:,}{more}", f"{PATH}/dead", "bad" if count else ""),
        Figure("results overdue", overdue, f"{PATH}/missing", "wait" if overdue != "0" else ""),
    ]
    if status is None:
        return figures

    def waiting(*states: str) -> str:
        counts = [each.get(state, 0) for each in status.ledger.deliveries.values() for state in states]
        return f"{sum(counts):,}{'+' if any(each >= COUNT_LIMIT for each in counts) else ''}"

    pending = ("queued", "sending", "held")
    return [
        Figure("deliveries pending", waiting(*pending), _path("/deliveries", state=pending)),
        Figure("deliveries retrying", waiting("waiting"), _path("/deliveries", state="waiting")),
        *figures,
    ]


class Advice(NamedTuple):
    """A problem with what this console can do about it. `links`: label and path. `actions`: name, label and fields."""

    what: str
    todo: str
    note: bool
    links: Sequence[tuple[str, str]]
    actions: Sequence[tuple[str, str, Mapping[str, str]]]


def _advice(problem: ProblemRow, sinks: Sequence[str]) -> Advice:
    """Return a problem with its buttons. The text of one about a sink begins with the sink's name."""
    links = [(label, PATH + path) for label, path in (LINKS[problem.code],)] if problem.code in LINKS else []
    sink = problem.what.removeprefix("removed sink ").partition(" ")[0]
    if sink in sinks and links == [("Show sinks", f"{PATH}/sinks")]:
        links = [("Show sink", f"{PATH}/sinks/{quote(sink, safe='')}")]
    done = [(*_ON_SINK[problem.code], {"sink": sink})] if sink in sinks and problem.code in _ON_SINK else []
    todo = "" if done and problem.code == "sink_paused" else problem.todo  # the button is all of it
    return Advice(problem.what, todo, problem.note, links, done)


def _summed(rows: Iterable[TotalRow], value: Callable[[TotalRow], float]) -> dict[float, float]:
    sums: dict[float, float] = {}
    for row in rows:
        sums[row.at or 0.0] = sums.get(row.at or 0.0, 0.0) + value(row)
    return sums


def _throughput(buckets: Buckets, rows: Sequence[TotalRow]) -> Chart:
    """Return a chart of runs by their ends. A run that Skyvern will retry has not ended, as in the figures."""

    def ended(statuses: Collection[str]) -> list[float | None]:
        return buckets.values(_summed((row for row in rows if row.key["status"] in statuses), lambda row: row.ended))

    series = [Values(name, tone, ended(statuses)) for name, tone, statuses in _ENDS]
    rest = buckets.values(_summed(rows, lambda row: row.count - row.ended))
    return Chart("Runs", buckets, [*series, Values("other or active", "soft", rest)])


def _success(buckets: Buckets, rows: Sequence[TotalRow]) -> Chart:
    good = _summed(rows, lambda row: row.good)
    ended = _summed(rows, lambda row: row.ended)
    rates: list[float | None] = [100 * good[at] / ended[at] if ended.get(at) else None for at in buckets.starts]
    series = [Values("completed of those that ended", "good", rates)]
    return Chart("Success", buckets, series, percent, stacked=False, highest=100.0)


def _ages(buckets: Buckets, ages: Ages) -> Chart:
    half, most = ({each.at: getattr(each, name) for each in ages.items} for name in ("age_p50", "age_p95"))
    series = [
        Values("median", "accent", [half.get(at) for at in buckets.starts]),
        Values("p95", "wait", [most.get(at) for at in buckets.starts]),
    ]
    return Chart("Delay of results", buckets, series, ago, stacked=False)


def _dead(row: TotalRow) -> dict[str, Any]:
    sink, reason = row.key["sink"], row.key["reason"]
    return {"sink": sink, "reason": reason, "count": row.count, "path": _path("/dead", sink=sink)}


def _sinks(request: PageRequest, buckets: Buckets, counted: Sequence[TotalRow]) -> list[dict[str, Any]]:
    """Return each sink with what became of its deliveries; for a person of one source, those that got some of it."""
    by_sink: dict[str, list[TotalRow]] = {}
    for each in counted:
        by_sink.setdefault(each.key["sink"], []).append(each)
    return [
        {"row": row, "state": state_of(row), **_health(buckets, by_sink.get(row.name, []))}
        for row in request.call(LIST_SINKS).items
        if row.name in by_sink or (not request.actor.source and (row.name != CALLBACK or row.deliveries))
    ]


def _urgency(sink: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Return the place of a sink: what is not ready first, then what is late, then what has deliveries left."""
    row = sink["row"]
    return sink["state"] == "ready", not row.lag, not row.deliveries


def _health(buckets: Buckets, rows: Sequence[TotalRow]) -> dict[str, Any]:
    """Return what became of a sink's deliveries but cancelled ones, as a picture and as numbers."""
    rows = [row for row in rows if row.key["state"] != DeliveryState.CANCELLED]
    good, ended = _summed(rows, lambda row: row.good), _summed(rows, lambda row: row.ended)
    made = _summed(rows, lambda row: row.count)
    dead = {at: ended[at] - good[at] for at in ended}
    wait = {at: made[at] - ended[at] for at in made}
    delivered, lost, waiting = sum(good.values()), sum(dead.values()), sum(wait.values())
    series = [
        Values("delivered", "good", buckets.values(good)),
        Values("waiting", "wait", buckets.values(wait)),
        Values("dead", "bad", buckets.values(dead)),
    ]
    return {
        "made": delivered + lost + waiting,
        "delivered": delivered,
        "series": series,
        "summary": f"{delivered:,.0f} delivered, {lost:,.0f} dead" + (f", {waiting:,.0f} waiting" if waiting else ""),
    }


def _processes(status: Status) -> list[tuple[PartRow, int]]:
    """Return the processes that are not stopped, each with how many are alike: those of sinks that run on one host."""
    groups: dict[tuple[str, str], list[PartRow]] = {}
    for each in status.parts:
        suspended = each.state == "stuck" and each.stalled < STUCK_AFTER
        shown = each.model_copy(update={"state": "suspended"}) if suspended else each
        alike = each.part.startswith("deliver:") and each.state in ("running", "silent")
        if each.state != "stopped":
            groups.setdefault((each.host, f"deliver {each.state}" if alike else each.name), []).append(shown)
    return [(max(alike, key=lambda row: row.beat_age), len(alike)) for alike in groups.values()]


PAGES: Final = (ConsolePage("/", "overview.html", overview, PageLink("Overview", "o", "")),)
