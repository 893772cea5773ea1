"""The members of what Skyvern sends and answers beside those of `receiver/domain/members.py`. Pure.

docs/reference/skyvern.md lists them for people. `make upstream` compares them with the newest Skyvern.
"""

from __future__ import annotations

from typing import Final

from receiver.domain.members import EVERY_POLL, TASK, TASK_V2, WEBHOOK, WORKFLOW, Members, names

VERSION: Final = "1.0.56"
"""The version of Skyvern on whose server all this was seen."""

_NOT_SENT_AGAIN: Final = {
    "webhook_callback_url",
    "totp_verification_url",
    "totp_identifier",
    "extra_http_headers",
    "run_request",
}
SENT_AGAIN: Final[dict[str, Members]] = {
    TASK: WEBHOOK[TASK],
    TASK_V2: EVERY_POLL,
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

LISTED: Final = names(
    """
    task_run_id run_id task_run_type status title started_at finished_at created_at workflow_permanent_id
    workflow_deleted script_run trigger_type created_by attempt retry_pending next_attempt_at
    """
)
"""The members of an entry of GET /v1/runs."""

LISTED_OF_AGENT: Final = names(
    """
    workflow_run_id workflow_permanent_id status created_at finished_at webhook_callback_url trigger_type
    workflow_schedule_id retried_from_workflow_run_id
    """
)
"""Members of an entry of GET /v1/workflows/{id}/runs that say where a run comes from; it has more."""

ARTIFACT: Final = names(
    """
    created_at modified_at artifact_id artifact_type uri bundle_key checksum file_size task_id step_id workflow_run_id
    workflow_run_block_id run_id browser_session_id observer_cruise_id observer_thought_id ai_suggestion_id signed_url
    archived organization_id
    """
)
"""The members of an entry of GET /v1/runs/{id}/artifacts."""

AGENT: Final = names(
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

SCHEDULE: Final = names(
    """
    workflow_schedule_id organization_id workflow_permanent_id workflow_title cron_expression interval_seconds
    first_fire_at run_at dispatch_status workflow_run_id timezone enabled parameters name description next_run
    created_at modified_at
    """
)
"""The members of an entry of GET /v1/schedules."""

RETRY_ANSWER: Final = names(
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
