"""A network of one's own between a program and its server, on loopback: it resets, holds, drips, refuses, half-closes.

    link = Link(server_port)              clients connect to link.port
    link.reset()                          all connections end by RST, as a firewall or a crashed host ends them
    with link.held(): …                   nothing passes, in silence; it arrives afterwards
    with link.dripping(100): …            100 bytes each 10 ms, either way
    with link.refusing(): …               nobody listens, and what was open is reset
    link.half_close()                     the client is told that nothing more comes; what it sends goes on
    link.hold_at(b"COMMIT")               held from the moment on at which a client sends that
    link.vanish()                         the client's host is gone: its server is not told, and waits for ever

kill -9 gives the other side a FIN. Only RST and silence show whether a program sees by itself that a peer is gone. All
links of a process share one thread. See `gate` for what shuts at a chosen byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, Self, TypeVar

T = TypeVar("T")

DRIP_EVERY = 0.01
"""Seconds between two drops."""

# What a client sends to prepare a statement, and to run it: messages Parse and Bind, by the names that are ours.
_PREPARED = re.compile(rb"P.{4}(runhook_\d+)\x00([^\x00]*)\x00", re.DOTALL)
_RUN = re.compile(rb"B.{4}\x00(runhook_\d+)\x00", re.DOTALL)


class End(asyncio.Protocol):
    """One end of a connection that passes through. `other`: the end to which what comes in here goes out."""

    def __init__(self, link: Link, *, is_clients: bool = False) -> None:
        self.link = link
        self.is_clients = is_clients
        self.seen = b""  # the end of what came in
        self.prepared: dict[bytes, bytes] = {}  # statements of PostgreSQL that came in, by their names
        self.has_begun = False  # what a hold waits for to come first has come
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.waiting = bytearray()
        self.ended = False  # nothing more comes in here
        self.cut_off = False  # the other end is not told of what happens here
        self.is_shut = False  # nothing more goes out here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.is_clients:
            self.link.accepted(self)

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        if self.is_clients:
            self.link.watch(self, data)
        self.link.pump(self)

    def eof_received(self) -> bool:
        self.ended = True
        self.link.pump(self)
        return True  # the other way stays open

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and not self.cut_off:
            self.link.lost(self, reset=error is not None)

    def pause_writing(self) -> None:
        """The peer of this end reads more slowly than the other end sends."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not self.link.is_held:
            self.other.transport.resume_reading()

    def shut(self) -> None:
        """Send FIN: nothing more goes out here."""
        if not self.is_shut and self.transport is not None and not self.transport.is_closing():
            self.is_shut = True
            with contextlib.suppress(OSError):  # its peer has reset it, which the loop has not seen yet
                self.transport.write_eof()

    def reset(self) -> None:
        """End by RST."""
        if self.transport is not None and not self.transport.is_closing():
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()


