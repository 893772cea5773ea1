"""Endpoints: what a request's parameters become, and who may call."""

import orjson
import pytest

from receiver.api.endpoint import Endpoint
from receiver.api.models import FilterParameters, Result, Scoped
from receiver.api.responses import problem_of
from receiver.api.service import Actor, Service
from receiver.errors import Forbidden, Invalid


class Wanted(FilterParameters):
    name: str


class Said(Result):
    source: str


def say(_service: Service, _actor: Actor, wanted: Scoped) -> Said:
    """Say which source was asked for. Nothing else."""
    return Said(source=wanted.source)


LIST = Endpoint("say", "GET", "/said/{name}", "view", Wanted, Said, say)
ACT = Endpoint("act", "POST", "/said/{name}", "operate", Wanted, Said, say, all_sources=True)


def actor(*scopes: str, source: str = "") -> Actor:
    return Actor("key", "app", frozenset(scopes), source)


def test_parameters_of_path_query_and_body() -> None:
    wanted = LIST.parse({"name": "n"}, [("status", "failed"), ("status", "completed"), ("limit", "3")])
    assert wanted == ACT.parse({"name": "n"}, [], b'{"limit": 3, "status": ["failed", "completed"]}')
    # 3.0 is an integer in JSON Schema, and so in the description of the API
    assert wanted == ACT.parse({"name": "n"}, [], b'{"limit": 3.0, "status": ["failed", "completed"]}')
    assert (wanted.name, wanted.status, wanted.limit) == ("n", ("failed", "completed"), 3)
    assert wanted.filter().status == ("failed", "completed")
    assert LIST.summary == "Say which source was asked for."


@pytest.mark.parametrize(
    ("query", "body", "words"),
    [
        ([("limit", "0")], b"", "limit: must be greater than or equal to 1"),
        ([("limit", "1"), ("limit", "2")], b"", "limit: given twice"),
        ([("statsu", "failed")], b"", "statsu: unknown parameter; did you mean status?"),
        ([("name", "other")], b"", "name: is already in the path"),
        ([("limit", "1")], b'{"source": "s"}', "limit: must be in the body, not in the query"),
        ([], b'{"limit": "1"}', "limit: must be a valid integer"),
        ([], b'{"limit": true}', "limit: must be a valid integer"),
        ([], b'{"limit": 1.5}', "limit: must be a valid integer"),
        ([], b'{"limit": 1e300}', "limit: must be a valid integer"),
        ([], b'{"source": 1}', "source: must be a valid string"),
        ([], b'{"source": null}', "source: must be a valid string"),
        ([], b'{"status": "failed"}', "status: must be a valid array"),
        ([], b'{"status": [1]}', "status.0: must be a valid string"),
        ([], b'{"since": 5}', "since: must be a string, such as 2h"),
        ([], b'{"sorce": "s"}', "sorce: unknown parameter; did you mean source?"),
        ([], b"[]", "the body must be a JSON object"),
        ([], b"{", "the body is not valid JSON"),
        ([("since", "yesterday")], b"", "since: must be a time ago such as 15m"),
        ([("label", "env")], b"", "label.0: write NAME=VALUE"),
    ],
)
def test_what_is_wrong_is_named(query: list[tuple[str, str]], body: bytes, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        ACT.parse({"name": "n"}, query, body)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("query", "body"),
    [([("a:b", "1"), ("a:b", "2")], b""), ([("a:b", "1")], b'{"source": "s"}'), ([], b'{"a:b": 1, "a:b": 2}')],
)
def test_a_name_with_a_colon_is_told_whole(query: list[tuple[str, str]], body: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        ACT.parse({"name": "n"}, query, body)
    (problem,) = refused.value.problems
    assert problem["name"] == "a:b"
    assert problem["message"] == str(refused.value)


@pytest.mark.parametrize(
    ("query", "body", "words"),
    [
        ([(f"statu{number}", "") for number in range(5000)], b"", "and 4980 more"),
        ([], orjson.dumps({f"statu{number}": 1 for number in range(5000)}), "and 4980 more"),
        ([], orjson.dumps({"status": ["failed"] * 51}), "status: tuple should have at most 50 items"),
        ([], orjson.dumps({"label": ["x" * 1000] * 5000}), "and 4980 more"),
        ([], orjson.dumps({"label": ["x" * 1000] * 50}), "and 30 more"),
        ([], orjson.dumps({"x" * 100_000: 1}), "x: unknown parameter"),
    ],
)
def test_many_mistakes_get_a_short_response(query: list[tuple[str, str]], body: bytes, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        ACT.parse({"name": "n"}, query, body)
    assert words in str(refused.value)
    assert len(orjson.dumps(problem_of(refused.value))) < 10_000


def test_a_request_of_a_client_is_what_the_server_parses() -> None:
    wanted = LIST.validated({"name": "a/b c", "since": 1_700_000_000.0, "label": ["a=b=c"]})
    path, rest = LIST.path_and_rest(wanted)
    assert path == "/api/v1/said/a%2Fb%20c"
    assert LIST.validated({**rest, "name": "a/b c"}) == wanted


class TestScopes:
    def test_view_is_enough_to_see(self, service: Service) -> None:
        assert LIST.call(service, actor("view", source="a"), LIST.validated({"name": "n"})).source == "a"

    @pytest.mark.parametrize("scopes", [(), ("operate",), ("submit", "read", "operate")])
    def test_nothing_is_seen_without_view(self, service: Service, scopes: tuple[str, ...]) -> None:
        with pytest.raises(Forbidden, match="needs the scope view"):
            LIST.call(service, actor(*scopes), LIST.validated({"name": "n"}))

    def test_view_alone_changes_nothing(self, service: Service) -> None:
        with pytest.raises(Forbidden, match="needs the scope operate"):
            ACT.call(service, actor("view"), ACT.validated({"name": "n"}))

    def test_what_concerns_all_sources_is_not_for_the_key_of_one(self, service: Service) -> None:
        with pytest.raises(Forbidden, match="concerns all sources"):
            ACT.call(service, actor("view", "operate", source="a"), ACT.validated({"name": "n"}))
        assert ACT.call(service, actor("view", "operate"), ACT.validated({"name": "n"})).source == ""


@pytest.fixture
def service() -> Service:
    return Service.__new__(Service)  # what is called here needs nothing of it
