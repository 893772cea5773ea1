"""Pages name each variable, key and option, and their examples are valid."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.registry import BUILT_IN, sink_type
from receiver.config.json_schema import reference
from receiver.config.models import Config
from receiver.config.settings import OTHER_VARIABLES, Settings
from receiver.routing.cel_names import FUNCTIONS, MACROS
from receiver.routing.validation import rule_problems
from tests.support.command import call_command
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


SINK_PAGES = sorted((ROOT / "docs" / "reference" / "sinks").glob("*.md"))
COMMON = {"type", "retry", "concurrency", "rate"}  # keys of every sink, in docs/reference/configuration.md


def examples(page: Path) -> list[tuple[str, dict[str, Any]]]:
    """(name, keys) of each sink in the page's YAML, with a value in the place of every variable."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    found: list[tuple[str, dict[str, Any]]] = []
    for block in blocks:
        if not re.search(r"^sinks:", block, re.MULTILINE):
            continue
        text = re.sub(r"\$\{(\w+?_URL)(:-[^}]*)?\}", "https://host.example/value", block)
        text = re.sub(r"\$\{RUNHOOK_\w+_KEY\}", "rhk_value", text)
        text = re.sub(r"\$\{\w+(:-[^}]*)?\}", "v4lue" * 8, text)
        found += yaml.safe_load(text)["sinks"].items()
    return found


@pytest.mark.parametrize("page", SINK_PAGES, ids=lambda page: page.stem)
def test_page_names_every_option_of_its_sink(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in sink_type(page.stem).Options.model_fields if f"`{name}`" not in text]
    assert missing == []


@pytest.mark.parametrize(
    ("name", "keys"),
    [pytest.param(name, keys, id=f"{page.stem}-{name}") for page in SINK_PAGES for name, keys in examples(page)],
)
def test_examples_on_the_page_of_a_sink_are_valid(name: str, keys: dict[str, Any]) -> None:
    options = {key: value for key, value in keys.items() if key not in COMMON}
    sink_type(keys["type"]).Options.model_validate(options)


FOLDERS = ("tutorials", "how-to")
# Its sink type comes from a package: tests/acceptance/test_third_party_sink.py follows the page.
THIRD_PARTY = ROOT / "docs" / "how-to" / "writing-a-sink.md"
PAGES = [ROOT / "README.md", *sorted(page for name in FOLDERS for page in (ROOT / "docs" / name).glob("*.md"))]
CONFIGS = [
    pytest.param(page, textwrap.dedent(block), id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    if page != THIRD_PARTY
    for number, block in enumerate(re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE))
    if re.search(r"^ *sources:", block, re.MULTILINE)
]


@pytest.mark.parametrize(("page", "config"), CONFIGS)
def test_config_on_a_page_passes_check(page: Path, config: str, tmp_path: Path) -> None:
    (tmp_path / "runhook.yaml").write_text(config)

    checked = call_command("check", "runhook.yaml", "--allow-unset", environ={}, directory=tmp_path)

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(("page", "config"), CONFIGS)
def test_page_names_each_variable_of_its_config(page: Path, config: str) -> None:
    """Outside of the config: in the text, or as a line of .env or of the shell. A new user has set none of them."""
    text = re.sub(r"^ *```yaml\n.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    variables = set(re.findall(r"\$\{(\w+)\}", config)) - {"SKYVERN_API_KEY"}

    assert {name for name in variables if name not in text} == set()


def test_readme_config_needs_no_variable_but_the_key(tmp_path: Path) -> None:
    ((_, config),) = [each.values for each in CONFIGS if each.values[0] == ROOT / "README.md"]
    (tmp_path / "runhook.yaml").write_text(config)

    checked = call_command("check", environ={"SKYVERN_API_KEY": "k" * 20}, directory=tmp_path)

    assert (checked.returncode, checked.stderr) == (0, "")
