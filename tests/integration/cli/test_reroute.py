"""`runhook reroute`: today's rules on events that came under yesterday's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from receiver.api.reroutes import REROUTE
from receiver.cli import reroute
from receiver.cli.client import open_client
from receiver.cli.output import Form
from receiver.dispatch.recorder import EventRecorder
from receiver.domain.delivery import DeliveryMove
from receiver.domain.redaction import Redactor
from receiver.errors import UsageError
from receiver.ledger import Ledger, reroutes
from receiver.ledger.deliveries import links
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from receiver.telemetry.workers import WorkerCounter
from tests.support import queries
from tests.support.command import Runhook
from tests.support.dispatching import dispatch
from tests.support.events import body, event
from tests.support.ledger import claim, new_event, record, settle, states

NO_REDIS: Any = None
SINKS = {name: {"type": "http", "url": "https://example.org"} for name in ("chat", "mail")}
SINKS["archive"] = {"type": "files", "path": "/tmp/never"}

Take = Callable[..., None]
WithRules = Callable[..., None]


@pytest.fixture
def take(book: Ledger) -> Take:
    """Records bodies under the rules of yesterday: all results go to chat."""
    rules = [RouteConfig(name="everything", to=["chat"])]
    dispatcher = EventRecorder(book, Router(rules), Redactor([]), WorkerCounter(NO_REDIS))

    def take_all(*bodies: bytes) -> None:
        for each in bodies:
            dispatch(dispatcher, [event(each)])

    return take_all


@pytest.fixture
def rules(home: Path, monkeypatch: pytest.MonkeyPatch) -> WithRules:
    """Writes the config of today."""
    monkeypatch.setenv("RUNHOOK_CONFIG", "c.json")

    def write(*routes: Mapping[str, Any]) -> None:
        config = {"sources": {"skyvern": {"secrets": ["s"]}}, "sinks": SINKS, "routes": list(routes)}
        (home / "c.json").write_text(json.dumps(config))

    return write


def test_todays_rules_are_shown_and_only_what_is_new_is_sent(
    book: Ledger, take: Take, rules: WithRules, runhook: Runhook
) -> None:
    # Given three results that went to chat, and rules that send failures to mail too, and completed ones to the archive
    take(body("tsk_1"), body("tsk_2", "failed"), body("tsk_3", "terminated"))
    rules(
        {"name": "everything", "to": ["chat"]},
        {"name": "failures", "when": {"status": "failed"}, "to": ["mail"]},
        {"name": "results", "when": {"status": "completed"}, "to": ["archive"]},
    )
    before = states(book)

    # When they are only asked, then nothing is made
    said = runhook("reroute", "--since", "1h", "--dry-run")
    assert states(book) == before
    assert "3 events: 2 new deliveries (archive 1, mail 1)" in said
    rows = {row["run_id"]: row for row in json.loads(runhook("reroute", "--since", "1h", "--dry-run", "--json"))}
    assert {run: (row["reaches"], row["added"]) for run, row in rows.items()} == {
        "tsk_1": (["chat", "archive"], ["archive"]),
        "tsk_2": (["chat", "mail"], ["mail"]),
        "tsk_3": (["chat"], []),
    }

    # And when they are applied, each sink gets what it lacks, once
    assert "2 deliveries created" in runhook("reroute", "--since", "1h")
    assert {name for name in states(book) if name not in before} == {"tsk_1:archive", "tsk_2:mail"}
    assert "3 events: 0 new deliveries" in runhook("reroute", "--since", "1h")


def test_what_is_known_of_a_run_that_has_gone_on_is_old_news(
    book: Ledger, take: Take, rules: WithRules, runhook: Runhook
) -> None:
    take(body("tsk_1", "running"), body("tsk_1"))
    rules({"name": "attention", "to": ["mail"], "interim": True})

    said = runhook("reroute", "--since", "1h")

    assert "1 event: 1 new delivery (mail 1); skipped: 1 of runs that have changed since" in said
    (row,) = book.read(lambda it: queries.list_deliveries(it, queries.Filter(sink="mail")))
    assert row["status"] == "completed"


@pytest.mark.parametrize("between", [0, reroutes.PAGE])
def test_new_sink_gets_only_the_fuller_event_of_a_result(
    book: Ledger, take: Take, rules: WithRules, runhook: Runhook, between: int
) -> None:
    # Given two events of a result, on one page and on two
    file = {"filename": "a.pdf", "checksum": "x", "url": "https://x"}
    take(body("tsk_1", modified_at="2026-01-01T00:00:01"))
    record(book, *(new_event(f"tsk_other_{number}", "chat", "archive", "mail") for number in range(between)))
    take(body("tsk_1", modified_at="2026-01-01T00:00:02", downloaded_files=[file]))
    rules({"name": "everything", "to": ["chat", "archive", "mail"]})

    runhook("reroute", "--since", "1h")

    update, first = book.read(lambda it: queries.list_events(it, queries.Filter(run_id="tsk_1")))
    assert (first["disposition"], update["disposition"]) == ("new", "update")
    rows = book.read(lambda it: queries.list_deliveries(it, queries.Filter(run_id="tsk_1")))
    assert {(row["sink"], row["event_id"]) for row in rows} == {
        ("chat", first["id"]),
        ("archive", update["id"]),
        ("mail", update["id"]),
    }


def test_new_sink_gets_the_receipt_it_waits_for_at_once(
    book: Ledger, take: Take, rules: WithRules, runhook: Runhook
) -> None:
    take(body("tsk_1"))
    settle(book, claim(book, "chat", now=2e9), DeliveryMove.ACCEPT, receipt={"id": "c1"}, now=2e9)
    rules({"name": "everything", "to": ["chat", {"sink": "mail", "after": "chat"}]})

    runhook("reroute", "--since", "1h")

    (claimed,) = claim(book, "mail", now=2e9)
    found = book.read(lambda it: links.receipts(it, claimed.event_id, claimed.after))
    assert found == {"chat": {"id": "c1"}}


def test_a_rule_that_fails_is_told_and_one_sink_can_be_chosen(
    book: Ledger, take: Take, rules: WithRules, runhook: Runhook
) -> None:
    take(body("tsk_1", output={"total": "many"}))
    rules(
        {"name": "everything", "to": ["archive", "mail"]},
        {"name": "odd", "when": "run.output.total > 5.0", "to": ["mail"]},
    )

    said = runhook("reroute", "--since", "1h", "--sink", "mail")

    assert "route odd could not be evaluated for 1 event" in said
    assert states(book).keys() == {"tsk_1:chat", "tsk_1:mail"}


def test_new_sink_gets_old_results_regardless_of_routes(
    book: Ledger, take: Take, rules: WithRules, runhook: Runhook
) -> None:
    # Given results, one of them updated and repeated, a run that continues, and routes that do not name the sink
    file = {"filename": "a.pdf", "checksum": "x", "url": "https://x"}
    take(body("tsk_1", modified_at="2026-01-01T00:00:01"), body("tsk_2", "failed"), body("tsk_3", "running"))
    take(body("tsk_1", modified_at="2026-01-01T00:00:02", downloaded_files=[file]))
    take(body("tsk_1", modified_at="2026-01-01T00:00:03", downloaded_files=[file]))
    rules({"name": "everything", "to": ["chat"]})

    options = ("reroute", "--since", "1h", "--sink", "mail")
    assert "0 new deliveries" in runhook(*options, "--dry-run")
    assert "2 deliveries created" in runhook(*options, "--ignore-routes")

    # Then it gets each result once, the fullest event of it
    assert states(book, sink="mail") == {"tsk_1:mail": "queued", "tsk_2:mail": "queued"}
    (row,) = book.read(lambda it: queries.list_deliveries(it, queries.Filter(run_id="tsk_1", sink="mail")))
    dispositions = {
        each["id"]: each["disposition"] for each in book.read(lambda it: queries.list_events(it, queries.Filter()))
    }
    assert dispositions[row["event_id"]] == "update"
    assert "0 new deliveries" in runhook(*options, "--ignore-routes")


def test_person_sees_the_plan_before_the_question(
    book: Ledger, take: Take, rules: WithRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(*(body(f"tsk_{number}", "failed" if number == 2 else "completed") for number in range(1, 4)))
    rules({"name": "everything", "to": ["chat"]}, {"name": "failures", "when": {"status": "failed"}, "to": ["mail"]})
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    wanted = REROUTE.validated({"since": "1h"})

    with open_client() as client:
        for dry_run in (True, False):
            reroute.reroute_events(client, wanted, Form.TABLE, 50, dry_run=dry_run, yes=False)
            assert ("tsk_2:mail" in states(book)) is not dry_run


def test_an_event_that_went_nowhere_is_unrouted_no_longer(
    book: Ledger, take: Take, rules: WithRules, runhook: Runhook
) -> None:
    take(body("tsk_1", "running"))
    rules({"name": "attention", "to": ["mail"], "interim": True})

    runhook("reroute", "--run", "tsk_1")

    (row,) = book.read(lambda it: queries.list_events(it, queries.Filter()))
    assert not row["unrouted"]
    assert states(book) == {"tsk_1:mail": "queued"}


def test_events_are_chosen_by_the_filters_of_the_lists(
    book: Ledger, take: Take, rules: WithRules, runhook: Runhook
) -> None:
    take(body("tsk_1", title="invoices of May"), body("tsk_2", title="orders"))
    rules({"name": "everything", "to": ["chat", "mail"]})

    runhook("reroute", "--since", "1h", "--title", "invoices")

    assert states(book).keys() == {"tsk_1:chat", "tsk_2:chat", "tsk_1:mail"}
    for empty in ("--title", "--sink"):
        with pytest.raises(UsageError, match=f"^{empty} is empty"):
            runhook("reroute", "--since", "1h", empty, "")
