"""The functions of the API, called on this machine's ledger and over HTTP: the same results, the same errors."""

from __future__ import annotations

import gzip
import json
import ssl
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from receiver.api.endpoint import Endpoint
from receiver.api.models import Page, PageParameters, Result
from receiver.api.service import Actor, Service
from receiver.cli.client import open_client, rows_of
from receiver.cli.profiles import RemoteService
from receiver.cli.remote import RemoteClient
from receiver.domain.api_key import VIEW
from receiver.errors import Busy, Forbidden, NotFound, NotStarted, RunhookError, TooMany
from tests.servers.scripted import Reply, ScriptedServer

KEY = "rhk_0123456789ab_secret"


class Number(Result):
    """A row of a list of numbers."""

    number: int


def count(_service: Service, _actor: Actor, wanted: PageParameters) -> Page[Number]:
    """Count."""
    raise NotImplementedError


NUMBERS = Endpoint("numbers", "GET", "/numbers", VIEW, PageParameters, Page[Number], count)
COUNT_UP = Endpoint("count_up", "POST", "/numbers", VIEW, PageParameters, Page[Number], count)


@pytest.fixture(autouse=True)
def nothing_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("RUNHOOK_DATA")


@pytest.fixture
def remote(scripted_server: ScriptedServer) -> Iterator[RemoteClient]:
    client = RemoteClient(RemoteService(scripted_server.url, KEY))
    yield client
    client.close()


def page(*numbers: int, after: str | None = None) -> Reply:
    body = {"items": [{"number": each} for each in numbers], "next": after}
    return Reply(200, json.dumps(body).encode(), {"content-type": "application/json"})


def problem(status: int, code: str, detail: str = "so it is", **headers: str) -> Reply:
    body = {"type": f"urn:runhook:problem:{code}", "title": "x", "status": status, "detail": detail}
    return Reply(status, json.dumps(body).encode(), {"content-type": "application/problem+json", **headers})


def test_pages_are_followed_until_the_limit(remote: RemoteClient, scripted_server: ScriptedServer) -> None:
    scripted_server.script = [page(1, 2, after="a"), page(after="b"), page(3, 4, after="c")]

    rows = rows_of(remote, NUMBERS, PageParameters(source="s"), 3)

    assert [row.number for row in rows] == [1, 2, 3]
    assert [call.path for call in scripted_server.calls] == [
        "/api/v1/numbers?source=s&limit=3",
        "/api/v1/numbers?source=s&limit=1&after=a",
        "/api/v1/numbers?source=s&limit=1&after=b",
    ]
    assert {call.headers["authorization"] for call in scripted_server.calls} == {f"Bearer {KEY}"}


def test_a_read_waits_and_asks_again_while_the_service_is_busy(
    remote: RemoteClient, scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    scripted_server.script = [problem(503, "unavailable", **{"retry-after": "5"})] * 2 + [page(1)]
    assert remote.call(NUMBERS, PageParameters()).items[0].number == 1

    assert [each for each in pauses if each] == [5.0, 5.0]

    scripted_server.default = problem(503, "unavailable", **{"retry-after": "3600"})
    with pytest.raises(Busy) as error:
        remote.call(NUMBERS, PageParameters())
    assert error.value.exit_code == 3
    assert [each for each in pauses if each] == [5.0, 5.0, 10.0, 10.0, 10.0]


def test_an_action_is_never_made_twice(remote: RemoteClient, scripted_server: ScriptedServer) -> None:
    scripted_server.default = problem(503, "unavailable", **{"retry-after": "0"})

    with pytest.raises(Busy):
        remote.call(COUNT_UP, PageParameters(limit=3))

    (call,) = scripted_server.calls
    assert (call.method, json.loads(call.body)) == ("POST", {"limit": 3})


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (problem(429, "too_many", "too many calls"), TooMany, "too many calls"),
        (problem(403, "forbidden", "no\x1b[2J\nmore"), Forbidden, "no\N{REPLACEMENT CHARACTER}"),
        (problem(404, "a_code_of_a_later_release", "gone"), NotFound, "gone"),
        (Reply(302, b"", {"location": "https://evil.example/"}), NotStarted, "redirects to https://evil.example/"),
        (Reply(404, b"<html>"), NotStarted, "responds 404 without a reason; does Runhook serve"),
        (Reply(500, b"{"), NotStarted, "responds 500 without a reason"),
        (Reply(500, b"{", {"content-type": "application/problem+json"}), NotStarted, "responds 500 without"),
        (Reply(200, b"<html>"), RunhookError, "the response to numbers is not supported by version"),
        (Reply(200, b'{"items": [{}]}'), RunhookError, "items.0.number: Field required"),
        (Reply(hang_up=True), NotStarted, "without sending a response; is Runhook running there?"),
    ],
)
def test_what_goes_wrong_is_one_line_without_the_key(
    remote: RemoteClient, scripted_server: ScriptedServer, reply: Reply, kind: type[RunhookError], said: str
) -> None:
    scripted_server.default = reply

    with pytest.raises(kind) as error:
        remote.call(NUMBERS, PageParameters())

    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert KEY not in "".join(traceback.format_exception(error.value))
    assert KEY not in repr(remote.__dict__)
    assert len(scripted_server.calls) == 1


def test_response_is_read_up_to_a_limit(scripted_server: ScriptedServer) -> None:
    # Given a response that is small only until it is decoded
    large = json.dumps({"items": [], "next": "x" * 5000}).encode()
    scripted_server.default = Reply(200, gzip.compress(large), {"content-encoding": "gzip"})

    for limit, fits in ((len(large), True), (len(large) - 1, False)):
        with closing(RemoteClient(RemoteService(scripted_server.url, KEY), limit)) as remote:
            if fits:
                assert remote.call(NUMBERS, PageParameters()).items == []
            else:
                with pytest.raises(NotStarted, match="the response is larger than"):
                    remote.call(NUMBERS, PageParameters())


def test_members_of_a_later_release_are_passed_over(remote: RemoteClient, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(200, b'{"items": [{"number": 1, "colour": "red"}], "next": null, "total": 1}')

    assert remote.call(NUMBERS, PageParameters()).items == [Number(number=1)]


def test_certificates_are_verified() -> None:
    client = RemoteClient(RemoteService("https://127.0.0.1", KEY))

    pool = client._http._transport._pool  # type: ignore[attr-defined]
    assert pool._ssl_context.verify_mode == ssl.CERT_REQUIRED
    assert pool._ssl_context.check_hostname
    client.close()


@pytest.mark.parametrize(
    ("url", "warned"), [("http://10.0.0.1:8000", True), ("http://127.0.0.1:1", False), ("https://10.0.0.1", False)]
)
def test_a_key_that_goes_unencrypted_is_told(capsys: pytest.CaptureFixture[str], url: str, warned: bool) -> None:
    RemoteClient(RemoteService(url, KEY)).close()

    said = capsys.readouterr().err
    assert ("WARNING" in said) == warned
    assert KEY not in said


def test_a_folder_of_this_machine_and_a_service_are_a_mistake(tmp_path: Path) -> None:
    said = r"--data is for this machine and does not fit the remote service https://a\.example"
    with pytest.raises(RunhookError, match=said), open_client(url="https://a.example", key=KEY, data=tmp_path):
        raise AssertionError


def test_a_list_that_goes_round_ends(remote: RemoteClient, scripted_server: ScriptedServer) -> None:
    scripted_server.default = page(after="a")

    with pytest.raises(RunhookError, match="numbers returns the same page again"):
        list(rows_of(remote, NUMBERS, PageParameters(), 3))
