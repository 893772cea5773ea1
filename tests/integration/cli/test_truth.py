"""Commands that say what is so: sinks that are paused or shut, a Skyvern that can't be asked, parts that are away."""

from __future__ import annotations

import getpass
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from handlers.support.timestamps import iso
from receiver.cli import build_app
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.domain.liveness import ProcessBeat
from receiver.errors import RunhookError
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger, heartbeats
from receiver.ledger.deliveries import lanes
from receiver.ledger.schema import deliveries
from receiver.ledger.stats import COUNT_LIMIT
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support.ledger import claim, every_lane, new_event, record, settle

Runhook = Callable[..., Result]


@pytest.fixture
def book(book: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    (tmp_path / "config").mkdir()
    config: dict[str, Any] = {
        "sources": {"skyvern": {"secrets": ["s"], "api_key": "k", "api_base": "http://127.0.0.1:1"}},
        "sinks": {"ops": {"type": "http", "url": "http://127.0.0.1:1/"}},
        "routes": [{"name": "all", "to": ["ops"]}],
        "allowed_addresses": ["127.0.0.1"],
    }
    (tmp_path / "config" / "runhook.yaml").write_text(json.dumps(config))
    return book


@pytest.fixture
def runhook(book: Ledger) -> Runhook:
    def run(*arguments: str) -> Result:
        found = CliRunner().invoke(build_app(), list(arguments))
        if isinstance(found.exception, RunhookError):
            raise found.exception
        return found

    return run


def shut(book: Ledger, breaker: str = "open", lane: str = "ops", until: float = 45.0) -> None:
    sink = lane.split(maxsplit=1)[0]
    found = Lane(lane, sink, False, breaker, 5, time.time() + until, "the server answered 503")
    book.write(lambda connection: lanes.put(connection, found, time.time()))


def row_of(runhook: Runhook, sink: str) -> tuple[str, dict[str, Any]]:
    """A sink's line in the list, and what --json says of it."""
    (line,) = (line for line in runhook("sink", "list").stdout.splitlines() if line.startswith(sink))
    (row,) = (row for row in json.loads(runhook("sink", "list", "--json").stdout) if row["name"] == sink)
    return line, row


def test_sink_shows_its_pause_and_next_probe(book: Ledger, runhook: Runhook) -> None:
    runhook("sink", "pause", "ops")
    shut(book)

    line, row = row_of(runhook, "ops")

    assert re.search(r"paused for \d+ s; breaker open, next probe in [34]\d s", line)
    assert line.endswith("the server answered 503")
    assert row["paused_at"] is not None
    assert row["probe_at"] is not None


def test_status_shows_the_limits_of_the_inbox(runhook: Runhook) -> None:
    (line,) = (line for line in runhook("status").stdout.splitlines() if line.startswith("inbox"))
    assert line.endswith("of 100,000 events, 512.0 MiB")


def test_sink_without_trouble_is_ready_if_a_worker_serves_it(book: Ledger, runhook: Runhook) -> None:
    record(book, new_event("tsk_1", "ops"))

    def states() -> list[str]:
        shown = (row_of(runhook, "ops")[0], *runhook("status").stdout.splitlines()[-1:])
        return [re.sub(r"^ops +(http +)?|  .*", "", line) for line in shown]

    assert states() == ["no worker", "no worker"]

    beat = ProcessBeat("w", "deliver:ops", "elsewhere", 7, "0", "", time.time(), sent_at=time.time())
    book.write(lambda connection: heartbeats.put(connection, beat))
    assert states() == ["ready", "ready"]


def test_backlog_says_when_it_is_cut_and_sent(book: Ledger, runhook: Runhook) -> None:
    # Given a long backlog, of which some have just been delivered
    now = time.time()
    record(book, *(new_event(f"tsk_{number}", "ops") for number in range(COUNT_LIMIT + 30)), now=now - 30)
    settle(book, claim(book, "ops", limit=20, now=now - 1), DeliveryMove.ACCEPT, now=now - 1)

    line, row = row_of(runhook, "ops")

    assert row["more"] == ["queued"]
    assert row["drained_in"] == pytest.approx(COUNT_LIMIT / (20 / 60), rel=0.05)
    assert "10,000+ queued; drained in at least 8 h at this rate" in line
    # And the status says so too, with the rate
    assert "10,000+ queued; 0.333 sent/s; drained in at least 8 h at this rate" in runhook("status").stdout
    state = json.loads(runhook("status", "--json").stdout)["ledger"]
    assert state["rates"]["ops"] == pytest.approx(20 / 60, rel=0.05)
    assert state["drained_in"]["ops"] == pytest.approx(row["drained_in"], rel=0.05)

    # And a high rate is a plain number
    delivered = sa.update(deliveries).values(state="delivered", updated_at=time.time() - 3)
    book.write(lambda connection: connection.execute(delivered))
    assert re.search(r" \d,\d{3} sent/s", runhook("status").stdout)


def test_run_says_why_a_failed_run_counts_as_completed(book: Ledger, runhook: Runhook) -> None:
    record(book, new_event("tsk_1", status="failed", failure_reason="Failed to send webhook: refused"))

    shown = runhook("run", "tsk_1").stdout

    assert "at Skyvern: failed: only its webhook failed, so it counts as completed" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("1450.00", '"1450.00"'),
        ("true", '"true"'),
        ("NULL", '"NULL"'),
        ("", '""'),
        (1450.0, "1450.0"),
        ("1 EUR", "1 EUR"),
    ],
)
def test_run_quotes_texts_that_look_like_other_values(
    book: Ledger, runhook: Runhook, value: object, shown: str
) -> None:
    record(book, new_event("tsk_1", output={"total": value}))

    assert runhook("run", "tsk_1").stdout.rstrip().endswith(f"total: {shown}")


