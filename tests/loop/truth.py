"""What the loop compares with: a simulated Skyvern's own last word on each run, and what must have come of it.

The truth about a run is the webhook that Skyvern would send now. Where it would be routed is decided here anew, not by
the product's router; its row is what the database sink makes of it. So a run whose webhook was lost, or came after
a poll, is held to what its webhook alone would have given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from handlers.contract import Delivery
from handlers.database import DatabaseOptions
from handlers.database.columns import Columns
from receiver.domain.run import parse
from simulator import bodies
from simulator.faults import Fault
from simulator.runs import TASK_V2, SimRun
from simulator.world import World

ORDERS, INVOICES = "wpid_orders", "wpid_invoices"
TITLES = {ORDERS: "Fetch orders", INVOICES: "Fetch invoices"}
TROUBLES = ("failed", "terminated", "timed_out")
# Columns beside the standard ones, from members that a poll lacks. (Names that no standard column has.)
MAPPED = {
    "x_title": "workflow_title",
    "x_region": "parameters.region",
    "x_summary": "summary",
    "x_prompt": "prompt",
    "x_url": "url",
    "x_workflow_run": "workflow_run_id",
    "x_callback": "webhook_callback_url",
    "x_steps": "total_steps",
}
# Of the event that wrote the row, and of the moment: another one on each road.
_VOLATILE = frozenset({"event_id", "via", "received_at", "delivered_at", "modified_at", "merged_from"})
# The webhook of a run that is started again goes out before that is so.
_VOLATILE |= {"retried_by"}
_OWN_URL = frozenset({"x_callback"})
_TANGLED = frozenset({"original_status", "failure_reason"})


@dataclass
class Expected:
    """What must have come of one run. `sinks`: by name, the route's sinks; `copies`: how many results it has, at the
    most (a cancelled run says twice that it has ended); `manner`: how its caller asks for it, or how it was
    started; `form`: what runs have in common that asked for the same; `row`: by column."""

    run: SimRun
    body: Mapping[str, Any]
    labels: dict[str, str]
    caller_url: str | None
    sinks: frozenset[str]
    copies: int
    manner: str = ""
    form: str = ""
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What the runs have in common whose rows have the same columns filled."""
        origin = "submitted" if self.labels else "outside"
        again = " again" if self.run.retried_from else ""
        return f"{origin}{again} {self.run.type} {self.body['status']}"

    def __str__(self) -> str:
        faults = "+".join(sorted(self.run.faults)) or "no fault"
        return f"{self.run.id} ({self.kind}, {faults}{f', asked {self.manner}' if self.manner else ''})"


def routes() -> list[dict[str, Any]]:
    """Return the routes of the loop's config; `_sinks` says the same in other words."""
    return [
        {"name": "everything", "to": ["first", "rows", "archive"]},
        {"name": "odd ones", "when": {"labels.parity": "odd"}, "to": ["odd"]},
        {"name": "orders", "when": {"workflow_id": ORDERS}, "to": ["orders"]},
        {"name": "invoices", "when": {"workflow_title": TITLES[INVOICES]}, "to": ["invoices"]},
        {"name": "north", "when": 'run.parameters.region == "north"', "to": ["north"]},
        {"name": "troubles", "when": {"status": list(TROUBLES)}, "to": ["chat"]},
    ]


def _sinks(body: Mapping[str, Any], outcome: str, labels: Mapping[str, str]) -> frozenset[str]:
    chosen = {"first", "rows", "archive"}
    if labels.get("parity") == "odd":
        chosen.add("odd")
    if body.get("workflow_id") == ORDERS:
        chosen.add("orders")
    if body.get("workflow_title") == TITLES[INVOICES]:
        chosen.add("invoices")
    if (body.get("parameters") or {}).get("region") == "north":
        chosen.add("north")
    if outcome in TROUBLES:
        chosen.add("chat")
    return frozenset(chosen)


