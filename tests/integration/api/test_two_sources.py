"""Each call of the catalogue, asked by one of one source for what is another's: it sees nothing, changes nothing, and
can't even tell whether it is there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.api.catalogue import ENDPOINTS
from receiver.api.endpoint import Endpoint
from receiver.api.models import Scoped
from receiver.api.service import Service
from receiver.domain.api_key import ALL_SCOPES, VIEW
from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import delivery_id
from receiver.domain.new_event import NewDelivery
from receiver.domain.signature import sign
from receiver.errors import Forbidden, RequestError
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger, account
from receiver.ledger.account import AgentChange
from receiver.ledger.schema import metadata, polls, submissions
from tests.support import api
from tests.support.api import actor, call, done
from tests.support.ledger import claim, new_event, poll_row, record, settle, with_tables

# The other source's name, which each of its rows has.
RIVAL = "rival"
RUN = "wr_100200300"
SAYS = {"title": "theirs", "recording_url": "https://files.example/other.webm"}
EVENT = new_event(RUN, **SAYS)
SUBMISSION = "sub_" + "b" * 32
REFUSED = json.dumps({"run_id": RUN, "status": "completed", "title": RIVAL}).encode()
QUARANTINED = QuarantinedRequest.of(RIVAL, sign(REFUSED, "wrong"), REFUSED, "", time.time())

# By member and first part of the path: the id of what is the rival's. Where a part is missing, whatever the path.
THEIRS: dict[tuple[str, str], Any] = {
    ("run_id", ""): RUN,
    ("run", ""): RUN,
    ("run_prefix", ""): RUN[:6],
    ("event_id", ""): EVENT.event.id,
    ("delivery", ""): delivery_id(EVENT.event.id, "ops"),
    ("id", "runs"): RUN,
    ("id", "events"): EVENT.event.id,
    ("id", "deliveries"): delivery_id(EVENT.event.id, "ops"),
    ("id", "submissions"): SUBMISSION,
    ("id", "quarantine"): QUARANTINED.id,
    ("ids", "quarantine"): [QUARANTINED.id],
    ("ids", ""): [RUN],
    ("agent_id", ""): "wpid_theirs",
}
# Members that name nothing of a source, and what they are given.
FREE: dict[str, Any] = {
    "sink": "ops",
    "into": "results",
    "name": "app",
    "key": "k1",
}
# Members that are ids.
IDS = {"id", "ids", "run_id", "run", "event_id", "delivery"}
# What names nothing of a source, whoever asks; and what answers with what is given.
TELLS_NOTHING = {
    "get_totals",
    "list_sinks",
    "get_sink",
    "explain",
    "get_artifact_content",
    "get_ages",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The other source has a run with a dead, a cancelled and a delivered delivery and an old route, a submission, a
    key, an operation, a line in the audit and a request in quarantine. The asking one has nothing."""
    tmp_path = tmp_path_factory.mktemp("two-sources")
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    sink = {"type": "resubmit", "base_url": "http://127.0.0.1:1", "key": "rhk_1_2"}
    files = {name: {"type": "files", "path": str(tmp_path / name)} for name in ("ops", "chat", "results")}
    sources = {name: {"secrets": [f"secret-of-{name}"], "api_key": "k"} for name in ("skyvern", RIVAL)}
    it = api.service(ledger, tmp_path, sinks={**files, "again": sink}, sources=sources)
    now = time.time() - 60
    event = new_event(RUN, "ops", "chat", NewDelivery("results", "rival's"), **SAYS)
    failed = new_event("wr_100200301", "ops", status="failed")
    for each in (event, failed):
        object.__setattr__(each.event, "source", RIVAL)
        record(ledger, each, now=now)
    settle(ledger, claim(ledger, "ops", now=now), DeliveryMove.DIE, now=now)
    settle(ledger, claim(ledger, "chat", now=now), DeliveryMove.ACCEPT, now=now, receipt={"id": RIVAL})
    row = {"id": SUBMISSION, "source": RIVAL, "key_id": "k", "call": "tasks", "state": "accepted", "run_id": RUN}
    row |= {"request_hash": "h", "created_at": now, "updated_at": now}
    ledger.write(lambda connection: connection.execute(sa.insert(submissions).values(row)))
    poll = poll_row(RIVAL, "wr_without_result", now, now, polls=1)
    ledger.write(lambda connection: connection.execute(sa.insert(polls).values(poll)))
    change = AgentChange(RIVAL, "wpid_theirs", None, "https://here.example", now)
    ledger.write(lambda connection: account.record_change(connection, change))
    agents = {"wpid_theirs": (RIVAL, "https://rival.example/hook")}
    ledger.write(lambda connection: account.replace_agents(connection, RIVAL, agents, now))
    call(it, "create_key", actor(RIVAL, *ALL_SCOPES), name="rival's", scopes=["view"])
    call(it, "replay", actor(RIVAL), expect=2, rate=0.001)
    Quarantine(tmp_path / "quarantine", 9, 1 << 20).add(QUARANTINED, REFUSED)
    yield it
    ledger.close()


