"""The conformance suite that every sink passes, as a pytest class. See docs/how-to/writing-a-sink.md.

    class TestMySink(SinkConformance):
        @pytest.fixture
        def target(self, tmp_path):
            return SinkUnderTest(MySink, {"path": str(tmp_path)}, seen=lambda: list(tmp_path.iterdir()))

Needs pytest, so no other module imports it. `SinkUnderTest` describes the differences between sinks.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from handlers.contract import Delivery, Notification, Receipt, Refused, Services, Sink, Unavailable
from handlers.testing.samples import BODIES, MARKER, make_delivery, read_run, sample_run

__all__ = [
    "BODIES",
    "MARKER",
    "NoServices",
    "SinkConformance",
    "SinkUnderTest",
    "closed_port",
    "make_delivery",
    "read_run",
    "sample_run",
    "silent_port",
]


# Services without a source or API key.
NoServices = Services


@dataclass(frozen=True)
class SinkUnderTest:
    """A sink class, options for it, and access to the server behind it.

    `options`: valid options. `seen()`: all results so far, one item per row, object or message. `idempotent`: sending a
    delivery twice leaves one item. `away`: options for unavailable servers, by problem ("nothing listens", "never
    answers"); give these a short `timeout`. `secrets`: strings in the options that must never be shown.
    `is_marked(item)`: whether an item of `seen()` is visibly a test. `overrun`: seconds by which a send may exceed its
    timeout.
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


def closed_port() -> int:
    """Return a port of 127.0.0.1 where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """Open a port of 127.0.0.1 that accepts connections and never sends a byte."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield int(server.getsockname()[1])


def _open_files() -> set[str]:
    """Return this process's open files; empty without /proc."""
    files = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path.iterdir would need the same suppression each
            with contextlib.suppress(OSError):
                files.add(f"{name} {Path('/proc/self/fd', name).readlink()}")
    return {item for item in files if "/proc/" not in item}


class SinkConformance:
    """The suite. Subclass it as `Test…` and give it the fixture `target`."""

    @pytest.fixture
    def target(self) -> SinkUnderTest:
        """Return the sink under test. Override this."""
        raise NotImplementedError("give your test class a fixture `target` that returns a SinkUnderTest")

    @pytest.fixture
    def sink(self, target: SinkUnderTest) -> Iterator[Sink[Any]]:
        """Build the sink under test, and close it at the end."""
        sink = self.build(target)
        yield sink
        sink.close()

    @pytest.fixture(autouse=True)
    def _log_level(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)

    def build(self, target: SinkUnderTest, options: Mapping[str, Any] | None = None) -> Sink[Any]:
        """Build a sink with the target's options, or with `options`."""
        validated = target.sink.Options.model_validate(dict(target.options if options is None else options))
        return target.sink("mine", validated, target.services)

    # Options

    def test_an_unknown_option_is_an_error_that_hides_the_values(self, target: SinkUnderTest) -> None:
        """Check that a misspelt option fails at load, with an error without secrets."""
        with pytest.raises(ValidationError, match="no_such_option") as caught:
            target.sink.Options.model_validate({**target.options, "no_such_option": MARKER})
        self.assert_clean(target, str(caught.value))

    def test_every_option_is_described_in_the_schema(self, target: SinkUnderTest) -> None:
        """Check that each option has a description."""
        schema = target.sink.Options.model_json_schema()
        json.dumps(schema)
        bare = [name for name, part in schema["properties"].items() if not part.get("description")]
        assert not bare, f"options without a description: {', '.join(bare)}"

    def test_options_never_print_a_secret(self, target: SinkUnderTest) -> None:
        """Check that options can be shown in logs and in `runhook check`."""
        options = target.sink.Options.model_validate(dict(target.options))
        assert isinstance(options, BaseModel)
        sink = self.build(target)
        self.assert_clean(target, f"{options!r} {options} {sink!r} {sink}")
        sink.close()

    # Building and closing

    def test_the_constructor_opens_nothing(self, target: SinkUnderTest) -> None:
        """Check that a sink may be built before a fork: no file, connection or thread."""
        files, threads = _open_files(), threading.active_count()
        sinks = [self.build(target), *(self.build(target, options) for options in target.away.values())]
        opened, started = _open_files() - files, threading.active_count() - threads
        for sink in sinks:
            sink.close()
        assert not opened, f"connect at the first send, for a fork may lie between; open already: {sorted(opened)}"
        assert started <= 0, "a thread runs already: it would not survive a fork"

    def test_closing_twice_is_fine_after_a_send_and_without_one(self, target: SinkUnderTest) -> None:
        """Check that `close` may be called at any time."""
        unused = self.build(target)
        unused.close()
        unused.close()
        used = self.build(target)
        used.send(make_delivery())
        used.close()
        used.close()

    # Sending

    def test_a_delivery_arrives_and_its_receipt_says_where(
        self, target: SinkUnderTest, sink: Sink[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Check the receipt of one delivery, and that receipt and log show no secret or payload."""
        before = len(target.seen())
        receipt = sink.send(make_delivery())
        assert isinstance(receipt, Receipt)
        assert isinstance(receipt.id, str)
        assert receipt.id, "a receipt needs an id"
        assert json.loads(json.dumps(receipt.to_dict())) == receipt.to_dict(), "to_dict() must be JSON-ready"
        assert len(target.seen()) > before, "nothing arrived"
        self.assert_clean(target, json.dumps(receipt.to_dict()), payload=False)
        self.assert_clean(target, caplog.text)

    def test_same_delivery_again_is_accepted_once_if_idempotent(self, target: SinkUnderTest, sink: Sink[Any]) -> None:
        """Check that a second attempt succeeds, with one result and one receipt id if the sink is idempotent."""
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
        self, target: SinkUnderTest, sink: Sink[Any], kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Check that a malformed body is accepted or refused, and the next delivery is sent."""
        answer = self.answer(sink, make_delivery(body=BODIES[kind]))
        assert isinstance(answer, (Receipt, Refused)), f"neither accepted nor refused: {answer!r}"
        if isinstance(answer, Refused):
            assert str(answer), "a refusal says why"
            self.assert_clean(target, str(answer))
        self.assert_clean(target, caplog.text)
        assert isinstance(sink.send(make_delivery()), Receipt)

    def test_erase_deletes_what_was_sent_and_again_is_the_same(self, target: SinkUnderTest, sink: Sink[Any]) -> None:
        """Check that a sink that erases leaves nothing of the delivery, and that an interrupted call can continue."""
        if not sink.erases:
            return
        other, erased = make_delivery(), make_delivery()
        kept = sink.send(other)
        before = sorted(map(repr, target.seen()))
        receipt = sink.send(erased).to_dict()
        assert sorted(map(repr, target.seen())) != before
        sink.erase(erased.source, erased.run_id, receipt)
        sink.erase(erased.source, erased.run_id, receipt)
        assert sorted(map(repr, target.seen())) == before, "exactly what the receipt names is deleted"
        sink.erase(other.source, other.run_id, kept.to_dict())

    def test_a_notification_reaches_the_target(self, target: SinkUnderTest, sink: Sink[Any]) -> None:
        """Check that a sink that notifies sends title and lines, and survives hostile text."""
        if not sink.notifies:
            return
        before = len(target.seen())
        sink.notify(Notification("alert_1", "alert", "Runhook: 1 problem", ["• redis_away: no response → start it"]))
        shown = repr(target.seen()[before:])
        assert "Runhook: 1 problem" in shown, "the title is sent"
        assert "redis_away: no response" in shown, "each line is sent"
        hostile = ["<!channel> {{ 7*7 }} `a` b` \x00\ud800 \u202e", "x" * 100_000, *(["y"] * 500)]
        sink.notify(Notification("alert_2", "alert", "<!here>" * 500, hostile, "https://runhook.example", urgent=True))
        assert len(target.seen()) >= before + 2

    def test_receipts_of_other_sinks_may_be_there_or_missing(self, sink: Sink[Any]) -> None:
        """Check that receipts of dead deliveries (None) and receipts without links are accepted."""
        there = {"id": "x", "keys": ["run.json"], "urls": {"run.json": "https://files.example/run.json"}}
        receipts = {"archive": there, "mirror": None, "other": {"id": "y"}}
        answer = sink.send(make_delivery(receipts=receipts, labels={"team": "billing"}, via="poll"))
        assert isinstance(answer, Receipt)

    def test_eight_threads_may_send_at_once(self, target: SinkUnderTest, sink: Sink[Any]) -> None:
        """Check that one instance is safe to use from many threads."""
        before = len(target.seen())
        deliveries = [make_delivery() for _ in range(24)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda delivery: self.answer(sink, delivery), deliveries))
        assert [answer for answer in answers if not isinstance(answer, Receipt)] == []
        assert len(target.seen()) - before >= len(deliveries)

    def test_a_test_delivery_is_marked_as_one(self, target: SinkUnderTest, sink: Sink[Any]) -> None:
        """Check that a delivery of `runhook sink test` is visibly a test."""
        before = list(map(repr, target.seen()))
        sink.send(make_delivery())
        real = [item for item in target.seen() if repr(item) not in before]
        assert real, "the delivery left nothing new"
        assert not [item for item in real if target.is_marked(item)], "marked as a test, but it was not one"
        before = list(map(repr, target.seen()))
        sink.send(make_delivery(test=True))
        new = [item for item in target.seen() if repr(item) not in before]
        assert new, "the test delivery left nothing"
        assert any(target.is_marked(item) for item in new), f"nothing says that this is only a test: {new!r}"

    # Batches

    def test_batch_is_answered_in_order_despite_a_bad_delivery(self, target: SinkUnderTest, sink: Sink[Any]) -> None:
        """Check that a batch returns one result per delivery, in order."""
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
            first = [receipt.id for receipt in alone[:4] if isinstance(receipt, Receipt)]
            assert [receipt.id for receipt in again] == first

    def test_an_empty_batch_has_no_answers(self, sink: Sink[Any]) -> None:
        """Check `send_many` of nothing."""
        assert sink.send_many([]) == []

    # Failures

    def test_check_reports_the_server_and_leaves_nothing(
        self, target: SinkUnderTest, sink: Sink[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Check that `check` describes a running server, or returns "", and raises for one that is down."""
        before = list(map(repr, target.seen()))
        report = sink.check()
        assert isinstance(report, str)
        assert list(map(repr, target.seen())) == before, "a check sends nothing"
        for trouble, options in target.away.items():
            away = self.build(target, options)
            try:
                answer = away.check()
                assert not (report and answer), f"{trouble}: {answer}"
            except (Refused, Unavailable) as error:
                answer = str(error)
                assert report, "a sink that reports an unavailable server reports one that is available too"
            finally:
                away.close()
            self.assert_clean(target, answer)
        self.assert_clean(target, report + caplog.text)

    def test_a_server_that_is_away_is_unavailable_in_time(
        self, target: SinkUnderTest, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Check that each of `away` raises Unavailable within the timeout, without a secret in the message."""
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
        """Return the result or exception of `send`."""
        try:
            return sink.send(delivery)
        except Exception as error:  # noqa: BLE001 - the tests check its type
            return error

    def answer_to_batch(self, sink: Sink[Any], delivery: Delivery) -> Receipt | Exception:
        """Return the result or exception of `send_many` for a batch of one."""
        try:
            (answer,) = sink.send_many([delivery])
        except Exception as error:  # noqa: BLE001 - as above
            return error
        return answer

    def assert_clean(self, target: SinkUnderTest, text: str, *, payload: bool = True) -> None:
        """Assert that `text` shows no secret and, unless `payload` is False, nothing of the body."""
        for secret in target.secrets:
            assert secret not in text, "a secret is shown"
        assert not payload or MARKER not in text, f"the payload is shown: {text[:300]}"
