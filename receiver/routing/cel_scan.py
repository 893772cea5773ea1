"""What the text of a CEL expression mentions: names, functions and paths, each with its place. Pure; knows no library.

The library shows no syntax tree, so this reads the tokens of an expression that the library has compiled. It decides
which part of a run a rule needs to see, and finds at load the misspelt names that would fail at run time only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from receiver.routing.mapping import EVENT_FIELDS

MACROS = ("has", "all", "exists", "exists_one", "filter", "map")
FUNCTIONS = (
    *("size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"),
    *("string", "bytes", "int", "uint", "double", "timestamp", "duration"),
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
)
_TYPES = ("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint")
_LITERALS = ("true", "false", "null")
_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<string>[rRbB]{0,2}(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
  | (?P<number>0x[0-9a-fA-F]+u?|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?u?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE | re.DOTALL,
)

Path = tuple[str, ...]


class CelError(ValueError):
    """An expression that can't be used. The message says where in it, and what would be right."""


@dataclass(frozen=True, slots=True)
class Use:
    """A path that an expression mentions.

    `whole`: its content matters, not only whether it is there. `inside`: it is read for each element of a list.
    """

    path: Path
    whole: bool = True
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an expression. `where`: its position for a person."""

    kind: str
    text: str
    where: str


def tokens(source: str, *, lenient: bool = False) -> list[Token]:
    """Split an expression into tokens. `lenient`: skip invalid text instead of raising CelError."""
    found: list[Token] = []
    position = 0
    while position < len(source):
        match = _TOKEN.match(source, position)
        if not match:
            if not lenient:
                raise CelError(f"can't be understood {where(source, position)}")
            position += 1
            continue
        if match.lastgroup != "space":
            found.append(Token(match.lastgroup or "", match[0], where(source, position)))
        position = match.end()
    return found


def where(source: str, position: int) -> str:
    """Return `position` for a person: "at character 7", or with the line in an expression of several."""
    line = source.count("\n", 0, position) + 1
    column = position - (source.rfind("\n", 0, position) + 1) + 1
    return f"at line {line}, character {column}" if "\n" in source.strip() else f"at character {column}"


@dataclass(frozen=True, slots=True)
class _Scope:
    """Inside a bracket. `bound`: the variable that a macro binds there, or "". `power`: of the loops around."""

    bound: str = ""
    power: int = 0


class Scan:
    """A single scan of the tokens of a valid expression: its names, and the paths that it mentions.

    `literal` gives the value of a string literal. A path ends where it can't be known from the text alone: at an index
    other than a literal, or at a call.
    """

    def __init__(self, source: str, literal: Callable[[str], object]) -> None:
        self.tokens = tokens(source)
        self.patterns: list[Token] = []  # literal arguments of matches()
        self.uses: dict[Use, None] = {}
        # The power of the number of values with which its time grows: 2 when a list is walked for each element.
        self.power = 1
        # How much more than a comparison one step may cost.
        self.weight = 1
        self._literal = literal
        self._scopes: list[_Scope] = []  # one for each open bracket

    def run(self) -> None:
        """Scan all tokens. Raises CelError."""
        index = 0
        while index < len(self.tokens):
            index = self._step(index)

    def _text(self, index: int) -> str:
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def _step(self, index: int) -> int:
        token = self.tokens[index]
        if token.text in ("(", "[", "{"):
            if token.text == "{" and self._ends_operand(index - 1):
                raise CelError(f"makes a message, which is not known here, {token.where}")
            self._scopes.append(_Scope(power=self._power))
        elif token.text in (")", "]", "}"):
            self._scopes.pop()
        elif token.text == "." and not self._ends_operand(index - 1):
            raise CelError(f"begins a name with a dot {token.where}")
        elif token.kind == "name":
            return self._name(index)
        return index + 1

    def _ends_operand(self, index: int) -> bool:
        if index < 0:
            return False
        return self.tokens[index].kind in ("name", "string", "number") or self._text(index) in (")", "]", "}")

    def _name(self, index: int) -> int:
        token = self.tokens[index]
        if token.text == "in" and self._text(index - 1) != ".":
            return index + 1
        if self._text(index + 1) == "(":
            return self._call(index)
        if self._text(index - 1) == ".":
            return index + 1  # a field of something that is not followed further
        bound = [scope.bound for scope in self._scopes if scope.bound]
        if token.text in ("run", "event"):
            return self._path(index)
        if token.text not in (*_LITERALS, *_TYPES, *bound):
            guess = difflib.get_close_matches(token.text, ["run", "event", *bound], 1)
            hint = (
                f"did you mean {guess[0]}?"
                if guess
                else f'write "{token.text}" for a text, run.{token.text} for a field'
            )
            raise CelError(f"the name {token.text} is not known {token.where}; {hint}")
        return index + 1

    def _call(self, index: int) -> int:
        token = self.tokens[index]
        if token.text not in MACROS and token.text not in FUNCTIONS:
            guess = difflib.get_close_matches(token.text, [*MACROS, *FUNCTIONS], 1)
            hint = f"did you mean {guess[0]}?" if guess else f"there are {', '.join([*MACROS, *FUNCTIONS])}"
            raise CelError(f"the function {token.text} is not known {token.where}; {hint}")
        if token.text == "matches":
            self._pattern(index)
        scope = _Scope(power=self._power)
        if token.text == "has" and self._text(index + 2) in ("run", "event"):
            self._scopes.append(scope)
            return self._path(index + 2, whole=False)
        if token.text in MACROS and token.text != "has":
            scope = self._loop(index)
        self._scopes.append(scope)
        return index + 2

    @property
    def _power(self) -> int:
        return self._scopes[-1].power if self._scopes else 0

    def _loop(self, index: int) -> _Scope:
        """Return what a macro that walks a list does to its bracket."""
        token, bound = self.tokens[index], self._text(index + 2)
        if bound in ("run", "event"):
            raise CelError(f"{token.text} gives its variable the name {bound} {token.where}; choose another")
        around = [scope.bound for scope in self._scopes if scope.bound]
        # A list inside the element at hand (invoice.lines) is gone through once in all; any other, once an element.
        nested = not around or self._root(index) != around[-1]
        # The library's map and filter copy their result at each step.
        power = self._power + nested + (token.text in ("map", "filter"))
        self.power = max(self.power, power)
        return _Scope(bound, power)

    def _root(self, index: int) -> str:
        """Return the name at the beginning of a.b.c before the method at `index`; "" when it is something else."""
        while self._text(index - 1) == "." and index >= 2 and self.tokens[index - 2].kind == "name":
            index -= 2
        return self._text(index) if self._text(index - 1) != "." else ""

    def _pattern(self, index: int) -> None:
        """Check a pattern: the library compiles it again at each step, so payloads must not contain one."""
        argument = index + 2 if self._text(index - 1) == "." else index + 4
        if self._text(argument + 1) != ")" or self.tokens[argument].kind != "string":
            raise CelError(f"matches needs a pattern in quotes {self.tokens[index].where}")
        self.patterns.append(self.tokens[argument])
        self.weight = 100 if self._power else self.weight

    def _path(self, index: int, *, whole: bool = True) -> int:
        """Follow .name and ["text"] from the root at `index`."""
        path = [self._text(index)]
        position = index + 1
        while position + 1 < len(self.tokens):
            following = self.tokens[position + 1]
            if self._text(position) == "." and following.kind == "name" and self._text(position + 2) != "(":
                path.append(following.text)
                position += 2
            elif self._text(position) == "[" and following.kind == "string" and self._text(position + 2) == "]":
                path.append(str(self._literal(following.text)))
                position += 3
            else:
                break
        if path[0] == "event" and len(path) > 1 and path[1] not in EVENT_FIELDS:
            guess = difflib.get_close_matches(path[1], EVENT_FIELDS, 1)
            hint = f"did you mean event.{guess[0]}?" if guess else f"an event has {', '.join(EVENT_FIELDS)}"
            raise CelError(f"event.{path[1]} is not known {self.tokens[index].where}; {hint}")
        whole = whole or len(path) == 1 or self._text(position) != ")"  # has(run.list[0].x) reads run.list
        self.uses[Use(tuple(path), whole, inside=self._power > 0)] = None
        return position
