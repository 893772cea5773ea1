"""The environment in which operators' templates run: Jinja2's sandbox, with a budget that stops a template which burns.

Nobody can end a thread from outside, and a template that is merely abandoned goes on burning. So it stops itself: every
turn of a loop, call and filter takes a step of the budget, every text that is made takes characters, and what could
grow at once (repeat, join, replace, pad, nest) is measured before it is done. A spent budget raises in the template.

This file knows no delivery and no sink.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import GeneratorType
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# Turns of loops, calls, filters, and values in the lists that a template makes.
MAX_STEPS = 2_000_000
# Characters of all texts that a template makes on its way to its result.
MAX_TEXT = 64 << 20
# Seconds of CPU that one filling may take.
MAX_SECONDS = 3.0
# Longest text or list that a repetition gives.
MAX_REPEATED: Final = 256 * 1024
# Largest number that a filter or a method of a text takes: a width, a count, a precision.
MAX_NUMBER: Final = 100_000
_LONGEST_FORMAT: Final = 4096  # characters
_MAX_BITS: Final = 1 << 16  # of a product of whole numbers
_CLOCK_EVERY: Final = 64  # steps between two looks at the clock

_WIDTH = re.compile(r"%[^A-Za-z%]*?(?:\*|\d{5,})|\{[^{}]*:[^{}]*(?:\{|\d{5,})")
_TAKE_NUMBERS = frozenset({"center", "indent", "wordwrap", "batch", "slice", "round", "tojson"})
_PADS = frozenset({"center", "ljust", "rjust", "zfill"})
_FORBIDDEN_METHODS = frozenset({"translate", "maketrans"})
_GLOBALS: dict[str, Any] = {"range": jinja2.sandbox.safe_range, "dict": dict, "namespace": jinja2.utils.Namespace}
# `random` would differ at every attempt; the rest are for HTML or debugging, and escaping is the job of `finalize`.
_DROPPED_FILTERS = ("random", "pprint", "xmlattr", "safe", "forceescape", "escape", "e", "urlize", "striptags")

GLOBALS: Final = frozenset(_GLOBALS)


class Budget:
    """What one filling of a template may still use. Raises SecurityError when it is spent."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._text = MAX_TEXT
        self._end = time.thread_time() + MAX_SECONDS
        self._look_at = self._steps

    def step(self, count: int = 1) -> None:
        """Take `count` steps."""
        self._steps -= count
        if self._steps < self._look_at:
            self._look_at = self._steps - _CLOCK_EVERY
            if self._steps < 0 or time.thread_time() > self._end:
                raise SecurityError("it takes too long; are its loops too large?")

    def room(self, characters: int) -> None:
        """Check that a text of so many characters may be made."""
        if characters > self._text:
            raise SecurityError("it makes too much text")

    def text(self, characters: int) -> None:
        """Take so many characters."""
        self.room(characters)
        self._text -= characters

    def weigh(self, value: Any) -> None:
        """Take a step for each value in `value`, a list or mapping that the template made: as often as it is in it."""
        left = [value]
        while left:
            each = left.pop()
            if isinstance(each, (list, tuple, set, frozenset)):
                self.step(1 + len(each))
                left.extend(each)
            elif isinstance(each, dict):
                self.step(1 + len(each))
                left.extend(each.values())
                left.extend(key for key in each if isinstance(key, tuple))

    def made(self, value: Any) -> Any:
        """Return `value`, which a call, filter or operator made, after what it costs was taken."""
        if isinstance(value, (str, bytes)):
            self.text(len(value))
        elif isinstance(value, (list, tuple, dict, set, frozenset)):
            self.weigh(value)
        return value

    def counted(self, values: Any) -> Iterator[Any]:
        """Yield `values`, and take a step for each."""
        for value in values:
            self.step()
            yield value


class _Active(threading.local):
    budget: Budget | None = None


_active = _Active()


@contextmanager
def budget() -> Iterator[None]:
    """Give what is compiled or rendered in the block, in this thread, a budget of its own."""
    before, _active.budget = _active.budget, Budget()
    try:
        yield
    finally:
        _active.budget = before


def _spend() -> Budget:
    assert _active.budget is not None, "templates run with a budget"
    return _active.budget


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, where a field of the payload always wins over a method of dict that has its name."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def tick(self, characters: int = 0) -> bool:
        """Take a step, and the text that a turn of the loop writes. Templates are made to call this; returns True."""
        _spend().step()
        _spend().text(characters)
        return True

    def made(self, value: Any) -> Any:
        """Return a list or mapping that stands in a template, or a slice. Templates are made to call this."""
        return _spend().made(value)

    def joined(self, *values: Any) -> str:
        """Return what `~` gives. Templates are made to call this."""
        texts = [str(value) for value in values]
        _spend().text(sum(map(len, texts)))
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
        """Call what a template calls, after a check of what the call could make."""
        if getattr(__obj, "__self__", None) is __self:  # tick, made, joined
            return __obj(*args)
        _spend().step()
        args = _check_call(__obj, args, kwargs)
        return _spend().made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Return what an operator gives, after a check of how much that is."""
        _check_operator(operator, left, right)
        return _spend().made(super().call_binop(context, operator, left, right))


def _check_operator(operator: str, left: Any, right: Any) -> None:
    """Raise SecurityError for an operation whose result could be huge: repeated text, powers, widths."""
    if operator == "**" and not (isinstance(left, float) or (abs(left) < 1 << 64 and abs(right) <= 64)):
        raise SecurityError("the power is too large")
    if operator == "*":
        for thing, times in ((left, right), (right, left)):
            if hasattr(thing, "__len__") and isinstance(times, int) and len(thing) * times > MAX_REPEATED:
                raise SecurityError("the repeated value is too long")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_BITS:
            raise SecurityError("the product is too large")
    if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
        _spend().room(len(left) + len(right))
    if operator == "%" and isinstance(left, (str, bytes)):
        _check_format(left, right.values() if isinstance(right, Mapping) else [right], "%")


def _check_call(called: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Check a call of a method of a text or number for what it could make; return its arguments."""
    owner = getattr(getattr(called, "__wrapped__", called), "__self__", None)
    name = getattr(called, "__name__", "")
    given = [*args, *kwargs.values()]
    if isinstance(owner, (int, str, bytes)) and (name in _PADS or isinstance(owner, int)):
        _check_numbers(given)
    if not isinstance(owner, (str, bytes)):
        return args
    if name in _FORBIDDEN_METHODS:
        raise SecurityError(f"{name} is not for templates")
    if name in ("format", "format_map"):
        _check_format(owner, given, "{")
    elif name == "expandtabs":
        _check_numbers(given)
        _spend().room(len(owner) + owner.count("\t" if isinstance(owner, str) else b"\t") * sum(given or [8]))  # type: ignore[arg-type]
    elif name == "replace" and len(args) > 1:
        _spend().room(len(owner) + owner.count(args[0]) * len(args[1]))
    elif name == "join" and len(args) == 1:
        args = (_joinable(args[0], len(owner)),)
    return args


