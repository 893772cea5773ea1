"""`runhook erase` of a submission by its id: what was asked for goes, though no run of it ever reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.submission import NewSubmission, Submission, SubmissionMove
from receiver.errors import Conflict, NotFound, RunhookError, UsageError
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger, polls
from receiver.ledger.database.dialect import json_text
from receiver.ledger.schema import metadata, runs
from receiver.ledger.submissions import lifecycle, records
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from tests.support.command import Runhook
from tests.support.ledger import NOW, lock_runs, new_event, record

SECRET = "Jane-Q-Doe-4711"


@pytest.fixture(autouse=True)
def config(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "runhook.yaml").write_text("sources: {skyvern: {secrets: [s]}}\n")
    monkeypatch.setenv("RUNHOOK_CONFIG", str(home / "runhook.yaml"))


def submit(ledger: Ledger, name: str, move: SubmissionMove | None = None, **outcome: Any) -> None:
    """Record a submission that is full of the secret, and how it ended."""
    texts: dict[str, Any] = {"title": SECRET, "prompt": SECRET, "request": {"prompt": SECRET}}
    new = NewSubmission(name, "skyvern", "k1", "tasks", name, labels={"a": SECRET}, **texts)
    ledger.write(lambda it: lifecycle.begin(it, new, NOW))
    if move is not None:
        ended = SubmitOutcome(move, body=json.dumps({"detail": SECRET}).encode(), **outcome)
        ledger.write(lambda it: lifecycle.record_outcome(it, name, ended, NOW))


def traces(ledger: Ledger) -> list[str]:
    """The tables of the ledger in which any value has the secret."""
    tables = metadata.sorted_tables
    rows = ledger.read(lambda it: [it.execute(sa.select(table)).all() for table in tables])
    return [table.name for table, found in zip(tables, rows, strict=True) if SECRET in repr(found)]


def of(ledger: Ledger, name: str) -> Submission:
    found = ledger.read(lambda it: records.get(it, name))
    assert found is not None
    return found


def test_submission_without_a_run_is_erased_by_its_id(book: Ledger, runhook: Runhook, home: Path) -> None:
    # Given a refused submission, and a request in quarantine that was sent to its address
    submit(book, "sub_a", SubmissionMove.REJECT, status=422)
    quarantine = Quarantine(home / "quarantine", 9, 1 << 20)
    for name in ("sub_a", "sub_b"):
        body = json.dumps({"output": name[-1:]}).encode()
        quarantine.add(QuarantinedRequest.of("skyvern", "0" * 64, body, name, NOW), body)
    # When it is erased after a look, then the report counts what there is
    assert "0 events, 1 request in quarantine" in runhook("erase", "--run", "sub_a", "--dry-run")
    assert traces(book) == ["submissions"]
    (told,) = json.loads(runhook("erase", "--run", "sub_a", "--yes", "--json"))
    assert (told["run_id"], told["bodies"], told["quarantined"]) == ("sub_a", 0, 1)
    # And nothing of its content is left, and a repeated request gets the same status
    assert traces(book) == []
    assert [each.submission_id for each in quarantine.list()] == ["sub_b"]
    assert (of(book, "sub_a").state, of(book, "sub_a").answer_status) == ("rejected", 422)
    assert json.loads(of(book, "sub_a").answer or b"") == {"detail": "the content of this submission was erased"}


def test_submission_erases_its_run_that_never_reported(book: Ledger, runhook: Runhook) -> None:
    # Given a submission whose run Runhook no longer polls
    submit(book, "sub_a", SubmissionMove.ACCEPT, run_id="tsk_1", status=200, due_at=NOW)
    with pytest.raises(Conflict, match="tsk_1: it has not ended"):
        runhook("erase", "--run", "sub_a", "--yes")
    book.write(lambda it: polls.stop(it, [("skyvern", "tsk_1")], "gone"))
    # When it is erased, then nothing is left, and a late event of the run keeps no body
    (told,) = json.loads(runhook("erase", "--run", "sub_a", "--yes", "--json"))
    assert told["run_id"] == "tsk_1"
    assert traces(book) == []
    assert book.write(lambda it: lock_runs(it, [("skyvern", "tsk_1")], NOW))["skyvern", "tsk_1"].erased_at


def test_submission_erases_its_run(book: Ledger, runhook: Runhook) -> None:
    submit(book, "sub_a", SubmissionMove.ACCEPT, run_id="tsk_1", status=200, due_at=NOW)
    record(book, new_event("tsk_1", title=SECRET))
    book.write(lambda it: polls.stop(it, [("skyvern", "tsk_1")]))
    (told,) = json.loads(runhook("erase", "--run", "sub_a", "--yes", "--json"))
    assert (told["run_id"], told["bodies"]) == ("tsk_1", 1)
    assert traces(book) == []


def test_submission_that_may_still_get_a_run_is_not_erased(book: Ledger, runhook: Runhook) -> None:
    submit(book, "sub_pending")
    submit(book, "sub_unknown", SubmissionMove.MISS, status=502)
    for name in ("sub_pending", "sub_unknown"):
        with pytest.raises(Conflict, match=f"{name}: it has not ended, and its result would still come"):
            runhook("erase", "--run", name, "--yes")
        assert of(book, name).prompt == SECRET
    with pytest.raises(NotFound, match=r"submission sub_gone: not found; what is older than retention\.submissions"):
        runhook("erase", "--run", "sub_gone", "--yes")


def test_quarantined_requests_of_a_run_are_found_in_any_json(book: Ledger, runhook: Runhook, home: Path) -> None:
    # Given requests in quarantine that name a run in UTF-8, and escaped
    record(book, new_event("tsk_ü"))
    for ascii_only in (True, False):
        body = json.dumps({"run_id": "tsk_ü"}, ensure_ascii=ascii_only).encode()
        refused = QuarantinedRequest.of("skyvern", "0" * 64, body, "", NOW)
        Quarantine(home / "quarantine", 9, 1 << 20).add(refused, body)
    # Then its erasure reaches both
    assert "1 event, 2 requests in quarantine" in runhook("erase", "--run", "tsk_ü", "--yes")


def test_all_runs_with_a_label_or_of_a_source_are_erased(book: Ledger, runhook: Runhook) -> None:
    # Given runs of two cases, of which one has a pending delivery, and one of another source
    for name, case in (("tsk_a", "7"), ("tsk_b", "7"), ("tsk_c", "8"), ("tsk_d", "7")):
        record(book, new_event(name, *(["ops"] if name == "tsk_d" else []), title=SECRET))
        labelled = sa.update(runs).where(runs.c.run_id == name).values(labels=json_text({"case": case}))
        book.write(lambda it, labelled=labelled: it.execute(labelled))  # type: ignore[misc]
    record(book, new_event("tsk_a", source="other", title=SECRET))

    # When those of one case are erased after a look
    with pytest.raises(RunhookError, match="1 run is not erased: tsk_d: "):
        runhook("erase", "--label", "case=7", "--dry-run")
    assert erased(book) == []
    with pytest.raises(RunhookError, match="1 run is not erased: tsk_d: "):
        runhook("erase", "--label", "case=7", "--yes")

    # Then those that have ended are
    assert erased(book) == ["skyvern tsk_a", "skyvern tsk_b"]
    # And a source's runs are erased by its name
    assert "1 run erased" in runhook("erase", "--source", "other", "--yes")
    assert erased(book) == ["other tsk_a", "skyvern tsk_a", "skyvern tsk_b"]


@pytest.mark.parametrize("options", [(), ("--run", "tsk_1", "--label", "a=b")])
def test_which_runs_to_erase_must_be_clear(book: Ledger, runhook: Runhook, options: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="give either --run, or --label or --source"):
        runhook("erase", *options, "--yes")


def erased(ledger: Ledger) -> list[str]:
    rows = ledger.read(lambda it: it.execute(sa.select(runs).where(runs.c.erased_at.is_not(None))).all())
    return sorted(f"{row.source} {row.run_id}" for row in rows)
