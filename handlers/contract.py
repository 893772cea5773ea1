"""The sink contract: a sink's input, its result, and its three kinds of errors.

    SinkError
    ├── Refused        this delivery will never be accepted: it is dead now
    └── Unavailable    not now: it is tried again, after `retry_after` seconds if given
    any other exception is a bug: recorded with its type, and retried within the sink's budget

This file depends on no sink and no transport.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from handlers.support.duration import Seconds


class SinkError(Exception):
    """A sink did not accept a delivery. The message is shown to operators: it must hold no secret and no payload.

    `response`: the beginning of the server's response, for operators; `handlers.support.excerpt` sets it.
    """

    response: str = ""


class Refused(SinkError):
    """This delivery will never be accepted."""


class Unavailable(SinkError):
    """The sink can't accept now; it may later.

    `retry_after`: seconds that the sink asked to wait, or None. `dependency`: the sink is healthy, but a server that
    this delivery needs is not (the host of an artifact). Only this delivery waits and spends its attempts; the sink's
    breaker does not open.
    """

    # Defaults for subclasses whose __init__ does not call this one.
    retry_after: float | None = None
    dependency: bool = False

    def __init__(self, message: str, *, retry_after: float | None = None, dependency: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.dependency = dependency


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a sink accepted.

    `id`: what identifies the result at the sink (row key, object prefix, message timestamp).
    `keys`: what was written (object keys, file paths), in a stable order.
    `urls`: permanent links by name ("run.json", "recording", "invoice.pdf"), for sinks that wait for this one.
    `files`: keys of the run's files by their names in the event, where the key does not end in that name.
    `sizes`: the bytes of each file of the run that was stored, by its name in the event.
    `note`: a remark for operators, such as an artifact over the size cap.
    """

    id: str
    keys: tuple[str, ...] = ()
    urls: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON-ready values, without empty members."""
        members: dict[str, Any] = {
            "id": self.id,
            "keys": list(self.keys),
            "urls": dict(self.urls),
            "files": dict(self.files),
            "sizes": dict(self.sizes),
            "note": self.note,
        }
        return {name: value for name, value in members.items() if value}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one sink.

    `key` is the idempotency key: the same at every attempt and every replay, never shared by two deliveries.
    `run` is the redacted run, with the same members from a webhook, poll or import ({} when the body could not be
    parsed; `problem` has the reason); `body` the received bytes (re-serialised only if redacted); `payload` the body in
    a webhook's form, for sinks that forward it: `body` unless it came by a poll or an import.
    `status` is the run's outcome; it can differ from run["status"].
    `receipts`: the receipts (`Receipt.to_dict()`) of the sinks that this one waited for, by sink name;
    None for a dead one. `last_attempt`: whether a failure of this attempt makes the delivery dead.
    """

    key: str
    event_id: str
    sink: str
    attempt: int
    source: str
    run_id: str
    run_type: str
    status: str
    received_at: datetime
    body: bytes
    run: Mapping[str, Any]
    via: str = "webhook"
    route: str = ""
    problem: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    receipts: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    test: bool = False
    payload: bytes = b""
    last_attempt: bool = False

    def __post_init__(self) -> None:
        if not self.payload:
            object.__setattr__(self, "payload", self.body)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a run.

    `kind`: recording, screenshot, download, or Skyvern's own artifact type. `url` may be signed and may have expired.
    `sha256`: lower-case hex from the sender, or None. `size`: bytes, or None. `unchanged_since`: when the sender
    created its record of the file (epoch seconds), if never changed; else None.
    """

    kind: str
    name: str
    url: str
    sha256: str | None = None
    size: int | None = None
    artifact_id: str | None = None
    unchanged_since: float | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A message of Runhook itself for operators. `kind`: "alert" (problems that began or ended) or "digest".

    `key`: identifies the message. `title`: one line. `lines`: plain text, where `…` quotes a command. `link`: where to
    look, or "". `urgent`: a problem began. `data`: the same for programs, JSON-ready.
    """

    key: str
    kind: str
    title: str
    lines: Sequence[str]
    link: str = ""
    urgent: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)


class ReadableFile(NamedTuple):
    """A file that a sink stored. `size`: bytes. `version`: identifies these bytes. `encoding`: its content coding, such
    as gzip, or "".

    `chunks`: yields the bytes from start to end. Raises SinkError, also when the file has changed.
    """

    size: int
    version: str
    encoding: str
    chunks: Callable[[int, int], Iterator[bytes]]


