"""What an operator sees of a sink that the config has lost, and does about it."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import Any

import pytest

from receiver.domain.delivery import DeliveryMove
from receiver.errors import Invalid, RunhookError, UsageError
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger, operations
from receiver.ledger.access import audit
from tests.support import queries
from tests.support.command import Runhook
from tests.support.ledger import claim, new_event, record, settle, states, step_operations

CONFIG: dict[str, Any] = {
    "sources": {"skyvern": {"secrets": ["s"], "api_key": "k"}},
    "sinks": {"new": {"type": "files", "path": "/tmp/never"}},
    "routes": [{"name": "everything", "to": ["new"]}],
}


@pytest.fixture
def book(book: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger with tsk_1 dead and tsk_2 queued for the sink old, which the config does not have; tsk_3 for new."""
    monkeypatch.setenv("RUNHOOK_CONFIG", "c.json")
    (home / "c.json").write_text(json.dumps(CONFIG))
    record(book, new_event("tsk_1", "old"))
    settle(book, claim(book, "old"), DeliveryMove.DIE)
    record(book, new_event("tsk_2", "old"), new_event("tsk_3", "new"))
    return book


def test_removed_sink_is_listed_until_it_has_no_deliveries(runhook: Runhook) -> None:
    rows = {row["name"]: row for row in json.loads(runhook("sink", "list", "--json"))}
    assert rows["old"]["orphaned"]
    assert rows["old"]["deliveries"] == {"dead": 1, "queued": 1}
    assert not rows["new"]["orphaned"]
    listed = runhook("sink", "list")
    assert "removed from the config" in listed
    assert "runhook sink move old NAME" in listed

    runhook("sink", "move", "old", "new")

    assert "old" not in {row["name"] for row in json.loads(runhook("sink", "list", "--json"))}


def test_a_move_says_what_it_did_and_how_to_take_it_back(runhook: Runhook, book: Ledger) -> None:
    before = states(book)

    said = runhook("sink", "move", "old", "new")

    assert "moved to new: 2 deliveries of old" in said
    assert "--undo" in said
    assert states(book) == {"tsk_1:new": "dead", "tsk_2:new": "queued", "tsk_3:new": "queued"}
    assert "moved to old: 2 deliveries of new" in runhook("sink", "move", "old", "new", "--undo")
    assert states(book) == before


def test_deliveries_of_a_removed_sink_are_cancelled_and_restored(runhook: Runhook, book: Ledger) -> None:
    before = states(book)

    said = runhook("cancel", "--sink", "old")

    assert said.endswith(": 1 delivery to cancel\nto restore them, run the same command with --undo\n")
    assert states(book)["tsk_2:old"] == "cancelled"
    with pytest.raises(RunhookError, match=r"^nothing to cancel: 1 cancelled; 1 dead$"):
        runhook("cancel", "--sink", "old")
    assert runhook("cancel", "--sink", "old", "--undo").endswith(": 1 delivery to replay\n")
    assert states(book) == before
    with pytest.raises(UsageError, match="--sink odl: unknown sink; there are"):
        runhook("cancel", "--sink", "odl")


def test_a_replay_leaves_what_nobody_would_send_and_says_so(runhook: Runhook, book: Ledger) -> None:
    settle(book, claim(book, "new"), DeliveryMove.DIE)

    said = runhook("replay", "--all")

    assert "skipped: 1 delivery of removed sinks" in said
    assert "1 delivery to replay" in said
    step_operations(book, time.time())
    assert (states(book)["tsk_1:old"], states(book)["tsk_3:new"]) == ("dead", "queued")
    gone = r"old: it is no longer in the config, .* `runhook sink move old NAME`.*--sink old`"
    for command in (["replay", "--sink", "old"], *(["sink", each, "old"] for each in ("resume", "pause"))):
        with pytest.raises((UsageError, Invalid), match=gone):
            runhook(*command)
    with pytest.raises(Invalid, match="unknown sink odl; the config has new"):
        runhook("sink", "test", "odl")


