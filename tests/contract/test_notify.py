"""The sink `notify`: real Apprise to a server on loopback that says yes, no, or nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.contract import Refused, Unavailable
from handlers.notify import BODY_MAX, NotifyOptions, NotifySink, default_body, kind_of
from handlers.testing.conformance import (
    BODIES,
    NoServices,
    SinkConformance,
    SinkUnderTest,
    closed_port,
    make_delivery,
    sample_run,
    silent_port,
)
from tests.support.waiting import PATIENCE, Stopwatch

SECRET = "hush-hush-token"


class Receiver(ThreadingHTTPServer):
    """Keeps the JSON that Apprise's json:// posts; answers as `answers` says by path, else 200."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[int, float]] = {}
        super().__init__(("127.0.0.1", 0), self.handler())
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def url(self, path: str = "") -> str:
        return f"json://me:{SECRET}@127.0.0.1:{self.server_port}/{path}"

    def handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, delay = server.answers.get(self.path.strip("/"), (200, 0.0))
                end = time.monotonic() + delay
                while time.monotonic() < end and server.thread.is_alive():
                    time.sleep(0.01)
                if status == 200:
                    server.seen.append({"path": self.path.strip("/"), **json.loads(body)})
                try:
                    self.send_response(status)
                    self.send_header("Location", "/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join(5)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


def make(**options: Any) -> NotifySink:
    return NotifySink("people", NotifyOptions.model_validate({"timeout": 5, **options}), NoServices())


class TestNotify(SinkConformance):
    @pytest.fixture
    def target(self, receiver: Receiver) -> Iterator[SinkUnderTest]:
        with silent_port() as silent:
            away = {
                "nothing listens": {"urls": f"json://me:{SECRET}@127.0.0.1:{closed_port()}", "timeout": 1},
                "never answers": {"urls": f"json://me:{SECRET}@127.0.0.1:{silent}", "timeout": 0.3},
            }
            yield SinkUnderTest(
                NotifySink, {"urls": receiver.url()}, lambda: receiver.seen, away=away, secrets=[SECRET]
            )


def test_a_failed_run_becomes_a_short_notification(receiver: Receiver) -> None:
    run = sample_run(
        "wr_1", workflow_title="Weekly invoices", failure_reason="No login form", app_url="https://app.example/1"
    )
    receipts = {"archive": {"urls": {"run.json": "https://files.example/run.json"}}, "mirror": None}
    receipt = make(urls=receiver.url()).send(make_delivery(run, receipts=receipts))
    (seen,) = receiver.seen
    assert (seen["title"], seen["type"]) == ("❌ Weekly invoices failed", "failure")
    assert seen["message"].split("\n") == [
        "No login form",
        "Duration 2 min 2 s · Steps 3 · Finished 2026-03-01 10:02:05 UTC",
        "Open the run: https://app.example/1",
        "run.json: https://files.example/run.json",
        "The sink mirror did not take this result.",
        "wr_1 · skyvern · everything",
    ]
    assert receipt.to_dict() == {"id": "notified", "keys": ["json"]}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("completed", "success"),
        ("failed", "failure"),
        ("timed_out", "failure"),
        ("canceled", "warning"),
        ("new", "info"),
    ],
)
def test_the_outcome_decides_the_kind(status: str, kind: str) -> None:
    assert kind_of(make_delivery(status=status)) == kind
    assert kind_of(make_delivery(sample_run(retry_pending=True))) == "warning"
    assert kind_of(make_delivery(body=b"{")) == "warning"


def test_the_operators_words_are_used(receiver: Receiver) -> None:
    sink = make(urls=[receiver.url()], title="{{ title }}: {{ run.outcome }}", body="because {{ reason }} <b>")
    sink.send(make_delivery(sample_run(title="Prices", failure_reason="@everyone <@&1> a@b.example")))
    (seen,) = receiver.seen
    assert seen["title"] == "Prices: failed"
    assert seen["message"] == "because @\u2060everyone <\u2060@&1> a@b.example <b>"


