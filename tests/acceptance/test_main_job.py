"""The main job as its users see it: real processes, real servers, all five sinks, every kind of body.

`runhook serve`, `worker` and `clock` run as the Procfile has them; everything else is done with the command line. What
must come out is computed from the bodies that were sent, not from what the receiver says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from standardwebhooks import Webhook

from receiver.domain.event import delivery_id, event_id
from receiver.domain.run import Run, parse
from receiver.ledger import LedgerUnavailable
from simulator import samples
from tests.servers.artifacts import ArtifactServer, Page
from tests.servers.deployment import Deployment
from tests.servers.http import Request, ScriptedServer
from tests.servers.postgres import PostgresProcess
from tests.servers.seaweedfs import S3Server
from tests.servers.slack import FakeSlack
from tests.servers.valkey import ValkeyProcess
from tests.support import queries
from tests.support.hostile import hostile_bodies
from tests.support.mirror import files_in
from tests.support.waiting import PATIENCE, eventually

BAD = {"failed", "timed_out", "terminated"}
KEY = "the-api-key-that-skyvern-signs-with"
BILLING_SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSBiaWxsaW5nIHNlcnZpY2U="
CONFIG = """\
sources:
  skyvern: {secrets: ["${SKYVERN_API_KEY}"]}
sinks:
  results: {type: database, url: "${RESULTS_URL:-sqlite:///${RUNHOOK_DATA}/results.db}", table: skyvern_runs}
  archive: {type: files, path: "${RUNHOOK_DATA}/archive"}
  mirror:  {type: s3, bucket: "${MIRROR_BUCKET}", prefix: "{{ run.run_type }}/{{ run.run_id }}/",
            endpoint_url: "${S3_ENDPOINT_URL}"}
  ops:     {type: slack, webhook_url: "${SLACK_WEBHOOK_URL}", retry: {first: 200ms}}
  billing: {type: http, url: "${BILLING_URL}", secret: "${BILLING_SECRET}", retry: {first: 200ms}}
routes:
  - {name: everything, to: [results, archive, mirror]}
  - {name: failures, when: {status: [failed, timed_out, terminated]}, to: [ops]}
  - {name: big invoices, when: 'run.status == "completed" && run.output.total > 1000.0', to: [billing]}
allowed_addresses: [127.0.0.1]
"""
SEPARATOR = "--to--"


class SamplePages(dict[str, Any]):
    """The files of every sample run, as Skyvern's API serves them, and redirects to an address in the path."""

    def get(self, path: str, default: Any = None) -> Any:
        parts = path.split("/")
        if SEPARATOR in path:
            return Page(status=302, headers={"location": f"http://{parts[3].partition(SEPARATOR)[2]}/"})
        found = samples.artifact(parts[3]) if path.startswith("/v1/artifacts/") and len(parts) > 3 else None
        return Page(found[1], headers={"content-type": found[0]}) if found else default


class System(Deployment):
    """A deployment with a sink of each kind, and the servers around it."""

    slack: FakeSlack
    billing: ScriptedServer
    artifacts: ArtifactServer
    s3: S3Server

    def trigger(self, *what: str) -> list[dict[str, Any]]:
        """Send samples with files; what was answered to each."""
        sent: list[dict[str, Any]] = self.json("trigger", *what, "--url", self.url, "--artifacts", self.artifacts.url)
        assert {each["status"] for each in sent} == {202}
        return sent

    def events(self, **wanted: Any) -> dict[str, dict[str, Any]]:
        """The events that a filter finds, by id; {} while the ledger has no tables yet: events come before them."""
        chosen = queries.Filter(**wanted)
        try:
            return {row["id"]: row for row in self.ledger.read(lambda it: queries.list_events(it, chosen))}
        except LedgerUnavailable:
            return {}

    def objects(self) -> dict[str, bytes]:
        """All that is in the bucket, by key."""
        bucket = self.more["MIRROR_BUCKET"]
        pages = self.s3.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return self.s3.read(bucket, [entry["Key"] for page in pages for entry in page.get("Contents", [])])

    def files(self) -> dict[str, bytes]:
        """All that is in the archive, by path."""
        root = self.data / "archive"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def logs(self) -> str:
        return self.log + "".join(map(self.log_of, ("worker", "clock", "dev")))

    def stop_parts(self) -> dict[str, int]:
        """SIGTERM to the processes but the receiver; their exit codes."""
        for process in self.parts.values():
            process.terminate()
        return {name: process.wait(PATIENCE) for name, process in self.parts.items()}


