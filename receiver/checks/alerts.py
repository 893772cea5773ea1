"""Decide which problems to report to which sink. Pure.

A problem is reported once it has lasted, and its end once it has been gone as long: one that comes and goes is one
problem.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import msgspec

from handlers.contract import Notification
from receiver.checks.finding import Finding
from receiver.domain.counting import counted
from receiver.domain.durations import ago

# Problems that hide others: while one lasts, none but these end.
_HIDING: Final = frozenset({"redis_away", "ledger_away"})
# Seconds after which the end of a problem is no longer reported to a sink that does not accept it.
FORGET_AFTER: Final = 86_400.0
# Maximum problems in one message, and characters of each.
_SHOWN: Final = 20
_LONGEST: Final = 700


class Alert(msgspec.Struct, frozen=True):
    """A problem over time. `since`, `seen`: when it was found first and last, in seconds since the epoch.

    `code`, `about`, `what`, `todo`: as of a Finding. `reported`: the sinks that accepted it.
    """

    code: str
    about: str
    what: str
    todo: str
    since: float
    seen: float
    reported: frozenset[str] = frozenset()


class AlertState(msgspec.Struct, frozen=True):
    """What all clocks share. `alerts`: by code and what it is about. `failing`: why a sink does not accept messages.

    `digests`: the last day, as 2026-12-31, whose digest a sink got or need not get.
    """

    alerts: dict[str, Alert] = {}
    failing: dict[str, str] = {}
    digests: dict[str, str] = {}


class Transitions(msgspec.Struct, frozen=True):
    """What to report to a sink."""

    begun: list[Alert]
    ended: list[Alert]

    def __bool__(self) -> bool:
        return bool(self.begun or self.ended)


def _key(code: str, about: str) -> str:
    return f"{code} {about}".strip()


def observe(state: AlertState, findings: Iterable[Finding], sinks: Collection[str], now: float) -> AlertState:
    """Return the state with what the checks found `now`. `sinks`: those that get alerts."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        if not finding.note:
            groups.setdefault(_key(finding.code, finding.about), []).append(finding)
    alerts = {
        key: msgspec.structs.replace(alert, reported=alert.reported & frozenset(sinks))
        for key, alert in state.alerts.items()
        if now - alert.seen < FORGET_AFTER
    }
    # What ended before it was reported needs no message.
    alerts = {key: alert for key, alert in alerts.items() if key in groups or alert.reported}
    if any(code in groups for code in _HIDING):
        hidden = {key: msgspec.structs.replace(it, seen=now) for key, it in alerts.items() if it.code not in _HIDING}
        alerts |= hidden
    for key, (first, *others) in groups.items():
        what = f"{first.what} (and {len(others)} more)" if others else first.what
        old = alerts.get(key)
        since, reported = (old.since, old.reported) if old else (now, frozenset[str]())
        alerts[key] = Alert(first.code, first.about, what, first.todo, since, now, reported)
    failing = {sink: why for sink, why in state.failing.items() if sink in sinks}
    return msgspec.structs.replace(state, alerts=alerts, failing=failing)


def transitions(state: AlertState, sink: str, now: float, after: float) -> Transitions:
    """Return what to report to `sink` now. `after`: seconds that a problem must last, or be gone.

    That it does not accept alerts is reported to the others.
    """
    own = _key("alert_failed", sink)
    alerts = [alert for key, alert in state.alerts.items() if key != own]
    return Transitions(
        [it for it in alerts if it.seen >= now and it.seen - it.since >= after and sink not in it.reported],
        [it for it in alerts if it.seen < now and now - it.seen >= after and sink in it.reported],
    )


def accepted(state: AlertState, sink: str, transitions: Transitions) -> AlertState:
    """Return the state after `sink` accepted the transitions, or needed none."""
    alerts = dict(state.alerts)
    for each in transitions.begun:
        alerts[_key(each.code, each.about)] = msgspec.structs.replace(each, reported=each.reported | {sink})
    for each in transitions.ended:
        key, left = _key(each.code, each.about), each.reported - {sink}
        if left:
            alerts[key] = msgspec.structs.replace(each, reported=left)
        else:
            del alerts[key]
    failing = {name: why for name, why in state.failing.items() if name != sink}
    return msgspec.structs.replace(state, alerts=alerts, failing=failing)


def refused(state: AlertState, sink: str, why: str) -> AlertState:
    """Return the state after `sink` did not accept a message."""
    return msgspec.structs.replace(state, failing={**state.failing, sink: why})


def notification(transitions: Transitions, link: str) -> Notification:
    """Return the message of these transitions."""
    begun, ended = (counted(len(each), "problem", "problems") for each in (transitions.begun, transitions.ended))
    title = ", ".join([*([begun] if transitions.begun else []), *([f"{ended} ended"] if transitions.ended else [])])
    lines = [f"• {it.code}: {it.what}{f' → {it.todo}' if it.todo else ''}" for it in transitions.begun]
    lines += [f"• ended after {ago(it.seen - it.since)}: {it.code}: {it.what}" for it in transitions.ended]
    shown = [line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in lines[:_SHOWN]]
    if more := len(lines) - len(shown):
        shown.append(f"and {more} more: `runhook status`")
    rows = [{**_row(it), "until": _time(it.seen)} for it in transitions.ended]
    data = {"problems": list(map(_row, transitions.begun)), "ended": rows}
    marks = [[(it.code, it.about, it.since) for it in each] for each in (transitions.begun, transitions.ended)]
    key = f"alert_{blake2b(msgspec.json.encode(marks), digest_size=8).hexdigest()}"
    return Notification(key, "alert", f"Runhook: {title}", shown, link, bool(transitions.begun), data)


def _row(alert: Alert) -> Mapping[str, Any]:
    members = {"code": alert.code, "about": alert.about, "what": alert.what, "todo": alert.todo}
    return {**members, "since": _time(alert.since)}


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
