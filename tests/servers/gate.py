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
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Literal, Self

from tests.support.waiting import PATIENCE

Mode = Literal["before", "after", "cut"]


class Caught:
    """A rule of a gate; it fires once. `after`: must have passed on the same connection before."""

    def __init__(self, pattern: bytes, mode: Mode, after: bytes) -> None:
        self.pattern = pattern
        self.mode = mode
        self.after = after
        self.fired = False
        self.dropped = False
        self._done = threading.Event()
        self.released = threading.Event()

    def done(self) -> None:
        self._done.set()

    def wait(self, seconds: float = PATIENCE) -> None:
        """Until it has fired; fails after `seconds`."""
        assert self._done.wait(seconds), f"nothing with {self.pattern!r} came through within {seconds:g} s"

    def release(self) -> None:
        """Let what is held go on."""
        self.released.set()


class _Pair:
    """Both ends of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.seen = b""
        self.met: set[Caught] = set()
        self.muted: Caught | None = None
        self.was_reset = False

    def close(self) -> None:
        """End both ways in good order (FIN)."""
        for end in () if self.was_reset else (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Break both ways off (RST): the threads that read wake up, and their closing then sends it."""
        self.was_reset = True
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)


class Gate:
    """`target`: the server's port. Close it at the end."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._rules: list[Caught] = []
        self._pairs: list[_Pair] = []
        self._threads: list[threading.Thread] = []
        self._shut = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def catch(self, pattern: bytes, mode: Mode, *, after: bytes = b"") -> Caught:
        """Shut the gate at the first request that holds `pattern`."""
        rule = Caught(pattern, mode, after)
        with self._lock:
            self._rules = [*self._rules, rule]
        return rule

    def forget(self) -> None:
        """Forget all rules. What they hold never arrives; its connection breaks."""
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.dropped = True
            rule.release()

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        """Cut all connections, and let no new one through until the block ends."""
        self._shut = True
        for pair in list(self._pairs):
            pair.close()
        yield
        self._shut = False

    def reset(self) -> int:
        """Reset all connections that there are (RST, as a firewall or a crashed host does it). Returns how many."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.reset()
        return len(pairs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.forget()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            pair.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._shut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            self._pairs.append(pair)
            self._start(self._pump, pair, self._request, client)
            self._start(self._pump, pair, self._reply, server)

    @staticmethod
    def _pump(pair: _Pair, each: Callable[[_Pair, bytes], None], source: socket.socket) -> None:
        with source:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    each(pair, data)
            pair.close()

    def _request(self, pair: _Pair, data: bytes) -> None:
        with self._lock:
            rule = self._match(pair, data)
        if rule is not None and rule.mode == "before":
            rule.done()
            _await(rule)
        elif rule is not None:
            pair.muted = rule  # before the request goes out, or its reply may be faster
        pair.server.sendall(data)
        if rule is not None and rule.mode == "after":
            rule.done()

    def _match(self, pair: _Pair, data: bytes) -> Caught | None:
        pair.seen = pair.seen[-64:] + data
        fired = None
        for rule in self._rules:
            if rule.fired:
                continue
            if rule.after and rule.after in pair.seen:
                pair.met.add(rule)
            if fired is None and rule.pattern in pair.seen and (not rule.after or rule in pair.met):
                rule.fired, fired = True, rule
        return fired

    @staticmethod
    def _reply(pair: _Pair, data: bytes) -> None:
        rule = pair.muted
        if rule is not None and rule.mode == "cut":
            pair.close()
            rule.done()
            return
        if rule is not None:
            _await(rule)
        pair.client.sendall(data)


def _await(rule: Caught) -> None:
    """Until it is released. Raises OSError when what it held is to be dropped."""
    rule.released.wait()
    if rule.dropped:
        raise OSError("dropped")
