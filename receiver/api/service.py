"""What the functions of the API work on, and who asks."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from receiver.domain.api_key import ALL_SOURCES, OPERATE, VIEW
from receiver.errors import Forbidden
from receiver.ledger import Ledger

if TYPE_CHECKING:
    from receiver.api.models import Scoped
    from receiver.config.models import Config
    from receiver.config.settings import Settings
    from receiver.ledger.api_keys import Key

S = TypeVar("S", bound="Scoped")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `kind`: key, user or cli. `source`: the only one whose things it may see; "" for all.

    `key_id`: of a key, else "".
    """

    kind: str
    name: str
    scopes: frozenset[str]
    source: str = ""
    key_id: str = ""

    @classmethod
    def of_key(cls, key: Key) -> Actor:
        """Return the holder of an API key."""
        return cls("key", key.name, key.scopes, "" if key.source == ALL_SOURCES else key.source, key.id)

    @classmethod
    def local(cls) -> Actor:
        """Return the user of this machine's account, who can read the ledger anyhow: all is allowed."""
        try:
            name = getpass.getuser()
        except (OSError, KeyError):  # the account has no name here
            name = "unknown"
        return cls("cli", name, frozenset({VIEW, OPERATE}))

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the actor has `scope`. What it may not see it may not operate either."""
        for needed in dict.fromkeys((VIEW, scope)):
            if needed not in self.scopes:
                raise Forbidden(f"this needs the scope {needed}; {self.name} has {', '.join(sorted(self.scopes))}")

    def require_all_sources(self) -> None:
        """Raise Forbidden when the actor may see one source only: what it asks for concerns all."""
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
    """One deployment, as this process reaches it. `config`: loaded from the settings' file when it is not given, at
    first use, so that what does not need it works with a file that is wrong; that use raises ConfigError.
    """

    def __init__(self, settings: Settings, ledger: Ledger, config: Config | None = None) -> None:
        self.settings = settings
        self.ledger = ledger
        if config is not None:
            self.__dict__["config"] = config

    @cached_property
    def config(self) -> Config:
        """The config. Raises ConfigError."""
        from receiver.config.loader import load  # most calls of the command line read the ledger alone

        return load(self.settings.config, self.settings.environ)