@contextlib.contextmanager
def surroundings(directory: Path, s3: S3Server, redis: str, ledger: str, **variables: str) -> Iterator[System]:
    """A system that has not started, and all servers around it."""
    system = System(directory, redis, ledger, yaml.safe_load(CONFIG))
    bucket, system.s3, system.slack = s3.new_bucket(), s3, FakeSlack()
    with ScriptedServer() as system.billing, ArtifactServer() as system.artifacts:
        system.artifacts.pages = SamplePages()
        system.more = {
            "SKYVERN_API_KEY": KEY,
            "MIRROR_BUCKET": bucket,
            "S3_ENDPOINT_URL": s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_REGION": s3.region,
            "SLACK_WEBHOOK_URL": system.slack.webhook_url,
            "BILLING_URL": f"{system.billing.url}/hooks",
            "BILLING_SECRET": BILLING_SECRET,
            **variables,
        }
        try:
            yield system
        finally:
            system.end()
            system.slack.close()
            s3.delete_bucket(bucket)
    assert "Traceback" not in system.logs()
    assert KEY not in system.logs()


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresProcess, s3_server: S3Server
) -> Iterator[System]:
    """Receiver, worker and clock on a Valkey of their own and PostgreSQL, which also has the results."""
    valkey = ValkeyProcess(tmp_path_factory.mktemp("main-valkey")).start()
    ledger, results = (postgres.url(postgres.create_database()) for _ in range(2))
    with surroundings(tmp_path_factory.mktemp("main"), s3_server, valkey.url, ledger, RESULTS_URL=results) as it:
        it.run("worker")
        it.run("clock")
        it.start()
        yield it
        assert it.stop_parts() == {"worker": 0, "clock": 0}, it.logs()
        assert it.stop() == 0, it.logs()
    valkey.kill()


def rows(system: System, postgres: PostgresProcess) -> dict[str, dict[str, Any]]:
    """The results table, by run."""
    with contextlib.closing(postgres.connect(system.more["RESULTS_URL"].rpartition("/")[2])) as connection:
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        found = cursor.execute("SELECT * FROM skyvern_runs").fetchall()
    assert len({row["run_id"] for row in found}) == len(found)
    return {row["run_id"]: row for row in found}


def check_row(row: Mapping[str, Any], run: Run) -> None:
    """The row says what the body says."""
    assert (row["run_id"], row["status"], row["run_type"]) == (run.run_id, run.outcome, run.run_type)
    assert row["failure_reason"] == run.failure_reason
    assert (json.loads(row["output"]) if isinstance(row["output"], str) else row["output"]) == run.data["output"]
    for name in ("created_at", "started_at", "finished_at", "modified_at"):
        at = datetime.fromisoformat(row[name]) if isinstance(row[name], str) else row[name]
        assert at.replace(tzinfo=at.tzinfo or UTC).timestamp() == pytest.approx(getattr(run, name), abs=1e-5), name


def check_kept(kept: Mapping[str, bytes], event: str, run: Run) -> None:
    """The run's files are there, whole, and the manifest says so."""
    folder = f"{run.run_type}/{run.run_id}/"
    assert not json.loads(kept[f"{folder}{event}/manifest.json"])["skipped"]
    found = files_in(kept, folder, event)
    wanted = {"run.json", "recording.webm", "screenshot-1.png", "screenshot-2.png"}
    if run.data["downloaded_files"]:
        wanted.add("invoice.pdf")
        assert hashlib.sha256(found["invoice.pdf"]).hexdigest() == run.data["downloaded_files"][0]["checksum"]
    assert wanted == found.keys()


def bodies_of(kept: Mapping[str, bytes], events: Iterable[str]) -> dict[str, bytes]:
    """The body of each event as it was kept. An event's id is a hash over source and body, so it must be that one."""
    found = {path.split("/")[-2]: body for path, body in kept.items() if path.endswith("/run.json")}
    assert set(found) >= set(events)
    for event in events:
        assert event_id("skyvern", found[event]) == event
    return {event: found[event] for event in events}


