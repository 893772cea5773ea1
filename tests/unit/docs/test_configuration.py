"""docs/reference/configuration.md names each key and variable, and its rules and examples are valid."""

from __future__ import annotations

import re

import pytest
import yaml

from handlers.registry import BUILT_IN, sink_type
from receiver.config.json_schema import reference
from receiver.config.models import Config
from receiver.config.settings import OTHER_VARIABLES, Settings
from receiver.config.yaml_file import expand
from receiver.routing.cel_names import FUNCTIONS, MACROS
from receiver.routing.validation import rule_problems
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "configuration.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_page_names_every_variable() -> None:
    names = {item.validation_alias for item in Settings.model_fields.values()} - {None}
    assert {name for name in {*names, *OTHER_VARIABLES} if f"`{name}`" not in TEXT} == set()


def test_page_names_every_key_of_the_file() -> None:
    schema = Config.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    missing = {name for model in models for name in model["properties"] if f"`{name}`" not in TEXT} - {"options"}

    assert missing == set()


def test_schema_docs_list_every_option_of_every_sink() -> None:
    text = reference()
    tables = {kind: text.partition(f"### Options of `type: {kind}`")[2].partition("\n### ")[0] for kind in BUILT_IN}

    missing = {
        kind: [name for name in sink_type(kind).Options.model_fields if f"`{name}`" not in table]
        for kind, table in tables.items()
    }
    assert missing == {kind: [] for kind in BUILT_IN}


def test_page_names_exactly_the_functions_of_rules() -> None:
    sentence = TEXT.partition("[CEL](https://cel.dev) with ")[2].partition("conversions")[0]
    named = set(re.findall(r"`(\w+)`", sentence))

    assert named <= {*MACROS, *FUNCTIONS}
    assert {*MACROS, "size", "contains", "startsWith", "endsWith", "matches"} <= named


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
def test_each_yaml_example_is_a_valid_rule(block: str) -> None:
    example = yaml.safe_load(block)

    assert rule_problems(example.get("when")) == []


@pytest.mark.parametrize("rule", re.findall(r"`([^`\n]*\brun\.[^`\n]*(?:[=<>]|has|exists)[^`\n]*)`", TEXT))
def test_each_rule_in_the_text_is_valid(rule: str) -> None:
    complete = rule if re.search(r"[=<>(!]", rule.replace("->", "")) else f"{rule} == 1"

    assert rule_problems(complete) == []


def test_variable_syntax_of_the_page_works() -> None:
    assert expand("${A:-b} $${A}", {"A": ""}) == "b ${A}"
