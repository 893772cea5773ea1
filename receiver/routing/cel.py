"""Rules written in CEL: compiled and checked at load, evaluated on no more of a run than they mention. Pure.

The only module that imports cel, and only when a rule needs it: the import costs a quarter of a second. Three limits of
that library are handled here. It reports a misspelt name only at run time, so names and functions are checked at load.
It copies all values that it is given, so it gets only the paths that a rule mentions. The time of its map and filter
grows with the square of the list (10 s for 20,000 elements), so a rule reads a bounded number of values. An evaluation
that fails is no match, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Final, NamedTuple

from receiver.routing.mapping import EVENT_FIELDS

MAX_LENGTH = 4096  # characters of an expression
MAX_DEPTH = 64  # of data that a rule reads
VALUE_LIMIT = 50_000  # values that a rule may read: about 50 ms
WORK_LIMIT = 1_000_000  # steps of a rule with loops within loops: about 0.3 s
_TEXT_UNIT = 128  # characters of text that count as one more value

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


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled rule.

    `power`: its time grows with this power of the number of values: 2 when a list is read for each element of another.
    `weight`: how much more than a comparison one step may cost.
    """

    source: str
    program: Any
    uses: tuple[Use, ...]
    power: int
    weight: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an evaluation. `error` is "" or why there is no result, which is no match.

    `missing`: the run lacks a field that the rule reads, which is not an error.
    """

    matched: bool
    error: str = ""
    missing: bool = False


_TRUE, _FALSE = Outcome(True), Outcome(False)


def compile_rule(source: str) -> Expression:
    """Compile and check an expression. Raises CelError."""
    if not source.strip():
        raise CelError("is empty; leave `when` out for always")
    if len(source) > MAX_LENGTH:
        raise CelError(f"is longer than {MAX_LENGTH} characters; split it into several routes")
    try:
        program = _library().compile(source)
    except ValueError as error:
        raise CelError(_syntax_problem(source, str(error))) from None
    plain = _COMMENT_OR_TEXT.sub(lambda found: (" " if found[0][0] == "/" else '"') * len(found[0]), source)
    loops, power = _loops(source, plain)
    _check_names(program, source, plain, loops)
    uses = _uses(source, plain, loops)
    weight = _check_patterns(source, plain, loops)
    if not uses:
        _check_constant(program)
    return Expression(source, program, tuple(uses), power, weight)


def _library() -> ModuleType:
    import cel

    return cel


def _loops(source: str, plain: str) -> tuple[list[_Loop], int]:
    """Return the loops of an expression, and the power with which its time grows. Raises CelError."""
    loops: list[_Loop] = []
    open_brackets: list[tuple[str, int, int]] = []  # the loop's variable or "", its power, where it begins
    highest = 1
    for found in _BRACKET.finditer(plain):
        power = open_brackets[-1][1] if open_brackets else 0
        if macro := found["macro"]:
            bound = found["bound"]
            if bound in _ROOTS:
                place = where(source, found.start("macro"))
                raise CelError(f"{macro} gives its variable the name {bound} {place}; choose another")
            around = [name for name, _, _ in open_brackets if name]
            # All lists inside the elements (invoice.lines) are read once in all; any other, once for each element.
            power += not around or found["root"] != around[-1]
            power += macro in ("map", "filter")  # the library copies their result at each step
            highest = max(highest, power)
            open_brackets.append((bound, power, found.start("bound")))
        elif found[0] in "([{":
            open_brackets.append(("", power, 0))
        elif open_brackets:
            bound, _, start = open_brackets.pop()
            if bound:
                loops.append(_Loop(bound, start, found.start()))
    return loops, highest


def _check_names(program: Any, source: str, plain: str, loops: list[_Loop]) -> None:
    """Check the names of variables and functions. Raises CelError."""
    if dot := re.search(r"(?<![\w)\]}\"\s])\s*\.\s*[A-Za-z_]", plain):
        raise CelError(f"begins a name with a dot {where(source, dot.start())}")
    if message := re.search(r"(?:\b(?!in\b)\w+|[)\]\"])\s*\{", plain):
        raise CelError(f"constructs a message, which is not supported, {where(source, message.end() - 1)}")
    references = program.references()
    for name in sorted(set(references["variables"]) - {*_ROOTS, *_TYPES}):
        for found in re.finditer(rf"(?<![\w.]){re.escape(name)}\b(?!\s*\()", plain):
            bound = [loop.bound for loop in loops if loop.start <= found.start() < loop.end]
            if name not in bound:
                guess = get_close_matches(name, [*_ROOTS, *bound], 1)
                hint = f"did you mean {guess[0]}?" if guess else f'write "{name}" for a text, run.{name} for a field'
                raise CelError(f"the name {name} is not known {where(source, found.start())}; {hint}")
    for name in filter(str.isidentifier, sorted(references["functions"])):
        found_call = re.search(rf"\b{name}\s*\(", plain)
        place = where(source, found_call.start() if found_call else 0)
        if name in MACROS:
            raise CelError(f"{name} takes a variable and a condition, such as run.errors.exists(e, e.code == 'X')")
        if name not in FUNCTIONS:
            guess = get_close_matches(name, [*MACROS, *FUNCTIONS], 1)
            hint = f"did you mean {guess[0]}?" if guess else f"there are {', '.join([*MACROS, *FUNCTIONS])}"
            raise CelError(f"the function {name} is not known {place}; {hint}")


def _uses(source: str, plain: str, loops: list[_Loop]) -> list[Use]:
    """Return the paths in an expression, each up to a call or an index that is not a text. Raises CelError."""
    uses: dict[Use, None] = {}
    for found in _PATH.finditer(plain):
        steps = _STEP.finditer(plain, *found.span("rest"))
        names = (step[1] or str(_library().evaluate(source[step.start() : step.end()])) for step in steps)
        path = [found["root"], *names]
        if path[0] == "event" and len(path) > 1 and path[1] not in EVENT_FIELDS:
            guess = get_close_matches(path[1], EVENT_FIELDS, 1)
            hint = f"did you mean event.{guess[0]}?" if guess else f"an event has {', '.join(EVENT_FIELDS)}"
            raise CelError(f"event.{path[1]} is not known {where(source, found.start('root'))}; {hint}")
        whole = not found["has"] or len(path) == 1 or not found["closed"]  # has(run.list[0].x) reads run.list
        uses[Use(tuple(path), whole, any(loop.start <= found.start() < loop.end for loop in loops))] = None
    return list(uses)


def _check_patterns(source: str, plain: str, loops: list[_Loop]) -> int:
    """Check that each pattern is a valid literal: the library compiles it at each step. Return the weight of a step.

    Raises CelError."""
    weight = 1
    for found in _MATCHES.finditer(plain):
        if not found["pattern"] or bool(found["method"]) == bool(found["argument"]):
            raise CelError(
                f"matches needs a pattern in quotes {where(source, found.start() + len(found['method'] or ''))}"
            )
        start = found.start("pattern")
        pattern = source[start : start + found["pattern"].rindex('"') + 1]
        try:
            _library().evaluate(f"''.matches({pattern})")
        except Exception as error:  # noqa: BLE001 - the library raises what it likes
            reason = _one_line(error).rpartition("error: ")[2].partition(". Check function")[0]
            raise CelError(f"{pattern} is not a valid pattern {where(source, start)}: {reason}") from None
        if any(loop.start <= start < loop.end for loop in loops):
            weight = 100
    return weight


def _check_constant(program: Any) -> None:
    """Check a rule that reads nothing: it gives the same always, and that must be a truth value."""
    try:
        value = program.execute({})
    except Exception as error:  # noqa: BLE001 - the library raises what it likes
        raise CelError(f"always fails: {_one_line(error)}") from None
    if not isinstance(value, bool):
        raise CelError(f"gives {_kind(value)}, but a rule must give true or false")


def _syntax_problem(source: str, message: str) -> str:
    found = _PROBLEM.search(message)
    if not found:
        return f"is not valid CEL: {_one_line(message)[:200]}"
    line, column, reason = int(found[1]), int(found[2]), found[3]
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
    return f"is not valid CEL {where(source, position)}: {reason}{hint}"


def where(source: str, position: int) -> str:
    """Return `position` for a person: "at character 7", or with the line in an expression of several."""
    line = source.count("\n", 0, position) + 1
    column = position - (source.rfind("\n", 0, position) + 1) + 1
    return f"at line {line}, character {column}" if "\n" in source.strip() else f"at character {column}"


# --- Evaluation


class Rules:
    """Compiled rules that are evaluated together: they share one context for each event."""

    def __init__(self, expressions: Iterable[Expression]) -> None:
        self.expressions = tuple(dict.fromkeys(expressions))
        self.tree = _tree(self.expressions)
        self.paths = tuple({use.path for each in self.expressions for use in each.uses if use.whole})
        self.power = max((each.power for each in self.expressions), default=1) + 1
        self.weight = max((each.weight for each in self.expressions), default=1)

    def mentions(self, name: str) -> bool:
        """Whether a rule reads the field `name` of the run."""
        run = self.tree.children.get("run")
        return run is not None and (run.whole or name in run.children)


class Evaluation:
    """The rules on one event. `roots`: the values of the variables run and event. Nothing is copied before `test`."""

    def __init__(self, rules: Rules, roots: dict[str, Any]) -> None:
        self._rules = rules
        self._roots = roots
        self._context: Any = None
        self._refused: dict[str, str] = {}

    def test(self, expression: Expression) -> Outcome:
        """Evaluate one of the rules. Never raises."""
        if self._context is None:
            self._prepare()
        if self._refused and (refusal := self._refused.get(expression.source)):
            return Outcome(False, refusal)
        try:
            value = expression.program.execute(self._context)
        except Exception as error:  # noqa: BLE001 - the library raises what it likes
            return Outcome(False, self._explain(error, expression), isinstance(error, KeyError | IndexError))
        except BaseException as error:  # a panic of the Rust library is a BaseException
            if type(error).__name__ != "PanicException":
                raise
            return Outcome(False, "the CEL library failed")
        if not isinstance(value, bool):
            return Outcome(False, f"it gives {_kind(value)}, not true or false")
        return _TRUE if value else _FALSE

    def values(self, expression: Expression) -> list[tuple[str, Any]]:
        """Return the single values that a rule read, by path, to show to a person."""
        found = []
        for use in expression.uses:
            present, value = _look_up(self._roots, use.path)
            if present and use.whole and not isinstance(value, dict | list):
                found.append((_spell(use.path), value))
        return found

    def _prepare(self) -> None:
        units = {path: _units(_look_up(self._roots, path)[1], VALUE_LIMIT) for path in self._rules.paths}
        everything = sum(units.values())
        if everything**self._rules.power * self._rules.weight > WORK_LIMIT:  # else no rule can be too much
            for expression in self._rules.expressions:
                self._check_work(expression, units)
        tree = self._rules.tree
        if self._refused:
            tree = _tree(each for each in self._rules.expressions if each.source not in self._refused)
        self._context = _library().Context()
        for name, node in tree.children.items():
            self._context.add_variable(name, _pick(self._roots[name], node))

    def _check_work(self, expression: Expression, units: dict[Path, int]) -> None:
        """Refuse a rule that would take too long on this event."""
        values = sum(units[path] for path in {use.path for use in expression.uses if use.whole})
        inside = sum(units[use.path] for use in expression.uses if use.whole and use.inside)
        work = values**expression.power * expression.weight * (inside if inside and expression.power == 1 else 1)
        if values > VALUE_LIMIT:
            self._refused[expression.source] = f"it would read more than {VALUE_LIMIT} values"
        elif work > WORK_LIMIT:
            self._refused[expression.source] = (
                f"it would take more than {WORK_LIMIT} steps on the {values} values there"
            )

    def _explain(self, error: Exception, expression: Expression) -> str:
        if isinstance(error, KeyError) and error.args:
            name = str(error.args[0])
            for use in expression.uses:
                for length in range(1, len(use.path)):
                    if use.path[length] == name and not _look_up(self._roots, use.path[: length + 1])[0]:
                        return f"{_spell(use.path[: length + 1])} is missing"
            named = f"a field {name}" if name in expression.source else "a field"  # else it is a value of the run
            return f"{named} is missing; ask for it with has(…) first"
        if found := re.match(r"Undefined variable or function: '(\w+)'", str(error)):
            # Names are checked at load, so it is one that the value at hand does not have.
            return f"{found[1]} can't be done: {self._kinds(expression)}"
        if isinstance(error, IndexError):
            return "a list is shorter than that"
        if isinstance(error, TypeError):
            return self._type_problem(error, expression)
        return _one_line(error).partition(" Check function arguments")[0][:200]

    def _type_problem(self, error: TypeError, expression: Expression) -> str:
        for use in expression.uses:
            for length in range(2, len(use.path)):
                present, value = _look_up(self._roots, use.path[:length])
                if present and not isinstance(value, dict):
                    return f"{_spell(use.path[:length])} is {_kind(value)} and has no field {use.path[length]}"
        if found := re.match(r"Unsupported operation: (.*?)\. CEL", str(error)):
            return f"{found[1]} can't be done; numbers of a run are doubles: write 1.0 for 1"
        return f"the types don't fit: {self._kinds(expression)}"

    def _kinds(self, expression: Expression) -> str:
        kinds = [f"{path} is {_kind(value)}" for path, value in self.values(expression)]
        return ", ".join(kinds) or "what is there"


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node]
    whole: bool = False


def _tree(expressions: Iterable[Expression]) -> _Node:
    root = _Node({})
    for expression in expressions:
        for use in expression.uses:
            node = root
            for name in use.path:
                node = node.children.setdefault(name, _Node({}))
            node.whole |= use.whole
    return root


def _pick(value: Any, node: _Node) -> Any:
    """Return `value` for CEL, cut down to what `node` mentions. What is cut keeps its place as null."""
    if node.whole:
        return _converted(value, 0)
    if not isinstance(value, dict):
        return None
    return {_clean(name): _pick(value[name], child) for name, child in node.children.items() if name in value}


def _converted(value: Any, depth: int) -> Any:
    """Numbers as doubles where that is exact, texts that Rust can hold, and no more depth than is sane."""
    if isinstance(value, str):
        return _clean(value)
    if value is None or isinstance(value, bool | datetime):
        return value
    if isinstance(value, int):
        return _number(value)
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {_clean(name): _converted(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_converted(item, depth + 1) for item in value]
    return value


def _number(value: int) -> float | int:
    if -(2**53) <= value <= 2**53:
        return float(value)
    if -(2**63) <= value < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _units(value: Any, limit: int) -> int:
    """Count the values in `value`, until `limit` is passed."""
    count = 0
    pending = [value]
    while pending and count <= limit:
        item = pending.pop()
        count += 1
        if isinstance(item, dict):
            count += len(item)
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
        elif isinstance(item, str):
            count += len(item) // _TEXT_UNIT
    return count


def _look_up(roots: dict[str, Any], path: Path) -> tuple[bool, Any]:
    value: Any = roots
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def _spell(path: Path) -> str:
    return path[0] + "".join(f".{name}" if name.isidentifier() else f'["{name}"]' for name in path[1:])


def _kind(value: Any) -> str:
    names = {bool: "a truth value", str: "a text", dict: "a mapping", list: "a list", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
