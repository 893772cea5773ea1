"""The members of a run, the same whether its body came by webhook or by poll. Pure.

A webhook, a poll and a webhook that is sent again differ in members (docs/reference/skyvern.md, "Bodies"): a task's
webhook lacks its request, a poll lacks ten to twenty-eight of the webhook's members. What a body lacks comes from

    the body itself      `run_request` has the prompt, the parameters, the workflow; a task's `task_id` is its `run_id`
    its completion       kept beside the body: the request of its submission, members of earlier events of the run, and
                         of one more call of Skyvern's API

and unknown members are null, so that rules see null in all cases. Bodies are not changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from receiver.domain.members import TASK, TASK_V2, WORKFLOW, family, run_request

Data = Mapping[str, Any]

# Members that describe the run, not its result: one event of the run has them for all.
DESCRIPTIVE: Final = (
    *("run_request", "prompt", "url", "parameters", "title", "workflow_title", "workflow_id", "workflow_permanent_id"),
    *("workflow_run_id", "organization_id", "proxy_location", "agent_id", "agent_run_id"),
    *("max_steps_per_run", "extracted_information_schema", "error_code_mapping", "workflow_system_prompt", "model"),
    *("totp_verification_url", "totp_identifier", "extra_http_headers", "browser_address", "run_with", "ai_fallback"),
    *("retried_from_workflow_run_id", "retried_by_workflow_run_id", "task_v2", "browser_type"),
)
# Members of one result: an event has them for others of the same result.
OF_RESULT: Final = (
    *("summary", "failure_category", "recording_url", "recording_urls", "screenshot_urls", "action_screenshot_urls"),
    *("screenshot_url", "downloaded_files", "downloaded_file_urls", "browser_console_log_url", "app_url"),
    *("step_count", "total_steps", "total_cost", "credits_used", "cached_credits_used", "queued_at", "started_at"),
    *("finished_at", "script_run", "script_id", "browser_profile_id", "browser_seed_source"),
    *("browser_sink_profile_id", "browser_settings_receipt"),
)

Deriving = Callable[[Data], Any]


def _same_as(name: str) -> Deriving:
    return lambda data: data.get(name)


_REQUESTED: Final[dict[str, Deriving]] = {}


def _requested(name: str) -> Deriving:
    """Return the derivation from the member `name` of the run's request."""

    def derive(data: Data) -> Any:
        request = data.get("run_request")
        return request.get(name) if type(request) is dict else None

    return _REQUESTED.setdefault(name, derive)


def _first_screenshot(data: Data) -> Any:
    urls = data.get("screenshot_urls")
    return urls[0] if isinstance(urls, list) and urls else None


