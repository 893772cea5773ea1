"""What shells complete: real shells run the scripts, and names come from a real ledger."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.cli import completer, completion_names
from receiver.cli.commands import COMMANDS
from receiver.cli.completion import build_table, write_table
from receiver.config.settings import Settings
from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger
from tests.support.ledger import claim, new_event, record, settle, with_tables
from tests.support.paths import ROOT

pytestmark = pytest.mark.long

# The config needs a variable that nobody sets here: a shell has no secrets.
CONFIG = """\
sources: {skyvern: {secrets: ["${UNSET}"]}}
sinks: {results: {type: files, path: a}, ops: {type: "${UNSET}"}}
"""


@pytest.fixture(scope="module")
def table() -> completer.Table:
    return build_table()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a config and a ledger: two runs, the newer one last, and a sink that left the config."""
    place = tmp_path_factory.mktemp("home")
    (place / "config").mkdir()
    (place / "config" / "runhook.yaml").write_text(CONFIG)
    (place / "bin").mkdir()
    script = place / "bin" / "runhook"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m receiver.cli "$@"\n')
    script.chmod(0o755)
    ledger = with_tables(Ledger(Settings.from_env({"RUNHOOK_DATA": str(place / "var")}).database_url))
    record(ledger, new_event("tsk_old", "results"))
    settle(ledger, claim(ledger, "results", limit=1), DeliveryMove.ACCEPT)
    record(ledger, new_event("tsk_new", "gone"), new_event("$(touch pwned)", "`id`"), new_event("-rf", "results"))
    ledger.write(lambda it: it.exec_driver_sql("UPDATE runs SET updated_at = updated_at - 60 WHERE run_id = 'tsk_old'"))
    ledger.close()
    return place


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    for name in ("RUNHOOK_URL", "RUNHOOK_KEY", "RUNHOOK_CONFIG", "RUNHOOK_DATA", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return home


def words(table: completer.Table, *line: str) -> list[str]:
    return [each.partition("\t")[0] for each in completer.complete(table, line)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["deliv"], ["deliveries"]),
        (["sink", "re"], ["resume"]),
        (["runs", "--stat"], ["--status", "--state"]),
        (["replay", "--dry"], ["--dry-run"]),
        (["deliveries", "--state", "d"], ["delivered", "dead"]),
        (["deliveries", "--state=d"], ["--state=delivered", "--state=dead"]),
        (["deliveries", "--state", "=", "d"], ["delivered", "dead"]),  # as bash hands it over
        (["deliveries", "--state", "="], ["held", "queued", "sending", "waiting", "delivered", "dead", "cancelled"]),
        (["submissions", "--state", "acc"], ["accepted"]),
        (["runs", "-o", "json"], ["json", "jsonl"]),
        (["runs", "--config", ""], [":files"]),
        (["runs", "--data", ""], [":folders"]),
        (["schema", "-o", ""], [":files"]),
        (["check", ""], [":files"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["deliveries", "--sink", ""], ["results", "ops", "gone"]),
        (["sink", "pause", "r"], ["results"]),
        (["resubmit", "--into", "r"], ["results"]),
        (["cancel", "tsk_n"], ["tsk_new"]),
        (["runs", "--source", ""], ["skyvern"]),
        (["attempts", ""], ["tsk_new", "tsk_old"]),
        (["runs", "--run", "tsk_o"], ["tsk_old"]),
        (["runs", "--json", "--run", "tsk_o"], ["tsk_old"]),
        (["attempts", "--data", "nowhere", ""], []),
        (["attempts", "--url", "https://a.example", ""], []),
        (["runs", "--json=", ""], []),
        (["runs", "--since", ""], []),
        (["runs", "--", "--st"], []),
        (["nonsense", ""], []),
        (["nonsense", "--x", ""], []),
    ],
)
def test_what_may_come_next(here: Path, table: completer.Table, line: list[str], found: list[str]) -> None:
    assert words(table, *line) == found


