"""The sends of a sink whose send is one HTTP request: one thread writes what it can, and waits for all responses.

What may wait is for the threads of a pool: a preparation that is not quick, the name of a server, a new connection, a
request that does not go out whole. They hand the send back once its request is written, and so a send that waits costs
a socket and not a thread. Knows no ledger and no slots.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from handlers import Delivery, Receipt, Sink, Unavailable
from handlers.support.daemon_pool import DaemonPool, in_thread
from handlers.support.exchange import Exchange, Response
from handlers.support.guarded_client import GuardedClient
from handlers.support.request_sink import RequestSink, sends_requests
from receiver.delivery.deadlines import Deadlines
from receiver.delivery.send_task import SendTask
from receiver.runtime.process import Bell, error_location

# Bytes of a body that is parsed, signed and written in the thread that waits; longer ones would hold up the others.
AT_ONCE = 64 << 10
# Seconds of one step after which it hangs, if a send has passed its limit meanwhile, and if none has.
_HANGS = 1.0
_HANGS_FOR_SURE = 5.0
# Seconds between two looks that must find the same step: a process that was stopped has not hung.
_LOOK_AGAIN = 1.0
log = logging.getLogger("runhook.deliver")


def can_wait_together(sink: Sink[Any]) -> TypeGuard[RequestSink[Any]]:
    """Whether one thread may wait for the responses to all sends of a sink."""
    return sends_requests(type(sink))


@dataclass(slots=True, eq=False)
class _Send:
    """A send under way."""

    task: SendTask
    exchange: Exchange
    receipt: Callable[[Response], Receipt]


@dataclass(slots=True, eq=False)
class _Watch:
    """What the selector tells of a connection, and keeps between its requests: to register it anew for each is two
    calls of the kernel, after each of which another thread may take the interpreter's lock."""

    registered: bool = False
    send: _Send | None = None  # whose response is waited for