class _Loop:
    """The event loop of all links, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="network", daemon=True).start()

    def run(self, work: Callable[[], Any]) -> Any:
        """Call `work` in the loop, and return what it returns, awaited when it is a coroutine."""

        async def call() -> Any:
            found = work()
            return await found if asyncio.iscoroutine(found) else found

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(60)


_loop: list[_Loop] = []


class Link:
    """The network between clients and one server. `target`: the server's port. Close it at the end."""

    def __init__(self, target: int) -> None:
        if not _loop:
            _loop.append(_Loop())
        self._run = _loop[0].run
        self._target = target
        self._pairs: list[tuple[End, End]] = []  # (client's end, server's end)
        self._gone: list[End] = []  # servers' ends whose client vanished
        self._dripping = 0
        self._connecting: dict[asyncio.Task[None], End] = {}  # clients that have no server's end yet
        self._server: asyncio.Server | None = None
        self._hold_at: tuple[bytes, bytes] | None = None  # at what, and after what
        self.is_held = False
        self.port = 0
        self._run(self._listen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- What a test does

    def reset(self) -> int:
        """Reset all connections that there are. Returns how many."""
        return int(self._run(self._reset))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing through until the block ends, and tell nobody: new connections are made, and stay silent."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def hold(self) -> None:
        """Let nothing through from now on."""
        self._run(lambda: self._set_held(True))

    def hold_at(self, pattern: bytes, *, after: bytes = b"") -> None:
        """Hold once a client is about to send `pattern`, and has sent `after` before on the same connection.

        Who runs a statement of PostgreSQL that it has prepared sends it, as far as this is concerned.
        """
        self._hold_at = (pattern, after)

    def release(self) -> None:
        """Let through what was held, and all that comes."""
        self._hold_at = None
        self._run(lambda: self._set_held(False))

    @contextlib.contextmanager
    def dripping(self, size: int) -> Iterator[None]:
        """Let `size` bytes a connection and direction through each 10 ms, until the block ends."""
        self._dripping = size
        try:
            yield
        finally:
            self._dripping = 0
            self.pump_all()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset what is open, and have nobody listen until the block ends."""
        self._run(self._refuse)
        try:
            yield
        finally:
            self._run(self._listen)

    def half_close(self) -> int:
        """Tell each client that nothing more comes. What it sends still arrives. Returns how many were told."""
        return int(self._run(self._half_close))

    def vanish(self) -> int:
        """Lose the clients' host: what is open is reset towards the client, and the server never hears of it.

        Returns how many connections are half open now. What comes later passes as ever.
        """
        return int(self._run(self._vanish))

    def close_connections(self, clients: Collection[End] | None) -> None:
        """Close the connections of these clients' ends, or all, in good order (FIN)."""
        wanted = lambda end: clients is None or end in clients  # noqa: E731
        self._run(lambda: [self.drop(end) for end, _ in self._pairs if wanted(end)])

    def pump_all(self) -> None:
        """Pass on what is held no longer."""
        self._run(self._pump_pairs)

    def close(self) -> None:
        """End everything."""
        self._run(self._close)

    # --- In the loop

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        make = partial(End, self, is_clients=True)
        self._server = await loop.create_server(make, "127.0.0.1", self.port, backlog=256, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    def accepted(self, client: End) -> None:
        """Connect a new client to the server, unless nobody listens by now."""
        if self._server is None:
            client.reset()
            return
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._connecting[task] = client
        task.add_done_callback(self._connecting.pop)

    async def _connect(self, client: End) -> None:
        server = End(self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, "127.0.0.1", self._target)
        except OSError:
            client.reset()
            return
        if client.transport is None or client.transport.is_closing():
            server.reset()
            return
        client.other, server.other = server, client
        self._pairs.append((client, server))
        if self.is_held:
            self._pause(client, server)
        self.pump(client)

    def watch(self, end: End, data: bytes) -> None:
        """See whether what a client sends is what a hold waits for."""
        end.prepared.update(_PREPARED.findall(data))
        if self._hold_at is None:
            return
        pattern, after = self._hold_at
        run = b"".join(end.prepared.get(name, b"") for name in _RUN.findall(data))
        end.seen = end.seen[-64:] + run + data
        end.has_begun = end.has_begun or after in end.seen
        if end.has_begun and pattern in end.seen:
            self._hold_at = None
            self._set_held(True)

    def pump(self, end: End) -> None:
        """Pass on what came in at `end`."""
        if end.other is None or self.is_held or end.cut_off:
            return
        out = end.other.transport
        if out is None or out.is_closing() or end.other.is_shut:
            end.waiting.clear()
            return
        if self._dripping and end.waiting:
            size = self._dripping
            out.write(bytes(end.waiting[:size]))
            del end.waiting[:size]
            if end.waiting or end.ended:
                asyncio.get_running_loop().call_later(DRIP_EVERY, self.pump, end)
            return
        if end.waiting:
            out.write(bytes(end.waiting))
            end.waiting.clear()
        if end.ended:
            end.other.shut()

    def drop(self, end: End) -> None:
        """Close both ends of a connection."""
        self._pairs = [pair for pair in self._pairs if end not in pair]
        for each in (end, end.other):
            if each is not None and each.transport is not None:
                each.cut_off = True
                each.transport.close()

    def _pump_pairs(self) -> None:
        for pair in self._pairs:
            for end in pair:
                self.pump(end)

    def lost(self, end: End, *, reset: bool) -> None:
        """Tell the other side that `end` is gone."""
        other = end.other
        assert other is not None
        self._pairs = [pair for pair in self._pairs if end not in pair]
        if self.is_held or other.transport is None:
            other.reset()  # what was on its way never arrives
        elif reset:
            other.reset()
        else:
            self.pump(end)
            other.transport.close()

    def _set_held(self, held: bool) -> None:
        self.is_held = held
        for pair in self._pairs:
            if held:
                self._pause(*pair)
                continue
            for end in pair:
                if end.transport is not None and not end.transport.is_closing():
                    end.transport.resume_reading()
                self.pump(end)

    @staticmethod
    def _pause(*ends: End) -> None:
        for end in ends:
            if end.transport is not None and not end.transport.is_closing():
                end.transport.pause_reading()

    def _reset(self) -> int:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                end.cut_off = True
                end.reset()
        return len(pairs)

    def _half_close(self) -> int:
        for client, _ in self._pairs:
            client.shut()
        return len(self._pairs)

    def _vanish(self) -> int:
        pairs, self._pairs = self._pairs, []
        for client, server in pairs:
            client.cut_off = server.cut_off = True
            client.reset()
            self._pause(server)  # its socket stays open here, and unread
        self._gone += [server for _, server in pairs]
        return len(pairs)

    async def _refuse(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            for each in server.sockets:
                asyncio.get_running_loop().remove_reader(each.fileno())
            await asyncio.sleep(0)  # what is being accepted gets its transport: of a closed server it would stay open
            server.close()
        self._reset()

    async def _close(self) -> None:
        await self._refuse()
        for end in self._gone:
            end.reset()
        connecting = dict(self._connecting)
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        for client in connecting.values():  # whose task may not even have begun
            client.reset()
        self._reset()
