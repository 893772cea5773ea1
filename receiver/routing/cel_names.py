"""What a CEL expression mentions, read from its text: names, functions, paths into a run, loops. Pure.

The library reports a misspelt name only at run time, so names and functions are checked here, at load.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from receiver.routing.mapping import EVENT_FIELDS

MACROS: Final = ("has", "all", "exists", "exists_one", "filter", "map")
FUNCTIONS: Final = (
    *("size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"),
    *("string", "bytes", "int", "uint", "double", "timestamp", "duration"),
    *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
    *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
)
_TYPES: Final = ("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint")
_ROOTS: Final = ("run", "event")

_PROBLEM = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*)")
# Comments and texts. What follows searches an expression in which quotes replace each character of its texts.
_COMMENT_OR_TEXT = re.compile(
    r"""//[^\n]*|[rRbB]{0,2}(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.DOTALL,
)
_PATH = re.compile(
    r"""(?<![\w.])(?P<has>has\s*\(\s*)?(?P<root>run|event)\b
    (?P<rest>(?:\s*\.\s*[A-Za-z_]\w*\b(?!\s*\()|\s*\[\s*"+\s*\])*)(?P<closed>\s*\))?""",
    re.VERBOSE,
)
_STEP = re.compile(r'\.\s*(\w+)|("+)')
_BRACKET = re.compile(
    r"""(?:(?<![\w.])(?P<root>[A-Za-z_]\w*)(?:\s*\.\s*\w+)*\s*\.\s*)?
    \b(?P<macro>all|exists|exists_one|filter|map)\s*\(\s*(?P<bound>\w+)\s*,|[(\[{]|[)\]}]""",
    re.VERBOSE,
)
_MATCHES = re.compile(r'(?P<method>\.\s*)?\bmatches\s*\((?P<argument>[^,()]*,)?\s*(?P<pattern>"+\s*\))?')

Path = tuple[str, ...]


class CelError(ValueError):
    """An expression that is not valid. The message names the place in it and a fix."""


class Use(NamedTuple):
    """A path that an expression mentions.

    `whole`: its content matters, not only whether it is there. `inside`: it is read for each element of a list.
    """

    path: Path
    whole: bool = True
    inside: bool = False


class _Loop(NamedTuple):
    """A macro over a list: its variable, and where its condition begins and ends."""

    bound: str
    start: int
    end: int