def _check_numbers(given: Any) -> None:
    if any(isinstance(each, int) and abs(each) > MAX_NUMBER for each in given):
        raise SecurityError(f"a number over {MAX_NUMBER:,} is given where a width or a count belongs")


def _check_format(text: str | bytes, given: Any, mark: str) -> None:
    shown = text if isinstance(text, str) else text.decode("latin-1")
    if len(shown) > _LONGEST_FORMAT:
        raise SecurityError("a format is too long")
    if _WIDTH.search(shown):
        raise SecurityError("a width in a format is too large, or is a value")
    longest = max((_length(each) for each in given), default=0)
    _spend().room(len(shown) + shown.count(mark) * longest)


def _length(value: Any) -> int:
    """Return how many characters a value has at most when it is formatted, near enough."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, (list, tuple)):
        return sum(map(_length, value))
    return sum(map(_length, value.values())) if isinstance(value, Mapping) else 100


def _joinable(values: Any, separator: int) -> list[Any]:
    """Return `values` as a list, once their texts with a separator of so many characters may be made."""
    found = list(_spend().counted(values))
    _spend().room(sum(separator + _length(each) for each in found))
    return found


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that takes what it costs from the budget."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # of the arguments, the value; before it, a context

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _spend().step()
        args = _check_filter(name, args, kwargs, first)
        found = function(*args, **kwargs)
        return _spend().counted(found) if isinstance(found, GeneratorType) else _spend().made(found)

    return guarded


def _check_filter(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], first: int) -> tuple[Any, ...]:
    """Check a filter's arguments for what it could make; return them."""
    value, rest = args[first], [*args[first + 1 :], *kwargs.values()]
    texts = max((len(each) for each in rest if isinstance(each, str)), default=0)
    if name in _TAKE_NUMBERS:
        _check_numbers(rest)
    if name == "join":
        args = (*args[:first], _joinable(value, texts), *args[first + 1 :])
    elif name == "format":
        _check_format(str(value), rest, "%")
    elif name == "replace" and len(rest) > 1:
        _spend().room((str(value).count(str(rest[0])) + 1) * len(str(rest[1])))
    elif name == "indent":
        number = max((each for each in rest if isinstance(each, int)), default=4)
        _spend().room((str(value).count("\n") + 1) * (number + texts))
    elif name == "wordwrap":
        _spend().room(len(value) * (1 + texts))
        if len(value) > MAX_REPEATED:
            raise SecurityError("the text is too long to be wrapped")
    elif name == "sum" and any(isinstance(each, (list, tuple)) for each in rest):
        raise SecurityError("only numbers can be summed")
    return args


class _Metered(NodeTransformer):
    """Makes a template call tick, made and joined, which take from the budget."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_call("tick", node), node.test, lineno=node.lineno)
        return _ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _ticking(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _ticking(node)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _call("made", node, node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _call("made", node, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _call("made", node, node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _call("made", node, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja2 calls it so
        self.generic_visit(node)
        return _call("joined", node, *node.nodes)


def _call(name: str, at: nodes.Node, *args: nodes.Expr) -> nodes.Call:
    found = nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)
    return found.set_lineno(at.lineno)  # type: ignore[return-value]


def _ticking(node: Any) -> nodes.Node:
    """Return `node`, whose body begins with a tick for each turn and the text that it writes."""
    written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
    tick = nodes.ExprStmt(_call("tick", node, nodes.Const(written)))
    node.body.insert(0, tick.set_lineno(node.lineno))
    return node  # type: ignore[no-any-return]


def metered(tree: nodes.Template) -> nodes.Template:
    """Return the template's tree with what takes from the budget put into it."""
    return _Metered().visit(tree)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=32)
def environment(finalize: Callable[[Any], str], to_json: Callable[[Any], str]) -> Sandbox:
    """Return the environment whose values become text by `finalize`. `to_json`: the filter `tojson`."""

    @functools.wraps(finalize)
    def counted(value: Any) -> str:
        text = finalize(value)
        _spend().text(len(text))
        return text

    made = Sandbox(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # no HTML is made here
        finalize=counted,
        keep_trailing_newline=True,
        extensions=("jinja2.ext.loopcontrols",),
    )
    made.globals = dict(_GLOBALS)
    for dropped in _DROPPED_FILTERS:
        made.filters.pop(dropped, None)
    made.filters["tojson"] = to_json
    made.filters = {name: _guarded(name, each) for name, each in made.filters.items()}
    return made
