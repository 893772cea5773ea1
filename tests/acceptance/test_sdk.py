"""The official Skyvern SDK, unchanged but for its base URL and key, against our API in front of a simulated Skyvern."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submitting import Submitting

pytestmark = pytest.mark.long


def test_the_official_sdk_needs_no_change(
    sdk_python: Path,
    submitting: Callable[..., Submitting],
    simulate_skyvern: Callable[..., SkyvernSimulator],
    tmp_path: Path,
    scripted_server: ScriptedServer,
) -> None:
    scripted_server.default = Reply(200, b"ok")
    hook = scripted_server.url + "/hook"
    sim = simulate_skyvern(queued_seconds=6000.0)  # a cancel must find the run going on a busy machine
    rig = submitting(sim.url, delivering=True, allowed_addresses=["127.0.0.1"])
    environ = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    command = [str(sdk_python), str(Path(__file__).with_name("sdk_client.py")), rig.url, rig.whole_key, hook]

    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env={**environ, "HOME": str(tmp_path)}
    )

    assert ended.returncode == 0, ended.stderr[-3000:]
    got = json.loads(ended.stdout.splitlines()[-1])
    kind, run_id, status, output = got["task"]
    assert kind.startswith("TaskRunResponse")
    assert (status.rpartition(".")[2], output) == ("completed", True)
    assert got["flow"][2].rpartition(".")[2] == "completed"
    assert sim.run(got["cancelled"][0]).status == "canceled"
    assert got["artifacts"] > 0
    assert got["errors"]["missing"][0] == 404
    assert got["errors"]["busy"][0] == 429
    assert got["errors"]["stranger"] == [403, {"detail": "Invalid credentials"}]
    rows = {row["run_id"]: row for row in rig.rows()}
    assert {run_id, got["flow"][1], got["cancelled"][0], got["login"]} <= rows.keys()
    assert sim.run(run_id).callback == f"{rig.url}/webhooks/skyvern/{rows[run_id]['id']}"
    assert rows[run_id]["callback_url"] == hook
    assert got["again"] == ["RunWebhookReplayResponse", run_id, 200, None]
    assert got["elsewhere"] == [hook + "/other", 200, None]
    paths = [call.path for call in scripted_server.calls]
    assert (paths.count("/hook/other"), paths.count("/hook") >= 2) == (1, True)
