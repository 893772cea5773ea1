"""`runhook connect`: where the results of a simulated account's agents go, and what changes that and puts it back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from receiver.cli import build_app
from receiver.domain.agent_url import where
from receiver.errors import ConfigError, UsageError
from receiver.ledger import Ledger, account
from simulator.faults import Fault
from tests.servers.skyvern import SkyvernSimulator

HERE = "https://hooks.example.com/webhooks/skyvern"
ELSEWHERE = "https://someone.example/hook?token=secret-of-theirs"
DEFINITION = {
    "version": 1,
    "parameters": [{"parameter_type": "workflow", "key": "name", "workflow_parameter_type": "string"}],
    "blocks": [{"label": "one", "block_type": "http_request", "url": "https://x.example", "parameter_keys": ["name"]}],
}
Connect = Callable[..., Result]


@pytest.fixture
def connect(
    book: Ledger, skyvern_simulator: SkyvernSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> Connect:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("PUBLIC_URL", "https://hooks.example.com")
    source = {"secrets": ["s"], "api_key": skyvern_simulator.key, "api_base": skyvern_simulator.url}
    config = {"sources": {"skyvern": source}, "reconcile": {"budget": "1000/s"}}
    (tmp_path / "c.json").write_text(json.dumps(config))
    skyvern_simulator.world.agents.clear()

    def run(*arguments: str, answer: str = "") -> Result:
        found = CliRunner().invoke(
            build_app(), ["connect", "--config", "c.json", *arguments], input=answer, catch_exceptions=True
        )
        if isinstance(found.exception, Exception):
            raise found.exception
        return found

    return run


def agent(sim: SkyvernSimulator, title: str, url: str | None = None, **settings: Any) -> str:
    """Make an agent with a definition and settings of its own. Returns its id."""
    definition = {"title": title, "workflow_definition": DEFINITION, "webhook_callback_url": url, **settings}
    return str(sim.client.post("/v1/agents", json={"json_definition": definition}).json()["workflow_permanent_id"])


def places(found: Result) -> dict[str, str]:
    (source,) = json.loads(found.stdout)["sources"]
    return {each["title"]: each["results"] for each in source["agents"]}


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (None, "nowhere"),
        ("", "nowhere"),
        (HERE, "here"),
        (HERE + "/", "here"),
        (HERE + "/sub_1", "here"),
        ("HTTPS://Hooks.Example.com:443/webhooks/skyvern", "here"),
        ("https://hooks.example.com/webhooks/skyvern2", "elsewhere"),
        ("http://hooks.example.com/webhooks/skyvern", "elsewhere"),
        ("https://other.example/webhooks/skyvern", "elsewhere"),
        ("http://[", "elsewhere"),
    ],
)
def test_results_go_here_elsewhere_or_nowhere(url: str | None, place: str) -> None:
    assert where(url, HERE) == place


def test_list_of_agents_changes_nothing(skyvern_simulator: SkyvernSimulator, connect: Connect) -> None:
    sim = skyvern_simulator
    made = [agent(sim, title, url) for title, url in (("A", HERE), ("B", ELSEWHERE), ("C", None))]

    found = connect("--json")
    table = connect().stdout

    assert places(found) == {"A": "here", "B": "elsewhere", "C": "nowhere"}
    assert "secret-of-theirs" not in found.stdout + table
    assert all(each in table for each in (*made, "elsewhere", "https://someone.example/hook"))
    assert [sim.world.agents[each].version for each in made] == [1, 1, 1]


def test_apply_asks_and_undo_restores(skyvern_simulator: SkyvernSimulator, connect: Connect) -> None:
    # Given agents with settings of their own, whose results go nowhere and elsewhere
    sim = skyvern_simulator
    settings = {"description": "d", "ai_fallback": False, "max_screenshot_scrolls": 3, "run_sequentially": True}
    silent, other = agent(sim, "Silent", **settings), agent(sim, "Other", ELSEWHERE)
    before = sim.get(f"/v1/agents/{silent}")

    # When nobody agrees, nothing is changed
    refused = connect("--apply", answer="n\n")
    assert refused.exit_code == 1
    assert f"-> {HERE}" in refused.stdout
    assert sim.world.agents[silent].callback is None

    # When somebody agrees, the one whose results go nowhere is changed, and nothing else of it
    done = connect("--apply", answer="y\n")
    assert (done.exit_code, "1 of 1 agents changed" in done.stdout) == (0, True)
    after = sim.get(f"/v1/agents/{silent}")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"webhook_callback_url", "version", "workflow_id", "modified_at"}
    assert after["webhook_callback_url"] == HERE
    assert sim.world.agents[other].callback == ELSEWHERE
    assert json.loads(connect("--apply", "--yes", "--json").stdout)["sources"][0]["agents"][0]["changed"] is False

    # And the other one when it is named
    connect("--apply", "--yes", "--agent", other)
    assert sim.world.agents[other].callback == HERE

    # Then undo puts back what was there
    assert connect("--undo", "--yes").exit_code == 0
    assert (sim.world.agents[silent].callback, sim.world.agents[other].callback) == (None, ELSEWHERE)
    assert "changed" not in connect("--undo", "--yes").stdout


def test_undo_leaves_an_agent_that_was_changed_by_somebody_else(
    skyvern_simulator: SkyvernSimulator, connect: Connect
) -> None:
    sim = skyvern_simulator
    one = agent(sim, "One")
    connect("--apply", "--yes")
    sim.world.agents[one].callback = ELSEWHERE

    found = connect("--undo", "--yes")

    assert found.exit_code == 1
    assert "another change was made" in found.stderr
    assert sim.world.agents[one].callback == ELSEWHERE


def test_agent_saved_meanwhile_is_not_changed(
    skyvern_simulator: SkyvernSimulator, connect: Connect, monkeypatch: pytest.MonkeyPatch, book: Ledger
) -> None:
    from receiver.skyvern.client import SkyvernReader

    one = agent(skyvern_simulator, "One")
    real = SkyvernReader.update_agent

    def late(self: SkyvernReader, agent_id: str, definition: bytes, version: int) -> Any:
        skyvern_simulator.world.agents[agent_id].version += 1
        return real(self, agent_id, definition, version)

    monkeypatch.setattr(SkyvernReader, "update_agent", late)

    found = connect("--apply", "--yes")

    assert found.exit_code == 1
    assert f"{one}: Skyvern answered 409: Concurrent update detected" in found.stderr
    assert skyvern_simulator.world.agents[one].callback is None
    assert book.read(lambda connection: account.changes(connection, "skyvern")) == {}


def test_a_wrong_call_says_what_would_be_right(
    connect: Connect, skyvern_simulator: SkyvernSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, words in (
        (["--apply", "--undo"], "mutually exclusive"),
        (["--apply", "--json"], "--json requires --yes"),
        (["--agent", "wpid_nobody"], "agent not found"),
        (["--source", "nobody"], "--source nobody: not found; there are skyvern"),
    ):
        with pytest.raises(UsageError, match=words):
            connect(*arguments)
    monkeypatch.delenv("PUBLIC_URL")
    with pytest.raises(ConfigError, match="PUBLIC_URL is not set"):
        connect("--apply")


def test_wrong_key_and_unreachable_skyvern_are_explained(
    connect: Connect, skyvern_simulator: SkyvernSimulator, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    config = json.loads(path.read_text())
    source = config["sources"]["skyvern"]

    path.write_text(json.dumps({**config, "sources": {"skyvern": {**source, "api_key": "wrong"}}}))
    wrong_key = connect()
    path.write_text(json.dumps({**config, "sources": {"skyvern": {**source, "api_base": "http://127.0.0.1:1"}}}))
    unreachable = connect()

    assert (wrong_key.exit_code, unreachable.exit_code) == (1, 1)
    assert "Skyvern refused the API key (403). Set SKYVERN_API_KEY" in wrong_key.stderr
    assert "can't connect to 127.0.0.1:1: Connection refused" in unreachable.stderr
    assert "Check SKYVERN_BASE_URL" in unreachable.stderr


def test_agents_follow_to_a_new_public_url_and_back(
    connect: Connect, skyvern_simulator: SkyvernSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given agents whose results were sent here, one of which somebody has changed since
    sim = skyvern_simulator
    ours, theirs = agent(sim, "A"), agent(sim, "B")
    connect("--apply", "--yes")
    sim.world.agents[theirs].callback = ELSEWHERE

    # When the address is a new one
    monkeypatch.setenv("PUBLIC_URL", "https://new.example.com")
    connect("--apply", "--yes")
    moved = {each: sim.world.agents[each].callback for each in (ours, theirs)}
    connect("--undo", "--yes")

    # Then only what this command had changed follows, and undo puts back what was there at first
    assert moved == {ours: "https://new.example.com/webhooks/skyvern", theirs: ELSEWHERE}
    assert sim.world.agents[ours].callback is None


def test_a_change_that_lost_something_is_said_to_have(
    skyvern_simulator: SkyvernSimulator, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    from receiver.reconcile import connect as connecting

    one = agent(skyvern_simulator, "One", description="d")
    real = connecting.definition_of
    monkeypatch.setattr(
        connecting,
        "definition_of",
        lambda found: {name: value for name, value in real(found).items() if name != "description"},
    )

    found = connect("--apply", "--yes")

    assert found.exit_code == 1
    assert f"{one}: Skyvern changed more than the URL: description; before it was version 1" in found.stderr
    assert connect("--undo", "--yes").exit_code == 0  # the URL can be put back all the same
    assert skyvern_simulator.world.agents[one].callback is None


def test_unanswered_list_of_agents_is_reported(connect: Connect, skyvern_simulator: SkyvernSimulator) -> None:
    agent(skyvern_simulator, "One")
    skyvern_simulator.world.options.change({Fault.CRASH: 1.0})

    for arguments in (["--apply", "--yes"], ["--agent", "wpid_1"]):
        found = connect(*arguments)

        assert found.exit_code == 1
        assert "agents: Skyvern answered 500" in found.stderr
        assert "no agents" not in found.stdout