def text_of(message: Mapping[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False)


def check_post(request: Request, bodies: Mapping[str, bytes]) -> str:
    """The post is signed as Standard Webhooks has it and is the body as it came; its event."""
    Webhook(BILLING_SECRET).verify(request.body, request.headers)
    (event,) = (
        event for event, body in bodies.items() if delivery_id(event, "billing") == request.headers["webhook-id"]
    )
    assert request.body == bodies[event]
    return event


def is_invoice_over_1000(run: Run) -> bool:
    output = run.data["output"]
    return run.outcome == "completed" and isinstance(output, dict) and output.get("total", 0) > 1000


# --- On Valkey, PostgreSQL, S3, Slack and a service of one's own


def test_every_kind_of_run_arrives_everywhere_it_should(system: System, postgres: PostgresProcess) -> None:
    # Given runs of every type that ended in every way, two of them with more attempts to come
    slack_before, posts_before = len(system.slack.messages), len(system.billing.requests)
    sent = system.trigger("all")
    names = {each["event_id"]: each["sample"] for each in sent}
    assert len(names) == len(samples.names()) >= 40
    interim = {event for event, name in names.items() if "retry_pending" in name}
    final = set(names) - interim
    # When all of it is delivered
    found: list[dict[str, Any]] = []

    def all_done() -> bool:
        # The events first: an event and its deliveries are one commit, so those of every event seen are seen as well.
        if not names.keys() <= system.events().keys():
            return False
        found[:] = [each for each in system.deliveries() if each["event_id"] in names]
        return all(each["state"] == "delivered" for each in found)

    eventually(all_done, what=system.states)
    files, objects = system.files(), system.objects()
    bodies = bodies_of(files, final)
    runs = {event: parse(body) for event, body in bodies.items()}
    # Then each final run is a row, a folder of files and the same objects
    table = rows(system, postgres)
    for event, run in runs.items():
        assert f"{run.run_type}.{run.data['status']}".startswith(names[event].split(".")[0])
        check_row(table[run.run_id], run)
        check_kept(files, event, run)
        check_kept(objects, event, run)
    assert bodies_of(objects, final) == bodies
    # And a run that is to be tried again is none of it: it was seen, and goes nowhere by default
    events = system.events()
    assert {event for event in names if events[event]["disposition"] == "interim"} == interim
    assert not [each for each in found if each["event_id"] in interim]
    # And failures, only they, are reported in Slack
    bad = {event: run for event, run in runs.items() if run.outcome in BAD}
    messages = system.slack.messages[slack_before:]
    assert len(messages) == len(bad)
    for run in bad.values():
        (message,) = (
            text_of(each) for each in messages if f"/{run.run_id}" in text_of(each) or run.run_id in text_of(each)
        )
        assert run.failure_reason is not None
        assert run.failure_reason[:40] in message
    # And big invoices, only they, are posted, signed
    posts = [check_post(each, bodies) for each in system.billing.requests[posts_before:]]
    assert sorted(posts) == sorted(event for event, run in runs.items() if is_invoice_over_1000(run))
    assert posts
    # And the ledger has a receipt for each
    expected = 3 * len(final) + len(bad) + len(posts)
    assert len(found) == expected
    assert all(each["receipt"]["id"] for each in found)
    listed = {each["id"]: each for each in system.json("deliveries", "-n", "1000")}
    assert all(listed[each["id"]]["receipt"] == each["receipt"] for each in found)


def test_a_repeat_changes_nothing_and_a_series_ends_in_its_last(system: System, postgres: PostgresProcess) -> None:
    # Given a workflow that is tried three times, and Skyvern sending its last result twice
    sent = system.trigger("retries", "--run-id", "wr_series")
    last = sent[-1]["event_id"]
    eventually(lambda: [each["state"] for each in system.deliveries(run_id="wr_series")] == ["delivered"] * 3)
    # When
    (again,) = system.trigger("workflow_run.completed_after_retries", "--run-id", "wr_series")
    assert again["event_id"] != last
    eventually(lambda: len(system.events(run_id="wr_series")) == 4)
    # Then
    events = system.events(run_id="wr_series")
    assert [events[each["event_id"]]["disposition"] for each in sent] == ["interim", "interim", "new"]
    assert events[again["event_id"]]["repeat_of"] == last
    assert {each["event_id"] for each in system.deliveries(run_id="wr_series")} == {last}
    row = rows(system, postgres)["wr_series"]
    assert (row["status"], row["attempt"], row["event_id"]) == ("completed", 3, last)
    (run,) = system.json("runs", "--run", "wr_series")
    assert (run["outcome"], run["attempt"], run["events"]) == ("completed", 3, 4)


# --- With enemies


def test_hostile_bodies_harm_no_other_delivery(system: System, postgres: PostgresProcess) -> None:
    # Given bodies that each break something somewhere, signed all the same, and one good one after each
    with socket.create_server(("127.0.0.2", 0)) as inside:
        inside.setblocking(False)
        address = f"127.0.0.2:{inside.getsockname()[1]}"
        redirect = f"/v1/artifacts/a_1_away{SEPARATOR}{address}/content"
        bad = hostile_bodies(address, system.artifacts.url + redirect)
        good = [samples.build("completed", now=time.time(), run_id=f"tsk_good_{n}", seq=n) for n in range(len(bad))]
        before = len(system.slack.messages)
        # When they come mixed
        mixed = [body for pair in zip(bad, good, strict=True) for body in pair]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda body: system.post(body, KEY), mixed))
        # Then each is kept, for each is authentic
        assert {answer.status_code for answer in answers} == {202}
        events = [answer.json()["event_id"] for answer in answers]
        assert events == [event_id("skyvern", body) for body in mixed]
        found: dict[str, dict[str, Any]] = {}

        def ended() -> bool:
            found.update(system.events())
            states = {each["state"] for each in system.deliveries() if each["event_id"] in events}
            return set(events) <= found.keys() and states <= {"delivered", "dead"}

        eventually(ended, what=system.states)
        # And each good one is where it should be
        table = rows(system, postgres)
        assert {f"tsk_good_{n}" for n in range(len(good))} <= table.keys()
        # And whatever can't be understood is marked, not routed
        for event in events[::2]:
            sent = [each for each in system.deliveries() if each["event_id"] == event]
            assert found[event]["problem"] or found[event]["unrouted"] or sent, found[event]
        # And nobody inside was called
        with pytest.raises(BlockingIOError):
            inside.accept()
    # And nothing is outside of its place
    root = system.data / "archive"
    assert all(path.resolve().is_relative_to(root) for path in root.rglob("*"))
    assert {path.name for path in system.directory.iterdir()} <= {
        "runhook.yaml",
        "data",
        "log",
        "worker.log",
        "clock.log",
    }
    for key in system.objects():
        kind, run_id, *rest = key.split("/")  # one part each, whatever they say
        places = ("evt_", "test-evt_", "files")
        assert (len(rest) == 2 and rest[0].startswith(places)) or rest == ["latest.json"], key
        assert not {"", ".", ".."} & {kind, run_id, *rest}, key
        assert key.isprintable(), key
    # And Slack shows what the payload says, as text
    for message in system.slack.messages[before:]:
        shown = text_of(message)
        assert not any(mark in shown for mark in ("<!channel>", "<@U", "<#C", "<http://evil", "|click>")), shown
    # And the secrets of those runs are nowhere
    everything = system.logs() + json.dumps([*table.values(), *system.deliveries(), *found.values()], default=str)
    assert "the-secret-header" not in everything
    assert not any(b"the-secret-header" in content for content in system.files().values())


