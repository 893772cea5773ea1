"""`runhook submissions`, and what `runhook sink` says of callers' own webhooks."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from receiver.cli.options import parse_time
from receiver.domain.breaker import Lane
from receiver.domain.new_event import NewDelivery
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.errors import Invalid, NotFound
from receiver.ledger import Ledger
from receiver.ledger.deliveries import claims, lanes
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.deliveries.fair_queue import ManyLanes, Rotation
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from tests.support.command import Runhook
from tests.support.ledger import new_event, record

CONFIG = {
    "sources": {"skyvern": {"secrets": ["s"], "api_key": "k"}},
    "sinks": {"ops": {"type": "files", "path": "/tmp/never"}},
    "routes": [],
}


@pytest.fixture(autouse=True)
def config(home: Path) -> None:
    (home / "c.json").write_text(json.dumps(CONFIG))


def submit(book: Ledger, name: str, move: SubmissionMove | None, age: float, **labels: str) -> None:
    new = NewSubmission(f"sub_{name * 32}", "skyvern", "k1", "tasks", name, labels=labels, webhook_url="http://u:p@h/")
    now = time.time()
    book.write(lambda connection: lifecycle.begin(connection, new, now - age))
    if move is not None:
        run_id = f"tsk_{name}" if move is SubmissionMove.ACCEPT else ""
        answer = SubmitOutcome(move, run_id, reason="no answer", status=200, body=b"SECRET", due_at=now + 600)
        book.write(lambda connection: lifecycle.record_outcome(connection, new.id, answer, now - age))


def test_submissions_are_listed_with_state_and_next_poll(book: Ledger, runhook: Runhook) -> None:
    submit(book, "a", SubmissionMove.ACCEPT, 10_000, team="billing", order="42")
    submit(book, "b", SubmissionMove.MISS, 90)
    submit(book, "c", SubmissionMove.REJECT, 5)

    rows = runhook("submissions").splitlines()

    assert [row.split()[:2] for row in rows[1:]] == [
        ["sub_cccccccccccc", "rejected"],
        ["sub_bbbbbbbbbbbb", "unknown"],
        ["sub_aaaaaaaaaaaa", "accepted"],
    ]
    assert "tsk_a" in rows[3]
    assert all(each in rows[3] for each in ("tasks", "order=42 team=billing"))
    assert len(re.findall(r" \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", rows[3])) == 2  # submitted, polled next
    assert rows[2].endswith("no answer")
    assert "SECRET" not in runhook("submissions", "--json") + "".join(rows)
    assert "http" not in runhook("submissions", "--json")

    # And a run whose result has not come yet is not denied
    with pytest.raises(
        NotFound, match=r"run tsk_a: it was submitted here and no result has come yet; Skyvern is polled"
    ):
        runhook("run", "tsk_a")


def test_run_without_title_is_listed_by_its_prompt(book: Ledger, runhook: Runhook) -> None:
    # Given a run with a prompt, and one with a title as well
    record(book, new_event("tsk_1", run_request={"prompt": "Log in\nThen pay"}), now=1.0)
    record(book, new_event("tsk_2", prompt="Log in", title="Pay"), now=2.0)
    # Then the list has the title, or else the prompt's first line
    assert [row.split("  ")[1] for row in runhook("runs").splitlines()[1:]] == ["Pay", "Log in"]
    assert [each["prompt"] for each in json.loads(runhook("runs", "--json"))] == ["Log in", "Log in"]


def test_clock_time_is_one_of_the_local_zone(book: Ledger, runhook: Runhook, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an event of ten minutes ago, and one of now
    now = int(time.time())
    for number, moment in enumerate((now - 600, now)):
        record(book, new_event(f"tsk_{number}"), now=moment)
    for zone in ("Asia/Tokyo", "America/Los_Angeles", "UTC"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        # When a person asks by the clock on the wall
        clock = time.strftime("%H:%M", time.localtime(now - 300))
        # Then it is the time there
        assert [each["run_id"] for each in json.loads(runhook("events", "--json", "--since", clock))] == ["tsk_1"]
        assert [each["run_id"] for each in json.loads(runhook("events", "--json", "--until", clock))] == ["tsk_0"]
        assert parse_time(clock) == now - 300 - (now - 300) % 60
    monkeypatch.undo()
    time.tzset()


# --- The sink that stands in no config


def trouble(book: Ledger) -> None:
    """Three callers' addresses, one of them dead with two deliveries, and one sink of the config."""
    for number, lane in enumerate(("https://a.example", "https://dead.example", "https://dead.example", "http://b:81")):
        record(book, new_event(f"tsk_{number}", NewDelivery("callback", "caller", lane=f"callback {lane}")))
    gate = Lane(
        "callback https://dead.example",
        "callback",
        False,
        "open",
        5,
        time.time() + 60,
        "the caller's server answered 503",
    )
    book.write(lambda connection: lanes.put(connection, gate, time.time()))