def expect(
    world: World,
    run: SimRun,
    labels: dict[str, str],
    caller_url: str | None,
    manner: str = "",
    form: str = "",
) -> Expected:
    """Return what must have come of `run`, which was submitted with `labels`, or {} for a run from outside."""
    sent = bodies.dumps(bodies.webhook(run, world.storage.link))
    parsed = parse(sent)
    body = dict(parsed.data)
    body.pop("webhook_callback_url", None)  # a sink may see the caller's own URL, or none, but then all alike
    copies = 2 if run.status == "canceled" else 1
    found = Expected(run, body, labels, caller_url, _sinks(body, parsed.outcome, labels), copies, manner, form)
    delivery = Delivery(
        key="",
        event_id="",
        sink="rows",
        attempt=1,
        source="skyvern",
        run_id=run.id,
        run_type=run.type,
        status=parsed.outcome,
        received_at=datetime.now(UTC),
        body=sent,
        run=body,
        labels=labels,
    )
    columns = Columns(DatabaseOptions.model_validate({"url": "sqlite:///nowhere.db", "columns": MAPPED}).columns)
    found.row = {name: settled(value) for name, value in columns.row(delivery, datetime.now(UTC)).cells.items()}
    return found


def ignored(expected: Expected) -> frozenset[str]:
    """Return the columns of a run that are not compared."""
    tangled = Fault.TANGLED in expected.run.faults and expected.run.type == TASK_V2
    outside = frozenset() if expected.labels else _OWN_URL
    return _VOLATILE | (_TANGLED if tangled else frozenset()) | outside


def settled(value: Any) -> Any:
    """Return a column's value in a form that is the same on each road: JSON parsed, times as text, URLs unsigned."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ")
    if isinstance(value, str):
        if value[:1] in "[{":
            try:
                return _unsigned(json.loads(value))
            except ValueError:
                return value
        return _unsigned(_time(value))
    return int(value) if isinstance(value, bool) else value


def _time(text: str) -> str:
    """Return a time as `settled` writes it, and any other text as it is."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None).isoformat(" ") if text[:2] == "20" else text
    except ValueError:
        return text


def _unsigned(value: Any) -> Any:
    if isinstance(value, dict):  # of a file, the time differs from road to road as its URL does
        dropped = "modified_at" if "checksum" in value else None
        return {key: _unsigned(part) for key, part in value.items() if key != dropped}
    if isinstance(value, list):
        return [_unsigned(part) for part in value]
    return value.partition("?expiry=")[0] if isinstance(value, str) else value


def differences(expected: Iterable[Expected], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what is wrong with the rows, by column: a run each. `rows`: what is in the table, by run.

    A column that the webhook leaves null may be filled from elsewhere (the prompt of a task, from its submission), but
    then for all runs of its kind, whichever way their results came.
    """
    wrong: dict[str, list[str]] = {}
    filled: dict[tuple[str, str], dict[bool, str]] = {}
    for each in expected:
        row = rows.get(each.run.id)
        if row is None:
            continue
        for name, wanted in each.row.items():
            if name in ignored(each) or name not in row:
                continue
            found = settled(row[name])
            if wanted in (None, [], {}):
                filled.setdefault((f"{each.kind} {each.form}", name), {})[found not in (None, [], {})] = each.run.id
            elif found != wanted:
                wrong.setdefault(name, []).append(f"{each}: {difference(found, wanted)}")
    for (kind, name), seen in filled.items():
        if len(seen) == 2:
            wrong.setdefault(name, []).append(f"{kind}: null for {seen[False]}, but not for {seen[True]}")
    return wrong


def difference(found: Any, wanted: Any, path: str = "") -> str:
    """Return where two values differ first, and how."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in [*wanted, *(found.keys() - wanted.keys())]:
            if found.get(name) != wanted.get(name):
                return difference(found.get(name), wanted.get(name), f"{path}.{name}")
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if one != other:
                return difference(one, other, f"{path}.{number}")
    return f"{path} is {_short(found)} instead of {_short(wanted)}".strip()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def whole_files(run: SimRun) -> dict[str, bytes]:
    """Return the files that a run's webhook names, by artifact id: these must be kept whole, and once."""
    named = ("recording", "screenshot_final", "screenshot_action", "download")
    return {stored.id: stored.content for stored in run.artifacts if stored.type in named}
