"""One way to call the functions of the API, whether on this machine's ledger or on a remote service."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, TypeVar

import typer
from pydantic import BaseModel

from receiver.api.models import MAX_LIMIT, Page, Parameters, Scoped
from receiver.api.service import Actor, Service
from receiver.cli.ledger_access import open_ledger, where
from receiver.cli.profiles import remote_service
from receiver.config.settings import Settings
from receiver.domain.api_key import VIEW
from receiver.errors import Invalid, RunhookError, UsageError
from receiver.ledger import LedgerDataError

if TYPE_CHECKING:
    from receiver.api.artifact_content import ContentParameters
    from receiver.api.endpoint import Endpoint
    from receiver.cli.remote import StoredContent
    from receiver.config.models import Config

P = TypeVar("P", bound=Parameters)
R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")
L = TypeVar("L", bound=Scoped)

PANEL: Final = "Where"


class Client(Protocol):
    """What commands call. `where`: what they work on; `tell`: write that to standard error when it is used first."""

    where: str
    tell: bool

    def call(self, endpoint: Endpoint[P, R], parameters: P) -> R:
        """Return the result. Raises RequestError as the function of the endpoint, and NotStarted."""

    def content(
        self, wanted: ContentParameters, start: int = 0, tag: str = ""
    ) -> AbstractContextManager[StoredContent]:
        """Give the block a file that a sink has stored: from `start` on, if that is the one with this tag, else whole.
        Raises as `call`, from the block too."""


class _Looking(Service):
    """A service of which only what there is is asked: it needs no variable that the config takes a secret from."""

    @cached_property
    def config(self) -> Config:
        """The config, with nothing behind what is not set. Raises ConfigError."""
        from receiver.config.loader import load_without_secrets

        return load_without_secrets(self.settings.config, self.settings.environ)


class LocalClient:
    """Calls the functions on this machine's ledger, which is opened by the first call.

    `config`, `data`: the config file and the data directory, if they were named.
    """

    def __init__(
        self, settings: Settings, stack: ExitStack, config: Path | None = None, data: Path | None = None
    ) -> None:
        self.where = where(settings)
        self.config = config
        self.data = data
        self.tell = False
        self.settings = settings
        self._stack = stack
        self._service: Service | None = None
        self._looking: Service
        self._opening = threading.Lock()

    def call(self, endpoint: Endpoint[P, R], parameters: P) -> R:
        """Return the result. Raises RequestError as the function of the endpoint, and NotStarted. For any thread."""
        acting, looking = self._services()
        try:
            return endpoint.call(looking if endpoint.scope == VIEW else acting, Actor.local(), parameters)
        except LedgerDataError:
            raise Invalid("a text of the call can't be in the ledger, such as one with a NUL") from None

    @contextmanager
    def content(self, wanted: ContentParameters, start: int = 0, tag: str = "") -> Iterator[StoredContent]:
        """See Client. It is read from the sink's own store, which needs the secrets of the config."""
        from receiver.api.artifact_content import ArtifactFiles  # with the sinks, which no other command needs
        from receiver.cli.remote import StoredContent

        with closing(ArtifactFiles(self._services()[0])) as files:
            found = files.find(Actor.local(), wanted)
            begin = start if tag == found.etag else 0
            size = found.facts.size
            yield StoredContent(size, begin, found.etag, found.file.encoding, found.chunks(begin, size))

    def _services(self) -> tuple[Service, Service]:
        """Return the service for those who act, and for those who only look. Raises NotStarted."""
        with self._opening:
            if self._service is None:
                ledger = self._stack.enter_context(open_ledger(self.settings))
                self._service, self._looking = Service(self.settings, ledger), _Looking(self.settings, ledger)
                if self.tell or sys.stderr.isatty():
                    sys.stderr.write(f"runhook: ledger: {self.where}\n")
            return self._service, self._looking


@contextmanager
def open_client(
    url: str | None = None,
    key: str | None = None,
    profile: str | None = None,
    config: Path | None = None,
    data: Path | None = None,
) -> Iterator[Client]:
    """Give the block a client of what the options name. Raises UsageError, ConfigError, and NotStarted."""
    remote = remote_service(url, key, profile)
    if remote is None:
        with ExitStack() as stack:
            yield LocalClient(Settings.from_env(config=config, data=data), stack, config, data)
        return
    for option, given in (("--config", config), ("--data", data)):
        if given is not None:
            raise UsageError(f"{option}: is of this machine, and {remote.url} is not; one of them")
    from receiver.cli.remote import RemoteClient

    client = RemoteClient(remote)
    try:
        yield client
    finally:
        client.close()


def rows_of(client: Client, endpoint: Endpoint[L, Page[T]], parameters: L, limit: int) -> Iterator[T]:
    """Yield the rows of a list, page by page, until there are `limit`. Raises as `Client.call`."""
    if "limit" not in type(parameters).model_fields:  # a short list, which comes whole
        yield from client.call(endpoint, parameters).items[:limit]
        return
    pages = pages_of(client, endpoint, parameters, limit)
    yield from islice((row for page in pages for row in page.items), limit)


def pages_of(client: Client, endpoint: Endpoint[L, Page[T]], parameters: L, limit: int) -> Iterator[Page[T]]:
    """Yield the pages of a list, also those without a row, until they have `limit` rows. Raises as `Client.call`."""
    while limit > 0:
        page = client.call(endpoint, parameters.model_copy(update={"limit": min(limit, MAX_LIMIT)}))
        yield page
        limit -= len(page.items)
        if page.next is None:
            return
        if page.next == getattr(parameters, "after", ""):
            raise RunhookError(f"{client.where}: {endpoint.name} goes on where it began")
        parameters = parameters.model_copy(update={"after": page.next})


# The options of each command that works on a remote service as on this machine's ledger.
_OPTIONS: Final[dict[str, Any]] = {
    "url": Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="A remote service (RUNHOOK_URL).", rich_help_panel=PANEL),
    ],
    "key": Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="KEY",
            help="Its API key; others on this machine can see it here, but not in RUNHOOK_KEY.",
            rich_help_panel=PANEL,
        ),
    ],
    "profile": Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="A service of ~/.config/runhook/profiles.toml.",
            rich_help_panel=PANEL,
        ),
    ],
    "config": Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The config file (RUNHOOK_CONFIG).", rich_help_panel=PANEL),
    ],
    "data": Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Data directory (RUNHOOK_DATA).", rich_help_panel=PANEL),
    ],
}


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command`, whose first parameter is a Client, with the options that say which in its place."""
    signature = inspect.signature(command, eval_str=True)
    _, *own = signature.parameters.values()

    @functools.wraps(command)
    def call(**given: Any) -> None:
        named = {name: given.pop(name) for name in _OPTIONS}
        with open_client(**named) as client:
            command(client, **given)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in _OPTIONS.items()
    ]
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    call.__signature__ = signature.replace(parameters=[*keywords, *options])  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in [*keywords, *options]}
    return call