class Names:
    """The names in the expression `source`. Raises CelError for one that is not known.

    `references`: its variables and functions, as the library lists them. `evaluate`: the library's.
    `uses`: the paths. `power`: the time grows with this power of the number of values: 2 when a list is read for each
    element of another. `weight`: how much more than a comparison one step may cost.
    """

    def __init__(self, source: str, references: Mapping[str, Iterable[str]], evaluate: Callable[[str], Any]) -> None:
        self._source = source
        self._plain = _COMMENT_OR_TEXT.sub(lambda text: (" " if text[0][0] == "/" else '"') * len(text[0]), source)
        self._evaluate = evaluate
        self._loops: list[_Loop] = []
        self.power = self._find_loops()
        self._check_variables(set(references["variables"]) - {*_ROOTS, *_TYPES})
        self._check_functions(references["functions"])
        self.uses = self._find_uses()
        self.weight = self._check_patterns()

    def _where(self, position: int) -> str:
        return _where(self._source, position)

    def _bound_at(self, position: int) -> list[str]:
        """Return the variables of the loops around a position."""
        return [loop.bound for loop in self._loops if loop.start <= position < loop.end]

    def _find_loops(self) -> int:
        """Find the loops. Returns the power."""
        open_brackets: list[tuple[str, int, int]] = []  # the loop's variable or "", its power, where it begins
        highest = 1
        for match in _BRACKET.finditer(self._plain):
            power = open_brackets[-1][1] if open_brackets else 0
            if macro := match["macro"]:
                bound = match["bound"]
                if bound in _ROOTS:
                    place = self._where(match.start("macro"))
                    raise CelError(f"{macro} gives its variable the name {bound} {place}; choose another")
                around = [name for name, _, _ in open_brackets if name]
                # All lists inside the elements (invoice.lines) are read once in all; any other, once for each element.
                power += not around or match["root"] != around[-1]
                power += macro in ("map", "filter")  # the library copies their result at each step
                highest = max(highest, power)
                open_brackets.append((bound, power, match.start("bound")))
            elif match[0] in "([{":
                open_brackets.append(("", power, 0))
            elif open_brackets:
                bound, _, start = open_brackets.pop()
                if bound:
                    self._loops.append(_Loop(bound, start, match.start()))
        return highest

    def _check_variables(self, names: Iterable[str]) -> None:
        if dot := re.search(r"(?<![\w)\]}\"\s])\s*\.\s*[A-Za-z_]", self._plain):
            raise CelError(f"begins a name with a dot {self._where(dot.start())}")
        if message := re.search(r"(?:\b(?!in\b)\w+|[)\]\"])\s*\{", self._plain):
            raise CelError(f"constructs a message, which is not supported, {self._where(message.end() - 1)}")
        for name in sorted(names):
            for match in re.finditer(rf"(?<![\w.]){re.escape(name)}\b(?!\s*\()", self._plain):
                bound = self._bound_at(match.start())
                if name not in bound:
                    hint = _hint(name, [*_ROOTS, *bound], f'write "{name}" for a text, run.{name} for a field')
                    raise CelError(f"the name {name} is not known {self._where(match.start())}; {hint}")

    def _check_functions(self, names: Iterable[str]) -> None:
        known = [*MACROS, *FUNCTIONS]
        for name in filter(str.isidentifier, sorted(names)):
            if name in MACROS:
                raise CelError(f"{name} takes a variable and a condition, such as run.errors.exists(e, e.code == 'X')")
            if name not in FUNCTIONS:
                call = re.search(rf"\b{name}\s*\(", self._plain)
                place = self._where(call.start() if call else 0)
                hint = _hint(name, known, f"there are {', '.join(known)}")
                raise CelError(f"the function {name} is not known {place}; {hint}")

    def _find_uses(self) -> tuple[Use, ...]:
        """Return the paths, each up to a call or an index that is not a text."""
        uses: dict[Use, None] = {}
        for match in _PATH.finditer(self._plain):
            steps = _STEP.finditer(self._plain, *match.span("rest"))
            names = (step[1] or str(self._evaluate(self._source[step.start() : step.end()])) for step in steps)
            path = (match["root"], *names)
            if path[0] == "event" and len(path) > 1 and path[1] not in EVENT_FIELDS:
                hint = _hint(path[1], EVENT_FIELDS, f"an event has {', '.join(EVENT_FIELDS)}", "event.")
                raise CelError(f"event.{path[1]} is not known {self._where(match.start('root'))}; {hint}")
            whole = not match["has"] or len(path) == 1 or not match["closed"]  # has(run.list[0].x) reads run.list
            uses[Use(path, whole, bool(self._bound_at(match.start())))] = None
        return tuple(uses)

    def _check_patterns(self) -> int:
        """Check that each pattern is a valid literal: the library compiles it at each step. Returns the weight."""
        weight = 1
        for match in _MATCHES.finditer(self._plain):
            if not match["pattern"] or bool(match["method"]) == bool(match["argument"]):
                place = self._where(match.start() + len(match["method"] or ""))
                raise CelError(f"matches needs a pattern in quotes {place}")
            start = match.start("pattern")
            pattern = self._source[start : start + match["pattern"].rindex('"') + 1]
            try:
                self._evaluate(f"''.matches({pattern})")
            except Exception as error:  # noqa: BLE001 - the library raises what it likes
                reason = one_line(error).rpartition("error: ")[2].partition(". Check function")[0]
                raise CelError(f"{pattern} is not a valid pattern {self._where(start)}: {reason}") from None
            if self._bound_at(start):
                weight = 100
        return weight


def _hint(name: str, names: Iterable[str], otherwise: str, prefix: str = "") -> str:
    guess = get_close_matches(name, list(names), 1)
    return f"did you mean {prefix}{guess[0]}?" if guess else otherwise


def syntax_problem(source: str, message: str) -> str:
    """Return the problem of an expression that the library does not compile. `message`: the library's."""
    match = _PROBLEM.search(message)
    if not match:
        return f"is not valid CEL: {one_line(message)[:200]}"
    line, column, reason = int(match[1]), int(match[2]), match[3]
    position = sum(len(text) + 1 for text in source.split("\n")[: line - 1]) + column - 1
    reason = (
        reason.replace("mismatched input '<EOF>'", "it ends too early")
        .replace("'<EOF>'", "the end")
        .split(" expecting ")[0]
        .replace("token recognition error at:", "stray")
    )
    near = source[position : position + 20].split("\n", maxsplit=1)[0]
    hint = ""
    if re.match(r"\s*(and|or|not)\b", near) or re.search(r"\b(and|or|not)\s*$", source[:position]):
        hint = "; write && for and, || for or, ! for not"
    elif re.match(r"\s*[“”‘’]", near):
        hint = "; write straight quotes"
    elif re.search(r"(?<![=!<>])=(?!=)", source) and "=" in source[max(0, position - 1) : position + 1]:
        hint = "; write == to compare"
    return f"is not valid CEL {_where(source, position)}: {reason}{hint}"


def _where(source: str, position: int) -> str:
    """Return `position` for a person: "at character 7", or with the line in an expression of several."""
    line = source.count("\n", 0, position) + 1
    column = position - (source.rfind("\n", 0, position) + 1) + 1
    return f"at line {line}, character {column}" if "\n" in source.strip() else f"at character {column}"


def one_line(message: object) -> str:
    """Return a message of the library in one line."""
    return " ".join(str(message).split())
