"""Commands that list: made from endpoints of the API, whose parameters are their options and whose rows they print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, get_args

import typer

from handlers.support.wording import size
from receiver.api.artifacts import LIST_ARTIFACTS
from receiver.api.audit import LIST_AUDIT
from receiver.api.deliveries import LIST_ATTEMPTS, LIST_DELIVERIES
from receiver.api.endpoint import Endpoint
from receiver.api.events import LIST_EVENTS
from receiver.api.incidents import LIST_INCIDENTS, Incidents
from receiver.api.operations import LIST_OPERATIONS
from receiver.api.runs import LIST_RUNS
from receiver.api.submissions import LIST_SUBMISSIONS
from receiver.api.totals import GET_TOTALS, Account, Totals
from receiver.cli.client import Client, rows_of
from receiver.cli.completion import completer
from receiver.cli.options import AllRows, Limit, ListJson, Output, check_id, chosen_form
from receiver.cli.output import (
    Columns,
    Form,
    clean,
    iso,
    out,
    parse_columns,
    print_rows,
    print_table,
    relative_path,
    show_counts,
    show_value,
    show_when,
    warn,
)
from receiver.cli.parameters import check_times, named_options, with_filter
from receiver.domain.delivery import DeliveryState
from receiver.domain.durations import after
from receiver.domain.event import short_id
from receiver.errors import UsageError
from receiver.ledger.access import audit as audit_log
from receiver.ledger.lists.filters import LIMIT

Row = Mapping[str, Any]


def list_command(
    endpoint: Endpoint[Any, Any],
    columns: str,
    computed: Columns | None = None,
    *,
    empty: str,
    doc: str = "",
    argument: tuple[str, Callable[[str], dict[str, Any]]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    most: int = LIMIT,
    note: Callable[[Any, Form], str] | None = None,
) -> Callable[..., None]:
    """Return the command that lists what `endpoint` returns, with an option for each parameter.

    `columns`: of the table, each as MEMBER or HEADING=MEMBER; `computed` follow them. `empty`: what a table without
    rows prints. `argument`: the metavar of an id, and a function that returns its parameters. `fixed`: parameters that
    are not options. `most`: rows by default. `note`: of a list that comes in one piece, prints what is not in its
    rows, and returns a remark.
    """
    fixed = fixed or {}
    table = {**parse_columns(columns), **(computed or {})}

    def command(
        client: Client,
        asked: dict[str, Any],
        identifier: str | None = None,
        limit: Limit = most,
        output: Output = None,
        as_json: ListJson = False,
        everything: AllRows = False,
    ) -> None:
        form = chosen_form(output, as_json)
        limit = sys.maxsize if everything else limit
        named = argument[1](identifier) if argument and identifier is not None else {}
        client.announce = form is Form.TABLE
        with named_options(asked, named):
            parameters = endpoint.validated({**fixed, **asked, **named})
            check_times(parameters, asked)
            result = None if note is None else client.call(endpoint, parameters)
            rows = rows_of(client, endpoint, parameters, limit) if result is None else iter(result.items[:limit])
            # Times are text for programs, and numbers for a table, which shows them relative to now.
            mode = "python" if form is Form.TABLE else "json"
            dumped = (row.model_dump(mode=mode) for row in rows)
            names = list(row_model(endpoint).model_fields)
            if form is Form.CSV and "key" in names and result is not None:  # a column for each member of the key
                keys = dict.fromkeys(name for each in result.items for name in each.key)
                names = [*keys, *(name for name in names if name != "key")]
                dumped = ({**row, **row["key"]} for row in dumped)
            print_rows(dumped, table, empty.removesuffix(_YET) if asked else empty, form, names=names)
        if note is not None and (remark := note(result, form)):
            warn(remark)

    kinds = command.__annotations__
    kinds["identifier"] = None
    if argument:
        help_ = "Its id. Default: all."
        id_ = typer.Argument(metavar=argument[0], help=help_, autocompletion=completer("run"), show_default=False)
        kinds["identifier"] = Annotated[str | None, id_]
    if endpoint is GET_TOTALS:
        kinds["everything"] = None
    command.__doc__ = doc or endpoint.summary
    made = with_filter(endpoint.parameters, without={"limit", "after", *fixed})(command)
    made.lists = endpoint  # type: ignore[attr-defined]  # for scripts/reference.py
    return made


def row_model(endpoint: Endpoint[Any, Any]) -> Any:
    """Return the model of the rows of a list."""
    (row,) = get_args(endpoint.result.model_fields["items"].annotation)
    return row


def of_run(identifier: str) -> dict[str, str]:
    """Return the parameter for one run. Raises UsageError for an empty id, which would mean all runs."""
    if not identifier:
        raise UsageError("an id is empty")
    return {"run": identifier}


def _of_any(identifier: str) -> dict[str, Any]:
    """Return the parameter for an id of a delivery, an event or a run. Raises UsageError for one cut too short."""
    check_id(identifier)
    if identifier.startswith("dlv_"):
        return {"delivery": identifier}
    return {"event_id" if identifier.startswith("evt_") else "run": identifier}


def _disposition(event: Row) -> str:
    what = str(event["disposition"])
    if event["repeat_of"]:
        what += f" of {short_id(event['repeat_of'])}"
    if event["unrouted"] and what != "test":
        what += ", unrouted"
    return what + (f": {show_value('problem', event['problem'])}" if event["problem"] else "")


def _result(row: Row) -> str:
    """Return what came of a delivery or an attempt: its receipt, or the reason and when it is due."""
    if receipt := row["receipt"]:
        note = f" ({receipt['note']})" if receipt.get("note") else ""
        return relative_path(receipt.get("id", "")) + note
    due = f"; next attempt {show_when(row['due_at'])}" if row["state"] == "waiting" and "due_at" in row else ""
    return show_value("reason", row["reason"]) + due


def _attempt_result(row: Row) -> str:
    """Return what came of an attempt or a dead letter, and how a refusing server's response begins."""
    response = " ".join(row["response"].split())
    return _result(row) + (f" · {clean(response, 200)}" if response else "")


