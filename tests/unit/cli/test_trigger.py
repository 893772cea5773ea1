"""`runhook trigger`, as a person calls it, against a real server on loopback that keeps what it was sent."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from receiver.cli import build_app
from receiver.domain.event import event_id
from receiver.domain.run import parse
from receiver.domain.signature import verify
from receiver.errors import ConfigError, NotStarted, RunhookError, UsageError
from simulator import samples

SECRET = "a secret of ours"


@dataclass
class Target:
    """A receiver that checks nothing, responds `status`, and stores requests."""

    url: str = ""
    status: int = 202
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.requests]


@pytest.fixture
def target() -> Iterator[Target]:
    state = Target()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.requests.append((self.path, dict(self.headers.items()), body))
            good = {"event_id": event_id("skyvern", body)}
            bad = {"error": {"code": "bad_signature", "message": "no secret fits"}}
            answer = json.dumps(good if state.status == 202 else bad).encode()
            self.send_response(state.status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def call(*arguments: str, stdin: bytes | None = None) -> tuple[int, str]:
    """Exit code and output. Raises what `main` would turn into one line."""
    result = CliRunner().invoke(build_app(), ["trigger", *arguments], input=stdin)
    if isinstance(result.exception, RunhookError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def test_a_webhook_has_the_headers_of_a_real_one(target: Target) -> None:
    code, output = call("workflow_run.failed", "--url", target.url, "--secret", SECRET)

    ((path, headers, body),) = target.requests
    assert code == 0
    assert path == "/webhooks/skyvern"
    assert parse(body).outcome == "failed"
    sent = {name.lower(): value for name, value in headers.items()}
    assert sent["x-skyvern-signature"] == sent["x-skyvern-signature"].lower()
    assert verify(body, sent["x-skyvern-signature"], [SECRET])
    assert sent["x-skyvern-timestamp"].isdigit()
    assert sent["content-type"] == "application/json"
    assert sent["user-agent"].startswith("python-httpx/")
    assert f"202  {event_id('skyvern', body)}  workflow_run.failed" in output


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["--url", "{url}/"], "/webhooks/skyvern"),
        (["--url", "{url}", "--source", "other"], "/webhooks/other"),
        (["--url", "{url}/webhooks/skyvern/sub_1?x=1"], "/webhooks/skyvern/sub_1?x=1"),
    ],
)
def test_a_url_without_a_path_goes_to_the_source(target: Target, arguments: list[str], path: str) -> None:
    call(*(argument.format(url=target.url) for argument in arguments), "--secret", SECRET)

    assert target.requests[0][0] == path


def test_a_series_is_about_one_run_and_in_order(target: Target) -> None:
    call("retries", "-n", "5", "--url", target.url, "--secret", SECRET)

    attempts: dict[str, list[int]] = {}
    for body in target.bodies:
        attempts.setdefault(parse(body).run_id, []).append(parse(body).attempt)
    assert list(attempts.values()) == [[1, 2, 3]] * 5


def test_a_run_id_and_the_address_of_artifacts_may_be_given(target: Target) -> None:
    call("task_v2", "--run-id", "r_1", "--artifacts", "http://127.0.0.1:9", "--url", target.url, "--secret", SECRET)

    body = json.loads(target.bodies[0])
    assert body["run_id"] == "r_1"
    assert body["recording_url"].startswith("http://127.0.0.1:9/v1/artifacts/")


def test_a_file_is_sent_byte_for_byte_however_bad_it_is(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(b'{"run_id":\xff\x00 ')

    code, _ = call(str(file), "-n", "2", "--url", target.url, "--secret", SECRET)

    assert code == 0
    assert target.bodies == [file.read_bytes()] * 2


def test_json_tells_programs_what_became_of_each(target: Target) -> None:
    _, output = call("completed", "failed", "--json", "--url", target.url, "--secret", SECRET)

    told: list[dict[str, Any]] = json.loads(output)
    assert {(row["sample"], row["status"], row["problem"]) for row in told} == {
        ("task_v1.completed", 202, ""),
        ("task_v1.failed", 202, ""),
    }
    assert {row["event_id"] for row in told} == {event_id("skyvern", body) for body in target.bodies}


def test_not_all_accepted_is_exit_code_1_and_says_why(target: Target) -> None:
    target.status = 401

    code, output = call("--url", target.url, "--secret", "wrong")

    assert code == 1
    assert "401  no secret fits  task_v1.completed" in output


def test_the_secret_is_the_first_of_the_source_in_the_config(target: Target, tmp_path: Path) -> None:
    config = tmp_path / "runhook.yaml"
    config.write_text(
        "sources: {skyvern: {secrets: [first-of-all-secrets, second-of-all-secrets]}}\nsinks: {}\nroutes: []\n"
    )

    call("--url", target.url, "--config", str(config))

    _, headers, body = target.requests[0]
    assert verify(body, headers["x-skyvern-signature"], ["first-of-all-secrets"])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            ["task_v1.complete"],
            UsageError,
            "task_v1.complete: sample or file not found; did you mean task_v1.completed",
        ),
        (["zzz"], UsageError, "--list"),
        (["{tmp}"], UsageError, "Is a directory"),
        (["--url", "127.0.0.1:8000"], UsageError, "--url 127.0.0.1:8000: must be a URL such as"),
        (["--url", "http://[::1/"], UsageError, "must be a URL"),
        (["--secret", "", "--config", "{tmp}/none.yaml"], ConfigError, "none.yaml"),
        (["--secret", "", "--config", "{tmp}/ok.yaml", "--source", "other"], UsageError, "has skyvern"),
    ],
)
def test_a_mistake_is_one_clear_line(
    tmp_path: Path, arguments: list[str], error: type[RunhookError], words: str
) -> None:
    (tmp_path / "ok.yaml").write_text("sources: {skyvern: {secrets: [a-secret-of-ours]}}\nsinks: {}\nroutes: []\n")

    with pytest.raises(error) as caught:
        call("--secret", SECRET, *(argument.format(tmp=tmp_path) for argument in arguments))

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_there_is_said_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(NotStarted) as caught:
            call("all", "--url", url, "--secret", SECRET)

    assert str(caught.value) == f"cannot reach {url}/webhooks/skyvern: connection refused; is `runhook dev` running?"


def test_all_sends_each_sample_once_about_a_run_of_its_own(target: Target) -> None:
    code, output = call("all", "--url", target.url, "--secret", SECRET)

    assert code == 0
    assert len({parse(body).run_id for body in target.bodies}) == len(samples.names())
    assert sorted(line.split()[-1] for line in output.splitlines()[:-1]) == sorted(samples.names())
    assert f"{len(samples.names())} of {len(samples.names())} accepted" in output


def test_a_dash_sends_standard_input(target: Target) -> None:
    call("-", "--url", target.url, "--secret", SECRET, stdin=b"{}")

    assert target.bodies == [b"{}"]
