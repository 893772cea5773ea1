"""Jinja2's sandbox for operators' templates. This module knows no delivery and no sink.

A sink's timeout bounds the time of a template. No timeout interrupts one operator, and its numbers may come from a
payload. So templates cannot use `**`, and `*` repeats only what stays short.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

# `random` would differ at every attempt. The others are for HTML or debugging, and `finalize` escapes values.
_DROPPED_FILTERS = ("random", "pprint", "xmlattr", "safe", "forceescape", "escape", "e", "urlize", "striptags")

# Maximum characters or items of a repeated text or list.
MAX_REPEATED: Final = 256 * 1024

GLOBALS: Final = frozenset({"range", "dict", "namespace"})


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox without powers, in which a field of the payload wins over a method of dict with its name."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Return what `*` gives. Raises SecurityError for a power, and for a repetition that is too long."""
        if operator == "**":
            raise SecurityError("powers are not supported")
        value, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int) and hasattr(value, "__len__") and len(value) * times > MAX_REPEATED:
            raise SecurityError("a repeated text or list is too large")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return what `obj.attribute` gives."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return what `obj[argument]` gives."""
        if isinstance(obj, Mapping):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)


@functools.lru_cache(maxsize=32)
def environment(finalize: Callable[[Any], str], to_json: Callable[[Any], str]) -> Sandbox:
    """Return the environment whose values become text by `finalize`. `to_json`: the filter `tojson`."""
    sandbox = Sandbox(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # no HTML is made here
        finalize=finalize,
        keep_trailing_newline=True,
        extensions=("jinja2.ext.loopcontrols",),
    )
    sandbox.globals = {name: sandbox.globals[name] for name in GLOBALS}
    for dropped in _DROPPED_FILTERS:
        sandbox.filters.pop(dropped, None)
    sandbox.filters["tojson"] = to_json
    return sandbox
