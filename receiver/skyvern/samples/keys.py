"""The members of what Skyvern sends and answers, in its order, as seen on a real server: what we rely on. Pure.

docs/reference/skyvern.md says it for people. `make upstream` compares it with the newest Skyvern.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "1.0.56"
"""The version of Skyvern on whose server all this was seen."""

TASK: Final = "task"
"""The family of all run types but the two below: Skyvern builds their bodies alike."""
TASK_V2: Final = "task_v2"
WORKFLOW: Final = "workflow_run"

Members = tuple[str, ...]


def family(run_type: str) -> str:
    """Return the key of the tables below for a run type."""
    return run_type if run_type in (TASK_V2, WORKFLOW) else TASK


def _names(text: str) -> Members:
    return tuple(text.split())


WEBHOOK: Final[dict[str, Members]] = {
    TASK: _names(
        """
        task_id status created_at modified_at extracted_information action_screenshot_urls screenshot_url recording_url
        recording_archived browser_console_log_url downloaded_files downloaded_file_urls failure_reason failure_category
        webhook_failure_reason errors max_steps_per_run workflow_run_id queued_at started_at finished_at
        max_screenshot_scrolls step_count browser_session_id run_id output screenshot_urls app_url browser_profile_id
        script_run run_type
        """
    ),
    TASK_V2: _names(
        """
        task_id status organization_id workflow_run_id workflow_id workflow_permanent_id prompt url summary output
        totp_verification_url totp_identifier proxy_location webhook_callback_url webhook_failure_reason
        extracted_information_schema error_code_mapping workflow_system_prompt model queued_at started_at finished_at
        max_screenshot_scrolling_times extra_http_headers cdp_connect_headers browser_address run_with failure_category
        created_at modified_at run_id downloaded_files recording_url recording_archived screenshot_urls failure_reason
        app_url browser_session_id browser_profile_id max_screenshot_scrolls script_run errors step_count run_type
        """
    ),
    WORKFLOW: _names(
        """
        workflow_id workflow_run_id status attempt retry_pending next_attempt_at attempts failure_reason
        failure_category retried_from_workflow_run_id retried_by_workflow_run_id proxy_location webhook_callback_url
        webhook_failure_reason totp_verification_url totp_identifier extra_http_headers cdp_connect_headers queued_at
        started_at finished_at created_at modified_at parameters screenshot_urls recording_url recording_urls
        recording_archived downloaded_files downloaded_file_urls outputs total_steps total_cost credits_used
        cached_credits_used task_v2 workflow_title browser_session_id browser_profile_id browser_seed_source
        browser_sink_profile_id max_screenshot_scrolls browser_address run_with browser_type script_run script_id errors
        agent_id agent_run_id run_id output app_url step_count run_type ai_fallback browser_settings_receipt run_request
        """
    ),
}
"""A webhook's members, whatever the ending."""

_EVERY_POLL: Final = _names(
    """
    run_id status output downloaded_files recording_url recording_archived screenshot_urls failure_reason created_at
    modified_at queued_at started_at finished_at app_url browser_session_id browser_profile_id max_screenshot_scrolls
    script_run errors step_count run_type
    """
)
_WORKFLOW_POLL: Final = _names(
    """
    attempt retry_pending next_attempt_at attempts run_with ai_fallback script_id browser_seed_source
    browser_settings_receipt
    """
)
POLL: Final[dict[str, Members]] = {
    TASK: (*_EVERY_POLL, "run_request"),
    TASK_V2: (*_EVERY_POLL, "run_request"),
    WORKFLOW: (*_EVERY_POLL, *_WORKFLOW_POLL, "run_request"),
}
"""The members of the answer to GET /v1/runs/{id}, and to the submit that made the run."""

_NOT_SENT_AGAIN: Final = {
    "webhook_callback_url",
    "totp_verification_url",
    "totp_identifier",
    "extra_http_headers",
    "run_request",
}
SENT_AGAIN: Final[dict[str, Members]] = {
    TASK: WEBHOOK[TASK],
    TASK_V2: _EVERY_POLL,
    WORKFLOW: tuple(name for name in WEBHOOK[WORKFLOW] if name not in _NOT_SENT_AGAIN),
}
"""The members of the body that retry_webhook sends."""

DETAILS: Final[dict[str, Members]] = {
    TASK: ("request", *WEBHOOK[TASK][: WEBHOOK[TASK].index("browser_session_id") + 1]),
    TASK_V2: WEBHOOK[TASK_V2][: WEBHOOK[TASK_V2].index("modified_at") + 1],
    WORKFLOW: WEBHOOK[WORKFLOW][: WEBHOOK[WORKFLOW].index("agent_run_id") + 1],
}
"""The members of the answer that Skyvern's UI asks for: see DETAILS_PATH. With those of a poll it is the webhook."""

DETAILS_PATH: Final[dict[str, str]] = {
    TASK: "/api/v1/tasks/{run_id}",
    TASK_V2: "/api/v2/tasks/{run_id}",
    WORKFLOW: "/api/v1/workflows/{workflow_id}/runs/{run_id}",
}

RUN_REQUEST: Final[dict[str, Members]] = {
    TASK: _names(
        """
        prompt url engine title proxy_location data_extraction_schema error_code_mapping max_steps webhook_url
        totp_identifier totp_url browser_session_id browser_profile_id start_fresh_browser model extra_http_headers
        cdp_connect_headers publish_workflow include_action_history_in_verification max_screenshot_scrolls
        browser_address run_with file_ids
        """
    ),
    WORKFLOW: _names(
        """
        workflow_id parameters title proxy_location webhook_url totp_url totp_identifier browser_session_id
        reuse_browser_session browser_profile_id start_fresh_browser max_screenshot_scrolls max_elapsed_time_minutes
        extra_http_headers cdp_connect_headers browser_address ai_fallback run_with browser_type run_metadata file_ids
        """
    ),
}
RUN_REQUEST[TASK_V2] = RUN_REQUEST[TASK]

