"""The config file described for editors (JSON Schema) and for people (Markdown). Both are made from the models."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ByteSize, SecretStr
from pydantic.fields import FieldInfo

from receiver.config.console import ConsoleUser, OidcConfig, OidcGroup
from receiver.config.destinations import RetryPolicy, RouteConfig, SinkConfig, ToSink
from receiver.config.fields import NAME, parse_size
from receiver.config.messages import model_in
from receiver.config.models import Config, SourceConfig
from receiver.config.settings import OTHER_VARIABLES, Settings

# Pattern of a text that takes its value from the environment.
VARIABLE = r"\$\{[A-Za-z_]"

BEGIN = "<!-- made by `runhook schema --docs --output docs/reference/configuration.md` -->"
END = "<!-- end -->"

Schema = dict[str, Any]


# --- For editors


def json_schema() -> Schema:
    """Return the JSON Schema (2020-12) of the config file, with the options of every sink type installed here."""
    from handlers.registry import sink_types

    schema = Config.model_json_schema(ref_template="#/$defs/{model}")
    definitions: Schema = schema.setdefault("$defs", {})
    own = definitions.pop("SinkConfig")["properties"]
    own.pop("options")
    kinds: list[Schema] = []
    types = sink_types()
    for kind, cls in types.items():
        options = _with_shorthands(cls.Options, cls.Options.model_json_schema(ref_template=f"#/$defs/{kind}.{{model}}"))
        for name, definition in options.pop("$defs", {}).items():
            definitions[f"{kind}.{name}"] = definition
        definitions[f"sink.{kind}"] = {
            "title": kind,
            "type": "object",
            "description": options.get("description", ""),
            "properties": {
                **own,
                "type": {**own["type"], "type": "string", "const": kind},
                **options.get("properties", {}),
            },
            "required": ["type", *options.get("required", [])],
            "additionalProperties": False,
        }
        kinds.append(
            {
                "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                "then": {"$ref": f"#/$defs/sink.{kind}"},
            }
        )
    schema["properties"]["sinks"]["additionalProperties"] = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": list(types), "description": own["type"]["description"]}},
        "allOf": kinds,
    }
    for name in ("sources", "sinks"):
        schema["properties"][name].pop("patternProperties", None)
        schema["properties"][name]["propertyNames"] = {"pattern": NAME}
    schema["properties"]["sources"]["additionalProperties"] = {"$ref": "#/$defs/SourceConfig"}
    schema["patternProperties"] = {"^x-": {"description": "A place for anchors."}}
    opened: Schema = _open_to_variables(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **opened,
        "title": "Runhook config file",
    }


def _with_shorthands(model: type[BaseModel], schema: Schema) -> Schema:
    """Allow a text where a validator of the model turns one into the value."""
    short = {"type": "string"}
    for validator in model.__pydantic_decorators__.field_validators.values():
        for name in validator.info.fields if validator.info.mode == "before" else ():
            schema["properties"][name] = {"anyOf": [schema["properties"][name], short]}
    for item in model.model_fields.values():
        inner = model_in(item.annotation)
        if inner and any(
            each.info.mode == "before" for each in inner.__pydantic_decorators__.model_validators.values()
        ):
            schema["$defs"][inner.__name__] = {"anyOf": [schema["$defs"][inner.__name__], short]}
    return schema


def _open_to_variables(schema: Any) -> Any:
    """Allow `${VAR}` wherever a number, a boolean or a text of a certain form is expected."""
    if isinstance(schema, list):
        return [_open_to_variables(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {
        key: {name: _open_to_variables(each) for name, each in value.items()}
        if key in ("properties", "$defs", "patternProperties")
        else value
        if key in ("propertyNames", "if", "enum", "const", "default", "examples")
        else _open_to_variables(value)
        for key, value in schema.items()
    }
    restricted = opened.get("type") in ("integer", "number", "boolean") or (
        opened.get("type") == "string" and {"pattern", "enum", "format"} & set(opened)
    )
    if not restricted or "const" in opened:
        return opened
    annotations = {key: opened.pop(key) for key in ("title", "description", "default") if key in opened}
    return {**annotations, "anyOf": [opened, {"type": "string", "pattern": VARIABLE}]}


# --- For people


def reference() -> str:
    """Return the reference part of docs/reference/configuration.md."""
    from handlers.registry import BUILT_IN, sink_type

    parts = [
        "### Environment\n\n| variable | default | |\n|---|---|---|\n",
        *(
            f"| `{item.validation_alias}` | {'' if item.default_factory else _default(item)} | {item.description} |\n"
            for item in Settings.model_fields.values()
            if item.validation_alias
        ),
        *(f"| `{name}` |  | {text} |\n" for name, text in OTHER_VARIABLES.items()),
        _table("The file", Config),
        _table("sources.*name*", SourceConfig),
        _table("sinks.*name*", SinkConfig, leave_out={"options"}),
        _table("sinks.*name*.retry", RetryPolicy),
        _table("console.users.*name*", ConsoleUser),
        _table("console.oidc", OidcConfig),
        _table("console.oidc.groups.*group*", OidcGroup),
        _table("routes[]", RouteConfig),
        _table("routes[].to[], in its long form", ToSink),
    ]
    for name, item in Config.model_fields.items():
        if isinstance(item.annotation, type) and issubclass(item.annotation, BaseModel):
            parts.append(_table(name, item.annotation))
    for kind in sorted(BUILT_IN):
        options = sink_type(kind).Options
        parts.append(_table(f"Options of `type: {kind}`", options, about="Beside `type`, `retry` and the rest."))
        for name, item in options.model_fields.items():
            if model := model_in(item.annotation):
                parts.append(_table(f"`{name}` of `type: {kind}`", model))
    return "".join(parts)


def put_reference(page: str, text: str) -> str:
    """Return `page` with `text` between the marks, or just `text` where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{text}{end}{after}" if begin and end else text


def _table(title: str, model: type[BaseModel], leave_out: set[str] | None = None, about: str = "") -> str:
    about = about or " ".join((model.__doc__ or "").split("\n\n")[0].split())
    rows = [
        f"| `{name}` | {_default(item)} | {_cell(item.description or '')} |\n"
        for name, item in model.model_fields.items()
        if name not in (leave_out or set())
    ]
    return f"\n### {title}\n\n{about}\n\n| key | default | |\n|---|---|---|\n{''.join(rows)}"


def _default(item: FieldInfo) -> str:
    if item.is_required():
        return "**required**"
    value = item.get_default(call_default_factory=True, validated_data={})
    if value is None or isinstance(value, BaseModel | SecretStr) or value in ([], {}, (), ""):
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(f"`{each}`" for each in value)
    if isinstance(value, ByteSize) or any(getattr(each, "func", None) is parse_size for each in item.metadata):
        return _code(ByteSize(value).human_readable().replace(".0", ""))
    return _code(value if isinstance(value, str) else json.dumps(value, default=str))


def _code(text: str) -> str:
    return f"`{text}`" if text and ("{" in text or " " not in text) else text


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
