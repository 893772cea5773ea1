"""What the functions of the API work on, and the caller."""

from __future__ import annotations

import getpass
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from receiver.domain.api_key import ALL_SOURCES, ERASE, OPERATE, VIEW
from receiver.errors import ConfigError, Forbidden
from receiver.ledger import Ledger

if TYPE_CHECKING:
    from receiver.api.models import Scoped
    from receiver.config.models import Config
    from receiver.config.settings import Settings
    from receiver.ledger.access.api_keys import Key

S = TypeVar("S", bound="Scoped")


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller. `kind`: key, user or cli. `source`: the only one that it may see; "" for all. `key_id`: of a key.

    `address`: of the client, as the first trusted proxy names it; "" for a command on this host."""

    kind: str
    name: str
    scopes: frozenset[str]
    source: str = ""
    key_id: str = ""
    address: str = ""

    @classmethod
    def of_key(cls, key: Key, address: str = "") -> Actor:
        """Return the holder of an API key."""
        return cls("key", key.name, key.scopes, "" if key.source == ALL_SOURCES else key.source, key.id, address)

    @classmethod
    def local(cls) -> Actor:
        """Return the user of this host, with all scopes: the account can read the ledger directly."""
        try:
            name = getpass.getuser()
        except (OSError, KeyError):  # the account has no name here
            name = "unknown"
        return cls("cli", name, frozenset({VIEW, OPERATE, ERASE}))

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the actor has `scope`, and view, which each call needs."""
        for needed in dict.fromkeys((VIEW, scope)):
            if needed not in self.scopes:
                raise Forbidden(f"this needs the scope {needed}; {self.name} has {', '.join(sorted(self.scopes))}")

    def require_all_sources(self) -> None:
        """Raise Forbidden when the actor may see one source only."""
        if self.source:
            raise Forbidden(f"this concerns all sources; {self.name} is for the source {self.source} only")

    def narrowed(self, parameters: S) -> S:
        """Return `parameters` for the actor's own source. Raises Forbidden when they name another."""
        if not self.source or parameters.source == self.source:
            return parameters
        if parameters.source:
            raise Forbidden(f"source {parameters.source}: {self.name} is for the source {self.source} only")
        return parameters.model_copy(update={"source": self.source})


class Service:
    """One deployment, as this process reaches it. `config`: by default loaded at first use, which raises ConfigError:
    calls that do not need it work with an invalid file."""

    def __init__(self, settings: Settings, ledger: Ledger, config: Config | None = None) -> None:
        self.settings = settings
        self.ledger = ledger
        if config is not None:
            self.__dict__["config"] = config

    @cached_property
    def config(self) -> Config:
        """The config. Raises ConfigError."""
        from receiver.config.loader import load  # most commands need only the ledger

        return load(self.settings.config, self.settings.environ)

    def give_up_after(self, sink: str) -> float | None:
        """Return the seconds after which a delivery to `sink` is given up; None without a valid config that has it."""
        with suppress(ConfigError, KeyError):
            return self.config.retry_of(sink).give_up_after
        return None
