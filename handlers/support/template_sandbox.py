"""Jinja2's sandbox for operators' templates, with a limit on time.

A thread cannot be ended from outside, so a template stops itself: each turn of a loop and each call checks a deadline.
This module knows no delivery and no sink.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# Seconds of CPU that one rendering may take.
MAX_SECONDS = 3.0
# Maximum length of a text or list that is repeated by `*`.
MAX_LENGTH: Final = 4 * 1024 * 1024

# `random` would differ at every attempt. The others are for HTML or debugging, and `finalize` escapes values.
_DROPPED_FILTERS = ("random", "pprint", "xmlattr", "safe", "forceescape", "escape", "e", "urlize", "striptags")

_end: ContextVar[float] = ContextVar("end", default=float("inf"))


GLOBALS: Final = frozenset({"range", "dict", "namespace"})


@contextmanager
def time_limit() -> Iterator[None]:
    """Stop templates in the block after MAX_SECONDS of this thread's CPU time: they raise SecurityError."""
    token = _end.set(time.thread_time() + MAX_SECONDS)
    try:
        yield
    finally:
        _end.reset(token)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, in which a field of the payload wins over a method of dict with the same name."""

    intercepted_binops = frozenset({"*", "**"})

    def tick(self) -> bool:
        """Check the time limit. Each turn of a loop calls this; returns True."""
        if time.thread_time() > _end.get():
            raise SecurityError("it takes too long; are its loops too large?")
        return True

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

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, PYI063 - as in Jinja2
        """Return what a call gives."""
        __self.tick()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Return what `*` or `**` gives. Raises SecurityError for what would be huge: no time limit ends a power."""
        if operator == "**" and not (abs(left) < 1 << 64 and abs(right) <= 64):
            raise SecurityError("the power is too large")
        for value, times in ((left, right), (right, left)) if operator == "*" else ():
            if hasattr(value, "__len__") and isinstance(times, int) and len(value) * times > MAX_LENGTH:
                raise SecurityError("the repeated value is too large")
        return super().call_binop(context, operator, left, right)


class _Ticking(NodeTransformer):
    """Makes the loops of a template check the time limit."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_tick(node), node.test, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(_tick(node), lineno=node.lineno))
        return node


def _tick(at: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None, lineno=at.lineno)


def limited(tree: nodes.Template) -> nodes.Template:
    """Return the tree of a template whose loops check the time limit."""
    return _Ticking().visit(tree)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=32)
def environment(finalize: Callable[[Any], str], to_json: Callable[[Any], str]) -> Sandbox:
    """Return the environment whose values become text by `finalize`. `to_json`: the filter `tojson`."""
    made = Sandbox(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # no HTML is made here
        finalize=finalize,
        keep_trailing_newline=True,
        extensions=("jinja2.ext.loopcontrols",),
    )
    made.globals = {name: made.globals[name] for name in GLOBALS}
    for dropped in _DROPPED_FILTERS:
        made.filters.pop(dropped, None)
    made.filters["tojson"] = to_json
    return made
