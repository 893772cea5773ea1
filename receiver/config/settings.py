"""The settings from the environment. The only reader of os.environ; it knows nothing of the YAML file.

Each setting is declared once, as a field: its name, type, default, variable and help. `Settings.summary()` prints them
with passwords as stars, and docs/reference/configuration.md lists them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from handlers.support.private_file import make_private_folder
from handlers.support.url import hide_password
from receiver.errors import ConfigError

# File in the data directory with the signing key that `runhook dev` makes when SKYVERN_API_KEY is not set.
LOCAL_KEY_FILE = "skyvern-api-key"

# File in the data directory with the master secret, when RUNHOOK_SECRET is not set.
SECRET_FILE = "runhook-secret"  # noqa: S105 - a name

_SHORTEST_SECRET = 16
_SOCKET_PATH_LIMIT = 103  # bytes: 107 on Linux, 103 on macOS


def _variable(name: str, help_text: str, default: str = "", shown: str = "") -> dict[str, str]:
    """Return the metadata of a field that is read from variable `name`. `shown`: a computed default in words."""
    return {"variable": name, "help": help_text, "default": default, "shown": shown or default}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one process. Build them with `from_env`."""

    config: Path = field(
        metadata=_variable("RUNHOOK_CONFIG", "The YAML file with sources, sinks and routes.", "config/runhook.yaml")
    )
    data: Path = field(
        metadata=_variable(
            "RUNHOOK_DATA", "Directory for the ledger, the embedded Valkey, spool and quarantine.", "var"
        )
    )
    redis_url: str = field(
        repr=False, metadata=_variable("REDIS_URL", "Redis or Valkey.", "", "an embedded Valkey in the data directory")
    )
    database_url: str = field(
        repr=False,
        metadata=_variable(
            "DATABASE_URL",
            "The ledger's database: SQLite or PostgreSQL.",
            "",
            "SQLite: ledger.db in the data directory",
        ),
    )
    public_url: str = field(
        metadata=_variable("PUBLIC_URL", "Where Skyvern can reach this receiver, such as https://hooks.example.com.")
    )
    skyvern_base_url: str = field(
        metadata=_variable(
            "SKYVERN_BASE_URL", "Base of the Skyvern API for sources that set no api_base.", "https://api.skyvern.com"
        )
    )
    embedded_redis: bool
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(
        default="",
        repr=False,
        metadata=_variable(
            "RUNHOOK_SECRET",
            "What the keys of upstream apps are derived from, and so what their webhooks are signed with. The same on"
            " each host, 16 characters or more. With another one the keys still open the API, but must be made anew for"
            " webhooks to be signed.",
            "",
            "made when it is needed: runhook-secret in the data directory",
        ),
    )
    console_password: str = field(
        default="",
        repr=False,
        metadata=_variable(
            "RUNHOOK_CONSOLE_PASSWORD",
            "Password, or its Argon2 hash, with which anybody signs in to the console as admin, who may do everything."
            " For several people see `console` in the config file. Without either the console is off.",
        ),
    )
    console_token: str = field(
        default="",
        repr=False,
        metadata=_variable(
            "RUNHOOK_CONSOLE_TOKEN",
            "Signs whoever opens /console/login?token=… first in to the console as admin. `runhook dev` makes one.",
        ),
    )
    # True when an option or a variable says which ledger or data directory is meant: it is not that of any folder.
    names_ledger: bool = False
    # True when SKYVERN_API_KEY is unset, or is the key that `runhook dev` made to stand in for it.
    #
    # `skyvern_base_url` is "" then, unless SKYVERN_BASE_URL says where: such a key opens nothing at the real Skyvern.
    local_key: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read the settings from `environ` (the process's own by default).

        `overrides` are fields by name and win over variables; None means not given. An empty variable counts as unset.
        Raises ConfigError naming each variable that is wrong.
        """
        variables = dict(os.environ if environ is None else environ)
        given_data = overrides.get("data") is not None or bool(variables.get("RUNHOOK_DATA", "").strip())
        values: dict[str, str] = {}
        for item in fields(cls):
            if "variable" in item.metadata:
                given = overrides.pop(item.name, None)
                found = variables.get(item.metadata["variable"], "") if given is None else str(given)
                values[item.name] = found.strip() or item.metadata["default"]
        if overrides:
            raise TypeError(f"no such setting: {', '.join(overrides)}")
        problems = _problems(values)
        data = Path(values["data"])
        named = bool(given_data or values["database_url"])
        local_key = _read_key(data / LOCAL_KEY_FILE)
        if variables.get("SKYVERN_API_KEY") not in (None, "", local_key):
            local_key = ""
        if local_key:  # also in the processes that `runhook dev` starts with it
            variables["SKYVERN_API_KEY"] = local_key
        if local_key and not variables.get("SKYVERN_BASE_URL"):
            values["skyvern_base_url"] = ""  # a key that was made here opens nothing at the real Skyvern
        # The file may name these, whether they came from the environment, from an option or are defaults.
        variables["RUNHOOK_DATA"] = values["data"]
        embedded = not values["redis_url"]
        if embedded:
            path = str((data / "redis" / "valkey.sock").absolute())
            values["redis_url"] = "unix://" + quote(path)
            if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
                problems.append(
                    f"RUNHOOK_DATA: {path} is too long for a unix socket ({_SOCKET_PATH_LIMIT} bytes at the most);"
                    " use a shorter directory, or set REDIS_URL"
                )
        if problems:
            raise ConfigError(*problems)
        return cls(
            config=Path(values["config"]),
            data=data,
            redis_url=values["redis_url"],
            database_url=values["database_url"] or f"sqlite:///{(data / 'ledger.db').absolute()}",
            public_url=values["public_url"].rstrip("/"),
            skyvern_base_url=values["skyvern_base_url"].rstrip("/"),
            embedded_redis=embedded,
            secret=values["secret"],
            console_password=values["console_password"],
            console_token=values["console_token"],
            environ=variables,
            names_ledger=named,
            local_key=bool(local_key),
        )

    def with_local_key(self) -> Self:
        """Return these settings with a SKYVERN_API_KEY, made and kept in the data directory when there is none.

        For `runhook dev` and the demo, so that the shipped config works with no account and with no secret that the
        whole world knows. The file is readable by its owner only. Raises ConfigError when it can't be written.
        """
        if self.environ.get("SKYVERN_API_KEY"):
            return self
        path = self.data / LOCAL_KEY_FILE
        try:
            key = _read_key(path) or _write_key(path)
        except OSError as error:
            raise ConfigError(f"RUNHOOK_DATA: can't write {path}: {error.strerror}") from None
        return replace(
            self,
            environ={**self.environ, "SKYVERN_API_KEY": key},
            local_key=True,
            skyvern_base_url=self.skyvern_base_url if self.environ.get("SKYVERN_BASE_URL") else "",
        )

    def master_secret(self, *, make: bool = False) -> str:
        """Return the secret that upstream apps' keys are derived from; "" when there is none and `make` is false.

        RUNHOOK_SECRET, or what a file in the data directory holds, readable by its owner only. Raises ConfigError when
        the file can't be written.
        """
        path = self.data / SECRET_FILE
        try:
            return self.secret or _read_key(path) or (_write_key(path) if make else "")
        except OSError as error:
            raise ConfigError(f"RUNHOOK_DATA: can't write {path}: {error.strerror}") from None

    def summary(self) -> dict[str, str]:
        """Return each variable with its value in use, passwords as stars."""
        shown = {
            item.metadata["variable"]: hide_password(str(getattr(self, item.name))) or "not set"
            for item in fields(self)
            if "variable" in item.metadata
        }
        shown["RUNHOOK_SECRET"] = "********" if self.secret else f"from {self.data / SECRET_FILE}"
        for name, value in (("PASSWORD", self.console_password), ("TOKEN", self.console_token)):
            shown[f"RUNHOOK_CONSOLE_{name}"] = "********" if value else "not set"
        key = "not set"
        if self.environ.get("SKYVERN_API_KEY"):
            key = f"from {self.data / LOCAL_KEY_FILE}, for local use" if self.local_key else "********"
        return {**shown, "SKYVERN_API_KEY": key}


def replace_environment(environ: Mapping[str, str]) -> None:
    """Make `environ` the whole environment of this process, which is about to be another program."""
    os.environ.clear()
    os.environ.update(environ)


def remote_variables() -> dict[str, str]:
    """Return the `url` and `key` of the service that commands work on: RUNHOOK_URL and RUNHOOK_KEY; "" when unset."""
    return {name: os.environ.get(f"RUNHOOK_{name.upper()}", "").strip() for name in ("url", "key")}


def mcp_token() -> str:
    """Return what clients of `runhook mcp --http` must know: RUNHOOK_MCP_TOKEN; "" when it is unset."""
    return os.environ.get("RUNHOOK_MCP_TOKEN", "").strip()


def listen_secret() -> str:
    """Return what `runhook listen` signs with: RUNHOOK_LISTEN_SECRET; "" when it is unset."""
    return os.environ.get("RUNHOOK_LISTEN_SECRET", "").strip()


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _write_key(path: Path) -> str:
    """Write a new key to `path` and return it; when another process was first, its key. Raises OSError."""
    key = "local-" + secrets.token_urlsafe(32)
    make_private_folder(path.parent)
    # Under another name first: a full disk or a kill must not leave an empty file, which nobody could sign with.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key + "\n")
        if path.exists() and not _read_key(path):
            path.unlink()
        os.link(draft, path)
    except FileExistsError:
        return _read_key(path)
    finally:
        draft.unlink(missing_ok=True)
    return key


# Where not all prefixes that are understood help a person who wrote another.
_SHOWN = {"DATABASE_URL": ("sqlite:///", "postgresql://")}


def _problems(values: Mapping[str, str]) -> list[str]:
    """One line for each variable whose value can't be right. Values are not repeated: they may hold a password."""
    wanted = {
        "redis_url": ("REDIS_URL", ("redis://", "rediss://", "unix://")),
        "database_url": ("DATABASE_URL", ("sqlite:", "sqlite+", "postgresql:", "postgresql+", "postgres:")),
        "public_url": ("PUBLIC_URL", ("http://", "https://")),
        "skyvern_base_url": ("SKYVERN_BASE_URL", ("http://", "https://")),
    }
    short = 0 < len(values["secret"]) < _SHORTEST_SECRET
    problems = [f"RUNHOOK_SECRET: must have {_SHORTEST_SECRET} characters or more"] * short
    for name, (variable, prefixes) in wanted.items():
        if not values[name]:
            continue
        if not values[name].startswith(prefixes):
            problems.append(f"{variable}: must begin with {' or '.join(_SHOWN.get(variable, prefixes))}")
        elif name != "database_url" and (problem := _address_problem(values[name])):  # the ledger reads that one
            problems.append(f"{variable}: {problem}")
    return problems


def _address_problem(url: str) -> str:
    """Return what is wrong with an address whose scheme is right, or ""."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "its host and port can't be read; in a password write / as %2F, @ as %40, [ as %5B"
    if parts.scheme in ("redis", "rediss") and parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        return "after the host comes the number of a database, such as redis://localhost:6379/0"
    return ""
