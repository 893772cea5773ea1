"""Sinks whose send is one HTTP request, in two plain functions: what is sent, and what the response means.

So whoever runs many sends need not give each a thread while it waits; `send` does both, as for any other sink.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from handlers.contract import Delivery, O, Receipt, Services, Sink

if TYPE_CHECKING:  # a receiver asks what a type is, and sends nothing
    from handlers.support.exchange import HttpRequest, Response
    from handlers.support.guarded_client import GuardedClient

# Connections that are kept for the next request: as many as sends may have been under way.
MAX_IDLE = 10_000
# Threads that send for one sink in a process. More sends at once are for sinks whose sends wait without one.
MOST_THREADS = 256


def sends_requests(sink_type: type[Sink[Any]]) -> bool:
    """Whether the sends of a type are the two functions and nothing else, so that one thread may wait for many."""
    return issubclass(sink_type, RequestSink) and sink_type.send is RequestSink.send and sink_type.batch_size == 1


class PreparedSend(NamedTuple):
    """A request that is ready to be sent. `receipt`: returns what the response proves; raises as `send` does.

    While its response is waited for this is all that is kept of a send: `receipt` should hold no body and no run.
    """

    request: HttpRequest
    receipt: Callable[[Response], Receipt]


class RequestSink(Sink[O]):
    """A sink whose send is one HTTP request by a guarded client. Write `prepare` and `make_client`."""

    def __init__(self, name: str, options: O, services: Services) -> None:
        super().__init__(name, options, services)
        self._client: GuardedClient | None = None
        self._opening = threading.Lock()

    @abstractmethod
    def prepare(self, delivery: Delivery) -> PreparedSend:
        """Return the request for a delivery, which is not sent yet. Raises as `send` does."""

    @property
    def prepares_at_once(self) -> bool:
        """Whether `prepare` waits for nothing, and takes about a millisecond for a body of 64 KiB at the most.

        It is then called in the one thread that waits for all responses, as what a response means always is: code that
        hangs there takes the worker process with it.
        """
        return False

    @abstractmethod
    def make_client(self) -> GuardedClient:
        """Return the client for all requests. Called once, at the first send. Raises as `send` does."""

    def send(self, delivery: Delivery) -> Receipt:
        """Send the request, and wait for the response."""
        request, receipt = self.prepare(delivery)
        return receipt(self.client().call(request))

    @property
    def opened(self) -> GuardedClient | None:
        """The client, once there is one."""
        return self._client

    def client(self) -> GuardedClient:
        """Return the client. Raises as `make_client` does."""
        with self._opening:
            if self._client is None:
                self._client = self.make_client()
            return self._client

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            if self._client is not None:
                self._client.close()
            self._client = None
