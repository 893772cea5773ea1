"""The http sink: signed as Standard Webhooks has it, and every answer of a server means one of three things."""

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from handlers.contract import Delivery, Notification, Receipt, Refused, Unavailable
from handlers.http import HttpOptions, HttpSink
from handlers.testing.conformance import (
    NoServices,
    SinkConformance,
    SinkUnderTest,
    closed_port,
    make_delivery,
    sample_run,
    silent_port,
)
from receiver.config.messages import describe
from tests.servers.http import Authority, Reply, Request, ScriptedServer
from tests.support.waiting import Stopwatch

SECRET = "whsec_" + base64.b64encode(b"secret-of-billing-0123456").decode()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@contextmanager
def sink_to(url: str, **options: Any) -> Iterator[HttpSink]:
    sink = HttpSink("billing", HttpOptions.model_validate({"url": url, "timeout": 60, **options}), NoServices())
    yield sink
    sink.close()


def send(server: ScriptedServer, delivery: Delivery | None = None, **options: Any) -> Request:
    """The request that the delivery became."""
    with sink_to(server.url + "/hooks", **options) as sink:
        sink.send(delivery or make_delivery())
    return server.requests[-1]


class TestHttpConforms(SinkConformance):
    @pytest.fixture
    def target(self, server: ScriptedServer) -> Iterator[SinkUnderTest]:
        secrets = {"secret": SECRET, "headers": {"authorization": "Bearer header-5e1f"}}
        options = {"url": f"{server.url}/hooks?token=query-5e1f", "timeout": 60, **secrets}
        with silent_port() as silent, ScriptedServer() as busy, ScriptedServer() as rude:
            busy.script += [Reply(503)] * 2
            rude.script += [Reply(drop=True)] * 2
            yield SinkUnderTest(
                HttpSink,
                options,
                lambda: list({request.headers["webhook-id"]: request for request in server.requests}.values()),
                idempotent=True,  # by the webhook-id, which the receiver goes by
                is_marked=lambda request: request.headers.get("runhook-test") == "true",
                secrets=[SECRET, SECRET[6:], "header-5e1f", "query-5e1f"],
                away={
                    "nothing listens": {**options, "url": f"http://127.0.0.1:{closed_port()}/?token=query-5e1f"},
                    "never answers": {**options, "url": f"http://127.0.0.1:{silent}/", "timeout": 0.5},
                    "is busy": {**options, "url": busy.url},
                    "hangs up": {**options, "url": rude.url},
                    "speaks no TLS": {**options, "url": server.url.replace("http:", "https:")},
                },
            )


# --- What is sent


def test_the_body_is_sent_as_it_was_received(server: ScriptedServer) -> None:
    body = b'{"run_id" : "tsk_1", "output":"\xe2\x80\xa8 1e400 \\u0000"}\n'
    request = send(server, make_delivery(body=body))
    assert (request.method, request.path, request.body) == ("POST", "/hooks", body)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "runhook"


def test_the_official_library_accepts_the_signature(server: ScriptedServer) -> None:
    delivery = make_delivery()
    request = send(server, delivery, secret=SECRET)
    assert Webhook(SECRET).verify(request.body, request.headers) == delivery.run
    assert request.headers["webhook-id"] == delivery.key
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.body + b" ", request.headers)


def test_while_keys_are_exchanged_each_of_them_fits(server: ScriptedServer) -> None:
    old, new = "whsec_" + base64.b64encode(b"o" * 24).decode(), SECRET
    request = send(server, secret=[new, old])
    for key in (old, new):
        Webhook(key).verify(request.body, request.headers)
    assert len(request.headers["webhook-signature"].split()) == 2
    request = send(server, secret=[new, ""])  # "${OLD_SECRET:-}" when the exchange is over
    Webhook(new).verify(request.body, request.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(request.body, request.headers)


def test_a_plain_secret_signs_with_its_own_bytes(server: ScriptedServer) -> None:
    request = send(server, secret="correct horse é")
    Webhook("correct horse é".encode()).verify(request.body, request.headers)


def test_without_a_secret_there_is_no_signature_but_still_an_id(server: ScriptedServer) -> None:
    request = send(server)
    assert "webhook-signature" not in request.headers
    assert {"webhook-id", "webhook-timestamp"} <= set(request.headers)


def test_every_attempt_has_the_same_id_and_a_time_of_its_own(server: ScriptedServer) -> None:
    server.script += [Reply(500)]
    delivery = make_delivery()
    with sink_to(server.url, secret=SECRET) as sink:
        with pytest.raises(Unavailable):
            sink.send(delivery)
        assert sink.send(delivery) == Receipt(delivery.key)
    first, second = server.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert 0 <= int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) < 60


def test_the_headers_tell_what_the_body_does_not(server: ScriptedServer) -> None:
    delivery = make_delivery(status="completed\r\nx: y", source="sky", test=True)
    request = send(server, delivery, headers={"authorization": "Bearer t", "x-team": "billing"})
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["x-team"] == "billing"
    assert request.headers["runhook-event"] == delivery.event_id
    assert request.headers["runhook-source"] == "sky"
    assert request.headers["runhook-outcome"] == "completed%0D%0Ax%3A%20y"
    assert request.headers["runhook-test"] == "true"


