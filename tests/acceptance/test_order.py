"""Order between sinks, in real processes: a message waits for what it links to, and does not wait for ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.support.waiting import eventually

FILES = "https://files.example/runs/"


@pytest.fixture
def slack() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        server.script += [Reply(200, body=b"ok")] * 10
        yield server


def test_message_waits_for_a_receipt_until_the_archive_gives_up(
    deployment: Callable[..., Deployment], redis_url: str, slack: ScriptedServer
) -> None:
    # Given an archive that can't be written, and a message that comes after it
    archive: dict[str, Any] = {
        "type": "files",
        "path": "${RUNHOOK_DATA}/archive",
        "prefix": "{{ run.output.folder }}/{{ run.run_id }}/",
        "public_url": FILES,
        "retry": {"first": "200ms", "factor": 1},
    }
    it = deployment(
        redis_url,
        sinks={"archive": archive, "ops": {"type": "slack", "webhook_url": f"{slack.url}/services/T0/B0/x"}},
        routes=[{"name": "everything", "to": ["archive", {"sink": "ops", "after": "archive"}]}],
    )
    it.run("worker")
    it.run("clock")
    it.start()
    blocked = it.data / "archive"
    blocked.write_text("a file where a folder belongs")

    # When a run ends, then the message is held for as long as the archive is away
    it.acked(body(1, output={"folder": "a"}))
    eventually(lambda: it.states("ops") == {"held": 1})
    eventually(lambda: it.deliveries(sink="archive")[0]["attempts"] >= 2)
    assert it.states("ops") == {"held": 1}
    assert slack.requests == []

    # And when the archive is there, it goes out with a lasting link to what the archive has kept
    blocked.unlink()
    it.all_delivered(2)
    (message,) = slack.requests
    (kept,) = it.deliveries(sink="archive")
    link = kept["receipt"]["urls"]["run.json"]
    assert link.startswith(f"{FILES}a/tsk_000001/evt_")
    assert f"<{link}|" in json.dumps(json.loads(message.body), ensure_ascii=False)
    assert (blocked / link.removeprefix(FILES)).read_bytes() == body(1, output={"folder": "a"})
    assert "did not take this result" not in message.body.decode()

    # And when the archive refuses a run for good, the message goes ahead and says so
    it.acked(body(2, output={}))
    eventually(lambda: it.states("archive") == {"delivered": 1, "dead": 1} and it.states("ops") == {"delivered": 2})
    ahead = slack.requests[-1].body.decode()
    assert "The sink `archive` did not take this result" in ahead
    assert FILES not in ahead
