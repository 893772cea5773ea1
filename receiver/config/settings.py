"""The settings of a process, each from one variable. The YAML file is read elsewhere.

Each setting is declared once, as a field: its name, type, default, variable and help. `Settings.summary()` prints them
with secrets as stars, and docs/reference/configuration.md lists them.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from handlers.support.private_file import make_private_folder
from handlers.support.url import STARS, hide_password
from receiver.config import dev_session
from receiver.config.dev_session import DevSession
from receiver.config.fields import LOCAL_KEY, without_version
from receiver.config.variables import DEFAULT, OPTION, SECRETS_DIR, Variables, process_variables
from receiver.domain.network import is_local_host
from receiver.errors import ConfigError

# File in the data directory with the signing key that `runhook dev` makes when SKYVERN_API_KEY is not set.
LOCAL_KEY_FILE = "skyvern-api-key"

# File in the data directory with the master secret, when RUNHOOK_SECRET is not set.
SECRET_FILE = "runhook-secret"  # noqa: S105 - a name

# Where the config file is when nothing names it. The last one ships with Runhook.
PACKAGED_CONFIG: Final = Path(__file__).with_name("default.yaml")
CONFIG_FILES: Final = (Path("runhook.yaml"), Path("config/runhook.yaml"), PACKAGED_CONFIG)

# Variables without a field: the YAML file uses the first one, and commands read the others where they need them.
OTHER_VARIABLES: Final = {
    "SKYVERN_API_KEY": "Skyvern's API key, as the packaged config names it.",
    "RUNHOOK_URL": "Remote service for commands.",
    "RUNHOOK_KEY": "API key for RUNHOOK_URL.",
    "RUNHOOK_MCP_TOKEN": "Token for clients of `runhook mcp --http`.",
    "RUNHOOK_LISTEN_SECRET": "Secret of `runhook listen`.",
    SECRETS_DIR: "Directory with a file per variable. Default: /run/secrets.",
}

_SHORTEST_SECRET = 16
_SOCKET_PATH_LIMIT = 103  # bytes: 107 on Linux, 103 on macOS
# Names of variables and of keys in the file whose values are never shown.
SECRET_NAME: Final = re.compile(
    r"(KEY|SECRET|TOKEN|PASSWORD|PASSWD|PWD|PASS|CREDENTIALS?|HASH|DSN|WEBHOOK_URL)S?$", re.IGNORECASE
)


def _variable(name: str, help_text: str, **options: Any) -> Any:
    """Return a field that is read from variable `name`; its default is "" unless `options` has another."""
    hidden = SECRET_NAME.search(name) or name.endswith("_URL")
    options = options if "default_factory" in options else {"default": "", **options}
    return Field(validation_alias=name, description=help_text, repr=not hidden, **options)


def find_config() -> Path:
    """Return the first of CONFIG_FILES that exists."""
    return next(path for path in CONFIG_FILES if path.exists())


def embedded_socket(data: Path) -> Path:
    """Return the embedded Valkey's socket: in `data`, or under /tmp (the same for all) if that path is too long."""
    path = Path(os.path.realpath(data)) / "redis" / "valkey.sock"
    raw = os.fsencode(path)
    short = Path(f"/tmp/runhook-{sha256(raw).hexdigest()[:16]}/valkey.sock")  # noqa: S108 - see _socket_is_private
    return path if len(raw) <= _SOCKET_PATH_LIMIT else short


def _ledger_file(values: dict[str, Any]) -> str:
    """Return the address of the SQLite ledger in the data directory."""
    return f"sqlite:///{(values['data'] / 'ledger.db').absolute()}"


