"""Read variables from where they live, and remember the origin of each. The only reader of os.environ.

In this order, the first value that is not empty counts:

1. an option of the command line
2. the environment, NAME; or the file that NAME_FILE names there, as Docker and Kubernetes mount secrets
3. `.env` in the working directory, NAME or NAME_FILE
4. a file called NAME, in any case, in the secrets directory
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Final, NamedTuple, Self

from receiver.errors import ConfigError

ENVIRONMENT: Final = "environment"
OPTION: Final = "option"
DEFAULT: Final = "default"
DOTENV: Final = Path(".env")
SECRETS_DIR: Final = "RUNHOOK_SECRETS_DIR"
DEFAULT_SECRETS: Final = "/run/secrets"
_FILE: Final = "_FILE"


class Variable(NamedTuple):
    """The value of a variable, and its origin in words."""

    value: str
    origin: str


class Variables(Mapping[str, str]):
    """All variables that are set, by name. The file of NAME_FILE is read when NAME is looked up.

    A look-up raises ConfigError when NAME and NAME_FILE are both set, or the file can't be read. Iterating yields the
    environment with which a child process in the same directory has the same values.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Merge `environ` with `.env`, and list the secrets directory. Raises ConfigError."""
        self._found = {name: Variable(value, ENVIRONMENT) for name, value in environ.items()}
        for name, variable in _read_dotenv().items():
            base = name.removesuffix(_FILE)
            rivals = {environ.get(each, "").strip() for each in (base, base + _FILE)} - {"", variable.value.strip()}
            if not rivals:
                self._found[name] = variable
        self._secrets = self._list_secrets()

    def find(self, name: str) -> Variable | None:
        """Return the value of a variable with its origin; None when it is not set. An empty one has the value ""."""
        plain = self._found.get(name)
        named = self._found.get(name + _FILE)
        file = named.value.strip() if named else ""
        if plain and plain.value.strip():
            if file:
                raise ConfigError(f"{name} and {name}{_FILE} are both set ({plain.origin}). Unset one of them")
            return plain
        if named and file and (text := _read_secret(name + _FILE, Path(file))):
            return Variable(text, f"file {file} ({name}{_FILE}, {named.origin})")
        path = self._secrets.get(name.lower())
        if path is not None and (text := _read_secret(name, path)):
            return Variable(text, f"secrets directory: {path}")
        return plain

    def text(self, name: str) -> str:
        """Return the value of a variable without blanks around it; "" when it is not set."""
        return self.get(name, "").strip()

    def replaced(self, name: str, value: str, origin: str) -> Self:
        """Return these variables with another value for one."""
        changed = copy(self)
        changed._found = {**self._found, name: Variable(value, origin)}
        changed._found.pop(name + _FILE, None)
        return changed

    def __getitem__(self, name: str) -> str:
        if (variable := self.find(name)) is None:
            raise KeyError(name)
        return variable.value

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def _list_secrets(self) -> dict[str, Path]:
        """Return the files of the secrets directory by their names in lower case."""
        named = self._found.get(SECRETS_DIR, Variable("", "")).value.strip()
        try:
            return {path.name.lower(): path for path in sorted(Path(named or DEFAULT_SECRETS).iterdir())}
        except OSError as error:
            if named:
                raise ConfigError(f"{SECRETS_DIR}: {named} can't be read: {_reason(error)}") from None
            return {}


def process_variables() -> Variables:
    """Return the variables of this process, and add those of `.env` to its environment, which libraries such as boto3
    read. Raises ConfigError."""
    variables = Variables(os.environ)
    os.environ.update({name: value for name, (value, origin) in variables._found.items() if origin != ENVIRONMENT})
    return variables


def replace_environment(environ: Mapping[str, str]) -> None:
    """Replace the environment of this process, which is about to become another program."""
    os.environ.clear()
    os.environ.update(environ)


def _read_dotenv() -> dict[str, Variable]:
    """Return what `.env` in the working directory sets. Raises ConfigError with the line that is wrong."""
    try:
        text = DOTENV.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):  # a virtual environment may have this name
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{DOTENV}: can't be read: {_reason(error)}") from None
    from dotenv.parser import parse_stream

    variables: dict[str, Variable] = {}
    for each in parse_stream(io.StringIO(text)):
        blank = len(each.original.string) - len(each.original.string.lstrip())
        line = each.original.line + each.original.string[:blank].count("\n")
        if each.error or (each.key and each.value is None) or "\0" in each.original.string:
            raise ConfigError(f"{DOTENV}:{line}: not a variable: write NAME=value, and quote a value with line breaks")
        if each.key:
            variables[each.key] = Variable(each.value or "", f"{DOTENV}:{line}")
    return variables


def _read_secret(variable: str, path: Path) -> str:
    """Return the content of a file without blanks around it. Raises ConfigError that names `variable`."""
    try:
        return path.read_text(encoding="utf-8-sig").strip()  # editors of Windows begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{variable}: {path} can't be read: {_reason(error)}") from None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8 text"
