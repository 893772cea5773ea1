"""Reload: at SIGHUP a process stops in order and runs its command again, which reads the changed config file.

A config with which the process could not start is refused, and nothing stops. The process keeps its id, and its
listening sockets stay open: new connections wait until it accepts them again. What comes from its environment or its
command line stays the same.

A process with a controlling terminal stops at SIGHUP instead: a closing terminal sends that signal. One that ignores
the signal, as under nohup, does not reload.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from receiver.errors import RunhookError, error_location

log = logging.getLogger("runhook.reload")

# The variable with the listening sockets that the process had before: NAME=DESCRIPTOR, separated by commas.
_SOCKETS: Final = "RUNHOOK_SOCKETS"

_pid: int | None = None


class Reload:
    """Reloads of this process. `validate`: raises RunhookError if the process could not start with the config file.

    `on_hangup`: for `stop_signals`; None if the process does not reload. It calls `wake`, which is to make
    the process call `accept`.
    """

    def __init__(self, validate: Callable[[], object]) -> None:
        global _pid  # noqa: PLW0603 - there is one such process
        self._validate = validate
        self.requested = False
        self.accepted = False
        self.wake: Callable[[], object] = lambda: None
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as under nohup
        self.on_hangup = None if ignored or _has_terminal() else self._request
        _pid = os.getpid() if self.on_hangup else None

    def _request(self) -> None:
        self.requested = True
        self.wake()

    def accept(self) -> bool:
        """Return whether a reload was requested and the new config is valid. Logs why it is refused."""
        if not self.requested or self.accepted:
            return self.accepted
        self.requested = False
        try:
            self._validate()
        except RunhookError as error:
            for line in str(error).splitlines():
                log.error("reload.refused the process keeps its config: %s", line)
        except Exception as error:  # noqa: BLE001 - the process must keep working
            log.error("reload.refused the process keeps its config: %s", error_location(error))
        else:
            self.accepted = True
            log.info("reload.accepted")
        return self.accepted


def reload_pid() -> int | None:
    """Return the process to send SIGHUP to: this one or its supervisor; None if it does not reload."""
    return _pid


def run_again(sockets: Mapping[str, socket.socket] = {}) -> NoReturn:
    """Run this process's command again in its place. `sockets`: listening sockets to keep open, by name."""
    for listener in sockets.values():
        listener.set_inheritable(True)
    if sockets:
        os.environ[_SOCKETS] = ",".join(f"{name}={listener.fileno()}" for name, listener in sockets.items())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until stop_signals: it would end the process
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - its own command


def inherited_sockets() -> dict[str, socket.socket]:
    """Return the listening sockets that `run_again` kept open, by name. Call it once."""
    pairs = [each.partition("=") for each in os.environ.pop(_SOCKETS, "").split(",") if each]
    listeners = {name: socket.socket(fileno=int(number)) for name, _, number in pairs}
    for listener in listeners.values():
        listener.set_inheritable(False)
    return listeners


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
