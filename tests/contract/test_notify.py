"""The sink `notify`: real Apprise to a server on loopback that says yes, no, or nothing."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.contract import Notification, Refused, Unavailable
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
from tests.servers.http import Reply, ScriptedServer
from tests.support.waiting import PATIENCE, Stopwatch

SECRET = "hush-hush-token"


@pytest.fixture
def receiver() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def url_of(server: ScriptedServer, path: str = "") -> str:
    return f"json://me:{SECRET}@127.0.0.1:{server.port}/{path}"


def seen_by(server: ScriptedServer) -> list[dict[str, Any]]:
    """The JSON that Apprise's json:// has posted."""
    return [json.loads(request.body) for request in server.requests]


def make(**options: Any) -> NotifySink:
    return NotifySink("people", NotifyOptions.model_validate({"timeout": 60, **options}), NoServices())


class TestNotify(SinkConformance):
    @pytest.fixture
    def target(self, receiver: ScriptedServer) -> Iterator[SinkUnderTest]:
        with silent_port() as silent:
            away = {
                "nothing listens": {"urls": f"json://me:{SECRET}@127.0.0.1:{closed_port()}", "timeout": 1},
                "never answers": {"urls": f"json://me:{SECRET}@127.0.0.1:{silent}", "timeout": 0.3},
            }
            yield SinkUnderTest(
                NotifySink, {"urls": url_of(receiver)}, lambda: seen_by(receiver), away=away, secrets=[SECRET]
            )


def test_a_failed_run_becomes_a_short_notification(receiver: ScriptedServer) -> None:
    run = sample_run(
        "wr_1", workflow_title="Weekly invoices", failure_reason="No login form", app_url="https://app.example/1"
    )
    receipts = {"archive": {"urls": {"run.json": "https://files.example/run.json"}}, "mirror": None}
    receipt = make(urls=url_of(receiver)).send(make_delivery(run, receipts=receipts))
    (seen,) = seen_by(receiver)
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


def test_the_operators_words_are_used(receiver: ScriptedServer) -> None:
    sink = make(urls=[url_of(receiver)], title="{{ title }}: {{ run.outcome }}", body="because {{ reason }} <b>")
    sink.send(make_delivery(sample_run(title="Prices", failure_reason="@everyone <@&1> a@b.example")))
    (seen,) = seen_by(receiver)
    assert seen["title"] == "Prices: failed"
    assert seen["message"] == "because @\u2060everyone <\u2060@&1> a@b.example <b>"


def test_payload_makes_no_link_and_the_operators_link_stays(receiver: ScriptedServer) -> None:
    sink = make(urls=[url_of(receiver)], title="{{ title }}", body="{{ reason }} [the run]({{ run.app_url }})")
    reason = "![x](https://evil.example/x.png) [log in](https://evil.example) <https://evil.example|here> a[1] (b)"

    sink.send(
        make_delivery(
            sample_run(title="[x](https://evil.example)", failure_reason=reason, app_url="https://a.example/r")
        )
    )

    (seen,) = seen_by(receiver)
    assert seen["title"] == "[x]\u2060(https://evil.example)"
    assert seen["message"] == (
        "!\u2060[x]\u2060(https://evil.example/x.png) [log in]\u2060(https://evil.example) "
        "<\u2060https://evil.example|here> a[1] (b) [the run](https://a.example/r)"
    )


def test_a_template_that_can_not_be_filled_is_refused(receiver: ScriptedServer) -> None:
    with pytest.raises(Refused, match="nothing_such"):
        make(urls=url_of(receiver), body="{{ run.nothing_such }}").send(make_delivery())


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500])
def test_a_no_is_unavailable_and_says_what_was_answered(receiver: ScriptedServer, status: int) -> None:
    receiver.script += [Reply(status, {"location": "/elsewhere"})]
    with pytest.raises(Unavailable, match=rf"^json \(number 1\) answered {status}$"):
        make(urls=url_of(receiver, "no")).send(make_delivery())
    assert len(receiver.requests) == 1


def test_who_has_accepted_is_not_notified_again(receiver: ScriptedServer) -> None:
    receiver.script += [Reply(200), Reply(503), Reply(200)]
    sink = make(urls=[url_of(receiver, "yes"), url_of(receiver, "no"), url_of(receiver, "also")])
    delivery = make_delivery()
    with pytest.raises(Unavailable, match=r"^json \(number 2\) answered 503$"):
        sink.send(delivery)
    sink.send(replace(delivery, attempt=2))
    assert [request.path for request in receiver.requests] == ["/yes", "/no", "/also", "/no"]


def test_a_slow_service_is_given_up_in_time(receiver: ScriptedServer) -> None:
    receiver.script += [Reply(delay=10)]
    watch = Stopwatch()
    with pytest.raises(Unavailable, match=r"json \(number 1\) did not .*; json \(number 2\) was not reached in time"):
        make(urls=[url_of(receiver, "slow"), url_of(receiver)], timeout=0.3).send(make_delivery())
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


def test_a_notification_of_a_problem_is_a_failure_and_a_digest_is_not(receiver: ScriptedServer) -> None:
    sink = make(urls=url_of(receiver))
    sink.notify(Notification("alert_1", "alert", "Runhook: 1 problem", ["one", "two"], "https://x.example", True))
    sink.notify(Notification("digest_1", "digest", "Runhook: 2 runs", ["2 completed"]))

    assert [(seen["title"], seen["message"], seen["type"]) for seen in seen_by(receiver)] == [
        ("Runhook: 1 problem", "one\ntwo\nhttps://x.example", "failure"),
        ("Runhook: 2 runs", "2 completed", "info"),
    ]


def test_a_notification_is_sent_again_to_the_urls_that_did_not_accept_it_only(receiver: ScriptedServer) -> None:
    with ScriptedServer() as other:
        other.script += [Reply(503)]
        sink = make(urls=[url_of(receiver), url_of(other)])
        notification = Notification("alert_1", "alert", "Runhook: 1 problem", ["one"])
        with pytest.raises(Unavailable, match="number 2"):
            sink.notify(notification)
        sink.notify(notification)

        assert (len(receiver.requests), len(other.requests)) == (1, 2)