def stored_at(file: Row) -> str:
    """Return where a file of a run is stored."""
    places = [f"{each['sink']}: {relative_path(each['key'] or each['url'])}" for each in file["stored"]]
    return "; ".join(places) or f"only at Skyvern: {file['url']}"


def size_of(file: Row) -> str:
    """Return the size of a file of a run."""
    return "" if file["size"] is None else size(file["size"])


# Lines of the account of webhooks: a member of it, how it reads, and what it does not contain.
_ACCOUNT: Final = (
    ("webhooks", "webhooks acknowledged", "without those that got 503"),
    ("fetched", "polled or imported", ""),
    ("same_again", "- the same body again", "each counts with its event; nothing is sent for it"),
    ("recorded", "= events recorded", ""),
    ("routed", "  with deliveries", ""),
    ("unrouted", "  without a route", "`runhook explain RUN` says why"),
    ("other", "  nothing new to send", ""),
    ("deliveries", "deliveries of these", ""),
    ("delivered", "  delivered", ""),
    ("pending", "  not delivered yet", ""),
    ("dead", "  dead", "`runhook dead` shows why"),
    ("cancelled", "  cancelled", ""),
    ("refused", "refused: quarantined here", "`runhook quarantine list`"),
    ("waiting", "not recorded yet, now", "in the inbox, and in the spool here"),
)


def _print_account(account: Account) -> None:
    rows = []
    for name, text, note in _ACCOUNT:
        value = getattr(account, name)
        counts = value if isinstance(value, Mapping) else {}
        shown = sum(counts.values()) if name == "other" else "unknown" if value is None else value
        rows.append([text, shown, (note or show_counts(counts)) if value else ""])
    out().print("")
    print_table(["in this time", "count", ""], rows, "")


