"""`runhook tail`: on this machine's ledger, on a service, and on one that goes away and comes back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from receiver.api import tail_feed
from receiver.api.models import MAX_LIMIT
from receiver.api.tail import TAIL, TailEvent, TailGap
from receiver.cli import build_app
from receiver.cli import tail as tail_command
from receiver.cli.client import open_client
from receiver.cli.profiles import RemoteService
from receiver.cli.remote import RemoteClient
from receiver.cli.tail import follow, messages
from receiver.errors import NoKey, NotStarted, RunhookError
from receiver.ledger import Ledger
from receiver.ledger.events import NewDelivery
from receiver.web import sse
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Submitting
from tests.support.command import Said
from tests.support.ledger import new_event, record, with_tables

KEY = "rhk_0123456789ab_secret"
WANTED = TAIL.validated({"limit": MAX_LIMIT})
CONFIG = """
sources: {skyvern: {secrets: [s]}}
sinks: {results: {type: files, path: results}}
routes: [{name: everything, to: [results]}]
"""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RUNHOOK_URL", "RUNHOOK_KEY", "DATABASE_URL", "RUNHOOK_DATA"):
        monkeypatch.delenv(name, raising=False)


def no_pause(_seconds: float) -> None:
    """Sleep."""


def one(run_id: str) -> bytes:
    """An event as a service tells it."""
    fields: dict[str, Any] = dict.fromkeys(TailEvent.model_fields, "")
    fields |= dict.fromkeys(("received_at", "recorded_at"), "2026-11-25T10:00:00Z")
    fields |= dict.fromkeys(("retry_pending", "final", "unrouted"), False)
    fields |= dict.fromkeys(("seq", "attempt", "size"), 1)
    fields |= {"run_id": run_id, "modified_at": None, "labels": {}, "sinks": [], "routes": []}
    return json.dumps(fields).encode()


def stream(*parts: bytes) -> Reply:
    return Reply(200, b"".join(parts), {"content-type": "text/event-stream"})


def runs(found: Iterator[TailEvent | TailGap], count: int) -> list[str]:
    return [getattr(each, "run_id", "a gap") for each in itertools.islice(found, count)]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Ledger]:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield ledger
    ledger.close()


@pytest.mark.parametrize(
    "parts",
    [
        [b"event: event\ndata: {}\n\n"],
        [b"event: gap\ndata: \xff\n\n"],
        [sse.event("event", "b", one("tsk_1")), b"x" * 3000, b"x" * 3000],
    ],
)
def test_a_stream_that_is_none_ends_with_one_line(
    scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, parts: list[bytes]
) -> None:
    monkeypatch.setattr(tail_command, "LONGEST", 5000)
    scripted_server.default = stream(*parts)
    client = RemoteClient(RemoteService(scripted_server.url, KEY))
    with pytest.raises(RunhookError, match="the stream has a message"):
        runs(follow(client, WANTED, no_pause), 2)
    client.close()


def test_what_no_header_can_say_is_no_place_to_go_on() -> None:
    said = b"event: \xff\nid: a\xc3\xa4\nretry: 99999999999999999999\n\nid: b\r\n\nid: c\n\n"
    found = list(messages([said]))
    assert [each.last_id for each in found] == ["", "", "c"]
    assert found[0].retry == tail_command.LONGEST_PAUSE


def test_this_machines_ledger_is_followed_without_a_service(local: Ledger, tmp_path: Path) -> None:
    record(local, new_event("tsk_0"))
    later = iter([["tsk_1", "tsk_2"], [], ["tsk_3"]])

    def meanwhile(_seconds: float) -> None:
        record(local, *map(new_event, next(later)))

    with open_client(data=tmp_path) as client:
        assert runs(follow(client, WANTED, meanwhile), 3) == ["tsk_1", "tsk_2", "tsk_3"]


def test_a_service_is_followed(submitting: Callable[..., Submitting], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_feed, "INTERVAL", 0.05)
    server = submitting("http://127.0.0.1:9", dispatching=False)
    record(server.ledger, new_event("tsk_0"), now=1_600_000_000.0)
    record(server.ledger, new_event("tsk_1"), new_event("tsk_2", status="failed"))
    client = RemoteClient(RemoteService(server.url, server.key("view")))
    found = follow(client, TAIL.validated({"since": "2023-11-01", "status": ["completed"]}))
    assert runs(found, 1) == ["tsk_1"]
    record(server.ledger, new_event("tsk_3"))
    assert runs(found, 1) == ["tsk_3"]
    found.close()  # type: ignore[attr-defined]
    client.close()


def test_a_service_that_comes_back_is_asked_for_what_was_missed(
    scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    gap = b'{"since":"2026-11-01T00:00:00Z","until":"2026-11-02T00:00:00Z"}'
    scripted_server.script = [
        stream(sse.retry(0.1), sse.still_here("a"), sse.event("event", "b", one("tsk_1")), b"event: event\ndata: {"),
        Reply(503),
        stream(sse.event("gap", "", gap), sse.event("event", "", one("tsk_2")), sse.still_here("c")),
        stream(sse.event("event", "d", one("tsk_3"))),
    ]
    client = RemoteClient(RemoteService(scripted_server.url, KEY))
    assert runs(follow(client, WANTED, no_pause), 4) == ["tsk_1", "a gap", "tsk_2", "tsk_3"]
    client.close()
    asked = [each.headers.get("last-event-id") for each in scripted_server.calls]
    assert asked == [None, "b", "b", "c"]
    assert "what comes meanwhile is told later" in capsys.readouterr().err


def test_what_waiting_does_not_mend_ends_it(scripted_server: ScriptedServer) -> None:
    problem = {"type": "urn:runhook:problem:no_key", "title": "x", "status": 401, "detail": "revoked"}
    refused = Reply(401, json.dumps(problem).encode(), {"content-type": "application/problem+json"})
    scripted_server.script = [stream(sse.event("event", "a", one("tsk_1"))), refused, Reply(503)]
    client = RemoteClient(RemoteService(scripted_server.url, KEY))
    found = follow(client, WANTED, no_pause)
    assert runs(found, 1) == ["tsk_1"]
    with pytest.raises(NoKey, match="revoked"):
        next(found)
    with pytest.raises(NotStarted):  # a service that was never there
        next(follow(client, WANTED, no_pause))
    client.close()


@given(st.data())
def test_messages_are_read_however_they_are_cut(data: st.DataObject) -> None:
    whole = sse.retry(2.5) + sse.event("event", "1", "a\u2028b\nc".encode()) + sse.still_here("2") + b"event: x\ndata:"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(whole)])]
    found = [(each.kind, each.last_id, each.data, each.retry) for each in messages(pieces)]
    assert found == [
        ("message", "", b"", 2.5),
        ("event", "1", "a\u2028b\nc".encode(), None),
        ("message", "2", b"", None),
    ]


def test_the_command_prints_a_line_for_each_event_until_it_has_enough(local: Ledger, tmp_path: Path) -> None:
    record(local, new_event("tsk_1", "results", title="Nightly", status="failed", failure_reason="no login"))
    record(local, new_event("tsk_2"))
    asked = ["tail", "--since", "2023-11-01", "-n", "2", "--data", str(tmp_path)]
    shown = CliRunner().invoke(build_app("tail"), asked)
    assert shown.exit_code == 0, shown.output
    first, second = shown.stdout.splitlines()
    assert first.split() == ["2023-11-14T22:13:20Z", "failed", "tsk_1", "Nightly", "→", "results", "no", "login"]
    assert "tsk_2" in second
    lines = CliRunner().invoke(build_app("tail"), [*asked, "-o", "jsonl", "--run", "tsk_2", "-n", "1"]).stdout
    assert [json.loads(line)["run_id"] for line in lines.splitlines()] == ["tsk_2"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["-o", "json"], "there is no end to print it at; take jsonl"),
        (["--status", "faild"], "did you mean failed?"),
        (["--since", "soon"], "--since soon: must be a time ago"),
        (["--source", "skyven"], "--source skyven: there is no such source; did you mean skyvern?"),
        (["--sink", "resuts"], "--sink resuts: there is no such sink; did you mean results?"),
        (["--sink", "x"], "--sink x: there is no such sink; there are results"),
        (["--route", "evrything"], "--route evrything: there is no such route; did you mean everything?"),
        (["--state", "deed"], "--state deed: "),
    ],
)
def test_what_is_wrong_is_said(local: Ledger, tmp_path: Path, given: list[str], says: str) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    where = ["--data", str(tmp_path), "--config", str(tmp_path / "c.yaml")]
    # Given a route and a sink that the config has lost
    record(local, new_event("tsk_1", NewDelivery("archive", "nightly")))
    shown = CliRunner().invoke(build_app("tail"), ["tail", *where, *given])
    assert says in str(shown.exception)


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (CONFIG, {"sink": "results"}),
        (CONFIG, {"sink": "archive"}),
        (CONFIG, {"route": "nightly"}),
        (CONFIG, {"route": "everything"}),
        (CONFIG, {"run": "tsk_9"}),
        (CONFIG, {"workflow": "wpid_9"}),
        ("no config", {"sink": "results"}),
    ],
)
def test_what_may_come_is_waited_for(local: Ledger, tmp_path: Path, config: str, asked: dict[str, str]) -> None:
    # Given a route and a sink that the config has lost, and none that has made anything yet
    (tmp_path / "c.yaml").write_text(config)
    record(local, new_event("tsk_1", NewDelivery("archive", "nightly")))
    later = [NewDelivery("results", "everything"), NewDelivery("archive", "nightly")]

    def meanwhile(_seconds: float) -> None:
        record(local, new_event("tsk_9", *later, workflow_id="wpid_9"))

    with open_client(data=tmp_path, config=tmp_path / "c.yaml") as client:
        assert runs(follow(client, TAIL.validated({"limit": MAX_LIMIT, **asked}), meanwhile), 1) == ["tsk_9"]


@pytest.mark.parametrize("arguments", [["tail"], ["listen", "3000"]], ids=["tail", "listen"])
def test_an_empty_filter_is_refused_and_does_not_mean_all(said: Callable[..., Said], arguments: list[str]) -> None:
    told = said(*arguments, "--workflow", "")

    assert told == (2, "", "runhook: --workflow: is empty; give it a value, or leave it out\n")
