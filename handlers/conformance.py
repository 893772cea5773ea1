"""What every sink must do, as a pytest class. Yours passes it too: see docs/writing-a-sink.md.

    class TestMySink(SinkConformance):
        @pytest.fixture
        def target(self, tmp_path):
            return Target(MySink, {"path": str(tmp_path)}, seen=lambda: list(tmp_path.iterdir()))

Needs pytest, so nothing else imports it. It knows no sink: all that differs between them is in the `Target`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from handlers.contract import Artifact, Delivery, Receipt, Refused, Services, Sink, Unavailable

MARKER = "MARKER-5b1f0c"
"""In every sample's output and failure reason: it must show up in no error and no log line."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

_numbers = itertools.count(1)


class NoServices:
    """Services of a host that has nothing to lend."""

    def fresh_artifacts(self, delivery: Delivery) -> Sequence[Artifact]:  # noqa: ARG002
        return ()

    def artifact_headers(self, delivery: Delivery, url: str) -> Mapping[str, str]:  # noqa: ARG002
        return {}

    def allowed_addresses(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True)
class Target:
    """A sink under test and what stands behind it.

    `options`: with these it works. `seen()`: everything that has arrived so far, one item for each thing that a person
    would count: a row, an object, a message.
    `idempotent`: the same delivery twice leaves one thing. `away`: options for servers that can't accept now, by what
    is wrong with them ("nothing listens", "never answers"); give these a short `timeout`.
    `secrets`: strings in the options that must show up nowhere. `is_marked(item)`: whether an item of `seen()` tells a
    reader that it is only a test. `overrun`: seconds by which a send may exceed its timeout.
    """

    sink: type[Sink[Any]]
    options: Mapping[str, Any]
    seen: Callable[[], Sequence[Any]]
    idempotent: bool = False
    away: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    services: Services = field(default_factory=NoServices)
    is_marked: Callable[[Any], bool] = lambda item: "test" in str(item).lower()
    overrun: float = 2.0


def sample_run(run_id: str | None = None, **changes: Any) -> dict[str, Any]:
    """A finished run as Skyvern reports it, with `changes` to its fields."""
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
        "failure_reason": f"The site asked for a code that nobody had {MARKER}",
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
    """What a sink finds in `Delivery.run` and `Delivery.problem` for this body.

    As in the receiver: strings hold no NUL and no lone surrogates (U+FFFD instead), NaN and infinities are null, and a
    number that neither an int of 4,300 digits nor a float holds is the string of its digits.
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
        return {}, "it is no JSON"
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
    """A delivery of `run` (default: a new sample), or of `body` as it is; with `changes` to the delivery's fields."""
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
"""Bodies that have broken some layer of somebody's. A sink accepts or refuses each, and goes on."""


def closed_port() -> int:
    """A port of 127.0.0.1 where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield int(server.getsockname()[1])


def _open_files() -> set[str]:
    """What this process holds open, where the system tells (Linux)."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path.iterdir would need the same suppression each
            with contextlib.suppress(OSError):
                found.add(f"{name} {Path('/proc/self/fd', name).readlink()}")
    return {item for item in found if "/proc/" not in item}


