"""A gate between a client and its server, on loopback, that shuts at a chosen byte: how a test kills between two steps.

    gate = Gate(server_port)                         clients connect to gate.port
    caught = gate.catch(b"XACK", "before")           the first request with XACK in it does not get through
    caught = gate.catch(b"COMMIT", "cut", after=b"INSERT INTO attempts")
    caught.wait()                                    until that has happened

Modes: `before`: the request is held back; `after`: it gets through, and its reply is held back; `cut`: it gets
through, the server answers, and the connection breaks before the client sees it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Literal

from tests.servers.network import End, Link
from tests.support.waiting import PATIENCE

Mode = Literal["before", "after", "cut"]


class Caught:
    """A rule of a gate; it fires once, at the client's end `at`. `after`: must have passed there before."""

    def __init__(self, gate: Gate, pattern: bytes, mode: Mode, after: bytes) -> None:
        self.gate = gate
        self.pattern = pattern
        self.mode = mode
        self.after = after
        self.at: End | None = None
        self.met: set[End] = set()
        self.done = threading.Event()
        self.released = False

    @property
    def fired(self) -> bool:
        return self.at is not None

    def wait(self, seconds: float = PATIENCE) -> None:
        """Until it has fired; fails after `seconds`."""
        assert self.done.wait(seconds), f"nothing with {self.pattern!r} came through within {seconds:g} s"

    def release(self) -> None:
        """Let what is held go on."""
        self.released = True
        self.gate.pump_all()


class Gate(Link):
    """A link with rules."""

    def __init__(self, target: int) -> None:
        self._rules: list[Caught] = []
        self._shut = False
        super().__init__(target)

    def catch(self, pattern: bytes, mode: Mode, *, after: bytes = b"") -> Caught:
        """Shut the gate at the first request that holds `pattern`."""
        rule = Caught(self, pattern, mode, after)
        self._rules = [*self._rules, rule]
        return rule

    def forget(self) -> None:
        """Forget all rules. What they hold never arrives; its connection breaks."""
        rules, self._rules = self._rules, []
        self.close_connections([rule.at for rule in rules if rule.at is not None and not rule.released])

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        """Cut all connections, and let no new one through until the block ends."""
        self._shut = True
        self.close_connections(None)
        yield
        self._shut = False

    def accepted(self, client: End) -> None:
        if self._shut and client.transport is not None:
            client.transport.close()
        else:
            super().accepted(client)

    def watch(self, end: End, data: bytes) -> None:
        end.seen = end.seen[-64:] + data
        has_fired = False
        for rule in [rule for rule in self._rules if not rule.fired]:
            if rule.after and rule.after in end.seen:
                rule.met.add(end)
            if not has_fired and rule.pattern in end.seen and (not rule.after or end in rule.met):
                rule.at, has_fired = end, True

    def pump(self, end: End) -> None:
        client = end if end.is_clients else end.other
        rule = next((rule for rule in self._rules if client and rule.at is client and not rule.released), None)
        if rule is None:
            super().pump(end)
        elif not end.is_clients and rule.mode == "cut":
            if end.waiting or end.ended:
                self.drop(end)
                rule.done.set()
        elif end.is_clients and rule.mode == "before":
            rule.done.set()
        elif end.is_clients:
            super().pump(end)
            if rule.mode == "after" and end.other is not None:
                rule.done.set()
        elif rule.mode == "before":
            super().pump(end)
