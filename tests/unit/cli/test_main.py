"""The command line as a whole: help, exit codes, errors of one line, and which ledger a command works on."""

import io
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from receiver import __version__
from receiver.cli.commands import COMMANDS, EXAMPLES, load
from receiver.cli.options import parse_time
from receiver.config.settings import Settings
from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger
from tests.servers import warm_python
from tests.support import queries
from tests.support.ledger import claim, new_event, record, settle, with_tables
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE
from tests.unit.cli.conftest import Runhook


def make_ledger(data: Path) -> Ledger:
    return with_tables(Ledger(Settings.from_env(data=data).database_url))


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """A ledger without rows in ./var, and a config with a sink; where it is."""
    make_ledger(tmp_path / "var").close()
    (tmp_path / "runhook.yaml").write_text("sources: {s: {secrets: [k]}}\nsinks: {ops: {type: files, path: a}}\n")
    return f"sqlite:///{tmp_path}/var/ledger.db"


# --- Help


def commands() -> dict[str, Any]:
    """Return each command by its path, subcommands in place of their group."""
    found = {}
    for name in COMMANDS:
        command = load(name)
        below = getattr(command, "commands", {})
        found |= {f"{name} {sub}": each for sub, each in below.items()} or {name: command}
    return found


def test_no_command_prints_the_help_and_fails(runhook: Runhook) -> None:
    for arguments in ([], ["sink"]):
        code, out, err = runhook(*arguments)
        assert (code, err, out.startswith("Usage: runhook ")) == (2, "", True)
    assert runhook("--version") == (0, f"runhook {__version__}\n", "")


def test_exit_does_not_collect_the_imports() -> None:
    frozen = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 0))"
    calls = f"{frozen}; sys.argv = ['runhook', '--version']; from receiver.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", calls], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"runhook {__version__}\nTrue\n"


def test_examples_are_valid_calls_of_their_command() -> None:
    found = commands()

    assert EXAMPLES.keys() <= found.keys()
    for path, examples in EXAMPLES.items():
        for example in examples:
            assert f"runhook {path} {example}".rstrip() in found[path].epilog
            found[path].make_context(path, shlex.split(re.split(r"(?:^| )[|>] ", example)[0]))


# --- Wrong calls