class SinkConformance:
    """Subclass it as `Test…` and give it the fixture `target`."""

    @pytest.fixture
    def target(self) -> Target:
        raise NotImplementedError("give your test class a fixture `target` that returns a Target")

    @pytest.fixture
    def sink(self, target: Target) -> Iterator[Sink[Any]]:
        """The sink under test, closed at the end."""
        sink = self.build(target)
        yield sink
        sink.close()

    @pytest.fixture(autouse=True)
    def _log_level(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)

    def build(self, target: Target, options: Mapping[str, Any] | None = None) -> Sink[Any]:
        """A sink with the target's options, or with `options`."""
        validated = target.sink.Options.model_validate(dict(target.options if options is None else options))
        return target.sink("mine", validated, target.services)

    # Options

    def test_an_unknown_option_is_an_error_that_hides_the_values(self, target: Target) -> None:
        with pytest.raises(ValidationError, match="no_such_option") as caught:
            target.sink.Options.model_validate({**target.options, "no_such_option": MARKER})
        self.assert_clean(target, str(caught.value))

    def test_every_option_is_described_in_the_schema(self, target: Target) -> None:
        schema = target.sink.Options.model_json_schema()
        json.dumps(schema)
        bare = [name for name, part in schema["properties"].items() if not part.get("description")]
        assert not bare, f"options without a description: {', '.join(bare)}"

    def test_options_never_print_a_secret(self, target: Target) -> None:
        options = target.sink.Options.model_validate(dict(target.options))
        assert isinstance(options, BaseModel)
        sink = self.build(target)
        self.assert_clean(target, f"{options!r} {options} {sink!r} {sink}")
        sink.close()

    # Life

    def test_the_constructor_opens_nothing(self, target: Target) -> None:
        files, threads = _open_files(), threading.active_count()
        sinks = [self.build(target), *(self.build(target, options) for options in target.away.values())]
        opened, started = _open_files() - files, threading.active_count() - threads
        for sink in sinks:
            sink.close()
        assert not opened, f"connect at the first send, for a fork may lie between; open already: {sorted(opened)}"
        assert started <= 0, "a thread runs already: it would not survive a fork"

    def test_closing_twice_is_fine_after_a_send_and_without_one(self, target: Target) -> None:
        unused = self.build(target)
        unused.close()
        unused.close()
        used = self.build(target)
        used.send(make_delivery())
        used.close()
        used.close()

    # Sending

    def test_a_delivery_arrives_and_its_receipt_says_where(
        self, target: Target, sink: Sink[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        before = len(target.seen())
        receipt = sink.send(make_delivery())
        assert isinstance(receipt, Receipt)
        assert isinstance(receipt.id, str)
        assert receipt.id, "a receipt needs an id"
        assert json.loads(json.dumps(receipt.to_dict())) == receipt.to_dict(), "to_dict() must be JSON-ready"
        assert len(target.seen()) > before, "nothing arrived"
        self.assert_clean(target, json.dumps(receipt.to_dict()), payload=False)
        self.assert_clean(target, caplog.text)

    def test_the_same_delivery_again_is_accepted_and_leaves_one_thing_if_the_sink_is_idempotent(
        self, target: Target, sink: Sink[Any]
    ) -> None:
        delivery = make_delivery()
        first = sink.send(delivery)
        seen = len(target.seen())
        again = sink.send(replace(delivery, attempt=2))
        assert isinstance(again, Receipt)
        if target.idempotent:
            assert again.id == first.id, "the same delivery has the same receipt id"
            assert len(target.seen()) == seen, "the same delivery left a second thing"
            assert sink.send_many([delivery, delivery]) == [again, again] or len(target.seen()) == seen

    @pytest.mark.parametrize("kind", BODIES)
    def test_no_body_breaks_the_sink(
        self, target: Target, sink: Sink[Any], kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = self.answer(sink, make_delivery(body=BODIES[kind]))
        assert isinstance(answer, (Receipt, Refused)), f"neither accepted nor refused: {answer!r}"
        if isinstance(answer, Refused):
            assert str(answer), "a refusal says why"
            self.assert_clean(target, str(answer))
        self.assert_clean(target, caplog.text)
        assert isinstance(sink.send(make_delivery()), Receipt)

    def test_receipts_of_other_sinks_may_be_there_or_missing(self, sink: Sink[Any]) -> None:
        there = {"id": "x", "keys": ["run.json"], "urls": {"run.json": "https://files.example/run.json"}}
        receipts = {"archive": there, "mirror": None, "other": {"id": "y"}}
        answer = sink.send(make_delivery(receipts=receipts, labels={"team": "billing"}, via="poll"))
        assert isinstance(answer, Receipt)

    def test_eight_threads_may_send_at_once(self, target: Target, sink: Sink[Any]) -> None:
        before = len(target.seen())
        deliveries = [make_delivery() for _ in range(24)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda delivery: self.answer(sink, delivery), deliveries))
        assert [answer for answer in answers if not isinstance(answer, Receipt)] == []
        assert len(target.seen()) - before >= len(deliveries)

    def test_a_test_delivery_is_marked_as_one(self, target: Target, sink: Sink[Any]) -> None:
        before = list(map(repr, target.seen()))
        sink.send(make_delivery())
        real = [item for item in target.seen() if repr(item) not in before]
        assert real, "the delivery left nothing new"
        assert not [item for item in real if target.is_marked(item)], "marked as a test, and was none"
        before = list(map(repr, target.seen()))
        sink.send(make_delivery(test=True))
        new = [item for item in target.seen() if repr(item) not in before]
        assert new, "the test delivery left nothing"
        assert any(target.is_marked(item) for item in new), f"nothing says that this is only a test: {new!r}"

    # Batches

    def test_a_batch_is_answered_in_order_and_a_bad_delivery_harms_no_other(
        self, target: Target, sink: Sink[Any]
    ) -> None:
        good = [make_delivery() for _ in range(len(BODIES) + 1)]
        batch = [good[0]]
        for body, following in zip(BODIES.values(), good[1:], strict=True):
            batch += [make_delivery(body=body), following]
        answers: list[Receipt | Exception] = []
        for start in range(0, len(batch), max(sink.batch_size, 8)):
            answers += sink.send_many(batch[start : start + max(sink.batch_size, 8)])
        assert len(answers) == len(batch), "one answer for each delivery"
        bad = [answer for answer in answers if not isinstance(answer, (Receipt, Refused))]
        assert not bad, f"neither accepted nor refused: {bad!r}"
        alone = [answer for delivery, answer in zip(batch, answers, strict=True) if delivery in good]
        assert all(isinstance(answer, Receipt) for answer in alone), "a good delivery failed for its neighbour"
        for answer in answers:
            if isinstance(answer, Refused):
                self.assert_clean(target, str(answer))
        if target.idempotent:
            again = [sink.send(delivery) for delivery in good[:4]]
            assert [one.id for one in again] == [one.id for one in alone[:4] if isinstance(one, Receipt)]

    def test_an_empty_batch_has_no_answers(self, sink: Sink[Any]) -> None:
        assert sink.send_many([]) == []

    # Trouble

    def test_a_server_that_is_away_is_unavailable_in_time(
        self, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number, (trouble, options) in enumerate(target.away.items()):
            sink = self.build(target, options)
            limit = sink.options.timeout + target.overrun
            for send in (self.answer, self.answer_to_batch)[: 1 if number else 2]:
                started = time.monotonic()
                answer = send(sink, make_delivery())
                took = time.monotonic() - started
                assert isinstance(answer, Unavailable), f"{trouble}: {answer!r}"
                assert str(answer), f"{trouble}: the error must say what is wrong"
                self.assert_clean(target, f"{answer} {answer!r}")
                assert answer.retry_after is None or answer.retry_after >= 0
                assert took < limit, f"{trouble}: took {took:.1f} s, and may take {limit:g} s"
            sink.close()
        self.assert_clean(target, caplog.text)

    # Helpers

    def answer(self, sink: Sink[Any], delivery: Delivery) -> Receipt | Exception:
        """What `send` returned or raised."""
        try:
            return sink.send(delivery)
        except Exception as error:  # noqa: BLE001 - told apart by the tests
            return error

    def answer_to_batch(self, sink: Sink[Any], delivery: Delivery) -> Receipt | Exception:
        """What `send_many` answered to a batch of one, or raised."""
        try:
            (answer,) = sink.send_many([delivery])
        except Exception as error:  # noqa: BLE001 - as above
            return error
        return answer

    def assert_clean(self, target: Target, text: str, *, payload: bool = True) -> None:
        """`text` shows no secret and, unless `payload` is False, nothing of the body."""
        for secret in target.secrets:
            assert secret not in text, "a secret is shown"
        assert not payload or MARKER not in text, f"the payload is shown: {text[:300]}"
