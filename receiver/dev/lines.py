"""The lines of several programs on one console, each with the name of its program in front."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import IO, Final

_COLOURS: Final = (36, 33, 32, 35, 34, 31)


class Lines:
    """Prints lines to a console. `colour`: whether names are coloured; None: on a terminal."""

    def __init__(self, console: IO[str], names: Sequence[str], *, colour: bool | None = None) -> None:
        self._console = console
        self._colour = console.isatty() if colour is None else colour
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
        self._width = max(len(name) for name in [*names, "runhook"])

    def __call__(self, name: str, text: str) -> None:
        """Print one line under `name`."""
        label = name.ljust(self._width)
        if self._colour:
            label = f"\x1b[{self._colours.get(name, 1)}m{label}\x1b[0m"
        with contextlib.suppress(OSError):  # the terminal is gone; the programs continue
            self._console.write(f"{label} | {text}\n")
            self._console.flush()
