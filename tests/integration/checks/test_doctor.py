"""`runhook doctor` against real servers: findings for healthy servers and for each fault."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from receiver.checks import deliveries, processes, servers, storage
from receiver.checks.finding import Finding
from receiver.checks.registry import examine
from receiver.checks.report import LedgerReport, RedisReport, Server
from receiver.checks.servers import try_commands
from receiver.checks.survey import skew, survey
from receiver.config.settings import Settings
from receiver.domain.liveness import ProcessBeat, SeenProcess
from receiver.domain.signature import sign
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger
from receiver.ledger.deliveries import lanes
from receiver.ledger.migrate import HEAD
from receiver.ledger.stats import Newest
from receiver.runtime.data_folder import secure
from tests.servers.receiver import OLD_SECRET, ReceiverProcess, body
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.valkey import ValkeyProcess
from tests.support.command import run_main
from tests.support.reports import WELL

SOURCES = {"skyvern": {"secrets": ["skyvern-secret"]}, "lab": {"secrets": ["lab-secret"], "api_key": "lab-api-key"}}
LATER = Newest(4_000_000_000.0)
SINKS = {"results": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/results.db"}}


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, ledger: Ledger) -> Settings:
    """Of a healthy service without processes."""
    config = {"sources": SOURCES, "sinks": SINKS, "routes": [{"name": "all", "to": ["results"]}]}
    (tmp_path / "runhook.yaml").write_text(json.dumps(config))
    secure(tmp_path / "data")
    return Settings.from_env(
        {
            "REDIS_URL": redis_url,
            "DATABASE_URL": ledger.url.render_as_string(hide_password=False),
            "RUNHOOK_DATA": str(tmp_path / "data"),
            "RUNHOOK_CONFIG": str(tmp_path / "runhook.yaml"),
        }
    )


def by_check(settings: Settings) -> dict[str, Finding]:
    """The first finding of each code."""
    return {each.code: each for each in reversed(list(examine(settings)))}


def wrong(findings: dict[str, Finding]) -> set[str]:
    return {code for code, each in findings.items() if not each.ok}


def test_healthy_service_only_lacks_its_processes(settings: Settings, ledger: Ledger) -> None:
    found = by_check(settings)

    assert wrong(found) == {"part_missing", "public_url"}
    assert {check for check, each in found.items() if each.note} == {"public_url"}
    assert "on disk before 202: yes" in found["redis.durability"].what
    assert found["redis.version"].what.startswith("Valkey ")
    assert found["ledger.version"].what.startswith("SQLite 3." if ledger.dialect == "sqlite" else "PostgreSQL 1")
    assert ("ledger.clock" in found) == (ledger.dialect == "postgresql")
    assert {
        "redis.clock",
        "redis.permissions",
        "ledger.tables",
        "disk.mode",
        "disk.inodes",
        "disk.free",
        "sink results",
    } < found.keys()
    assert "receiver" in found["part_missing"].what
    # And it has made nothing
    assert list(settings.data.iterdir()) == []


def test_ledger_of_another_schema_is_reported(settings: Settings, ledger: Ledger) -> None:
    ledger.write(lambda it: it.exec_driver_sql("UPDATE alembic_version SET version_num = '0007'"))
    old = by_check(settings)["ledger_away"]
    assert "0007" in old.what
    assert old.todo.startswith("name a new or empty database with DATABASE_URL")
    ledger.write(lambda it: it.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{HEAD}'"))


def test_unavailable_ledger_is_reported_once(settings: Settings) -> None:
    url = "postgresql://u:geheim@127.0.0.1:1/x"
    found = by_check(Settings.from_env({**settings.environ, "DATABASE_URL": url}))
    assert {code for code in found if code.startswith("ledger")} == {"ledger_away"}
    assert "geheim" not in str(found)


def test_faults_of_redis_have_fixes(settings: Settings, valkey_factory: Callable[..., ValkeyProcess]) -> None:
    # Given a Redis that syncs each second, evicts, and is nearly full
    weak = valkey_factory(**{"appendfsync": "everysec", "maxmemory-policy": "allkeys-lru"})
    client = weak.connect()
    client.setrange("other", 8 << 20, b"x")
    client.config_set("maxmemory", int(client.info()["used_memory"] / 0.95))
    of_weak = Settings.from_env({**settings.environ, "REDIS_URL": weak.url})
    # When it is examined
    found = by_check(of_weak)
    # Then each fault is reported once
    assert {"redis_weak", "redis.memory"} <= wrong(found)
    assert "appendfsync is everysec" in found["redis_weak"].what
    assert "maxmemory-policy is allkeys-lru, so events can be evicted" in found["redis_weak"].what
    assert "raise maxmemory" in found["redis.memory"].todo
    client.close()
    # And one that is down is one finding
    weak.kill()
    assert {check for check in by_check(of_weak) if check.startswith("redis")} == {"redis_away"}


@pytest.mark.parametrize(
    ("rules", "refused"),
    [
        (("+@all", "~*"), ""),
        (("+@all", "-multi", "~*"), "MULTI"),
        (("+@all", "-exec", "~*"), "EXEC"),
        (("+@all", "-xadd", "-blmove", "~*"), "XADD on runhook:*, BLMOVE on rq:*"),
        (("+@all", "~runhook:*"), "HSET on rq:*"),
    ],
)
def test_forbidden_commands_of_redis_are_named(redis_url: str, rules: tuple[str, ...], refused: str) -> None:
    # Given a user of Redis with an ACL
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "doctor", "reset", "on", ">pass", *rules)
        with redis.Redis.from_url(redis_url.replace("redis://", "redis://doctor:pass@")) as limited:
            # When it is examined
            found = try_commands(limited)
        # Then the refused commands are named, and none was executed
        assert refused in found.what
        assert found.ok == (not refused)
        assert client.keys("*:doctor") == []
        client.execute_command("ACL", "DELUSER", "doctor")


@pytest.mark.parametrize(
    ("server", "code", "what", "todo"),
    [
        (Server("Redis", (6, 2, 14), 2.9), "redis.clock", "this host's clock is 2.9 s ahead of that of Redis", ""),
        (Server("Redis", (6, 2, 14), -9.0), "redis.clock", "9.0 s behind", "run NTP"),
        (Server("Redis", (6, 2, 14)), "redis.version", "Redis 6.2.14", ""),
        (Server("Redis", (6, 0, 16)), "redis.version", "Redis 6.0.16", "upgrade it to Redis 6.2 or newer"),
        (Server("PostgreSQL", (11, 3)), "ledger.version", "PostgreSQL 11.3", "upgrade it to PostgreSQL 12 or newer"),
        (Server("SQLite", (3, 34, 1)), "ledger.version", "SQLite 3.34.1", "upgrade it to SQLite 3.35 or newer"),
    ],
)
def test_server_that_is_old_or_has_another_time_is_reported(server: Server, code: str, what: str, todo: str) -> None:
    report = replace(WELL, redis=RedisReport("r", server=server), ledger=LedgerReport("l", server=server))
    probe = servers.of_redis_server if code.startswith("redis") else servers.of_ledger_server
    (found,) = [each for each in probe(report) if each.code == code]
    assert what in found.what
    assert found.todo.startswith(todo)
    assert found.ok == (not todo)


@pytest.mark.parametrize(
    ("theirs", "ended", "ahead"),
    [
        (1000.0, 1000.0, 0.0),
        (1010.0, 1000.0, -10.0),
        (990.0, 1000.0, 10.0),
        (1010.0, 1020.0, 0.0),  # the response took so long that nothing is known
        (1010.0, 1004.0, -6.0),
    ],
)
def test_skew_leaves_out_the_time_of_the_response(theirs: float, ended: float, ahead: float) -> None:
    assert skew(theirs, 1000.0, ended) == ahead


def test_doctor_reports_what_status_reports(settings: Settings, ledger: Ledger) -> None:
    ledger.write(lambda it: lanes.set_paused(it, "results", True, time.time()))
    assert "results was paused" in by_check(settings)["sink_paused"].what


def test_processes_of_each_host_are_listed(settings: Settings) -> None:
    beats = [ProcessBeat(role, role, host, 1, "0.0.9", "c", 0.0) for role, host in (("receiver", "a"), ("clock", "b"))]
    report = replace(survey(settings), processes=[SeenProcess(beat, 1.0) for beat in beats])
    _, *hosts = processes.of_hosts(report)
    assert [each.what for each in hosts] == ["a runs receiver of 0.0.9", "b runs clock of 0.0.9"]


def test_data_directory_that_others_may_read_is_reported(settings: Settings) -> None:
    settings.data.chmod(0o755)
    assert f"chmod 700 {settings.data}" in by_check(settings)["disk.mode"].todo


def test_signer_of_a_quarantined_request_is_named(settings: Settings) -> None:
    # Given requests with a signature of another source, of nobody, and of its own since
    store = Quarantine(settings.data / "quarantine", 100, 1 << 20)

    def refuse(number: int, source: str, secret: str) -> None:
        content = body(number)
        signature = sign(content, secret)
        store.add(QuarantinedRequest.of(source, signature, content, "", time.time() - 60), content)

    for number in range(3):
        refuse(number, "skyvern", "lab-api-key")
    refuse(3, "skyvern", "nobody's")
    refuse(4, "lab", "lab-secret")
    refuse(5, "gone", "skyvern-secret")
    # When they are tried
    examined = list(examine(settings))
    found = [each for each in examined if each.code == "quarantine"]  # and none with their number, as in status
    # Then each is told with what accepts them
    told = {each.what.split(",")[0] + " | " + each.todo.split(",")[0] for each in found}
    assert len(found) == 4
    assert any("3 requests to /webhooks/skyvern" in each and "/webhooks/lab" in each for each in told)
    assert any("1 request to /webhooks/skyvern" in each and "sources.skyvern.secrets" in each for each in told)
    assert any("1 request to /webhooks/lab" in each and "quarantine verify` accepts them" in each for each in told)
    assert any("1 request to /webhooks/gone" in each and "/webhooks/skyvern" in each for each in told)
    assert not any(secret in str(found) for secret in ("lab-api-key", "skyvern-secret", "lab-secret"))
    assert len(store.list()) == 6


def test_few_quarantined_requests_are_tried(settings: Settings) -> None:
    store = Quarantine(settings.data / "quarantine", 100, 1 << 20)
    for number in range(5):
        content = body(number)
        store.add(QuarantinedRequest.of("lab", sign(content, "x"), content, "", time.time() - number), content)
    report = survey(settings)
    (found,) = storage.of_signatures(report, most=2)
    assert found.what.startswith("2 requests")
    assert not found.note
    # And two that good webhooks followed are a note, as in status
    stray = replace(report, disk=replace(report.disk, refused_lately=2), ledger=replace(report.ledger, newest=LATER))
    assert [each.note for each in storage.of_signatures(stray)] == [True]
    assert [each.note for each in storage.of_quarantine(stray)] == [True]
    # And without a usable config only their number is known
    (found,) = storage.of_signatures(replace(report, config=None))
    assert "5 requests with a wrong signature are in quarantine" in found.what


def test_sink_that_refuses_access_is_reported(settings: Settings) -> None:
    url = "postgresql://u:geheim@127.0.0.1:1/x"
    sinks = {
        "results": {"type": "database", "url": url, "timeout": 2},
        "hook": {"type": "http", "url": "https://x.example"},
    }
    config = {"sources": SOURCES, "sinks": sinks, "routes": [{"name": "all", "to": ["results", "hook"]}]}
    settings.config.write_text(json.dumps(config))
    found = by_check(settings)
    assert "sink results" in wrong(found)
    assert "geheim" not in str(found)
    assert found["sink hook"].ok
    assert "runhook sink test hook" in found["sink hook"].what


@pytest.mark.parametrize("kind", ["database", "files"])
def test_missing_folder_of_a_sink_must_be_creatable(tmp_path: Path, kind: str) -> None:
    # Given a sink whose folder is not there yet
    target = tmp_path / "out" / "deep" / "results"
    options = {"url": f"sqlite:///{target}"} if kind == "database" else {"path": str(target)}
    config = {
        "sources": SOURCES,
        "sinks": {"results": {"type": kind, **options}},
        "routes": [{"name": "all", "to": ["results"]}],
    }
    (tmp_path / "runhook.yaml").write_text(json.dumps(config))
    environ = {"RUNHOOK_CONFIG": str(tmp_path / "runhook.yaml"), "RUNHOOK_DATA": str(tmp_path / "data")}
    report = survey(Settings.from_env({**environ, "REDIS_URL": "redis://127.0.0.1:1/0"}))
    # Then it passes, and the check does not create it
    (found,) = deliveries.of_connections(report)
    assert (found.ok, found.what.startswith(f"{target} is made with the first ")) == (True, True)
    assert not (tmp_path / "out").exists()
    # But if it cannot be created, that is a fault, which names the obstacle
    (tmp_path / "out").write_text("a file")
    (found,) = deliveries.of_connections(report)
    assert (found.ok, found.what) == (False, f"{tmp_path / 'out'} is not a folder")


def test_probe_of_a_receiver_leaves_nothing(
    receiver_factory: Callable[..., ReceiverProcess], redis_url: str, settings: Settings
) -> None:
    receiver = receiver_factory(redis_url)
    config = {"sources": {"skyvern": {"secrets": [OLD_SECRET]}, "unknown": {"secrets": ["not-there"]}}}
    settings.config.write_text(json.dumps(config))
    found = [
        each
        for each in examine(Settings.from_env({**settings.environ, "PUBLIC_URL": receiver.url}))
        if each.code.startswith("public_url")
    ]
    refused, tls, known, unknown = found
    assert (refused.code, refused.note) == ("public_url", False)
    assert "ALLOWED_HOSTS" in refused.todo
    assert tls.ok
    assert known.ok
    assert "/webhooks/skyvern answers 401" in known.what
    assert "no source unknown" in unknown.todo
    assert list(receiver.data.glob("quarantine/*")) == []


def test_command_exits_1_for_a_fault_and_prints_json(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings.environ.items():
        monkeypatch.setenv(name, value)

    code, shown, _ = run_main(monkeypatch, capsys, "doctor", "-o", "json")
    rows = json.loads(shown)
    assert code == 1
    assert {"check", "ok", "note", "what", "todo"} == rows[0].keys()
    assert {row["check"] for row in rows if not row["ok"]} >= {"part_missing"}
    code, shown, _ = run_main(monkeypatch, capsys, "doctor")
    assert code == 1
    assert "ok    redis.durability" in shown
    assert "WRONG part_missing: no receiver is running" in shown
    assert "note  public_url: PUBLIC_URL is not set" in shown
    assert shown.count("PUBLIC_URL is not set") == 1


def test_hanging_sinks_share_the_time(settings: Settings, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(until=threading.Event())
    away = {"type": "s3", "bucket": "bucket", "endpoint_url": scripted_server.url}
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    config = {"sources": SOURCES, "sinks": {f"s{number}": {**away, **keys} for number in range(4)}, "routes": []}
    settings.config.write_text(json.dumps(config))

    began = time.monotonic()
    found, told_after = [], []
    for each in deliveries.of_connections(survey(settings), patience=1.0):
        found.append(each.what)
        told_after.append(time.monotonic() - began)

    assert found == ["no response within 1 s"] * 4
    assert told_after[-1] < 2 * told_after[0]  # each by itself would take as long as the first