def test_audit_says_who_acted_and_how(runhook: Runhook) -> None:
    assert "also across restarts" in runhook("sink", "pause", "ops").stdout
    assert f"{getpass.getuser()} (command line)" in runhook("audit").stdout


def test_status_says_who_paused_a_sink(runhook: Runhook) -> None:
    runhook("sink", "pause", "ops")
    who = re.escape(getpass.getuser())
    assert re.search(rf"note: ops was paused \d+ s ago by {who} \(command line\)", runhook("status").stdout)


def test_event_in_the_quarantine_says_so(book: Ledger, runhook: Runhook, tmp_path: Path) -> None:
    refused = QuarantinedRequest.of("skyvern", "00", b"{}", "", time.time())
    Quarantine(tmp_path / "quarantine", 10, 1 << 20).add(refused, b"{}")

    with pytest.raises(RunhookError, match="its signature was refused, and it is in the quarantine here"):
        runhook("event", refused.id)


def test_incidents_say_what_they_count(book: Ledger, runhook: Runhook) -> None:
    record(book, new_event("tsk_1", status="failed", failure_reason="captcha"), now=time.time())

    shown = runhook("incidents").output

    assert re.search(r"count +before +first +last +workflow +reason$", shown, re.MULTILINE)
    assert re.search(r"counted since \d{4}-.*; `before` counts the previous period of equal length", shown)
    # And scripts get the rows only
    assert runhook("incidents", "--json").stderr == ""


def test_status_shows_when_a_sink_was_last_sent_to(book: Ledger, runhook: Runhook) -> None:
    now = time.time()
    for run, age in (("tsk_1", 7200), ("tsk_2", 300)):
        record(book, new_event(run, "ops"))
        settle(book, claim(book, "ops"), DeliveryMove.ACCEPT, now=now - age)
    assert runhook("status").stdout.splitlines()[-1].split() == ["ops", "no", "worker", "5", "min", "ago"]