class _VariablesSource(PydanticBaseSettingsSource):
    """Gives pydantic-settings the variables that are set, by their names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str, str, bool]:
        """Return the value of a field, its variable, and that the value is not JSON."""
        name = str(field.validation_alias or field_name)
        return self.current_state["environ"].text(name), name, False

    def __call__(self) -> dict[str, Any]:
        """Return the variables that are not empty."""
        fields = self.settings_cls.model_fields.items()
        values = [self.get_field_value(item, name) for name, item in fields if item.validation_alias]
        return {name: value for value, name, _ in values if value}


def _public_url_problem(url: str) -> str:
    """Return why Runhook's own paths cannot be added to `url`, or ""."""
    parts = urlsplit(url)
    base = parts._replace(query="", fragment="", path=parts.path.partition("/webhooks")[0]).geturl()
    if parts.query or parts.fragment:
        return f"must not have a query or fragment: Runhook adds paths such as /webhooks/skyvern to it; write {base}"
    if "/webhooks" in parts.path:
        return f"must not have the path of a webhook: Runhook adds /webhooks/SOURCE to it; write {base}"
    return ""


class Settings(BaseSettings):
    """The settings of one process. Build them with `from_env`."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, arbitrary_types_allowed=True)

    config: Path = _variable(
        "RUNHOOK_CONFIG",
        "The YAML file with sources, sinks and routes. Default: `runhook.yaml`, else "
        "`config/runhook.yaml`, else a packaged one.",
        default_factory=find_config,
    )
    data: Path = _variable(
        "RUNHOOK_DATA", "Directory for the ledger, the embedded Valkey, spool and quarantine.", default="var"
    )
    redis_url: str = _variable(
        "REDIS_URL",
        "Redis or Valkey. Default: an embedded Valkey in the data directory.",
        default_factory=lambda values: "unix://" + quote(str(embedded_socket(values["data"]))),
    )
    database_url: str = _variable(
        "DATABASE_URL",
        "The ledger's database, SQLite or PostgreSQL. Default: ledger.db in the data directory.",
        default_factory=_ledger_file,
    )
    public_url: str = _variable(
        "PUBLIC_URL", "URL at which Skyvern reaches the receiver, such as https://hooks.example.com."
    )
    skyvern_base_url: str = _variable(
        "SKYVERN_BASE_URL",
        "Base URL of the Skyvern API for sources without `api_base`.",
        default="https://api.skyvern.com",
    )
    secret: str = _variable(
        "RUNHOOK_SECRET",
        "Master secret of at least 16 characters, the same on each host. Keys of apps are "
        "derived from it; after a change, create new ones. Default: the file runhook-secret "
        "in the data directory.",
    )
    console_password: str = _variable(
        "RUNHOOK_CONSOLE_PASSWORD",
        "Password, or its Argon2 hash, of the console's user `admin`.",
    )
    console_token: str = _variable(
        "RUNHOOK_CONSOLE_TOKEN",
        "Token for one sign-in as admin, at /console/login?token=…. `runhook dev` creates one.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _variable(
        "RUNHOOK_LOG_LEVEL", "Minimum level of log lines: debug, info, warning or error.", default="info"
    )
    log_format: Literal["logfmt", "json"] = _variable(
        "RUNHOOK_LOG_FORMAT", "Format of log lines: logfmt or json.", default="logfmt"
    )
    dev_key: str = _variable(
        "RUNHOOK_DEV_KEY",
        "Set by `runhook dev`: another secret of each source, with which `runhook trigger` signs.",
    )
    environ: Variables = Field(repr=False)
    # The `runhook dev` that runs in this folder, if these settings mean the same service.
    session: DevSession | None = None
    # Whether SKYVERN_API_KEY is the key that `runhook dev` made, which opens nothing at the real Skyvern:
    # `skyvern_base_url` is "" then, unless SKYVERN_BASE_URL is set.
    local_key: bool = False

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read all variables from `environ`, which knows the origin of each."""
        return init_settings, _VariablesSource(settings_cls)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, join: bool = True, **overrides: Any) -> Self:
        """Read the settings from `environ` (the process's own by default), `.env` and the secrets directory.

        `join`: without `environ`, add the variables of a `runhook dev` that runs in this folder, unless they mean
        another service. `overrides` are fields by name and win over variables; None means not given. An empty variable
        counts as unset. Raises ConfigError, which names each invalid variable.
        """
        variables = process_variables() if environ is None else Variables(environ)
        for name, value in overrides.items():
            if name not in cls.model_fields:
                raise TypeError(f"no such setting: {name}")
            if value is not None:
                alias = str(cls.model_fields[name].validation_alias)
                variables = variables.replaced(alias, str(value), f"{OPTION} --{name}")
        session = dev_session.running() if join and environ is None and not variables.text("RUNHOOK_DEV_KEY") else None
        if session is not None and not session.is_meant(variables):
            session = None
        variables = variables if session is None else session.complete(variables)
        try:
            settings = cls(environ=variables, session=session)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            problems = [each for each in errors if each["type"] != "default_factory_not_called"]  # for the others
            raise ConfigError(*(": ".join([*map(str, each["loc"]), _words(each)]) for each in problems)) from None
        # The config file may use ${RUNHOOK_DATA}, also where it is the default.
        if not variables.text("RUNHOOK_DATA"):
            settings = settings.model_copy(
                update={"environ": variables.replaced("RUNHOOK_DATA", str(settings.data), DEFAULT)}
            )
        given = variables.text("SKYVERN_API_KEY")
        key = given if given.startswith(LOCAL_KEY) else "" if given else _read_key(settings.data / LOCAL_KEY_FILE)
        return settings._with_key(key) if key else settings

    @field_validator("redis_url", "database_url", "public_url", "skyvern_base_url")
    @classmethod
    def _is_address(cls, value: str, info: ValidationInfo) -> str:
        name = str(info.field_name)
        prefixes = _PREFIXES[name]
        if value and not value.startswith(prefixes):
            raise ValueError(f"must begin with {' or '.join(_SHOWN.get(name, prefixes))}")
        if name != "database_url" and (problem := _address_problem(value)):  # the ledger reads that one
            raise ValueError(problem)
        if name == "public_url" and (problem := _public_url_problem(value)):
            raise ValueError(problem)
        value = value.rstrip("/") if prefixes == _HTTP else value
        return without_version(value) if name == "skyvern_base_url" else value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _in_lower_case(cls, value: str) -> str:
        return value.lower()

    @field_validator("secret")
    @classmethod
    def _is_long(cls, value: str) -> str:
        if 0 < len(value) < _SHORTEST_SECRET:
            raise ValueError(f"must have {_SHORTEST_SECRET} characters or more")
        return value

    @model_validator(mode="after")
    def _socket_is_private(self) -> Self:
        """Make the socket's folder under /tmp. If another user made it first, that user could read all events."""
        folder = embedded_socket(self.data).parent
        if self.embedded_redis and folder.name != "redis":
            with suppress(OSError):
                folder.mkdir(mode=0o700)
            status = folder.lstat() if folder.exists() else None
            if status is None or (status.st_mode, status.st_uid) != (stat.S_IFDIR | 0o700, os.geteuid()):
                raise ValueError(
                    f"RUNHOOK_DATA: {self.data} is too long for a unix socket, and {folder} is not a private folder of"
                    " this user: remove it, use a shorter directory, or set REDIS_URL"
                )
        return self

    @property
    def embedded_redis(self) -> bool:
        """Whether REDIS_URL is not set, so that `runhook dev` starts a Valkey."""
        return "redis_url" not in self.model_fields_set

    @property
    def names_ledger(self) -> bool:
        """Whether an option or a variable names the ledger or the data directory."""
        return bool({"data", "database_url"} & self.model_fields_set)

    @property
    def packaged_config(self) -> bool:
        """Whether the config file is the one that ships with Runhook, because none is named and none was found."""
        return "config" not in self.model_fields_set and self.config == PACKAGED_CONFIG

    def with_local_key(self) -> Self:
        """Return these settings with a SKYVERN_API_KEY, created in the data directory if unset.

        For `runhook dev` and the demo: the shipped config works without an account, and without a publicly known
        secret. Only its owner can read the file. Raises ConfigError when it can't be written.
        """
        if self.environ.text("SKYVERN_API_KEY"):
            return self
        path = self.data / LOCAL_KEY_FILE
        try:
            key = _read_key(path) or _write_key(path)
        except OSError as error:
            raise ConfigError(f"RUNHOOK_DATA: can't write {path}: {error.strerror}") from None
        return self._with_key(key)

    def _with_key(self, key: str) -> Self:
        """Return these settings with a key that was made here. Only a Skyvern on this network is called with it."""
        variables = self.environ
        if variables.text("SKYVERN_API_KEY") != key:
            variables = variables.replaced("SKYVERN_API_KEY", key, f"{self.data / LOCAL_KEY_FILE}, made for local use")
        named = "skyvern_base_url" in self.model_fields_set and (self.session is None or self.session.local_key)
        base = self.skyvern_base_url if named and is_local_host(urlsplit(self.skyvern_base_url).hostname or "") else ""
        return self.model_copy(update={"environ": variables, "local_key": True, "skyvern_base_url": base})

    @property
    def waits_for_webhooks(self) -> bool:
        """Whether to give webhooks time before results are polled. False in `runhook dev`: few agents know its URL."""
        return bool(self.public_url) and not self.dev_key

    def master_secret(self, *, make: bool = False) -> str:
        """Return the secret that upstream apps' keys are derived from; "" if it is unset and `make` is false.

        RUNHOOK_SECRET, or what a file in the data directory holds, readable by its owner only. Raises ConfigError when
        the file can't be written.
        """
        path = self.data / SECRET_FILE
        try:
            return self.secret or _read_key(path) or (_write_key(path) if make else "")
        except OSError as error:
            raise ConfigError(f"RUNHOOK_DATA: can't write {path}: {error.strerror}") from None

    def summary(self) -> dict[str, str]:
        """Return each variable with its value in use, secrets as stars; "" stands for not set."""
        shown = {
            str(item.validation_alias): show_value(str(item.validation_alias), str(getattr(self, name)))
            for name, item in type(self).model_fields.items()
            if item.validation_alias
        }
        if not self.secret:
            shown["RUNHOOK_SECRET"] = f"from {self.data / SECRET_FILE}"
        key = show_value("SKYVERN_API_KEY", self.environ.text("SKYVERN_API_KEY"))
        if self.local_key:
            key = "made for local use" if self.session else f"from {self.data / LOCAL_KEY_FILE}, for local use"
        return {**shown, "SKYVERN_API_KEY": key}