def _note(found: Totals, form: Form) -> str:
    if found.account and form is Form.TABLE:
        _print_account(found.account)
    notes = []
    if found.others:
        notes.append(f"{found.others} {found.of} are in smaller groups; --top shows more")
    if found.counted_since is not None:
        notes.append(f"too many to count: only changes since {iso(found.counted_since)} are included")
    return "; ".join(notes)


def _period(found: Incidents, form: Form) -> str:
    if not found.items or form is not Form.TABLE:
        return ""
    return f"counted since {iso(found.since)}; `before` counts the previous period of equal length, `first` is of both"


_YET: Final = "; send a first webhook with `runhook trigger`"

runs = list_command(
    LIST_RUNS,
    "run=run_id",
    {
        "title or prompt": lambda row: clean(row["title"] or row["prompt"], 60),
        **parse_columns("type=run_type status=outcome attempt events deliveries changed=updated_at why=failure_reason"),
    },
    empty=f"no runs found{_YET}",
)
events = list_command(
    LIST_EVENTS,
    "event=id run=run_id status=outcome via received=received_at",
    {"what": _disposition},
    empty=f"no events found{_YET}",
)
deliveries = list_command(
    LIST_DELIVERIES,
    "event=event_id run=run_id status sink state attempts",
    {"receipt or reason": _result},
    empty="no deliveries found",
)
dead = list_command(
    LIST_DELIVERIES,
    "delivery=id run=run_id status sink attempts since=updated_at",
    {"why": _attempt_result},
    empty="no dead letters found",
    doc="List dead letters with their reasons. `runhook replay` sends them again.",
    fixed={"state": (DeliveryState.DEAD,)},
)
attempts = list_command(
    LIST_ATTEMPTS,
    "delivery=delivery_id run=run_id sink attempt=number outcome began=started_at",
    {
        "seconds": lambda row: f"{row['ended_at'] - row['started_at']:.3f}",
        **parse_columns("worker"),
        "receipt or reason": _attempt_result,
    },
    empty="no attempts found",
    argument=("DELIVERY|EVENT|RUN", _of_any),
)
submissions = list_command(
    LIST_SUBMISSIONS,
    "submission=id state run=run_id status call submitted=created_at next_poll=due_at polls labels why=reason",
    empty="no submissions found; create a key with `runhook keys create` and submit a run with it",
)
incidents = list_command(
    LIST_INCIDENTS,
    "incident=id count before first=first_at last=last_at workflow reason",
    empty="no failed, terminated or timed-out runs found",
    doc="List failed, terminated and timed-out runs by workflow and reason.",
    most=500,
    note=_period,
)
operations = list_command(
    LIST_OPERATIONS,
    "operation=id kind state done of=total began=created_at selection",
    empty="no operations found",
)
artifacts = list_command(
    LIST_ARTIFACTS,
    "run=run_id file=name kind",
    {"size": size_of, "where": stored_at},
    empty="no files found",
    argument=("RUN", of_run),
)
audit = list_command(
    LIST_AUDIT,
    "when=at",
    {
        "who": lambda row: clean(audit_log.who(row["actor"], row["actor_kind"])),
        **parse_columns("from=address did=action count outcome selection detail"),
    },
    empty="no actions recorded",
)
stats = list_command(
    GET_TOTALS,
    "",
    {
        "what": lambda row: " · ".join(show_value("", value) or "-" for value in row["key"].values()) or "all",
        "from": lambda row: show_value("at", row["at"]),
        **parse_columns("count good ended"),
        "success": lambda row: "" if row["success_rate"] is None else f"{100 * row['success_rate']:.1f} %",
        **parse_columns("per_hour=per_hour"),
        "age p50": lambda row: "" if row["age_p50"] is None else after(row["age_p50"]),
        "age p95": lambda row: "" if row["age_p95"] is None else after(row["age_p95"]),
    },
    empty="nothing to count",
    most=10_000,
    note=_note,
)
