"""The bytes of a run's file, from a sink that stored it, or on request from Skyvern.

The ledger names the place; a caller never gives a path.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from handlers import registry
from handlers.contract import ReadableFile, Sink, SinkError
from handlers.mirror.names import DEFAULT, content_type
from receiver.api.artifacts import ArtifactRow, files_of
from receiver.api.endpoint import call
from receiver.api.models import Result, Scoped
from receiver.api.runs import one_run
from receiver.api.service import Actor, Service
from receiver.api.skyvern_files import SkyvernFiles
from receiver.delivery.sink_services import SourceServices
from receiver.domain.api_key import VIEW
from receiver.domain.redaction import Redactor
from receiver.errors import Busy, NotFound
from receiver.ledger import Connection
from receiver.ledger.lists.bodies import read_body

# What a browser shows in place. It downloads other types, which could run code or imitate a page of Runhook.
_SHOWN: Final = ("video/", "audio/", "image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
# Types that are shown as plain text.
_TEXT: Final = ("text/plain", "text/csv", "text/tab-separated-values", "text/markdown", "application/json")
_PLAIN: Final = "text/plain; charset=utf-8"


class ContentParameters(Scoped):
    """Which file of which run. `source`: needed only when two sources have the same run."""

    run_id: str = Field(max_length=200, description="The run's id.")
    name: str = Field(max_length=1000, description="The file's name, as in the list of artifacts.")
    sink: str = Field("", max_length=200, description="From which sink; by default the one that stored it last.")
    skyvern: bool = Field(False, description="Fetch its bytes from Skyvern when no sink has stored it.")


class ContentFacts(Result):
    """A stored file. `sink`, `key`: "" for one that was fetched from Skyvern."""

    source: str
    run_id: str
    name: str
    size: int = Field(description="Bytes, as stored.")
    content_type: str = Field(description="application/octet-stream for all that a browser should not show in place.")
    sink: str
    key: str = Field(description="The path or object key.")


@dataclass(frozen=True, slots=True)
class ArtifactContent:
    """A file to read. `etag`: a strong one, of exactly these bytes."""

    facts: ContentFacts
    file: ReadableFile
    etag: str

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `end`. Raises Busy when the store fails."""
        try:
            yield from self.file.chunks(start, end)
        except SinkError as error:
            raise _unavailable(self.facts.sink, error) from None


class ArtifactFiles:
    """Opens files of runs in the sinks that stored them. A sink is built at first use. Threads may share it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sinks: dict[str, Sink[Any]] = {}
        self._skyvern = SkyvernFiles(service)
        self._lock = threading.Lock()

    def find(self, actor: Actor, parameters: ContentParameters) -> ArtifactContent:
        """Return the file. Raises Forbidden, NotFound, and Busy when the sink's store or Skyvern is unavailable."""
        found = self.at_hand(actor, parameters)
        return found if isinstance(found, ArtifactContent) else self.fetched(found)

    def at_hand(self, actor: Actor, parameters: ContentParameters) -> ArtifactContent | ArtifactRow:
        """Return the file, or its row when it must be fetched from Skyvern first. Raises as `find`."""
        parameters = GET_CONTENT.allowed(actor, parameters)
        row = _artifact_row(self._service, parameters)
        trouble: SinkError | None = None
        for copy in row.stored:
            if copy.key and parameters.sink in ("", copy.sink):
                try:
                    sink = self.sink(copy.sink)
                    file = sink.find_file(copy.key) if sink else None
                except SinkError as error:
                    trouble = trouble or error
                    continue
                if file is not None:
                    return _content(row, file, copy.sink, copy.key)
        if parameters.skyvern and not parameters.sink:
            kept = self._skyvern.kept(row.event_id, row.name)
            return row if kept is None else _content(row, kept)
        if trouble is not None:
            raise _unavailable(parameters.sink or "the store", trouble)
        where = (
            f"the sink {parameters.sink} does not have it" if parameters.sink else "no sink has it where it was stored"
        )
        raise NotFound(f"file {parameters.name} of run {row.run_id}: {where}")

    def fetched(self, row: ArtifactRow) -> ArtifactContent:
        """Fetch a file from Skyvern, which may take minutes. Raises NotFound and Busy."""
        redactor = Redactor(self._service.config.redact)
        event = self._service.ledger.read(lambda it: read_body(it, row.event_id, redactor))
        if event is None:
            raise NotFound(f"event {row.event_id}: it no longer exists")
        return _content(row, self._skyvern.fetch(event, row.name))

    def sink(self, name: str) -> Sink[Any] | None:
        """Return the sink; None for one that is not in the config."""
        config = self._service.config
        with self._lock:
            if name not in self._sinks and name in config.sinks:
                chosen = config.sinks[name]
                services = SourceServices(config, self._service.settings.skyvern_base_url)
                self._sinks[name] = registry.build(name, chosen.type, chosen.options, services)
            return self._sinks.get(name)

    def close(self) -> None:
        """Close the sinks, and the connections to Skyvern."""
        self._skyvern.close()
        for sink in self._sinks.values():
            sink.close()


def get_artifact_content(service: Service, actor: Actor, parameters: ContentParameters) -> ContentFacts:
    """Return a stored file or a range of its bytes; with `skyvern`, also of a file that no sink stored.

    With `Accept: application/json` it returns the facts of a stored file instead.
    """
    with closing(ArtifactFiles(service)) as files:
        return files.find(actor, parameters.model_copy(update={"skyvern": False})).facts


def _artifact_row(service: Service, parameters: ContentParameters) -> ArtifactRow:
    def read(connection: Connection) -> ArtifactRow:
        run = one_run(connection, parameters.source, parameters.run_id)
        for each in files_of(connection, run, Redactor(service.config.redact)):
            if each["name"] == parameters.name:
                return ArtifactRow.model_validate(each)
        raise NotFound(f"run {parameters.run_id} has no file {parameters.name}")

    return service.ledger.read(read)


def _content(row: ArtifactRow, file: ReadableFile, sink: str = "", key: str = "") -> ArtifactContent:
    facts = ContentFacts(
        source=row.source,
        run_id=row.run_id,
        name=row.name,
        size=file.size,
        content_type=shown_type(row.name),
        sink=sink,
        key=key,
    )
    digest = hashlib.blake2b(f"{sink}\0{key}\0{file.version}".encode(errors="replace"), digest_size=16)
    return ArtifactContent(facts, file, f'"{digest.hexdigest()}"')


def shown_type(name: str) -> str:
    """Return the content type under which a browser gets a file: one that runs nothing."""
    kind = content_type(name)
    return _PLAIN if kind.startswith(_TEXT) else kind if kind.startswith(_SHOWN) else DEFAULT


def _unavailable(where: str, error: SinkError) -> Busy:
    return Busy(f"{where}: {error}", retry_after=5)


GET_CONTENT: Final = call("GET", "/artifacts/content", VIEW, get_artifact_content)
