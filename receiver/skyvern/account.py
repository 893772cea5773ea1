"""The agents of an account, as Skyvern's API lists them, and an agent's definition as it takes it back. Sends nothing.

Skyvern has no call that changes one setting of an agent: a change is a new version, made of the whole definition. What
a GET answers is not what an update takes, and a setting that is left out goes back to its default; so the definition is
converted, as Skyvern's own command line does it (1.0.56, cli/mcp_tools/workflow.py), and nothing is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from receiver.skyvern.responses import Answered

# Settings of an agent beside its definition (1.0.56, WorkflowCreateYAMLRequest).
SETTINGS: Final = (
    *("title", "description", "proxy_location", "webhook_callback_url", "totp_verification_url", "totp_identifier"),
    *("persist_browser_session", "reuse_browser_session", "mask_secrets", "pin_saved_session_ip", "browser_profile_id"),
    *("browser_profile_key", "model", "is_saved_task", "max_screenshot_scrolls", "max_elapsed_time_minutes"),
    *("extra_http_headers", "cdp_connect_headers", "status", "run_with", "browser_type", "ai_fallback", "cache_key"),
    *("adaptive_caching", "enable_self_healing", "code_version", "generate_script_on_terminal", "run_sequentially"),
    *("sequential_key",),
)
_NULL_HEADERS: Final = ((None, "extra_http_headers"), (None, "cdp_connect_headers"))
# Members that change with each version.
_OF_VERSION: Final = frozenset({"workflow_id", "created_at", "modified_at", "deleted_at"})
_SURROGATES: Final = re.compile(r"\\(u[dD][89abAB][0-9a-fA-F]{2})\\(u[dD][c-fC-F][0-9a-fA-F]{2})|\\.")


@dataclass(frozen=True, slots=True)
class ListedAgent:
    """One agent. `id`: the permanent one (wpid_…). `callback_url`: where the results of runs go that name no URL."""

    id: str
    title: str
    version: int
    callback_url: str | None


def listed_agents(answer: Answered) -> list[ListedAgent] | None:
    """Return the agents of a GET /v1/agents, or None when the answer is no such list."""
    rows = answer.json() if answer.ok else None
    if not isinstance(rows, list):
        return None
    return [
        ListedAgent(
            row["workflow_permanent_id"],
            _text(row.get("title")),
            row["version"] if isinstance(row.get("version"), int) else 0,
            _text(row.get("webhook_callback_url")) or None,
        )
        for row in rows
        if isinstance(row, dict) and _text(row.get("workflow_permanent_id"))
    ]


def definition_of(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition with which an update leaves the agent as it is. `agent`: the answer to a GET of it."""
    definition = dict(agent.get("workflow_definition") or {})
    parameters = [_parameter(each) for each in definition.get("parameters") or () if isinstance(each, dict)]
    definition["parameters"] = [each for each in parameters if each is not None]
    definition["blocks"] = [_block(each) for each in definition.get("blocks") or () if isinstance(each, dict)]
    # Null headers would become empty ones; left out, they stay as they are.
    settings = {name: agent[name] for name in SETTINGS if name in agent and (agent[name], name) not in _NULL_HEADERS}
    return {**settings, "workflow_definition": definition}


def _parameter(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a parameter as an update takes it; None for the output of a block, which Skyvern makes itself."""
    if given.get("parameter_type") == "output":
        return None
    kept = {
        name: value for name, value in given.items() if name not in _OF_VERSION and not name.endswith("_parameter_id")
    }
    source = kept.get("source")
    if isinstance(source, dict) and source.get("key"):
        del kept["source"]
        kept.setdefault("source_parameter_key", source["key"])
    return kept


def _block(given: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in given.items() if name not in ("parameters", "output_parameter")}
    output = f"{given.get('label')}_output"
    named = [each["key"] for each in given.get("parameters") or () if isinstance(each, dict) and each.get("key")]
    keys = [each for each in named if each != output]
    if keys:
        kept["parameter_keys"] = keys
    over = kept.get("loop_over")
    if isinstance(over, dict):
        del kept["loop_over"]
        kept.setdefault("loop_over_parameter_key", over.get("key"))
    elif over is None:
        kept.pop("loop_over", None)
    if isinstance(kept.get("loop_blocks"), list):
        kept["loop_blocks"] = [_block(each) for each in kept["loop_blocks"] if isinstance(each, dict)]
    return kept


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the settings in which two responses to a GET of an agent differ, except those of each version."""
    names = (*SETTINGS, "workflow_definition")
    return [name for name in names if _lasting(before.get(name)) != _lasting(after.get(name))]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _lasting(each)
            for name, each in value.items()
            if name not in _OF_VERSION and not name.endswith("_parameter_id")
        }
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def as_yaml(definition: Mapping[str, Any]) -> bytes:
    """Return the definition as the body of a PUT, which is read as YAML. JSON is YAML except for characters beyond the
    Basic Multilingual Plane, which JSON may write as two escapes and YAML only as one."""
    text = json.dumps(definition, ensure_ascii=True, separators=(", ", ": "))
    return _SURROGATES.sub(_one_escape, text).encode()


def _one_escape(pair: re.Match[str]) -> str:
    if pair[1] is None:
        return pair[0]
    high, low = int(pair[1][1:], 16), int(pair[2][1:], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08X}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