def test_a_user_in_the_url_becomes_basic_authentication(server: ScriptedServer) -> None:
    with sink_to(server.url.replace("//", "//me:p%40ss@") + "/a?b=c") as sink:
        sink.send(make_delivery())
    (request,) = server.requests
    assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")) == b"me:p@ss"
    assert request.path == "/a?b=c"


def test_a_template_makes_the_body(server: ScriptedServer) -> None:
    template = (
        '{"text": {{ run.failure_reason | tojson }}, "total": {{ run.output.invoice.total }}, "id": "{{ event.key }}"}'
    )
    delivery = make_delivery(sample_run(failure_reason='It said "no"\n'))
    request = send(server, delivery, template=template, method="PUT", secret=SECRET)
    assert request.method == "PUT"
    assert json.loads(request.body) == {"text": 'It said "no"\n', "total": 1500, "id": delivery.key}
    Webhook(SECRET).verify(request.body, request.headers)


def test_a_template_for_another_type_of_body(server: ScriptedServer) -> None:
    request = send(
        server, template="run={{ run.run_id | urlencode }}", content_type="application/x-www-form-urlencoded"
    )
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.body.startswith(b"run=tsk_")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ('{"text": "{{ run.failure_reason }}"}', "does not produce JSON for this run"),
        ('{"n": {{ run.output.nothing.here }} }', "can't be filled"),
        ("{{ 'x' * 10 ** 7 }}", "can't be filled"),
    ],
)
def test_a_template_that_a_run_does_not_fit_refuses_it(server: ScriptedServer, template: str, says: str) -> None:
    with sink_to(server.url, template=template) as sink, pytest.raises(Refused, match=says) as caught:
        sink.send(make_delivery(sample_run(failure_reason='SECRET "quoted"')))
    assert "SECRET" not in str(caught.value)
    assert server.requests == []


# --- What answers mean


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ([200, 201, 202, 204, 299], Receipt),
        ([400, 401, 403, 404, 409, 410, 413, 418, 422, 499], Refused),
        ([408, 425, 429, 500, 501, 502, 503, 504, 599], Unavailable),
    ],
)
def test_status_decides_the_outcome(server: ScriptedServer, statuses: list[int], outcome: type) -> None:
    server.script += [Reply(status, body=b"SECRET") for status in statuses]
    with sink_to(server.url) as sink:
        answers = sink.send_many([make_delivery() for _ in statuses])
    assert [type(answer) for answer in answers] == [outcome] * len(statuses)
    assert "SECRET" not in str(answers)
    if outcome is not Receipt:
        assert all(f"answered {status}" in str(answer) for status, answer in zip(statuses, answers, strict=True))


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_its_target_hears_nothing(server: ScriptedServer, status: int) -> None:
    with ScriptedServer() as elsewhere, sink_to(server.url, secret=SECRET) as sink:
        server.script += [Reply(status, {"location": f"{elsewhere.url}/new?token=SECRET"})]
        with pytest.raises(Refused, match=r"redirects to 127\.0\.0\.1; redirects are not followed") as caught:
            sink.send(make_delivery())
        assert "SECRET" not in str(caught.value)
        assert elsewhere.requests == []


@pytest.mark.parametrize("location", ["http://[", "/elsewhere", "", "javascript:alert(1)", "http://a\u0430.example/"])
def test_a_redirect_to_nonsense_is_refused_all_the_same(server: ScriptedServer, location: str) -> None:
    server.script += [Reply(302, {"location": location.encode().decode("latin-1")})]
    with sink_to(server.url) as sink, pytest.raises(Refused, match="answered 302"):
        sink.send(make_delivery())


@pytest.mark.parametrize(
    ("success", "status"),
    [(["2xx", 302], 302), (["2xx", "302"], 302), (["2xx", "302"], 201), (["3xx"], 307), ([409], 409), (["5xx"], 503)],
)
def test_a_listed_status_is_accepted(server: ScriptedServer, success: list[Any], status: int) -> None:
    with ScriptedServer() as elsewhere, sink_to(server.url, success=success) as sink:
        server.script += [Reply(status, {"location": f"{elsewhere.url}/result"})]
        delivery = make_delivery()
        assert sink.send(delivery) == Receipt(delivery.key)
        assert elsewhere.requests == []  # a redirect that means accepted is not followed either


