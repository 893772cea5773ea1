"""One call of the API as a value. HTTP routes, the OpenAPI document and remote clients are made from these."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeVar, get_origin, get_type_hints

import orjson
from pydantic import BaseModel, ValidationError

from receiver.api.models import Parameters, Scoped, function_summary
from receiver.api.service import Actor, Service
from receiver.errors import Invalid, suggest

P = TypeVar("P", bound=Parameters)
R = TypeVar("R", bound=BaseModel)

# Where the paths of endpoints begin.
ROOT: Final = "/api/v1"
# Names that one request may give, and values of one; mistakes that an answer tells, and characters of a name there.
MOST_NAMES: Final = 100
MOST_VALUES: Final = 1000
MOST_PROBLEMS: Final = 20
LONGEST_NAME: Final = 100
# Below this each integer is a double.
_EXACT: Final = 2.0**53


@dataclass(frozen=True)
class Endpoint(Generic[P, R]):
    """A call. `name`: its operation id. `path`: below ROOT, with members of `parameters` in braces.

    The other members of `parameters` are the query of a GET, and the JSON object in the body of a POST. `function` runs
    in a thread, and raises RequestError. `all_sources`: only for an actor of all sources, for what it does or tells
    concerns them all.
    """

    name: str
    method: str
    path: str
    scope: str
    parameters: type[P]
    result: type[R]
    function: Callable[[Service, Actor, P], R]
    all_sources: bool = False

    @cached_property
    def path_names(self) -> tuple[str, ...]:
        """The names in the path."""
        return tuple(re.findall(r"{(\w+)", self.path))

    @cached_property
    def summary(self) -> str:
        """What it does, in one sentence."""
        return function_summary(self.function)

    def call(self, service: Service, actor: Actor, parameters: P) -> R:
        """Return the result for `actor`. Raises Forbidden, and what the function raises."""
        return self.function(service, actor, self.allowed(actor, parameters))

    def allowed(self, actor: Actor, parameters: P) -> P:
        """Return `parameters`, narrowed to what `actor` may see. Raises Forbidden."""
        actor.require(self.scope)
        if self.all_sources:
            actor.require_all_sources()
        return actor.narrowed(parameters) if isinstance(parameters, Scoped) else parameters

    def parse(self, path: Mapping[str, str], query: Iterable[tuple[str, str]], body: bytes = b"") -> P:
        """Return the parameters of a request. Raises Invalid, with one line for each that is wrong."""
        given: dict[str, Any] = {}
        for name, value in query:
            given.setdefault(name, []).append(value)
        _check_size(given)
        wrong = [(name, "given twice") for name, values in given.items() if len(values) > 1 and not self.is_list(name)]
        given = {name: values if self.is_list(name) else values[0] for name, values in given.items()}
        if body.strip():
            try:
                read = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise Invalid(f"the body is no JSON: {error}") from None
            if not isinstance(read, dict):
                raise Invalid("the body must be a JSON object")
            _check_size(read)
            wrong += [(name, "given twice") for name in _members_given_twice(body)]
            wrong += [(name, "is in the query; what a call with a body takes is in the body") for name in given]
            given = read
        wrong += [(name, "is in the path already") for name in path if name in given]
        if wrong:
            problems = [_problem(name[:LONGEST_NAME], text) for name, text in wrong]
            raise Invalid("; ".join(each["message"] for each in problems), problems)
        return self.validated({**given, **path}, as_json=bool(body.strip()))

    def is_list(self, name: str) -> bool:
        """Whether a parameter takes several values."""
        field = self.parameters.model_fields.get(name)
        return field is not None and get_origin(field.annotation) in (tuple, list)

    def validated(self, given: Mapping[str, Any], *, as_json: bool = False) -> P:
        """Return parameters made of `given`. Raises Invalid. `as_json`: each value must have the type that the
        description says; else "1" is a number too, as a query has it."""
        try:
            if as_json:
                whole = {name: _whole(value) for name, value in given.items()}
                return self.parameters.model_validate_json(orjson.dumps(whole), strict=True)
            return self.parameters.model_validate(given)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
        problems = [self._problem_of(each) for each in found[:MOST_PROBLEMS]]
        more = f"; and {len(found) - MOST_PROBLEMS} more" if len(found) > MOST_PROBLEMS else ""
        raise Invalid("; ".join(each["message"] for each in problems) + more, problems)

    def _problem_of(self, error: Any) -> dict[str, str]:
        name = ".".join(str(each)[:LONGEST_NAME] for each in error["loc"]) or "parameters"
        if error["type"] == "extra_forbidden":
            meant = suggest(name, self.parameters.model_fields)
            hint = f"did you mean {meant}?" if meant else f"there are {', '.join(sorted(self.parameters.model_fields))}"
            return _problem(name, f"there is no such parameter; {hint}")
        if error["type"] == "enum":
            return _problem(name, f"must be {error['ctx']['expected'].replace(chr(39), '')}")
        text = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
        text = text.partition(", unable to parse")[0]
        return _problem(name, f"{text[:1].lower()}{text[1:]}")

    def path_and_rest(self, parameters: P) -> tuple[str, dict[str, Any]]:
        """Return the path of a request with these parameters, and the others that are not at their defaults."""
        from urllib.parse import quote

        dumped = parameters.model_dump(mode="json", exclude_defaults=True)
        path = self.path
        for name in self.path_names:
            path = re.sub(rf"{{{name}(:path)?}}", quote(str(dumped.pop(name, "")), safe=""), path)
        return ROOT + path, dumped


def call(
    method: str,
    path: str,
    scope: str,
    function: Callable[[Service, Actor, P], R],
    *,
    name: str = "",
    all_sources: bool = False,
) -> Endpoint[P, R]:
    """Return the endpoint of a function. `name`: by default the function's; see Endpoint for the rest."""
    types = get_type_hints(function)
    *_, parameters = (kind for kind in types if kind != "return")
    return Endpoint(
        name or function.__name__, method, path, scope, types[parameters], types["return"], function, all_sources
    )


def _problem(name: str, text: str) -> dict[str, str]:
    """Return a problem of a parameter, as Invalid has it."""
    return {"name": name, "message": f"{name}: {text}"}


def _members_given_twice(body: bytes) -> list[str]:
    """Return the names that a JSON object has more than once: it would be a guess which one is meant."""
    names: list[str] = []

    def remember(pairs: list[tuple[str, Any]]) -> None:
        names[:] = [name for name, _ in pairs]  # the outermost object comes last

    with suppress(RecursionError):
        json.loads(body, object_pairs_hook=remember, parse_int=str, parse_float=str)
    return [name for name, count in Counter(names).items() if count > 1][:MOST_PROBLEMS]


def _check_size(given: Mapping[str, Any]) -> None:
    """Raise Invalid for more than any call takes. To say what is wrong with each, and what was meant, takes long."""
    if len(given) > MOST_NAMES:
        raise Invalid(f"{len(given)} parameters are given, and no call has more than {MOST_NAMES}")
    for name, value in given.items():
        if isinstance(value, list) and len(value) > MOST_VALUES:
            raise Invalid(f"{name[:LONGEST_NAME]}: has {len(value)} values, and {MOST_VALUES} are the most")


def _whole(value: Any) -> Any:
    """Return 3 for 3.0, which JSON Schema calls an integer too. What takes other numbers takes an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value
