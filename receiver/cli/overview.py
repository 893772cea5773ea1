"""The help of `runhook` alone: every command, in boxes as those of a command's own help.

It comes from the table of commands, without the libraries that make the help of a command: they take longer to import
than everything else here.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from receiver.cli.commands import ACT, COMMANDS, LOOK, RUN, SET_UP

VERSION_HELP: Final = "Show the version and exit."

_ABOUT: Final = "The callback target for Skyvern runs: verify, keep, route, deliver, retry, replay."
_OPTIONS: Final = {"--version": VERSION_HELP, "-h, --help": "Show this message and exit."}
_NAMES: Final = max(map(len, COMMANDS)) + 1  # columns of the names
_FRAME: Final = 5  # columns of the edges, and of the spaces between them and the text
_NARROWEST: Final = 40  # columns; a terminal that has fewer folds the lines itself


def overview() -> str:
    """Return the help of `runhook`, as wide as the terminal."""
    return "\n".join(_lines(max(shutil.get_terminal_size().columns, _NARROWEST))) + "\n"


def _lines(width: int) -> Iterator[str]:
    yield "\n Usage: runhook [OPTIONS] COMMAND [ARGS]...\n"
    yield textwrap.fill(_ABOUT, width - 1, initial_indent=" ", subsequent_indent=" ") + "\n"
    yield from _box("Options", _OPTIONS, width)
    for panel in (RUN, LOOK, ACT, SET_UP):
        yield from _box(panel, {name: it.help for name, it in COMMANDS.items() if it.panel == panel}, width)


def _box(title: str, rows: Mapping[str, str], width: int) -> Iterator[str]:
    room = width - _NAMES - _FRAME
    yield f"╭─ {title} ".ljust(width - 1, "─") + "╮"
    for name, text in rows.items():
        for number, line in enumerate(textwrap.wrap(text, room)):
            yield f"│ {'' if number else name:{_NAMES}} {line:{room}} │"
    yield "╰".ljust(width - 1, "─") + "╯"
