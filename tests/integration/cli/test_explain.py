"""`runhook explain`: for an event and a run, which routes match and why the others do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from receiver.errors import NotFound, RunhookError, UsageError
from receiver.ledger import Ledger
from tests.support.command import Runhook
from tests.support.ledger import new_event, record


@pytest.fixture
def config(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = home / "runhook.yaml"
    document = {
        "sources": {"skyvern": {"secrets": ["s"]}},
        "sinks": {"crm": {"type": "files", "path": "/x"}, "ops": {"type": "files", "path": "/y"}},
        "routes": [
            {"name": "failures", "when": {"status": "failed"}, "to": ["ops"]},
            {"name": "vendors", "when": {"output.vendor": "Acme*"}, "to": ["crm"]},
            {"name": "all", "to": ["crm"], "repeats": True},
        ],
    }
    path.write_text(json.dumps(document))
    monkeypatch.setenv("RUNHOOK_CONFIG", str(path))
    return path


def test_each_route_says_why_it_matches_or_not(book: Ledger, runhook: Runhook, config: Path) -> None:
    # Given a run with one event
    event = new_event("tsk_1", "crm", output={"vendor": "Other"})
    record(book, event)
    # When it is explained by the run's id or the event's
    for identifier in ("tsk_1", event.event.id, event.event.id[:20]):
        shown = runhook("explain", identifier)
        # Then each route is listed
        assert f"{event.event.id}: run tsk_1 completed; new" in shown
        assert "failures" in shown
        assert 'output.vendor is not "Acme*" but "Other"' in shown
        assert shown.rstrip().endswith("→ crm")
    # And only those of one sink on request, also for programs
    (found,) = json.loads(runhook("explain", "tsk_1", "--sink", "ops", "--json"))
    assert [(each["route"], each["matched"]) for each in found["routes"]] == [("failures", False)]
    assert found["deliveries"] == []
    assert runhook("explain", "tsk_1", "--sink", "ops").rstrip().endswith("→ nothing for ops")


def test_event_is_explained_as_what_it_was_recorded(book: Ledger, runhook: Runhook, config: Path) -> None:
    record(book, new_event("tsk_1", disposition="repeat"))

    (found,) = json.loads(runhook("explain", "tsk_1", "--json"))

    assert found["disposition"] == "repeat"
    assert [each["route"] for each in found["routes"] if each["matched"]] == ["all"]


def test_unknown_ids_and_sinks_are_errors(book: Ledger, runhook: Runhook, config: Path) -> None:
    with pytest.raises(NotFound, match="run tsk_9: not found"):
        runhook("explain", "tsk_9")
    record(book, new_event("tsk_1"))
    with pytest.raises(UsageError, match="--sink nope: no route leads to it"):
        runhook("explain", "tsk_1", "--sink", "nope")


def test_event_of_an_erased_run_cannot_be_explained(book: Ledger, runhook: Runhook, config: Path) -> None:
    record(book, new_event("tsk_1"))
    runhook("erase", "--run", "tsk_1", "--yes")

    with pytest.raises(RunhookError, match="has no body, so no route can match: its run was erased"):
        runhook("explain", "tsk_1")
