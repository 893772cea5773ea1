"""Where the results of an account's agents go, and making them go here.

A run that names no URL of its own, as those of schedules and of Skyvern's UI, posts to its agent's. Changing that is a
new version of the agent, so everything else of it is read first, sent back as it was, and compared afterwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from receiver.errors import RunhookError
from receiver.ledger import Ledger, account
from receiver.ledger.account import AgentChange
from receiver.reconcile.source import PolledSource
from receiver.skyvern.account import ListedAgent, as_yaml, definition_of, differences, listed_agents
from receiver.skyvern.responses import Answer, Answered, failure

_MOST_PAGES: Final = 100
# A title that Skyvern replaces whenever the agent is saved.
_UNTITLED: Final = "New Workflow"


class NotChanged(RunhookError):
    """An agent was not changed as it should be, for a reason that holds nothing secret. `untouched`: certainly not."""

    def __init__(self, reason: str, *, untouched: bool = True) -> None:
        super().__init__(reason)
        self.untouched = untouched


@dataclass(slots=True)
class Survey:
    """The agents of one source. `changed`: agents that this command has pointed at Runhook; `changes`:
    agents to change now."""

    source: PolledSource
    agents: list[ListedAgent] = field(default_factory=list)
    changed: dict[str, AgentChange] = field(default_factory=dict)
    changes: list[ListedAgent] = field(default_factory=list)
    trouble: str = ""


def list_agents(source: PolledSource) -> tuple[list[ListedAgent], str]:
    """Return all agents of a source, and what was wrong, or ""."""
    found, broken = source.all_pages(source.reader.list_agents, listed_agents, _MOST_PAGES)
    return found, f"agents: {_why_not(broken)}" if broken is not None else ""


def agent_of(source: PolledSource, agent_id: str) -> ListedAgent:
    """Return one agent as it is now. Raises NotChanged when Skyvern does not tell."""
    found = _get(source, agent_id)
    title, version = str(found.get("title") or ""), int(found.get("version") or 0)
    return ListedAgent(agent_id, title, version, found.get("webhook_callback_url") or None)


def survey(ledger: Ledger, source: PolledSource) -> Survey:
    """List the agents of a source. Raises LedgerUnavailable."""
    found = Survey(source)
    found.changed = ledger.read(lambda connection: account.changes(connection, source.name))
    found.agents, found.trouble = list_agents(source)
    return found


def connect(ledger: Ledger, source: PolledSource, agent: ListedAgent) -> None:
    """Have an agent's results sent here, and remember where they went. Raises NotChanged, LedgerUnavailable."""
    now = time.time()
    there = ledger.read(lambda connection: account.changes(connection, source.name)).get(agent.id)
    change = AgentChange(source.name, agent.id, agent.callback_url, source.hooks, now)
    ledger.write(lambda connection: account.record_change(connection, change))
    try:
        _set_url(source, agent, source.hooks)
    except NotChanged as error:
        if there is None and error.untouched:
            ledger.write(lambda connection: account.forget_change(connection, source.name, agent.id))
        raise


def undo(ledger: Ledger, source: PolledSource, agent: ListedAgent, change: AgentChange) -> None:
    """Put back where an agent's results went. Raises NotChanged, LedgerUnavailable."""
    if agent.callback_url != change.after:
        ledger.write(lambda connection: account.forget_change(connection, source.name, agent.id))
        raise NotChanged("another change was made since, so it is not changed")
    _set_url(source, agent, change.before)
    ledger.write(lambda connection: account.forget_change(connection, source.name, agent.id))


def _set_url(source: PolledSource, agent: ListedAgent, url: str | None) -> None:
    """Set the callback URL of an agent, and nothing else. Raises NotChanged."""
    if agent.title == _UNTITLED:
        raise NotChanged(f"Skyvern gives an agent that is called {_UNTITLED!r} another title when it is saved")
    before = _get(source, agent.id)
    if (before.get("webhook_callback_url") or None) != agent.callback_url:
        raise NotChanged("another change was made at the same time; list the agents again")
    definition = {**definition_of(before), "webhook_callback_url": url}
    source.wait_for_budget()
    answer = source.reader.update_agent(agent.id, as_yaml(definition), int(before.get("version") or 0))
    if not isinstance(answer, Answered) or not answer.ok:
        refused = isinstance(answer, Answered) and 400 <= answer.status < 500
        raise NotChanged(_why_not(answer), untouched=refused)
    try:
        after = _get(source, agent.id)
    except NotChanged as error:
        raise NotChanged(f"it was changed, and can't be compared: {error}", untouched=False) from None
    changed = [name for name in differences(before, after) if name != "webhook_callback_url"]
    if (after.get("webhook_callback_url") or None) != url:
        raise NotChanged("Skyvern took the change, and the agent does not have it", untouched=False)
    if changed:
        raise NotChanged(
            f"Skyvern changed more than the URL: {', '.join(changed)}; before it was version {before.get('version')}",
            untouched=False,
        )


def _get(source: PolledSource, agent_id: str) -> dict[str, Any]:
    source.wait_for_budget()
    answer = source.reader.get_agent(agent_id)
    found = answer.json() if isinstance(answer, Answered) and answer.ok else None
    if not isinstance(found, dict):
        raise NotChanged(_why_not(answer))
    return found


def _why_not(answer: Answer) -> str:
    """Return why a call failed, with what Skyvern says of it: it names fields, and no URL."""
    found = answer.json() if isinstance(answer, Answered) else None
    detail = found.get("detail") if isinstance(found, dict) else None
    return f"{failure(answer)}: {detail[:300]}" if isinstance(detail, str) else failure(answer)
