"""Give a local port a public URL with cloudflared, ngrok or tailscale, whichever is installed.

Reads the URL from the output of the program.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from collections import deque
from typing import Final

from receiver.errors import NotStarted
from receiver.runtime.child import exit_text, spawn, stop_process

# Seconds in which a program must print its URL.
START_TIMEOUT: Final = 30.0
# Lines that are kept to explain why one ended.
_KEPT: Final = 5
# By program: its arguments, and the line that names the URL.
_TOOLS: Final = {
    "cloudflared": (
        "tunnel --no-autoupdate --url {target}",
        re.compile(r"\| +(https://[A-Za-z0-9.-]+) +\|\s*$"),  # in the box about the new tunnel
    ),
    "ngrok": (
        "http {target} --log stdout --log-format json",
        re.compile(r'"msg":"started tunnel".*"url":"(https://[A-Za-z0-9.-]+(?::[0-9]+)?)/?"'),
    ),
    "tailscale": ("funnel {target}", re.compile(r"^(https://[A-Za-z0-9.-]+\.ts\.net(?::[0-9]+)?)/?\s*$")),
}
_INSTALL: Final = (
    "--tunnel needs cloudflared, ngrok or tailscale, and none of them is on PATH. Install one: cloudflared needs no "
    "account (`brew install cloudflared`, or https://github.com/cloudflare/cloudflared#installing-cloudflared)"
)


class Tunnel:
    """The first tunnel program on PATH, for the server at `target`. Raises NotStarted if none is installed.

    `url`: the last public URL that it named, without a / at the end; "" before the first.
    """

    def __init__(self, target: str) -> None:
        self.name = next(filter(shutil.which, _TOOLS), "")
        if not self.name:
            raise NotStarted(_INSTALL)
        arguments, self._named = _TOOLS[self.name]
        self._command = [self.name, *arguments.format(target=target).split()]
        self._last: deque[str] = deque(maxlen=_KEPT)
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for its URL. Raises NotStarted."""
        self._last.clear()
        try:
            self.process = spawn(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError as error:
            raise NotStarted(f"{self.name} can't be started: {error.strerror}") from None
        return self.process

    def start(self, within: float = START_TIMEOUT) -> None:
        """Start the program, and wait for its URL. Raises NotStarted with its last lines."""
        process, until, unfinished = self.launch(), time.monotonic() + within, b""
        assert process.stdout is not None
        while not self.url:
            if not select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise NotStarted(f"{self.name} named no public URL within {within:g} s{self._last_lines()}")
            chunk = os.read(process.stdout.fileno(), 65536)
            *lines, unfinished = (unfinished + chunk).split(b"\n")
            for line in lines if chunk else [unfinished]:
                self.take(line.decode(errors="replace"))
            if not chunk and not self.url:
                raise NotStarted(f"{self.name} {exit_text(process.wait())}{self._last_lines()}")

    def take(self, line: str) -> bool:
        """Read a line of the program's output. Returns whether it names a URL other than the last one."""
        if text := line.strip()[:300]:  # the terminal must not obey it
            self._last.append("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text))
        found = self._named.search(line)
        before, self.url = self.url, found[1].rstrip("/") if found else self.url
        return self.url != before

    def why(self, code: int) -> str:
        """Return in one line why the process ended."""
        return f"{self.name} {exit_text(code)}" + (f": {self._last[-1]}" if self._last else "")

    def stop(self) -> None:
        """Stop the process: SIGTERM, and SIGKILL after 5 s."""
        if self.process is not None:
            stop_process(self.process, timeout=5.0)

    def _last_lines(self) -> str:
        return "; its last lines:\n" + "\n".join(f"  {line}" for line in self._last) if self._last else ""
