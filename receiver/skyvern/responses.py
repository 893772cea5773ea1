"""The answers of Skyvern's API, as values, what each means, and when a call is retried. Pure: sends nothing.

    Answered       Skyvern, or another server at that address, answered: a status, headers, a body
    Unreachable    there is no usable answer; `ambiguous` when the call may have created a run all the same

`submitted` reads the answer to a submit as one of three: Created, Rejected (no run exists), Lost (unknown).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Literal

import orjson

from handlers.contract import Artifact
from handlers.support.retry_after import retry_after
from handlers.support.timestamps import epoch
from receiver.domain.bounded_json import state_of
from receiver.domain.run import FINAL, storable

# submit may create a run; read changes nothing.
Kind = Literal["submit", "read"]

_WORKFLOW_RUN = re.compile(r"wr_[A-Za-z0-9_-]{1,100}")
_SAME_MOMENT = 0.05  # seconds
# What a run's body calls some of Skyvern's artifact types.
_ARTIFACT_KINDS = {"screenshot_final": "screenshot"}
# The expiry of signed URLs: Skyvern's own and Google's, Amazon's, Azure's.
_URL = re.compile(rb'https?:[^\s"<>]+')
_EPOCH = re.compile(rb"(?:[?&]|\\u0026|&amp;)(?:expiry|Expires)=([0-9]{9,11})(?![0-9])")
_AMAZON_DATE = re.compile(rb"X-Amz-Date=([0-9]{8}T[0-9]{6})Z")
_AMAZON_SECONDS = re.compile(rb"X-Amz-Expires=([0-9]{1,7})(?![0-9])")
_AZURE = re.compile(rb"(?:[?&]|\\u0026)se=([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}(?:%3A|:)[0-9]{2}(?:%3A|:)[0-9]{2})Z")


@dataclass(frozen=True, slots=True)
class Answered:
    """An HTTP answer. `headers`: by lower-case name, without those that belong to the connection."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asked to wait, or None."""
        return retry_after(self.headers, time.time())

    def json(self) -> Any:
        """Return the parsed body, or None for invalid JSON."""
        return _json(self.body)

    def json_outline(self) -> Any:
        """Return the JSON object in the body, in which a text stands for each large member; None for
        invalid JSON."""
        return _json(state_of(self.body))


def _json(body: bytes) -> Any:
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(body)
    with suppress(ValueError, RecursionError):  # half a character, which Python reads
        return storable({"it": json.loads(body)}).get("it")
    return None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No usable answer. `reason` is for operators: no key, no payload. `ambiguous`: a run may have been created.

    `invalid`: the call can't be put into a request, so nothing was sent, and never will be.
    """

    ambiguous: bool
    reason: str
    invalid: bool = False


Answer = Answered | Unreachable


def failure(answer: Answer) -> str:
    """Return why a call failed and, where a person can tell, how to fix it. It holds no key and no payload."""
    if isinstance(answer, Unreachable):
        return f"{answer.reason}. Check SKYVERN_BASE_URL, the source's api_base and the network"
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return (
            f"Skyvern refused the API key ({answer.status}). Set SKYVERN_API_KEY, or the source's api_key, to a key of "
            "the account"
        )
    return f"Skyvern answered {answer.status}"


@dataclass(frozen=True, slots=True)
class Created:
    """A run exists. `status` and `run_type` are "" where the answer has none (the legacy call)."""

    run_id: str
    run_type: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """No run exists. `retry_after`: seconds, if the API named them."""

    status: int
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """It is not known whether there is a run; its webhook, or a search, will show it."""

    reason: str


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One line of GET /v1/runs. Times are seconds since the epoch.

    `workflow_id`: the agent's permanent id. `trigger`: "scheduled", "api" …, if Skyvern names it.
    """

    run_id: str
    run_type: str
    status: str
    title: str | None = None
    created_at: float | None = None
    finished_at: float | None = None
    retry_pending: bool = False
    workflow_id: str = ""
    trigger: str = ""

    @property
    def final(self) -> bool:
        """Whether the run has ended, and no retry of it is pending."""
        return self.status in FINAL and not self.retry_pending


def submitted(answer: Answer) -> Created | Rejected | Lost:
    """Return what the answer to a submit says of its run."""
    if isinstance(answer, Unreachable):
        return Lost(answer.reason) if answer.ambiguous else Rejected(503)
    if answer.ok:
        parsed = answer.json_outline()
        run = parsed if isinstance(parsed, dict) else {}
        run_id = run.get("run_id") or run.get("task_id") or run.get("workflow_run_id")
        if isinstance(run_id, str):
            return Created(run_id, _text(run.get("run_type")), _text(run.get("status")))
        return Lost(f"status {answer.status} without a run id")
    # A redirect was not followed and a 4xx created nothing, except 408: a proxy gave up, the server may not have.
    if 300 <= answer.status < 500 and answer.status != HTTPStatus.REQUEST_TIMEOUT:
        return Rejected(answer.status, answer.retry_after)
    if answer.status == HTTPStatus.SERVICE_UNAVAILABLE and "retry-after" in answer.headers:
        return Rejected(answer.status, answer.retry_after)
    return Lost(f"status {answer.status}")


