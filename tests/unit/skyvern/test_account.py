"""Agents and schedules as Skyvern's API lists them, and an agent's definition as it takes it back."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from receiver.skyvern.account import (
    SETTINGS,
    ListedSchedule,
    as_yaml,
    definition_of,
    differences,
    last_due,
    listed_agents,
    listed_schedules,
    scheduled_run_id,
)
from receiver.skyvern.responses import Answered
from tests.support.paths import ROOT

AGENT: dict[str, Any] = json.loads((ROOT / "tests/support/data/agent.json").read_text())
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


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
        assert listed_schedules(answer) is None


# --- Schedules


def schedule(**fields: Any) -> ListedSchedule:
    row = {
        "workflow_schedule_id": "wfs_1",
        "workflow_permanent_id": "wpid_1",
        "enabled": True,
        "timezone": "UTC",
        "modified_at": "2026-01-01T00:00:00",
        **fields,
    }
    found = listed_schedules(Answered(200, json.dumps({"schedules": [row]}).encode()))
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"cron_expression": "30 6 * * *"}, "2026-11-25T06:30"),
        ({"cron_expression": "0 13 * * *", "timezone": "Europe/Berlin"}, "2026-11-25T12:00"),
        ({"cron_expression": "0 14 * * *", "timezone": "Europe/Berlin"}, "2026-11-24T13:00"),
        ({"cron_expression": "0 9 * * mon"}, "2026-11-23T09:00"),
        ({"interval_seconds": 3600, "first_fire_at": "2026-11-20T00:15:00Z"}, "2026-11-25T11:15"),
        ({"interval_seconds": 3600, "first_fire_at": "2026-11-25T12:00:00Z"}, "2026-11-25T12:00"),
        ({"interval_seconds": 3600, "first_fire_at": "2026-11-25T12:00:01Z"}, None),
        ({"run_at": "2026-11-25T11:00:00Z", "dispatch_status": "pending"}, "2026-11-25T11:00"),
        ({"run_at": "2026-11-25T11:00:00Z", "dispatch_status": "canceled"}, None),
        ({"run_at": "2026-11-25T13:00:00Z", "dispatch_status": "pending"}, None),
        ({"cron_expression": "30 6 * * *", "enabled": False}, None),
        (
            {"cron_expression": "30 6 * * *", "modified_at": "2026-11-25T08:00:00"},
            None,
        ),  # what was missed before is over
        ({}, None),
    ],
)
def test_a_schedule_was_due_last(fields: dict[str, Any], at: str | None) -> None:
    expected = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() if at else None
    assert last_due(schedule(**fields), NOON + 1 if expected == NOON else NOON) == expected


@pytest.mark.parametrize(
    "fields", [{"cron_expression": "nonsense"}, {"cron_expression": "0 1 * * *", "timezone": "Mars/X"}]
)
def test_a_schedule_that_can_not_be_read_is_said_to_be_that(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nonsense|Mars"):
        last_due(schedule(**fields), NOON)


def test_the_run_of_a_schedule_is_known_by_its_time() -> None:
    """Measured on 1.0.56: the id is a hash of the schedule's and the time in UTC, to the second."""
    at = datetime(2026, 11, 25, 16, 13, 28, tzinfo=UTC).timestamp()
    found = scheduled_run_id("wfs_601037479088546428", at)
    assert found == "wr_sched_46fe1fb0290062ca075ff62b634cfae9"
    assert found == scheduled_run_id("wfs_601037479088546428", at + 0.4)