def test_all_rows_are_listed_page_by_page(book: Ledger, runhook: Runhook) -> None:
    record(book, *(new_event(f"tsk_{number}") for number in range(1_200)))

    for options in (["--all"], ["-n", "100000"]):
        assert len(runhook("runs", "-o", "csv", *options).stdout.splitlines()) == 1_201


def test_replay_says_what_it_selects(book: Ledger, runhook: Runhook) -> None:
    record(book, new_event("tsk_1", "ops"))
    claimed = claim(book, "ops")
    settle(book, claimed, DeliveryMove.DIE, response="tenant\n moved")

    shown = runhook("replay", "--sink", "ops", "--dry-run").stdout

    others = "(dead letters only; --state waiting or cancelled, or --force, selects others)"
    assert shown == f"1 delivery to replay {others}: 1 of ops\n"
    # And the dead letter shows when it was given up, and the other side's words
    (line,) = runhook("dead").stdout.splitlines()[1:]
    assert re.search(r"tsk_1 .* ops .*Z +no · tenant moved$", line)
    assert "`runhook replay --sink ops` sends them again" in runhook("status").stdout
    with pytest.raises(RunhookError, match="--state delivered would send results again that have arrived: add --force"):
        runhook("replay", "--sink", "ops", "--state", "delivered")


def test_import_names_runs_that_it_leaves_out(
    runhook: Runhook, tmp_path: Path, skyvern_simulator: SkyvernSimulator
) -> None:
    # Given a run that has just ended, and whose webhook may still come
    config = tmp_path / "config" / "runhook.yaml"
    source = {"secrets": [KEY], "api_key": KEY, "api_base": skyvern_simulator.url}
    config.write_text(json.dumps({"sources": {"skyvern": source}, "sinks": {}, "routes": []}))
    (run_id,) = skyvern_simulator.ended("just now")
    # Then an import says that it is left out, and until when
    shown = runhook("reconcile", "--import", "--for", "0")
    assert shown.exit_code == 0
    assert "Left out: 1 run that ended within webhook_grace" in shown.stdout
    assert re.search(r"The clock imports them in \d+ s; --import --now imports them now", shown.stdout)
    # And --now takes it
    assert "1 imported" in runhook("reconcile", "--import", "--now", "--for", "0").stdout
    assert run_id in runhook("runs").stdout
    # And a list of no missing runs does not offer to import them
    assert runhook("reconcile", "--for", "0").stdout.endswith("0 of them missing.\n")


def test_check_takes_every_body_after_against(runhook: Runhook, tmp_path: Path) -> None:
    for name in ("a", "b.txt"):
        (tmp_path / name).write_text(f'{{"run_id": "{name[0]}", "status": "completed"}}')

    found = runhook("check", "--json", "--against", str(tmp_path / "a"), str(tmp_path / "b.txt"), "task_v2.failed")

    assert [trial["run_id"] for trial in json.loads(found.stdout)["against"]][:2] == ["a", "b"]


def test_resume_says_that_the_breaker_is_open_and_has_it_probed(book: Ledger, runhook: Runhook) -> None:
    shut(book)
    runhook("sink", "pause", "ops")

    said = runhook("sink", "resume", "ops").stdout

    assert said.startswith(
        "ops resumed\nits breaker is still open (the server answered 503): one delivery is tried now"
    )
    (lane,) = book.read(every_lane)
    assert not lane.paused
    assert lane.until <= time.time()
    # And the next one says that there was nothing to resume
    book.write(lambda connection: lanes.put(connection, Lane("ops", "ops"), time.time()))
    assert runhook("sink", "resume", "ops").stdout == "ops was not paused\n"


def test_unreachable_skyvern_leaves_missing_results_unknown(runhook: Runhook) -> None:
    found = runhook("reconcile", "--for", "0")

    assert found.exit_code == 1
    assert "no results are missing" not in found.stdout
    assert "unknown whether results are missing" in found.stdout
    assert "Skyvern's list of runs could not be read" in found.stdout
    assert re.fullmatch(r"runhook: ledger: sqlite:\S+ledger.db\nrunhook: skyvern: .*\n", found.stderr)