def listed_runs(answer: Answered) -> list[ListedRun] | None:
    """Return the runs of a GET /v1/runs that have an id, or None when the answer is no such list."""
    rows = answer.json() if answer.ok else None
    if not isinstance(rows, list):
        return None
    return [
        ListedRun(
            run_id=row["run_id"],
            run_type=_text(row.get("task_run_type") or row.get("run_type")),
            status=_text(row.get("status")),
            title=row.get("title") if isinstance(row.get("title"), str) else None,
            created_at=epoch(row.get("created_at")),
            finished_at=epoch(row.get("finished_at")),
            retry_pending=row.get("retry_pending") is True,
            workflow_id=_text(row.get("workflow_permanent_id")),
            trigger=_text(row.get("trigger_type")),
        )
        for row in rows
        if isinstance(row, dict) and _text(row.get("run_id"))
    ]


def length_of_list(answer: Answered) -> int:
    """Return how many lines the list has that was answered, with those that `listed_runs` leaves out."""
    rows = answer.json()
    return len(rows) if isinstance(rows, list) else 0


def listed_artifacts(answer: Answered) -> list[Artifact] | None:
    """Return the artifacts of a GET /v1/runs/{id}/artifacts, or None when the answer is no such list.

    `name`: of the file, also of one that stands in an archive; else its id. `url` is "" if the answer has no http(s)
    URL.
    """
    rows = answer.json() if answer.ok else None
    if not isinstance(rows, list):
        return None
    artifacts = []
    for row in rows:
        if not isinstance(row, dict) or not _text(row.get("artifact_id")):
            continue
        url, size, kind = _text(row.get("signed_url")), row.get("file_size"), _text(row.get("artifact_type"))
        artifacts.append(
            Artifact(
                kind=_ARTIFACT_KINDS.get(kind, kind),
                name=(_text(row.get("bundle_key")) or _text(row.get("uri"))).rpartition("/")[2] or row["artifact_id"],
                url=url if url.lower().startswith(("http://", "https://")) else "",
                sha256=_text(row.get("checksum")).lower() or None,
                size=size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None,
                artifact_id=row["artifact_id"],
                unchanged_since=_unchanged_since(row),
            )
        )
    return artifacts


def _unchanged_since(row: Mapping[str, Any]) -> float | None:
    """Return when a record was made that was never changed. Its two times are taken one after the other."""
    created, modified = epoch(row.get("created_at")), epoch(row.get("modified_at"))
    return created if created is not None and modified is not None and modified - created < _SAME_MOMENT else None


def artifacts_run_id(run_id: str, run: Mapping[str, Any]) -> str:
    """Return the run under which the artifacts of `run_id` are listed. `run`: its body.

    Those of a task_v2 stand under its workflow run; under its own id the list is empty. A webhook names that run; a
    poll only as the last part of `app_url` (seen with Skyvern 1.0.56).
    """
    if not run_id.startswith("tsk_v2_"):
        return run_id
    named = _text(run.get("workflow_run_id")) or _text(run.get("app_url")).rstrip("/").rpartition("/")[2]
    return named if _WORKFLOW_RUN.fullmatch(named) else run_id


def expires_at(body: bytes) -> float | None:
    """Return when the first signed URL in `body` expires, in seconds since the epoch, or None."""
    expiries = [expiry for url in _URL.finditer(body) if (expiry := _expiry_of(url[0])) is not None]
    return min(expiries, default=None)


def _expiry_of(url: bytes) -> float | None:
    try:
        if match := _EPOCH.search(url):
            return float(match[1])
        if (date := _AMAZON_DATE.search(url)) and (seconds := _AMAZON_SECONDS.search(url)):
            signed_at = datetime.strptime(date[1].decode(), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            return signed_at.timestamp() + int(seconds[1])
        if match := _AZURE.search(url):
            return datetime.fromisoformat(match[1].decode().replace("%3A", ":")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None  # not a date
    return None


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a call is tried, and how long. `first`: seconds before the second attempt, doubled before each later
    one. `budget`: seconds that all pauses may take together. `limit`: seconds for one attempt, instead of the call's
    own limit."""

    tries: int = 3
    first: float = 0.25
    budget: float = 15.0
    limit: float | None = None


class Retries:
    """Decides after each attempt of one call whether it is made again, and when."""

    def __init__(self, kind: Kind, patience: Patience) -> None:
        self._kind = kind
        self._patience = patience
        self._tries, self._waited = 0, 0.0

    def pause_after(self, answer: Answer, jitter: float) -> float | None:
        """Return the seconds until the next attempt, or None when `answer` is the last one. `jitter`: in [0, 1)."""
        self._tries += 1
        if self._tries >= self._patience.tries or not self._is_safe(answer):
            return None
        pause = self._patience.first * 2 ** (self._tries - 1) * (1 + jitter)
        if isinstance(answer, Answered):
            pause = max(pause, answer.retry_after or 0.0)
        self._waited += pause
        return pause if self._waited <= self._patience.budget else None

    def _is_safe(self, answer: Answer) -> bool:
        """Return whether a further attempt may help and can create no second run."""
        if isinstance(answer, Unreachable):
            return not answer.ambiguous
        if self._kind == "read":
            return answer.status in (502, 503, 504)
        return answer.status == HTTPStatus.SERVICE_UNAVAILABLE and answer.retry_after is not None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
