"""Messages about what pydantic found wrong, for the person who wrote the file. Pure; no message repeats a value."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from receiver.errors import suggest

Key = tuple[str | int, ...]

# pydantic's kind of error → what would be right. {…} are filled from the error's context.
_WORDS = {
    "string_type": "must be a text",
    "string_pattern_mismatch": "does not look right: it must match {pattern}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list, such as [a, b]",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping, such as {{key: value}}",
    "model_type": "must be a mapping, such as {{key: value}}",
    "model_attributes_type": "must be a mapping, such as {{key: value}}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "byte_size": "must be a size such as 4GiB",
    "byte_size_unit": "must be a size such as 4GiB",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "too_short": "must have at least {min_length}",
    "too_long": "must have at most {max_length}",
}
_KINDS = {"string_type", "list_type", "dict_type", "model_type", "tuple_type", "model_attributes_type", "bool_type"}


def describe(error: ValidationError, model: type[BaseModel], value: Any) -> list[tuple[Key, str]]:
    """Return one problem for each key at which `model` refused `value`."""
    by_key: dict[Key, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False, include_input=False):
        by_key.setdefault(_key(detail, value), []).append(detail)
    guesses = {
        (*key[:-1], guess)
        for key, details in by_key.items()
        if any(detail["type"] == "extra_forbidden" for detail in details)
        and (guess := suggest(str(key[-1]), fields_at(model, key[:-1])))
    }
    problems = []
    for key, details in by_key.items():
        if all(detail["type"] == "missing" for detail in details) and key in guesses:
            continue  # it is there, misspelt, and that is reported
        # Of a union, the alternative that got further is the one that was meant.
        deeper = any(other[: len(key)] == key and len(other) > len(key) for other in by_key)
        meant = [detail for detail in details if not (deeper and detail["type"] in _KINDS)]
        texts = dict.fromkeys(_text(detail, model, key, value) for detail in meant)
        if texts:
            problems.append((key, ", or ".join(texts)))
    return problems


def unknown(name: str, names: Iterable[str]) -> str:
    """Return "unknown key; …" with the key that was probably meant, or all `names`."""
    names = list(names)
    guess = suggest(name, names)
    return f"unknown key; did you mean {guess}?" if guess else f"unknown key; the keys here are {', '.join(names)}"


def fields_at(model: type[BaseModel], key: Sequence[str | int]) -> list[str]:
    """Return the names of the fields below `key`, or [] where any name is allowed."""
    nested = _model_at(model, key)
    return list(nested.model_fields) if nested else []


def _model_at(model: type[BaseModel], key: Sequence[str | int]) -> type[BaseModel] | None:
    current: Any = model
    for part in key:
        current = _below(current, part)
    return _model(current)


def _below(annotation: Any, part: str | int) -> Any:
    """Return the annotation of the value at `part` in one of type `annotation`."""
    if (nested := _model(annotation)) is not None and str(part) in nested.model_fields:
        return nested.model_fields[str(part)].annotation
    for each in _alternatives(annotation):
        origin, arguments = get_origin(each), get_args(each)
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
            return arguments[1]
        if isinstance(part, int) and isinstance(origin, type) and issubclass(origin, Sequence) and arguments:
            return arguments[0]
    return None


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation, also as an element of its lists or a value of its mappings."""
    for each in _alternatives(annotation):
        for inner in (each, *get_args(each)):
            if nested := _model(inner):
                return nested
    return None


def _model(annotation: Any) -> type[BaseModel] | None:
    return next(
        (each for each in _alternatives(annotation) if isinstance(each, type) and issubclass(each, BaseModel)), None
    )


def _alternatives(annotation: Any) -> list[Any]:
    """Return the types that an annotation allows, through Annotated, Optional and unions."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [each for argument in get_args(annotation) for each in _alternatives(argument)]
    if hasattr(annotation, "__metadata__"):
        return _alternatives(get_args(annotation)[0])
    return [annotation]


def _key(detail: ErrorDetails, value: Any) -> Key:
    """Return the error's location as keys of the file, without branches of unions and names of validators."""
    key: list[str | int] = []
    parts = detail["loc"]
    for index, part in enumerate(parts):
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, Mapping) and part in value):
            value = value[part]
            key.append(part)
        elif index == len(parts) - 1 and detail["type"] == "missing":
            key.append(part)
    return tuple(key)


def _text(detail: ErrorDetails, model: type[BaseModel], key: Key, value: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if detail["loc"] and detail["loc"][-1] == "[key]":
        return "is not a valid name: use letters, digits, - and _, at most 63, beginning with a letter or digit"
    if kind == "extra_forbidden":
        return unknown(str(key[-1]), fields_at(model, key[:-1])) if key else "unknown key"
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", detail["msg"]))
    if kind in ("too_short", "too_long"):
        words = _WORDS[kind].format(**context)
        number = context.get("min_length", context.get("max_length"))
        return f"{words} {'entry' if number == 1 else 'entries'}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == "^https?://":
        return "must begin with http:// or https://"
    if kind == "missing":
        return f"is missing: {_help(model, key)}".removesuffix(": ")
    text = _WORDS.get(kind, detail["msg"][:1].lower() + detail["msg"][1:]).format(**context)
    if kind == "string_type" and isinstance(_at(value, key), int | float):
        text += ", not a number: in quotes it is one"
    return text


def _help(model: type[BaseModel], key: Key) -> str:
    """Return the first sentence of the field's description."""
    nested = _model_at(model, key[:-1])
    described = (
        nested.model_fields[str(key[-1])].description if nested and str(key[-1]) in nested.model_fields else None
    )
    return (described or "").partition(". ")[0].rstrip(".")


def _at(value: Any, key: Key) -> Any:
    try:
        for part in key:
            value = value[part]
    except (KeyError, IndexError, TypeError):
        return None
    return value
