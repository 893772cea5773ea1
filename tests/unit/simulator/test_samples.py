"""The samples look like what Skyvern sends, differ where real runs differ, and are the same for the same time."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from receiver.domain.event import event_id
from receiver.domain.run import parse
from simulator import samples
from simulator.samples import dumps, test_button
from tests.support.button import press
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


def made_at(body: bytes) -> int:
    """The second since 1970 in which the run was made, as its id says: since 2022-06-20, above 32 bits of its maker."""
    return (int(parse(body).run_id.rpartition("_")[2]) >> 32) + 1655683200


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


def test_a_thousand_samples_are_a_thousand_runs() -> None:
    ids = {load("task_v1.completed", seq=n)["run_id"] for n in range(1000)}

    assert len(ids) == 1000


@pytest.mark.parametrize("name", samples.names())
def test_its_run_was_made_when_it_is_sent_so_that_its_event_sorts_by_that_second(name: str) -> None:
    later = NOW + 100
    first, second = (samples.build(name, now=moment, seq=9) for moment in (NOW, later))

    assert [made_at(each) for each in (first, second)] == [int(NOW), int(later)]
    assert event_id("skyvern", first) < event_id("skyvern", second)
    assert re.fullmatch(r"(tsk|tsk_v2|wr)_\d{18}", parse(first).run_id)


def test_a_run_that_skyvern_made_has_such_an_id() -> None:
    found = [path.read_bytes() for path in (ROOT / "tests/support/data/captures").glob("*.json")]
    sent = [body for body in found if b"_60063" in body]

    assert len(sent) == 4
    assert [made_at(body) for body in sent] == [int(parse(body).created_at or 0) for body in sent]


@pytest.mark.parametrize("name", samples.names())
def test_the_run_id_may_be_given(name: str) -> None:
    assert load(name, run_id="run_7")["run_id"] == "run_7"


def test_invoices_lie_on_both_sides_of_a_rule() -> None:
    totals = [load("completed", seq=n)["output"]["total"] for n in range(9)]

    assert totals[0] > 1000
    assert min(totals) < 1000
    assert {type(total) for total in totals} == {int, float}


def test_without_artifacts_nothing_has_an_address() -> None:
    for name in samples.names():
        body = load(name)
        assert (body["recording_url"], body["screenshot_urls"], body["downloaded_files"]) == (None, None, [])


def test_the_artifacts_are_where_the_body_says_and_have_its_checksum() -> None:
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


@pytest.mark.parametrize(("alias", "name"), sorted(samples.ALIASES.items()))
def test_an_alias_stands_for_a_sample_or_a_series(alias: str, name: str) -> None:
    assert samples.expand(alias) == samples.expand(name)
    assert set(samples.expand(alias)) <= set(samples.names())


@pytest.mark.parametrize("name", ["nothing", "task_v1.paused", "", "workflow_run.retries"])
def test_what_is_no_sample_can_not_be_built(name: str) -> None:
    with pytest.raises(KeyError):
        samples.build(name, now=NOW)


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
