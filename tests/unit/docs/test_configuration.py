"""docs/reference/configuration.md: its reference is made from the models, and what it says of rules is true."""

from __future__ import annotations

import re

import pytest
import yaml

from handlers.registry import BUILT_IN, sink_type
from receiver.config.json_schema import put_reference, reference
from receiver.config.models import Config
from receiver.config.settings import OTHER_VARIABLES, Settings
from receiver.config.yaml_file import expand
from receiver.routing.cel_scan import FUNCTIONS, MACROS
from receiver.routing.validation import rule_problems
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "configuration.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_reference_is_current() -> None:
    assert put_reference(TEXT, reference()) == TEXT, (
        "run: runhook schema --docs --output docs/reference/configuration.md"
    )


def test_every_variable_is_mentioned() -> None:
    names = {item.validation_alias for item in Settings.model_fields.values()} - {None}
    assert {name for name in {*names, *OTHER_VARIABLES} if f"`{name}`" not in TEXT} == set()


def test_every_key_of_the_file_is_mentioned() -> None:
    schema = Config.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    missing = {name for model in models for name in model["properties"] if f"`{name}`" not in TEXT} - {"options"}

    assert missing == set()


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_option_of_every_sink_is_mentioned(kind: str) -> None:
    section = TEXT.partition(f"### Options of `type: {kind}`")[2].partition("\n### ")[0]

    assert [name for name in sink_type(kind).Options.model_fields if f"`{name}`" not in section] == []


def test_every_function_of_rules_is_known_to_the_page_and_the_other_way_round() -> None:
    sentence = TEXT.partition("[CEL](https://cel.dev) with ")[2].partition("conversions")[0]
    named = set(re.findall(r"`(\w+)`", sentence))

    assert named <= {*MACROS, *FUNCTIONS}
    assert {*MACROS, "size", "contains", "startsWith", "endsWith", "matches"} <= named


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
def test_every_example_in_yaml_is_right(block: str) -> None:
    example = yaml.safe_load(block)

    assert rule_problems(example.get("when")) == []


@pytest.mark.parametrize("rule", re.findall(r"`([^`\n]*\brun\.[^`\n]*(?:[=<>]|has|exists)[^`\n]*)`", TEXT))
def test_every_rule_in_the_text_is_right(rule: str) -> None:
    complete = rule if re.search(r"[=<>(!]", rule.replace("->", "")) else f"{rule} == 1"

    assert rule_problems(complete) == []


def test_what_the_page_says_of_variables_is_so() -> None:
    assert expand("${A:-b} $${A}", {"A": ""}) == "b ${A}"
