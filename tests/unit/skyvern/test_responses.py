"""What the answers of Skyvern's API mean, and when a call may be made again."""

from typing import Any

import orjson
import pytest

from handlers.contract import Artifact
from receiver.errors import ConfigError
from receiver.skyvern.client import SkyvernAPI, SkyvernReader
from receiver.skyvern.responses import (
    Answered,
    Created,
    ListedRun,
    Lost,
    Patience,
    Rejected,
    Retries,
    Unreachable,
    artifacts_run_id,
    expires_at,
    listed_artifacts,
    listed_runs,
    submitted,
)

HTML = b"<html><h1>Welcome</h1></html>"


def answered(status: int, body: object = None, **headers: str) -> Answered:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return Answered(status, raw, {name.replace("_", "-"): value for name, value in headers.items()})


CREATED = {"run_id": "tsk_1", "run_type": "task_v3", "status": "created"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (answered(200, CREATED), Created("tsk_1", "task_v3", "created")),
        (answered(200, {"task_id": "tsk_1"}), Created("tsk_1", "", "")),
        (answered(201, {"run_id": "wr_1", "run_type": None, "status": 7}), Created("wr_1", "", "")),
        *((answered(status, {"detail": "no"}), Rejected(status)) for status in (301, 307, 400, 401, 403, 404, 409)),
        *((answered(status, {"detail": "no"}), Rejected(status)) for status in (413, 422, 429)),
        # 503 created no run only when it says when to retry
        (answered(503, {}, retry_after="7"), Rejected(503, 7.0)),
        (answered(503, {}), Lost("status 503")),
        (Unreachable(False, "refused"), Rejected(503)),
    ],
)
def test_response_says_whether_a_run_was_created(answer: Answered | Unreachable, expected: object) -> None:
    assert submitted(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        answered(200, HTML), answered(200, []), answered(200, {"run_id": 7}), answered(200, {"run_id": ""}),
        answered(200, b""), answered(408, {}), answered(500, {"error": "Unexpected error: KeyError"}),
        answered(502, HTML), answered(504, b""), Unreachable(True, "no answer in time"),
    ],
)  # fmt: skip
def test_anything_else_leaves_open_whether_there_is_a_run(answer: Answered | Unreachable) -> None:
    assert isinstance(submitted(answer), Lost)


def test_the_list_of_runs_is_read_with_its_own_names() -> None:
    # given lines as Skyvern writes them: task_run_type, and times with and without a zone
    rows = [
        {
            "run_id": "wr_1",
            "task_run_type": "workflow_run",
            "status": "completed",
            "title": "Invoices",
            "created_at": "2026-11-24T14:05:09.500000",
            "finished_at": "2026-11-24T14:05:10Z",
        },
        {"run_id": "tsk_1", "status": "new kind of status", "created_at": "yesterday"},
        {"status": "completed"},
        "nonsense",
    ]

    assert listed_runs(answered(200, rows)) == [
        ListedRun("wr_1", "workflow_run", "completed", "Invoices", 1795529109.5, 1795529110.0),
        ListedRun("tsk_1", "", "new kind of status"),
    ]


def test_only_http_urls_of_artifacts_are_taken_over() -> None:
    rows = [
        {"artifact_id": "a_1", "artifact_type": "recording", "uri": "s3://b/r.webm", "signed_url": "https://s/1?sig=x"},
        {"artifact_id": "a_2", "artifact_type": "download", "uri": "file:///d/x.pdf", "signed_url": "file:///d/x.pdf"},
        {"artifact_id": "a_3", "artifact_type": "pdf", "signed_url": None, "checksum": "AB", "file_size": 7},
        {"artifact_id": "a_4", "artifact_type": "pdf", "file_size": True, "checksum": 9, "uri": 4},
        {"artifact_id": "a_5", "artifact_type": "har", "uri": "s3://b/task.zip", "bundle_key": "run/har.har"},
        {"artifact_type": "pdf"},
    ]

    assert listed_artifacts(answered(200, rows)) == [
        Artifact("recording", "r.webm", "https://s/1?sig=x", artifact_id="a_1"),
        Artifact("download", "x.pdf", "", artifact_id="a_2"),
        Artifact("pdf", "a_3", "", "ab", 7, artifact_id="a_3"),
        Artifact("pdf", "a_4", "", artifact_id="a_4"),
        Artifact("har", "har.har", "", artifact_id="a_5"),
    ]


@pytest.mark.parametrize(
    ("created", "modified", "since"),
    [
        ("2026-03-01T10:00:00.000001", "2026-03-01T10:00:00.000014", 1772359200.000001),
        ("2026-03-01T10:00:00.000001", "2026-03-01T10:00:09", None),
        ("2026-03-01T10:00:00", None, None),
        (None, "2026-03-01T10:00:00", None),
    ],
)
def test_a_record_that_was_changed_is_told_from_one_that_was_not(
    created: str | None, modified: str | None, since: float | None
) -> None:
    row = {"artifact_id": "a_1", "created_at": created, "modified_at": modified}

    (found,) = listed_artifacts(answered(200, [row])) or ()

    assert found.unchanged_since == since


