"""Jinja2's sandbox for operators' templates, with limits on time and on what one operation makes.

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
# Maximum length of a range, and of a text or list that an operator or a call makes.
MAX_RANGE: Final = 100_000
MAX_LENGTH: Final = 4 * 1024 * 1024
_MAX_BITS: Final = 1 << 16  # of a product of whole numbers

# `random` would differ at every attempt. The others are for HTML or debugging, and `finalize` escapes values.
_DROPPED_FILTERS = ("random", "pprint", "xmlattr", "safe", "forceescape", "escape", "e", "urlize", "striptags")

_end: ContextVar[float] = ContextVar("end", default=float("inf"))


def _range(*args: int) -> range:
    values = range(*args)
    if len(values) > MAX_RANGE:
        raise SecurityError(f"a range has more than {MAX_RANGE:,} numbers: its loop is too large")
    return values


_GLOBALS: Final[Mapping[str, Any]] = {"range": _range, "dict": dict, "namespace": jinja2.utils.Namespace}
GLOBALS: Final = frozenset(_GLOBALS)


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

    intercepted_binops = frozenset({"*", "**", "+"})

    def tick(self) -> bool:
        """Check the time limit. Each turn of a loop calls this; returns True."""
        if time.thread_time() > _end.get():
            raise SecurityError("it takes too long; are its loops too large?")
        return True

    def joined(self, *values: Any) -> Any:
        """Return what `~` makes."""
        return _limited("".join(map(str, values)))

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
        return _limited(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Return what an operator gives. Raises SecurityError for a result that would be huge."""
        if operator == "**" and not (isinstance(left, float) or (abs(left) < 1 << 64 and abs(right) <= 64)):
            raise SecurityError("the power is too large")
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if hasattr(value, "__len__") and isinstance(times, int) and len(value) * times > MAX_LENGTH:
                    raise SecurityError("the repeated value is too large")
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_BITS:
                raise SecurityError("the product is too large")
        return _limited(super().call_binop(context, operator, left, right))


def _limited(value: Any) -> Any:
    if isinstance(value, (str, bytes, list, tuple)) and len(value) > MAX_LENGTH:
        raise SecurityError("it makes a value that is too large")
    return value


class _Ticking(NodeTransformer):
    """Makes loops and macros of a template check the time limit, and `~` the length of its result."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_call("tick", node), node.test, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(_call("tick", node), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _call("joined", node, *node.nodes)


def _call(name: str, at: nodes.Node, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None, lineno=at.lineno)


def limited(tree: nodes.Template) -> nodes.Template:
    """Return the tree of a template with checks of its limits."""
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
    made.globals = dict(_GLOBALS)
    for dropped in _DROPPED_FILTERS:
        made.filters.pop(dropped, None)
    made.filters["tojson"] = to_json
    return made
