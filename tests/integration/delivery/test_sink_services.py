"""What the receiver lends to sinks, against a simulated Skyvern."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from handlers import Delivery, Unavailable
from handlers.files import FilesSink
from receiver.config.models import Config
from receiver.delivery.sink_services import SourceServices
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support.waiting import eventually


def delivery(run_id: str, source: str = "skyvern") -> Delivery:
    now = datetime.now(UTC)
    return Delivery("dlv_1", "evt_1", "files", 1, source, run_id, "task_v1", "completed", now, b"{}", {})


def final(sim: SkyvernSimulator, **request: str) -> dict[str, Any]:
    """Return what a poll says of a run that has ended, with its files saved."""
    run_id = sim.submit("p", **request)["run_id"]
    sim.wait_final(run_id)
    eventually(lambda: sim.run(run_id).settled)
    said = sim.get(f"/v1/runs/{run_id}")
    assert isinstance(said, dict)
    return said


def services(base: str | None, key: str | None = KEY, **more: object) -> SourceServices:
    source = {"secrets": ["s"], "api_base": base, "api_key": key}
    config = Config.model_validate({"sources": {"skyvern": source, "other": {"secrets": ["s"]}}, **more})
    return SourceServices(config, "http://127.0.0.1:9")


def test_fresh_artifacts_have_urls_that_work(skyvern_simulator: SkyvernSimulator) -> None:
    run_id = skyvern_simulator.submit("p")["run_id"]
    skyvern_simulator.wait_final(run_id)
    lent = services(skyvern_simulator.url)

    found = {artifact.kind: artifact for artifact in lent.fresh_artifacts(delivery(run_id))}

    invoice = found["download"]
    content = httpx2.get(invoice.url, trust_env=False).content
    assert (invoice.name, invoice.size) == ("invoice.pdf", len(content))
    assert invoice.sha256 == hashlib.sha256(content).hexdigest()
    assert {"recording", "screenshot"} <= found.keys()
    lent.close()


def test_artifacts_of_a_task_v2_come_from_its_workflow_run(
    skyvern_simulator: SkyvernSimulator,
) -> None:
    said = final(skyvern_simulator, engine="skyvern-2.0")
    assert said["run_id"].startswith("tsk_v2_")
    assert skyvern_simulator.get(f"/v1/runs/{said['run_id']}/artifacts") == []
    lent = services(skyvern_simulator.url)
    about = replace(delivery(said["run_id"]), run=said)

    assert {each.kind for each in lent.fresh_artifacts(about)} >= {"recording", "har", "skyvern_log"}
    assert {each.kind for each in lent.fresh_artifacts(about, ["har", "skyvern_log"])} == {"har", "skyvern_log"}
    lent.close()


@pytest.mark.parametrize("engine", ["skyvern-1.0", "skyvern-2.0"])
def test_a_mirror_keeps_logs_and_har_and_renews_what_has_lapsed(
    skyvern_simulator: SkyvernSimulator, tmp_path: Path, engine: str
) -> None:
    said = json.loads(json.dumps(final(skyvern_simulator, engine=engine)).replace("&sig=", "&sig=lapsed"))
    lent = services(skyvern_simulator.url)
    options = {"path": tmp_path / "kept", "artifacts": ["har", "skyvern_log*", "browser_console*"]}
    sink = FilesSink("archive", FilesSink.Options.model_validate(options), lent)
    body = json.dumps(said).encode()

    receipt = sink.send(replace(delivery(said["run_id"]), body=body, payload=body, run=said))

    assert receipt.note == ""
    manifest = json.loads(next((tmp_path / "kept").rglob("manifest.json")).read_bytes())
    assert {file["kind"] for file in manifest["files"]} >= {"recording", "download", "har", "skyvern_log"}
    sink.close()
    lent.close()


def test_api_serves_artifacts_from_local_storage_for_its_key(
    simulate_skyvern: Callable[..., SkyvernSimulator],
) -> None:
    sim = simulate_skyvern(local_storage=True)
    run_id = sim.submit("p")["run_id"]
    sim.wait_final(run_id)
    lent = services(sim.url)
    about = delivery(run_id)

    found = lent.fresh_artifacts(about)

    assert {each.kind for each in found} >= {"recording", "screenshot", "download", "har", "skyvern_log"}
    assert [lent.artifact_url(about, each.artifact_id or "") for each in found] == [each.url for each in found]
    assert lent.artifact_url(delivery(run_id, "other"), "a_1") == ""
    for artifact in found:
        answer = httpx2.get(artifact.url, headers=lent.artifact_headers(about, artifact.url), trust_env=False)
        assert len(answer.content) == artifact.size
        assert artifact.sha256 in (None, hashlib.sha256(answer.content).hexdigest())
    lent.close()


@pytest.mark.parametrize(
    ("url", "gets_it"),
    [
        ("https://api.example/v1/artifacts/a_1/content", True),
        ("HTTPS://API.example:443/v1/artifacts/a_1/content?x=1", True),
        ("http://api.example/v1/artifacts/a_1/content", False),
        ("https://api.example:8443/v1/artifacts/a_1/content", False),
        ("https://api.example.evil/v1/artifacts/a_1/content", False),
        ("https://api.example@evil.example/v1/artifacts/a_1/content", False),
        ("https://evil.example/?https://api.example/v1/artifacts/a_1/content", False),
        ("https://api.example:port/v1/artifacts/a_1/content", False),
        ("//api.example/v1/artifacts/a_1/content", False),
        ("", False),
    ],
)
def test_the_key_goes_to_the_sources_own_origin_only(url: str, gets_it: bool) -> None:
    lent = services("https://api.example")

    assert lent.artifact_headers(delivery("r"), url) == ({"x-api-key": KEY} if gets_it else {})
    assert lent.artifact_headers(delivery("r", "other"), url) == {}
    assert lent.artifact_headers(delivery("r", "gone"), url) == {}


def test_a_source_without_a_key_asks_nothing(scripted_server: ScriptedServer) -> None:
    lent = services(scripted_server.url, key=None)

    assert lent.fresh_artifacts(delivery("r")) == []
    assert lent.fresh_artifacts(delivery("r", "gone")) == []
    assert scripted_server.calls == []


@pytest.mark.parametrize("status", [403, 404])
def test_an_api_that_refuses_has_nothing_to_give(status: int, scripted_server: ScriptedServer) -> None:
    scripted_server.default = Reply(status, b'{"detail": "no"}')
    lent = services(scripted_server.url)

    assert lent.fresh_artifacts(delivery("r")) == []
    lent.close()


@pytest.mark.parametrize(
    ("reply", "retry_after"),
    [
        (Reply(429, b"{}"), None),
        (Reply(503, b"{}", {"retry-after": "7"}), 7.0),
        (Reply(200, b"<html>"), None),
        (Reply(hang_up=True), None),
    ],
)
def test_an_api_in_trouble_makes_the_sink_wait(
    reply: Reply, retry_after: float | None, scripted_server: ScriptedServer
) -> None:
    scripted_server.default = reply
    lent = services(scripted_server.url)

    with pytest.raises(Unavailable) as caught:
        lent.fresh_artifacts(delivery("r"))

    assert caught.value.retry_after == retry_after
    assert KEY not in str(caught.value)
    lent.close()


def test_allowed_addresses_are_the_config_and_skyvern(
    skyvern_simulator: SkyvernSimulator,
) -> None:
    lent = services(skyvern_simulator.url, allowed_addresses=["10.0.0.0/8"])

    server = skyvern_simulator.url.removeprefix("http://")
    assert list(lent.allowed_addresses()) == ["10.0.0.0/8", server]
