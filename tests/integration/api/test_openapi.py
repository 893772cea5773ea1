"""The OpenAPI document, and the API against it: requests that Schemathesis makes of it, right ones and wrong ones."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import openapi_spec_validator
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.testclient import TestClient

from receiver.api.catalogue import ENDPOINTS
from receiver.api.http import api
from receiver.config.loader import load
from receiver.config.settings import Settings
from receiver.domain import api_key
from receiver.ledger import Ledger
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from receiver.web.app import create_app
from receiver.web.component import ADMIN
from receiver.web.health import health
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import new_event, record, with_tables

pytestmark = pytest.mark.long

# Requests of each kind to each call. CI makes the same ones each time, and a
# person's runs look further.
EXAMPLES: Final = 40
CONFIG: Final = {
    "sources": {"skyvern": {"secrets": ["s"]}},
    "sinks": {"results": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/results.db"}},
    "routes": [{"name": "everything", "to": ["results"]}],
    "spool": {"reserve_bytes": 0},
}
BASE: Final = "http://testserver/api/v1"
ENDPOINT: Final = {each.name: each for each in ENDPOINTS}
NAMES: Final = list(ENDPOINT)
# Calls that take something which could be wrong.
FALLIBLE: Final = [each.name for each in ENDPOINTS if each.parameters.model_fields]


class Api:
    """The API in this process, with some runs in its ledger."""

    def __init__(self, folder: Path, database_url: str) -> None:
        path = folder / "runhook.yaml"
        path.write_text(json.dumps(CONFIG))
        environ = {"REDIS_URL": "redis://127.0.0.1:1/0", "RUNHOOK_DATA": str(folder), "RUNHOOK_CONFIG": str(path)}
        read = Settings.from_env({**environ, "DATABASE_URL": database_url})
        self.ledger = with_tables(Ledger(read.database_url))
        for number in range(3):
            record(self.ledger, new_event(f"tsk_{number}", "results", title="a title", labels={"team": "billing"}))
        self.headers = self._new_key("view", "operate")
        self.submitter, self.viewer = self._new_key("submit", "read"), self._new_key("view")
        self._app = create_app(read, load(path, read.environ), [health, api], has_admin_port=True)
        # What is there, by the name of the parameter that asks for it.
        self.known: dict[str, Any] = {
            "run_id": "tsk_0",
            "run": "tsk_0",
            "source": "skyvern",
            "sink": "results",
            "route": "everything",
            "into": "results",
            "state": ["dead"],
            "status": ["completed"],
            "text": "title",
            "by": ["status"],
            "bucket": "1h",
            "name": "a view",
            "path": "/runs?status=failed",
        }

    def _new_key(self, *scopes: str) -> dict[str, str]:
        """Make a key of all sources; headers with it."""
        key_id = os.urandom(6).hex()
        whole = api_key.derive("m", key_id)
        row = Key(key_id, "t", api_key.digest(whole), api_key.hint(whole), frozenset(scopes), "*", None, time.time())
        self.ledger.write(lambda connection: api_keys.create(connection, row))
        return {"authorization": f"Bearer {whole}", "accept": "application/json"}

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request as one to the admin port, where /api/v1 is ours alone."""
        if scope["type"] == "http":
            scope = {**scope, "extensions": {ADMIN: True}}
        await self._app(scope, receive, send)

    def send(self, case: Case, client: TestClient, *excluded: Any) -> httpx2.Response:
        """Send a request and hold the answer against the document."""
        sent = case.as_transport_kwargs(base_url=BASE)
        others = {name: text for name, text in sent["headers"].items() if name.lower() not in self.headers}
        sent["headers"] = {**others, **self.headers}
        given = {"params": "params", "json": "json", "data": "content"}
        body = {given[name]: value for name, value in sent.items() if name in given and value is not None}
        response = client.request(sent["method"], sent["url"], headers=sent["headers"], **body)
        # That which is left out asks by itself, over a network; what a stranger is told is tested below.
        excluded = (ignored_auth, *excluded, *((positive_data_acceptance,) if is_of_meaning(response) else ()))
        case.validate_response(response, headers=self.headers, transport_kwargs=sent, excluded_checks=list(excluded))
        return response


def is_of_meaning(response: httpx2.Response) -> bool:
    """Whether what no schema can say is wrong: members that do not go together, names of what is not there."""
    if response.status_code != 422:
        return False
    return all("unknown" in each["message"] for each in response.json().get("errors", ()))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    url = ""
    if request.param == "postgresql":
        server: PostgresProcess = request.getfixturevalue("postgres")
        url = server.url(server.create_database())
    it = Api(tmp_path_factory.mktemp("api"), url)
    yield it
    it.ledger.close()


