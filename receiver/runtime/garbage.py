"""When Python collects garbage: seldom while a process imports, and never among what it imported."""

from __future__ import annotations

import gc
from typing import Final

_USUAL: Final = gc.get_threshold()
_SELDOM: Final = 200_000  # new objects between two collections; with the usual 700 a start is a fifth longer


def relax_gc_for_imports() -> None:
    """Collect garbage seldom: imports make hundreds of thousands of objects, and all of them stay."""
    gc.set_threshold(_SELDOM)


def freeze_imports() -> None:
    """Collect garbage as usual again, but never among the objects that exist now. For a process that runs for long."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