def theirs(it: Service, endpoint: Endpoint[Any, Any], member: str) -> Any:
    """What `member` is given to mean something of the other source's; None where it names nothing of a source."""
    part = endpoint.path.split("/")[1]
    if (member, part) == ("id", "operations"):
        return call(it, "list_operations", actor(RIVAL))["items"][0]["id"]
    if (member, part) == ("ids", "keys"):
        return [call(it, "list_keys", actor(RIVAL))["items"][0]["id"]]
    return THEIRS.get((member, part), THEIRS.get((member, "")))


def probes(it: Service, endpoint: Endpoint[Any, Any]) -> list[dict[str, Any]]:
    """Parameters that ask for all, and for what is the rival's in each way that the call has; to look and to act."""
    fields = endpoint.parameters.model_fields
    base: dict[str, Any] = {}
    for name, field in fields.items():
        if field.is_required():
            value = FREE.get(name, theirs(it, endpoint, name))
            assert value is not None, f"{endpoint.name}: say in THEIRS or FREE what {name} is"
            base[name] = value
    ways = [base, *({**base, name: theirs(it, endpoint, name)} for name in fields if theirs(it, endpoint, name))]
    if "since" in fields:
        ways += [{**way, "since": "1d"} for way in ways]
    if "expect" in fields:
        ways += [
            {**way, more: value} for way in ways for more, value in (("expect", 0), ("expect", 1), ("dry_run", True))
        ]
    if "force" in fields:
        ways += [{**way, "force": True} for way in ways]
    if "scopes" in fields:
        ways = [{**way, "scopes": [VIEW]} for way in ways]
    return ways


def rivals(it: Service) -> dict[str, Any]:
    """All that is the rival's."""

    def read(connection: sa.Connection) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for table in metadata.sorted_tables:
            if "source" in table.c and table.name != "audit":
                query = sa.select(table).where(table.c.source == RIVAL)
                found[table.name] = sorted(str(row) for row in connection.execute(query))
        found["lanes"] = str(connection.execute(sa.select(metadata.tables["lanes"])).all())
        return found

    kept = Quarantine(it.settings.data / "quarantine", 9, 1 << 20).list()
    return {**it.ledger.read(read), "quarantine": kept}


def outcome(it: Service, endpoint: Endpoint[Any, Any], parameters: dict[str, Any], source: str) -> tuple[str, str]:
    """The result as JSON, and the error as text: one of them is empty."""
    try:
        return json.dumps(call(it, endpoint.name, actor(source), **parameters)), ""
    except RequestError as error:
        return "", f"{type(error).__name__} {error}"


def test_every_call_is_narrowed_or_for_all_sources_only() -> None:
    assert [each.name for each in ENDPOINTS if not (each.all_sources or issubclass(each.parameters, Scoped))] == []


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: each.name)
def test_one_of_another_source_sees_and_changes_nothing(service: Service, endpoint: Endpoint[Any, Any]) -> None:
    before = rivals(service)
    for parameters in probes(service, endpoint):
        told, error = outcome(service, endpoint, parameters, "skyvern")
        if endpoint.all_sources:
            assert "Forbidden" in error
        assert RIVAL not in told, parameters
        assert "theirs" not in told, parameters
        assert rivals(service) == before, parameters

        # Nor can it tell whether it is there
        absent = {name: _absent(value) if name in IDS else value for name, value in parameters.items()}
        if error and absent != parameters:
            told_of_none = outcome(service, endpoint, absent, "skyvern")[1]
            assert _without(told_of_none, absent) == _without(error, parameters), parameters


def _absent(value: Any) -> Any:
    """An id of the same form that nothing has."""
    return [_absent(each) for each in value] if isinstance(value, list) else str(value)[:-6] + "0" * 6


def _without(error: str, parameters: dict[str, Any]) -> str:
    """The error without the ids that were asked for."""
    for name in IDS & parameters.keys():
        for value in parameters[name] if isinstance(parameters[name], list) else [parameters[name]]:
            error = error.replace(value, "…")
    return error


def test_the_other_source_sees_its_own(service: Service) -> None:
    for endpoint in ENDPOINTS:
        if endpoint.method == "GET" and not endpoint.all_sources and endpoint.name not in TELLS_NOTHING:
            seen = [outcome(service, endpoint, parameters, RIVAL)[0] for parameters in probes(service, endpoint)]
            assert any(RIVAL in told for told in seen), endpoint.name


def test_call_without_its_scope_changes_nothing(service: Service) -> None:
    before, audited = rivals(service), done(service)
    for endpoint in ENDPOINTS:
        scopes = set(ALL_SCOPES) - {endpoint.scope}
        for parameters in probes(service, endpoint):
            with pytest.raises(Forbidden, match="this needs the scope"):
                call(service, endpoint.name, actor("", *scopes), **parameters)
    assert rivals(service) == before
    assert done(service) == audited
