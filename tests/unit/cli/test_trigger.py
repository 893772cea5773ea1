"""`runhook trigger`, as a person calls it, against a server on loopback that stores requests."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from receiver.cli import build_app
from receiver.domain.run import parse
from receiver.domain.signature import verify
from receiver.errors import ConfigError, NotStarted, RunhookError, UsageError
from simulator import samples
from tests.servers.scripted import Reply, ScriptedServer

SECRET = "a secret of ours"


@pytest.fixture
def target(scripted_server: ScriptedServer) -> ScriptedServer:
    """A receiver that checks nothing."""
    scripted_server.default = Reply(202, b'{"event_id": "evt_1"}')
    return scripted_server


def bodies(target: ScriptedServer) -> list[bytes]:
    return [call.body for call in target.calls]


def call(*arguments: str, stdin: bytes | None = None) -> tuple[int, str]:
    """Exit code and output. Raises what `main` would turn into one line."""
    result = CliRunner().invoke(build_app(), ["trigger", *arguments], input=stdin)
    if isinstance(result.exception, RunhookError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def test_a_webhook_has_the_headers_of_a_real_one(target: ScriptedServer) -> None:
    code, output = call("workflow_run.failed", "--url", target.url, "--secret", SECRET)

    (request,) = target.calls
    sent, body = request.headers, request.body
    assert code == 0
    assert request.path == "/webhooks/skyvern"
    assert parse(body).outcome == "failed"
    assert sent["x-skyvern-signature"] == sent["x-skyvern-signature"].lower()
    assert verify(body, sent["x-skyvern-signature"], [SECRET])
    assert sent["x-skyvern-timestamp"].isdigit()
    assert sent["content-type"] == "application/json"
    assert sent["user-agent"].startswith("python-httpx/")
    assert "202  evt_1  workflow_run.failed" in output


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["--url", "{url}/"], "/webhooks/skyvern"),
        (["--url", "{url}", "--source", "other"], "/webhooks/other"),
        (["--url", "{url}/webhooks/skyvern/sub_1?x=1"], "/webhooks/skyvern/sub_1?x=1"),
    ],
)
def test_a_url_without_a_path_goes_to_the_source(target: ScriptedServer, arguments: list[str], path: str) -> None:
    call(*(argument.format(url=target.url) for argument in arguments), "--secret", SECRET)

    assert target.calls[0].path == path


def test_a_series_is_about_one_run_and_in_order(target: ScriptedServer) -> None:
    call("retries", "-n", "5", "--url", target.url, "--secret", SECRET)

    attempts: dict[str, list[int]] = {}
    for body in bodies(target):
        attempts.setdefault(parse(body).run_id, []).append(parse(body).attempt)
    assert list(attempts.values()) == [[1, 2, 3]] * 5


def test_a_run_id_and_the_address_of_artifacts_may_be_given(target: ScriptedServer) -> None:
    call("task_v2", "--run-id", "r_1", "--artifacts", "http://127.0.0.1:9", "--url", target.url, "--secret", SECRET)

    body = json.loads(bodies(target)[0])
    assert body["run_id"] == "r_1"
    assert body["recording_url"].startswith("http://127.0.0.1:9/v1/artifacts/")


def test_a_file_is_sent_byte_for_byte_however_bad_it_is(target: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(b'{"run_id":\xff\x00 ')

    code, _ = call(str(file), "-n", "2", "--url", target.url, "--secret", SECRET)

    assert code == 0
    assert bodies(target) == [file.read_bytes()] * 2


def test_json_tells_programs_what_became_of_each(target: ScriptedServer) -> None:
    _, output = call("completed", "failed", "--json", "--url", target.url, "--secret", SECRET)

    told: list[dict[str, Any]] = json.loads(output)
    sent = {"status": 202, "event_id": "evt_1", "problem": ""}
    assert told == [{"sample": f"task_v1.{name}", **sent} for name in ("completed", "failed")]


def test_not_all_accepted_is_exit_code_1_and_says_why(target: ScriptedServer) -> None:
    target.default = Reply(401, b'{"error": {"code": "bad_signature", "message": "no secret fits"}}')

    code, output = call("--url", target.url, "--secret", "wrong")

    assert code == 1
    assert "401  no secret fits  task_v1.completed" in output


def test_the_secret_is_the_first_of_the_source_in_the_config(target: ScriptedServer, tmp_path: Path) -> None:
    config = tmp_path / "runhook.yaml"
    config.write_text(
        "sources: {skyvern: {secrets: [first-of-all-secrets, second-of-all-secrets]}}\nsinks: {}\nroutes: []\n"
    )

    call("--url", target.url, "--config", str(config))

    (request,) = target.calls
    assert verify(request.body, request.headers["x-skyvern-signature"], ["first-of-all-secrets"])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["task_v1.complete"], UsageError, "task_v1.complete: sample or file not found; did you mean task_v1."),
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


def test_all_sends_each_sample_once_about_a_run_of_its_own(target: ScriptedServer) -> None:
    code, output = call("all", "--url", target.url, "--secret", SECRET)

    assert code == 0
    assert len({parse(body).run_id for body in bodies(target)}) == len(samples.names())
    assert sorted(line.split()[-1] for line in output.splitlines()[:-1]) == sorted(samples.names())
    assert f"{len(samples.names())} of {len(samples.names())} accepted" in output


def test_a_dash_sends_standard_input(target: ScriptedServer) -> None:
    call("-", "--url", target.url, "--secret", SECRET, stdin=b"{}")

    assert bodies(target) == [b"{}"]