def test_callers_webhooks_are_paused_and_resumed(book: Ledger, runhook: Runhook) -> None:
    trouble(book)

    def take() -> list[Claimed]:
        many = ManyLanes(8, 4, Counter(), 0, Rotation())
        return book.write(lambda it: claims.claim(it, "callback", 8, "w", time.time(), many=many))

    runhook("sink", "pause", "callback", "--config", "c.json")
    assert "paused" in runhook("sink", "list", "--config", "c.json").splitlines()[2]
    assert take() == []

    runhook("sink", "resume", "callback", "--config", "c.json")
    assert sorted(each.probe for each in take()) == [False, False, True]  # the shut origin is probed at once


def test_callback_sink_refuses_samples_and_old_results(runhook: Runhook, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="it has no address of its own"):
        runhook("sink", "test", "callback", "--config", "c.json")
    with pytest.raises(Invalid, match="callers' webhooks are made for their own runs"):
        runhook("reroute", "--sink", "callback", "--ignore-routes", "--since", "1d", "--config", "c.json")
    (tmp_path / "c.json").write_text(json.dumps({**CONFIG, "sources": {"skyvern": {"secrets": ["s"]}}}))
    with pytest.raises(Invalid, match="no source has an api_key"):
        runhook("sink", "pause", "callback", "--config", "c.json")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--state", "unknown"), "b"),
        (("--state", "unknown", "--state", "accepted"), "ba"),
        (("--label", "team=billing"), "a"),
        (("--label", "team=bill"), ""),
        (("--label", "team=billing", "--label", "order=43"), ""),
        (("--run", "tsk_a"), "a"),
        (("--since", "10m"), "cb"),
        (("--limit", "1"), "c"),
    ],
)
def test_submissions_are_chosen(book: Ledger, runhook: Runhook, options: tuple[str, ...], found: str) -> None:
    submit(book, "a", SubmissionMove.ACCEPT, 10_000, team="billing", order="42")
    submit(book, "b", SubmissionMove.MISS, 90)
    submit(book, "c", SubmissionMove.REJECT, 5, **{"not": 'team": "billing'})

    rows = json.loads(runhook("submissions", "--json", *options))

    assert "".join(row["id"][4] for row in rows) == found


def test_callback_sink_lists_origins_with_open_breakers(book: Ledger, runhook: Runhook, tmp_path: Path) -> None:
    trouble(book)

    (_, ops, callback) = runhook("sink", "list", "--config", "c.json").splitlines()
    (_, row) = json.loads(runhook("sink", "list", "--config", "c.json", "--json"))

    assert ops.split()[:2] == ["ops", "files"]
    assert callback.split("  ")[0] == "callback"
    assert "1 breaker open" in callback
    assert callback.endswith("https://dead.example: the caller's server answered 503")
    (shut,) = row["origins"]["shut"]
    assert (shut["origin"], shut["breaker"]) == ("https://dead.example", "open")
