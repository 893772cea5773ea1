"""Watched accounts and their agents in the console."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from receiver.ledger import account, watches
from receiver.ledger.access import audit
from receiver.ledger.account import AgentChange
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submitting import Submitting
from tests.support.console import PASSWORD, Browser

SOURCES = {
    "skyvern": {"secrets": ["s"], "api_key": "a-key", "api_base": "http://127.0.0.1:9", "watch": True},
    "other": {"secrets": ["o"]},
}


@pytest.fixture
def two_sources(submitting: Callable[..., Submitting], hashed_password: str) -> Submitting:
    people = {"ana": {"password": hashed_password, "source": "other"}}
    console = {"users": people}
    return submitting(
        "http://127.0.0.1:9", dispatching=False, console_password=hashed_password, console=console, sources=SOURCES
    )


def test_page_shows_watches_and_agents(two_sources: Submitting) -> None:
    # Given a source whose last walk broke off, with two agents of which one was connected
    now = time.time()
    seen = {"wpid_1": ("Orders", None), "wpid_2": ("Prices", None)}
    change = AgentChange("skyvern", "wpid_1", "https://n8n.example/hook?secret=sesame", "https://here.example/x", now)

    def fill(connection: account.sa.Connection) -> None:
        watches.lease(connection, "skyvern", now)
        watches.break_off(connection, "skyvern", now + 60, "Skyvern answered 500")
        account.replace_agents(connection, "skyvern", seen, now)
        account.record_change(connection, change)

    two_sources.ledger.write(fill)
    browser = Browser(two_sources.url)
    browser.sign_in("admin", PASSWORD)
    # Then the page tells it all, without what a URL may have that is secret
    page = browser.get("/agents").text
    assert "Skyvern answered 500" in page
    assert "wpid_2" in page
    assert "https://n8n.example/hook" in page
    assert "sesame" not in page
    # And goes on where it ends
    first = browser.get("/agents?limit=1").text
    assert "wpid_1" in first
    assert "wpid_2" not in first
    assert "More agents" in first
    # And somebody of another source sees none of it
    browser.sign_in("ana")
    page = browser.get("/agents").text
    for hidden in ("wpid_1", "wpid_2", "Skyvern answered 500", "n8n"):
        assert hidden not in page
    browser.session.close()


ELSEWHERE = "https://n8n.example/hook?secret=sesame"


@pytest.fixture
def with_agent(
    submitting: Callable[..., Submitting], hashed_password: str, skyvern_simulator: SkyvernSimulator
) -> tuple[Submitting, str]:
    """A receiver with the source of a simulated Skyvern, whose clock has seen one agent: its results go elsewhere."""
    source = {"secrets": ["s"], "api_key": skyvern_simulator.key, "api_base": skyvern_simulator.url, "watch": True}
    it = submitting(
        skyvern_simulator.url, dispatching=False, console_password=hashed_password, sources={"skyvern": source}
    )
    definition = {"title": "Orders", "workflow_definition": {"parameters": [], "blocks": []}}
    made = skyvern_simulator.client.post(
        "/v1/agents", json={"json_definition": {**definition, "webhook_callback_url": ELSEWHERE}}
    )
    agent_id = str(made.json()["workflow_permanent_id"])
    seen = {agent_id: ("Orders", "https://n8n.example/hook")}
    it.ledger.write(lambda c: account.replace_agents(c, "skyvern", seen, time.time()))
    return it, agent_id


def test_an_agents_results_are_sent_here_and_back_by_a_button(
    with_agent: tuple[Submitting, str], skyvern_simulator: SkyvernSimulator
) -> None:
    # Given an agent whose results go elsewhere, as the page says
    receiver, agent_id = with_agent
    agents = skyvern_simulator.world.agents
    browser = Browser(receiver.url)
    browser.sign_in("admin", PASSWORD)
    page = browser.get("/agents")
    assert "elsewhere: <code>https://n8n.example/hook</code>" in page.text
    # When its button is pressed, somebody is asked first
    question = browser.click(page, "Send results here")
    assert "no longer to where they go now" in question.text
    assert agents[agent_id].callback == ELSEWHERE
    browser.answer(question)
    # Then Skyvern has our URL, and the page says so, without waiting for the clock
    assert agents[agent_id].callback == f"{receiver.url}/webhooks/skyvern"
    page = browser.get("/agents")
    assert f"The results of {agent_id} come here" in page.text
    assert ">here</td>" in page.text
    assert "Send results here" not in page.text
    # And another button puts back what was there, with its secret, which nobody is shown
    browser.answer(browser.click(page, "Put back"))
    assert agents[agent_id].callback == ELSEWHERE
    page = browser.get("/agents")
    assert "elsewhere: <code>https://n8n.example/hook</code>" in page.text
    assert "sesame" not in page.text
    assert "Put back" not in page.text
    # And both are in the audit
    found = receiver.ledger.read(lambda c: audit.list_actions(c))
    assert [(each.action, each.outcome, each.count) for each in found] == [
        ("agent.disconnect", "done", 1),
        ("agent.connect", "done", 1),
    ]
    browser.session.close()


def test_what_skyvern_refuses_is_said_and_the_page_stays_true(
    with_agent: tuple[Submitting, str], skyvern_simulator: SkyvernSimulator
) -> None:
    # Given an agent that is gone at Skyvern since the clock saw it
    receiver, agent_id = with_agent
    browser = Browser(receiver.url)
    browser.sign_in("admin", PASSWORD)
    question = browser.click(browser.get("/agents"), "Send results here")
    del skyvern_simulator.world.agents[agent_id]
    # When its results are to be sent here
    answer = browser.answer(question)
    # Then it says why not, and that it was tried stays known
    assert answer.status_code == 409
    assert f"Agent {agent_id}: Skyvern answered 404" in answer.text
    assert "elsewhere: <code>https://n8n.example/hook</code>" in browser.get("/agents").text
    found = receiver.ledger.read(lambda c: audit.list_actions(c))
    assert [(each.action, each.outcome) for each in found] == [("agent.connect", "failed")]
    browser.session.close()
