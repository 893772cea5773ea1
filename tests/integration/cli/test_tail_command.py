"""`runhook tail`: on this machine's ledger, on a service, and on one that goes away and comes back."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from receiver.api.models import MAX_LIMIT
from receiver.api.tail import TAIL, TailEvent, TailGap
from receiver.cli import build_app
from receiver.cli.client import open_client
from receiver.cli.profiles import RemoteService
from receiver.cli.remote import RemoteClient
from receiver.cli.tail import follow
from receiver.domain.new_event import NewDelivery
from receiver.errors import NoKey, NotStarted
from receiver.ledger import Ledger
from tests.servers.scripted import Reply, ScriptedServer
from tests.support.ledger import new_event, record, with_tables

KEY = "rhk_0123456789ab_secret"
WANTED = TAIL.validated({"limit": MAX_LIMIT})
CONFIG = """
sources: {skyvern: {secrets: [s]}}
sinks: {results: {type: files, path: results}}
routes: [{name: everything, to: [results]}]
"""


@pytest.fixture(autouse=True)
def nothing_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("RUNHOOK_DATA")


def no_pause(_seconds: float) -> None:
    """Sleep."""


def page(after: str, *run_ids: str, gap: Any = None) -> Reply:
    """A page of the tail as a service returns it."""
    fields: dict[str, Any] = dict.fromkeys(TailEvent.model_fields, "")
    fields |= dict.fromkeys(("received_at", "recorded_at"), "2026-11-25T10:00:00Z")
    fields |= dict.fromkeys(("retry_pending", "final", "unrouted"), False)
    fields |= dict.fromkeys(("seq", "attempt", "size", "copies"), 1)
    fields |= {"modified_at": None, "copied_at": None, "labels": {}, "sinks": [], "routes": []}
    body = {"items": [{**fields, "run_id": each} for each in run_ids], "next": after, "gap": gap}
    return Reply(200, json.dumps(body).encode(), {"content-type": "application/json"})


def runs(found: Iterator[TailEvent | TailGap], count: int) -> list[str]:
    return [getattr(each, "run_id", "a gap") for each in itertools.islice(found, count)]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Ledger]:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield ledger
    ledger.close()


def test_events_missed_during_an_outage_follow(
    scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    gap = {"since": "2026-11-01T00:00:00Z", "until": "2026-11-02T00:00:00Z"}
    unavailable = Reply(hang_up=True)
    scripted_server.script = [page("a", "tsk_1"), unavailable, unavailable, page("b", "tsk_2", gap=gap), page("c")]
    scripted_server.default = page("d", "tsk_3")
    with closing(RemoteClient(RemoteService(scripted_server.url, KEY))) as client:
        assert runs(follow(client, WANTED, no_pause), 4) == ["tsk_1", "a gap", "tsk_2", "tsk_3"]
    asked = [parse_qs(urlsplit(each.path).query).get("after", [""])[0] for each in scripted_server.calls]
    assert asked == ["", "a", "a", "a", "b", "c"]
    assert capsys.readouterr().err.count("missed events follow after reconnecting") == 1


def test_revoked_key_or_absent_service_ends_the_tail(scripted_server: ScriptedServer) -> None:
    problem = {"type": "urn:runhook:problem:no_key", "title": "x", "status": 401, "detail": "revoked"}
    refused = Reply(401, json.dumps(problem).encode(), {"content-type": "application/problem+json"})
    scripted_server.script = [page("a", "tsk_1"), refused, Reply(hang_up=True)]
    with closing(RemoteClient(RemoteService(scripted_server.url, KEY))) as client:
        found = follow(client, WANTED, no_pause)
        assert runs(found, 1) == ["tsk_1"]
        with pytest.raises(NoKey, match="revoked"):
            next(found)
        with pytest.raises(NotStarted):  # a service that was never there
            next(follow(client, WANTED, no_pause))


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (CONFIG, {"sink": "results"}),
        (CONFIG, {"route": "everything"}),
        (CONFIG, {"run": "tsk_9"}),
        (CONFIG, {"workflow": "wpid_9"}),
        ("no config", {"sink": "results"}),
    ],
)
def test_what_may_come_is_waited_for(local: Ledger, tmp_path: Path, config: str, asked: dict[str, str]) -> None:
    # Given what the config has, and a run and a workflow that may come
    (tmp_path / "c.yaml").write_text(config)
    record(local, new_event("tsk_1", NewDelivery("archive", "nightly")), now=time.time())
    later = [NewDelivery("results", "everything"), NewDelivery("archive", "nightly")]

    def meanwhile(_seconds: float) -> None:
        record(local, new_event("tsk_9", *later, workflow_id="wpid_9"), now=time.time())

    with open_client(data=tmp_path, config=tmp_path / "c.yaml") as client:
        assert runs(follow(client, TAIL.validated({"limit": MAX_LIMIT, **asked}), meanwhile), 1) == ["tsk_9"]


def test_this_machines_ledger_is_followed_without_a_service(local: Ledger, tmp_path: Path) -> None:
    record(local, new_event("tsk_0"), now=time.time())
    later = iter([["tsk_1", "tsk_2"], [], ["tsk_3"]])

    def meanwhile(_seconds: float) -> None:
        record(local, *map(new_event, next(later)), now=time.time())

    with open_client(data=tmp_path) as client:
        assert runs(follow(client, WANTED, meanwhile), 3) == ["tsk_1", "tsk_2", "tsk_3"]


def test_tail_prints_a_line_per_event_up_to_its_limit(local: Ledger, tmp_path: Path) -> None:
    record(local, new_event("tsk_1", "results", title="Nightly", status="failed", failure_reason="no login"))
    record(local, new_event("tsk_2"))
    asked = ["tail", "--since", "2023-11-01", "-n", "2", "--data", str(tmp_path)]
    shown = CliRunner().invoke(build_app(), asked)
    assert shown.exit_code == 0, shown.output
    first, second = shown.stdout.splitlines()
    assert first.split() == ["2023-11-14T22:13:20Z", "failed", "tsk_1", "Nightly", "→", "results", "no", "login"]
    assert "tsk_2" in second
    lines = CliRunner().invoke(build_app(), [*asked, "-o", "jsonl", "--run", "tsk_2", "-n", "1"]).stdout
    assert [json.loads(line)["run_id"] for line in lines.splitlines()] == ["tsk_2"]