class ResponseWaiter:
    """Sends tasks of one delivery each. Its thread starts with the first, so it may be made before a fork.

    `threads`: for what may wait. `begin`: called when a task starts, returns its delivery. `end`: called with the
    answer to a task, returns the task that starts in its place. Both are called in any thread.
    """

    def __init__(
        self,
        sink: RequestSink[Any],
        threads: DaemonPool,
        begin: Callable[[SendTask], Delivery],
        end: Callable[[SendTask, Receipt | Exception], SendTask | None],
    ) -> None:
        self._sink = sink
        self._threads = threads
        self._begin_task = begin
        self._end_task = end
        # What its thread is to do next; any thread appends.
        self._steps: deque[Callable[[], None]] = deque()
        self._thread = 0  # its own, which looks at the steps before it waits
        self._bell: Bell | None = None
        self._ringing = False
        self._selector: selectors.BaseSelector | None = None
        self._deadlines: Deadlines[_Send] = Deadlines()
        # Since when the step under way runs (monotonic); infinite while it waits.
        self._step_since = float("inf")
        self._suspected = (float("inf"), 0.0)  # a step that seems to hang, and when that was seen first
        self._closed = False

    def start(self, task: SendTask) -> None:
        """Send a task. Call it in one thread only, as `close`."""
        if self._bell is None:
            self._bell = Bell()
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._bell.fileno(), selectors.EVENT_READ)
            in_thread(f"send-{self._sink.name}-waiter", self._run)
        self._call(partial(self._begin, task))

    @property
    def hangs(self) -> bool:
        """Whether its thread does not come back from one step, or has ended by an error."""
        return self._step_since + _HANGS < time.monotonic()

    def hangs_for_sure(self) -> bool:
        """Whether its thread does not come back from one step for so long that no send need pass its limit first.

        Call it again and again: it takes two looks.
        """
        now, since = time.monotonic(), self._step_since
        if since + _HANGS_FOR_SURE > now:
            return False
        if self._suspected[0] != since:
            self._suspected = since, now
        return now - self._suspected[1] >= _LOOK_AGAIN

    def close(self) -> None:
        """Let its thread end when nothing is under way."""
        self._call(partial(setattr, self, "_closed", True))

    # In any thread

    def _call(self, step: Callable[[], None]) -> None:
        """Have its thread take a step."""
        self._steps.append(step)
        if not self._ringing and self._bell is not None and threading.get_ident() != self._thread:
            self._ringing = True
            self._bell.ring()

    def _end(self, task: SendTask, answer: Receipt | Exception) -> None:
        following = self._end_task(task, answer)
        if following is not None:
            self._call(partial(self._begin, following))

    def _prepare(self, task: SendTask, client: GuardedClient) -> _Send:
        request, receipt = self._sink.prepare(self._begin_task(task))
        return _Send(task, client.exchange(request), receipt)

    def _in_thread(self, task: SendTask, step: Callable[[], None]) -> None:
        """Take a step that may wait in a thread of the pool, unless the task is given up before one is free."""

        def run() -> None:
            if not task.ended:
                task.in_thread = True
                step()
                task.in_thread = False

        self._threads.submit(run)

    # In threads of the pool

    def _begin_slowly(self, task: SendTask) -> None:
        try:
            send = self._prepare(task, self._sink.client())
        except Exception as error:  # noqa: BLE001 - the three kinds are told apart when it is settled
            self._end(task, error)
        else:
            self._send(send)

    def _send(self, send: _Send) -> None:
        """Write the request, and hand the send back to the thread that waits."""
        try:
            if not send.task.ended:
                send.exchange.send()
        except Exception as error:  # noqa: BLE001 - as above
            send.exchange.end()
            self._end(send.task, error)
        else:
            self._call(partial(self._wait_for, send))

    # In its own thread

    def _run(self) -> None:
        self._thread = threading.get_ident()
        try:
            while not (self._closed and not self._deadlines):
                self._turn()
            self._step_since = float("inf")
        except BaseException as error:
            self._step_since = float("-inf")
            log.error("the thread that waits for responses of %s ended: %s", self._sink.name, error_location(error))
            raise

    def _turn(self) -> None:
        assert self._selector is not None
        assert self._bell is not None
        patience = 0.0 if self._steps else self._deadlines.next() - time.monotonic()
        self._step_since = float("inf")
        ready = self._selector.select(None if patience == float("inf") else max(patience, 0.0))
        for key, _ in ready:
            self._step_since = time.monotonic()
            watch: _Watch | None = key.data
            if watch is None:
                self._bell.clear()
                self._ringing = False  # before the steps are taken: who appends one now rings again
            elif watch.send is None:
                self._unregister(key.fd, watch)  # nobody has asked: it is found to be stale when it is taken
            else:
                self._read(watch.send)
        for send in self._deadlines.over(time.monotonic()):
            self._finish(send, Unavailable(f"{send.exchange.host} did not answer in time"))
        for _ in range(len(self._steps)):
            self._step_since = time.monotonic()
            self._steps.popleft()()

    def _begin(self, task: SendTask) -> None:
        client = self._sink.opened
        if client is None or not self._sink.prepares_at_once or len(task.claimed[0].body) > AT_ONCE:
            self._in_thread(task, partial(self._begin_slowly, task))
            return
        send = None
        try:
            send = self._prepare(task, client)
            if send.exchange.send_now():
                self._wait_for(send)
            else:
                self._in_thread(task, partial(self._send, send))
        except Exception as error:  # noqa: BLE001 - as above
            if send is not None:
                send.exchange.end()
            self._end(task, error)

    def _wait_for(self, send: _Send) -> None:
        """Wait for the response to a request that has been written."""
        if send.task.ended:  # given up
            send.exchange.end()
            return
        for each in send.task.claimed:
            each.body, each.completion = b"", ""  # nobody needs them any more
        connection = send.exchange.connection
        watch = connection.attachment
        if watch is None:
            watch = connection.attachment = _Watch()
        if not watch.registered:
            self._register(connection.fileno(), watch)  # first: it may be refused
        watch.send = send
        self._deadlines.add(send, send.exchange.deadline.at)

    def _read(self, send: _Send) -> None:
        answer: Receipt | Exception
        try:
            response = send.exchange.read_now()
            if response is None:
                return
            answer = send.receipt(response)
        except Exception as error:  # noqa: BLE001 - as above
            answer = error
        self._finish(send, answer)

    def _finish(self, send: _Send, answer: Receipt | Exception) -> None:
        self._deadlines.remove(send)
        connection = send.exchange.connection
        connection.attachment.send = None
        if not connection.reusable:
            self._unregister(connection.fileno(), connection.attachment)
        send.exchange.end()  # its connection is there for what starts now
        self._end(send.task, answer)

    def _register(self, number: int, watch: _Watch) -> None:
        assert self._selector is not None
        try:
            self._selector.register(number, selectors.EVENT_READ, watch)
        except KeyError:  # of a connection that was closed while it was idle, which the kernel has forgotten
            self._selector.unregister(number)
            self._selector.register(number, selectors.EVENT_READ, watch)
        watch.registered = True

    def _unregister(self, number: int, watch: _Watch) -> None:
        assert self._selector is not None
        self._selector.unregister(number)
        watch.registered = False
