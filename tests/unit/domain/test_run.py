"""What a body says of a run: a good body, and every kind of bad one that some layer has been seen to break on."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from receiver.domain.run import FINAL, MAX_DEPTH, Run, parse, storable
from tests.support.events import press

R = "\N{REPLACEMENT CHARACTER}"


def body(**fields: Any) -> bytes:
    return json.dumps({"run_id": "wr_1", "run_type": "workflow_run", "status": "completed", **fields}).encode()


def with_output(raw: bytes) -> bytes:
    return b'{"run_id":"wr_1","status":"completed","output":' + raw + b"}"


def test_the_fields_of_a_run_are_read() -> None:
    run = parse(
        body(
            attempt=2, retry_pending=True, created_at="2026-11-24T14:05:09.165039",
            modified_at="2026-11-24T14:05:09.165039Z", started_at="2026-11-24T15:05:09.165039+01:00",
            finished_at=None, failure_reason="no", workflow_title="Fetch", workflow_id="wpid_1",
            something_new={"a": 1},
        )
    )  # fmt: skip

    assert (run.run_id, run.run_type, run.status, run.outcome) == ("wr_1", "workflow_run", "completed", "completed")
    assert (run.attempt, run.retry_pending, run.final) == (2, True, False)
    assert run.created_at == run.modified_at == run.started_at == pytest.approx(1795529109.165039, abs=1e-6)
    assert run.finished_at is None
    assert (run.failure_reason, run.title, run.workflow_id, run.problem) == ("no", "Fetch", "wpid_1", "")
    assert run.data["something_new"] == {"a": 1}


@pytest.mark.parametrize("status", [*sorted(FINAL), "created", "queued", "running", "paused", "a_new_one"])
@pytest.mark.parametrize("pending", [True, False, None, "true", 1])
def test_run_is_final_when_no_retry_is_pending(status: str, pending: object) -> None:
    assert parse(body(status=status, retry_pending=pending)).final == (status in FINAL and pending is not True)


@pytest.mark.parametrize(
    ("fields", "run_id"),
    [
        ({"run_id": "tsk_1", "task_id": "tsk_2"}, "tsk_1"),
        ({"run_id": None, "task_id": "tsk_2", "workflow_run_id": "wr_3"}, "tsk_2"),
        ({"run_id": "", "workflow_run_id": "wr_3"}, "wr_3"),
        ({"run_id": 17, "task_id": "tsk_2"}, "tsk_2"),
        ({"run_id": "r" * 200}, "r" * 200),
        ({"run_id": "r\x00\ud800"}, f"r{R}{R}"),
    ],
)
def test_the_run_id_is_found_under_its_older_names_too(fields: dict[str, Any], run_id: str) -> None:
    run = parse(body(**fields))

    assert (run.run_id, run.problem) == (run_id, "")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "not JSON"),
        (b"\x00", "not JSON"),
        (b"{", "not JSON"),
        (b'{"run_id":"wr_1"', "not JSON"),
        (b'{"run_id":"wr_1","status":"completed"} {}', "not JSON"),
        (b"run_id=wr_1&status=completed", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not JSON"),
        (b"[]", "an array"),
        (b'"completed"', "a string"),
        (b"null", "null"),
        (b"NaN", "null"),
        (b"true", "true or false"),
        (b"17", "a number"),
        (b"{}", "no run_id"),
        (body(run_id=None), "no run_id"),
        (body(run_id=["wr_1"]), "no run_id"),
        (body(run_id="r" * 201), "longer than 200"),
        (body(status=None), "no status"),
        (body(status=""), "no status"),
        (body(status={"a": 1}), "no status"),
        (with_output(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH), "nested deeper"),
        (with_output(b"[" * 900 + b"]" * 900), "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
    ],
)
def test_what_can_not_be_understood_is_said(raw: bytes, problem: str) -> None:
    assert problem in parse(raw).problem


def test_a_problem_leaves_what_is_known() -> None:
    run = parse(body(status=7, output="here"))

    assert (run.problem, run.run_id, run.data["output"]) == ("it has no status", "wr_1", "here")


def test_a_problem_holds_nothing_of_the_payload() -> None:
    assert "hunter2" not in parse(b'{"password": "hunter2" "x"').problem


@pytest.mark.parametrize(
    ("raw", "output"),
    [
        (b'"a\\u0000b"', f"a{R}b"),
        (b'"a\\ud800b"', f"a{R}b"),
        (b'"a\\udc00"', f"a{R}"),
        (b'{"a\\ud800":{"\\u0000":1}}', {f"a{R}": {R: 1}}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"a\xffb"', f"a{R}b"),
        (b'"a\xed\xa0\x80b"', f"a{R}{R}{R}b"),
        (b'"a\nb\x00"', f"a\nb{R}"),
        (b"[NaN,Infinity,-Infinity,1]", [None, None, None, 1]),
        (b"1e400", "1e400"),
        (b"[-1e400,2.5]", ["-1e400", 2.5]),
        (b"9" * 5000, "9" * 5000),
        (b"12345678901234567890", 12345678901234567890),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b"-98765432109876543210", -98765432109876543210),
        (b"18446744073709551616", 2**64),
        (b'"U+2028 \xe2\x80\xa8 </script>"', "U+2028 \u2028 </script>"),
        (b"1.0", 1.0),
        (b"0.1", 0.1),
    ],
)
def test_what_can_be_rescued_is(raw: bytes, output: Any) -> None:
    run = parse(with_output(raw))

    assert (run.problem, run.run_id, run.outcome) == ("", "wr_1", "completed")
    assert run.data["output"] == output
    assert type(run.data["output"]) is type(output)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse(b"\xef\xbb\xbf" + body()).run_id == "wr_1"


def test_a_body_of_depth_300_is_read_whole() -> None:
    run = parse(with_output(b'{"a":' * 300 + b"1" + b"}" * 300))

    assert run.problem == ""
    depth, value = 0, run.data["output"]
    while isinstance(value, dict):
        depth, value = depth + 1, value["a"]
    assert depth == 300


@pytest.mark.parametrize(
    ("sent", "attempt"),
    [(None, 1), (1, 1), (3, 3), (2.0, 2), (0, 1), (-1, 1), (True, 1), ("2", 1), (2.5, 1), (10**30, 1), ([], 1)],
)
def test_an_attempt_that_is_none_is_the_first(sent: object, attempt: int) -> None:
    assert parse(body(attempt=sent)).attempt == attempt


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("1970-01-01T00:00:01.5", 1.5),
        ("1970-01-01T00:00:01.500000Z", 1.5),
        ("1970-01-01T01:00:01+01:00", 1.0),
        ("1970-01-01", 0.0),
        ("yesterday", None),
        ("", None),
        ("0001-01-01T00:00:00+23:59", -62135683140.0),
        ("9999-12-31T23:59:59-23:59", 253402387139.0),
        (1795529109, None),
        ({"a": 1}, None),
    ],
)
def test_times_are_utc_whether_they_say_so_or_not(sent: object, seconds: float | None) -> None:
    assert parse(body(modified_at=sent)).modified_at == seconds


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"failure_reason": "Failed to run task 2.0: Failed to send webhook.    task_v2_id=tsk_v2_1"}, "completed"),
        ({"failure_reason": "Failed to send webhook. workflow_run_id=wr_1 task_id=tsk_1"}, "completed"),
        ({"failure_reason": "Unexpected error. Failed to send webhook. task_v2_id=tsk_v2_1"}, "completed"),
        ({"failure_reason": "Failed to send webhook"}, "completed"),
        ({"failure_reason": "Failed to send webhook", "output": None}, "failed"),
        ({"failure_reason": "Failed to send webhook", "output": {}}, "failed"),
        ({"failure_reason": "Failed to send webhook", "errors": [{"error_code": "X"}]}, "failed"),
        ({"failure_reason": "Failed to send webhook", "retry_pending": True}, "failed"),
        ({"failure_reason": "Failed to send webhook", "status": "terminated"}, "terminated"),
        ({"failure_reason": "The page said 'Failed to send webhook' when I pressed Test."}, "failed"),
        ({"failure_reason": "http_request block failed. failure reason: Failed to send webhook."}, "failed"),
        ({"failure_reason": "The item is sold out"}, "failed"),
        ({"failure_reason": None}, "failed"),
        ({"failure_reason": 17}, "failed"),
    ],
)
def test_run_that_only_lost_its_webhook_is_completed(fields: dict[str, Any], outcome: str) -> None:
    run = parse(body(**{"status": "failed", "output": {"total": 1}, "errors": [], **fields}))

    assert (run.outcome, run.status) == (outcome, fields.get("status", "failed"))


@pytest.mark.parametrize(
    ("fields", "title", "workflow"),
    [
        ({"workflow_title": "A", "title": "B"}, "A", None),
        ({"title": "B", "run_request": {"title": "C"}}, "B", None),
        ({"run_request": {"title": "C"}}, "C", None),
        ({"run_request": ["C"], "workflow_title": 3}, None, None),
        ({"workflow_id": "w_1", "workflow_permanent_id": "wpid_1"}, None, "wpid_1"),
        ({"workflow_title": "t" * 600}, "t" * 500, None),
    ],
)
def test_title_and_workflow_of_each_run_type(fields: dict[str, Any], title: str | None, workflow: str | None) -> None:
    run = parse(body(**fields))

    assert (run.title, run.workflow_id) == (title, workflow)


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"prompt": " \n Log in.  \nThen pay.", "run_request": {"prompt": "other"}}, "Log in."),
        ({"run_request": {"prompt": "Log in\rThen pay"}, "prompt": 3}, "Log in"),
        ({"navigation_goal": "Log in"}, "Log in"),
        ({"prompt": "p" * 120}, "p" * 120),
        ({"prompt": "p" * 2000}, "p" * 119 + "…"),
        ({"prompt": "\n", "run_request": ["C"]}, None),
    ],
)
def test_prompt_is_its_first_line(fields: dict[str, Any], prompt: str | None) -> None:
    assert parse(body(**fields)).prompt == prompt


def test_redacted_run_keeps_its_state_without_masked_text() -> None:
    run = parse(body(failure_reason="secret", workflow_title="secret", status="failed"))
    masked = run.with_data({**run.data, "failure_reason": "[redacted]", "workflow_title": "[redacted]", "run_id": "x"})

    assert "secret" not in repr(masked)
    assert (masked.run_id, masked.outcome) == ("wr_1", "failed")
    assert run.with_data(run.data) is run


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
FIELDS = [
    *("run_id", "task_id", "workflow_run_id", "run_type", "status", "attempt", "retry_pending", "created_at", "output"),
    *("modified_at", "started_at", "finished_at", "failure_reason", "workflow_title", "title", "workflow_id", "errors"),
    *("run_request", "downloaded_files", "workflow_permanent_id", "outputs", "extracted_information"),
]


def is_storable(text: str) -> bool:
    return type(text) is str and "\0" not in text and text.encode().decode() == text


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def check_usable(run: Run) -> None:
    """Whatever was sent, what came of it breaks no layer."""
    assert run.problem or (run.run_id and run.status)
    assert len(run.run_id) <= 200
    texts = (run.run_id, run.run_type, run.status, run.outcome, run.failure_reason, run.title, run.workflow_id)
    for text in texts:
        assert text is None or is_storable(text)
    assert type(run.attempt) is int
    assert 1 <= run.attempt < 2**31
    assert type(run.retry_pending) is bool
    assert all(is_storable(text) for text in strings(run.data))
    assert json.loads(json.dumps(run.data, ensure_ascii=False, allow_nan=False).encode()) == run.data


@given(
    st.binary(max_size=200) | st.binary(max_size=60).map(lambda raw: b'{"run_id":"a","status":"b","x":"' + raw + b'"}')
)
def test_any_bytes_make_a_run_or_a_problem(raw: bytes) -> None:
    check_usable(parse(raw))


@given(st.dictionaries(st.sampled_from(FIELDS), json_values) | json_values)
def test_any_json_makes_a_run_or_a_problem(value: Any) -> None:
    raw = json.dumps(value).encode()
    run = parse(raw)

    check_usable(run)
    if isinstance(value, dict) and not run.problem:
        assert set(run.data) == {
            "".join(R if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in key) for key in value
        }


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**60), 10**60))
def test_no_number_changes_its_value(number: float) -> None:
    assert parse(with_output(json.dumps(number).encode())).data["output"] == number


# Beside ordinary numbers, those at the limits of what 64 bits hold, with and without a sign.
near_64_bits = st.builds(
    lambda power, more, sign: sign * (2**power + more),
    st.integers(62, 66),
    st.integers(-2, 2),
    st.sampled_from((1, -1)),
)
number_texts = st.one_of(
    near_64_bits.map(str),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "0e5", "5e-324", "1e-400", "1.7976931348623157e308"]),
)


@given(st.lists(number_texts, max_size=4), st.integers(0, 250))
def test_a_body_is_read_as_by_the_parser_that_keeps_each_integer(numbers: list[str], levels: int) -> None:
    inner = f'{{"numbers":[{",".join(numbers)}],"text":"é\\u00e9\\ud83d\\ude00","text":null,"": true}}'
    text = with_output(f"{'[' * levels}{inner}{']' * levels}".encode())
    read = parse(text).data["output"]
    # Its own limit is 200 levels, so it is given what is in them
    for _ in range(levels):
        (read,) = read
    # -0 and 0, 1 and 1.0 are equal, but not the same
    assert repr(read) == repr(from_json(inner))


def test_parsers_have_the_limits_that_runs_rely_on() -> None:
    assert orjson.loads(b"18446744073709551616") == float(2**64)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(b"1e400")
    assert sys.get_int_max_str_digits() == 4300


# --- Test webhooks


@pytest.mark.parametrize(
    "content",
    [
        press("task"),
        press("workflow"),
        press("task", run_id="tsk_512345678901234567"),
        press("workflow", run_id="wr_512345678901234567"),
        body(run_id="tsk_sample_42"),
        body(run_id="wr_sample_a_b"),
        body(run_id="", task_id="tsk_sample_1"),
    ],
)
def test_what_the_test_button_sends_is_a_test(content: bytes) -> None:
    assert parse(content).test


@given(
    st.sampled_from([("run_id", "tsk_sample_42"), ("browser_session_id", "pbs_sample_1")]),
    st.sets(st.integers(0, 12)),
    st.booleans(),
)
def test_a_test_is_one_however_its_letters_are_escaped(member: tuple[str, str], escaped: set[int], small: bool) -> None:
    name, value = member
    form = "\\u{:04x}" if small else "\\u{:04X}"
    text = "".join(form.format(ord(letter)) if at in escaped else letter for at, letter in enumerate(value))
    content = b'{"run_id": "wr_1", "status": "completed", "%b": "%b"}' % (name.encode(), text.encode())
    assert parse(content).test


@pytest.mark.parametrize(
    "fields",
    [
        {"run_id": "tsk_512345678901234567"},
        {"run_id": "wr_1", "browser_session_id": "pbs_512345678901234567"},
        {"run_id": "wr_1", "browser_session_id": None},
        {"run_id": "wr_1", "browser_session_id": ["pbs_sample_1"]},
        {"run_id": "wr_1", "workflow_title": "Sample Workflow", "output": {"sample_field": "tsk_sample_123456789"}},
        {"run_id": "my_tsk_sample_1"},
        {"run_id": "tsk_sample_"},
        {"run_id": "TSK_sample_1"},
        {"run_id": "tsk_sample_1\n2026 INFO forged"},
    ],
)
def test_a_run_of_its_own_is_no_test(fields: dict[str, Any]) -> None:
    assert not parse(body(**fields)).test


def test_a_test_stays_one_when_its_body_is_redacted() -> None:
    run = parse(press("task", run_id="tsk_1"))

    assert run.with_data({**run.data, "browser_session_id": "***"}).test


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_members_from_elsewhere_are_storable() -> None:
    members = {"a\ud800": "\0", "b": [float("inf"), float("nan"), 1.5, None], "c": {"d": "\udfff"}, "e": nested(399)}

    assert storable(members) == {f"a{R}": R, "b": [None, None, 1.5, None], "c": {"d": R}}
    deepest = {"f": nested(398)}
    assert storable(deepest) == deepest
    assert parse(body(run_request=deepest)).problem == ""