def show_value(name: str, value: str) -> str:
    """Return the value of a variable for output: a secret as stars, an address without its password. "" stays ""."""
    return STARS if value and SECRET_NAME.search(name) else hide_password(value)


def new_local_key() -> str:
    """Return a key that stands in for one of Skyvern's on this machine."""
    return LOCAL_KEY + secrets.token_urlsafe(32)


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _write_key(path: Path) -> str:
    """Write a new key to `path` and return it; when another process was first, its key. Raises OSError."""
    key = new_local_key()
    make_private_folder(path.parent)
    # Under another name first: a full disk or a kill must not leave an empty key.
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


def _words(detail: ErrorDetails) -> str:
    """Return what is wrong with a value, without the value: it may contain a password."""
    return str(detail.get("ctx", {}).get("error", detail["msg"])).replace("Input should be", "must be")


_HTTP: Final = ("http://", "https://")
_PREFIXES: Final[dict[str, tuple[str, ...]]] = {
    "redis_url": ("redis://", "rediss://", "unix://"),
    "database_url": ("sqlite:", "sqlite+", "postgresql:", "postgresql+", "postgres:"),
    "public_url": _HTTP,
    "skyvern_base_url": _HTTP,
}
# Prefixes that an error names, where some of the valid ones are only aliases.
_SHOWN: Final = {"database_url": ("sqlite:///", "postgresql://")}


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