# Commands, and an option that would mean all if an empty value were accepted.
EMPTY = [
    *((["replay", "--until", "0s"], option) for option in ("--sink", "--run", "--run-prefix", "--status", "--reason")),
    *((["replay", "--until", "0s"], option) for option in ("--text", "--since")),
    *(([command], option) for command, option in (("dead", "--sink"), ("cancel", "--sink"), ("resubmit", "--run"))),
    (["tail"], "--workflow"),
    (["listen", "3000"], "--workflow"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no such command 'nonsense'; see `runhook -h`"),
        (["deliverys"], "no such command 'deliverys'. Did you mean 'deliveries'? See `runhook -h`"),
        (["sink", "pause"], "missing argument 'NAME'; see `runhook sink pause -h`"),
        (["runs", "--colour"], "no such option: --colour"),
        (["run", "tsk_1", "--download"], "option '--download' requires an argument; see `runhook run -h`"),
        (["dev", "--port", "99999"], "invalid value for '--port': must be less than or equal to 65535;"),
        (["serve", "--url", "https://a.example"], "serve works on this machine only and does not accept --url"),
        (["status", "--data", "\udcff"], "argument 3 is not valid UTF-8"),
        (["runs", "-o", "xml"], "invalid value for '--output' / '-o': 'xml' is not one of 'table', 'json'"),
        (["runs", "--json", "-o", "csv"], "--json and --output csv are mutually exclusive"),
        (["replay"], "nothing selected to replay: pass ids, or filters such as"),
        (["runs", "--since", "yesterday"], "--since yesterday: must be a time ago such as 15m"),
        *(([*call, option, ""], f"{option} is empty: give it a value, or leave it out") for call, option in EMPTY),
        (["reroute", "--since", "1d", "--ignore-routes"], "--ignore-routes: name the sink with --sink"),
        (["artifacts", ""], "an id is empty"),
        (["cancel", "dlv_1"], "dlv_1: an id has"),
        (["cancel", "op_1", "--undo"], "op_1: an operation cannot be restored; start the replay again"),
        (["cancel", "op_1", "dlv_000000000000"], "cancel operations by id only"),
        (["open", "op_1"], "op_1: only runs, events and deliveries have a page"),
        (["tail", "--json"], "--output json requires -n; use jsonl to stream"),
        (["connect", "--json", "--apply"], "--json requires --yes"),
        (["submit", "x"], "submit needs a service: name it with --url, --profile or RUNHOOK_URL"),
        (["mcp", "--allow", "all"], "--allow all: must be operate or submit; reading needs no --allow"),
        (["api", "list_rnus"], "list_rnus: unknown call; did you mean list_runs?"),
        (["api", "list_runs", "limit=0"], "limit: must be greater than or equal to 1"),
        (["api", "list_runs", "limt=1"], "limt: "),
        (["api", "list_runs", "limit=1", "limit=2"], "limit: given twice"),
        (["api", "explain", "raw=@nowhere"], "raw=@nowhere: cannot be read: No such file or directory"),
    ],
)
def test_wrong_call_is_one_line(runhook: Runhook, arguments: list[str], message: str) -> None:
    code, out, err = runhook(*arguments)

    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"runhook: {message}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-24", 1_795_478_400.0),
        ("2026-11-24T09:30Z", 1_795_512_600.0),
        ("2026-11-24T10:30+01:00", 1_795_512_600.0),
    ],
)
def test_time_is_utc_unless_it_has_a_zone(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds
    assert parse_time("2h") == pytest.approx(time.time() - 7200, abs=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "--status", "faild"], "--status faild: "),
        (["deliveries", "--sink", "opps"], "--sink opps: "),
        (["deliveries", "--state", "deed"], "--state deed: must be held, queued, sending, waiting, "),
        (["attempts", "tsk_404"], "tsk_404: "),
        (["replay", "tsk_404"], "tsk_404: "),
        (["replay", "--sink", "opps"], "unknown sink opps"),
        (["replay", "--rate", "x", "--all"], "--rate x: must be a valid number"),
        (["submissions", "--label", "team"], "--label team: write NAME=VALUE"),
        (["stats", "--by", "stauts"], "--by stauts: nothing can be counted by stauts; did you mean status?"),
        (["tail", "--since", "soon"], "--since soon: must be a time ago"),
        (["cancel", "dlv_" + "0" * 32], "dlv_" + "0" * 32),
        (["cancel", "op_1"], "operation op_1: "),
        (["run", "tsk_404"], "run tsk_404: "),
        (["keys", "revoke", "x"], ""),
    ],
)
def test_unknown_name_is_a_mistake(runhook: Runhook, ledger: str, arguments: list[str], message: str) -> None:
    code, out, err = runhook(*arguments)

    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"runhook: {message}")


