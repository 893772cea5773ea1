"""Which scope a call of Skyvern's paths needs."""

import pytest

from receiver.submit.endpoints import scope_of


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/run/tasks", "submit"),
        ("POST", "/v1/run/agents/", "submit"),
        ("POST", "/api/v1/tasks", "submit"),
        ("POST", "/v1/run/tasks/login", "submit"),
        ("POST", "/api/v1/workflows/wpid_1/run", "submit"),
        ("GET", "/v1/runs/tsk_1", "read"),
        ("HEAD", "/v1/artifacts/a_1/content", "read"),
        ("POST", "/v1/runs/tsk_1/cancel", "operate"),
        ("POST", "/v1/runs/tsk_1/retry_webhook", "operate"),
        ("DELETE", "/v1/browser_sessions/x", "operate"),
        ("GET", "/api/v1/organizations/o_1/apikeys", None),
        ("GET", "/api/v1/organizations/o_1/%61pikeys", None),
        ("GET", "/api/v1/organizations/o_1/%2561pikeys", None),
        ("POST", "/v1/ui-session", None),
        ("POST", "/api/v1/UI-session/", None),
        ("GET", "/v1/credentials/onepassword/get", None),
        ("POST", "/v1/credentials/custom_credential/create", None),
        ("GET", "/v1/credentials/cred_1/totp-code", "operate"),
        ("GET", "/v1/credentials/cred_1", "read"),
        ("POST", "/v1/credentials/cred_1/update", "operate"),
        ("GET", "/v1/../internal/x", None),
        ("GET", "/v1/%2e%2e/x", None),
        ("GET", "/v1//runs", None),
        ("GET", "/internal/auth", None),
        ("GET", "/metrics", None),
        ("TRACE", "/v1/runs", None),
    ],
)
def test_the_scope_of_a_call(method: str, path: str, scope: str | None) -> None:
    assert scope_of(method, path) == scope
