"""Configuration from where it lives, through real processes: a default config, `.env`, files, a secrets directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers import warm_python
from tests.servers.dev import Dev, a_run
from tests.support.command import call_command
from tests.support.paths import ROOT
from tests.support.waiting import eventually


class DevHere(Dev):
    """A `runhook dev` without options: its folder and variables alone say what it uses."""

    def options(self, directory: Path) -> list[str]:
        return []


def logged(log: str, program: str) -> list[dict[str, Any]]:
    """What a program that `runhook dev` runs has logged as JSON. Fails for a line that is not."""
    return [json.loads(line) for line in re.findall(rf"^{program} *\| (.*)$", log, re.MULTILINE)]


def test_all_processes_log_in_the_form_that_is_set(start_dev: Callable[..., Dev]) -> None:
    # Given runhook dev that logs JSON, with a webhook that is delivered
    dev = start_dev(DevHere, RUNHOOK_LOG_FORMAT="json", RUNHOOK_DATA="d").ready()
    dev.post(a_run(1))
    eventually(lambda: "deliver.settled" in dev.log, what=lambda: dev.log)
    dev.end()
    # Then each line of receiver, worker with its children, and clock is an object with the event and its fields
    lines = {program: logged(dev.log, program) for program in ("serve", "worker", "clock")}
    for program, parts in {
        "serve": {"receiver"},
        "worker": {"dispatch", "deliver:archive"},
        "clock": {"clock"},
    }.items():
        started = {line["part"] for line in lines[program] if line["message"] == "part.started"}
        assert started >= parts, dev.log
    (settled,) = [line for line in lines["worker"] if line["message"] == "deliver.settled"]
    assert (settled["sink"], settled["accepted"]) == ("archive", 1)


def test_values_from_every_place_reach_all_processes(start_dev: Callable[..., Dev], tmp_path: Path) -> None:
    # Given a key in the secrets directory, a sink's folder in a file, and the data directory in .env
    for name, text in {"skyvern_api_key": "sekret-key\n", "folder": f"{tmp_path}/kept\n"}.items():
        (tmp_path / "secrets").mkdir(exist_ok=True)
        (tmp_path / "secrets" / name).write_text(text)
    (tmp_path / ".env").write_text("# ours\nRUNHOOK_DATA=d\nRUNHOOK_SECRETS_DIR=secrets\n")
    config = """
sources: {skyvern: {secrets: ["${SKYVERN_API_KEY}"]}}
sinks: {archive: {type: files, path: "${ARCHIVE}"}}
routes: [{name: all, to: [archive]}]
"""
    dev = start_dev(DevHere, config=config, ARCHIVE_FILE="secrets/folder").ready()
    # When a webhook comes that is signed with that key
    dev.post(a_run(1), "sekret-key")
    # Then the sink writes into that folder, and the data directory is that of .env
    eventually(lambda: any("tsk_1" in str(path) for path in tmp_path.glob("kept/**/*")), what=lambda: dev.log)
    assert (tmp_path / "d" / "ledger.db").exists()
    assert "sekret-key" not in dev.log
    # And a second receiver lists the same values as `runhook config show`
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ARCHIVE_FILE": "secrets/folder"}
    log = tmp_path / "serve.log"
    serve = warm_python.start(["-m", "receiver.cli", "serve", "--port", "0"], log, env=environ, cwd=tmp_path)
    try:
        eventually(lambda: log.exists() and "connections: " in log.read_text(), what=log.read_text)
    finally:
        serve.terminate()
        serve.wait(60)
    done = call_command("config", "show", "--json", environ=environ, directory=tmp_path)
    shown = {row["name"]: row["value"] for row in json.loads(done.stdout)["variables"]}
    printed = dict(re.findall(r"runhook: ([A-Z_]+) = (.*)", log.read_text()))
    assert printed.keys() >= {"RUNHOOK_DATA", "REDIS_URL", "SKYVERN_API_KEY"}
    assert printed == {name: shown[name] or "not set" for name in printed}


def test_a_process_logs_nothing_below_its_level(start_dev: Callable[..., Dev]) -> None:
    dev = start_dev(DevHere, RUNHOOK_LOG_LEVEL="error", RUNHOOK_DATA="d").ready()
    dev.post(a_run(1))
    eventually(lambda: any("tsk_1" in str(path) for path in dev.data.glob("archive/**/*")), what=lambda: dev.log)
    dev.end()

    assert not re.search(r"\| \d{4}-\d\d-\d\dT", dev.log)
