"""The OpenAPI 3.1 document of the API, made from the table of endpoints and their models."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from receiver.api.artifact_content import GET_CONTENT
from receiver.api.endpoint import ROOT, Endpoint
from receiver.api.responses import CONTENT_TYPE, TYPE
from receiver.api.tail import TAIL
from receiver.errors import (
    Busy,
    Conflict,
    Forbidden,
    Invalid,
    NoKey,
    NotAllowed,
    NotFound,
    RequestError,
    TimedOut,
    TooLarge,
    TooMany,
)

# Where the document itself is, below ROOT.
PATH: Final = "/openapi.json"
_REF: Final = "#/components/schemas/"
_ABOUT: Final = """Read runs, events and deliveries, and act on them.

Lists come in pages: give `next` of a page as `after` of the next call, until it is null. A page before the last may
hold fewer rows than `limit`, or none. Times are ISO 8601 in UTC; filters also take a time ago: `2h`.
Clients must ignore unknown members of results, and accept unknown values such as states."""

_STREAM: Final = "Server-sent events: `event` with an event as in the list, and `gap`. See docs/reference/api.md."
_LAST_EVENT_ID: Final = {
    "type": "string",
    "description": "Of a stream: the id of the last received event, in place of `after`.",
}
_BYTES: Final = "The file, or the range of it, under a type that a browser may show."
_RANGE: Final = {"type": "string", "pattern": "^bytes=\\d{1,9}-$", "description": "`bytes=0-99`; a single range."}

# Errors of any call.
ERRORS: Final[tuple[type[RequestError], ...]] = (
    NoKey,
    Forbidden,
    NotFound,
    NotAllowed,
    TimedOut,
    Conflict,
    TooLarge,
    Invalid,
    TooMany,
    Busy,
)
_HEADERS: Final[Mapping[type[RequestError], str]] = {
    NoKey: "WWW-Authenticate",
    NotAllowed: "Allow",
    TooMany: "Retry-After",
    Busy: "Retry-After",
}
_HEADER_TEXTS: Final = {
    "WWW-Authenticate": "`Bearer`.",
    "Allow": "The supported methods.",
    "Retry-After": "Seconds after which to retry.",
    "ETag": "Send as `If-None-Match`; returns 304 if unchanged.",
}


def document(endpoints: Sequence[Endpoint[Any, Any]]) -> dict[str, Any]:
    """Return the document that describes `endpoints`."""
    models: list[tuple[type[BaseModel], Any]] = []
    for each in endpoints:
        models += [(each.parameters, "validation"), (each.result, "serialization")]
    refs, made = models_json_schema(list(dict.fromkeys(models)), ref_template=_REF + "{model}")
    schemas: dict[str, Any] = made.get("$defs", {})
    paths: dict[str, dict[str, Any]] = {}
    for each in endpoints:
        parameters = schemas[refs[each.parameters, "validation"]["$ref"].removeprefix(_REF)]
        operation = _operation(each, parameters, refs[each.result, "serialization"])
        path = re.sub(r":\w+}", "}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = operation
    components = {name: _untitled(schema) for name, schema in schemas.items()}
    components["Problem"] = _PROBLEM
    responses = {error.__name__: _error(error) for error in ERRORS}
    found = {
        "openapi": "3.1.0",
        "info": {"title": "Runhook", "version": "1", "description": _ABOUT, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": ROOT}],
        "tags": _tags(endpoints),
        "security": [{"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": _used(components, [paths, responses]),
            "responses": responses,
            "headers": {
                name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADER_TEXTS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer rhk_…`"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }
    # RunRowPage, where pydantic says Page_RunRow_
    described: dict[str, Any] = orjson.loads(re.sub(rb'\bPage_(\w+?)_"', rb'\1Page"', orjson.dumps(found)))
    return described


def _operation(endpoint: Endpoint[Any, Any], parameters: Mapping[str, Any], result: Any) -> dict[str, Any]:
    properties: dict[str, Any] = parameters.get("properties", {})
    required = set(parameters.get("required", ()))
    in_path = [_parameter(name, "path", properties[name], True) for name in endpoint.path_names]
    rest = {name: schema for name, schema in properties.items() if name not in endpoint.path_names}
    answer: dict[str, Any] = {
        "description": "The result.",
        "content": {"application/json": {"schema": result}},
    }
    made: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [_tag(endpoint)],
        "summary": endpoint.summary,
        "description": _description(endpoint),
        "security": [{"bearer": _scopes(endpoint)}, {"header": _scopes(endpoint)}],
        "parameters": in_path,
        "responses": {"200": answer},
    }
    if endpoint.method == "GET":
        made["parameters"] += [
            _parameter(name, "query", _queried(schema), name in required) for name, schema in rest.items()
        ]
        etag = {"ETag": {"$ref": "#/components/headers/ETag"}}
        answer["headers"] = etag
        if endpoint is TAIL:
            answer["content"]["text/event-stream"] = {"schema": {"type": "string", "description": _STREAM}}
            made["parameters"].append(_parameter("Last-Event-ID", "header", _LAST_EVENT_ID, False))
        if endpoint is GET_CONTENT:
            answer["content"]["*/*"] = {"schema": {"type": "string", "format": "binary", "description": _BYTES}}
            made["parameters"].append(_parameter("Range", "header", _RANGE, False))
            made["responses"]["206"] = {**answer, "description": "The range."}
            made["responses"]["416"] = {"description": "The range is outside of the file."}
        made["responses"]["304"] = {"description": "Unchanged: the client sent the current ETag.", "headers": etag}
    else:
        body = {
            "type": "object",
            "description": " ".join((endpoint.parameters.__doc__ or "").split()),
            "properties": _untitled(rest),
            "required": sorted(required & rest.keys()),
            "additionalProperties": False,
        }
        body = {key: value for key, value in body.items() if value != []}
        made["requestBody"] = {
            "required": bool(required & rest.keys()),
            "content": {"application/json": {"schema": body}},
        }
    errors = {str(each.status): {"$ref": f"#/components/responses/{each.__name__}"} for each in ERRORS}
    made["responses"] |= errors
    return made


def _description(endpoint: Endpoint[Any, Any]) -> str:
    """Return the rest of the function's docstring, and which scopes the call needs."""
    text = (endpoint.function.__doc__ or "").strip().partition("\n\n")
    whole = " ".join(f"{text[0]}\n\n{text[2]}".split()).removeprefix(endpoint.summary).strip()
    keys = f"Needs the scope{'s' if len(_scopes(endpoint)) > 1 else ''} {' and '.join(_scopes(endpoint))}"
    keys += ", for all sources." if endpoint.all_sources else "."
    return f"{whole}\n\n{keys}".strip()