@pytest.fixture(scope="module")
def client(served: Api) -> Iterator[TestClient]:
    with TestClient(served.serve) as it:
        yield it


@pytest.fixture(scope="module")
def document(client: TestClient) -> Any:
    return client.get("/api/v1/openapi.json").json()


@pytest.fixture(scope="module")
def schema(document: Any) -> Any:
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    return schemathesis.openapi.from_dict(document, config=config)


@pytest.mark.parametrize("served", ["postgresql"], indirect=True)
def test_the_document_is_valid_and_needs_no_key(client: TestClient) -> None:
    answer = client.get("/api/v1/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    openapi_spec_validator.validate(answer.json())
    again = client.get("/api/v1/openapi.json", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("served", ["postgresql"], indirect=True)
def test_document_describes_each_call_and_parameter(document: Any) -> None:
    operations = [each for item in document["paths"].values() for each in item.values()]
    assert sorted(each["operationId"] for each in operations) == sorted(NAMES)
    silent = [
        f"{each['operationId']}: {parameter['name']}"
        for each in operations
        for parameter in each["parameters"]
        if not parameter.get("description")
    ]
    assert silent == []
    assert {each["summary"] for each in operations} & {"", "."} == set()


def made_real(case: Case, api: Api) -> Case:
    """The same request, about what is there: no generator knows names, and a cursor is what a page has given."""
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part.pop("after", None)
            part |= {name: value for name, value in api.known.items() if name in part}
    if "dry_run" in ENDPOINT[case.operation.definition.raw["operationId"]].parameters.model_fields:
        case.body = {**(case.body if isinstance(case.body, dict) else {}), "dry_run": True}
    return case


def requests(schema: Any, name: str, mode: GenerationMode) -> Callable[[Callable[[Case], None]], Any]:
    """A decorator that calls a function with requests to one call."""
    operation = schema.find_operation_by_id(name)
    return lambda function: settings(
        max_examples=EXAMPLES,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )(given(operation.as_strategy(generation_mode=mode))(function))


@pytest.mark.parametrize("name", NAMES)
def test_right_requests_are_taken_and_answered_as_described(
    name: str, served: Api, schema: Any, client: TestClient
) -> None:
    @requests(schema, name, GenerationMode.POSITIVE)
    def check(case: Case) -> None:
        served.send(made_real(case, served), client)

    check()


@pytest.mark.parametrize("served", ["postgresql"], indirect=True)  # which refuses more than SQLite
@pytest.mark.parametrize("name", FALLIBLE)
def test_wrong_requests_are_refused_as_described(name: str, served: Api, schema: Any, client: TestClient) -> None:
    @requests(schema, name, GenerationMode.NEGATIVE)
    def check(case: Case) -> None:
        served.send(case, client, positive_data_acceptance)  # a part that is not wrong may be about what is not there

    check()


@pytest.mark.parametrize("served", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_each_call_asks_for_a_key_with_its_scope(name: str, served: Api, client: TestClient) -> None:
    # Given a call of which all that it must be given is there
    endpoint = ENDPOINT[name]
    path = f"/api/v1{endpoint.path}"
    for parameter in endpoint.path_names:
        path = re.sub(rf"{{{parameter}(:path)?}}", "x", path)
    # When a stranger makes it, one who may only submit, and for what changes something one who may only look
    asked = [({}, 401), (served.submitter, 403)]
    asked += [(served.viewer, 403)] if endpoint.scope != "view" else []
    for headers, status in asked:
        answer = client.request(endpoint.method, path, headers=headers)
        # Then it is refused, whatever else is wrong with it
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), headers
        assert answer.json()["status"] == status


@pytest.mark.parametrize("served", ["postgresql"], indirect=True)
def test_what_is_no_call_is_told_as_a_problem(client: TestClient) -> None:
    for method, path, status in [
        ("GET", "/nothing", 404),
        ("GET", "/nothing/at/all", 404),
        ("GET", "/nothing%0A", 404),
        ("GET", "/runs/", 404),
        ("DELETE", "/runs", 405),
    ]:
        answer = client.request(method, f"/api/v1{path}", follow_redirects=False)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), path
        assert "/api/v1/openapi.json" in answer.json()["detail"]
    assert set(client.delete("/api/v1/runs").headers["allow"].split(", ")) == {"GET", "HEAD"}