def test_payload_makes_no_link_and_the_operators_link_stays(receiver: Receiver) -> None:
    sink = make(urls=[receiver.url()], title="{{ title }}", body="{{ reason }} [the run]({{ run.app_url }})")
    reason = "![x](https://evil.example/x.png) [log in](https://evil.example) <https://evil.example|here> a[1] (b)"

    sink.send(
        make_delivery(
            sample_run(title="[x](https://evil.example)", failure_reason=reason, app_url="https://a.example/r")
        )
    )

    (seen,) = receiver.seen
    assert seen["title"] == "[x]\u2060(https://evil.example)"
    assert seen["message"] == (
        "!\u2060[x]\u2060(https://evil.example/x.png) [log in]\u2060(https://evil.example) "
        "<\u2060https://evil.example|here> a[1] (b) [the run](https://a.example/r)"
    )


def test_a_template_that_can_not_be_filled_is_refused(receiver: Receiver) -> None:
    with pytest.raises(Refused, match="nothing_such"):
        make(urls=receiver.url(), body="{{ run.nothing_such }}").send(make_delivery())


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500])
def test_a_no_is_unavailable_and_says_what_was_answered(receiver: Receiver, status: int) -> None:
    receiver.answers["no"] = (status, 0)
    with pytest.raises(Unavailable, match=rf"^json \(number 1\) answered {status}$"):
        make(urls=receiver.url("no")).send(make_delivery())
    assert receiver.seen == []


def test_who_has_accepted_is_not_notified_again(receiver: Receiver) -> None:
    receiver.answers["no"] = (503, 0)
    sink = make(urls=[receiver.url("yes"), receiver.url("no"), receiver.url("also")])
    delivery = make_delivery()
    with pytest.raises(Unavailable, match=r"^json \(number 2\) answered 503$"):
        sink.send(delivery)
    receiver.answers.clear()
    sink.send(replace(delivery, attempt=2))
    assert [seen["path"] for seen in receiver.seen] == ["yes", "also", "no"]


def test_a_slow_service_is_given_up_in_time(receiver: Receiver) -> None:
    receiver.answers["slow"] = (200, 10)
    watch = Stopwatch()
    with pytest.raises(Unavailable, match=r"json \(number 1\) did not .*; json \(number 2\) was not reached in time"):
        make(urls=[receiver.url("slow"), receiver.url()], timeout=0.3).send(make_delivery())
    watch.at_most(3)


def test_without_apprise_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['apprise'] = None\n"
        "from handlers.notify import NotifyOptions\n"
        "try: NotifyOptions.model_validate({'urls': 'json://localhost'})\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert "pip install 'runhook[notify]'" in done.stdout, done.stderr


@pytest.mark.parametrize("kind", BODIES)
def test_any_body_has_words(kind: str) -> None:
    assert len(default_body(make_delivery(body=BODIES[kind]))) <= BODY_MAX


LINKS = [
    *("[run](https://evil.example)", "![](https://evil.example/x.png)", "[a][b]", "[a]: https://e.example"),
    *("<https://e.example|run>", "]](", "![["),
]


@given(text=st.text() | st.sampled_from(["@everyone", "<@123>", "<!channel>", "<@&9>", "a\u202eb\0", *LINKS]))
def test_no_text_of_a_payload_can_mention_anybody(text: str) -> None:
    run = sample_run(failure_reason=text, errors=[{"error_code": text}, text], app_url="https://app.example/" + text)
    body = default_body(
        make_delivery(body=json.dumps(run).encode(), receipts={text: None, "a": {"urls": {text: "https://a.example/"}}})
    )
    assert "@everyone" not in body
    assert not any(mention in body for mention in ("<@", "<!", "\0", "\u202e"))
    assert not re.search(r"\]\(|!\[|\]\[|\]:|<[a-z]+:[^>\s]*\|", body)
