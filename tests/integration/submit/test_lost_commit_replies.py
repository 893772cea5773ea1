"""Calls whose transaction is committed while the reply to its COMMIT is lost: done once, and answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from receiver.domain.api_key import OPERATE
from receiver.ledger.access import audit
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submitting import Make, Submitting


@pytest.fixture
def gate(postgres: PostgresProcess) -> Iterator[Gate]:
    with Gate(postgres.port) as it:
        yield it


@pytest.fixture
def database_url(postgres: PostgresProcess, gate: Gate) -> str:
    return f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{postgres.create_database()}"


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "its key"}], ids=["without a key", "with a key"])
def test_submit_is_sent_once_and_answered(
    submitting: Make, skyvern_simulator: SkyvernSimulator, gate: Gate, database_url: str, headers: dict[str, str]
) -> None:
    rig = submitting(skyvern_simulator.url, database_url=database_url, dispatching=False)
    cut = gate.catch(b"COMMIT\0", "cut", after=b"INSERT INTO submissions")

    answer = rig.task("p", headers)

    cut.wait()
    assert (answer.status_code, [answer.json()["run_id"]]) == (200, list(skyvern_simulator.world.runs))
    assert [row["state"] for row in rig.rows()] == ["accepted"]


def test_refusal_reaches_the_caller(
    submitting: Make, scripted_server: ScriptedServer, gate: Gate, database_url: str
) -> None:
    rig = submitting(scripted_server.url, database_url=database_url, dispatching=False)
    scripted_server.default = Reply(422, b'{"detail": "wrong"}', {"content-type": "application/json"})
    cut = gate.catch(b"COMMIT\0", "cut", after=b"UPDATE submissions")

    answer = rig.task("p", {"idempotency-key": "its key"})

    cut.wait()
    assert (answer.status_code, answer.json()["detail"]) == (422, "wrong")
    assert [(row["state"], row["idempotency_key"]) for row in rig.rows()] == [("rejected", "its key")]


def test_action_without_a_reply_is_unknown(
    submitting: Make, skyvern_simulator: SkyvernSimulator, gate: Gate, database_url: str
) -> None:
    rig: Submitting = submitting(skyvern_simulator.url, database_url=database_url, dispatching=False)
    key = rig.key("view", OPERATE, source="*")
    cut = gate.catch(b"COMMIT\0", "cut", after=b"INSERT INTO audit")

    answer = rig.client.post(
        "/api/v1/keys", json={"name": "shop", "source": "skyvern", "scopes": ["view"]}, headers={"x-api-key": key}
    )

    cut.wait()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "may be recorded" in answer.json()["detail"]
    assert [each.action for each in rig.ledger.read(audit.list_actions)] == ["key.create"]
