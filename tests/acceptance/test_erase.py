"""`runhook erase`: nothing of a run's content stays, wherever it was; on both databases, with real servers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.ledger.schema import deliveries, metadata
from tests.servers import warm_python
from tests.servers.artifacts import ArtifactServer
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.servers.seaweedfs import S3Server
from tests.support.mirror import options_for
from tests.support.waiting import eventually

SECRET = "Jane-Q-Doe-4711"
PICTURE = b"\x89PNG of " + SECRET.encode()
RUN = "tsk_000001"

Deployments = Callable[..., Deployment]


@pytest.fixture
def consumer() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def artifact_server() -> Iterator[ArtifactServer]:
    with ArtifactServer() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else ""


def content(number: int, artifacts: ArtifactServer, **more: Any) -> bytes:
    """A webhook that is full of the secret."""
    picture = artifacts.add(f"/{number}.png", PICTURE)
    told = {"output": {"customer": SECRET}, "title": SECRET, "prompt": SECRET, "screenshot_urls": [picture], **more}
    return body(number, **told)


def start(it: Deployment, *bodies: bytes, deliveries: int) -> None:
    it.run("worker")
    it.run("clock")
    it.start()
    it.acked(*bodies)
    eventually(lambda: sum(it.states().values()) == deliveries and set(it.states()) <= {"delivered", "dead"})


def traces(it: Deployment) -> list[str]:
    """The tables of the ledger in which any value has the secret."""
    tables = metadata.sorted_tables
    rows = it.ledger.read(lambda connection: [connection.execute(sa.select(table)).all() for table in tables])
    return [table.name for table, found in zip(tables, rows, strict=True) if SECRET in repr(found)]


def rows(path: Path) -> list[str]:
    """The runs in the table of a database sink."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT run_id FROM skyvern_runs")]


def stored(folder: Path) -> list[str]:
    """The files in a folder, and the folders that have none."""
    found = (
        each for each in folder.rglob("*") if each.name != ".parts" and not (each.is_dir() and any(each.iterdir()))
    )
    return sorted(str(each.relative_to(folder)) for each in found)


def test_erase_leaves_no_content_and_reports_copies(
    deployment: Deployments,
    redis_url: str,
    database_url: str,
    consumer: ScriptedServer,
    s3_server: S3Server,
    s3_bucket: str,
    artifact_server: ArtifactServer,
) -> None:
    # Given two runs that went to a folder, a bucket, a table, a server, and one that refused with the content
    consumer.script += [Reply(400, body=f"what is {SECRET}?".encode())] * 2
    it = deployment(
        redis_url,
        database_url,
        sinks={
            "folder": {"type": "files", "path": "${RUNHOOK_DATA}/folder"},
            "bucket": {"type": "s3", **options_for(s3_server, s3_bucket)},
            "crm": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/crm.db"},
            "hooks": {"type": "http", "url": f"{consumer.url}/hooks", "retry": {"attempts": 1}},
        },
        routes=[{"name": "all", "to": ["folder", "bucket", "crm", "hooks"]}],
        allowed_addresses=["127.0.0.1"],
    )
    webhook = content(1, artifact_server)
    start(it, webhook, content(2, artifact_server, title="other"), deliveries=8)
    it.post(content(1, artifact_server), secret="wrong")
    eventually(lambda: "evt_" in it.runhook("quarantine", "list"))
    eventually(lambda: len(it.json("runs", "--text", SECRET)) == 2)
    folder = it.data / "folder"
    others = [each for each in stored(folder) if "000002" in each]
    objects = len(s3_server.client.list_objects_v2(Bucket=s3_bucket)["Contents"])

    # When one is erased, after a look that changes nothing
    before = it.runhook("erase", "--run", RUN, "--dry-run")
    assert stored(folder) != others
    (told,) = it.json("erase", "--run", RUN, "--yes")

    # Then the report names all files, and the copies that others hold
    assert (told["bodies"], told["quarantined"], len(told["copies"])) == (1, 1, 7)
    assert all(key in before for key in told["copies"])
    assert f"skyvern_runs/{RUN}" in told["copies"]
    held = {each["sink"]: each["receipt"] for each in told["held"]}
    assert held.keys() == {"hooks"}
    assert held["hooks"] is None
    assert told["failed"] == []
    # And nothing of it is left, but of the other run all
    assert stored(folder) == others
    assert len(s3_server.client.list_objects_v2(Bucket=s3_bucket)["Contents"]) == objects // 2
    assert rows(it.data / "crm.db") == ["tsk_000002"]
    assert [each["run_id"] for each in it.json("runs", "--text", SECRET)] == ["tsk_000002"]
    # And its row, deliveries and audit tell what it was, and who erased it
    run = it.json("run", RUN)
    assert (run["run"]["status"], run["run"]["deliveries"]) == ("completed", {"dead": 1, "delivered": 3})
    assert run["run"]["erased_at"]
    assert run["output"] is None
    assert run["files"] == []
    (line,) = it.json("audit", "--action", "run.erase")
    assert (line["outcome"], line["selection"], line["actor"]) == ("done", {"run": RUN}, run["run"]["erased_by"])

    # When the webhook comes again, another one of the run does, and all is replayed
    sent = len(consumer.requests)
    it.acked(webhook, content(1, artifact_server, output={"late": SECRET}))
    eventually(lambda: it.json("run", RUN)["run"]["events"] == 2)
    it.runhook("replay", RUN, "--force", code=1)
    it.runhook("reroute", "--sink", "crm", "--ignore-routes", "--run", RUN, code=0)
    it.runhook("reroute", "--run", RUN, code=0)
    # Then its content does not come back, and nothing of it is sent
    assert [(each["disposition"], each["size"]) for each in it.json("events", "--run", RUN)] == [
        ("superseded", 0),
        ("new", 0),
    ]
    assert sum(each["run_id"] == RUN for each in it.deliveries()) == 4
    assert len(consumer.requests) == sent
    # Nor is what a replay has queued at the same time
    mine = sa.update(deliveries).where(deliveries.c.run_id == RUN)
    it.ledger.write(lambda connection: connection.execute(mine.values(state="queued", due_at=0)))
    eventually(lambda: {each["state"] for each in it.deliveries(run_id=RUN)} == {"dead"})
    assert {each["reason"] for each in it.deliveries(run_id=RUN)} == {"its run was erased"}
    assert len(consumer.requests) == sent
    assert stored(folder) == others
    # And once more erases nothing
    (again,) = it.json("erase", "--run", RUN)
    assert (again["bodies"], again["copies"]) == (0, [])
    # And with the other run no table has any of it
    it.runhook("erase", "--run", "tsk_000002")
    assert traces(it) == []
    assert stored(folder) == []
    assert rows(it.data / "crm.db") == []
    assert "Contents" not in s3_server.client.list_objects_v2(Bucket=s3_bucket)


