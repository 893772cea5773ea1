"""Which service a command is to work on: this machine's ledger, or a remote one by --url, --profile or variables."""

from __future__ import annotations

import functools
import os
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, ParamSpec

from handlers.support.url import http_parts
from receiver.config.variables import process_variables
from receiver.errors import ConfigError, UsageError, suggest

P = ParamSpec("P")

# Below the home directory.
FILE: Final = Path(".config") / "runhook" / "profiles.toml"
_MEMBERS: Final = ("url", "key")


@dataclass(frozen=True, slots=True)
class RemoteService:
    """A service that is reached over HTTP. `url`: without a / at the end, and without /api/v1."""

    url: str
    key: str = field(repr=False)


def remote_service(url: str | None, key: str | None, profile: str | None) -> RemoteService | None:
    """Return the service that these options name, or RUNHOOK_URL; None for this machine's ledger.

    The key is that of --key, else of the profile, else RUNHOOK_KEY. Raises UsageError, and ConfigError for the file.
    """
    variables = process_variables()
    if profile is not None:
        if url is not None:
            raise UsageError("--profile and --url: one of them")
        found = _profile(Path.home() / FILE, profile)
        where, address, named_key = f"--profile {profile}: url", found["url"], found.get("key")
    else:
        where, address = ("--url", url) if url is not None else ("RUNHOOK_URL", variables.text("RUNHOOK_URL"))
        named_key = None
    if not address:
        if key is not None:
            raise UsageError("--key: opens a remote service; name it with --url, --profile or RUNHOOK_URL")
        return None
    chosen = key if key is not None else named_key if named_key is not None else variables.text("RUNHOOK_KEY")
    if not chosen:
        raise UsageError(f"{where}: needs a key: --key, RUNHOOK_KEY or a profile; `runhook keys create` makes one")
    if not (chosen.isascii() and chosen.isprintable() and " " not in chosen):
        raise UsageError("the key has a character that no key has; was it copied whole?")
    return RemoteService(checked_url(where, address), chosen)


def here_only(command: Callable[P, None]) -> Callable[P, None]:
    """Return `command`, which works on what this machine reaches: it ends with a UsageError where RUNHOOK_URL names a
    service, for whoever sets that does not mean a ledger of this machine."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        found = process_variables().find("RUNHOOK_URL")
        if found and found.value.strip():
            raise UsageError(
                f"RUNHOOK_URL ({found.origin}) names a service, and this command works on its host only: run it there, "
                "or here without that variable"
            )
        command(*args, **kwargs)

    return call


def profile_names() -> list[str]:
    """Return the names of the profiles. Raises ConfigError."""
    path = Path.home() / FILE
    return sorted(_read(path)) if path.exists() else []


def checked_url(where: str, url: str) -> str:
    """Return `url` in one form. Raises UsageError for what is no address of a service."""
    parts = http_parts(url)
    if parts is None or parts.query or parts.fragment:
        raise UsageError(f"{where}: must be a URL such as https://runhook.example.com")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{where}: must hold no user and no password; the key is what opens the service")
    return url.rstrip("/").removesuffix("/api/v1").rstrip("/")


def _profile(path: Path, name: str) -> dict[str, str]:
    known = _read(path)
    if name not in known:
        guess = suggest(name, known)
        hint = f"did you mean {guess}?" if guess else f"there are {', '.join(sorted(known)) or 'none'}"
        raise UsageError(f"--profile {name}: is not in {path}; {hint}")
    return known[name]


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Return the profiles of the file by name. Raises ConfigError, also when others can read the file."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(f"{path}: holds keys, and others can read it; `chmod 600 {path}`")
            content = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f'{path}: no such file; write [NAME], url = "https://…", key = "rhk_…" in it') from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no TOML: {str(error).partition(':')[0]}") from None
    return {name: _members(path, name, value) for name, value in content.items()}


def _members(path: Path, name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {name}: must be a table: [{name}]")
    for member, given in value.items():
        if member not in _MEMBERS:
            raise ConfigError(f"{path}: {name}.{member}: there is no such member; there are {', '.join(_MEMBERS)}")
        if not isinstance(given, str):
            raise ConfigError(f"{path}: {name}.{member}: must be a text")
    if not value.get("url"):
        raise ConfigError(f"{path}: {name}: has no url")
    return value