def _file_urls(data: Data) -> Any:
    files = data.get("downloaded_files")
    urls = [file.get("url") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    return urls or None


def _recordings(data: Data) -> Any:
    url = data.get("recording_url")
    return [url] if isinstance(url, str) and url else None


def _workflow_run(data: Data) -> Any:
    """Return the id of the workflow run in which a task_v2 does its work: its page in Skyvern's UI is that run's."""
    url = data.get("app_url")
    last = url.rstrip("/").rpartition("/")[2] if isinstance(url, str) else ""
    return last if last.startswith("wr_") else None


def _unknown(_: Data) -> None:
    return None


_FUNCTIONS: Final[dict[str, Deriving]] = {
    "first_screenshot": _first_screenshot,
    "file_urls": _file_urls,
    "recordings": _recordings,
    "workflow_run": _workflow_run,
}


def _table(text: str) -> dict[str, Deriving]:
    """Return how each member in `text` is derived: MEMBER is null, MEMBER=OTHER the same as another member, MEMBER? and
    MEMBER?NAME what the run's request says, MEMBER:FUNCTION the result of a function above."""
    table: dict[str, Deriving] = {}
    for word in text.split():
        name, sign, other = re.fullmatch(r"(\w+)([=?:]?)(\w*)", word).groups()  # type: ignore[union-attr]
        derivations = {"": _unknown, "=": _same_as(other), "?": _requested(other or name), ":": _FUNCTIONS.get(other)}
        table[name] = derivations[sign]  # type: ignore[assignment]
    return table


# By run type, the members of its webhook that a body may lack.
_WEBHOOK: Final[dict[str, dict[str, Deriving]]] = {
    TASK: _table(
        """
        task_id=run_id extracted_information=output action_screenshot_urls=screenshot_urls
        screenshot_url:first_screenshot browser_console_log_url downloaded_file_urls:file_urls failure_category
        webhook_failure_reason max_steps_per_run?max_steps workflow_run_id
        """
    ),
    TASK_V2: _table(
        """
        task_id=run_id organization_id workflow_run_id:workflow_run workflow_id workflow_permanent_id prompt? url?
        summary totp_verification_url?totp_url totp_identifier? proxy_location? webhook_callback_url
        webhook_failure_reason extracted_information_schema?data_extraction_schema error_code_mapping?
        workflow_system_prompt model? max_screenshot_scrolling_times?max_screenshot_scrolls extra_http_headers?
        cdp_connect_headers? browser_address? run_with? failure_category
        """
    ),
    WORKFLOW: _table(
        """
        workflow_id? workflow_run_id=run_id failure_category retried_from_workflow_run_id retried_by_workflow_run_id
        proxy_location? webhook_callback_url webhook_failure_reason totp_verification_url?totp_url totp_identifier?
        extra_http_headers? cdp_connect_headers? parameters? recording_urls:recordings downloaded_file_urls:file_urls
        outputs=output step_count=total_steps total_steps=step_count total_cost credits_used cached_credits_used
        task_v2 workflow_title?title browser_sink_profile_id browser_address? browser_type? agent_id=workflow_id
        agent_run_id=run_id run_request
        """
    ),
}
# All members above.
NAMED: Final = frozenset({*DESCRIPTIVE, *OF_RESULT, *(name for members in _WEBHOOK.values() for name in members)})
# Members about the delivery of a webhook, not about the run.
_OF_DELIVERY: Final = frozenset({"webhook_callback_url", "webhook_failure_reason", "run_request"})
# By run type, further members that each run has, for rules and columns.
_FURTHER: Final[dict[str, dict[str, Deriving]]] = {
    TASK: _table(
        """
        run_request prompt? url? summary parameters proxy_location? totp_verification_url?totp_url totp_identifier?
        extracted_information_schema?data_extraction_schema error_code_mapping?
        """
    ),
    TASK_V2: _table("run_request parameters extracted_information=output"),
    WORKFLOW: _table("prompt? url? summary ai_fallback?"),
}


class _Lacking(NamedTuple):
    """What becomes of the members that a body may lack: `null`, or a value derived from others."""

    null: Mapping[str, None]
    derived: Sequence[tuple[str, Deriving]]


def _lacking(kind: str, *, has_request: bool) -> _Lacking:
    """Return the members for a run type. `has_request`: whether the run has a request to derive members from."""
    members = {**_WEBHOOK[kind], **_FURTHER[kind]}
    unknown = {_unknown} if has_request else {_unknown, *_REQUESTED.values()}
    null = dict.fromkeys([name for name, derive in members.items() if derive in unknown])
    return _Lacking(null, [(name, derive) for name, derive in members.items() if name not in null])


# By run type, for a run with its request and for one without.
_LACKING: Final = {kind: (_lacking(kind, has_request=True), _lacking(kind, has_request=False)) for kind in _WEBHOOK}


def _kind(run: Data) -> str:
    """Return the run type as a key of the tables above; "" if unknown."""
    run_type = run.get("run_type")
    return family(run_type) if isinstance(run_type, str) and run_type else ""


def completed(data: Data, completion: Data | None = None) -> dict[str, Any]:
    """Return the members of a run: those of its body `data`, of `completion` where the body has no value, and what
    follows from them; null for what is not known. `data` is not changed."""
    run = dict(data)
    for name, value in (completion or {}).items():
        existing = run.get(name)
        if is_empty(existing):
            run[name] = value
        elif name == "run_request" and isinstance(existing, dict) and isinstance(value, dict):
            run[name] = {**existing, **{each: value[each] for each in value if is_empty(existing.get(each))}}
    kind = _kind(run)
    if kind:
        null, derived = _LACKING[kind][type(run.get("run_request")) is not dict]
        run = {**run, **null, **run}  # those that it has keep their place and their value
        for name, derive in derived:
            if run.get(name) is None:
                run[name] = derive(run)
    return run


def completion_of(
    run: Data,
    *,
    request: Data | None = None,
    older: bool = False,
    details: Data | None = None,
    same_result: Data | None = None,
    earlier: Data | None = None,
) -> dict[str, Any]:
    """Return members that the completed `run` still lacks, from other sources.

    `request`: the members of its submission's request; `older`: by a call under /api/v1. `details`: see `of_details`.
    `same_result`, `earlier`: the completed members of an event of the run that said the same, and of any other.
    """
    completion: dict[str, Any] = {}
    if request is not None:
        added, existing = run_request(str(run.get("run_type")), request, older=older), run.get("run_request")
        if isinstance(existing, dict):  # Skyvern leaves out some members of the request
            added = {name: added[name] for name in added if is_empty(existing.get(name)) and not is_empty(added[name])}
        if added:
            completion["run_request"] = added
            run = completed(run, completion)  # with the members that derive from the request
    for values, names in (
        (same_result, (*DESCRIPTIVE, *OF_RESULT)),
        (earlier, DESCRIPTIVE),
        (details, tuple(details or ())),
    ):
        for name in names:
            if values and name not in completion and is_empty(run.get(name)) and not is_empty(values.get(name)):
                completion[name] = values[name]
    return completion


def of_details(run: Data, details: Data) -> dict[str, Any]:
    """Return what one more call of Skyvern's API adds to a polled `run`, under the names of its webhook.

    `details`: the answer to GET /api/v1/tasks/{id} (a task), /api/v2/tasks/{id} (a task_v2) or /v1/workflows/runs/{id}
    (a workflow's run). They have all that a poll lacks, with the webhook's values. What a delivery changes is left
    out, and so is what the body has or what follows from it: an output may be megabytes.
    """
    names = _WEBHOOK.get(_kind(run), {}).keys() - _OF_DELIVERY
    known = completed(run)
    lacking = (name for name in names if is_empty(run.get(name)) and not is_empty(details.get(name)))
    return {name: details[name] for name in lacking if details[name] != known.get(name)}


_EMPTY: Final = frozenset({str, list, dict})


def is_empty(value: Any) -> bool:
    """Whether a member says nothing: it is absent, null, or empty."""
    return not value and (value is None or value.__class__ in _EMPTY)


def webhook_body(body: bytes, data: Data, run: Data) -> bytes:
    """Return `body` as a webhook would have it: with the members of its run type's webhook that it lacks.

    `data`: the body's members; `run`: the completed ones. Returns `body` itself when it lacks none.
    """
    members = _WEBHOOK.get(_kind(run), {})
    lacking = {name: run[name] for name in members if name in run and name not in data}
    filled = {name: run[name] for name in data if is_empty(data[name]) and not is_empty(run.get(name))}
    if filled or not data:
        return _dump({**data, **lacking, **filled}) if data else body
    return body.rstrip()[:-1] + b"," + _dump(lacking)[1:] if lacking else body


def _dump(members: Data) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"), check_circular=False).encode()