# --- On nothing but this machine


def test_the_same_config_on_the_embedded_default(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> None:
    folder = tmp_path_factory.mktemp("e")
    with surroundings(folder, s3_server, "", f"sqlite:///{folder}/data/ledger.db", DATABASE_URL="") as system:
        system.run("dev", "--port", str(system.port))
        eventually(lambda: "Ctrl-C stops everything" in system.log_of("dev"), what=system.logs)
        sent = system.trigger("task_v1.completed", "workflow_run.failed", "undelivered")
        system.all_delivered(3 * 4)
        found = system.deliveries()
        # Then the rows, files, objects, the message and the posts are there
        files, objects = system.files(), system.objects()
        bodies = bodies_of(files, [each["event_id"] for each in sent])
        assert bodies_of(objects, bodies) == bodies
        with contextlib.closing(sqlite3.connect(system.data / "results.db")) as connection:
            connection.row_factory = sqlite3.Row
            table = {row["run_id"]: dict(row) for row in connection.execute("SELECT * FROM skyvern_runs")}
        for event, body in bodies.items():
            run = parse(body)
            check_row(table[run.run_id], run)
            check_kept(files, event, run)
            check_kept(objects, event, run)
        assert len(system.slack.messages) == 1
        assert {check_post(each, bodies) for each in system.billing.requests} <= bodies.keys()
        assert {each["sink"] for each in found} == {"results", "archive", "mirror", "ops", "billing"}
        # And the one command ends well
        assert system.stop_parts() == {"dev": 0}


def test_each_sink_can_be_tried_from_the_command_line(system: System) -> None:
    names = ("results", "archive", "mirror", "ops", "billing")
    said = {name: system.runhook("sink", "test", name) for name in names}
    assert KEY not in str(said)
    assert all(f"{name}: accepted" in text for name, text in said.items())
    assert any("test" in text_of(message).lower() for message in system.slack.messages)
    assert [path for path in system.files() if "/test-evt_" in path]
