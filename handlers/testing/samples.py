"""Sample deliveries for tests of sinks, in the receiver's form."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from handlers.contract import Delivery

# Text in every sample's output and failure reason, which must not appear in errors or logs.
MARKER = "MARKER-5b1f0c"

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

_numbers = itertools.count(1)


def sample_run(run_id: str | None = None, **changes: Any) -> dict[str, Any]:
    """Return a finished run as Skyvern reports it, with `changes` to its fields."""
    run_id = run_id or f"tsk_{next(_numbers):018d}"
    run: dict[str, Any] = {
        "task_id": run_id,
        "run_id": run_id,
        "run_type": "task_v1",
        "status": "failed",
        "created_at": "2026-03-01T10:00:00.000001",
        "modified_at": "2026-03-01T10:02:05.500000",
        "queued_at": None,
        "started_at": "2026-03-01T10:00:03.250000",
        "finished_at": "2026-03-01T10:02:05.250000Z",
        "failure_reason": f"The site asked for an unknown code {MARKER}",
        "output": {"invoice": {"number": "2026-17", "total": 1500, "note": MARKER}, "lines": [1, 2.5, None]},
        "extracted_information": None,
        "downloaded_files": [],
        "errors": [],
        "step_count": 3,
        "app_url": f"https://app.example/tasks/{run_id}",
        "recording_url": None,
        "screenshot_urls": None,
    }
    return {**run, **changes}


def read_run(body: bytes) -> tuple[dict[str, Any], str]:
    """Return `Delivery.run` and `Delivery.problem` for a body.

    As in the receiver, NUL and lone surrogates in strings become U+FFFD, NaN and infinities null, and a number beyond a
    float or 4,300 digits a string.
    """
    try:
        run = json.loads(
            body.decode("utf-8-sig", errors="replace"),
            strict=False,
            parse_int=lambda digits: int(digits) if len(digits) <= 4300 else digits,
            parse_float=lambda digits: float(digits) if math.isfinite(float(digits)) else digits,
            parse_constant=lambda _: None,
        )
        run = _clean(run, 400)
    except json.JSONDecodeError:
        return {}, "it is not JSON"
    except RecursionError:
        return {}, "it is nested too deeply"
    if not isinstance(run, dict):
        return {}, "it is not a JSON object"
    if not _first_text(run.get("run_id"), run.get("task_id"), run.get("workflow_run_id")):
        return run, "it has no run_id"
    return run, "" if _first_text(run.get("status")) else "it has no status"


def _clean(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, (dict, list)) and not levels:
        raise RecursionError
    if isinstance(value, dict):
        return {_UNSTORABLE.sub("\ufffd", key): _clean(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, levels - 1) for item in value]
    return value


def _first_text(*values: Any) -> str:
    return next((value for value in values if isinstance(value, str) and value), "")


def make_delivery(run: Mapping[str, Any] | None = None, *, body: bytes | None = None, **changes: Any) -> Delivery:
    """Return a delivery of `run` (default: a new sample), or of `body`, with `changes` to the delivery's fields."""
    problem = ""
    if body is None:
        run = sample_run() if run is None else run
        body = json.dumps(run, ensure_ascii=False, separators=(",", ":")).encode()
    elif run is None:
        run, problem = read_run(body)
    number = next(_numbers)
    delivery = Delivery(
        key=f"dlv_{number:032x}",
        event_id=f"evt_{number:032x}",
        sink="mine",
        attempt=1,
        source="skyvern",
        run_id=_first_text(run.get("run_id"), run.get("task_id"), run.get("workflow_run_id")),
        run_type=_first_text(run.get("run_type"))[:100],
        status=_first_text(run.get("status"))[:100],
        received_at=datetime(2026, 3, 1, 10, 2, 6, 125000, tzinfo=UTC),
        body=body,
        run=run,
        route="everything",
        problem=problem,
    )
    return replace(delivery, **changes)


def _body(**changes: Any) -> bytes:
    return json.dumps(sample_run(**changes), ensure_ascii=True, separators=(",", ":")).encode()


def _nested(depth: int) -> Any:
    value: Any = MARKER
    for _ in range(depth):
        value = [value]
    return value


# Bodies that have broken programs. A sink accepts or refuses each, and continues.
BODIES: Mapping[str, bytes] = {
    "no output": _body(output=None, failure_reason=None),
    "output is a list": _body(output=[{"a": 1}, MARKER]),
    "output is a string": _body(output=MARKER),
    "unicode": json.dumps(
        sample_run(output={"é": "日本\u2028</script>\U0001f9fe\u202e"}, failure_reason="¿Qué?"), ensure_ascii=False
    ).encode(),
    "NUL": _body(output={"a\0b": "c\0d"}, failure_reason=f"\0{MARKER}\0", step_count="\0"),
    "lone surrogates": _body(output={"\ud800": "x\udfffy"}, failure_reason="\ud83d", app_url="\udc00"),
    "NaN and infinity": _body(output={"a": float("nan"), "b": float("inf"), "c": [float("-inf")]}),
    "big numbers": _body(output={"a": 12345678901234567890, "b": -(10**400), "c": "@"}, step_count=10**30).replace(
        b'"@"', b"1e400"
    ),
    "4,000-digit integer": _body(output={"a": int("9" * 4000)}),
    "5,000-digit integer": _body(output="@").replace(b'"@"', b"9" * 5000),
    "depth 300": _body(output=_nested(300)),
    "depth 100,000": b'{"output":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "1 MB": _body(output={"text": "x" * 1_000_000, "note": MARKER}),
    "wrong types": _body(
        run_id="tsk_wrong_types",
        failure_reason={"why": MARKER},
        created_at=5,
        modified_at="not a time",
        started_at=["2026"],
        finished_at="9999-12-31T23:59:59.999999-12:00",
        downloaded_files="none",
        errors={"a": 1},
        step_count="three",
        app_url=17,
        screenshot_urls={"a": None},
        attempt="first",
        retry_pending="maybe",
    ),
    "unknown status and type": _body(status="paused_by_moon", run_type="task_v9" * 30, new_key={"a": [1]}),
    "few keys": b'{"run_id":"tsk_few","status":"completed"}',
    "no run_id": b'{"status":"completed","run_type":"task_v1","output":"' + MARKER.encode() + b'"}',
    "run_id is a number": b'{"run_id":17,"status":["completed"],"run_type":null}',
    "empty object": b"{}",
    "a list": b'["' + MARKER.encode() + b'"]',
    "null": b"null",
    "empty": b"",
    "not JSON": b"<html>" + MARKER.encode() + b"</html>",
    "not UTF-8": b'{"run_id":"tsk_\xff","output":"' + MARKER.encode() + b'"}',
}
