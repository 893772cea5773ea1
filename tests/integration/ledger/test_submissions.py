"""Submissions and keys in the ledger: what the API says outranks a token, and keys are shown once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from receiver.cli import build_app
from receiver.domain import api_key
from receiver.domain.delivery import DeliveryMove, IllegalMove
from receiver.domain.submission import NewSubmission, Submission, SubmissionMove
from receiver.errors import ConfigError, UsageError
from receiver.ledger import Ledger, polls, totals
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key, by_hashes
from receiver.ledger.lists.submissions import list_submissions
from receiver.ledger.migrate import ensure_schema
from receiver.ledger.recording import binding
from receiver.ledger.schema import runs
from receiver.ledger.selection import Selection
from receiver.ledger.submissions import lifecycle, records
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.ledger.verbs import Operation
from tests.support import queries
from tests.support.ledger import claim, lock_runs, new_event, record, settle, with_tables

NOW = 1_700_000_000.0


def begin(ledger: Ledger, name: str, **fields: Any) -> Submission:
    key_id, request_hash = fields.pop("key_id", "k1"), fields.pop("request_hash", name)
    new = NewSubmission(f"sub_{name}", "skyvern", key_id, "tasks", request_hash, **fields)
    return ledger.write(lambda connection: lifecycle.begin(connection, new, NOW))[0]


def webhook(ledger: Ledger, run_id: str, token: str = "") -> dict[tuple[str, str], Submission]:
    def work(connection: sa.Connection) -> dict[tuple[str, str], Submission]:
        lock_runs(connection, [("skyvern", run_id)], NOW)
        return binding.bind(connection, [binding.Reported("skyvern", run_id, token)], NOW, {})

    return ledger.write(work)


def answered(ledger: Ledger, name: str, move: SubmissionMove, run_id: str = "") -> Submission:
    answer = SubmitOutcome(move, run_id, status=200 if run_id else 502, body=b"{}", due_at=NOW + 600)
    return ledger.write(lambda connection: lifecycle.record_outcome(connection, f"sub_{name}", answer, NOW + 1))[0]


def due(ledger: Ledger, now: float) -> list[str]:
    return [each.run_id for each in ledger.write(lambda connection: polls.lease_due(connection, "skyvern", now, 9))]


def owner(ledger: Ledger, run_id: str) -> tuple[str, str]:
    query = sa.select(runs.c.submission_id, runs.c.labels).where(runs.c.run_id == run_id)
    return tuple(ledger.read(lambda connection: connection.execute(query).one()))


def test_webhook_before_the_response_accepts_the_submission(ledger: Ledger) -> None:
    begin(ledger, "a", labels={"team": "b"})

    bound = webhook(ledger, "tsk_1", "sub_a")
    found = answered(ledger, "a", SubmissionMove.ACCEPT, "tsk_1")

    assert bound["skyvern", "tsk_1"].state == found.state == "accepted"
    assert owner(ledger, "tsk_1") == ("sub_a", '{"team": "b"}')


def test_a_lost_answer_after_the_webhook_stays_accepted(ledger: Ledger) -> None:
    begin(ledger, "a")
    webhook(ledger, "tsk_1", "sub_a")

    assert answered(ledger, "a", SubmissionMove.MISS).state == "accepted"


def test_an_answer_outranks_the_token_of_a_webhook(ledger: Ledger) -> None:
    begin(ledger, "a", labels={"team": "a"})
    begin(ledger, "b", labels={"team": "b"})
    webhook(ledger, "tsk_1", "sub_a")  # with another's token

    answered(ledger, "a", SubmissionMove.ACCEPT, "tsk_2")
    assert owner(ledger, "tsk_1") == ("", "{}")
    webhook(ledger, "tsk_2")
    answered(ledger, "b", SubmissionMove.ACCEPT, "tsk_1")

    assert owner(ledger, "tsk_1") == ("sub_b", '{"team": "b"}')
    assert owner(ledger, "tsk_2") == ("sub_a", '{"team": "a"}')


def test_run_taken_by_a_wrong_token_is_given_back(ledger: Ledger) -> None:
    begin(ledger, "a")
    begin(ledger, "b")
    webhook(ledger, "tsk_b", "sub_a")

    answered(ledger, "b", SubmissionMove.ACCEPT, "tsk_b")

    a = ledger.read(lambda connection: records.get(connection, "sub_a"))
    assert a is not None
    assert (a.state, a.run_id) == ("unknown", "")
    assert owner(ledger, "tsk_b")[0] == "sub_b"
    assert due(ledger, NOW + 2) == ["sub_a"]


# Pairs that a pattern of LIKE would confuse; what JSON may escape; and characters of one to four bytes.
VALUES = ["a_b", "axb", "100 %", "100 x", "é", "Müller", "\U0001f600", '"', "C:\\u00e9", '\U0001f600_%\\ü"']


@pytest.mark.parametrize("order", ["response first", "webhook first", "response lost"])
def test_a_label_selects_its_run_in_any_order(ledger: Ledger, order: str) -> None:
    # Given runs whose labels are bound by the response, by the webhook, or by a search
    for number, value in enumerate(VALUES):
        name, run_id = str(number), f"tsk_{number}"
        begin(ledger, name, labels={"kunde": value})
        if order == "webhook first":
            webhook(ledger, run_id, f"sub_{name}")
        if order == "response lost":
            answered(ledger, name, SubmissionMove.MISS)
            resolve(ledger, f"sub_{name}", run_id)
        else:
            answered(ledger, name, SubmissionMove.ACCEPT, run_id)
        record(ledger, new_event(run_id, "ops", "mail"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    # Then lists, totals and actions by label take that run alone
    lists = (queries.list_runs, queries.list_events, _list_submissions)
    for number, value in enumerate(VALUES):
        wanted = Selection(labels={"kunde": value})
        assert [_run_ids(ledger, each, wanted) for each in lists] == [[f"tsk_{number}"]] * 3, value
        actions = (Operation("replay", wanted), Operation("cancel", wanted))
        assert [ledger.read(each.count) for each in actions] == [1] * 2, value
        assert _count_runs(ledger, wanted) == 1, value


def resolve(ledger: Ledger, submission_id: str, run_id: str) -> None:
    move = SubmissionMove.ACCEPT
    assert ledger.write(lambda it: lifecycle.resolve(it, submission_id, move, NOW, run_id=run_id)) is not None


def _list_submissions(connection: sa.Connection, wanted: Selection) -> list[dict[str, Any]]:
    return list_submissions(connection, wanted, None, 50)[0]


def _run_ids(ledger: Ledger, rows: Any, wanted: Selection) -> list[str]:
    return [each["run_id"] for each in ledger.read(lambda it: rows(it, wanted))]


def _count_runs(ledger: Ledger, wanted: Selection) -> int:
    return ledger.read(lambda it: totals.count_runs(it, wanted, totals.Span(0.0, NOW + 60))).all.count


@pytest.mark.parametrize(("later", "joins"), [(1.0, True), (599.0, True), (600.0, False), (86_400.0, False)])
def test_identical_request_joins_an_unknown_one_for_ten_minutes(ledger: Ledger, later: float, joins: bool) -> None:
    begin(ledger, "a", request_hash="h")
    answered(ledger, "a", SubmissionMove.MISS)

    new = NewSubmission("sub_b", "skyvern", "k1", "tasks", "h")
    found, made = ledger.write(lambda connection: lifecycle.begin(connection, new, NOW + later))

    assert (found.id, made) == (("sub_a", False) if joins else ("sub_b", True))


def test_only_a_refused_request_frees_its_idempotency_key(ledger: Ledger) -> None:
    begin(ledger, "a", idempotency_key="k")
    assert begin(ledger, "b", idempotency_key="k").id == "sub_a"  # nobody knows yet whether there is a run

    answered(ledger, "a", SubmissionMove.REJECT)
    same = begin(ledger, "c", idempotency_key="k", request_hash="a")
    another = begin(ledger, "d", idempotency_key="k")
    answered(ledger, "d", SubmissionMove.ACCEPT, "tsk_1")
    late = begin(ledger, "e", idempotency_key="k")

    assert (same.id, another.id, late.id) == ("sub_a", "sub_d", "sub_d")


def test_rotated_keys_share_their_idempotency_keys(ledger: Ledger) -> None:
    # Given a key that was rotated twice, and another of the same name
    for key_id in ("k1", "k2", "k3", "other"):
        key = Key(key_id, "app", f"hash of {key_id}", "", frozenset(), "skyvern", None, NOW)
        ledger.write(lambda it, key=key: api_keys.create(it, key))  # type: ignore[misc]
    for old, new in (("k1", "k2"), ("k2", "k3")):
        ledger.write(lambda it, old=old, new=new: api_keys.replace(it, old, new, NOW))  # type: ignore[misc]
    # When one Idempotency-Key comes with each of them
    found = [begin(ledger, name, key_id=name, idempotency_key="i").id for name in ("k2", "k1", "k3", "other")]
    # Then it is one submission, but of the one that is none of theirs
    assert found == ["sub_k2", "sub_k2", "sub_k2", "sub_other"]
    # And each has others by itself
    assert begin(ledger, "more", key_id="k3", idempotency_key="j").id == "sub_more"


def test_submission_of_a_dead_process_is_due_and_resolved(ledger: Ledger) -> None:
    begin(ledger, "a")

    assert not due(ledger, NOW + lifecycle.PENDING_POLL - 1)
    (a,) = due(ledger, NOW + lifecycle.PENDING_POLL)
    moves: list[tuple[SubmissionMove, dict[str, Any]]] = [
        (SubmissionMove.MISS, {"due_at": NOW}),
        (SubmissionMove.ACCEPT, {"run_id": "tsk_1"}),
        (SubmissionMove.GIVE_UP, {}),
    ]
    moved = [ledger.write(lambda it, m=move, of=of: lifecycle.resolve(it, a, m, NOW, **of)) for move, of in moves]  # type: ignore[misc]
    assert moved == [(), (), None]
    with pytest.raises(IllegalMove):
        ledger.write(lambda connection: lifecycle.resolve(connection, a, SubmissionMove.ACCEPT, NOW))


# --- The command


def call(data: Path, *arguments: str, **environ: str) -> Result:
    config = data / "runhook.yaml"
    config.write_text(
        json.dumps({"sources": {"skyvern": {"secrets": ["s"], "api_key": "k"}, "bare": {"secrets": ["s"]}}})
    )
    environ = {"RUNHOOK_CONFIG": str(config), "RUNHOOK_DATA": str(data), "REDIS_URL": "redis://127.0.0.1:9", **environ}
    return CliRunner().invoke(build_app(), ["keys", *arguments], env=environ)


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    created = call(tmp_path, "create", "billing", "--source", "skyvern", "--scope", "read,submit", "--rate", "10/s")

    assert created.exit_code == 0, created.output
    (whole,) = re.findall(r"rhk_\S+", created.output.splitlines()[0])
    listed = json.loads(call(tmp_path, "list", "--json").output)
    assert [(each["name"], each["scopes"], each["rate"]) for each in listed] == [
        ("billing", ["submit", "read"], "10/s")
    ]
    assert whole not in json.dumps(listed)
    assert whole.encode() not in (tmp_path / "ledger.db").read_bytes()
    assert (tmp_path / "runhook-secret").stat().st_mode & 0o777 == 0o600

    assert call(tmp_path, "revoke", listed[0]["id"]).exit_code == 0
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ensure_schema(ledger)
    assert ledger.read(lambda connection: by_hashes(connection).get(api_key.digest(whole))) is None
    ledger.close()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["create", "a"], UsageError),
        (["create", "a", "--source", "skyvern", "--scope", "admin"], UsageError),
        (["create", "a", "--source", "skyvern", "--rate", "much"], UsageError),
        (["create", "a", "--source", "bare"], ConfigError),
        (["revoke", "nobody"], UsageError),
    ],
)
def test_a_wrong_call_is_reported_in_one_line(tmp_path: Path, arguments: list[str], kind: type[Exception]) -> None:
    with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")).close()

    ended = call(tmp_path, *arguments)

    assert isinstance(ended.exception, kind)
    assert len(str(ended.exception).splitlines()) == 1


def test_host_with_another_master_secret_creates_no_key(tmp_path: Path) -> None:
    call(tmp_path, "create", "a", "--source", "skyvern", RUNHOOK_SECRET="the first master secret")

    ended = call(tmp_path, "create", "b", "--source", "skyvern", RUNHOOK_SECRET="another master secret")

    assert isinstance(ended.exception, ConfigError)
    assert "RUNHOOK_SECRET" in str(ended.exception)
