"""`runhook listen`: what a deployed service records reaches a developer's own server, signed as in production."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from receiver.cli.listen import target_url
from receiver.domain import signature
from receiver.domain.callback import CALLBACK
from receiver.domain.event import delivery_id
from receiver.errors import RunhookError, UsageError
from receiver.ledger import Ledger
from tests.servers.network import Link
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Submitting
from tests.support.command import run_command
from tests.support.ledger import new_event, record, with_tables
from tests.support.processes import launch
from tests.support.waiting import PATIENCE, eventually


@pytest.fixture
def service(submitting: Callable[..., Submitting]) -> Submitting:
    return submitting("http://127.0.0.1:1", dispatching=False)


@pytest.fixture
def mine(scripted_server: ScriptedServer) -> ScriptedServer:
    """The developer's server."""
    return scripted_server


@pytest.fixture
def key(service: Submitting, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key of the developer's app, which commands of this process use."""
    found = service.key("view", "submit", "read")
    for name in ("RUNHOOK_LISTEN_SECRET", "RUNHOOK_CONFIG", "RUNHOOK_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RUNHOOK_URL", service.url)
    monkeypatch.setenv("RUNHOOK_KEY", found)
    return found


def port_of(server: ScriptedServer) -> str:
    return server.url.rpartition(":")[2]


def test_a_past_run_is_posted_as_its_caller_got_it(service: Submitting, mine: ScriptedServer, key: str) -> None:
    # Given a run that has brought an interim event, its result, and a repeat of that
    interim = new_event("tsk_1", disposition="interim", n=1)
    result, repeat = new_event("tsk_1", n=2), new_event("tsk_1", disposition="repeat", n=3)
    record(service.ledger, interim, result, repeat, new_event("tsk_2"))

    said = run_command("listen", f"{port_of(mine)}/hook?a=b", "--replay", "tsk_1")

    # Then its result is posted, with the signatures and the id of the webhook that its caller got
    (call,) = mine.calls
    assert (call.method, call.path, call.body) == ("POST", "/hook?a=b", result.body)
    assert signature.verify(call.body, call.headers[signature.HEADER], [key])
    assert Webhook(key.encode()).verify(call.body, dict(call.headers)) is not None
    assert call.headers["webhook-id"] == delivery_id(result.event.id, CALLBACK)
    assert re.search(r"^200  \S+Z  tsk_1  completed  \d+ ms$", said, re.MULTILINE)


def test_what_was_not_accepted_is_no_success(service: Submitting, mine: ScriptedServer, key: str) -> None:
    record(service.ledger, new_event("tsk_1"))
    mine.script = [Reply(500)]

    with pytest.raises(RunhookError, match="1 of 1 were not accepted"):
        run_command("listen", port_of(mine), "--replay", "tsk_1")
    with pytest.raises(RunhookError, match="--replay tsk_nobody: it has no result"):
        run_command("listen", port_of(mine), "--replay", "tsk_nobody")
    with pytest.raises(UsageError, match="--sink opps: unknown sink"):
        run_command("listen", port_of(mine), "--sink", "opps")
    with pytest.raises(UsageError, match="accepts no filter but --source"):
        run_command("listen", port_of(mine), "--replay", "tsk_1", "--status", "failed")
    assert len(mine.calls) == 1


def test_another_secret_signs_where_it_is_given(
    service: Submitting, mine: ScriptedServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(service.ledger, new_event("tsk_1"))
    monkeypatch.setenv("RUNHOOK_LISTEN_SECRET", "of-skyvern")
    run_command("listen", port_of(mine), "--replay", "tsk_1")
    (call,) = mine.calls
    assert signature.verify(call.body, call.headers[signature.HEADER], ["of-skyvern"])


def test_listen_without_a_service_uses_this_machine(
    mine: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RUNHOOK_LISTEN_SECRET", "RUNHOOK_URL", "RUNHOOK_DATA", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "c.yaml").write_text("sources: {skyvern: {secrets: [the-first, other]}}\n")
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    record(ledger, new_event("tsk_1"))
    ledger.close()
    here = ["--data", str(tmp_path), "--config", str(tmp_path / "c.yaml")]

    run_command("listen", port_of(mine), "--replay", "tsk_1", *here)

    (call,) = mine.calls
    assert signature.verify(call.body, call.headers[signature.HEADER], ["the-first"])


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("3000", "http://127.0.0.1:3000/"),
        ("3000/a/b?c", "http://127.0.0.1:3000/a/b?c"),
        ("http://localhost:3000", "http://localhost:3000/"),
        ("https://app.localhost/x", "https://app.localhost/x"),
        ("http://[::1]:80/", "http://[::1]:80/"),
        ("http://127.9.9.9/", "http://127.9.9.9/"),
        *((each, "--anywhere") for each in ("http://10.0.0.1/", "https://a.example/x", "http://127.0.0.1.example/")),
        *(
            (each, "must be a port")
            for each in ("", "0", "99999", "x", "ftp://localhost/", "http:///x", "http://h:port/")
        ),
        ("-1", "must be a port"),
    ],
)
def test_target_is_of_this_machine_unless_allowed(target: str, url: str) -> None:
    if url.startswith("http"):
        assert target_url(target) == url
        return
    with pytest.raises(UsageError, match=url):
        target_url(target)
    if url == "--anywhere":
        assert target_url(target, anywhere=True) == target


def test_results_are_posted_over_a_network_that_breaks(
    service: Submitting, mine: ScriptedServer, key: str, tmp_path: Path
) -> None:
    with Link(int(service.url.rpartition(":")[2])) as link:
        environ = {**os.environ, "RUNHOOK_URL": f"http://127.0.0.1:{link.port}"}
        arguments = ["listen", port_of(mine), "--title", "wanted", "--since", "2000-01-01"]
        process = launch([sys.executable, "-m", "receiver.cli", *arguments], tmp_path / "log", env=environ)
        try:
            # Given a developer who listens
            first = new_event("tsk_1", title="wanted")
            repeat = new_event("tsk_1", title="wanted", disposition="repeat", n=2)
            record(service.ledger, first, repeat)
            eventually(lambda: bool(mine.calls) or None)
            # When the service is unavailable for a while, and results come meanwhile
            with link.refusing():
                later = [new_event(f"tsk_{number}", title="wanted") for number in (2, 3)]
                record(service.ledger, later[0], new_event("tsk_other", title="no"), later[1])
            # Then they are posted once it is back, in order, each once, and nothing else
            eventually(lambda: len(mine.calls) >= 3 or None)
            assert [call.body for call in mine.calls] == [first.body, *(each.body for each in later)]
            assert key not in (tmp_path / "log").read_text()
        finally:
            process.terminate()
            process.wait(PATIENCE)
