"""Which service a command works on: this machine's ledger, or a remote one by --url, --profile or variables."""

from __future__ import annotations

import functools
import os
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, ParamSpec

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from handlers.support.url import http_parts
from receiver.config.variables import process_variables
from receiver.errors import ConfigError, UsageError, suggest

P = ParamSpec("P")

# Below the home directory.
FILE: Final = Path(".config") / "runhook" / "profiles.toml"


@dataclass(frozen=True, slots=True)
class RemoteService:
    """A service reached over HTTP. `url`: without a trailing / and without /api/v1."""

    url: str
    key: str = field(repr=False)


class Profile(BaseModel):
    """A profile of the file."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    url: str
    key: str | None = None


def remote_service(url: str | None, key: str | None, profile: str | None) -> RemoteService | None:
    """Return the service of these options or of RUNHOOK_URL; None for this machine's ledger.

    The key is that of --key, else of the profile, else RUNHOOK_KEY. Raises UsageError, and ConfigError for the file.
    """
    variables = process_variables()
    if profile is not None:
        if url is not None:
            raise UsageError("--profile and --url are mutually exclusive")
        found = _profile(profile)
        option, address, profile_key = f"--profile {profile}: url", found.url, found.key
    else:
        option, address = ("--url", url) if url is not None else ("RUNHOOK_URL", variables.text("RUNHOOK_URL"))
        profile_key = None
    if not address:
        if key is not None:
            raise UsageError("--key needs a remote service: name it with --url, --profile or RUNHOOK_URL")
        return None
    chosen = key if key is not None else profile_key if profile_key is not None else variables.text("RUNHOOK_KEY")
    if not chosen:
        raise UsageError(
            f"{option} needs a key: --key, RUNHOOK_KEY or a profile; create one with `runhook keys create`"
        )
    if not (chosen.isascii() and chosen.isprintable() and " " not in chosen):
        raise UsageError("the key contains a character that no key has: copy it again")
    return RemoteService(checked_url(option, address), chosen)


def here_only(command: Callable[P, None]) -> Callable[P, None]:
    """Return `command`, which works on its own host: it raises UsageError if RUNHOOK_URL names a service."""

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        found = process_variables().find("RUNHOOK_URL")
        if found and found.value.strip():
            raise UsageError(
                f"RUNHOOK_URL ({found.origin}) names a remote service, but this command works on its own host only: "
                "run it there, or unset the variable"
            )
        command(*args, **kwargs)

    return call


def checked_url(option: str, url: str) -> str:
    """Return `url` in one form. Raises UsageError if it is not the address of a service."""
    parts = http_parts(url)
    if parts is None or parts.query or parts.fragment:
        raise UsageError(f"{option}: must be a URL such as https://runhook.example.com")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{option}: must not contain a user or password; use an API key")
    return url.rstrip("/").removesuffix("/api/v1").rstrip("/")


def _profile(name: str) -> Profile:
    profiles = read_profiles()
    if name not in profiles:
        guess = suggest(name, profiles)
        hint = f"did you mean {guess}?" if guess else f"known: {', '.join(sorted(profiles)) or 'none'}"
        raise UsageError(f"--profile {name}: not found in {Path.home() / FILE}; {hint}")
    return profiles[name]


def read_profiles() -> dict[str, Profile]:
    """Return the profiles of the file by name. Raises ConfigError, also if other users can read the file."""
    path = Path.home() / FILE
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(f"{path}: contains keys and other users can read it; run `chmod 600 {path}`")
            return TypeAdapter(dict[str, Profile]).validate_python(tomllib.load(file))
    except FileNotFoundError:
        raise ConfigError(f'{path}: not found; write [NAME], url = "https://…", key = "rhk_…" in it') from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise ConfigError(*(f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {str(error).partition(':')[0]}") from None
