"""`runhook dev --tunnel` with a script in place of cloudflared: what the internet reaches, and what a new URL does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.servers.dev import Dev
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support.paths import ROOT
from tests.support.processes import alive
from tests.support.tunnels import CLOUDFLARED, install
from tests.support.waiting import eventually

FIRST, SECOND = (f"https://{word}-dashed-word-url.trycloudflare.com" for word in ("four", "five"))


class Tunnelled(Dev):
    def options(self, directory: Path) -> list[str]:
        return [*super().options(directory), "--tunnel"]


Start = Callable[..., Dev]


def start(start_dev: Start, tmp_path: Path, sim: SkyvernSimulator) -> Dev:
    config = (ROOT / "config" / "runhook.yaml").read_text()
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return start_dev(Tunnelled, config=config, PATH=path, SKYVERN_API_KEY=KEY, SKYVERN_BASE_URL=sim.url)


def status(url: str, path: str) -> int:
    try:
        with urllib.request.urlopen(url + path, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def callback_of_a_submit(dev: Dev, sim: SkyvernSimulator, key: str) -> str:
    """Submit a run, and return where Skyvern is to post its result."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{dev.port}/v1/run/tasks",
        json.dumps({"prompt": "Get the invoice"}).encode(),
        {"x-api-key": key, "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(sim.run(json.load(answer)["run_id"]).callback)
    except OSError:  # the receiver is starting again
        return ""


def new_key(dev: Dev, sim: SkyvernSimulator, tmp_path: Path) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "receiver.cli", "keys", "create", "app", "--json", *Dev.options(dev, tmp_path)],
        cwd=ROOT,
        env={**os.environ, "SKYVERN_API_KEY": KEY, "SKYVERN_BASE_URL": sim.url},
        capture_output=True,
        check=True,
    )
    return str(json.loads(made.stdout)["key"])


def test_tunnel_url_reaches_all_processes_also_a_new_one(
    start_dev: Start, skyvern_simulator: SkyvernSimulator, tmp_path: Path
) -> None:
    # Given dev with a tunnel
    install(tmp_path / "bin", "cloudflared", CLOUDFLARED)
    dev, sim = start(start_dev, tmp_path, skyvern_simulator).ready(), skyvern_simulator
    assert f"public URL: {FIRST}" in dev.log
    calls = (tmp_path / "bin" / "cloudflared.calls").read_text()
    assert f"tunnel --no-autoupdate --url http://127.0.0.1:{dev.port}" in calls
    key = new_key(dev, sim, tmp_path)
    assert callback_of_a_submit(dev, sim, key).startswith(f"{FIRST}/webhooks/skyvern")

    # Then the port behind it has nothing for operators; a port of this machine has
    (admin,) = {line.split()[4] for line in dev.log.splitlines() if "admin port: " in line and "runhook" in line}
    public = f"http://127.0.0.1:{dev.port}"
    assert [status(public, path) for path in ("/metrics", "/console", "/readyz?all", "/api/v1/runs")] == [
        404,
        404,
        404,
        403,
    ]
    assert status(admin, "/metrics") == 200
    assert f"console: {admin}/console/login?token=" in dev.log

    # When the tunnel dies, and comes back with another URL
    pid_file = tmp_path / "bin" / "cloudflared.pid"
    install(tmp_path / "bin", "cloudflared", CLOUDFLARED.replace("four-", "five-"))
    os.kill(int(pid_file.read_text()), signal.SIGKILL)

    # Then dev says both, and submits name the new one
    eventually(lambda: f"public URL changed to {SECOND}" in dev.log, what=lambda: dev.log)
    assert "cloudflared killed by signal 9" in dev.log
    eventually(lambda: callback_of_a_submit(dev, sim, key).startswith(SECOND), what=lambda: dev.log)

    # And it ends with dev
    tunnel = int(pid_file.read_text())
    assert alive(tunnel)
    dev.end()
    assert not alive(tunnel)


def test_tunnel_without_url_ends_dev_with_its_last_lines(
    start_dev: Start, skyvern_simulator: SkyvernSimulator, tmp_path: Path
) -> None:
    install(tmp_path / "bin", "cloudflared", "failed to request quick Tunnel: no such host\n", then="exit 1")

    dev = start(start_dev, tmp_path, skyvern_simulator)

    assert dev.process.wait(60) == 3, dev.log
    assert dev.log.splitlines() == [
        "runhook: cloudflared ended with code 1; its last lines:",
        "runhook:   failed to request quick Tunnel: no such host",
    ]
