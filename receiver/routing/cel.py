"""Rules written in CEL: compiled and checked at load, evaluated on no more of a run than they mention. Pure.

The only module that imports cel, and only when a rule needs it: the import costs a quarter of a second. The library
copies all values that it is given, so it gets only the paths that a rule mentions (cel_names.py finds them). The time
of its map and filter grows with the square of the list (10 s for 20,000 elements), so a rule reads a bounded number of
values. An evaluation that fails is no match, never an error.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Any

from receiver.domain.event import UNEVALUATED
from receiver.routing.cel_names import CelError, Names, Path, Use, one_line, syntax_problem
from receiver.routing.mapping import Outcome, show

MAX_LENGTH = 4096  # characters of an expression
MAX_DEPTH = 64  # of data that a rule reads
VALUE_LIMIT = 50_000  # values that a rule may read: about 50 ms
WORK_LIMIT = 1_000_000  # steps of a rule with loops within loops: about 0.3 s
_TEXT_UNIT = 128  # characters of text that count as one more value


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled rule. `program`: the library's. `names`: what it mentions."""

    source: str
    program: Any
    names: Names


def compile_rule(source: str) -> Expression:
    """Compile and check an expression. Raises CelError."""
    if not source.strip():
        raise CelError("is empty; leave `when` out for always")
    if len(source) > MAX_LENGTH:
        raise CelError(f"is longer than {MAX_LENGTH} characters; split it into several routes")
    try:
        program = _library().compile(source)
    except ValueError as error:
        raise CelError(syntax_problem(source, str(error))) from None
    names = Names(source, program.references(), _library().evaluate)
    if not names.uses:
        _check_constant(program)
    return Expression(source, program, names)


def _library() -> ModuleType:
    import cel

    return cel


def _check_constant(program: Any) -> None:
    """Check a rule that reads nothing: it gives the same always, and that must be a truth value."""
    try:
        value = program.execute({})
    except Exception as error:  # noqa: BLE001 - the library raises what it likes
        raise CelError(f"always fails: {one_line(error)}") from None
    if not isinstance(value, bool):
        raise CelError(f"gives {_kind(value)}, but a rule must give true or false")


