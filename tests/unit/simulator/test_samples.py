"""Samples and simulated bodies have the members that Skyvern sends, and are the same for the same time."""

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from receiver.domain import members
from receiver.domain.run import parse
from receiver.domain.shape import completed
from simulator import keys, samples, test_button
from simulator.bodies import dumps
from tests.support.events import press
from tests.support.paths import ROOT

NOW = 1_790_000_000.25
KEYS = {"task_v2": 44, "workflow_run": 58}  # every other run type: 31
TYPES = {
    *("task_v1", "task_v2", "task_v3", "openai_cua", "anthropic_cua", "yutori_navigator", "ui_tars"),
    "workflow_run",
}
STATUSES = {"completed", "failed", "terminated", "timed_out", "canceled"}


def load(name: str, **options: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(samples.build(name, now=NOW, **options))
    return body


def test_there_is_a_sample_for_each_run_type_and_ending() -> None:
    found = {(run.run_type, run.status) for run in (parse(samples.build(n, now=NOW)) for n in samples.names())}

    assert found == {(kind, status) for kind in TYPES for status in STATUSES}


@pytest.mark.parametrize("name", samples.names())
@pytest.mark.parametrize("artifacts", ["", "http://127.0.0.1:9/"])
def test_a_sample_is_a_body_as_skyvern_writes_it(name: str, artifacts: str) -> None:
    body = samples.build(name, now=NOW, artifacts=artifacts)
    run = parse(body)

    assert run.problem == ""
    assert name.startswith(run.run_type + ".")
    assert len(run.data) == KEYS.get(run.run_type, 31)
    assert body == json.dumps(run.data, ensure_ascii=False, separators=(",", ":")).encode(), "compact, UTF-8 unescaped"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", run.data["modified_at"])
    assert run.modified_at == pytest.approx(NOW, abs=1)
    assert not re.search(rb"\d\.0[,}\]]", body), "integral floats are integers"
    assert run.final == ("retry_pending" not in name)


@pytest.mark.parametrize("name", samples.names())
def test_a_sample_is_made_by_its_time_and_number_alone(name: str) -> None:
    body = samples.build(name, now=NOW, seq=3)

    assert body == samples.build(name, now=NOW, seq=3)
    others = [samples.build(name, now=NOW, seq=4), samples.build(name, now=NOW + 1, seq=3)]
    assert len({parse(each).run_id for each in (body, *others)}) == 3


def test_artifacts_are_at_their_urls_with_their_checksums() -> None:
    body = load("workflow_run.completed", artifacts="http://127.0.0.1:9")
    (file,) = body["downloaded_files"]
    urls = [file["url"], body["recording_url"], *body["screenshot_urls"]]

    contents = []
    for url in urls:
        found = re.fullmatch(r"http://127\.0\.0\.1:9/v1/artifacts/(\w+)/content\?expiry=\d+&kid=\w+&sig=\w+", url)
        assert found
        contents.append(samples.artifact(found[1]))
    kinds = [content[0] for content in contents if content]
    assert kinds == ["application/pdf", "video/webm", "image/png", "image/png"]
    pdf = samples.artifact(file["artifact_id"])
    assert pdf
    assert (hashlib.sha256(pdf[1]).hexdigest(), len(pdf[1])) == (file["checksum"], file["file_size"])
    assert samples.artifact("a_1_nothing") is None


def test_the_attempts_of_a_series_add_up() -> None:
    bodies = [load(name, run_id="wr_1") for name in samples.SERIES["workflow_run.retries"]]

    assert [(b["status"], b["attempt"], b["retry_pending"], len(b["attempts"])) for b in bodies] == [
        ("failed", 1, True, 1),
        ("failed", 2, True, 2),
        ("completed", 3, False, 3),
    ]
    assert [a["retry_decision"] for a in bodies[-1]["attempts"]] == ["retry", "retry", None]


def test_the_second_cancel_brings_the_outputs() -> None:
    first, second = (load(name, run_id="wr_1") for name in samples.SERIES["workflow_run.canceled_twice"])

    assert first["output"] is None
    assert second["output"]["download_invoice_output"]["extracted_information"]["total"] > 0


@pytest.mark.parametrize(("run_type", "kind"), [("task", "task"), ("workflow_run", "workflow")])
def test_the_test_button_sends_what_skyvern_sent(run_type: str, kind: str) -> None:
    moment = datetime(2026, 11, 25, 16, 5, 7, 605112, tzinfo=UTC).timestamp()
    sent = json.loads(press(kind, 7))

    ours = test_button.body(run_type, moment)

    assert list(ours.items()) == list({**sent, "app_url": ours["app_url"]}.items())  # that is the server's own address
    assert (parse(dumps(ours)).test, parse(dumps(ours)).final) == (True, True)


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
