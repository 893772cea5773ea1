"""What shells complete: Typer's own script in a real shell, with names from a real ledger."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.config.settings import Settings
from receiver.ledger import Ledger
from tests.servers import warm_python
from tests.support.ledger import new_event, record, with_tables
from tests.support.paths import ROOT

# The config needs a variable that is not set here: a shell has no secrets.
CONFIG = """\
sources: {skyvern: {secrets: ["${UNSET}"]}}
sinks: {results: {type: files, path: a}, ops: {type: slack, webhook_url: "${UNSET}"}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a config, a ledger with runs, and a profile."""
    place = tmp_path_factory.mktemp("home")
    (place / "runhook.yaml").write_text(CONFIG)
    (place / "bin").mkdir()
    script = place / "bin" / "runhook"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m receiver.cli "$@"\n')
    script.chmod(0o755)
    profiles = place / ".config" / "runhook" / "profiles.toml"
    profiles.parent.mkdir(parents=True)
    profiles.write_text('[prod]\nurl = "https://a.example"\n')
    profiles.chmod(0o600)
    ledger = with_tables(Ledger(Settings.from_env({"RUNHOOK_DATA": str(place / "var")}).database_url))
    record(ledger, new_event("tsk_new", "gone"), new_event("$(touch pwned)", "`id`"), new_event("-rf", "results"))
    ledger.close()
    return place


def completed(home: Path, line: str) -> list[str]:
    """Return what `runhook LINE<TAB>` offers in bash."""
    words = f"runhook {line}".split(" ")
    environ = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "_RUNHOOK_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = warm_python.run(["-c", "from receiver.cli import main; main()"], env=environ, cwd=home)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("deliv", ["deliveries"]),
        ("sink re", ["resume"]),
        ("deliveries --state d", ["delivered", "dead"]),
        ("runs -o json", ["json", "jsonl"]),
        ("deliveries --sink ", ["results", "ops"]),
        ("runs --source ", ["skyvern"]),
        ("runs --profile p", ["prod"]),
        ("attempts ", ["tsk_new"]),
        ("api list_r", ["list_runs", "list_routes"]),
    ],
)
def test_shell_completes_words_and_names(home: Path, line: str, words: list[str]) -> None:
    offered = completed(home, line)

    assert set(words) <= set(offered)
    assert [each for each in offered if set(each) & set("$`( ;|&")] == []
    if words != ["results", "ops"]:
        assert sorted(offered) == sorted(words)


def test_bash_runs_the_script(home: Path) -> None:
    program = """
    eval "$(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 runhook --show-completion bash)"
    ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _runhook_completion runhook; printf '%s\\n' "${COMPREPLY[@]}"; }
    ask runhook deliv; ask runhook attempts tsk
    """
    environ = {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "--norc", "-c", program], env=environ, cwd=home, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.split(), done.stderr) == (["deliveries", "tsk_new"], "")
