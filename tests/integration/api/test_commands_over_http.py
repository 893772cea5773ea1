"""Commands that act on a remote service: the same words, and what they count is what they change."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import delivery_id
from receiver.errors import Conflict, Forbidden, RunhookError, UsageError
from receiver.ledger import verbs
from receiver.ledger.access import audit
from receiver.ledger.schema import deliveries
from tests.servers.submitting import Submitting
from tests.support.command import Runhook, run_command
from tests.support.ledger import claim, new_event, record, settle, states


@pytest.fixture
def runhook(api_server: Submitting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runhook:
    """Runs a command on the service, with a key that may do everything unless another is named."""
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("RUNHOOK_URL", api_server.url)
    monkeypatch.setenv("RUNHOOK_KEY", api_server.key("view", "operate", source="*"))
    now = time.time() - 60
    record(api_server.ledger, new_event("tsk_1", "callback"), new_event("tsk_2", "callback"), now=now)
    settle(api_server.ledger, claim(api_server.ledger, "callback", now=now), DeliveryMove.DIE, now=now)

    return run_command


def test_remote_dead_letters_are_counted_replayed_and_cancelled(runhook: Runhook, api_server: Submitting) -> None:
    ledger = api_server.ledger
    # When they are counted, nothing changes; few are replayed at once
    assert runhook("replay", "--all", "--dry-run").startswith("2 deliveries to replay (dead letters only")
    assert set(states(ledger).values()) == {"dead"}
    said = runhook("replay", "--sink", "callback", "--since", "2h")
    assert ": 2 deliveries to replay" in said
    assert set(states(ledger).values()) == {"queued"}

    # And what is named is done at once, with its progress
    first = delivery_id(new_event("tsk_1").event.id, "callback")
    assert ": 1 delivery to cancel\n" in runhook("cancel", first)
    assert sorted(states(ledger).values()) == ["cancelled", "queued"]
    assert runhook("cancel", first, "--undo").endswith(": 1 delivery to replay\n")

    # And a whole sink's, there and back
    assert ": 2 deliveries to cancel\n" in runhook("cancel", "--sink", "callback", "--wait")
    assert set(states(ledger).values()) == {"cancelled"}
    runhook("cancel", "--sink", "callback", "--undo")
    assert set(states(ledger).values()) == {"queued"}
    done = [row.action for row in ledger.read(audit.list_actions)]
    assert done == ["replay", "cancel", "replay", "cancel", "replay"]


@pytest.mark.parametrize("command", [["runs"], ["run", "tsk_1"]])
def test_key_without_view_is_refused_on_skyverns_paths_too(
    runhook: Runhook, api_server: Submitting, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("RUNHOOK_KEY", api_server.key("submit", "read", "operate"))

    with pytest.raises(Forbidden, match="this needs the scope view; app has operate, read, submit"):
        runhook(*command)


def test_an_operation_of_a_remote_service_is_watched_and_stopped(runhook: Runhook, api_server: Submitting) -> None:
    named = runhook("replay", "--all", "--rate", "0.001").partition(":")[0]
    assert runhook("cancel", named) == f"{named}: cancelled\n"
    assert "op_" in runhook("replay", "tsk_1", "--wait")
    assert "1 of 1" in runhook("replay", "tsk_2", "--wait")
    with pytest.raises(RunhookError, match=r"nothing to replay: 2 queued \(they are sent soon"):
        runhook("replay", "--all")
    with pytest.raises(UsageError, match="tsk_9: unknown run"):
        runhook("replay", "tsk_9")
    assert set(states(api_server.ledger).values()) == {"queued"}


@pytest.mark.parametrize("source", ["*", "skyvern"])
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        # What is not known is a wrong call, alone or beside others
        (["tsk_404"], 2, "tsk_404: unknown run"),
        (["tsk_1", "tsk_404"], 2, "tsk_404: unknown run"),
        (["evt_0123456789ab"], 2, "evt_0123456789ab: unknown event"),
        (["dlv_0123456789ab"], 2, "dlv_0123456789ab: unknown delivery"),
        # What is known, and has nothing to be replayed, is none
        (["tsk_3"], 1, "nothing to replay: nothing matches"),
        (["tsk_1", "tsk_3"], 1, "tsk_3: there is nothing to replay of it"),
    ],
)
def test_an_unknown_id_and_nothing_to_do_end_differently(
    runhook: Runhook, api_server: Submitting, source: str, arguments: list[str], code: int, told: str
) -> None:
    record(api_server.ledger, new_event("tsk_3"))
    before = states(api_server.ledger)
    with pytest.raises(RunhookError, match=told) as ended:
        runhook("replay", *arguments, "--key", api_server.key("view", "operate", source=source))
    assert ended.value.exit_code == code
    assert states(api_server.ledger) == before


def test_keys_of_a_remote_service_are_made_listed_and_revoked(runhook: Runhook, api_server: Submitting) -> None:
    made = json.loads(runhook("keys", "create", "dashboard", "--scope", "view", "--source", "skyvern", "--json"))
    listed = {row["id"]: row for row in json.loads(runhook("keys", "list", "--json"))}
    assert (listed[made["id"]]["name"], listed[made["id"]]["scopes"]) == ("dashboard", ["view"])
    assert "key" not in listed[made["id"]]
    assert made["key"].startswith("rhk_")
    with pytest.raises(Forbidden, match="has no submit"):
        runhook("keys", "create", "app", "--scope", "submit", "--source", "skyvern")
    # And rotated, by who has its scopes, with an end
    shown = runhook("keys", "rotate", "dashboard", "--grace", "2h", "--expires", "30d")
    assert re.search(r"^rhk_\w+.*\n\nIt is shown only once. dashboard: view for source skyvern until 20", shown)
    assert "The old key, rhk_" in shown
    old = next(row for row in json.loads(runhook("keys", "list", "--json")) if row["id"] == made["id"])
    assert old["replaced_by"]
    assert not old["expired"]
    assert f"until {old['expires_at'][:19]}Z, replaced by {old['replaced_by']}" in runhook("keys", "list")
    with pytest.raises(UsageError, match="was rotated already"):
        runhook("keys", "rotate", made["id"])
    assert runhook("keys", "revoke", made["id"]) == f"revoked: {made['id']}; refused everywhere within 5 s\n"
    with pytest.raises(UsageError, match="no such key: nobody; `runhook keys list` lists them"):
        runhook("keys", "revoke", "nobody")
    done = [(row.action, row.actor_kind) for row in api_server.ledger.read(audit.list_actions)]
    assert done == [("key.revoke", "key"), ("key.rotate", "key"), ("key.create", "key")]


def test_remote_erase_needs_its_own_scope(
    runhook: Runhook, api_server: Submitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Forbidden, match="this needs the scope erase; app has operate, view"):
        runhook("erase", "--run", "tsk_1", "--yes")
    monkeypatch.setenv("RUNHOOK_KEY", api_server.key("view", "erase", source="*"))
    # And if one run is refused, none is erased
    api_server.ledger.write(lambda it: verbs.queue_again(it, deliveries.c.run_id == "tsk_2", time.time()))
    with pytest.raises(Conflict, match="tsk_2: deliveries to callback are pending"):
        runhook("erase", "--run", "tsk_1", "--run", "tsk_2", "--yes")
    assert "1 event, 0 requests in quarantine" in runhook("erase", "--run", "tsk_1", "--yes")