@pytest.mark.long
def test_erase_killed_in_the_middle_is_completed_by_the_next(
    deployment: Deployments, redis_url: str, database_url: str, s3_factory: Callable[[], S3Server]
) -> None:
    # Given a run in a bucket whose server hangs
    server = s3_factory()
    bucket = server.new_bucket()
    it = deployment(
        redis_url,
        database_url,
        sinks={"bucket": {"type": "s3", "timeout": "8s", **options_for(server, bucket)}},
        routes=[{"name": "all", "to": ["bucket"]}],
    )
    start(it, body(1, title=SECRET), deliveries=1)
    files = len(server.client.list_objects_v2(Bucket=bucket)["Contents"])
    server.hang()
    # When the command that erases it is killed, then nothing is left where it began
    command = ["-m", "receiver.cli", "erase", "--run", RUN, "--yes"]
    killed = warm_python.start(command, it.directory / "erase.log", env=it.environment)
    eventually(lambda: it.json("run", RUN)["run"]["erased_at"])
    killed.kill()
    killed.wait()
    # And the audit says that it has not ended, and the receipt where the files still are
    assert [each["outcome"] for each in it.json("audit", "--action", "run.erase")] == ["begun"]
    (receipt,) = (each["receipt"] for each in it.json("deliveries", "--run", RUN))
    assert len(receipt["keys"]) == files - 1
    assert traces(it) == []
    # And the same command fails while the server hangs, and then completes it
    refused = it.runhook("erase", "--run", RUN, "--yes", code=1)
    assert "NOT ERASED by bucket" in refused
    assert "the server did not respond in time" in refused
    server.resume()
    server.client.list_objects_v2(Bucket=bucket)  # it has answered what it got while it hung
    assert "NOT ERASED" not in it.runhook("erase", "--run", RUN, "--yes")
    assert "Contents" not in server.client.list_objects_v2(Bucket=bucket)
    assert [each["receipt"] for each in it.json("deliveries", "--run", RUN)] == [{"note": "erased"}]
    assert [each["outcome"] for each in it.json("audit", "--action", "run.erase")] == ["done", "failed", "begun"]