@pytest.mark.parametrize(
    ("success", "status", "error", "words"),
    [
        (["2xx", 302], 303, Refused, "add 303 to success"),
        (["2xx", 302], 404, Refused, "answered 404$"),
        (["2xx", 302], 503, Unavailable, "answered 503$"),
        ([302], 200, Refused, "answered 200, which is not listed in success"),
    ],
)
def test_an_unlisted_status_is_no_success(
    server: ScriptedServer, success: list[Any], status: int, error: type[Exception], words: str
) -> None:
    server.script += [Reply(status)]
    with sink_to(server.url, success=success) as sink, pytest.raises(error, match=words):
        sink.send(make_delivery())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (700, "must be at most 599"),
        (101, "must be at least 200"),
        (True, "must be at least 200"),
        ("1xx", "must be a whole number"),
        ("2XX", "must be a whole number"),
        (200.5, "must be a whole number"),
    ],
)
def test_success_takes_status_codes_and_classes(wrong: Any, words: str) -> None:
    options = {"url": "http://127.0.0.1", "success": ["2xx", wrong]}
    with pytest.raises(ValidationError) as caught:
        HttpOptions.model_validate(options)
    right = f"{words}, or must be '2xx', '3xx', '4xx' or '5xx'"
    assert describe(caught.value, HttpOptions, options) == [(("success", 1), right)]


def test_retry_after_reaches_the_caller(server: ScriptedServer) -> None:
    server.script += [Reply(429, {"retry-after": "7"}), Reply(503, {"retry-after": formatdate(time.time() + 90)})]
    with sink_to(server.url) as sink:
        with pytest.raises(Unavailable) as caught:
            sink.send(make_delivery())
        assert caught.value.retry_after == 7
        with pytest.raises(Unavailable) as caught:
            sink.send(make_delivery())
        assert 0 < (caught.value.retry_after or 0) <= 91


def test_the_answer_is_read_no_further_than_64_kib(server: ScriptedServer) -> None:
    server.script += [Reply(200, {"content-length": "100000000"}, body=b"x" * 1_000_000)]
    with sink_to(server.url) as sink:
        watch = Stopwatch()
        assert isinstance(sink.send(make_delivery()), Receipt)
        watch.at_most(5)


# --- Connections


def test_connections_are_used_again_also_by_many_threads(server: ScriptedServer) -> None:
    with sink_to(server.url) as sink:
        for _ in range(5):
            sink.send(make_delivery())
        assert len({request.peer for request in server.requests}) == 1
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: sink.send(make_delivery()), range(80)))
    assert len({request.headers["webhook-id"] for request in server.requests}) == 85
    assert len({request.peer for request in server.requests}) <= 9


# --- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_certificate_of_a_stranger_is_not_trusted(authority: Authority) -> None:
    with ScriptedServer(authority.server_context()) as server:
        with sink_to(server.url) as sink, pytest.raises(Unavailable, match="its certificate does not hold"):
            sink.send(make_delivery())
        assert server.requests == []


def test_an_authority_of_ones_own_is_trusted(authority: Authority) -> None:
    with ScriptedServer(authority.server_context()) as server:
        assert send(server, ca=str(authority.path)).path == "/hooks"


@pytest.mark.parametrize("password", ["", "pw-5e1f"])
def test_a_client_certificate_is_shown(authority: Authority, password: str) -> None:
    certificate, key = authority.issue("runhook", password)
    options: dict[str, Any] = {"ca": str(authority.path), "cert": str(certificate), "key": str(key)}
    with ScriptedServer(authority.server_context(ask_for_client=True)) as server:
        if password:
            with sink_to(server.url, **options) as sink, pytest.raises(Unavailable, match=r"can't be used for TLS"):
                sink.send(make_delivery())
            options["key_password"] = password
        request = send(server, **options)
        assert request.certificate is not None
        assert request.certificate["subject"] == ((("commonName", "runhook"),),)
        with sink_to(server.url, ca=str(authority.path)) as sink, pytest.raises(Unavailable):
            sink.send(make_delivery())


def test_missing_or_broken_certificate_is_unavailable(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "broken.pem").write_text("nonsense")
    for path, says in (("gone.pem", "No such file"), ("broken.pem", "can't be used for TLS")):
        with sink_to("https://127.0.0.1:1", cert=str(tmp_path / path)) as sink, pytest.raises(Unavailable, match=says):
            sink.send(make_delivery())


# --- Notifications


def test_a_notification_is_signed_json_without_the_template(server: ScriptedServer) -> None:
    data = {"problems": [{"code": "redis_away", "about": ""}], "ended": []}
    notification = Notification("alert_1", "alert", "Runhook: 1 problem", ["• one", "• two"], "https://x", True, data)

    with sink_to(server.url + "/hooks", secret=SECRET, template="{{ run.run_id }}", content_type="text/plain") as sink:
        sink.notify(notification)

    (request,) = server.requests
    assert Webhook(SECRET).verify(request.body, request.headers) == {
        "type": "runhook.alert",
        "title": "Runhook: 1 problem",
        "text": "• one\n• two",
        "link": "https://x",
        "urgent": True,
        **data,
    }
    assert request.headers["webhook-id"] == "alert_1"
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("reply", "kind"), [(Reply(410), Refused), (Reply(503), Unavailable)])
def test_a_notification_that_is_not_accepted_raises(
    server: ScriptedServer, reply: Reply, kind: type[Exception]
) -> None:
    server.script += [reply]
    with sink_to(server.url) as sink, pytest.raises(kind):
        sink.notify(Notification("alert_1", "alert", "Runhook: 1 problem", ["one"]))