# --- Errors


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ('OSError(28, "No space left on device", "/data/spool")', 3, "/data/spool: no space left on device"),
        (r'RunhookError("run tsk_\x1b[2J\x9b: not found")', 1, "run tsk_\ufffd[2J\ufffd: not found"),
        ('NotStarted("Redis is down")', 3, "Redis is down"),
        ('NotFound("run tsk_1: not found")', 2, "run tsk_1: not found"),
        ('Busy("ledger database unavailable")', 3, "ledger database unavailable"),
        ("typer.Abort()", 1, "aborted, nothing changed; use --yes to skip the prompt"),
        ("KeyboardInterrupt()", 130, ""),
    ],
)
def test_error_has_its_exit_code(tmp_path: Path, error: str, code: int, message: str) -> None:
    program = (
        "import sys, typer; from receiver.cli import main, commands; from receiver.errors import *\n"
        f"def fail(): raise {error}\n"
        "commands.find = lambda name: fail; sys.argv[1:] = ['runs']; main()"
    )
    done = warm_python.run(["-c", program], env={"PATH": os.environ["PATH"]}, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == (f"runhook: {message}\n" if message else "")


@pytest.mark.parametrize("how", [">&-", "<&- >&- 2>&-", ">/dev/full", "| true"])
def test_closed_or_full_output_makes_no_traceback(tmp_path: Path, how: str) -> None:
    ledger = make_ledger(tmp_path)
    record(ledger, new_event("tsk_1"))
    ledger.close()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RUNHOOK_DATA": str(tmp_path)}
    command = ["bash", "-c", f"{sys.executable} -m receiver.cli runs {how}"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE)

    assert done.stderr.count("\n") <= 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_list_whose_reader_leaves_ends_as_by_sigpipe(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path / "var")
    record(ledger, *(new_event(f"tsk_{number}", title="a long title " * 20) for number in range(300)))
    ledger.close()
    line = [sys.executable, "-m", "receiver.cli", "runs", "-n", "300", "--data", str(tmp_path / "var")]
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with subprocess.Popen(line, env=environ, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 141


# --- Which ledger


def test_missing_ledger_is_reported_and_not_created(runhook: Runhook, tmp_path: Path) -> None:
    for arguments in (["runs"], ["attempts", "tsk_1"], ["replay", "--all"], ["keys", "list"], ["sink", "pause", "x"]):
        code, out, err = runhook(*arguments)

        assert (code, out, err.count("\n")) == (3, "", 1)
        assert f"(sqlite:///{tmp_path}/var/ledger.db)" in err
    assert list(tmp_path.iterdir()) == []


def test_first_key_creates_a_named_ledger(runhook: Runhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "sources: {s: {secrets: [k], api_key: k}}\nsinks: {ops: {type: files, path: var/a}}\n"
    (tmp_path / "c.yaml").write_text(source)

    # Given no ledger here, and nothing that names one
    assert runhook("keys", "create", "app", "--config", "c.yaml")[0] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml"]
    assert runhook("sink", "test", "ops", "--config", "c.yaml")[0] == 3
    # A ledger that a variable names is created with the first key
    monkeypatch.setenv("DATABASE_URL", "sqlite:///named/ledger.db")
    where = f"sqlite:///{tmp_path}/named/ledger.db"
    (tmp_path / "named").mkdir()
    code, out, err = runhook("keys", "create", "app", "--config", "c.yaml")
    assert (code, "rhk_" in out) == (0, True)
    assert err == (
        f"runhook: new ledger created: {where}\nrunhook: new RUNHOOK_SECRET created: {tmp_path}/var/runhook-secret\n"
    )
    # And each action names the ledger that it works on, once
    for action in (
        ["keys", "create", "b"],
        ["sink", "pause", "ops"],
        ["replay", "--all"],
        ["reroute", "--since", "1d"],
    ):
        _, _, err = runhook(*action, "--config", "c.yaml")
        assert err.splitlines()[0] == f"runhook: ledger: {where}", action
        assert err.count("runhook: ledger: ") == 1


def test_table_names_its_ledger_and_json_prints_only_rows(runhook: Runhook, ledger: str) -> None:
    assert runhook("dead") == (0, "no dead letters found\n", f"runhook: ledger: {ledger}\n")
    assert runhook("dead", "--json") == (0, "[]\n", "")


def test_ledger_of_another_schema_is_refused(runhook: Runhook, ledger: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "var" / "ledger.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.commit()
        code, _, err = runhook("runs")
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()

    assert (code, version) == (3, "0001")
    assert "name a new or empty database with DATABASE_URL" in err
    assert "name a new or empty database with DATABASE_URL" in " ".join(runhook("status")[1].split())


def test_commands_that_read_need_no_secrets(runhook: Runhook, ledger: str, tmp_path: Path) -> None:
    (tmp_path / "runhook.yaml").write_text(
        """\
sources: {skyvern: {secrets: ["${NOT_SET}"], api_key: "${NOT_SET}", api_base: "${NOT_SET}"}}
sinks: {ops: {type: slack, webhook_url: "${NOT_SET}"}, kept: {type: files, path: a}}
routes: [{name: everything, to: [ops]}]
"""
    )

    for command in (["runs"], ["deliveries", "--sink", "ops"], ["quarantine", "list"], ["keys", "list"]):
        assert runhook(*command, "-o", "jsonl") == (0, "", "")
    names = [json.loads(line)["name"] for line in runhook("sink", "list", "-o", "jsonl")[1].splitlines()]
    assert names == ["ops", "kept", "callback"]
    code, _, err = runhook("sink", "pause", "ops")  # an action needs them
    assert (code, "the variable NOT_SET is not set" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["serve"], 2, "no config file: "),
        (["quarantine", "list"], 3, "data directory var not found: set --data or RUNHOOK_DATA"),
        (["spool", "send", "--data", "x"], 2, "spool not found in x: set --data to the receiver's data directory"),
        (["dev", "--host", "192.0.2.1"], 3, "can't listen on 192.0.2.1:8000: "),
    ],
)
def test_wrong_folder_or_host_is_one_line(runhook: Runhook, arguments: list[str], code: int, message: str) -> None:
    done, out, err = runhook(*arguments)

    assert (done, out, err.count("\n")) == (code, "", 1)
    assert err.startswith(f"runhook: {message}")


def test_unreadable_spool_is_named_with_a_fix(runhook: Runhook, tmp_path: Path) -> None:
    (tmp_path / "var" / "spool").mkdir(parents=True)
    (tmp_path / "var" / "spool" / "events.db").write_bytes(b"damaged" * 1000)

    code, out, err = runhook("spool", "send", "--dry-run")

    assert (code, out) == (3, "")
    assert err.startswith("runhook: var/spool/events.db cannot be read: file is not a database. ")
    assert "`sqlite3 var/spool/events.db .recover` saves readable events" in err


def test_status_works_with_an_invalid_config(runhook: Runhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k], no_such_key: 1}}\n")

    code, out, _ = runhook("status", "--config", "c.yaml")
    _, as_json, _ = runhook("status", "--config", "c.yaml", "--json")

    assert code == 1
    assert "no_such_key" in out
    assert "of the configured limit (the config cannot be read), on this machine" in " ".join(out.split())
    assert json.loads(as_json)["disk"]["spool_limit"] is None
    (tmp_path / "c.yaml").write_text("sources: {s: {secrets: [k]}}\nspool: {max_bytes: 64MiB}\n")
    assert "of 64.0 MiB, on this machine" in runhook("status", "--config", "c.yaml")[1]


