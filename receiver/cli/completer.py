"""What may come next on a command line, for the shell that asks. It is silent about everything that goes wrong.

What commands there are and what they take is read from a file in the user's cache, for to find it out imports every
command. The file is made anew when the command line has changed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from receiver import __version__

# What calls it: `runhook __complete WORD…`, the last one not finished.
CALL: Final = "__complete"
# Printed in place of a word: the shell completes the name of a file, or of a folder.
FILES: Final = ":files"
FOLDERS: Final = ":folders"

# A word that a shell takes as it is: what comes from a payload must not be able to mean more in a command line.
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._@%+,/:-]+")
_MOST: Final = 100

# A command as the file has it: {"options": {"--run": kind}, "arguments": [kind], "commands": {name: …}, "help": text}.
# A kind is what a value may be: a list of words, one of those above, the name of what is looked up, a list of kinds
# that begins with ANY_OF, VALUE for what nobody can guess, or null for a flag.
Table = dict[str, Any]
ANY_OF: Final = "any of"
VALUE: Final = "value"


def main(words: Sequence[str]) -> None:
    """Print what may stand in place of the last of `words`: a word a line, with a tab and what it is."""
    with suppress(Exception):
        lines = complete(_table(), words)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def complete(table: Table, words: Sequence[str]) -> list[str]:
    """Return the lines for the last of `words`, which are those after `runhook`."""
    *before, current = _joined(words) or [""]
    command, waiting, arguments, ended = _walk(table, before)
    prefix = ""
    if waiting is None and not ended and current.startswith("--") and "=" in current:
        option, _, current = current.partition("=")
        prefix, waiting = f"{option}=", command["options"].get(option)
        if waiting is None:
            return []
    if waiting is not None:
        return _values(waiting, current, _context(before), prefix)
    if current.startswith("-") and not ended:
        return _matching(((name, "") for name in command["options"]), current)
    if command["commands"]:
        return _matching(((name, below["help"]) for name, below in command["commands"].items()), current)
    kinds = command["arguments"]
    return _values(kinds[min(arguments, len(kinds) - 1)], current, _context(before), "") if kinds else []


def _joined(words: Sequence[str]) -> list[str]:
    """Return `words` as the command will get them: bash hands over --run=x as three words."""
    found: list[str] = []
    joins = False
    for word in words:
        if word == "=" and found and found[-1].startswith("--"):
            joins = True
            found.append("")
        elif joins:
            found[-1] = word
            joins = False
        else:
            found.append(word)
    return found


def _walk(table: Table, words: Iterable[str]) -> tuple[Table, Any, int, bool]:
    """Return the command that `words` name, the kind of the value that the last option waits for, or None, how many
    arguments there are, and whether there was a `--`.
    """
    command, waiting, arguments, ended = table, None, 0, False
    for word in words:
        if waiting is not None:
            waiting = None
        elif not ended and word == "--":
            ended = True
        elif not ended and word.startswith("-"):
            waiting = None if "=" in word else command["options"].get(word)
        elif command["commands"]:
            command = command["commands"].get(word) or {"options": {}, "arguments": [], "commands": {}}
        else:
            arguments += 1
    return command, waiting, arguments, ended


def _context(words: Sequence[str]) -> dict[str, str]:
    """Return the values of those options that say where names are looked up."""
    found = {}
    for name, value in zip(words, [*words[1:], ""], strict=False):
        option, equals, given = name.partition("=")
        if option in ("--config", "--data", "--url", "--profile"):
            found[option[2:]] = given if equals else value
    return found


def _values(kind: Any, current: str, context: dict[str, str], prefix: str) -> list[str]:
    """Return the lines for a value of this kind."""
    from receiver.cli import completion_names

    lines: list[str] = []
    for each in kind[1:] if isinstance(kind, list) and kind[:1] == [ANY_OF] else [kind]:
        if each in (FILES, FOLDERS):
            lines.append(each)
        elif isinstance(each, list):
            lines += _matching(((word, "") for word in each), current, prefix)
        elif each != VALUE:
            lines += _matching(completion_names.find(each, current, context), current, prefix)
    return lines


def _matching(known: Iterable[tuple[str, str]], current: str, prefix: str = "") -> list[str]:
    lines: list[str] = []
    for word, told in known:
        if word.startswith(current) and _HARMLESS.fullmatch(word) and len(lines) < _MOST:
            shown = " ".join("".join(each if each.isprintable() else " " for each in told).split())
            lines.append(f"{prefix}{word}" + (f"\t{shown}" if shown else ""))
    return lines


def _table() -> Table:
    """Return the table of the cache, or a new one."""
    path = table_file()
    with suppress(OSError, ValueError):
        found: Table = json.loads(path.read_text())
        return found
    # By name, for what makes it imports the whole command line.
    made: Table = import_module("receiver.cli.completion").write_table()
    return made


def table_file() -> Path:
    """Return the file of the cache for the command line as it is now."""
    ours = Path(__file__).parent  # options come from parameters of the API as well
    newest = max(int(each.stat().st_mtime) for folder in (ours, ours.with_name("api")) for each in folder.rglob("*.py"))
    return Path.home() / ".cache" / "runhook" / f"commands-{__version__}-{newest}.json"
