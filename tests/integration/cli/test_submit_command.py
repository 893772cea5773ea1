"""`runhook submit` and `open`: a run started from the shell, over a real receiver, and its result waited for."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Submitting
from tests.support.command import Said


@pytest.fixture
def remote(submitting: Callable[..., Submitting], scripted_server: ScriptedServer) -> list[str]:
    """The options that name a service."""
    server = submitting(scripted_server.url, dispatching=False)
    return ["--url", server.url, "--key", server.key("submit", "read")]


def made(run_id: str) -> Reply:
    return Reply(200, json.dumps({"run_id": run_id, "status": "queued"}).encode(), {"content-type": "application/json"})


def test_a_task_is_submitted_once(
    said: Callable[..., Said], remote: list[str], scripted_server: ScriptedServer
) -> None:
    scripted_server.script = [made("tsk_1"), made("tsk_9")]
    call = ["submit", "Get the invoices", "--page", "https://a.example", "--label", "team=x", "--once", "may", *remote]
    # When the same is submitted twice
    first, second = said(*call), said(*call)
    # Then Skyvern has been asked for one run
    assert first[:2] == second[:2] == (0, "tsk_1  queued\n")
    posted = [json.loads(each.body) for each in scripted_server.calls if each.method == "POST"]
    assert [(each["prompt"], each["url"]) for each in posted] == [("Get the invoices", "https://a.example")]


def test_an_agent_has_parameters(said: Callable[..., Said], remote: list[str], scripted_server: ScriptedServer) -> None:
    scripted_server.script = [made("wr_1")]
    assert said("submit", "--agent", "wpid_1", "--param", "month=5", "--param", "who=Ana", *remote)[0] == 0
    (posted,) = [json.loads(each.body) for each in scripted_server.calls if each.method == "POST"]
    assert posted["parameters"] == {"month": 5, "who": "Ana"}


@pytest.mark.parametrize(("run_id", "code", "word"), [("tsk_1", 0, "completed"), ("tsk_2", 1, "failed")])
def test_the_result_is_waited_for(
    said: Callable[..., Said],
    remote: list[str],
    scripted_server: ScriptedServer,
    run_id: str,
    code: int,
    word: str,
) -> None:
    scripted_server.script = [made(run_id)]
    ended_run = {"run_id": run_id, "run_type": "task_v2", "status": word, "output": {"n": 1}}
    scripted_server.default = Reply(200, json.dumps(ended_run).encode(), {"content-type": "application/json"})
    ended, shown, _ = said("submit", "Get it", "--wait", *remote)
    assert ended == code
    assert f"{run_id}  {word}" in shown


def test_what_is_wrong_is_said(said: Callable[..., Said], remote: list[str]) -> None:
    for wrong in (["submit"], ["submit", "a", "--agent", "b"], ["submit", "a", "--param", "b=1"], ["submit", "a"]):
        given = [] if wrong == ["submit", "a"] else remote
        code, _, error = said(*wrong, *given)
        assert (code, error.count("\n")) == (2, 1), wrong
    assert said("submit", "--agent", "wpid_1", "--param", "a", *remote)[::2] == (
        2,
        "runhook: --param a: write NAME=VALUE\n",
    )


def test_the_console_is_named(said: Callable[..., Said]) -> None:
    assert said("open", "a/b")[1] == "http://127.0.0.1:8000/console/runs/a%2Fb\n"
    assert said("open", "evt_123456789012")[1] == "http://127.0.0.1:8000/console/events/evt_123456789012\n"
    assert said("open", "dlv_123456789012")[1] == "http://127.0.0.1:8000/console/deliveries/dlv_123456789012\n"
    assert said("open", "--url", "https://hooks.example", "--key", "rhk_1_2")[1] == "https://hooks.example/console/\n"


def test_a_key_that_is_none_of_the_service_is_a_wrong_call(said: Callable[..., Said], remote: list[str]) -> None:
    url = remote[1]
    code, shown, told = said("submit", "Get it", "--url", url, "--key", "rhk_wrong")
    assert (code, shown) == (2, "")
    assert told == f"runhook: {url} responds 403: Invalid credentials; `runhook keys list` there shows its keys\n"