_TASK_LEFT_OUT: Final = _names(
    """
    title browser_session_id model extra_http_headers cdp_connect_headers include_action_history_in_verification
    browser_address run_with file_ids
    """
)
LEFT_OUT: Final[dict[str, Members]] = {
    TASK: _TASK_LEFT_OUT,
    TASK_V2: (*_TASK_LEFT_OUT, "max_steps", "max_screenshot_scrolls"),
    WORKFLOW: _names(
        """
        reuse_browser_session max_elapsed_time_minutes extra_http_headers cdp_connect_headers ai_fallback run_with
        run_metadata file_ids
        """
    ),
}
"""What a poll's `run_request` has as default or null, whatever was asked for."""

_REQUESTED: Final = {
    "prompt": "run_request.prompt",
    "url": "run_request.url",
    "totp_verification_url": "run_request.totp_url",
    "totp_identifier": "run_request.totp_identifier",
    "proxy_location": "run_request.proxy_location",
    "webhook_callback_url": "run_request.webhook_url",
    "extracted_information_schema": "run_request.data_extraction_schema",
    "error_code_mapping": "run_request.error_code_mapping",
}
DERIVED: Final[dict[str, dict[str, str]]] = {
    TASK: {
        "task_id": "run_id",
        "extracted_information": "output",
        "action_screenshot_urls": "screenshot_urls",
        "max_steps_per_run": "run_request.max_steps",
    },
    TASK_V2: {"task_id": "run_id", **_REQUESTED},
    WORKFLOW: {
        "workflow_id": "run_request.workflow_id",
        "agent_id": "run_request.workflow_id",
        "workflow_run_id": "run_id",
        "agent_run_id": "run_id",
        "outputs": "output",
        "parameters": "run_request.parameters",
        "workflow_title": "run_request.title",
        "total_steps": "step_count",
        "browser_address": "run_request.browser_address",
        "browser_type": "run_request.browser_type",
        **{name: _REQUESTED[name] for name in ("totp_verification_url", "totp_identifier", "proxy_location")},
        "webhook_callback_url": "run_request.webhook_url",
    },
}
"""Members of the webhook that a poll lacks, and where their value is in the poll."""

LISTED: Final = _names(
    """
    task_run_id run_id task_run_type status title started_at finished_at created_at workflow_permanent_id
    workflow_deleted script_run trigger_type created_by attempt retry_pending next_attempt_at
    """
)
"""The members of an entry of GET /v1/runs."""

LISTED_OF_AGENT: Final = _names(
    """
    workflow_run_id workflow_permanent_id status created_at finished_at webhook_callback_url trigger_type
    workflow_schedule_id retried_from_workflow_run_id
    """
)
"""Members of an entry of GET /v1/workflows/{id}/runs that say where a run comes from; it has more."""

ARTIFACT: Final = _names(
    """
    created_at modified_at artifact_id artifact_type uri bundle_key checksum file_size task_id step_id workflow_run_id
    workflow_run_block_id run_id browser_session_id observer_cruise_id observer_thought_id ai_suggestion_id signed_url
    archived organization_id
    """
)
"""The members of an entry of GET /v1/runs/{id}/artifacts."""

AGENT: Final = _names(
    """
    workflow_id organization_id title workflow_permanent_id version is_saved_task is_template description
    workflow_definition proxy_location webhook_callback_url totp_verification_url totp_identifier
    persist_browser_session reuse_browser_session mask_secrets pin_saved_session_ip browser_profile_id
    browser_profile_key model status max_screenshot_scrolls max_elapsed_time_minutes extra_http_headers
    cdp_connect_headers run_with browser_type ai_fallback cache_key adaptive_caching enable_self_healing
    code_version generate_script_on_terminal run_sequentially sequential_key folder_id import_error created_by
    edited_by copilot_authored original_created_by original_created_at created_at modified_at deleted_at agent_id
    """
)
"""The members of an agent in the answers to GET /v1/agents."""

SCHEDULE: Final = _names(
    """
    workflow_schedule_id organization_id workflow_permanent_id workflow_title cron_expression interval_seconds
    first_fire_at run_at dispatch_status workflow_run_id timezone enabled parameters name description next_run
    created_at modified_at
    """
)
"""The members of an entry of GET /v1/schedules."""

RETRY_ANSWER: Final = _names(
    """
    run_id run_type default_webhook_url target_webhook_url payload headers status_code latency_ms response_body error
    """
)
"""The members of the answer to POST /v1/runs/{id}/retry_webhook."""

TEST_BUTTON: Final[dict[str, Members]] = {
    TASK: (*(name for name in WEBHOOK[TASK] if name != "browser_profile_id"), "run_request"),
    WORKFLOW: tuple(
        name for name in WEBHOOK[WORKFLOW] if name not in ("ai_fallback", "browser_settings_receipt", "step_count")
    ),
}
"""The members of the webhooks of the Test button in Skyvern's UI."""


def lacking(run_type: str) -> frozenset[str]:
    """Return the members of a run type's webhook that a poll lacks."""
    return frozenset(WEBHOOK[family(run_type)]) - frozenset(POLL[family(run_type)])
