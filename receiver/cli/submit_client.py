"""Calls of the submit API of a remote service, as an upstream app makes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import httpx2

from receiver import __version__
from receiver.cli.output import clean
from receiver.cli.profiles import RemoteService
from receiver.cli.remote import reaching, read_bounded
from receiver.errors import RunhookError, UsageError

# Seconds for one answer: Skyvern's, which is passed on, may take its time.
_TIMEOUT: Final = 60.0
_LONGEST: Final = 400


class SubmitClient:
    """Submits runs. Its key is in no error. Close it after use."""

    def __init__(self, service: RemoteService) -> None:
        self._where = service.url
        self._http = httpx2.Client(
            base_url=service.url,
            timeout=_TIMEOUT,
            follow_redirects=False,  # the key is for this service alone
            headers={"user-agent": f"runhook/{__version__}", "x-api-key": service.key},
        )

    def submit(self, path: str, request: Mapping[str, Any], labels: Mapping[str, str], key: str) -> dict[str, Any]:
        """Return the run that was made, or was made before with this Idempotency-Key.

        Raises RunhookError with the words of the refusal, UsageError where it is the key's, and NotStarted without an
        answer: the same call again, with the same key, makes no second run.
        """
        body = {**request, "labels": dict(labels)} if labels else dict(request)
        return self._call("POST", path, json=body, headers={"idempotency-key": key})

    def run(self, run_id: str, wait: float) -> dict[str, Any]:
        """Return a run, held for up to `wait` seconds until it has ended. Raises as `submit`."""
        return self._call("GET", f"/v1/runs/{quote(run_id, safe='')}", params={"wait": f"{wait:g}"})

    def _call(self, method: str, path: str, **further: Any) -> dict[str, Any]:
        with reaching(self._where, _TIMEOUT), self._http.stream(method, path, **further) as answer:
            body = read_bounded(answer, self._where)
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if answer.is_success and isinstance(found, dict):
            return found
        detail = found.get("detail") if isinstance(found, dict) else None
        later = answer.headers.get("retry-after", "")
        again = f"; again after {clean(later, 40)} s" if later else ""
        why = f": {clean(detail, _LONGEST)}" if detail else " without saying why; is Runhook there?"
        said = f"{self._where}: answers {answer.status_code}{why}{again}"
        if answer.status_code == HTTPStatus.FORBIDDEN:
            raise UsageError(f"{said}; `runhook keys list` there shows its keys")
        raise RunhookError(said)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
