"""A real Skyvern server from the package registry, on SQLite and loopback, in an environment of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2

from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import eventually

CACHE = ROOT / ".cache"
START_WITHIN = 300.0
"""Seconds. The first start of an installation compiles a gigabyte of packages."""
# Its server listens on all interfaces; here on a socket that is bound already: a start takes minutes on a busy machine,
# in which a port that is only chosen goes to another process.
_LOOPBACK = """
import os, sys, uvicorn
run = uvicorn.run
uvicorn.run = lambda *arguments, **options: run(*arguments, **{**options, "fd": int(os.environ["LISTEN_ON"])})
sys.argv = ["skyvern", "run", "server"]
from skyvern.__main__ import main
main()
"""
_KEY = re.compile(r"^SKYVERN_API_KEY=['\"]?([^'\"\n]+)", re.MULTILINE)


def newest_version() -> str:
    """Return the newest version at the package registry. Raises RuntimeError when it can't be asked."""
    command = [sys.executable, "-m", "pip", "index", "versions", "skyvern", "--disable-pip-version-check"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.match(r"skyvern \(([^)]+)\)", asked.stdout)
    if not found:
        raise RuntimeError(f"the package registry says no version of skyvern: {asked.stderr.strip()[-300:]}")
    return found[1]


def install(version: str) -> Path:
    """Return the Python of an environment with the server of this version, made unless it is there already."""
    home = CACHE / f"skyvern-server-{version}"
    python, done = home / "bin" / "python", home / ".installed"
    if not done.exists():
        CACHE.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--no-compile", f"skyvern[server]=={version}"], check=True, timeout=1800)
        done.touch()
    return python


class SkyvernServer:
    """One server with a directory of its own. `key`: its organization's API key; `client`: sends it with each call."""

    def __init__(self, python: Path, directory: Path) -> None:
        self._python = python
        self._directory = directory
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ""
        self.client = httpx2.Client(base_url=self.url, trust_env=False, timeout=60)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> SkyvernServer:
        """Start it and return when it answers to its key. Raises AssertionError with the end of its log."""
        here = self._directory
        here.mkdir(parents=True)
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        own = {
            **{name: str(here / name.partition("_")[0].lower()) for name in ("VIDEO_PATH", "HAR_PATH", "LOG_PATH")},
            "TEMP_PATH": str(here / "temp"),
            "ARTIFACT_STORAGE_PATH": str(here / "artifacts"),
            "HOME": str(here),
            "PLAYWRIGHT_BROWSERS_PATH": str(here / "no-browsers"),
            "BROWSER_TYPE": "chromium-headless",
            "DATABASE_STRING": f"sqlite+aiosqlite:///{here / 'skyvern.db'}",
            "PORT": str(self.port),
            "LISTEN_ON": str(self._socket.fileno()),
            "ENV": "local",
            "SKYVERN_TELEMETRY": "false",
        }
        command = [str(self._python), "-c", _LOOPBACK]
        fds = [self._socket.fileno()]
        process = launch(command, here / "log", env={**kept, **own}, cwd=here, start_new_session=True, pass_fds=fds)
        self._process = process

        def answers() -> bool:
            env = here / ".env"
            found = _KEY.search(env.read_text()) if env.exists() else None
            if found:
                self.key = found[1]
                self.client.headers["x-api-key"] = self.key
            try:
                return bool(found) and self.client.get("/v1/agents").status_code == 200
            except httpx2.HTTPError:
                return False

        def ended_or_ready() -> bool:
            return process.poll() is not None or answers()

        eventually(ended_or_ready, START_WITHIN, every=0.2, what=lambda: self.log[-3000:])
        assert process.poll() is None, f"Skyvern did not start:\n{self.log[-3000:]}"
        return self

    def stop(self) -> None:
        """End it and what it started: SIGTERM, then SIGKILL, to its own group of processes."""
        if self._process is not None:
            for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
                if self._process.poll() is None:
                    os.killpg(self._process.pid, number)
                    try:
                        self._process.wait(seconds)
                    except subprocess.TimeoutExpired:
                        continue
        self._socket.close()
        self.client.close()

    def get(self, path: str, **params: Any) -> Any:
        """A GET with the key, parsed."""
        return self.client.get(path, params=params).json()

    def wait_final(self, run_id: str, seconds: float = 60) -> dict[str, Any]:
        """Return the first answer in which the run is final."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            body: dict[str, Any] = self.get(f"/v1/runs/{run_id}")
            if body.get("status") in ("completed", "failed", "terminated", "timed_out", "canceled"):
                return body
            time.sleep(0.02)
        raise AssertionError(f"run {run_id} is not final after {seconds:g} s")

    def agent(self, title: str, *blocks: dict[str, Any], **members: Any) -> dict[str, Any]:
        """Make an agent of blocks. `members`: of its definition."""
        parameters = [
            {"parameter_type": "workflow", "key": "name", "workflow_parameter_type": "string", "default_value": "x"}
        ]
        inner = {"parameters": parameters, "blocks": list(blocks)}
        definition = {"title": title, "workflow_definition": inner, **members}
        answer = self.client.post("/v1/agents", json={"json_definition": definition})
        assert answer.status_code == 200, answer.text[:500]
        made: dict[str, Any] = answer.json()
        return made


def http_block(label: str, url: str) -> dict[str, Any]:
    """A block that needs neither model nor browser: one HTTP request; any status but 2xx fails the run."""
    return {"block_type": "http_request", "label": label, "method": "GET", "url": url, "timeout": 60}
