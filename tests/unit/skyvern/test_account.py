"""Agents as Skyvern's API lists them, and an agent's definition as it takes it back."""

import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from receiver.skyvern.account import (
    SETTINGS,
    as_yaml,
    definition_of,
    differences,
    listed_agents,
)
from receiver.skyvern.responses import Answered
from tests.support.paths import ROOT

AGENT: dict[str, Any] = json.loads((ROOT / "tests/support/data/agent.json").read_text())


def test_the_definition_of_an_agent_is_what_an_update_takes() -> None:
    # Given what a real server answers of an agent with parameters, a loop and a block of code
    found = definition_of(AGENT)

    # Then nothing is left out, and nothing is in it that only an answer has
    assert found.keys() == {*(name for name in SETTINGS if name in AGENT), "workflow_definition"}
    definition = found["workflow_definition"]
    assert [each["key"] for each in definition["parameters"]] == ["name", "items"]
    assert not any("workflow_id" in each or "workflow_parameter_id" in each for each in definition["parameters"])
    blocks = {each["label"]: each for each in definition["blocks"]}
    assert not any("output_parameter" in each or "parameters" in each for each in blocks.values())
    assert blocks["two"]["parameter_keys"] == ["name"]
    assert blocks["loop"]["loop_over_parameter_key"] == "items"
    assert "output_parameter" not in blocks["loop"]["loop_blocks"][0]
    assert blocks["one"]["headers"] == {"x-k": "v"}
    assert AGENT["workflow_definition"]["blocks"][0]["output_parameter"], "the answer itself is not changed"


def test_null_headers_are_left_out() -> None:
    headers = {"extra_http_headers": None, "cdp_connect_headers": None}
    assert not headers.keys() & definition_of({**AGENT, **headers}).keys()
    assert definition_of({**AGENT, "extra_http_headers": {"x": "1"}})["extra_http_headers"] == {"x": "1"}


def test_a_parameter_that_another_is_the_source_of_is_named() -> None:
    agent = {
        "title": "t",
        "workflow_definition": {
            "parameters": [{"parameter_type": "context", "key": "c", "source": {"key": "name", "workflow_id": "w_1"}}],
            "blocks": [],
        },
    }
    assert definition_of(agent)["workflow_definition"]["parameters"] == [
        {"parameter_type": "context", "key": "c", "source_parameter_key": "name"}
    ]


def test_versions_of_an_agent_differ_in_what_was_changed_only() -> None:
    later = json.loads(json.dumps(AGENT).replace(AGENT["workflow_id"], "w_999"))
    later |= {"version": 2, "modified_at": "2027-01-01T00:00:00", "webhook_callback_url": "https://here.example"}
    later["workflow_definition"]["blocks"][0]["output_parameter"]["output_parameter_id"] = "op_999"
    assert differences(AGENT, later) == ["webhook_callback_url"]

    later["workflow_definition"]["blocks"][1]["continue_on_failure"] = False
    assert differences(AGENT, {**later, "description": None}) == [
        "description",
        "webhook_callback_url",
        "workflow_definition",
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
        max_leaves=10,
    )
)
def test_what_is_sent_as_yaml_is_read_as_it_was(value: Any) -> None:
    definition = {"title": value, "emoji": "a \N{GRINNING FACE} and \\ud83d, \u2028\x85"}
    assert yaml.safe_load(as_yaml(definition).decode()) == definition


def test_lists_are_read_and_what_is_none_is_refused() -> None:
    agents = listed_agents(Answered(200, json.dumps([AGENT, {"title": "no id"}, 7]).encode()))
    assert agents is not None
    assert [(each.id, each.title, each.version, each.callback_url) for each in agents] == [
        (AGENT["workflow_permanent_id"], "Conn agent", 1, None)
    ]
    for answer in (Answered(200, b"{}"), Answered(500, b"[]"), Answered(200, b"<html>")):
        assert listed_agents(answer) is None
