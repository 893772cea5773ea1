"""The agents and schedules of an account, as Skyvern's API lists them, and an agent's definition as it takes it back.
When a schedule should have started a run: croniter says it, with which Skyvern reads cron expressions too. Pure: sends
nothing, and the time is passed in.

Skyvern has no call that changes one setting of an agent: a change is a new version, made of the whole definition. What
a GET answers is not what an update takes, and a setting that is left out goes back to its default; so the definition is
converted, as Skyvern's own command line does it (1.0.56, cli/mcp_tools/workflow.py), and nothing is left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from handlers.support.timestamps import epoch
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


@dataclass(frozen=True, slots=True)
class ListedSchedule:
    """One schedule. One of `cron`, `interval` (seconds, from `first_at` on) and `once_at` says when it fires.

    `dispatch`: of a single time: pending, fired, failed or canceled. Times are seconds since the epoch. `changed_at`:
    no time before it is made up for.
    """

    id: str
    agent_id: str
    title: str
    name: str
    enabled: bool
    timezone: str
    cron: str
    interval: float | None
    first_at: float | None
    once_at: float | None
    dispatch: str
    run_id: str
    next_at: float | None
    changed_at: float | None


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


def listed_schedules(answer: Answered) -> list[ListedSchedule] | None:
    """Return the schedules of a GET /v1/schedules, or None when the answer is no such list."""
    content = answer.json() if answer.ok else None
    rows = content.get("schedules") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        return None
    return [
        ListedSchedule(
            id=row["workflow_schedule_id"],
            agent_id=_text(row.get("workflow_permanent_id")),
            title=_text(row.get("workflow_title")),
            name=_text(row.get("name")),
            enabled=row.get("enabled") is True,
            timezone=_text(row.get("timezone")) or "UTC",
            cron=_text(row.get("cron_expression")),
            interval=float(row["interval_seconds"]) if isinstance(row.get("interval_seconds"), int) else None,
            first_at=epoch(row.get("first_fire_at")),
            once_at=epoch(row.get("run_at")),
            dispatch=_text(row.get("dispatch_status")),
            run_id=_text(row.get("workflow_run_id")),
            next_at=epoch(row.get("next_run")),
            changed_at=epoch(row.get("modified_at")),
        )
        for row in rows
        if isinstance(row, dict) and _text(row.get("workflow_schedule_id"))
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


def last_due(schedule: ListedSchedule, now: float) -> float | None:
    """Return the last time up to `now` at which it should have started a run, in seconds since the epoch.

    None if it is paused, has not reached its first time, or was changed since. A single time that was
    canceled counts for nothing. Raises ValueError for a schedule that can't be read.
    """
    if not schedule.enabled or schedule.dispatch == "canceled":
        return None
    at: float | None = None
    if schedule.once_at is not None:
        at = schedule.once_at
    elif schedule.interval and schedule.first_at is not None:
        at = schedule.first_at + (now - schedule.first_at) // schedule.interval * schedule.interval
        at = at if at >= schedule.first_at else None
    elif schedule.cron:
        at = _last_cron(schedule.cron, schedule.timezone, now)
    if at is None or at > now or (schedule.changed_at is not None and at <= schedule.changed_at):
        return None
    return at


def _last_cron(expression: str, timezone: str, now: float) -> float:
    from croniter import croniter  # it takes 30 ms to import, and few commands need it

    try:
        local = datetime.fromtimestamp(now, ZoneInfo(timezone))
        due: datetime = croniter(expression, local).get_prev(datetime)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{expression!r} in {timezone}: {error}") from None
    return due.timestamp()


def scheduled_run_id(schedule_id: str, at: float) -> str:
    """Return the id of the run that a schedule starts at a time (1.0.56, workflow_schedule_service.py)."""
    moment = datetime.fromtimestamp(int(at), UTC).isoformat()
    return "wr_sched_" + hashlib.sha256(f"{schedule_id}:{moment}".encode()).hexdigest()[:32]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
