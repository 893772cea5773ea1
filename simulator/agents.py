"""The agents (workflows) of a simulated account, as values, and the bodies about them. Pure.

Members, their order and what an update does to those that it leaves out are those of Skyvern 1.0.56
(`Workflow`, `WorkflowCreateYAMLRequest`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from simulator import keys
from simulator.bodies import ORGANIZATION, ordered

# What an update may set, and what becomes of a member that it leaves out.
_DEFAULTS: Mapping[str, Any] = {
    "description": None,
    "persist_browser_session": False,
    "reuse_browser_session": False,
    "pin_saved_session_ip": False,
    "browser_profile_id": None,
    "browser_profile_key": None,
    "model": None,
    "is_saved_task": False,
    "max_screenshot_scrolls": None,
    "max_elapsed_time_minutes": None,
    "status": "published",
    "run_with": "agent",
    "browser_type": None,
    "ai_fallback": True,
    "cache_key": "default",
    "adaptive_caching": False,
    "code_version": None,
    "generate_script_on_terminal": False,
    "run_sequentially": False,
    "sequential_key": None,
}
_KEPT = (
    "proxy_location",
    "webhook_callback_url",
    "totp_verification_url",
    "totp_identifier",
    "extra_http_headers",
    "cdp_connect_headers",
    "mask_secrets",
    "enable_self_healing",
)


@dataclass(slots=True)
class SimAgent:
    """One agent. `id`: permanent, wpid_…; `number`: counts the agents of this simulation, from 1.

    `members`: the settings beyond title, callback URL and definition, as an update gave them.
    """

    number: int
    id: str
    title: str
    created_at: datetime
    modified_at: datetime
    callback: str | None = None
    version: int = 1
    definition: dict[str, Any] = field(default_factory=lambda: {"version": 1, "parameters": [], "blocks": []})
    members: dict[str, Any] = field(default_factory=dict)

    @property
    def version_id(self) -> str:
        """The id of its newest version: w_…; each update makes another."""
        return f"w_{self.number:06d}{self.version:04d}"

    def update(self, given: Mapping[str, Any], now: datetime) -> None:
        """Make a new version from `given`: most members that it leaves out return to their defaults."""
        self.members = {
            **{name: self.members[name] for name in _KEPT if name in self.members},
            **{name: given[name] for name in (*_DEFAULTS, *_KEPT) if name in given},
        }
        if "webhook_callback_url" in given:
            self.callback = given["webhook_callback_url"] or None
        self.title, self.definition = given["title"], dict(given["workflow_definition"])
        self.version += 1
        self.modified_at = now


def body(agent: SimAgent) -> dict[str, Any]:
    """Return the agent as GET /v1/agents/{id} shows it."""
    own = {
        "workflow_id": agent.version_id,
        "organization_id": ORGANIZATION,
        "title": agent.title,
        "workflow_permanent_id": agent.id,
        "agent_id": agent.id,
        "version": agent.version,
        "is_template": False,
        "workflow_definition": agent.definition,
        "webhook_callback_url": agent.callback,
        "mask_secrets": False,
        "enable_self_healing": False,
        "copilot_authored": False,
        "created_at": agent.created_at.isoformat(),
        "modified_at": agent.modified_at.isoformat(),
    }
    settings = {name: value for name, value in agent.members.items() if name != "webhook_callback_url"}
    return ordered(keys.AGENT, _DEFAULTS, own, {name: value for name, value in settings.items() if value is not None})