class Evaluation:
    """Rules on one event, with one context. `roots`: the values of run and event. Nothing is copied before `test`."""

    def __init__(self, rules: Sequence[Expression], roots: dict[str, Any]) -> None:
        self._rules = rules
        self._roots = roots
        self._context: Any = None
        self._refused: dict[str, str] = {}

    def test(self, expression: Expression, *, explain: bool) -> Outcome:
        """Evaluate one of the rules. `explain`: the reason names the values that it read. Never raises."""
        if self._context is None:
            self._prepare()
        if refusal := self._refused.get(expression.source):
            return _failed(refusal)
        try:
            value = expression.program.execute(self._context)
        except (KeyError, IndexError) as error:
            return Outcome(False, self._explain(error, expression))
        except Exception as error:  # noqa: BLE001 - the library raises what it likes
            return _failed(self._explain(error, expression))
        except BaseException as error:  # a panic of the Rust library is a BaseException
            if type(error).__name__ != "PanicException":
                raise
            return _failed("the CEL library failed")
        if not isinstance(value, bool):
            return _failed(f"it gives {_kind(value)}, not true or false")
        why = f"the expression is {'true' if value else 'false'}"
        if explain and (values := self._values(expression)):
            why += "; there: " + ", ".join(f"{path} is {show(value)}" for path, value in values)
        return Outcome(value, why)

    def _values(self, expression: Expression) -> list[tuple[str, Any]]:
        """Return the single values that a rule read, by path."""
        values = []
        for use in expression.names.uses:
            present, value = _look_up(self._roots, use.path)
            if present and use.whole and not isinstance(value, dict | list):
                values.append((_spell(use.path), value))
        return values

    def _prepare(self) -> None:
        """Make the context, without the values of rules that would take too long on this event."""
        paths = {use.path for each in self._rules for use in each.names.uses if use.whole}
        units = {path: _units(_look_up(self._roots, path)[1], VALUE_LIMIT) for path in paths}
        refusals = {each.source: _too_much(each.names, units) for each in self._rules}
        self._refused = {source: refusal for source, refusal in refusals.items() if refusal}
        self._context = _library().Context()
        uses = {use for each in self._rules if each.source not in self._refused for use in each.names.uses}
        for name, value in _pick(self._roots, uses).items():
            self._context.add_variable(name, value)

    def _explain(self, error: Exception, expression: Expression) -> str:
        if isinstance(error, KeyError) and error.args:
            name = str(error.args[0])
            for use in expression.names.uses:
                for length in range(1, len(use.path)):
                    if use.path[length] == name and not _look_up(self._roots, use.path[: length + 1])[0]:
                        return f"{_spell(use.path[: length + 1])} is missing"
            named = f"a field {name}" if name in expression.source else "a field"  # else it is a value of the run
            return f"{named} is missing; ask for it with has(…) first"
        if match := re.match(r"Undefined variable or function: '(\w+)'", str(error)):
            # Names are checked at load, so it is one that the value at hand does not have.
            return f"{match[1]} can't be done: {self._kinds(expression)}"
        if isinstance(error, IndexError):
            return "a list is shorter than that"
        if isinstance(error, TypeError):
            return self._type_problem(error, expression)
        return one_line(error).partition(" Check function arguments")[0][:200]

    def _type_problem(self, error: TypeError, expression: Expression) -> str:
        for use in expression.names.uses:
            for length in range(2, len(use.path)):
                present, value = _look_up(self._roots, use.path[:length])
                if present and not isinstance(value, dict):
                    return f"{_spell(use.path[:length])} is {_kind(value)} and has no field {use.path[length]}"
        if match := re.match(r"Unsupported operation: (.*?)\. CEL", str(error)):
            return f"{match[1]} can't be done; numbers of a run are doubles: write 1.0 for 1"
        # Equality fits all types, so the fault is in what < or > compares.
        read = self._values(expression)
        ordered = r"{0}\s*[<>]|[<>]=?\s*{0}"
        compared = [each for each in read if re.search(ordered.format(re.escape(each[0])), expression.source)]
        kinds = ", ".join(f"{path} is {_kind(value)}" for path, value in compared or read)
        text = next((path for path, value in compared if isinstance(value, str)), "")
        hint = f"; to compare a text as a number, write double({text})" if text else ""
        return f"the types don't fit: {kinds or 'what is there'}{hint}"

    def _kinds(self, expression: Expression) -> str:
        return ", ".join(f"{path} is {_kind(value)}" for path, value in self._values(expression)) or "what is there"


def _failed(reason: str) -> Outcome:
    return Outcome(False, f"{UNEVALUATED}: {reason}", error=True)


def _too_much(names: Names, units: dict[Path, int]) -> str:
    """Return why a rule would take too long, or "". `units`: how many values there are at each path."""
    values = sum(units[path] for path in {use.path for use in names.uses if use.whole})
    if values > VALUE_LIMIT:
        return f"it would read more than {VALUE_LIMIT} values"
    inside = sum(units[use.path] for use in names.uses if use.whole and use.inside) if names.power == 1 else 0
    if values**names.power * names.weight * (inside or 1) > WORK_LIMIT:
        return f"it would take more than {WORK_LIMIT} steps on the {values} values there"
    return ""


def _pick(value: Any, uses: Iterable[Use]) -> Any:
    """Return `value` for CEL, cut down to what `uses` mention. What is cut keeps its place as null."""
    below: defaultdict[str, list[Use]] = defaultdict(list)
    for use in uses:
        if use.path:
            below[use.path[0]].append(use._replace(path=use.path[1:]))
        elif use.whole:
            return _converted(value, 0)
    if not isinstance(value, dict):
        return None
    return {_clean(name): _pick(value[name], inner) for name, inner in below.items() if name in value}


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
    try:
        number = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return value if abs(value) > 2**53 and -(2**63) <= value < 2**63 else number


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