@pytest.mark.parametrize("command", ["reconcile", "connect"])
def test_a_source_that_is_not_there_is_named_with_those_that_are(runhook: Runhook, command: str) -> None:
    with pytest.raises(RunhookError, match=r"--source skyven: not found; did you mean skyvern?"):
        runhook(command, "--source", "skyven")


def test_key_of_dev_explains_why_skyvern_is_not_called(runhook: Runhook, tmp_path: Path) -> None:
    path = tmp_path / "config" / "runhook.yaml"
    source = {"secrets": ["${SKYVERN_API_KEY}"], "api_key": "${SKYVERN_API_KEY:-}"}
    path.write_text(json.dumps({"sources": {"skyvern": source}}))
    (tmp_path / "skyvern-api-key").write_text("local-1\n")

    for arguments in (["reconcile"], ["connect"], ["keys", "create", "app"]):
        with pytest.raises(RunhookError, match=r"was made here and opens nothing at Skyvern.*SKYVERN_BASE_URL"):
            runhook(*arguments)


@pytest.mark.parametrize("line", ["", ', "api_key": "${SKYVERN_API_KEY:-}"'])
def test_missing_api_key_names_the_line_to_add(
    runhook: Runhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    # Given a source without a key for Skyvern's API
    path = tmp_path / "config" / "runhook.yaml"
    source = '{"sources": {"skyvern": {"secrets": ["k"]%s}}}'
    path.write_text(source % line)
    # Then each command that needs one prints the line, its place, and where the variable goes
    added = 'api_key: "${SKYVERN_API_KEY}"'
    for arguments in (["reconcile"], ["connect"], ["keys", "create", "app"]):
        with pytest.raises(RunhookError, match="skyvern: api_key is missing or empty") as caught:
            runhook(*arguments)
        assert f"Below `skyvern:` write {added}, and set SKYVERN_API_KEY in .env or in the environment" in str(
            caught.value
        )
    # And with both, a key is created
    name, value = added.split(": ", 1)
    path.write_text(source % f', "{name}": {value}')
    monkeypatch.setenv("SKYVERN_API_KEY", "sk-real")
    assert "rhk_" in runhook("keys", "create", "app").stdout


def test_waiting_delivery_shows_when_it_is_given_up(book: Ledger, runhook: Runhook, tmp_path: Path) -> None:
    # Given a delivery whose first attempt failed an hour ago, and one that was not tried yet
    began = time.time() // 1 - 3600
    record(book, new_event("tsk_1", "ops"))
    settle(book, claim(book, "ops"), DeliveryMove.DEFER, now=began, due_at=time.time() + 60)
    record(book, new_event("tsk_2", "ops"))

    def rows() -> dict[str, float | None]:
        return {row["run_id"]: row["give_up_at"] for row in json.loads(runhook("deliveries", "--json").stdout)}

    # Then it is given up three days after that attempt
    end = iso(began + 3 * 86_400)
    assert rows() == {"tsk_1": end, "tsk_2": None}
    assert f"; given up at {end}" in " ".join(runhook("run", "tsk_1").stdout.split())
    assert "given up" not in runhook("run", "tsk_2").stdout
    # And the list does not need a valid config
    (tmp_path / "config" / "runhook.yaml").write_text("sinks: 1")
    assert rows() == {"tsk_1": None, "tsk_2": None}


def test_only_lists_without_filters_suggest_a_first_webhook(runhook: Runhook) -> None:
    assert runhook("events").stdout == "no events found; send a first webhook with `runhook trigger`\n"
    assert runhook("events", "--disposition", "repeat").stdout == "no events found\n"
    assert runhook("runs", "--since", "22:43").stdout == "no runs found\n"
