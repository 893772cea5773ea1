"""One call of the API as a value, from which HTTP routes, OpenAPI, list commands and MCP tools are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeVar, get_origin, get_type_hints

import orjson
from pydantic import BaseModel, ValidationError

from receiver.api.models import Parameters, Scoped, function_summary
from receiver.api.service import Actor, Service
from receiver.errors import Invalid, suggest

P = TypeVar("P", bound=Parameters)
R_co = TypeVar("R_co", bound=BaseModel, covariant=True)

# The prefix of all paths.
ROOT: Final = "/api/v1"
# Maximum errors in a response, and characters of a name there.
MOST_PROBLEMS: Final = 20
LONGEST_NAME: Final = 100
# Below this, a double holds each integer exactly.
_EXACT: Final = 2.0**53


@dataclass(frozen=True)
class Endpoint(Generic[P, R_co]):
    """A call. `name`: its operation id. `path`: below ROOT, with members of `parameters` in braces.

    The other members of `parameters` are the query of a GET, and the JSON object in the body of a POST. `function` runs
    in a thread, and raises RequestError. `all_sources`: only for an actor of all sources.
    """

    name: str
    method: str
    path: str
    scope: str
    parameters: type[P]
    result: type[R_co]
    function: Callable[[Service, Actor, P], R_co]
    all_sources: bool = False

    @cached_property
    def path_names(self) -> tuple[str, ...]:
        """The names in the path."""
        return tuple(re.findall(r"{(\w+)", self.path))

    @cached_property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return function_summary(self.function)

    def call(self, service: Service, actor: Actor, parameters: P) -> R_co:
        """Return the result for `actor`. Raises Forbidden, and what the function raises."""
        return self.function(service, actor, self.allowed(actor, parameters))

    def allowed(self, actor: Actor, parameters: P) -> P:
        """Return `parameters`, narrowed to what `actor` may see. Raises Forbidden."""
        actor.require(self.scope)
        if self.all_sources:
            actor.require_all_sources()
        return actor.narrowed(parameters) if isinstance(parameters, Scoped) else parameters

    def parse(self, path: Mapping[str, str], query: Iterable[tuple[str, str]], body: bytes = b"") -> P:
        """Return the parameters of a request. Raises Invalid, with one problem for each invalid parameter."""
        given: dict[str, Any] = {}
        for name, value in query:
            given.setdefault(name, []).append(value)
        wrong = [(name, "given twice") for name, values in given.items() if len(values) > 1 and not self.is_list(name)]
        given = {name: values if self.is_list(name) else values[0] for name, values in given.items()}
        if body.strip():
            try:
                read = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise Invalid(f"the body is not valid JSON: {error}") from None
            if not isinstance(read, dict):
                raise Invalid("the body must be a JSON object")
            wrong += [(name, "must be in the body, not in the query") for name in given]
            given = read
        wrong += [(name, "is already in the path") for name in path if name in given]
        if wrong:
            problems = [_problem(name[:LONGEST_NAME], text) for name, text in wrong[:MOST_PROBLEMS]]
            raise Invalid("; ".join(each["message"] for each in problems), problems)
        return self.validated({**given, **path}, as_json=bool(body.strip()))

    def is_list(self, name: str) -> bool:
        """Whether a parameter takes several values."""
        field = self.parameters.model_fields.get(name)
        return field is not None and get_origin(field.annotation) in (tuple, list)

    def validated(self, given: Mapping[str, Any], *, as_json: bool = False) -> P:
        """Return parameters with these values. Raises Invalid. `as_json`: strictly typed; else "1" is a number too."""
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
            return _problem(name, f"unknown parameter; {hint}")
        if error["type"] == "enum":
            return _problem(name, f"must be {error['ctx']['expected'].replace(chr(39), '')}")
        text = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
        text = text.partition(", unable to parse")[0]
        return _problem(name, f"{text[:1].lower()}{text[1:]}")

    def path_and_rest(self, parameters: P) -> tuple[str, dict[str, Any]]:
        """Return the path of a request with these parameters, and the other ones that differ from their defaults."""
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
    function: Callable[[Service, Actor, P], R_co],
    *,
    name: str = "",
    all_sources: bool = False,
) -> Endpoint[P, R_co]:
    """Return the endpoint of a function. `name`: by default the function's; see Endpoint for the rest."""
    types = get_type_hints(function)
    parameters = list(types.values())[2]
    return Endpoint(name or function.__name__, method, path, scope, parameters, types["return"], function, all_sources)


def _problem(name: str, text: str) -> dict[str, str]:
    """Return a problem of a parameter, for Invalid."""
    return {"name": name, "message": f"{name}: {text}"}


def _whole(value: Any) -> Any:
    """Return 3 for 3.0, which is an integer in JSON Schema too."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value
