"""The members that Skyvern sends: the samples and the simulator have them, and docs/reference/skyvern.md lists them."""

from __future__ import annotations

import json
import re

import pytest

from receiver.domain.shape import completed
from receiver.skyvern import members
from simulator import samples
from simulator.samples import keys
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "reference" / "skyvern.md").read_text()
FAMILIES = (members.TASK, members.TASK_V2, members.WORKFLOW)


@pytest.mark.parametrize("name", samples.names())
def test_a_sample_has_the_members_of_its_run_type(name: str) -> None:
    body = json.loads(samples.build(name, now=1_790_000_000.0))

    assert tuple(body) == members.WEBHOOK[members.family(body["run_type"])]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_poll_and_the_details_are_the_webhook(family: str) -> None:
    both = {*members.POLL[family], *keys.DETAILS[family]} - {"request"}

    assert both - {"run_request"} == set(members.WEBHOOK[family]) - {"run_request"}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_derived_is_what_a_poll_lacks(family: str) -> None:
    assert keys.DERIVED[family].keys() <= members.lacking(family)
    for path in keys.DERIVED[family].values():
        first, _, rest = path.partition(".")
        assert first in members.POLL[family]
        assert not rest or rest in members.RUN_REQUEST[family]
        assert rest not in members.LEFT_OUT[family]


@pytest.mark.parametrize("run_type", ["task_v1", "task_v2", "workflow_run"])
def test_a_completed_poll_has_the_members_of_the_webhook(run_type: str) -> None:
    """Each from where the table says, but for our own callback URL."""
    family = members.family(run_type)
    request = {name: f"asked {name}" for name in members.RUN_REQUEST[family]}
    poll = {name: f"polled {name}" for name in members.POLL[family]} | {"run_type": run_type, "run_request": request}

    run = completed(poll)

    assert set(members.WEBHOOK[family]) <= run.keys()
    expected = {
        name: request[path.removeprefix("run_request.")] if "." in path else poll[path]
        for name, path in keys.DERIVED[family].items()
        if name != "webhook_callback_url"
    }
    assert {name: run[name] for name in expected} == expected


def row(family: str, heading: str) -> set[str]:
    """The names in backticks in a family's row of the table below a heading of the page."""
    section = PAGE.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    (line,) = re.findall(rf"^\| {family} \|(.*)\|$", section, re.MULTILINE)
    return set(re.findall(r"`([a-z0-9_]+)`", line))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_lists_what_a_poll_lacks(family: str) -> None:
    assert row(family, "What a poll lacks") == members.lacking(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_lists_what_run_request_leaves_out(family: str) -> None:
    assert row(family, "What `run_request` leaves out") == set(members.LEFT_OUT[family])