def _scopes(endpoint: Endpoint[Any, Any]) -> list[str]:
    return list(dict.fromkeys(("view", endpoint.scope)))


def _tag(endpoint: Endpoint[Any, Any]) -> str:
    return endpoint.path.split("/")[1]


def _tags(endpoints: Iterable[Endpoint[Any, Any]]) -> list[dict[str, str]]:
    """Return the first parts of the paths, each with the docstring of the module of its first endpoint."""
    found: dict[str, str] = {}
    for each in endpoints:
        about = (sys.modules[each.function.__module__].__doc__ or "").strip().split("\n\n")[0]
        found.setdefault(_tag(each), " ".join(about.split()))
    return [{"name": name, "description": text} for name, text in found.items()]


def _parameter(name: str, place: str, schema: Mapping[str, Any], required: bool) -> dict[str, Any]:
    own = _untitled(dict(schema))
    found: dict[str, Any] = {"name": name, "in": place, "required": required}
    if text := own.pop("description", ""):
        found["description"] = text
    return {**found, "schema": own}


def _queried(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a member in a query, where null is an absent parameter."""
    own = dict(schema)
    kinds = [each for each in own.get("anyOf", ()) if each != {"type": "null"}]
    if len(kinds) == 1:
        del own["anyOf"]
        own |= kinds[0]
    elif kinds:
        own["anyOf"] = kinds
    if own.get("default", 0) is None:
        del own["default"]
    return own


def _error(error: type[RequestError]) -> dict[str, Any]:
    title = HTTPStatus(error.status).phrase
    problem = {"type": TYPE + error.code, "title": title, "status": error.status, "detail": "…"}
    made: dict[str, Any] = {
        "description": " ".join((error.__doc__ or title).split()),
        "content": {CONTENT_TYPE: {"schema": {"$ref": _REF + "Problem"}, "examples": {"problem": {"value": problem}}}},
    }
    if name := _HEADERS.get(error):
        made["headers"] = {name: {"$ref": f"#/components/headers/{name}"}}
    return made


_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri", "description": "Identifies the error; its meaning never changes."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What failed and how to fix it."},
        "count": {"type": "integer", "description": "The number that matches now, when the call expected another."},
        "errors": {
            "type": "array",
            "description": "The invalid parameters.",
            "items": {
                "type": "object",
                "required": ["name", "message"],
                "properties": {"name": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def _untitled(part: Any) -> Any:
    """Return a schema without the titles that pydantic derives from names."""
    if isinstance(part, list):
        return [_untitled(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {key: _untitled(value) for key, value in part.items() if key != "title" or not isinstance(value, str)}


def _used(schemas: Mapping[str, Any], roots: list[Any]) -> dict[str, Any]:
    """Return the schemas that `roots` refer to, directly or not."""
    used: dict[str, Any] = {}
    while roots:
        part = roots.pop()
        if isinstance(part, list):
            roots += part
        elif isinstance(part, dict):
            roots += part.values()
            ref = part.get("$ref")
            if isinstance(ref, str) and (name := ref.removeprefix(_REF)) in schemas and name not in used:
                used[name] = schemas[name]
                roots.append(schemas[name])
    return dict(sorted(used.items()))
