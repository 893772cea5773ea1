"""`runhook init`: a first config that loads, its variables, and nothing overwritten."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from dotenv import dotenv_values
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.config.loader import load_file
from receiver.config.starter import DESTINATIONS, dotenv_text
from receiver.config.variables import Variables
from tests.servers.http import Reply, ScriptedServer
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support.command import call_command
from tests.support.paths import ROOT
from tests.support.processes import Terminal

FILES = {"runhook.yaml", ".env", "runhook.schema.json"}
VALUES = {
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/x",
    "S3_BUCKET": "results-of-runs",
    "RESULTS_DATABASE_URL": "postgresql://me:p%40ss@127.0.0.1/results",
    "RESULTS_HTTP_URL": "https://app.example/hooks?token=5e1f",
}
# None, each alone, and all: their lines are independent of each other.
COMBINATIONS = [(), *((name,) for name in DESTINATIONS), tuple(DESTINATIONS)]


def init(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return call_command("init", *arguments, environ=environ, directory=folder)


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def dotenv(folder: Path) -> dict[str, str | None]:
    return dotenv_values(folder / ".env")


# --- By script


@pytest.mark.parametrize("chosen", COMBINATIONS, ids=lambda it: ",".join(it) or "files only")
@pytest.mark.parametrize("values", [VALUES, {}], ids=["with values", "without values"])
def test_every_choice_loads_without_warnings(tmp_path: Path, chosen: tuple[str, ...], values: dict[str, str]) -> None:
    # When a folder is set up, with values in the environment or without
    done = init(tmp_path, "--yes", "--with", ",".join(chosen), SKYVERN_API_KEY="sk-1", **values)
    assert (done.returncode, done.stderr) == (0, "")
    # Then the config loads with what .env holds, and no warning
    found = {name: value or "" for name, value in dotenv(tmp_path).items()}
    needed = {DESTINATIONS[name].variable for name in chosen}
    assert found == {"SKYVERN_API_KEY": "sk-1", **{name: values[name] for name in needed & set(values)}}
    loaded = load_file(tmp_path / "runhook.yaml", found)
    assert loaded.warnings == []
    # And each destination that has a value gets every result; the others are off
    on = ["results", "archive", *(chosen if values else ())]
    assert list(loaded.config.sinks) == on
    assert [target.sink for target in loaded.config.routes[0].targets] == on
    assert loaded.config.sources["skyvern"].watch
    assert call_command("check", environ={}, directory=tmp_path).returncode == 0
    for name in chosen:
        assert (f"{name} is off: set {DESTINATIONS[name].variable} in .env" in done.stdout) == (not values)


def test_check_accepts_a_new_config_without_a_key(tmp_path: Path) -> None:
    init(tmp_path, "--yes")
    checked = call_command("check", environ={}, directory=tmp_path)
    # Then the file is valid, and the one next step is to set the key, or to run what creates one
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.count("warning: ") == 1
    assert "SKYVERN_API_KEY is not set: `runhook dev` creates one" in checked.stdout
    # And a process that needs the key refuses to start, with the same step
    served = call_command("serve", environ={}, directory=tmp_path)
    assert served.returncode == 2
    problem, hint = served.stderr.splitlines()
    assert "runhook.yaml:12: sources.skyvern.secrets[0]: the variable SKYVERN_API_KEY is not set" in problem
    assert "run `runhook dev`: it creates a SKYVERN_API_KEY" in hint
    # And another variable that is not set is still an error
    path = tmp_path / "runhook.yaml"
    path.write_text(path.read_text().replace("table: skyvern_runs", 'table: "${TABLE}"'))
    checked = call_command("check", environ={}, directory=tmp_path)
    assert checked.returncode == 2
    assert "the variable TABLE is not set" in checked.stderr
    assert checked.stderr.splitlines()[-1].endswith("run `runhook check --allow-unset`")


@pytest.mark.parametrize("chosen", COMBINATIONS[1:], ids=",".join)
def test_commented_lines_load_once_uncommented(tmp_path: Path, chosen: tuple[str, ...]) -> None:
    # Given sinks that are off
    init(tmp_path, "--yes", "--with", ",".join(chosen))
    path = tmp_path / "runhook.yaml"
    lines = path.read_text().splitlines()
    # When the lines under each hint, and those of the route, lose their mark
    begin = next(number for number, line in enumerate(lines) if line.startswith("    artifacts: ["))
    end = lines.index("# Every route that matches adds its sinks. A run's final result goes to each of them once.")
    for number in [*range(begin, end), *range(end, len(lines))]:
        if lines[number].lstrip().startswith("# ") and "these lines" not in lines[number] and number != end:
            lines[number] = lines[number].replace("# ", "", 1)
    path.write_text("\n".join(lines))
    # Then the file loads with their variables, and so does the route for failures
    config = load_file(path, {"SKYVERN_API_KEY": "sk-1", "RESULTS_HTTP_SECRET": "s", **VALUES}).config
    assert list(config.sinks) == ["results", "archive", *chosen]
    assert [route.name for route in config.routes] == ["everything", "failures"]
    assert [target.sink for target in config.routes[1].targets] == [chosen[0]]


def test_the_key_and_urls_come_from_the_environment(tmp_path: Path) -> None:
    environ = {"SKYVERN_API_KEY": "sk-1", "SKYVERN_BASE_URL": "http://a.example", "PUBLIC_URL": "https://b.example"}
    init(tmp_path, "--yes", **environ)
    assert dotenv(tmp_path) == environ
    init(tmp_path / "..", "--yes", "--directory", str(tmp_path))  # refused: the files exist
    other = tmp_path / "my other"
    other.mkdir()
    done = init(tmp_path, "--yes", "--skyvern-url", "http://c.example", "--directory", str(other), **environ)
    assert dotenv(other)["SKYVERN_BASE_URL"] == "http://c.example"
    assert f"cd '{other}'" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["--yes", "--with", "slack,foo"], {}, "foo: unknown destination. Use slack, s3, postgres, http"),
        (["--yes", "--skyvern-url", "skyvern"], {}, "--skyvern-url: must be a URL such as"),
        (["--yes", "--with", "slack"], {"SLACK_WEBHOOK_URL": "hooks"}, "SLACK_WEBHOOK_URL: "),
        (["--yes", "--with", "postgres"], {"RESULTS_DATABASE_URL": "sqlite:///x"}, "must begin with postgresql://"),
        (["--yes", "--with", "s3"], {"S3_BUCKET": "A b"}, "S3_BUCKET: a bucket's name has"),
        (["--yes", "--with", "http"], {"RESULTS_HTTP_URL": "ftp://x"}, "RESULTS_HTTP_URL: "),
        (["--yes"], {"SKYVERN_API_KEY": "a\nb"}, "SKYVERN_API_KEY: must be printable characters on one line"),
        (["--yes", "--directory", "missing"], {}, "'missing' does not exist"),
        ([], {}, "no terminal to ask on. Use `runhook init --yes`"),
    ],
)
def test_a_wrong_call_ends_with_2_and_writes_nothing(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    done = init(tmp_path, *arguments, **environ)
    assert done.returncode == 2
    assert words in done.stderr
    assert written(tmp_path) == set()


# --- Files


def test_only_the_owner_can_read_the_variables(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        init(tmp_path, "--yes")
    finally:
        os.umask(before)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert written(tmp_path) == FILES


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("dangling", [False, True])
def test_nothing_is_overwritten(tmp_path: Path, name: str, dangling: bool) -> None:
    path = tmp_path / name
    if dangling:
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("mine")
    done = init(tmp_path, "--yes", "--with", "slack")
    assert done.returncode == 1
    assert done.stderr.startswith(f"runhook: {name}: already exists. Nothing was written. ")
    assert written(tmp_path) == {name}
    assert dangling or path.read_text() == "mine"


def test_a_full_disk_leaves_no_file_behind(tmp_path: Path) -> None:
    # Given room for the first two files
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    # When the third one does not fit
    command = [sys.executable, "-m", "receiver.cli", "init", "--yes"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, preexec_fn=limited, capture_output=True, text=True, check=False
    )
    # Then the error is one line, and nothing is there
    assert done.returncode == 1
    assert done.stderr == "runhook: runhook.schema.json: cannot be written: File too large. Nothing was written\n"
    assert written(tmp_path) == set()


printable = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1)


# --- On a terminal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "new"
    path.mkdir()
    return path


def on_terminal(folder: Path, *arguments: str) -> Terminal:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "dumb", "PYTHONDONTWRITEBYTECODE": "1"}
    return Terminal([sys.executable, "-m", "receiver.cli", "init", *arguments], env=environ, cwd=folder)


def test_a_person_can_leave_the_key_for_later(folder: Path) -> None:
    with on_terminal(folder) as terminal:
        terminal.answer("Do you run your own Skyvern server? [y/N]", "")
        terminal.answer("Skyvern API key (hidden; Enter to set it later)", "", hidden=True)
        terminal.answer("Numbers or names; Enter to finish", "")
        assert terminal.end() == 0, terminal.shown
    assert written(folder) == FILES
    assert dotenv(folder) == {}
    assert "set SKYVERN_API_KEY in .env. Then `runhook dev` watches" in terminal.shown
    assert list(load_file(folder / "runhook.yaml", {"SKYVERN_API_KEY": "local"}).config.sinks) == ["results", "archive"]


def test_a_person_gives_the_key_and_a_slack_channel(folder: Path, skyvern_simulator: SkyvernSimulator) -> None:
    hook = VALUES["SLACK_WEBHOOK_URL"]
    with on_terminal(folder, "--skyvern-url", skyvern_simulator.url) as terminal:
        terminal.answer("Skyvern API key", KEY, hidden=True)
        terminal.answer("Numbers or names", "1, mail")
        terminal.answer("mail: unknown destination. Use slack, s3, postgres, http\nNumbers or names", "1")
        terminal.answer("Slack webhook URL", "http://hooks.slack.com/x", hidden=True)
        terminal.answer("Slack webhook URL", hook, hidden=True)
        assert terminal.end() == 0, terminal.shown
    assert "Skyvern accepts the key." in terminal.shown
    assert "own Skyvern server" not in terminal.shown  # --skyvern-url says it
    assert KEY not in terminal.shown
    assert hook not in terminal.shown
    values = dotenv(folder)
    assert values == {"SKYVERN_API_KEY": KEY, "SKYVERN_BASE_URL": skyvern_simulator.url, "SLACK_WEBHOOK_URL": hook}
    loaded = load_file(folder / "runhook.yaml", {name: value or "" for name, value in values.items()})
    assert list(loaded.config.sinks) == ["results", "archive", "slack"]


def test_a_person_corrects_a_wrong_key(folder: Path, skyvern_simulator: SkyvernSimulator) -> None:
    with on_terminal(folder) as terminal:
        terminal.answer("Do you run your own Skyvern server?", "y")
        terminal.answer("URL of its API", "localhost")
        terminal.answer("must be a URL such as https://skyvern.example.com\nURL of its API", skyvern_simulator.url)
        terminal.answer("Skyvern API key", "sk-mistyped", hidden=True)
        terminal.answer("Wrong key: ", "n")
        terminal.answer("Skyvern API key", KEY, hidden=True)
        terminal.answer("Skyvern accepts the key.", "")
        assert terminal.end() == 0, terminal.shown
    assert "sk-mistyped" not in terminal.shown
    assert dotenv(folder) == {"SKYVERN_API_KEY": KEY, "SKYVERN_BASE_URL": skyvern_simulator.url}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as it:
        yield it


def test_a_key_that_can_not_be_tested_may_be_kept(folder: Path, server: ScriptedServer) -> None:
    server.script += [Reply(500)]
    with on_terminal(folder, "--skyvern-url", server.url, "--with", "http") as terminal:
        terminal.answer("Skyvern API key", "sk-1", hidden=True)
        terminal.answer("responds 500, not with a list of runs", "y")
        terminal.answer("URL to POST results to", "", hidden=True)  # later
        assert terminal.end() == 0, terminal.shown
    (request,) = server.requests
    assert (request.method, request.path, request.headers["x-api-key"]) == (
        "GET",
        "/v1/runs?page=1&page_size=1",
        "sk-1",
    )
    assert dotenv(folder)["SKYVERN_API_KEY"] == "sk-1"
    assert "http is off: set RESULTS_HTTP_URL in .env" in terminal.shown


def test_ctrl_d_writes_nothing(folder: Path) -> None:
    with on_terminal(folder) as terminal:
        terminal.answer("own Skyvern server?", "\x04")
        assert terminal.end() == 1, terminal.shown
    assert written(folder) == set()


@pytest.mark.parametrize(("ignored", "warned"), [("", True), (".env\n", False)])
def test_a_repository_that_would_commit_secrets_is_reported(tmp_path: Path, ignored: str, warned: bool) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text(ignored)
    done = init(tmp_path, "--yes", PATH=os.environ["PATH"], HOME=str(tmp_path))
    assert ("Warning: git does not ignore .env" in done.stdout) == warned
    assert (tmp_path / ".gitignore").read_text() == ignored


tricky = st.text(st.sampled_from("${}:-'\"\\# =a`"), min_size=1)


@given(values=st.lists(printable | tricky, min_size=3, max_size=3))
@example(values=["a\\", "'", "\\'"])
@example(values=["${HOME}", "${:-x}", "$${A:-'}"])
@example(values=[" # x", "'a' # b", '"a"'])
def test_dotenv_values_read_back_unchanged(values: list[str]) -> None:
    names = ["SKYVERN_API_KEY", "SKYVERN_BASE_URL", "PUBLIC_URL"]
    with TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path(".env").write_text(dotenv_text([], dict(zip(names, values, strict=True))), encoding="utf-8")
        assert dict(Variables({})) == dict(zip(names, values, strict=True))
