"""One way to call the functions of the API, on this machine's ledger or on a remote service."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import BaseModel

from receiver.api.models import MAX_LIMIT, Page, Parameters, Scoped
from receiver.api.service import Actor, Service
from receiver.cli.ledger_access import open_ledger, where
from receiver.cli.profiles import remote_service
from receiver.config.settings import Settings
from receiver.domain.api_key import VIEW
from receiver.errors import Invalid, RunhookError, UsageError
from receiver.ledger import Ledger, LedgerDataError

if TYPE_CHECKING:
    from receiver.api.artifact_content import ContentParameters
    from receiver.api.endpoint import Endpoint
    from receiver.cli.remote import StoredContent
    from receiver.config.models import Config

P = TypeVar("P", bound=Parameters)
R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")
L = TypeVar("L", bound=Scoped)


class Client(Protocol):
    """What commands call. `where`: the ledger or service; `announce`: print it to standard error at the first call.

    `create`: create the tables of this machine's ledger if they are missing, see `open_ledger`.
    """

    where: str
    announce: bool
    create: bool

    def call(self, endpoint: Endpoint[P, R], parameters: P) -> R:
        """Return the result. Raises RequestError as the endpoint's function, and NotStarted."""

    def content(self, parameters: ContentParameters) -> AbstractContextManager[StoredContent]:
        """Give the block a stored file. Raises as `call`, from the block too."""


class _ReadOnlyService(Service):
    """A service for calls that only read: its config needs none of the variables that hold secrets."""

    @cached_property
    def config(self) -> Config:
        """The config, without the values of unset variables. Raises ConfigError."""
        from receiver.config.loader import load_without_secrets

        return load_without_secrets(self.settings.config, self.settings.environ)


class LocalClient:
    """Calls the functions on this machine's ledger, which the first call opens. For any thread."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.where = where(settings)
        self.announce = False
        self.create = False
        self.settings = settings
        self._stack = stack
        self._ledger: Ledger | None = None
        self._opening = threading.Lock()

    def call(self, endpoint: Endpoint[P, R], parameters: P) -> R:
        """Return the result. Raises RequestError as the endpoint's function, and NotStarted."""
        service = self._reading if endpoint.scope == VIEW else self._acting
        try:
            return endpoint.call(service, Actor.local(), parameters)
        except LedgerDataError:
            raise Invalid("the call contains characters the database cannot store, such as NUL") from None

    @contextmanager
    def content(self, parameters: ContentParameters) -> Iterator[StoredContent]:
        """See Client. The sink's own store is read, which needs the secrets of the config."""
        from receiver.api.artifact_content import ArtifactFiles  # with the sinks, which no other command needs
        from receiver.cli.remote import StoredContent

        with closing(ArtifactFiles(self._acting)) as files:
            found = files.find(Actor.local(), parameters)
            yield StoredContent(found.facts.size, found.file.encoding, found.chunks(0, found.facts.size))

    @cached_property
    def _acting(self) -> Service:
        return Service(self.settings, self._open())

    @cached_property
    def _reading(self) -> Service:
        return _ReadOnlyService(self.settings, self._open())

    def _open(self) -> Ledger:
        """Return the ledger, opened. Raises NotStarted."""
        with self._opening:
            if self._ledger is None:
                announce = self.announce or sys.stderr.isatty()
                opened = open_ledger(self.settings, announce=announce, create=self.create)
                self._ledger = self._stack.enter_context(opened)
            return self._ledger


@contextmanager
def open_client(
    url: str | None = None,
    key: str | None = None,
    profile: str | None = None,
    config: Path | None = None,
    data: Path | None = None,
) -> Iterator[Client]:
    """Give the block the client that the options select. Raises UsageError, ConfigError and NotStarted."""
    remote = remote_service(url, key, profile)
    if remote is None:
        with ExitStack() as stack:
            yield LocalClient(Settings.from_env(config=config, data=data), stack)
        return
    for option, given in (("--config", config), ("--data", data)):
        if given is not None:
            raise UsageError(f"{option} is for this machine and does not fit the remote service {remote.url}")
    from receiver.cli.remote import RemoteClient

    with closing(RemoteClient(remote)) as client:
        yield client


def rows_of(client: Client, endpoint: Endpoint[L, Page[T]], parameters: L, limit: int) -> Iterator[T]:
    """Yield at most `limit` rows of a list, page by page. Raises as `Client.call`."""
    is_paged = "limit" in type(parameters).model_fields  # else a short list in one piece
    while limit > 0:
        if is_paged:
            parameters = parameters.model_copy(update={"limit": min(limit, MAX_LIMIT)})
        page = client.call(endpoint, parameters)
        yield from page.items[:limit]
        limit -= len(page.items)
        if not is_paged or page.next is None:
            return
        if page.next == getattr(parameters, "after", ""):
            raise RunhookError(f"{client.where}: {endpoint.name} returns the same page again")
        parameters = parameters.model_copy(update={"after": page.next})