class Services:
    """Services of the host for its sinks. This base class provides nothing."""

    def fresh_artifacts(self, delivery: Delivery, types: Sequence[str] = ()) -> Sequence[Artifact]:  # noqa: ARG002
        """Return the run's artifacts with new signed URLs from the source's API; () when the source has no API key.

        `types`: Skyvern's artifact types to request; all when empty. The result may contain others.
        Raises Unavailable when the API is unavailable.
        """
        return ()

    def artifact_url(self, delivery: Delivery, artifact_id: str) -> str:  # noqa: ARG002
        """Return the URL of an artifact's bytes at the source's own API; "" when the source has no API key."""
        return ""

    def artifact_headers(self, delivery: Delivery, url: str) -> Mapping[str, str]:  # noqa: ARG002
        """Return headers for a download of `url`: the API key when `url` is at the source's API origin, else {}."""
        return {}

    def sources(self) -> Sequence[str]:
        """Return the names of all sources, in the order of the config; () without sources."""
        return ()

    def allowed_addresses(self) -> Sequence[str]:
        """Return the private hosts and CIDR networks that the operator allows."""
        return ()


class SinkOptions(BaseModel):
    """Base of every sink's options. Unknown keys are an error, so typos fail at load."""

    # Pydantic builds a model at its first use, and never builds base classes.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)

    timeout: Seconds = Field(30.0, gt=0, le=3600, description="Time that one send may take: seconds, or such as 30s.")


O = TypeVar("O", bound=SinkOptions)  # noqa: E741


class Sink(ABC, Generic[O]):
    """A destination. One instance lives in one worker process and is used by up to `concurrency` threads at once.

    A sink never retries, never sleeps and never logs a payload. The constructor opens no connection: a fork would break
    it, so the first send connects.
    """

    Options: ClassVar[type[SinkOptions]] = SinkOptions
    # Whether it receives later events that add files or fields to the same result.
    takes_updates: ClassVar[bool] = False
    # Whether `erase` deletes what `send` wrote. `runhook erase` lists the receipts of all other sinks.
    erases: ClassVar[bool] = False
    # Whether it has `notify`. `alerts.to` in the config takes no other sinks.
    notifies: ClassVar[bool] = False
    # Maximum deliveries of one `send_many`; with 1, the caller runs `send` concurrently instead.
    batch_size: ClassVar[int] = 1
    # Whether it shares a process with other sinks by default: its sends mostly wait for servers, and never exit or
    # change signals or the working directory. Not inherited.
    shares_worker: ClassVar[bool] = False

    def __init__(self, name: str, options: O, services: Services) -> None:
        self.name = name
        self.options = options
        self.services = services

    @abstractmethod
    def send(self, delivery: Delivery) -> Receipt:
        """Send the delivery. Returning means accepted; see the module's docstring for the errors."""

    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        """Send a batch; return one result for each delivery, in order. Raises when the complete batch failed."""
        results: list[Receipt | Exception] = []
        for delivery in deliveries:
            try:
                results.append(self.send(delivery))
            except Exception as error:  # noqa: BLE001 - the caller distinguishes the three kinds
                results.append(error)
        return results

    def find_file(self, location: str) -> ReadableFile | None:  # noqa: ARG002 - for those that keep files
        """Return a file that `send` has written, by its key in the receipt.

        None for a missing or foreign key, or a sink without files. Raises SinkError.
        """
        return None

    def erase(self, source: str, run_id: str, receipt: Mapping[str, Any]) -> None:
        """Delete what a receipt (`Receipt.to_dict()`) of a run names: its `keys`, or its `id` if it has none.

        What is missing counts as deleted. Called only if `erases`. Raises like `send`; can be repeated.
        """
        raise NotImplementedError

    def notify(self, notification: Notification) -> None:
        """Send a message to operators. Called only if `notifies`. Raises like `send`."""
        raise NotImplementedError

    def check(self) -> str:
        """Check that the server is reachable and accepts the credentials, without changing anything.

        Returns a sentence; "" if only a send could check that. Raises like `send`, within the sink's timeout. `runhook
        doctor` calls it.
        """
        return ""

    def close(self) -> None:
        """Close connections. Called once, after all sends."""


class BatchSink(Sink[O]):
    """A sink that sends batches: it defines `send_many` and `batch_size`."""

    def send(self, delivery: Delivery) -> Receipt:
        """Send a batch of one delivery."""
        (result,) = self.send_many([delivery])
        if isinstance(result, Exception):
            raise result
        return result

    @abstractmethod
    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        """See Sink."""