def test_every_command_and_every_option_is_known(table: completer.Table) -> None:
    assert words(table, "") == list(COMMANDS)
    assert {"--help", "-h"} <= set(words(table, "sink", "list", "-"))
    assert "--until" in words(table, "deliveries", "-")


def test_a_name_that_a_shell_would_run_is_not_offered(here: Path, table: completer.Table) -> None:
    offered = [*words(table, "attempts", ""), *words(table, "cancel", "--sink", "")]

    assert "tsk_new" in offered
    assert "gone" in offered
    assert [each for each in offered if set(each) & set("$`( ;|&") or each.startswith("-")] == []


def test_names_come_from_postgresql_too(
    postgres_ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(postgres_ledger, new_event("tsk_pg", "warehouse"))
    monkeypatch.setenv("DATABASE_URL", postgres_ledger.url.render_as_string(hide_password=False))
    monkeypatch.delenv("RUNHOOK_URL", raising=False)
    monkeypatch.chdir(tmp_path)

    assert [name for name, _ in completion_names.find("runs", "tsk", {})] == ["tsk_pg"]
    assert "warehouse" in [name for name, _ in completion_names.find("sinks", "", {})]


def test_the_file_is_made_anew_when_it_is_not_there_or_broken(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(here / ".cache", ignore_errors=True)
    completer.main(["deliv"])
    (kept,) = (here / ".cache" / "runhook").iterdir()
    kept.write_text("{")
    completer.main(["deliv"])

    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith("deliveries\tList the deliveries")
    assert len(list(kept.parent.iterdir())) == 1


def test_nothing_is_said_when_something_is_wrong(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completer, "_table", lambda: {"options": 3})
    completer.main(["runs", ""])
    completer.main([])

    assert capsys.readouterr() == ("", "")


def shell(here: Path, name: str, program: str) -> list[str]:
    """What a real shell says, in which `runhook` is this command."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} here")
    environ = {"HOME": str(here), "PATH": f"{here}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    done = subprocess.run(
        [path, *flags, "-c", program], env=environ, cwd=here, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


BASH = """
eval "$(runhook completion bash)"
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _runhook; printf '%s\\n' "${COMPREPLY[@]}"; }
complete -p runhook
ask runhook deliv; ask runhook attempts tsk; ask runhook runs --state = del; ask runhook check con
"""
ZSH = """
compdef() { print -- "$@" }
eval "$(runhook completion zsh)"
compadd() { print -l -- $found }
_files() { print files }
ask() { words=("$@"); CURRENT=$#; _runhook }
ask runhook deliv; ask runhook attempts tsk; ask runhook runs --state=del; ask runhook check con
"""
FISH = """
runhook completion fish | source
for line in 'runhook deliv' 'runhook attempts tsk' 'runhook runs --state=del' 'runhook check con'
    complete -C $line | string replace -r '\\t.*' ''
end
"""


@pytest.mark.parametrize(
    ("name", "program", "said"),
    [
        (
            "bash",
            BASH,
            ["complete -F _runhook runhook", "deliveries", "tsk_new", "tsk_old", "delivered", "config"],
        ),
        ("zsh", ZSH, ["_runhook runhook", "deliveries", "tsk_new", "tsk_old", "--state=delivered", "files"]),
        ("fish", FISH, ["deliveries", "tsk_new", "tsk_old", "--state=delivered", "config/"]),
    ],
)
def test_a_real_shell_runs_its_script(here: Path, name: str, program: str, said: list[str]) -> None:
    assert shell(here, name, program) == said


def test_an_answer_costs_less_than_three_tenths_of_a_second(here: Path) -> None:
    """CPU time, for others work on this machine."""
    write_table()
    program = (
        "import sys, time; sys.argv[1:] = ['__complete', 'attempts', ''];"
        "from receiver.cli import main; main(); print(time.process_time())"
    )
    environ = {"HOME": str(here), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], env=environ, cwd=here, capture_output=True, timeout=60)
        *found, seconds = done.stdout.decode().splitlines()
        assert len(found) == 2
        times.append(float(seconds))
    assert min(times) < 0.3
