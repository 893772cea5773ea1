"""A program that gives a port of this machine a public URL: cloudflared, ngrok or tailscale, whichever is installed.

It reads the URL from what the program prints, and knows nothing of what is served there.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from receiver.errors import NotStarted
from receiver.runtime.parent_death import spawn
from receiver.runtime.process import exit_text

# Seconds in which a program must print its URL.
START_TIMEOUT: Final = 30.0
# Lines that are kept to explain why one ended.
_KEPT: Final = 5
_INSTALL: Final = (
    "--tunnel needs cloudflared, ngrok or tailscale, and none of them is on PATH. Install one: cloudflared needs no "
    "account (`brew install cloudflared`, or https://github.com/cloudflare/cloudflared#installing-cloudflared)"
)
_CLOUDFLARED: Final = re.compile(r"\|\s+(https://[A-Za-z0-9.-]+)\s+\|")  # in the box about the new tunnel
_TAILSCALE: Final = re.compile(r"(https://[A-Za-z0-9.-]+\.ts\.net(?::[0-9]+)?)/?")  # a line of its own


def _of_cloudflared(line: str) -> str:
    found = _CLOUDFLARED.search(line)
    return found[1] if found else ""


def _of_ngrok(line: str) -> str:
    try:
        said = json.loads(line)
        url = said["url"] if said["msg"] == "started tunnel" else ""
    except (ValueError, KeyError, TypeError):
        return ""
    return url if isinstance(url, str) and url.startswith("https://") else ""


def _of_tailscale(line: str) -> str:
    found = _TAILSCALE.fullmatch(line.strip())
    return found[1] if found else ""


class _Tool(NamedTuple):
    """`arguments`: before the address that it is to serve, and after. `url_in`: the URL that a line names, or ""."""

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    url_in: Callable[[str], str]


_TOOLS: Final = (
    _Tool("cloudflared", ("tunnel", "--no-autoupdate", "--url"), (), _of_cloudflared),
    _Tool("ngrok", ("http",), ("--log", "stdout", "--log-format", "json"), _of_ngrok),
    _Tool("tailscale", ("funnel",), (), _of_tailscale),
)


class Tunnel:
    """The first tunnel program on PATH, for the server at `target`. Raises NotStarted when there is none.

    `url`: the public URL that it has named last, without a / at the end.
    """

    def __init__(self, target: str) -> None:
        found = next((tool for tool in _TOOLS if shutil.which(tool.name)), None)
        if found is None:
            raise NotStarted(_INSTALL)
        self.name = found.name
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [shutil.which(found.name) or found.name, *found.before, target, *found.after]
        self._url_in = found.url_in
        self._last: deque[str] = deque(maxlen=_KEPT)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for its URL. Raises NotStarted."""
        self._last.clear()
        try:
            self.process = spawn(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError as error:
            raise NotStarted(f"{self.name} can't be started: {error.strerror}") from None
        return self.process

    def start(self) -> None:
        """Start it, and return when it has named its URL. Raises NotStarted, with its last lines."""
        process = self.launch()
        assert process.stdout is not None
        deadline, unfinished = time.monotonic() + START_TIMEOUT, b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not self.url:
                if (left := deadline - time.monotonic()) <= 0:
                    self.stop()
                    raise NotStarted(f"{self.name} named no public URL within {START_TIMEOUT:g} s{self._said()}")
                if not selector.select(left):
                    continue
                chunk = os.read(process.stdout.fileno(), 65536)
                *lines, unfinished = (unfinished + chunk).split(b"\n")
                for line in lines if chunk else [*lines, unfinished]:
                    self.take(line.decode(errors="replace"))
                if not chunk and not self.url:
                    self.stop()
                    raise NotStarted(f"{self.name} {exit_text(process.wait())}{self._said()}")

    def take(self, line: str) -> bool:
        """Take a line that the program has printed. Returns whether it names a URL other than the last one."""
        if line.strip():
            self._last.append(line.strip())
        found = self._url_in(line).rstrip("/")
        changed = found not in ("", self.url)
        self.url = found or self.url
        return changed

    def why(self, code: int) -> str:
        """Return in one line why the process ended."""
        return f"{self.name} {exit_text(code)}" + (f": {self._last[-1][:300]}" if self._last else "")

    def stop(self, timeout: float = 5.0) -> None:
        """End it: SIGTERM, and SIGKILL after `timeout` seconds."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def _said(self) -> str:
        return "; its last lines:\n" + "\n".join(f"  {line[:300]}" for line in self._last) if self._last else ""
