"""Jinja2's sandbox for operators' templates, with limits on time and memory.

A thread cannot be ended from outside, so a template stops itself: each turn of a loop and each call checks the time,
and whatever could make a value much larger than its parts first asks how large. This module knows no delivery and no
sink.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# Maximum characters or items of one value that is made, and of all of one rendering; bits of a product.
MAX_LENGTH: Final = 4 * 1024 * 1024
MAX_TOTAL: Final = 16 * MAX_LENGTH
MAX_BITS: Final = 4096

# `random` would differ at every attempt. The others are for HTML or debugging, and `finalize` escapes values.
_DROPPED_FILTERS = ("random", "pprint", "xmlattr", "safe", "forceescape", "escape", "e", "urlize", "striptags")
# Filters, and methods of texts, that take a width or a number of items.
_SIZED = ("batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "zfill")
_FORMATTING = ("format", "format_map")
# A width of five digits, or one that a value gives.
_WIDE = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(?:\d*\.)?(?:\d{5}|\*)|\{[^{}]*:[^{}]*(?:\d{5}|\{)")

GLOBALS: Final = frozenset({"range", "dict", "namespace"})


class _Limits:
    """What a rendering may still use. `end`: by time.thread_time(). `left`: characters and items."""

    def __init__(self, end: float, left: float) -> None:
        self.end = end
        self.left = left

    def tick(self) -> bool:
        """Return True. Raises SecurityError when the time is over."""
        if time.thread_time() > self.end:
            raise SecurityError("it takes too long; are its loops too large?")
        return True

    def take(self, size: int) -> None:
        """Allow a value of this size. Raises SecurityError."""
        self.left -= size
        if size > MAX_LENGTH or self.left < 0:
            raise SecurityError("a text or list that it makes is too large")


_limits: ContextVar[_Limits] = ContextVar("limits", default=_Limits(float("inf"), float("inf")))  # noqa: B039


@contextmanager
def limits(seconds: float) -> Iterator[None]:
    """Stop templates in the block after `seconds` of this thread's CPU time: they raise SecurityError."""
    token = _limits.set(_Limits(time.thread_time() + seconds, MAX_TOTAL))
    try:
        yield
    finally:
        _limits.reset(token)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, in which a field of the payload wins over a method of dict with the same name."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def tick(self) -> bool:
        """Check the time limit. Each turn of a loop calls this; returns True."""
        return _limits.get().tick()

    def concat_values(self, *values: Any) -> str:
        """Return what `~` gives."""
        texts = [str(value) for value in values]
        _limits.get().take(sum(map(len, texts)))
        return "".join(texts)

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
        method = getattr(__obj, "__wrapped__", __obj)  # Jinja2 wraps str.format
        if isinstance(text := getattr(method, "__self__", None), str):
            _check_size(method.__name__, [text, *args], kwargs)
            if method.__name__ == "join" and args:
                args = (_counted(args[0], len(text)),)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Return what an operator gives. Raises SecurityError for what would be huge: no time limit ends a power."""
        if operator == "**":
            if not (abs(left) < 1 << 64 and abs(right) <= 64):
                raise SecurityError("the power is too large")
        elif operator == "%" and isinstance(left, str):
            values, named = ((), right) if isinstance(right, Mapping) else (right, {})
            _check_size("format", [left, *values] if isinstance(values, tuple) else [left, values], named)
        elif isinstance(left, int) and isinstance(right, int):
            if operator == "*" and left.bit_length() + right.bit_length() > MAX_BITS:
                raise SecurityError("the product is too large")
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _limits.get().take(len(left) + len(right))
        elif operator == "*":
            value, times = (left, right) if hasattr(left, "__len__") else (right, left)
            if hasattr(value, "__len__") and isinstance(times, int):
                _limits.get().take(len(value) * max(times, 0))
        return super().call_binop(context, operator, left, right)


def _check_size(name: str, values: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Check what a filter or a method of a text will make of its arguments, the first of which is its own.

    Raises SecurityError. Any of them may make another value as large as its own, which counts towards MAX_TOTAL.
    """
    allowed, size = _limits.get(), 0
    allowed.tick()
    allowed.left -= len(values[0]) if hasattr(values[0], "__len__") else 0
    others = [
        *values[1:],
        *(value for key, value in keywords.items() if name not in _FORMATTING or key in str(values[0])),
    ]
    if name in _SIZED:
        sizes = [len(each) if isinstance(each, str) else each for each in others if isinstance(each, (int, str))]
        lines = values[0].count("\n") + values[0].count("\t") if isinstance(values[0], str) else 0
        size = max(sizes, default=0) * (1 + lines)
    elif name in _FORMATTING:
        text = str(values[0])
        if _WIDE.search(text):
            raise SecurityError("a width in it is too large")
        longest = max((len(each) for each in others if isinstance(each, str)), default=0)
        size = (text.count("%") + text.count("{")) * longest
    elif name == "replace" and len(others) > 1:
        text, old, new = map(str, (values[0], *others[:2]))
        size = len(text) + text.count(old) * len(new)
    allowed.take(size)


def _counted(values: Iterable[Any], separator: int = 0) -> Iterator[Any]:
    """Yield values that become one: each with the length of its separator must be allowed. Raises SecurityError."""
    allowed = _limits.get()
    size = 0
    for value in values:
        allowed.tick()
        size += separator + (len(value) if hasattr(value, "__len__") else 0)
        if size > MAX_LENGTH:
            break
        yield value
    allowed.take(size)


@jinja2.pass_environment
def _join(environment: Sandbox, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """Do as Jinja2's filter."""
    values = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return str(d).join(_counted(map(str, values), len(str(d))))


@jinja2.pass_environment
def _sum(environment: Sandbox, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Do as Jinja2's filter."""
    values = iterable if attribute is None else map(make_attrgetter(environment, attribute), iterable)
    return sum(_counted(values), start)


# What Jinja2 passes to some filters before their value.
_PASSED: Final = (nodes.EvalContext, jinja2.Environment, jinja2.runtime.Context)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that checks the size of its result first."""

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_size(name, [each for each in args if not isinstance(each, _PASSED)], kwargs)
        return function(*args, **kwargs)

    return bounded


class _Limited(NodeTransformer):
    """Makes the loops and the `~` of a template check the limits."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_call("tick", node), node.test, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(_call("tick", node), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _call("concat_values", node, *node.nodes)


def _call(method: str, at: nodes.Node, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None, lineno=at.lineno)


def limited(tree: nodes.Template) -> nodes.Template:
    """Return the tree of a template that checks the limits."""
    return _Limited().visit(tree)  # type: ignore[no-any-return]


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
    sandbox.filters |= {"join": _join, "sum": _sum, "tojson": to_json}
    sandbox.filters = {name: _bounded(name, function) for name, function in sandbox.filters.items()}
    return sandbox