def test_a_replay_of_nothing_makes_no_operation_and_says_why(runhook: Runhook, book: Ledger) -> None:
    settle(book, claim(book, "new"), DeliveryMove.ACCEPT)
    record(book, new_event("tsk_4", "new"))

    with pytest.raises(RunhookError) as caught:
        runhook("replay", "--sink", "new")
    assert str(caught.value) == (
        "nothing to replay: 1 delivered (use --force to send them again); "
        "1 queued (they are sent soon, or `runhook sink list` shows that their sink is paused or down)"
    )
    with pytest.raises(RunhookError, match=r"^nothing to replay: 1 delivered \(use --force to send them again\)$"):
        runhook("replay", "tsk_3")
    with pytest.raises(RunhookError, match=r"^nothing to replay: nothing matches$"):
        runhook("replay", "--sink", "new", "--until", "2020-01-01")
    assert runhook("replay", "--sink", "new", "--dry-run").startswith(
        "0 deliveries to replay\nnothing to replay: 1 delivered (use"
    )
    assert book.read(operations.list_operations) == []
    runhook("replay", "--sink", "new", "--force")
    assert [each.total for each in book.read(operations.list_operations)] == [1]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("new", "old", "new is still in the config"),
        ("old", "nwe", "unknown sink nwe; the config has new"),
        ("old", "old", "are one sink"),
        ("older", "new", "older has no such deliveries"),
        ("callback", "new", "to the address of each caller"),
    ],
)
def test_a_move_that_can_not_be_meant_is_refused(
    runhook: Runhook, book: Ledger, old: str, new: str, problem: str
) -> None:
    before = states(book)

    with pytest.raises(UsageError, match=problem):
        runhook("sink", "move", old, new)

    assert states(book) == before


def test_what_was_done_from_here_is_in_the_audit(runhook: Runhook, book: Ledger, tmp_path: Path) -> None:
    config = {**CONFIG, "sinks": {"new": {"type": "files", "path": str(tmp_path / "new")}}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    runhook("sink", "pause", "new")
    runhook("sink", "resume", "new")
    runhook("sink", "test", "new")
    runhook("cancel", "--sink", "old")
    runhook("cancel", "--sink", "old", "--undo")
    runhook("sink", "move", "old", "new")
    runhook("replay", "tsk_1")
    (named,) = (row["id"] for row in json.loads(runhook("deliveries", "--run", "tsk_1", "--json")))
    runhook("cancel", named)
    runhook("cancel", named, "--undo")
    made = json.loads(runhook("keys", "create", "app", "--json"))
    runhook("keys", "revoke", made["id"])
    refused = QuarantinedRequest.of("skyvern", "0" * 64, b"{}", "", 1.0)
    Quarantine(tmp_path / "quarantine", 9, 1 << 20).add(refused, b"{}")
    with pytest.raises(AssertionError):  # none is authentic, so it ends with 1
        runhook("quarantine", "verify")
    runhook("quarantine", "drop", "--all")
    runhook("reroute", "--since", "2023-01-01")

    rows = book.read(audit.list_actions)

    assert [(row.action, row.count, row.outcome) for row in reversed(rows)] == [
        ("sink.pause", 1, "done"),
        ("sink.resume", 1, "done"),
        ("sink.test", 1, "done"),
        ("cancel", 1, "done"),
        ("replay", 1, "done"),
        ("sink.move", 2, "done"),
        ("replay", 1, "done"),
        ("cancel", 1, "done"),
        ("replay", 1, "done"),
        ("key.create", 1, "done"),
        ("key.revoke", 1, "done"),
        ("quarantine.verify", 0, "done"),
        ("quarantine.drop", 1, "done"),
        ("reroute", 0, "done"),
    ]
    assert made["key"] not in str(rows)
    assert {(row.actor_kind, row.actor) for row in rows} == {("cli", getpass.getuser())}


def test_bulk_undo_skips_a_delivery_that_was_cancelled_by_id(runhook: Runhook, book: Ledger) -> None:
    record(book, new_event("tsk_4", "old"))
    runhook("cancel", "tsk_2")
    runhook("cancel", "--sink", "old")
    assert (states(book)["tsk_2:old"], states(book)["tsk_4:old"]) == ("cancelled", "cancelled")

    runhook("cancel", "--sink", "old", "--undo")

    assert (states(book)["tsk_2:old"], states(book)["tsk_4:old"]) == ("cancelled", "queued")
    runhook("cancel", "tsk_2", "--undo")
    assert states(book)["tsk_2:old"] == "queued"


def test_what_waits_is_tried_now(runhook: Runhook, book: Ledger) -> None:
    settle(book, claim(book, "new"), DeliveryMove.DEFER, due_at=time.time() + 3600)
    (delivery,) = book.read(lambda it: queries.list_deliveries(it, queries.Filter(run_id="tsk_3")))
    with pytest.raises(RunhookError, match="--state waiting"):
        runhook("replay", delivery["id"])

    runhook("replay", delivery["id"], "--state", "waiting")

    step_operations(book, time.time())
    assert states(book)["tsk_3:new"] == "queued"