@pytest.mark.parametrize(
    ("run_id", "run", "listed_under"),
    [
        ("tsk_v2_1", {"workflow_run_id": "wr_7"}, "wr_7"),
        ("tsk_v2_1", {"app_url": "https://app.skyvern.com/runs/wr_7"}, "wr_7"),
        ("tsk_v2_1", {"app_url": "https://app.skyvern.com/runs/wr_7/", "workflow_run_id": None}, "wr_7"),
        ("tsk_v2_1", {"workflow_run_id": "../organizations/keys"}, "tsk_v2_1"),
        ("tsk_v2_1", {"workflow_run_id": 7, "app_url": 7}, "tsk_v2_1"),
        ("tsk_v2_1", {}, "tsk_v2_1"),
        ("tsk_1", {"workflow_run_id": "wr_7"}, "tsk_1"),
        ("wr_1", {"workflow_run_id": "wr_1"}, "wr_1"),
    ],
)
def test_artifacts_of_a_task_v2_are_those_of_its_run(run_id: str, run: dict[str, Any], listed_under: str) -> None:
    assert artifacts_run_id(run_id, run) == listed_under


@pytest.mark.parametrize("answer", [answered(200, HTML), answered(200, {}), answered(200, None), answered(404, [])])
def test_garbage_is_no_list(answer: Answered) -> None:
    assert listed_runs(answer) is None
    assert listed_artifacts(answer) is None


BUSY = answered(503, {}, retry_after="2")


@pytest.mark.parametrize(
    ("kind", "answer", "retried"),
    [
        ("submit", Unreachable(False, "refused"), True),
        ("submit", Unreachable(True, "lost"), False),
        ("submit", BUSY, True),
        ("submit", answered(503), False),
        ("submit", answered(429), False),
        ("submit", answered(502), False),
        ("submit", answered(200, {"run_id": "x"}), False),
        ("read", Unreachable(False, "refused"), True),
        ("read", answered(503), True),
        ("read", answered(502), True),
        ("read", answered(429), False),
        ("read", answered(404), False),
    ],
)
def test_submit_is_retried_only_if_no_run_was_created(kind, answer, retried) -> None:  # type: ignore[no-untyped-def]
    assert (Retries(kind, Patience()).pause_after(answer, 0.5) is not None) is retried


def test_pauses_grow_and_end_with_the_tries_or_the_budget() -> None:
    patience = Patience(tries=3, first=1.0, budget=10.0)
    refused = Unreachable(False, "refused")

    retries = Retries("submit", patience)
    assert [retries.pause_after(refused, jitter) for jitter in (0.0, 0.5, 0.0)] == [1.0, 3.0, None]
    retries = Retries("submit", Patience(tries=9, first=4.0, budget=10.0))
    assert [retries.pause_after(refused, 0.0) for _ in range(2)] == [4.0, None]
    assert Retries("submit", patience).pause_after(answered(503, {}, retry_after="60"), 0.0) is None


@pytest.mark.parametrize("base", ["", "api.skyvern.com", "ftp://x", "http://", "https://x?y=1"])
def test_a_base_that_is_no_url_is_refused(base: str) -> None:
    with pytest.raises(ConfigError, match="api_base"):
        SkyvernAPI(base, "key")


def test_a_key_that_no_header_carries_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        SkyvernReader("http://127.0.0.1:1", "secret\nkey")
    assert "secret" not in str(caught.value)


def test_nothing_that_is_printed_holds_the_key() -> None:
    assert "hidden" not in repr(SkyvernAPI("http://user:hidden@127.0.0.1:1", "hidden"))
    assert "hidden" not in repr(answered(200, {"x": "hidden"}, set_cookie="hidden"))


@pytest.mark.parametrize(
    ("body", "moment"),
    [
        (b'{"a": "https://x/y?expiry=1700000000&kid=1&sig=z"}', 1_700_000_000.0),
        (b'["http://x/?X-Amz-Date=20231114T221320Z&X-Amz-Expires=60&X-Amz-Signature=f"]', 1_700_000_060.0),
        (b'["https://x/?Expires=1700000000", "https://x/?sv=1&se=2023-11-14T22%3A13%3A10Z&sig=a"]', 1_699_999_990.0),
        (b'["https://x/?X-Amz-Date=20239914T221320Z&X-Amz-Expires=60"]', None),
        (b'["https://x/plain.pdf"]', None),
    ],
)
def test_when_signed_urls_lapse(body: bytes, moment: float | None) -> None:
    assert expires_at(body) == moment