# --- Actions


@pytest.mark.parametrize(
    ("terminal", "options", "asked"),
    [(True, [], True), (True, ["-y"], False), (True, ["--expect", "11"], False), (False, [], False)],
)
def test_large_final_action_is_confirmed_on_a_terminal(
    runhook: Runhook,
    ledger: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    options: list[str],
    asked: bool,
) -> None:
    book = make_ledger(tmp_path / "var")
    record(book, *(new_event(f"tsk_{number}", "ops") for number in range(11)))
    settle(book, claim(book, "ops", limit=11), DeliveryMove.ACCEPT)
    record(book, *(new_event(f"wr_{number}", "ops") for number in range(11)))
    ids = [row["id"] for row in book.read(lambda c: queries.list_deliveries(c, queries.Filter(state=("queued",))))]

    monkeypatch.setattr("sys.stdin", Typed("n\n", terminal))
    replayed = runhook("replay", "--state", "delivered", "--force", *options)
    monkeypatch.setattr("sys.stdin", Typed("n\n", terminal))
    cancelled = runhook("cancel", *ids, *options)

    states = Counter(row["state"] for row in book.read(lambda c: queries.list_deliveries(c, queries.Filter())))
    book.close()
    assert (replayed[0], cancelled[0]) == ((1, 1) if asked else (0, 0))
    assert states == ({"delivered": 11, "queued": 11} if asked else {"queued": 11, "cancelled": 11})


class Typed(io.StringIO):
    """What a person types, on a terminal or not."""

    def __init__(self, text: str, terminal: bool) -> None:
        super().__init__(text)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_api_calls_by_name_and_prints_json(runhook: Runhook, ledger: str, tmp_path: Path) -> None:
    book = make_ledger(tmp_path / "var")
    record(book, *(new_event(f"tsk_{number}", "ops") for number in range(3)))
    book.close()
    (tmp_path / "body.json").write_text('{"run_id": "tsk_9", "status": "failed"}')

    code, out, err = runhook("api", "list_runs", "limit=2", "status=completed", "status=failed")
    assert (code, err, len(json.loads(out)["items"])) == (0, "", 2)
    code, out, err = runhook("api", "pause_sink", "sink=ops")
    assert (code, json.loads(out)["paused"], err) == (0, True, f"runhook: ledger: {ledger}\n")
    assert json.loads(runhook("api", "explain", "raw=@body.json")[1])["outcome"] == "failed"
    body = ["api", "explain", 'body={"run_id": "tsk_9", "status": "failed"}', 'labels={"team": "a"}']
    assert json.loads(runhook(*body)[1])["run_id"] == "tsk_9"
    listed = runhook("api")[1]
    assert "replay" in listed
    assert "[limit]" in listed


def test_every_option_has_a_help_text() -> None:
    silent = [
        f"{path}: {each.name}" for path, command in commands().items() for each in command.params if not each.help
    ]
    assert silent == []


def test_wrong_database_url_is_one_line(runhook: Runhook, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("postgresql://u:sekret@h:port/db", "sqlite:var/ledger.db"):
        monkeypatch.setenv("DATABASE_URL", url)
        for command in ("status", "runs", "check"):
            code, out, err = runhook(command)

            assert (code, out, "sekret" in err) == (2, "", False)
            assert err.startswith("runhook: DATABASE_URL: not a database URL")
